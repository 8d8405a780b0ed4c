"""Cases of dequantize."""

from nprt.ops.dequantize import Dequantize

from .case import case

CASES = [
    *[
        case(name, Dequantize, x)
        for name, x in (
            ("i8", "i8[N,7,33]*0.0217+3"),
            ("u8", "u8[N,7,33]*0.0217+131"),
            ("i16", "i16[N,7,33]*0.0217+0"),
            ("i16_zero_point", "i16[N,7,33]*0.0217-3000"),
            ("i32", "i32[N,7,33]*0.0217+0"),
            ("i32_small", "i32[N,7,33]*1.7e-05+0 in -70000..70000"),
            ("zero_point_least", "i8[N,33]*0.0217-128"),
            ("zero_point_greatest", "u8[N,33]*0.0217+255"),
            ("large_scale", "i8[N,33]*1e37+3"),
            ("tiny_scale", "i8[N,33]*1e-42+3"),
            ("per_channel", "i8[N,4,7]*0.0031..0.011/2~40"),
            ("per_channel_middle", "u8[N,7,4]*0.0031..0.011/1~40"),
            ("per_channel_i32", "i32[N,17]*0.0031..0.011/1"),
            ("constant_weights", "const i8[5,3,3,7]*0.0031..0.011/0"),
            ("one_element", "i8[]*0.0217+3"),
            ("fixed_batch", "i8[2,3]*0.0217+3"),
            ("free_length", "i8[N,T]*0.0217+3"),
            *[(f"size_{n}", f"i8[N,{n}]*0.0217+3") for n in (0, 1, 3, 7, 15, 17, 65)],
        )
    ],
    case("logits", Dequantize, "i8[N,1000]*0.0217+3", bench=True),
]
