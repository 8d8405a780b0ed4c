"""Cases of transpose."""

from nprt.ops.transpose import Transpose

from .case import case

CASES = [
    *[
        case(name, Transpose, x, perm=perm)
        for name, x, perm in (
            ("channels_last", "i8[N,7,5,9]*0.0217+3", (0, 2, 3, 1)),
            ("channels_first", "u8[N,5,9,7]*0.0217+3", (0, 3, 1, 2)),
            ("identity", "i8[N,5,9]*0.0217+3", (0, 1, 2)),
            ("matrix", "i8[N,33,65]*0.0217+3", (0, 2, 1)),
            ("matrix_small", "i8[N,1,3]*0.0217+3", (0, 2, 1)),
            ("batch_last", "i8[N,3,4]*0.0217+3", (1, 2, 0)),
            ("six_axes", "i8[N,2,3,1,2,3]*0.0217+3", (5, 0, 3, 1, 4, 2)),
            ("one_axis", "i8[N]*0.0217+3", (0,)),
            ("no_axis", "i8[]*0.0217+3", ()),
            ("empty", "i8[N,0,3]*0.0217+3", (2, 0, 1)),
            ("free_length", "i8[N,T,4,3]*0.0217+3", (0, 2, 1, 3)),
            ("fixed_batch", "i8[2,3,5]*0.0217+3", (2, 1, 0)),
            ("constant", "const i8[3,5]*0.0217+3", (1, 0)),
            ("plain_codes", "u8[N,3,5]", (0, 2, 1)),
            ("int16", "i16[N,3,5]", (0, 2, 1)),
            ("int32", "i32[N,3,5]*0.01+0", (0, 2, 1)),
            ("int64", "i64[N,3,5]", (0, 2, 1)),
            ("float", "f32[N,3,5] wild", (0, 2, 1)),
            ("bool", "bool[N,3,5]", (0, 2, 1)),
        )
    ],
    *[
        case(name, Transpose, x, perm=perm, bench=True)
        for name, x, perm in (
            ("image_to_channels_last", "u8[N,3,224,224]*0.0217+3", (0, 2, 3, 1)),
            ("heads", "i8[N,64,6,64]*0.0217+3", (0, 2, 1, 3)),
        )
    ],
]
