"""Cases of argmax."""

from nprt.ops.argmax import Argmax

from .case import case

CASES = [
    case(f"{name}{'_kept' if keepdims else ''}", Argmax, x, axis=axis, keepdims=keepdims)
    for keepdims in (False, True)
    for name, axis, x in (
        ("classes", 1, "i8[N,10]*0.0217+3"),
        ("many_classes", 1, "u8[N,1000]*0.0217+3"),
        ("one_class", 1, "i8[N,1]*0.0217+3"),
        ("pixels", 3, "i8[N,4,5,17]*0.0217+3"),
        ("middle_axis", 1, "i8[N,7,5]*0.0217+3"),
        ("ties", 1, "i8[N,65]*0.0217+3 in 0..2"),
        ("all_alike", 1, "i8[N,33]*0.0217+3 in -128..-128"),
        ("one_axis", 0, "i8[9]*0.0217+3"),
        ("empty", 2, "i8[N,0,4]*0.0217+3"),
        ("fixed_batch", 0, "i8[2,5]*0.0217+3"),
        ("plain_codes", 1, "u8[N,17]"),
        ("int16", 1, "i16[N,17]"),
        ("int32", 1, "i32[N,17]"),
        ("int64", 1, "i64[N,17]"),
        ("float", 1, "f32[N,4,33]"),
        ("float_wild", 1, "f32[N,99] wild"),
        ("bool", 1, "bool[N,17]"),
    )
]
