"""Cases of batch_norm."""

from nprt.ops.batch_norm import BatchNorm

from .case import case

CASES = [
    *[
        case(
            f"fbgemm_{name}",
            BatchNorm,
            x,
            f"const f32[{channels}] in -0.9..1.4",
            f"const f32[{channels}] in -3..3",
            y=y,
            clamp=clamp,
            numerics="fbgemm",
        )
        for name, x, channels, y, clamp in (
            *[
                (f"channels_{n}", f"u8[N,5,3,{n}]*0.0217+120", n, "u8*0.0317+128", None)
                for n in (1, 2, 7, 17, 33, 65)
            ],
            ("i8", "i8[N,5,7]*0.0217+3", 7, "i8*0.0317-11", None),
            ("i8_to_u8", "i8[N,7]*0.0217+3", 7, "u8*0.0317+11", None),
            ("zero_points_at_the_ends", "u8[N,9,7]*0.0217+0", 7, "u8*0.0317+255", None),
            ("relu", "u8[N,5,7]*0.0217+120", 7, "u8*0.0317+128", (128, 255)),
            ("clamp", "i8[N,5,7]*0.0217+3", 7, "i8*0.0317-11", (-9, 31)),
            ("three_axes", "u8[N,2,3,2,7]*0.0217+120", 7, "u8*0.0317+128", None),
            ("one_axis", "u8[65]*0.0217+120", 65, "u8*0.0317+128", None),
            ("fixed_batch", "u8[2,65]*0.0217+120", 65, "u8*0.0317+128", None),
            ("free_length", "u8[N,T,7]*0.0217+120", 7, "u8*0.0317+128", None),
            ("empty", "u8[N,0,7]*0.0217+120", 7, "u8*0.0317+128", None),
        )
    ],
    # Factors and offsets that put many results in the middle between two codes.
    case(
        "fbgemm_ties",
        BatchNorm,
        "u8[N,9,9,4]*0.0625+7",
        ("const f32[4]", [0.5, 1.5, -0.25, 1.0]),
        ("const f32[4]", [0.03125, 0.0, -0.09375, 1.03125]),
        y="u8*0.0625+128",
        numerics="fbgemm",
    ),
    *[
        case(f"float_{name}", BatchNorm, x, factor, offset)
        for name, x, factor, offset in (
            ("pixels", "f32[N,4,5,17]", "const f32[17]", "const f32[17]"),
            ("rows", "f32[N,7]", "const f32[7]", "const f32[7]"),
            ("at_run_time", "f32[N,7]", "f32[7]", "f32[7]"),
            ("wild", "f32[N,99] wild", "const f32[99] wild", "const f32[99]"),
            ("empty", "f32[N,0,3]", "const f32[3]", "const f32[3]"),
        )
    ],
    case(
        "densenet",
        BatchNorm,
        "u8[N,28,28,128]*0.0217+120",
        "const f32[128] in -0.9..1.4",
        "const f32[128] in -3..3",
        y="u8*0.0317+128",
        clamp=(128, 255),
        numerics="fbgemm",
        bench=True,
    ),
]
