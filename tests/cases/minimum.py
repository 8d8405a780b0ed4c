"""Cases of minimum."""

from nprt.ops.minimum import Minimum

from .case import case

CASES = [
    case(name, Minimum, a, b)
    for name, a, b in (
        ("i8", "i8[N,3,33]*0.0217+3", "i8[N,3,33]*0.0217+3"),
        ("u8", "u8[N,3,65]*0.0217+3", "u8[65]*0.0217+3"),
        ("one_element", "i8[N,7]*0.0217+3", "const i8[]*0.0217+3 in 5..5"),
        ("left", "i8[7]*0.0217+3", "i8[N,4,7]*0.0217+3"),
        ("both_repeated", "i8[N,1,7]*0.0217+3", "i8[5,1]*0.0217+3"),
        ("scalars", "i8[]*0.0217+3", "i8[]*0.0217+3"),
        ("empty", "i8[N,0]*0.0217+3", "i8[1]*0.0217+3"),
        ("fixed_batch", "i8[2,5]*0.0217+3", "i8[5]*0.0217+3"),
        ("free_length", "i8[N,T]*0.0217+3", "i8[T]*0.0217+3"),
        ("plain_codes", "u8[N,17]", "u8[N,17]"),
        ("int16", "i16[N,17]", "i16[N,17]"),
        ("int32", "i32[N,17]", "i32[N,17]"),
        ("int64", "i64[N,17]", "i64[17]"),
        ("float", "f32[N,99] wild", "f32[N,99] wild"),
        ("bool", "bool[N,17]", "bool[N,17]"),
    )
]
