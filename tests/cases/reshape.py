"""Cases of reshape."""

from nprt.ops.reshape import Reshape

from .case import case

CASES = [
    case(name, Reshape, x, y=y)
    for name, x, y in (
        ("flatten", "i8[N,3,4,7]*0.0217+3", "i8[N,84]"),
        ("unflatten", "u8[N,84]*0.0217+3", "u8[N,3,4,7]"),
        ("same", "i8[N,3,4]*0.0217+3", "i8[N,3,4]"),
        ("one_more_axis", "i8[N,3]*0.0217+3", "i8[N,1,3,1]"),
        ("batch_joined_to_nothing", "i8[N,1]*0.0217+3", "i8[N]"),
        ("batch_moved", "i8[N,6]*0.0217+3", "i8[6,N]"),
        ("batch_second", "i8[N,6]*0.0217+3", "i8[2,N,3]"),
        ("free_length", "i8[N,T,6]*0.0217+3", "i8[N,T,2,3]"),
        ("fixed_batch", "i8[4,6]*0.0217+3", "i8[2,12]"),
        ("one_element", "i8[1,1]*0.0217+3", "i8[]"),
        ("empty", "i8[N,0,3]*0.0217+3", "i8[N,7,0]"),
        ("constant", "const i8[4,6]*0.0217+3", "i8[2,12]"),
        ("plain_codes", "u8[N,4]", "u8[N,2,2]"),
        ("int16", "i16[N,4]", "i16[N,2,2]"),
        ("int32", "i32[N,4]*0.01+0", "i32[N,2,2]"),
        ("int64", "i64[N,4]", "i64[N,2,2]"),
        ("float", "f32[N,15] wild", "f32[N,5,3]"),
        ("bool", "bool[N,4]", "bool[N,2,2]"),
    )
]
