"""Cases of adaptive_average_pool."""

from nprt.ops.adaptive_average_pool import AdaptiveAveragePool

from .case import case

SIZES = (
    ("overlapping", "7,5,9", "4,3,9"),
    ("whole", "7,6,17", "1,1,17"),
    ("larger", "3,2,8", "7,5,8"),
    ("equal", "8,6,15", "4,3,15"),
    ("one_axis", "11,7", "4,7"),
    ("three_axes", "4,5,3,31", "3,2,2,31"),
    ("one_channel", "7,5,1", "4,3,1"),
)

CASES = [
    *[
        case(
            f"{name}_{kind}_{numerics}",
            AdaptiveAveragePool,
            f"{kind}[N,{x}]{quant}",
            y=f"{kind}[N,{y}]{quant}",
            numerics=numerics,
        )
        for numerics in ("integer", "torch-nchw", "torch-nhwc")
        for kind, quant in (("i8", "*0.0217+3"), ("u8", "*0.0217+131"))
        for name, x, y in SIZES
    ],
    *[
        case(f"{name}_{numerics}", AdaptiveAveragePool, x, y=y, numerics=numerics)
        for numerics in ("integer", "torch-nchw", "torch-nhwc")
        for name, x, y in (
            ("ties", "i8[N,4,4,17]*0.5+1 in -9..9", "i8[N,2,2,17]*0.5+1"),
            ("ends", "u8[N,5,4,9]*0.0217+0 ends", "u8[N,3,3,9]*0.0217+0"),
            ("fixed_batch", "i8[2,5,4,9]*0.0217+3", "i8[2,3,3,9]*0.0217+3"),
            ("long", "u8[N,300,40,8]*0.0217+7", "u8[N,7,3,8]*0.0217+7"),
        )
    ],
    *[
        case(f"{name}_rescaled", AdaptiveAveragePool, x, y=y)
        for name, x, y in (
            ("i8", "i8[N,7,5,9]*0.0217+3", "i8[N,4,3,9]*0.0171-11"),
            ("u8_to_i8", "u8[N,7,5,9]*0.0217+131", "i8[N,4,3,9]*0.03-11"),
            ("large_result", "i8[N,7,5,9]*0.0217+3", "i8[N,4,3,9]*0.00031+3"),
            ("tiny_result", "i8[N,7,5,9]*1e-10+3", "i8[N,4,3,9]*1.1+3"),
        )
    ],
    *[
        case(f"{name}_float", AdaptiveAveragePool, f"f32[N,{x}]", y=f"f32[N,{y}]")
        for name, x, y in SIZES
    ],
    case(
        "vgg",
        AdaptiveAveragePool,
        "i8[N,9,9,512]*0.0217+3",
        y="i8[N,7,7,512]*0.0217+3",
        bench=True,
    ),
]
