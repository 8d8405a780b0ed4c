"""Cases of concat."""

from nprt.ops.concat import Concat

from .case import case

CASES = [
    *[
        case(name, Concat, *xs, axis=axis)
        for name, axis, *xs in (
            ("channels", 3, "i8[N,3,4,7]*0.0217+3", "i8[N,3,4,7]*0.0217+3"),
            ("channels_odd", 2, *[f"u8[N,3,{c}]*0.0217+3" for c in (1, 3, 15, 17, 33)]),
            ("rows", 1, "i8[N,3,5]*0.0217+3", "i8[N,2,5]*0.0217+3"),
            ("one", 1, "i8[N,3]*0.0217+3"),
            ("one_on_the_batch", 0, "i8[N,3]*0.0217+3"),
            ("empty_part", 1, "i8[N,3]*0.0217+3", "i8[N,0]*0.0217+3", "i8[N,1]*0.0217+3"),
            ("fixed_batch", 0, "i8[2,3]*0.0217+3", "const i8[4,3]*0.0217+3"),
            ("free_length", 2, "i8[N,T,3]*0.0217+3", "i8[N,T,2]*0.0217+3"),
            ("one_axis", 0, "i8[3]*0.0217+3", "i8[4]*0.0217+3"),
            ("plain_codes", 1, "u8[N,3]", "u8[N,2]"),
            ("int16", 1, "i16[N,3]", "i16[N,2]"),
            ("int32", 1, "i32[N,3]*0.01+0", "i32[N,2]*0.01+0"),
            ("int64", 1, "i64[N,3]", "i64[N,2]"),
            ("float", 1, "f32[N,3] wild", "f32[N,20] wild"),
            ("bool", 1, "bool[N,3]", "bool[N,2]"),
        )
    ],
    case(
        "densenet_block",
        Concat,
        "i8[N,28,28,128]*0.0217+3",
        "i8[N,28,28,32]*0.0217+3",
        axis=3,
        bench=True,
    ),
]
