"""Cases of mul."""

from nprt.ops.mul import Mul

from .case import case

NUMERICS = ("integer", "ort", "onnx")

ALL_CODES = range(-128, 128)

CASES = [
    *[
        case(
            f"{a}_and_{b}_to_{y}_{numerics}",
            Mul,
            f"{a}[N,9,7]*0.0217+{za}",
            f"{b}[N,9,7]*0.0131+{zb}",
            y=f"{y}*0.0173+{zy}",
            numerics=numerics,
        )
        for a, za, b, zb, y, zy in (
            ("i8", 3, "i8", 11, "i8", 7),
            ("u8", 131, "u8", 0, "u8", 118),
            ("i8", 127, "u8", 255, "i8", 0),
            ("u8", 0, "i8", 0, "u8", 255),
        )
        for numerics in NUMERICS
    ],
    # Sizes around a vector's length.
    *[
        case(
            f"size_{size}_{numerics}",
            Mul,
            f"i8[N,{size}]*0.0217+3",
            f"i8[N,{size}]*0.0131-11",
            y="i8*0.0173+7",
            numerics=numerics,
        )
        for size in (1, 3, 15, 17, 33, 65)
        for numerics in NUMERICS
    ],
    # Every code against every other.
    *[
        case(
            f"all_codes_{numerics}",
            Mul,
            ("const i8[256,1]*0.0217+3", ALL_CODES),
            ("i8[1,256]*0.0131-11", ALL_CODES),
            y="i8*0.0173+7",
            numerics=numerics,
        )
        for numerics in NUMERICS
    ],
    # Broadcasting.
    *[
        case(f"shapes_{name}", Mul, f"i8{a}*0.0217+3", f"i8{b}*0.0131-11", y="i8*0.0173+7")
        for name, a, b in (
            ("per_channel", "[N,4,4,7]", "[7]"),
            ("per_image", "[N,4,4,7]", "[N,1,1,7]"),
            ("per_position", "[N,4,5,7]", "[4,5,1]"),
            ("left", "[7]", "[N,4,4,7]"),
            ("one_element", "[N,4,7]", "[]"),
            ("one_element_left", "[]", "[N,4,7]"),
            ("both", "[N,1,7]", "[5,1]"),
            ("scalars", "[]", "[]"),
            ("fixed_batch", "[2,5]", "[2,5]"),
            ("six_axes", "[N,2,1,3,1,2]", "[2,3,1,2,2]"),
            ("free_length", "[N,T,3]", "[T,1]"),
            ("empty", "[N,0,3]", "[3]"),
        )
    ],
    *[
        case(f"constant_{name}_{numerics}", Mul, a, b, y="u8*0.0173+112", numerics=numerics)
        for name, a, b in (
            ("right", "u8[N,4,7]*0.0217+3", "const u8[7]*0.0131+140"),
            ("left", "const i8[]*0.0217-3 in 55..55", "u8[N,4,7]*0.0131+140"),
        )
        for numerics in NUMERICS
    ],
    *[
        case(
            f"clamp_{low}_to_{high}_{numerics}",
            Mul,
            "i8[N,6,8]*0.0217+3",
            "i8[N,6,8]*0.0131+9",
            y="i8*0.0173-11",
            clamp=(low, high),
            numerics=numerics,
        )
        for low, high in ((-11, 127), (-11, 55), (4, 4))
        for numerics in NUMERICS
    ],
    # Ties, and scales that differ by much.
    *[
        case(
            f"scales_{name}_{numerics}",
            Mul,
            f"i8[N,9,9]*{a}+1 in -40..40",
            f"i8[N,9,9]*{b}-2 in -40..40",
            y=f"i8*{y}{zero:+d}",
            numerics=numerics,
        )
        for name, a, b, y, zero in (
            ("ties", 0.5, 0.5, 1, 0),
            ("ties_odd", 0.5, 0.25, 1, 3),
            ("ties_eighth", 0.5, 0.25, 4, -6),
            ("alike", 0.0217, 0.0217, 0.0217, 1),
            ("far_apart", 3.1, 0.00077, 1.7, 1),
            ("far_apart_right", 0.00077, 3.1, 1.7, 1),
            ("large_result", 0.0217, 0.0131, 0.00031, 1),
            ("tiny_result", 1.1e-5, 1.2e-5, 1.3, 5),
        )
        for numerics in NUMERICS
    ],
    case("float", Mul, "f32[N,3,7] wild", "f32[N,3,7] wild"),
    case("float_per_channel", Mul, "f32[N,3,7]", "const f32[7]"),
    case("int32", Mul, "i32[N,33,9]", "i32[9]"),
    case("int64", Mul, "i64[N,33,9]", "i64[N,33,1]"),
    case("int32_small", Mul, "i32[N,9,9] in -9..9", "i32[N,9,9] in -3..3"),
    case(
        "resnet18_stage1",
        Mul,
        "i8[N,56,56,64]*0.0217+3",
        "i8[N,56,56,64]*0.0131-11",
        y="i8*0.0173-128",
        clamp=(-128, 127),
        bench=True,
    ),
    *[
        case(
            f"{numerics}_{dtype}_{shape.count(',')}",
            Mul,
            f"{dtype}[N,{shape}]*0.0217{zero}",
            f"{dtype}[N,{other}]*0.0134{zero}",
            y=f"{dtype}*0.031{zero}",
            numerics=numerics,
        )
        for numerics in ("fbgemm", "pt2e")
        for dtype, zero in (("u8", "+117"), ("i8", "-7"))
        for shape, other in (("67", "67"), ("3,129,256", "3,129,256"))
    ],
    # Numbers before rounding that int32 does not hold, on both sides.
    *[
        case(
            f"far_{numerics}",
            Mul,
            "u8[N,9,7]*0.0217+131",
            "u8[N,9,7]*0.0134+117",
            y="u8*1e-9+118",
            numerics=numerics,
        )
        for numerics in ("ort", "onnx", "pt2e", "fbgemm")
    ],
]
