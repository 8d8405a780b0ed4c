"""Cases of group_norm."""

from nprt.ops.group_norm import GroupNorm

from .case import case

CASES = [
    *[
        case(
            f"fbgemm_{name}{'_channels_last' if channels_last else ''}",
            GroupNorm,
            x,
            *vectors,
            y=y,
            groups=groups,
            epsilon=1e-5,
            channels_last=channels_last,
            numerics="fbgemm",
        )
        for channels_last in (False, True)
        for name, x, vectors, y, groups in (
            *[
                (
                    f"{n}_in_{groups}",
                    f"u8[N,3,5,{n}]*0.0217+120",
                    (f"const f32[{n}] in -2..2", f"const f32[{n}] in -2..2"),
                    "u8*0.0317+128",
                    groups,
                )
                for n, groups in ((1, 1), (6, 2), (6, 6), (64, 2), (66, 2), (80, 1))
            ],
            (
                "i8",
                "i8[N,9,6]*0.0217+3",
                ("const f32[6] in -2..2", "const f32[6] in -2..2"),
                "i8*0.03-11",
                3,
            ),
            ("no_weight", "u8[N,9,6]*0.0217+3", (), "u8*0.03+110", 3),
            ("no_bias", "u8[N,9,6]*0.0217+3", ("const f32[6] in -2..2",), "u8*0.03+110", 3),
            ("only_bias", "u8[N,9,6]*0.0217+3", ("", "const f32[6] in -2..2"), "u8*0.03+110", 3),
            ("no_positions", "u8[N,12]*0.0217+3", (), "u8*0.03+110", 3),
            ("small_spread", "u8[N,33]*0.0217+3 in 7..9", (), "u8*0.03+110", 1),
            ("ties", "u8[N,64]*0.5+3 in 3..4", (), "u8*0.125+110", 1),
            ("volumes", "u8[N,2,3,4,6]*0.0217+3", (), "u8*0.03+110", 3),
            ("fixed_batch", "u8[2,5,6]*0.0217+120", (), "u8*0.0317+128", 2),
        )
    ],
    *[
        case(f"float_{name}", GroupNorm, x, *vectors, groups=groups, epsilon=epsilon)
        for name, x, vectors, groups, epsilon in (
            ("pixels", "f32[N,3,5,12]", ("const f32[12]", "const f32[12]"), 3, 1e-5),
            ("instances", "f32[N,3,5,12]", (), 12, 1e-3),
            ("no_bias", "f32[N,5,12]", ("const f32[12]",), 4, 1e-5),
            ("at_run_time", "f32[N,5,6]", ("f32[6]", "f32[6]"), 2, 1e-5),
            ("wild", "f32[N,9,8] wild", (), 2, 1e-5),
        )
    ],
    case(
        "unet",
        GroupNorm,
        "u8[N,32,32,128]*0.0217+120",
        "const f32[128]",
        "const f32[128]",
        y="u8*0.0317+128",
        groups=32,
        epsilon=1e-5,
        channels_last=True,
        numerics="fbgemm",
        bench=True,
    ),
]
