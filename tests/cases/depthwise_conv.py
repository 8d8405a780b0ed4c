"""Cases of depthwise_conv."""

from nprt.ops.depthwise_conv import DepthwiseConv

from .case import case, ends_of_products, sliding

NUMERICS = ("integer", "ort")

CASES = [
    *[
        case(
            f"channels_{c}_{numerics}",
            DepthwiseConv,
            f"i8[N,5,4,{c}]*0.0217+3",
            f"const i8[3,3,{c}]*0.004..0.009/2",
            f"const i32[{c}] in -9000..9000",
            y="i8*0.06-7",
            numerics=numerics,
            **sliding(2, padding=1),
        )
        for c in (1, 3, 7, 15, 16, 17, 33, 65, 130)
        for numerics in NUMERICS
    ],
    *[
        case(
            f"{x}_by_{w}_spread_{spread}_to_{y}_{numerics}",
            DepthwiseConv,
            f"{x}[N,6,5,9]*0.0217+{zx}",
            f"const {w}[2,3,9]*0.0031..0.011/2~{spread}",
            "const i32[9] in -20000..20000",
            y=f"{y}*0.05+{zy}",
            numerics=numerics,
            **sliding(2, padding=((1, 0), (1, 1))),
        )
        for x, zx, y, zy in (("i8", 17, "i8", 9), ("u8", 141, "u8", 118), ("u8", 0, "i8", 3))
        for w, spread in (("i8", 0), ("i8", 40), ("u8", 9))
        for numerics in NUMERICS
    ],
    *[
        case(
            f"multiplier_{m}_channels_{c}",
            DepthwiseConv,
            f"u8[N,5,5,{c}]*0.0217+128",
            f"const i8[3,3,{c * m}]*0.004..0.009/2",
            y="u8*0.06+120",
            **sliding(2, padding=1),
        )
        for c, m in ((1, 8), (3, 2), (5, 3), (17, 2))
    ],
    case(
        "per_tensor_weights_with_zero_point",
        DepthwiseConv,
        "i8[N,5,5,6]*0.0217-128",
        "const i8[3,3,6]*0.0057+21",
        y="i8*0.04-128",
        **sliding(2, padding=1),
    ),
    case(
        "fixed_batch",
        DepthwiseConv,
        "u8[3,5,5,6]*0.0217+0",
        "const i8[3,3,6]*0.0057+0",
        y="u8*0.04+0",
        **sliding(2),
    ),
    *[
        case(
            f"clamp_{low}_to_{high}_{numerics}",
            DepthwiseConv,
            "i8[N,6,6,8]*0.0217+3",
            "const i8[3,3,8]*0.004..0.009/2",
            "const i32[8] in -9000..9000",
            y="i8*0.05-11",
            clamp=(low, high),
            numerics=numerics,
            **sliding(2),
        )
        for low, high in ((-11, 127), (-11, 55), (4, 4))
        for numerics in NUMERICS
    ],
    *[
        case(
            name,
            DepthwiseConv,
            f"i8[N,{x}]*0.0217-19",
            f"const i8[{w}]*0.0057+0",
            f"const i32[{w.split(',')[-1]}] in -9000..9000",
            y="i8*0.05+5",
            **fields,
        )
        for name, x, w, fields in (
            ("one_axis", "17,5", "3,5", sliding(1, padding=1)),
            ("one_axis_twice_the_channels", "17,5", "4,10", sliding(1, stride=2)),
            ("three_axes", "4,5,3,5", "2,3,2,5", sliding(3, padding=1)),
            (
                "three_axes_mixed",
                "7,6,5,3",
                "2,3,1,3",
                sliding(3, stride=(2, 1, 3), dilation=(1, 2, 1), padding=((0, 1), (2, 2), (0, 0))),
            ),
            ("pointwise", "4,4,7", "1,1,7", sliding(2)),
            ("stride_2", "9,9,7", "3,3,7", sliding(2, stride=2)),
            ("stride_2_padded", "8,9,7", "3,3,7", sliding(2, stride=2, padding=((0, 1), (1, 1)))),
            ("stride_differs", "9,10,7", "3,3,7", sliding(2, stride=(1, 3))),
            ("dilation_2", "9,9,7", "3,3,7", sliding(2, dilation=2, padding=2)),
            ("dilation_differs", "9,9,7", "3,2,7", sliding(2, dilation=(3, 2))),
            ("stride_and_dilation", "11,9,7", "3,3,7", sliding(2, stride=2, dilation=2)),
            ("padding_on_one_side", "6,6,7", "3,3,7", sliding(2, padding=((2, 0), (0, 1)))),
            ("padding_beyond_kernel", "3,3,7", "2,2,7", sliding(2, padding=3)),
            ("kernel_beyond_input", "2,3,7", "5,5,7", sliding(2, padding=2)),
            ("kernel_covers_input", "4,6,7", "4,6,7", sliding(2)),
            ("kernel_5x5", "9,9,17", "5,5,17", sliding(2, padding=2)),
            ("kernel_1x7", "5,11,7", "1,7,7", sliding(2, padding=(0, 3))),
            ("one_position", "1,1,7", "3,3,7", sliding(2, padding=1)),
            ("wide_rows", "2,67,5", "2,3,5", sliding(2)),
        )
    ],
    # More taps than a float32 sum of products holds exactly, with the greatest products.
    *[
        case(
            f"taps_{side * side}",
            DepthwiseConv,
            f"u8[N,{side},{side},5]*0.0217+0 {values}",
            f"const i8[{side},{side},5]*0.0041+0 {values}",
            y="i32" if values == "ends" else "u8*0.31+120",
            **sliding(2),
        )
        for side, values in ((16, "ends"), (17, "ends"), (31, "usual"))
    ],
    # 65793 * 255 * 128 + 127 = 2**31 - 1, the largest sum that int32 holds.
    *[
        case(
            f"sum_at_the_bound_{name}",
            DepthwiseConv,
            "i8[N,65793,1]*0.0217-128 in 127..127",
            "const i8[65793,2]*0.0041..0.0041/1 ends",
            "const i32[2] in -127..-127",
            y=y,
            **sliding(1),
        )
        for name, y in (("int32", "i32"), ("codes", "i8*1499.7+3"))
    ],
    case(
        "pairs_beyond_int16",
        DepthwiseConv,
        "u8[N,6,6,16]*0.0217+0 in 200..255",
        "const i8[3,3,16]*0.0041+0 in 100..127",
        y="u8*0.11+0",
        **sliding(2),
    ),
    *[
        case(
            f"ties_{name}_{numerics}",
            DepthwiseConv,
            "i8[N,6,6,5]*0.5+1 in -9..9",
            "const i8[2,2,5]*0.25+0 in -5..5",
            "const i32[5] in -40..40",
            y=f"i8*{scale}{zero:+d}",
            numerics=numerics,
            **sliding(2),
        )
        for name, scale, zero in (("half", 0.25, 0), ("half_odd", 0.25, 3), ("eighth", 1, -6))
        for numerics in NUMERICS
    ],
    *[
        case(
            f"multiplier_{name}_{numerics}",
            DepthwiseConv,
            f"i8[N,3,3,5]*{x}+2 in -12..12",
            f"const i8[2,2,5]*{w}+0 in -3..3",
            f"const i32[5] in -{bias}..{bias}",
            y=f"i8*{y}-5",
            numerics=numerics,
            **sliding(2),
        )
        for name, x, w, y, bias in (
            ("of_3", 0.3, 0.1, 0.01, 9),
            ("of_1000", 0.7, 1.43, 0.001, 9),
            ("just_below_1", 0.3, 0.99999, 0.3, 9),
            ("of_2_to_minus_20", 0.0131, 0.00077, 11.3, 90000000),
            ("of_2_to_minus_31", 1.1e-5, 3.3e-5, 1.3, 2147481000),
            ("of_2_to_minus_33", 1.1e-5, 1.2e-5, 1.3, 2147481000),
        )
        for numerics in NUMERICS
    ],
    *[
        case(
            f"to_int32_{name}",
            DepthwiseConv,
            f"{x}[N,6,5,9]{quant}",
            f"const {w}",
            *more,
            y="i32",
            **sliding(2, padding=1),
        )
        for name, x, quant, w, more in (
            ("known_zero_point", "i8", "*0.02+5", "i8[3,3,9]*0.0031+0", ()),
            ("plain", "u8", "", "i8[3,3,9]", ()),
            ("bias", "u8", "*0.02+99", "u8[3,3,9]*0.01+7", ("const i32[9] in -9000..9000",)),
            ("run_time", "u8", "", "i8[3,3,9]*0.0031..0.011/2", ("", "u8[]")),
            ("run_time_i8", "i8", "", "i8[3,3,9]*0.0031..0.011/2~30", ("", "i8[1]")),
            ("run_time_u8_u8", "u8", "", "u8[3,3,18]*0.01+131", ("", "u8[1]")),
        )
    ],
    *[
        case(f"float_{name}", DepthwiseConv, f"f32[N,{x}]", f"const f32[{w}]", *bias, **fields)
        for name, x, w, bias, fields in (
            ("kernel_3", "5,5,7", "3,3,7", ("const f32[7]",), sliding(2, padding=1)),
            ("no_bias", "5,5,7", "3,3,14", (), sliding(2, stride=2, dilation=2, padding=2)),
            ("one_axis", "9,4", "3,4", ("const f32[4]",), sliding(1)),
        )
    ],
    *[
        case(
            name,
            DepthwiseConv,
            f"{dtype}[N,{x}]*0.0217{zero}",
            f"const i8[{w}]*0.004..0.009/2",
            f"const i32[{w.split(',')[-1]}] in -9000..9000",
            y=f"{dtype}*0.05{zero}",
            clamp=clamp,
            numerics=numerics,
            bench=True,
            **sliding(2, stride=stride, padding=1),
        )
        for name, dtype, zero, x, w, stride, clamp, numerics in (
            (
                "mobilenetv2_first",
                "i8",
                "-128",
                "112,112,32",
                "3,3,32",
                1,
                (-128, 50),
                "integer",
            ),
            (
                "mobilenetv2_stride_2",
                "i8",
                "-128",
                "56,56,144",
                "3,3,144",
                2,
                (-128, 50),
                "integer",
            ),
            ("mobilenetv2_middle", "i8", "-128", "14,14,384", "3,3,384", 1, None, "integer"),
            ("mobilenetv2_middle_ort", "u8", "+0", "14,14,384", "3,3,384", 1, None, "ort"),
            ("mobilenetv2_last", "i8", "-128", "7,7,960", "3,3,960", 1, None, "integer"),
            ("ds_cnn", "i8", "-128", "25,5,64", "3,3,64", 1, None, "integer"),
        )
    ],
    *[
        case(
            f"{numerics}",
            DepthwiseConv,
            "u8[N,6,5,8]*0.0217+131",
            "const i8[3,3,8]*0.004..0.009/2",
            f"const {bias}[8]",
            y="u8*0.31+117",
            stride=(1, 1),
            dilation=(1, 1),
            padding=((1, 1), (1, 1)),
            numerics=numerics,
        )
        for numerics, bias in (
            ("fbgemm", "f32"),
            ("fbgemm-saturating", "f32"),
            ("onednn", "f32"),
            ("onednn-general", "f32"),
            ("pt2e", "f32"),
            ("qnnpack", "i32"),
        )
    ],
    # Sums of two products leave int16 at both ends.
    *[
        case(
            f"saturating_{name}",
            DepthwiseConv,
            f"u8[N,{x}]*0.0217{zero} in 150..255",
            f"const i8[{w}]*0.004..0.009/{len(w.split(',')) - 1}~{spread} ends",
            *bias,
            y="u8*1.3+117",
            clamp=clamp,
            numerics="fbgemm-saturating",
            **fields,
        )
        for name, x, zero, w, spread, bias, clamp, fields in (
            ("3x3", "6,5,8", "+131", "3,3,8", 0, ("const f32[8]",), None, sliding(2, padding=1)),
            ("5x5", "7,6,8", "+255", "5,5,8", 9, (), None, sliding(2, stride=2, padding=2)),
            ("twice", "6,5,8", "+0", "3,3,16", 0, ("const f32[16]",), None, sliding(2, padding=1)),
            ("3x3x3", "4,5,3,8", "+7", "3,3,3,8", 0, (), (117, 255), sliding(3, padding=1)),
            ("even", "9,3", "+200", "4,3", 5, (), None, sliding(1, padding=1, dilation=2)),
            ("one_tap", "4,4,3", "+9", "1,1,3", 0, (), None, sliding(2)),
        )
    ],
    *ends_of_products(DepthwiseConv, "6,5,8", "3,3,8", axis=2, **sliding(2, padding=1)),
]
