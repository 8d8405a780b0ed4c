"""Cases of dynamic_quantize."""

from nprt.ops.dynamic_quantize import DynamicQuantize

from .case import case

CASES = [
    *[
        case(name, DynamicQuantize, x)
        for name, x in (
            ("usual", "f32[N,7,33]"),
            ("positive", "f32[N,33] in 0.3..7.1"),
            ("negative", "f32[N,33] in -7.1..-0.3"),
            ("zeros", "f32[N,33] in 0..0"),
            ("large", "f32[N,33] in -1e38..1.1e38"),
            ("tiny", "f32[N,33] in -1e-39..1e-40"),
            ("ties", "f32[N,99] step 0.5"),
            ("steps_of_one_code", "f32[256] in -128..127"),
            ("one_element", "f32[]"),
            ("fixed_batch", "f32[2,3]"),
            ("free_length", "f32[N,T]"),
            *[(f"size_{n}", f"f32[N,{n}]") for n in (0, 1, 3, 7, 15, 17, 65)],
        )
    ],
    *[
        case(f"torch_{name}", DynamicQuantize, x, y=y, numerics="torch", reduce_range=reduced)
        for name, x, y, reduced in (
            ("u8", "f32[N,33]", "u8", False),
            ("i8", "f32[N,33]", "i8", False),
            ("u8_reduced", "f32[N,33]", "u8", True),
            ("i8_reduced", "f32[N,33] in 0.3..7.1", "i8", True),
            ("zeros", "f32[N,33] in 0..0", "u8", False),
            ("tiny", "f32[N,33] in -2e-5..1e-4", "u8", False),
            ("ties", "f32[N,99] step 0.5", "i8", False),
            ("empty", "f32[N,0]", "u8", False),
        )
    ],
    case("transformer", DynamicQuantize, "f32[N,64,384]", bench=True),
]
