"""Cases of reduce_mean."""

from nprt.ops.reduce_mean import ReduceMean

from .case import case

CASES = [
    *[
        case(
            f"{name}_{numerics}",
            ReduceMean,
            x,
            y=y,
            axes=axes,
            keepdims=keepdims,
            numerics=numerics,
        )
        for numerics in ("integer", "ort")
        for name, x, y, axes, keepdims in (
            *[
                (f"positions_{c}", f"i8[N,5,3,{c}]*0.0217+3", "i8*0.0057-7", (1, 2), False)
                for c in (1, 3, 7, 15, 17, 33, 65)
            ],
            ("kept", "i8[N,5,3,7]*0.0217+3", "i8*0.0057-7", (1, 2), True),
            ("u8", "u8[N,5,3,7]*0.0217+131", "u8*0.0057+117", (1, 2), False),
            ("u8_to_i8", "u8[N,5,3,7]*0.0217+131", "i8*0.0057-7", (1, 2), False),
            ("last_axis", "i8[N,5,33]*0.0217+3", "i8*0.0057-7", (2,), True),
            ("first_and_last", "i8[N,5,3,7]*0.0217+3", "i8*0.0057-7", (1, 3), False),
            ("all_of_fixed", "i8[5,3]*0.0217+3", "i8*0.0057-7", (0, 1), False),
            ("size_1", "i8[N,1,9]*0.0217+3", "i8*0.0217+3", (1,), False),
            ("ties", "i8[N,4,33]*0.5+1 in -9..9", "i8*0.5+1", (1,), False),
            ("ties_odd", "i8[N,4,33]*0.5+1 in -9..9", "i8*0.25-2", (1,), False),
            ("ends", "u8[N,4,9]*0.0217+0 ends", "u8*0.0217+0", (1,), False),
            ("free_length", "i8[N,T,9]*0.0217+3", "i8*0.0057-7", (2,), False),
            ("large_result", "i8[N,4,9]*0.0217+3", "i8*0.00031+3", (2,), False),
            ("tiny_result", "i8[N,4,9]*1e-10+3", "i8*1.1+3", (2,), False),
        )
    ],
    *[
        case(
            f"{name}_{numerics}",
            ReduceMean,
            x,
            y=y,
            axes=axes,
            keepdims=keepdims,
            numerics=numerics,
        )
        for numerics in ("qnnpack", "torch", "torch-nchw", "torch-nhwc")
        for name, x, y, axes, keepdims in (
            *[
                (f"positions_{c}", f"i8[N,5,3,{c}]*0.0217+3", "i8*0.0217+3", (1, 2), False)
                for c in (1, 3, 7, 15, 17, 33, 65)
            ],
            ("kept", "i8[N,5,3,7]*0.0217+3", "i8*0.0217+3", (1, 2), True),
            ("u8", "u8[N,5,3,7]*0.0217+131", "u8*0.0217+131", (1, 2), False),
            ("channels", "u8[N,5,7,33]*0.0217+131", "u8*0.0217+131", (3,), False),
            ("first_and_last", "i8[N,5,3,7]*0.0217+3", "i8*0.0217+3", (1, 3), False),
            ("size_1", "i8[N,1,9]*0.0217+3", "i8*0.0217+3", (1,), False),
            ("long", "u8[N,1030,35]*0.0217+7", "u8*0.0217+7", (1,), False),
            ("ties", "i8[N,4,33]*0.5+1 in -9..9", "i8*0.5+1", (1,), False),
            ("ends", "u8[N,4,9]*0.0217+0 ends", "u8*0.0217+0", (1,), False),
            ("fixed_batch", "i8[2,5,3,7]*0.0217+3", "i8*0.0217+3", (1, 2), False),
        )
    ],
    case(
        "rescaled_torch",
        ReduceMean,
        "i8[N,5,3,7]*0.0217+3",
        y="u8*0.0057+131",
        axes=(1, 2),
        numerics="torch",
    ),
    *[
        case(f"float_{name}", ReduceMean, x, axes=axes, keepdims=keepdims)
        for name, x, axes, keepdims in (
            ("positions", "f32[N,5,3,7]", (1, 2), False),
            ("last_axis", "f32[N,5,65]", (2,), True),
            ("free_length", "f32[N,T,5]", (1,), False),
            ("batch", "f32[N,5]", (0,), True),
        )
    ],
]
