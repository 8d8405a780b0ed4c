"""Cases of conv_transpose."""

from nprt.ops.conv_transpose import ConvTranspose

from .case import case, sliding

NUMERICS = ("integer", "ort")

CASES = [
    *[
        case(
            f"channels_{c}_to_{o}_{numerics}",
            ConvTranspose,
            f"i8[N,4,3,{c}]*0.0217+3",
            f"const i8[{o},3,3,{c}]*0.004..0.009/0",
            f"const i32[{o}] in -9000..9000",
            y=f"i8*{0.03 * c**0.5:.4g}-7",
            numerics=numerics,
            **sliding(2, stride=2, padding=1, output_padding=(1, 1)),
        )
        for c, o in ((1, 3), (3, 7), (7, 15), (15, 17), (17, 33), (33, 65), (65, 1))
        for numerics in NUMERICS
    ],
    *[
        case(
            f"{x}_by_{w}_spread_{spread}_to_{y}",
            ConvTranspose,
            f"{x}[N,4,5,9]*0.0217+{zx}",
            f"const {w}[10,2,3,9]*0.0031..0.011/0~{spread}",
            "const i32[10] in -20000..20000",
            y=f"{y}*0.09+{zy}",
            **sliding(2, output_padding=(0, 0)),
        )
        for x, zx, y, zy in (("i8", 17, "i8", 9), ("u8", 141, "u8", 118))
        for w, spread in (("i8", 0), ("i8", 39), ("u8", 9))
    ],
    *[
        case(
            f"clamp_{low}_to_{high}",
            ConvTranspose,
            "i8[N,4,4,8]*0.0217+3",
            "const i8[12,3,3,8]*0.0057+0",
            "const i32[12] in -9000..9000",
            y="i8*0.09-11",
            clamp=(low, high),
            **sliding(2, stride=2, output_padding=(0, 0)),
        )
        for low, high in ((-11, 127), (-11, 55), (4, 4))
    ],
    *[
        case(
            name,
            ConvTranspose,
            f"i8[N,{x}]*0.0217-19",
            f"const i8[{w}]*0.004..0.009/0",
            y="i8*0.07+5",
            **fields,
        )
        for name, x, w, fields in (
            ("one_axis", "7,5", "6,3,5", sliding(1, stride=2, padding=1, output_padding=(1,))),
            ("three_axes", "3,2,3,5", "6,2,3,2,5", sliding(3, stride=2, output_padding=(0, 1, 0))),
            ("stride_1", "5,5,7", "5,3,3,7", sliding(2, padding=1, output_padding=(0, 0))),
            (
                "stride_differs",
                "4,3,7",
                "5,3,3,7",
                sliding(2, stride=(1, 3), output_padding=(0, 2)),
            ),
            (
                "stride_beyond_kernel",
                "3,4,7",
                "5,2,1,7",
                sliding(2, stride=3, output_padding=(0, 1)),
            ),
            ("stride_is_kernel", "4,4,7", "5,2,2,7", sliding(2, stride=2, output_padding=(0, 0))),
            ("dilation_2", "4,4,7", "5,3,3,7", sliding(2, dilation=2, output_padding=(0, 0))),
            (
                "stride_and_dilation",
                "4,3,7",
                "5,3,2,7",
                sliding(2, stride=2, dilation=(2, 3), padding=1, output_padding=(1, 0)),
            ),
            (
                "padding_on_one_side",
                "4,4,7",
                "5,3,3,7",
                sliding(2, padding=((2, 0), (0, 1)), output_padding=(0, 0)),
            ),
            ("one_position", "1,1,7", "5,4,4,7", sliding(2, output_padding=(0, 0))),
            (
                "two_groups",
                "3,3,6",
                "4,3,3,3",
                sliding(2, stride=2, output_padding=(0, 0), groups=2),
            ),
            ("three_groups", "3,3,9", "21,2,2,3", sliding(2, output_padding=(0, 0), groups=3)),
            (
                "channelwise",
                "3,3,7",
                "7,3,3,1",
                sliding(2, stride=2, output_padding=(1, 1), groups=7),
            ),
        )
    ],
    *[
        case(
            f"long_sum_{c}_{numerics}",
            ConvTranspose,
            f"i8[N,2,3,{c}]*0.0217-3",
            f"const i8[5,2,2,{c}]*0.004..0.009/0",
            "const i32[5] in -90000..90000",
            y=f"i8*{0.04 * c**0.5:.4g}+0",
            numerics=numerics,
            **sliding(2, output_padding=(0, 0)),
        )
        for c in (300, 1000)
        for numerics in NUMERICS
    ],
    # 65793 * 255 * 128 + 127 = 2**31 - 1, the largest sum that int32 holds.
    case(
        "sum_at_the_bound",
        ConvTranspose,
        "i8[N,1,65793]*0.0217-128 ends",
        "const i8[2,1,65793]*0.0041+0 ends",
        "const i32[2] in -127..-127",
        y="i8*1499.7+3",
        **sliding(1, output_padding=(0,)),
    ),
    *[
        case(
            f"ties_{name}_{numerics}",
            ConvTranspose,
            "i8[N,3,3,5]*0.5+1 in -9..9",
            "const i8[7,2,2,5]*0.25+0 in -5..5",
            "const i32[7] in -40..40",
            y=f"i8*{scale}{zero:+d}",
            numerics=numerics,
            **sliding(2, output_padding=(0, 0)),
        )
        for name, scale, zero in (("half", 0.25, 0), ("half_odd", 0.25, 3), ("eighth", 1, -6))
        for numerics in NUMERICS
    ],
    case(
        "to_int32",
        ConvTranspose,
        "u8[N,4,5,9]*0.02+5",
        "const i8[10,3,3,9]*0.0031+0",
        "const i32[10] in -9000..9000",
        y="i32",
        **sliding(2, stride=2, padding=1, output_padding=(0, 0)),
    ),
    case(
        "to_int32_plain",
        ConvTranspose,
        "u8[2,4,5,9]",
        "const u8[10,3,3,9]",
        y="i32",
        **sliding(2, stride=2, padding=1, output_padding=(0, 0)),
    ),
    *[
        case(f"float_{name}", ConvTranspose, f"f32[N,{x}]", f"const f32[{w}]", *bias, **fields)
        for name, x, w, bias, fields in (
            (
                "kernel_3",
                "4,4,7",
                "5,3,3,7",
                ("const f32[5]",),
                sliding(2, stride=2, padding=1, output_padding=(1, 1)),
            ),
            ("one_axis", "5,8", "6,3,4", (), sliding(1, output_padding=(0,), groups=2)),
        )
    ],
    case(
        "decoder_8x8",
        ConvTranspose,
        "i8[N,8,8,64]*0.0217+3",
        "const i8[32,4,4,64]*0.004..0.009/0",
        "const i32[32] in -9000..9000",
        y="i8*0.4-128",
        clamp=(-128, 127),
        bench=True,
        **sliding(2, stride=2, padding=1, output_padding=(0, 0)),
    ),
    *[
        case(
            f"{numerics}",
            ConvTranspose,
            "u8[N,4,5,6]*0.0217+131",
            "const i8[7,3,3,6]*0.0073+0",
            f"const {bias}[7]",
            y="u8*0.31+117",
            stride=(2, 1),
            dilation=(1, 1),
            padding=((1, 1), (1, 0)),
            output_padding=(1, 0),
            numerics=numerics,
        )
        for numerics, bias in (
            ("fbgemm", "f32"),
            ("onednn", "f32"),
            ("onednn-general", "f32"),
            ("pt2e", "f32"),
            ("qnnpack", "i32"),
        )
    ],
]
