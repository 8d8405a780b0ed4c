"""Cases of global_average_pool."""

from nprt.ops.global_average_pool import GlobalAveragePool

from .case import case

CASES = [
    *[
        case(f"{name}_{numerics}", GlobalAveragePool, x, y=y, numerics=numerics)
        for numerics in ("integer", "ort")
        for name, x, y in (
            *[
                (f"channels_{c}", f"i8[N,5,3,{c}]*0.0217+3", "i8*0.0057-7")
                for c in (1, 3, 7, 15, 17, 33, 65)
            ],
            ("u8", "u8[N,7,7,9]*0.0217+131", "u8*0.0057+117"),
            ("i8_to_u8", "i8[N,7,7,9]*0.0217+3", "u8*0.0057+117"),
            ("u8_to_i8", "u8[N,7,7,9]*0.0217+131", "i8*0.0057-7"),
            ("alike", "i8[N,7,7,9]*0.0217+3", "i8*0.0217+3"),
            ("one_position", "i8[N,1,1,9]*0.0217+3", "i8*0.0217+3"),
            ("one_axis", "i8[N,9,5]*0.0217+3", "i8*0.0057-7"),
            ("three_axes", "i8[N,3,2,4,5]*0.0217+3", "i8*0.0057-7"),
            ("ties", "i8[N,2,2,33]*0.5+1 in -9..9", "i8*0.5+1"),
            ("ties_odd", "i8[N,2,2,33]*0.5+1 in -9..9", "i8*0.25-2"),
            ("ends", "i8[N,4,4,9]*0.0217-128 ends", "i8*0.0217-128"),
            # 65793 * 255 > 2**24: the sum is not exact in float32.
            ("long_sum", "u8[N,65793,1]*0.0217+0 in 254..255", "u8*0.0217+0"),
            ("large_result", "i8[N,4,4,9]*0.0217+3", "i8*0.00031+3"),
            ("tiny_result", "i8[N,4,4,9]*1e-10+3", "i8*1.1+3"),
            ("fixed_batch", "i8[2,4,4,9]*0.0217+3", "i8*0.0057-7"),
        )
    ],
    case("float", GlobalAveragePool, "f32[N,5,3,17]"),
    case("float_one_axis", GlobalAveragePool, "f32[N,9,5]"),
    *[
        case(
            f"resnet18_{numerics}",
            GlobalAveragePool,
            "i8[N,7,7,512]*0.0217-128",
            y="i8*0.0317-128",
            numerics=numerics,
            bench=True,
        )
        for numerics in ("integer", "ort")
    ],
]
