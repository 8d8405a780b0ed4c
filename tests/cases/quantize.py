"""Cases of quantize."""

from nprt.ops.quantize import Quantize

from .case import case

CASES = [
    *[
        case(f"{y}_{name}", Quantize, f"f32[N,{x}", y=f"{y}*{scale}{zero:+d}")
        for y, zero in (("i8", 3), ("u8", 131))
        for name, x, scale in (
            ("usual", "7,33]", 0.0217),
            ("beyond_the_ends", "7,33]", 0.0021),
            ("wild", "7,33] wild", 0.0217),
            ("ties", "7,65] step 0.25", 0.5),
            ("near_ties", "7,65] step 0.01085", 0.0217),
            ("near_ties_third", "7,65] step 0.05", 0.1),
            ("large_scale", "7,33] wild", 1e30),
            ("tiny_scale", "7,33] wild", 1e-38),
        )
    ],
    *[
        case(f"zero_point_{zero}", Quantize, "f32[N,33] step 0.05", y=f"{y}*0.1{zero}")
        for y, zero in (("i8", "-128"), ("i8", "+127"), ("u8", "+0"), ("u8", "+255"))
    ],
    *[case(f"size_{n}", Quantize, f"f32[N,{n}]", y="i8*0.02-5") for n in (0, 1, 3, 7, 15, 17, 65)],
    case("one_element", Quantize, "f32[]", y="i8*0.02-5"),
    case("fixed_batch", Quantize, "f32[2,3]", y="i8*0.02-5"),
    case("free_length", Quantize, "f32[N,T]", y="i8*0.02-5"),
    case("image", Quantize, "f32[N,3,224,224]", y="i8*0.0217-5", bench=True),
    *[
        case(
            f"{numerics}_{y}_{name}",
            Quantize,
            f"f32[N,{x}",
            y=f"{y}*{scale}{zero:+d}",
            numerics=numerics,
        )
        for numerics in ("torch", "pt2e")
        for y, zero in (("i8", 3), ("u8", 131))
        for name, x, scale in (
            ("usual", "7,33]", 0.0217),
            ("wild", "7,33] wild", 0.0217),
            ("ties", "7,65] step 0.25", 0.5),
            ("near_ties", "7,65] step 0.01085", 0.0217),
        )
    ],
]
