"""Cases of where."""

from nprt.ops.where import Where

from .case import case

CASES = [
    case(name, Where, condition, a, b)
    for name, condition, a, b in (
        ("i8", "bool[N,3,33]", "i8[N,3,33]*0.0217+3", "i8[N,3,33]*0.0217+3"),
        ("u8", "bool[N,3,1]", "u8[N,3,65]*0.0217+3", "u8[65]*0.0217+3"),
        ("mask", "bool[1,5,5]", "i8[N,5,5]*0.0217+3", "const i8[]*0.0217+3 in -128..-128"),
        ("constant_mask", "const bool[5,5]", "i8[N,5,5]*0.0217+3", "const i8[]*0.0217+3"),
        ("repeated_by_condition", "bool[N,4,7]", "i8[7]*0.0217+3", "i8[]*0.0217+3"),
        ("one_condition", "bool[]", "i8[N,7]*0.0217+3", "i8[N,7]*0.0217+3"),
        ("scalars", "bool[]", "i8[]*0.0217+3", "i8[]*0.0217+3"),
        ("empty", "bool[1]", "i8[N,0]*0.0217+3", "i8[1]*0.0217+3"),
        ("fixed_batch", "bool[2,1]", "i8[2,5]*0.0217+3", "i8[5]*0.0217+3"),
        ("free_length", "bool[N,T]", "i8[N,T]*0.0217+3", "i8[T]*0.0217+3"),
        ("plain_codes", "bool[N,17]", "u8[N,17]", "u8[N,17]"),
        ("int16", "bool[N,17]", "i16[N,17]", "i16[N,17]"),
        ("int32", "bool[N,17]", "i32[N,17]", "i32[N,17]"),
        ("int64", "bool[17]", "i64[N,17]", "i64[17]"),
        ("float", "bool[N,99]", "f32[N,99] wild", "f32[N,99] wild"),
        ("bool", "bool[N,17]", "bool[N,17]", "bool[N,17]"),
    )
]
