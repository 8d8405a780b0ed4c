"""Cases of layer_norm."""

from nprt.ops.layer_norm import LayerNorm

from .case import case

CASES = [
    *[
        case(
            f"fbgemm_{name}",
            LayerNorm,
            x,
            *vectors,
            y=y,
            epsilon=epsilon,
            numerics="fbgemm",
        )
        for name, x, vectors, y, epsilon in (
            *[
                (
                    f"size_{n}",
                    f"u8[N,3,{n}]*0.0217+120",
                    (f"const f32[{n}] in -2..2", f"const f32[{n}] in -2..2"),
                    "u8*0.0317+128",
                    1e-5,
                )
                for n in (2, 7, 31, 32, 33, 65, 768)
            ],
            (
                "i8",
                "i8[N,3,33]*0.0217+3",
                ("const f32[33] in -2..2", "const f32[33] in -2..2"),
                "i8*0.03-11",
                1e-5,
            ),
            ("no_weight", "u8[N,3,33]*0.0217+3", (), "u8*0.03+110", 1e-5),
            ("no_bias", "u8[N,3,33]*0.0217+3", ("const f32[33] in -2..2",), "u8*0.03+110", 1e-5),
            (
                "only_bias",
                "u8[N,3,33]*0.0217+3",
                ("", "const f32[33] in -2..2"),
                "u8*0.03+110",
                1e-5,
            ),
            ("large_epsilon", "u8[N,33]*0.0217+3", (), "u8*0.03+110", 0.5),
            ("small_spread", "u8[N,33]*0.0217+3 in 7..9", (), "u8*0.03+110", 1e-5),
            ("ties", "u8[N,64]*0.5+3 in 3..4", (), "u8*0.125+110", 1e-12),
            ("one_axis", "u8[65]*0.0217+120", (), "u8*0.0317+128", 1e-5),
            ("fixed_batch", "u8[2,65]*0.0217+120", (), "u8*0.0317+128", 1e-5),
            ("free_length", "u8[N,T,7]*0.0217+120", (), "u8*0.0317+128", 1e-5),
            ("empty", "u8[N,0,7]*0.0217+120", (), "u8*0.0317+128", 1e-5),
        )
    ],
    *[
        case(f"float_{name}", LayerNorm, x, *vectors, epsilon=epsilon)
        for name, x, vectors, epsilon in (
            ("rows", "f32[N,5,33]", ("const f32[33]", "const f32[33]"), 1e-5),
            ("no_weight", "f32[N,33]", (), 1e-12),
            ("no_bias", "f32[N,33]", ("const f32[33]",), 1e-5),
            ("at_run_time", "f32[N,7]", ("f32[7]", "f32[7]"), 1e-5),
            ("wild", "f32[N,99] wild", (), 1e-5),
            ("empty", "f32[N,0,3]", (), 1e-5),
        )
    ],
    case(
        "transformer",
        LayerNorm,
        "u8[N,64,768]*0.0217+120",
        "const f32[768]",
        "const f32[768]",
        y="u8*0.0317+128",
        epsilon=1e-5,
        numerics="fbgemm",
        bench=True,
    ),
]
