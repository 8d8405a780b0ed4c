"""Cases of conv."""

from nprt.ops.conv import Conv

from .case import case, ends_of_products, sliding

# Each size of a vector's tail as channels in and out, and sums of 1 to 65 terms.
TAILS = [(1, 3), (3, 7), (7, 15), (15, 17), (17, 33), (33, 65), (65, 1), (16, 16), (64, 48)]

NUMERICS = ("integer", "ort")

CASES = [
    *[
        case(
            f"pointwise_{c}_to_{o}_{numerics}",
            Conv,
            f"i8[N,3,5,{c}]*0.0217+3",
            f"const i8[{o},1,1,{c}]*0.004..0.009/0",
            f"const i32[{o}] in -9000..9000",
            y=f"i8*{0.02 * c**0.5:.4g}-7",
            numerics=numerics,
            **sliding(2),
        )
        for c, o in TAILS
        for numerics in NUMERICS
    ],
    *[
        case(
            f"kernel_3_{c}_to_{o}_{numerics}",
            Conv,
            f"u8[N,5,4,{c}]*0.0137+113",
            f"const i8[{o},3,3,{c}]*0.0043+0",
            f"const i32[{o}] in -9000..9000",
            y=f"u8*{0.023 * c**0.5:.4g}+131",
            numerics=numerics,
            **sliding(2, padding=1),
        )
        for c, o in TAILS
        for numerics in NUMERICS
    ],
    # Dtypes and quantization of each operand.
    *[
        case(
            f"{x}_by_{w}_spread_{spread}_to_{y}_{numerics}",
            Conv,
            f"{x}[N,6,5,9]*0.0217+{zx}",
            f"const {w}[10,2,3,9]*0.0031..0.011/0~{spread}",
            "const i32[10] in -20000..20000",
            y=f"{y}*0.09+{zy}",
            numerics=numerics,
            **sliding(2, padding=((1, 0), (1, 1))),
        )
        for x, zx in (("i8", 17), ("u8", 141))
        for w, spread in (("i8", 0), ("i8", 40), ("u8", 9))
        if (x, w, spread) != ("u8", "i8", 40)
        for y, zy in (("i8", 9), ("u8", 118))
        for numerics in NUMERICS
        if (x == y or spread == 0)
    ],
    case(
        "per_tensor_weights_with_zero_point",
        Conv,
        "i8[N,5,5,6]*0.0217-128",
        "const i8[7,3,3,6]*0.0057+21",
        y="i8*0.09-128",
        **sliding(2, padding=1),
    ),
    case(
        "no_bias",
        Conv,
        "i8[N,5,5,6]*0.0217+127",
        "const i8[7,3,3,6]*0.0057+0",
        y="i8*0.09+127",
        **sliding(2, padding=1),
    ),
    case(
        "fixed_batch",
        Conv,
        "u8[2,5,5,6]*0.0217+0",
        "const i8[7,3,3,6]*0.0057+0",
        y="u8*0.09+0",
        **sliding(2, padding=1),
    ),
    # Clamps: a relu, a relu6 within the dtype, one code only.
    *[
        case(
            f"clamp_{low}_to_{high}_{numerics}",
            Conv,
            "i8[N,6,6,8]*0.0217+3",
            "const i8[12,3,3,8]*0.004..0.009/0",
            "const i32[12] in -9000..9000",
            y="i8*0.09-11",
            clamp=(low, high),
            numerics=numerics,
            **sliding(2),
        )
        for low, high in ((-11, 127), (-11, 55), (-128, 127), (-128, -128), (4, 4))
        for numerics in NUMERICS
    ],
    # Geometry.
    *[
        case(
            name,
            Conv,
            f"i8[N,{x}]*0.0217-19",
            f"const i8[{w}]*0.004..0.009/0",
            f"const i32[{w.split(',')[0]}] in -9000..9000",
            y="i8*0.07+5",
            **fields,
        )
        for name, x, w, fields in (
            ("one_axis", "17,5", "6,3,5", sliding(1, padding=1)),
            ("one_axis_stride_2", "17,5", "6,4,5", sliding(1, stride=2, padding=((1, 2),))),
            ("three_axes", "4,5,3,5", "6,2,3,2,5", sliding(3, padding=1)),
            (
                "three_axes_mixed",
                "7,6,5,3",
                "4,2,3,1,3",
                sliding(3, stride=(2, 1, 3), dilation=(1, 2, 1), padding=((0, 1), (2, 2), (0, 0))),
            ),
            ("stride_2", "9,9,7", "5,3,3,7", sliding(2, stride=2)),
            ("stride_2_padded", "8,9,7", "5,3,3,7", sliding(2, stride=2, padding=((0, 1), (1, 1)))),
            ("stride_differs", "9,10,7", "5,3,3,7", sliding(2, stride=(1, 3))),
            ("stride_beyond_kernel", "9,9,7", "5,1,1,7", sliding(2, stride=3)),
            ("dilation_2", "9,9,7", "5,3,3,7", sliding(2, dilation=2, padding=2)),
            ("dilation_differs", "9,9,7", "5,3,2,7", sliding(2, dilation=(3, 2))),
            ("stride_and_dilation", "11,9,7", "5,3,3,7", sliding(2, stride=2, dilation=2)),
            ("padding_on_one_side", "6,6,7", "5,3,3,7", sliding(2, padding=((2, 0), (0, 1)))),
            ("padding_beyond_kernel", "3,3,7", "5,2,2,7", sliding(2, padding=3)),
            ("kernel_beyond_input", "2,3,7", "5,5,5,7", sliding(2, padding=2)),
            ("kernel_covers_input", "4,6,7", "5,4,6,7", sliding(2)),
            ("kernel_1x7", "5,11,7", "5,1,7,7", sliding(2, padding=(0, 3))),
            ("kernel_7x1", "11,5,7", "5,7,1,7", sliding(2, padding=(3, 0))),
            ("kernel_7x7", "11,13,3", "16,7,7,3", sliding(2, stride=2, padding=3)),
            ("one_position", "1,1,7", "5,1,1,7", sliding(2)),
            ("one_position_padded", "1,1,7", "5,3,3,7", sliding(2, padding=1)),
            ("wide_rows", "2,67,5", "9,2,3,5", sliding(2, padding=((0, 0), (1, 1)))),
            ("two_groups", "5,5,6", "4,3,3,3", sliding(2, padding=1, groups=2)),
            ("three_groups", "5,5,9", "21,3,3,3", sliding(2, padding=1, groups=3)),
            ("four_groups_of_33", "3,3,132", "68,1,1,33", sliding(2, groups=4)),
            ("as_many_groups_as_channels", "5,5,7", "7,3,3,1", sliding(2, padding=1, groups=7)),
            ("groups_stride", "9,9,32", "32,3,3,4", sliding(2, stride=2, padding=1, groups=8)),
            ("groups_one_axis", "9,8", "6,3,4", sliding(1, groups=2)),
        )
    ],
    # Long sums.
    *[
        case(
            f"long_sum_{k}_{numerics}",
            Conv,
            f"i8[N,3,2,{c}]*0.0217-3",
            f"const i8[5,{side},{side},{c}]*0.004..0.009/0",
            "const i32[5] in -90000..90000",
            y=f"i8*{0.03 * k**0.5:.4g}+0",
            numerics=numerics,
            **sliding(2, padding=side // 2),
        )
        for k, side, c in (
            (256, 1, 256),
            (257, 1, 257),
            (297, 3, 33),
            (1000, 1, 1000),
            (1017, 3, 113),
            (4608, 3, 512),
        )
        for numerics in NUMERICS
    ],
    # 65793 * 255 * 128 + 127 = 2**31 - 1, the largest sum that int32 holds.
    *[
        case(
            f"sum_at_the_bound_{y}_{numerics}",
            Conv,
            "i8[N,1,1,65793]*0.0217-128 ends",
            "const i8[3,1,1,65793]*0.0041+0 ends",
            "const i32[3] in -127..-127",
            y="i32" if y == "int32" else f"{y}*{scale}",
            numerics=numerics,
            **sliding(2),
        )
        for y, scale, numerics in (
            ("int32", "", "integer"),
            ("i8", "1499.7+3", "integer"),
            ("i8", "1499.7+3", "ort"),
            ("u8", "0.0001+3", "integer"),
        )
    ],
    case(
        "extreme_codes",
        Conv,
        "u8[N,4,4,33]*0.0217+0 ends",
        "const i8[6,3,3,33]*0.004..0.009/0 ends",
        "const i32[6] in -9000..9000",
        y="u8*1.7+128",
        **sliding(2, padding=1),
    ),
    # Neighbouring codes of 255 and 127 in turn: what a saturating 16-bit sum of two products gets wrong.
    case(
        "pairs_beyond_int16",
        Conv,
        "u8[N,3,3,64]*0.0217+0 in 200..255",
        "const i8[8,1,1,64]*0.0041+0 in 100..127",
        y="u8*0.71+0",
        **sliding(2),
    ),
    # Ties: the real multiplier is a power of two, and sums are small.
    *[
        case(
            f"ties_{name}_{numerics}",
            Conv,
            "i8[N,6,6,5]*0.5+1 in -9..9",
            "const i8[7,2,2,5]*0.25+0 in -5..5",
            "const i32[7] in -40..40",
            y=f"i8*{scale}{zero:+d}",
            numerics=numerics,
            **sliding(2),
        )
        for name, scale, zero in (("half", 0.25, 0), ("half_odd", 0.25, 3), ("eighth", 1, -6))
        for numerics in NUMERICS
    ],
    # Real multipliers: above 1, just below 1, and so small that every code is the zero point.
    *[
        case(
            f"multiplier_{name}_{numerics}",
            Conv,
            f"i8[N,3,3,5]*{x}+2 in -12..12",
            f"const i8[7,1,1,5]*{w}+0 in -3..3",
            f"const i32[7] in -{bias}..{bias}",
            y=f"i8*{y}-5",
            numerics=numerics,
            **sliding(2),
        )
        for name, x, w, y, bias in (
            ("of_3", 0.3, 0.1, 0.01, 9),
            ("of_1000", 0.7, 1.43, 0.001, 9),
            ("of_2_to_29", 20000.1, 20000.1, 0.75, 9),
            ("of_1", 0.5, 0.5, 0.25, 9),
            ("just_below_1", 0.3, 0.99999, 0.3, 9),
            ("of_2_to_minus_20", 0.0131, 0.00077, 11.3, 90000000),
            ("of_2_to_minus_31", 1.1e-5, 3.3e-5, 1.3, 2147481000),
            ("of_2_to_minus_33", 1.1e-5, 1.2e-5, 1.3, 2147481000),
        )
        for numerics in NUMERICS
    ],
    # int32 results.
    *[
        case(
            f"to_int32_{name}",
            Conv,
            f"{x}[N,6,5,9]{quant}",
            f"const {w}",
            *more,
            y="i32",
            **sliding(2, padding=1),
        )
        for name, x, quant, w, more in (
            ("known_zero_point", "i8", "*0.02+5", "i8[10,3,3,9]*0.0031+0", ()),
            ("plain", "u8", "", "i8[10,3,3,9]", ()),
            ("bias", "u8", "*0.02+99", "u8[10,3,3,9]*0.01+7", ("const i32[10] in -9000..9000",)),
            ("run_time", "u8", "", "i8[10,3,3,9]*0.0031..0.011/0", ("", "u8[]")),
            ("run_time_i8", "i8", "", "i8[10,3,3,9]*0.0031..0.011/0~30", ("", "i8[1]")),
            ("run_time_u8_u8", "u8", "", "u8[10,3,3,9]*0.01+131", ("", "u8[1]")),
            (
                "run_time_bias",
                "u8",
                "",
                "i8[10,3,3,9]*0.01+0",
                ("const i32[10] in -900..900", "u8[]"),
            ),
            ("constant_zero_point", "u8", "", "i8[10,3,3,9]*0.01+0", ("", "const u8[] in 77..77")),
        )
    ],
    case(
        "to_int32_run_time_groups",
        Conv,
        "u8[N,9,8] ends",
        "const u8[6,3,4]*0.01+0 ends",
        "",
        "u8[]",
        y="i32",
        **sliding(1, stride=2, dilation=2, padding=1, groups=2),
    ),
    # float32.
    *[
        case(f"float_{name}", Conv, f"f32[N,{x}]", f"const f32[{w}]", *bias, **fields)
        for name, x, w, bias, fields in (
            ("pointwise", "4,4,7", "5,1,1,7", ("const f32[5]",), sliding(2)),
            ("kernel_3", "5,5,7", "5,3,3,7", ("const f32[5]",), sliding(2, padding=1)),
            ("no_bias", "5,5,7", "5,3,3,7", (), sliding(2, stride=2, dilation=2, padding=2)),
            ("one_axis", "9,8", "6,3,4", ("const f32[6]",), sliding(1, groups=2)),
            ("three_axes", "3,4,5,2", "3,2,2,2,2", (), sliding(3)),
        )
    ],
    # Layers of real networks.
    *[
        case(
            name,
            Conv,
            f"{'u8' if numerics == 'ort' else 'i8'}[N,{x}]*0.0217+3",
            f"const i8[{w}]*0.004..0.009/0",
            f"const i32[{w.split(',')[0]}] in -9000..9000",
            y=f"{'u8' if numerics == 'ort' else 'i8'}*{y}",
            clamp=clamp,
            numerics=numerics,
            bench=True,
            **fields,
        )
        for name, x, w, y, clamp, numerics, fields in (
            (
                "resnet_stem",
                "224,224,3",
                "64,7,7,3",
                "0.29-11",
                (-11, 127),
                "integer",
                sliding(2, stride=2, padding=3),
            ),
            (
                "resnet18_stage1",
                "56,56,64",
                "64,3,3,64",
                "0.57-11",
                (-11, 127),
                "integer",
                sliding(2, padding=1),
            ),
            (
                "resnet18_stage1_ort",
                "56,56,64",
                "64,3,3,64",
                "0.57+0",
                (0, 255),
                "ort",
                sliding(2, padding=1),
            ),
            (
                "resnet18_stage2_stride",
                "56,56,64",
                "128,3,3,64",
                "0.57-11",
                (-11, 127),
                "integer",
                sliding(2, stride=2, padding=1),
            ),
            (
                "resnet18_stage2",
                "28,28,128",
                "128,3,3,128",
                "0.8-11",
                None,
                "integer",
                sliding(2, padding=1),
            ),
            (
                "resnet18_stage3",
                "14,14,256",
                "256,3,3,256",
                "1.1-11",
                None,
                "integer",
                sliding(2, padding=1),
            ),
            (
                "resnet18_stage4",
                "7,7,512",
                "512,3,3,512",
                "1.6-11",
                None,
                "integer",
                sliding(2, padding=1),
            ),
            (
                "resnet18_shortcut",
                "56,56,64",
                "128,1,1,64",
                "0.19-11",
                None,
                "integer",
                sliding(2, stride=2),
            ),
            (
                "resnet50_stage1_expand",
                "56,56,64",
                "256,1,1,64",
                "0.19-11",
                None,
                "integer",
                sliding(2),
            ),
            (
                "resnet50_stage3_reduce",
                "14,14,1024",
                "256,1,1,1024",
                "0.76-11",
                None,
                "integer",
                sliding(2),
            ),
            (
                "resnet50_stage4_expand",
                "7,7,512",
                "2048,1,1,512",
                "0.54-11",
                None,
                "integer",
                sliding(2),
            ),
            (
                "mobilenetv2_stem",
                "224,224,3",
                "32,3,3,3",
                "0.12-128",
                (-128, 50),
                "integer",
                sliding(2, stride=2, padding=1),
            ),
            (
                "mobilenetv2_expand",
                "56,56,24",
                "144,1,1,24",
                "0.12-128",
                None,
                "integer",
                sliding(2),
            ),
            (
                "mobilenetv2_project",
                "14,14,576",
                "96,1,1,576",
                "0.57+2",
                None,
                "integer",
                sliding(2),
            ),
            ("mobilenetv2_head", "7,7,320", "1280,1,1,320", "0.42+2", None, "integer", sliding(2)),
            (
                "resnet8_stage1",
                "32,32,16",
                "16,3,3,16",
                "0.29-11",
                None,
                "integer",
                sliding(2, padding=1),
            ),
            (
                "ds_cnn_stem",
                "49,10,1",
                "64,10,4,1",
                "0.15-128",
                (-128, 127),
                "integer",
                sliding(2, stride=2, padding=((4, 5), (1, 1))),
            ),
            ("ds_cnn_pointwise", "25,5,64", "64,1,1,64", "0.19-128", None, "integer", sliding(2)),
            (
                "resnext_groups",
                "14,14,256",
                "256,3,3,8",
                "0.2-11",
                None,
                "integer",
                sliding(2, padding=1, groups=32),
            ),
        )
    ],
    *[
        case(
            f"{numerics}_{bias or 'no_bias'}_{'per_channel' if '..' in w else 'per_tensor'}",
            Conv,
            "u8[N,6,5,8]*0.0217+131",
            f"const i8[7,3,3,8]{w}",
            *((f"const {bias}[7]",) if bias else ()),
            y="u8*0.31+117",
            stride=(1, 1),
            dilation=(1, 1),
            padding=((1, 1), (1, 1)),
            numerics=numerics,
        )
        for numerics, bias in (
            ("fbgemm", "f32"),
            ("onednn", "f32"),
            ("pt2e", "f32"),
            ("qnnpack", "i32"),
            ("fbgemm", ""),
            ("onednn", ""),
            ("pt2e", ""),
            ("qnnpack", ""),
        )
        for w in ("*0.004..0.009/0", "*0.0073+0")
    ],
    *ends_of_products(Conv, "4,3,5", "7,2,2,5", **sliding(2, padding=1)),
    # Tiles that overlap, where the CPU level has them.
    *ends_of_products(Conv, "6,7,8", "64,3,3,8", **sliding(2, padding=1)),
    case(
        "overlapping_to_int32",
        Conv,
        "u8[N,6,7,8]*0.0217+117",
        "const i8[64,3,3,8]*0.01+0",
        y="i32",
        **sliding(2, padding=1),
    ),
]
