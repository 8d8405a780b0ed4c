"""Cases of matmul."""

from nprt.ops.matmul import Matmul

from .case import case

NUMERICS = ("integer", "ort")

CASES = [
    *[
        case(
            f"{m}_by_{k}_by_{n}_{numerics}",
            Matmul,
            f"i8[N,{m},{k}]*0.0217+3",
            f"i8[N,{k},{n}]*0.0071-9",
            y=f"i8*{0.027 * k**0.5:.4g}-7",
            numerics=numerics,
        )
        for m, k, n in (
            *((1, 1, 1), (1, 3, 7), (3, 7, 15), (7, 15, 17), (15, 17, 33), (17, 33, 65)),
            *((33, 65, 1), (16, 16, 16), (5, 257, 3), (4, 300, 5), (3, 1000, 2)),
            *((2, 2, 5), (7, 18, 33)),  # two terms beyond fours
        )
        for numerics in NUMERICS
    ],
    *[
        case(
            f"{x}_by_{w}_zero_{zw}_to_{y}_{numerics}",
            Matmul,
            f"{x}[N,5,37]*0.0217+{zx}",
            f"{w}[N,37,11]*0.0071+{zw}",
            y=f"{y}*0.11+{zy}",
            numerics=numerics,
        )
        for x, zx in (("i8", 17), ("u8", 141))
        for w, zw in (("i8", 0), ("u8", 128), ("u8", 0))
        for y, zy in (("i8", 9), ("u8", 118))
        for numerics in NUMERICS
    ],
    # Leading axes.
    *[
        case(f"axes_{name}", Matmul, f"i8{x}*0.0217+3", f"i8{w}*0.0071-9", y="i8*0.09+4")
        for name, x, w in (
            ("two_fixed", "[5,20]", "[20,7]"),
            ("batch_in_rows", "[N,20]", "[20,7]"),
            ("two_and_three", "[5,20]", "[N,20,7]"),
            ("three_and_two", "[N,5,20]", "[20,7]"),
            ("repeated_left", "[1,5,20]", "[N,20,7]"),
            ("repeated_right", "[N,3,5,20]", "[N,1,20,7]"),
            ("heads", "[N,4,6,9]", "[N,4,9,6]"),
            ("free_length", "[N,T,9]", "[N,9,T]"),
            ("both_repeated", "[N,1,5,20]", "[1,3,20,7]"),
            ("six", "[N,2,1,2,3,8]", "[2,3,1,8,5]"),
        )
    ],
    case(
        "constant_right",
        Matmul,
        "i8[N,5,20]*0.0217+3",
        "const i8[20,7]*0.0071-9",
        y="i8*0.09+4",
    ),
    case(
        "constant_left",
        Matmul,
        "const i8[5,20]*0.0217+3",
        "u8[N,20,7]*0.0071+9",
        y="u8*0.09+104",
    ),
    *[
        case(
            f"clamp_{low}_to_{high}",
            Matmul,
            "i8[N,5,20]*0.0217+3",
            "i8[N,20,7]*0.0071-9",
            y="i8*0.09-11",
            clamp=(low, high),
            numerics=numerics,
        )
        for low, high, numerics in ((-11, 127, "integer"), (-11, 55, "ort"))
    ],
    # 33025 * 255 * 255 = 2147450625, just below 2**31.
    *[
        case(
            f"sum_at_the_bound_{name}",
            Matmul,
            "u8[N,2,33025]*0.0217+0 ends",
            "u8[33025,2]*0.0041+0 in 255..255",
            y=y,
            numerics=numerics,
        )
        for name, y, numerics in (
            ("int32", "i32", "integer"),
            ("integer", "u8*1000.7+3", "integer"),
            ("ort", "u8*1000.7+3", "ort"),
        )
    ],
    *[
        case(
            f"ties_{name}_{numerics}",
            Matmul,
            "i8[N,9,11]*0.5+1 in -9..9",
            "i8[N,11,9]*0.25+0 in -5..5",
            y=f"i8*{scale}{zero:+d}",
            numerics=numerics,
        )
        for name, scale, zero in (("half", 0.25, 0), ("half_odd", 0.25, 3), ("eighth", 1, -6))
        for numerics in NUMERICS
    ],
    case("to_int32", Matmul, "i8[N,5,37]*0.02+5", "u8[N,37,6]*0.0031+0", y="i32"),
    case("to_int32_plain", Matmul, "u8[N,5,37]", "i8[N,37,6]", y="i32"),
    case("to_int32_run_time_x", Matmul, "u8[N,5,37]", "i8[37,6]*0.01+3", "u8[]", y="i32"),
    case("to_int32_run_time_w", Matmul, "u8[N,5,37]*0.1+7", "i8[37,6]", "", "i8[1]", y="i32"),
    case("to_int32_run_time", Matmul, "u8[N,5,37]", "u8[N,37,6]", "u8[]", "u8[1]", y="i32"),
    case("to_int32_run_time_i8", Matmul, "i8[N,5,37]", "i8[N,37,6]", "i8[1]", "i8[]", y="i32"),
    case("no_columns", Matmul, "i8[N,5,7]*0.02+5", "i8[N,7,0]*0.0031+0", y="i8*0.1+9"),
    case("no_rows", Matmul, "i8[N,0,7]*0.02+5", "i8[N,7,6]*0.0031+0", y="i8*0.1+9"),
    case("no_terms", Matmul, "i8[N,5,0]*0.02+5", "i8[N,0,6]*0.0031+0", y="i8*0.1+9"),
    case("float", Matmul, "f32[N,5,37]", "f32[N,37,6]"),
    case("float_repeated", Matmul, "f32[N,4,5,37]", "f32[37,6]"),
    case(
        "attention_scores",
        Matmul,
        "i8[N,6,64,64]*0.0217+3",
        "i8[N,6,64,64]*0.0071-9",
        y="i8*0.2-7",
        bench=True,
    ),
    *[
        case(
            numerics,
            Matmul,
            "u8[N,3,17]*0.0217+131",
            "u8[N,17,5]*0.013+119",
            y="u8*0.031+117",
            numerics=numerics,
        )
        for numerics in ("fbgemm", "onednn", "qnnpack", "pt2e", "torch")
    ],
    # Numbers before rounding that int32 does not hold, on both sides.
    *[
        case(
            f"far_{numerics}",
            Matmul,
            "u8[N,3,17]*0.0217+131",
            "u8[N,17,5]*0.013+119",
            y="u8*1e-9+117",
            numerics=numerics,
        )
        for numerics in ("ort", "fbgemm", "onednn", "qnnpack", "pt2e")
    ],
]
