"""Cases of dynamic_linear."""

from nprt.ops.dynamic_linear import DynamicLinear

from .case import case

CASES = [
    *[
        case(f"{name}{'_per_row' if per_row else ''}", DynamicLinear, x, *more, per_row=per_row)
        for per_row in (False, True)
        for name, x, *more in (
            *[
                (
                    f"features_{i}_to_{o}",
                    f"f32[N,{i}]",
                    f"const i8[{o},{i}]*0.0057+0",
                    f"const f32[{o}]",
                )
                for i, o in ((1, 3), (3, 7), (7, 15), (15, 17), (17, 33), (33, 65), (65, 1))
            ],
            ("long_sum_300", "f32[N,300]", "const i8[9,300]*0.004..0.009/0", "const f32[9]"),
            ("long_sum_1000", "f32[N,1000]", "const i8[9,1000]*0.004..0.009/0", "const f32[9]"),
            ("no_bias", "f32[N,37]", "const i8[9,37]*0.004..0.009/0"),
            ("weights_u8", "f32[N,37]", "const u8[9,37]*0.0057+131", "const f32[9]"),
            ("weights_zero_points", "f32[N,37]", "const i8[9,37]*0.004..0.009/0~30"),
            ("zeros", "f32[N,37] in 0..0", "const i8[9,37]*0.0057+0", "const f32[9]"),
            ("positive", "f32[N,37] in 0.3..7.1", "const i8[9,37]*0.0057+0"),
            ("negative", "f32[N,37] in -7.1..-0.3", "const i8[9,37]*0.0057+0"),
            ("ties", "f32[N,99] step 0.5", "const i8[9,99]*0.0057+0"),
            # 65793 * 255 * 128 = 2147483520, just below 2**31.
            ("sum_at_the_bound", "f32[N,65793] in 1..1", "const i8[2,65793]*0.0041+0 ends"),
            ("one_vector", "f32[20]", "const i8[7,20]*0.0057+0"),
            ("three_axes", "f32[N,5,20]", "const i8[7,20]*0.0057+0"),
            ("fixed_batch", "f32[2,20]", "const i8[7,20]*0.0057+0"),
            ("free_length", "f32[N,T,20]", "const i8[7,20]*0.0057+0"),
            ("no_features", "f32[N,0]", "const i8[7,0]*0.0057+0", "const f32[7]"),
        )
    ],
    *[
        case(f"{numerics}_{name}", DynamicLinear, x, *more, numerics=numerics, **fields)
        for numerics, tiny in (
            ("fbgemm", "1e-4"),
            ("onednn", "1e-4"),
            ("qnnpack", "1e-4"),
            ("pt2e", "4e-3"),
        )
        for name, x, *more, fields in (
            ("7_to_15", "f32[N,7]", "const i8[15,7]*0.0057+0", "const f32[15]", {}),
            ("reduced", "f32[N,37]", "const i8[9,37]*0.0057+0", {"reduce_range": True}),
            ("channels", "f32[N,5,37]", "const i8[9,37]*0.004..0.009/0", "const f32[9]", {}),
            ("weights_u8", "f32[N,37]", "const u8[9,37]*0.0057+131", "const f32[9]", {}),
            ("long_sum", "f32[N,1000]", "const i8[9,1000]*0.004..0.009/0", "const f32[9]", {}),
            ("zeros", "f32[N,37] in 0..0", "const i8[9,37]*0.0057+0", "const f32[9]", {}),
            ("tiny", f"f32[N,37] in -2e-5..{tiny}", "const i8[9,37]*0.0057+0", {}),
            ("tiny_positive", f"f32[N,37] in 0..{tiny}", "const i8[9,37]*0.0057+0", {}),
            ("tiny_negative", f"f32[N,37] in -{tiny}..0", "const i8[9,37]*0.0057+0", {}),
            ("positive", "f32[N,37] in 0.3..7.1", "const i8[9,37]*0.0057+0", {}),
            ("ties", "f32[N,99] step 0.5", "const i8[9,99]*0.0057+0", {}),
            ("per_row", "f32[N,37]", "const i8[9,37]*0.0057+0", "const f32[9]", {"per_row": True}),
            ("no_features", "f32[N,0]", "const i8[7,0]*0.0057+0", "const f32[7]", {}),
        )
    ],
    *[
        case(
            name,
            DynamicLinear,
            f"f32[N,{x}]",
            f"const i8[{o},{i}]*0.004..0.009/0",
            f"const f32[{o}]",
            per_row=per_row,
            bench=True,
        )
        for name, x, i, o, per_row in (
            ("transformer_up", "32,384", 384, 1536, False),
            ("lstm_gates", "128", 128, 512, True),
        )
    ],
]
