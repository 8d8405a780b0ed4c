"""Cases of linear."""

from nprt.ops.linear import Linear

from .case import case, ends_of_products

NUMERICS = ("integer", "ort")

CASES = [
    # Each size of a vector's tail as features in and out, and long sums.
    *[
        case(
            f"features_{i}_to_{o}_{numerics}",
            Linear,
            f"i8[N,{i}]*0.0217+3",
            f"const i8[{o},{i}]*0.004..0.009/0",
            f"const i32[{o}] in -9000..9000",
            y=f"i8*{0.02 * i**0.5:.4g}-7",
            numerics=numerics,
        )
        for i, o in (
            *((1, 3), (3, 7), (7, 15), (15, 17), (17, 33), (33, 65), (65, 1)),
            *((16, 16), (63, 48), (256, 5), (257, 5), (300, 10), (1000, 17)),
        )
        for numerics in NUMERICS
    ],
    *[
        case(
            f"{x}_by_{w}_spread_{spread}_to_{y}_{numerics}",
            Linear,
            f"{x}[N,37]*0.0217+{zx}",
            f"const {w}[11,37]*0.0031..0.011/0~{spread}",
            "const i32[11] in -20000..20000",
            y=f"{y}*0.09+{zy}",
            numerics=numerics,
        )
        for x, zx, y, zy in (("i8", 17, "i8", 9), ("u8", 141, "u8", 118), ("u8", 0, "i8", 3))
        for w, spread in (("i8", 0), ("i8", 40), ("u8", 9))
        for numerics in NUMERICS
    ],
    case(
        "per_tensor_weights_with_zero_point",
        Linear,
        "i8[N,20]*0.0217-128",
        "const i8[7,20]*0.0057+21",
        y="i8*0.09-128",
    ),
    case("no_bias", Linear, "i8[N,20]*0.02+127", "const i8[7,20]*0.005+0", y="i8*0.09+127"),
    case("bias_left_open", Linear, "i8[N,20]*0.02+7", "const i8[7,20]*0.005+0", "", y="i8*0.09+7"),
    case("fixed_batch", Linear, "u8[2,20]*0.02+0", "const i8[7,20]*0.005+0", y="u8*0.09+0"),
    case("one_vector", Linear, "u8[20]*0.02+0", "const i8[7,20]*0.005+0", y="u8*0.09+0"),
    case("three_axes", Linear, "i8[N,5,20]*0.02+9", "const i8[7,20]*0.005+0", y="i8*0.09+4"),
    case("five_axes", Linear, "i8[N,2,3,2,20]*0.02+9", "const i8[7,20]*0.005+0", y="i8*0.09+4"),
    case(
        "sequence_of_free_length",
        Linear,
        "i8[N,T,20]*0.02+9",
        "const i8[7,20]*0.005+0",
        "const i32[7] in -9000..9000",
        y="i8*0.09+4",
    ),
    case("no_outputs", Linear, "i8[N,5]*0.02+9", "const i8[0,5]*0.005+0", y="i8*0.1+4"),
    case(
        "no_features",
        Linear,
        "i8[N,0]*0.02+9",
        "const i8[7,0]*0.005+0",
        "const i32[7] in -90..90",
        y="i8*0.0021+4",
    ),
    *[
        case(
            f"clamp_{low}_to_{high}_{numerics}",
            Linear,
            "i8[N,50]*0.0217+3",
            "const i8[12,50]*0.004..0.009/0",
            "const i32[12] in -9000..9000",
            y="i8*0.09-11",
            clamp=(low, high),
            numerics=numerics,
        )
        for low, high in ((-11, 127), (-11, 55), (-128, 127), (-128, -128), (4, 4))
        for numerics in NUMERICS
    ],
    # 65793 * 255 * 128 + 127 = 2**31 - 1, the largest sum that int32 holds.
    *[
        case(
            f"sum_at_the_bound_{name}",
            Linear,
            "i8[N,65793]*0.0217-128 ends",
            "const i8[3,65793]*0.0041+0 ends",
            "const i32[3] in -127..-127",
            y=y,
            numerics=numerics,
        )
        for name, y, numerics in (
            ("int32", "i32", "integer"),
            ("i8_integer", "i8*1499.7+3", "integer"),
            ("i8_ort", "i8*1499.7+3", "ort"),
            ("saturated", "u8*0.0001+3", "integer"),
        )
    ],
    # 33025 * 255 * 255 < 2**31: uint8 by uint8, both zero points at an end.
    case(
        "sum_at_the_bound_u8_u8",
        Linear,
        "u8[N,33025] ends",
        "const u8[2,33025]*0.0041+0 ends",
        "",
        "u8[] in 0..0",
        y="i32",
    ),
    case(
        "pairs_beyond_int16",
        Linear,
        "u8[N,64]*0.0217+0 in 200..255",
        "const i8[8,64]*0.0041+0 in 100..127",
        y="u8*0.71+0",
    ),
    *[
        case(
            f"ties_{name}_{numerics}",
            Linear,
            "i8[N,11]*0.5+1 in -9..9",
            "const i8[70,11]*0.25+0 in -5..5",
            "const i32[70] in -40..40",
            y=f"i8*{scale}{zero:+d}",
            numerics=numerics,
        )
        for name, scale, zero in (("half", 0.25, 0), ("half_odd", 0.25, 3), ("eighth", 1, -6))
        for numerics in NUMERICS
    ],
    *[
        case(
            f"multiplier_{name}_{numerics}",
            Linear,
            f"i8[N,5]*{x}+2 in -12..12",
            f"const i8[33,5]*{w}+0 in -3..3",
            f"const i32[33] in -{bias}..{bias}",
            y=f"i8*{y}-5",
            numerics=numerics,
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
    *[
        case(f"to_int32_{name}", Linear, f"{x}[N,37]{quant}", f"const {w}", *more, y="i32")
        for name, x, quant, w, more in (
            ("known_zero_point", "i8", "*0.02+5", "i8[10,37]*0.0031+0", ()),
            ("plain", "u8", "", "i8[10,37]", ()),
            ("bias", "u8", "*0.02+99", "u8[10,37]*0.01+7", ("const i32[10] in -9000..9000",)),
            ("run_time", "u8", "", "i8[10,37]*0.0031..0.011/0", ("", "u8[]")),
            ("run_time_i8", "i8", "", "i8[10,37]*0.0031..0.011/0~30", ("", "i8[1]")),
            ("run_time_u8_u8", "u8", "", "u8[10,37]*0.01+131", ("", "u8[1]")),
            ("run_time_bias", "u8", "", "i8[10,37]*0.01+0", ("const i32[10] in -900..900", "u8[]")),
            ("constant_zero_point", "u8", "", "i8[10,37]*0.01+0", ("", "const u8[] in 77..77")),
        )
    ],
    case("float", Linear, "f32[N,37]", "const f32[11,37]", "const f32[11]"),
    case("float_no_bias", Linear, "f32[N,3,300]", "const f32[7,300]"),
    *[
        case(
            name,
            Linear,
            f"{dtype}[N,{x}]*0.0217+3",
            f"const i8[{o},{i}]*0.004..0.009/0",
            f"const i32[{o}] in -9000..9000",
            y=f"{dtype}*{0.02 * i**0.5:.4g}+5",
            clamp=(5, 127) if relu else None,
            numerics=numerics,
            bench=True,
        )
        for name, dtype, x, i, o, relu, numerics in (
            ("mlp_1", "i8", "784", 784, 128, True, "integer"),
            ("mlp_2", "i8", "128", 128, 64, True, "integer"),
            ("mlp_3", "i8", "64", 64, 10, False, "integer"),
            ("autoencoder_in", "i8", "640", 640, 128, True, "integer"),
            ("autoencoder_middle", "i8", "128", 128, 8, True, "integer"),
            ("autoencoder_out", "i8", "128", 128, 640, False, "integer"),
            ("resnet18_head", "i8", "512", 512, 1000, False, "integer"),
            ("resnet50_head_ort", "u8", "2048", 2048, 1000, False, "ort"),
            ("transformer_up", "i8", "32,384", 384, 1536, False, "integer"),
            ("transformer_down", "i8", "32,1536", 1536, 384, False, "integer"),
        )
    ],
    *[
        case(
            f"{numerics}_{bias or 'no_bias'}_{'per_channel' if '..' in w else 'per_tensor'}",
            Linear,
            "u8[N,33]*0.0217+131",
            f"const i8[7,33]{w}",
            *((f"const {bias}[7]",) if bias else ()),
            y="u8*0.31+117",
            numerics=numerics,
        )
        for numerics, bias in (
            ("fbgemm", "f32"),
            ("onednn", "f32"),
            ("onednn-general", "f32"),
            ("pt2e", "f32"),
            ("qnnpack", "i32"),
            ("fbgemm", ""),
            ("onednn", ""),
            ("pt2e", ""),
            ("qnnpack", ""),
        )
        for w in ("*0.004..0.009/0", "*0.0073+0")
    ],
    *ends_of_products(Linear, "9", "7,9"),
    # Tiles that overlap, where the CPU level has them.
    *ends_of_products(Linear, "17,64", "64,64"),
    case(
        "overlapping_to_int32", Linear, "u8[N,17,64]*0.0217+117", "const i8[64,64]*0.01+0", y="i32"
    ),
]
