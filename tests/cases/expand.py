"""Cases of expand."""

from nprt.ops.expand import Expand

from .case import case

CASES = [
    case(name, Expand, x, y=y)
    for name, x, y in (
        ("positions", "i8[N,1,1,7]*0.0217+3", "i8[N,4,5,7]"),
        ("channels", "u8[N,5,1]*0.0217+3", "u8[N,5,33]"),
        ("new_axes", "i8[7]*0.0217+3", "i8[3,4,7]"),
        ("same", "i8[N,5]*0.0217+3", "i8[N,5]"),
        ("scalar", "i8[]*0.0217+3", "i8[2,3]"),
        ("scalar_to_scalar", "i8[]*0.0217+3", "i8[]"),
        ("to_nothing", "i8[N,1]*0.0217+3", "i8[N,0]"),
        ("before_the_batch", "i8[N,5]*0.0217+3", "i8[3,N,5]"),
        ("free_length", "i8[N,T,1]*0.0217+3", "i8[N,T,4]"),
        ("constant", "const i8[3,1]*0.0217+3", "i8[2,3,4]"),
        ("plain_codes", "u8[N,1]", "u8[N,3]"),
        ("int16", "i16[N,1]", "i16[N,3]"),
        ("int32", "i32[N,1]*0.01+0", "i32[N,3]"),
        ("int64", "i64[N,1]", "i64[N,3]"),
        ("float", "f32[N,1,9] wild", "f32[N,3,9]"),
        ("bool", "bool[N,1]", "bool[N,3]"),
    )
]
