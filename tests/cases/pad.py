"""Cases of pad."""

from nprt.ops.pad import Pad

from .case import case

CASES = [
    *[
        case(f"{mode}_{name}", Pad, x, padding=padding, mode=mode)
        for mode in ("constant", "edge", "reflect")
        for name, x, padding in (
            ("image", "i8[N,4,5,3]*0.0217+3", ((0, 0), (1, 1), (2, 2), (0, 0))),
            ("one_side", "u8[N,4,5,3]*0.0217+3", ((0, 0), (0, 1), (3, 0), (0, 0))),
            ("channels", "i8[N,4,17]*0.0217+3", ((0, 0), (0, 0), (1, 16))),
            ("nothing", "i8[N,4,5]*0.0217+3", ((0, 0), (0, 0), (0, 0))),
            ("fixed_batch", "i8[2,5]*0.0217+3", ((1, 1), (2, 0))),
            ("free_length", "i8[N,T,5]*0.0217+3", ((0, 0), (0, 0), (2, 0))),
            ("plain_codes", "u8[N,5]", ((0, 0), (2, 1))),
            ("int16", "i16[N,5]", ((0, 0), (2, 1))),
            ("int32", "i32[N,5]*0.01+0", ((0, 0), (2, 1))),
            ("int64", "i64[N,5]", ((0, 0), (2, 1))),
            ("float", "f32[N,15] wild", ((0, 0), (2, 1))),
            ("bool", "bool[N,5]", ((0, 0), (2, 1))),
        )
    ],
    *[
        case(f"value_{name}", Pad, x, padding=((0, 0), (3, 2)), value=value)
        for name, x, value in (
            ("zero_point", "i8[N,5]*0.0217+3", 3.0),
            ("least", "i8[N,5]*0.0217+3", -128.0),
            ("greatest", "u8[N,5]*0.0217+3", 255.0),
            ("rounded", "f32[N,5]", 0.1),
            ("negative_zero", "f32[N,5]", -0.0),
            ("int64", "i64[N,5]", -(2.0**62)),
            ("true", "bool[N,5]", 1.0),
        )
    ],
    *[
        case(f"{mode}_beyond_size", Pad, "i8[N,2,3]*0.0217+3", padding=padding, mode=mode)
        for mode, padding in (
            ("constant", ((0, 0), (7, 5), (0, 9))),
            ("edge", ((0, 0), (7, 5), (0, 9))),
            ("reflect", ((0, 0), (1, 1), (2, 2))),
        )
    ],
    case("constant_empty", Pad, "i8[N,0]*0.0217+3", padding=((0, 0), (2, 1)), value=3.0),
    case("edge_one_element", Pad, "i8[N,1]*0.0217+3", padding=((0, 0), (2, 1)), mode="edge"),
]
