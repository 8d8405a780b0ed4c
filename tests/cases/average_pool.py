"""Cases of average_pool."""

from nprt.ops.average_pool import AveragePool

from .case import case, sliding

GEOMETRY = (
    ("kernel_2", "6,8,7", sliding(2, kernel=2, stride=2)),
    ("kernel_3_stride_2", "9,9,17", sliding(2, kernel=3, stride=2, padding=1)),
    (
        "kernel_3_with_padding",
        "9,9,17",
        sliding(2, kernel=3, stride=2, padding=1, include_padding=True),
    ),
    ("kernel_3_stride_1", "5,5,33", sliding(2, kernel=3, padding=1)),
    ("kernel_2x3", "5,7,3", sliding(2, kernel=(2, 3), stride=(1, 2))),
    ("kernel_1", "5,5,3", sliding(2, kernel=1, stride=2)),
    ("dilation", "9,9,5", sliding(2, kernel=3, dilation=(2, 3), padding=2)),
    (
        "dilation_with_padding",
        "9,9,5",
        sliding(2, kernel=3, dilation=(2, 3), padding=2, include_padding=True),
    ),
    ("one_side", "6,6,5", sliding(2, kernel=3, padding=((2, 0), (0, 1)))),
    ("ceil", "6,7,5", sliding(2, kernel=3, stride=2, ceil_mode=True)),
    ("ceil_padded", "6,6,5", sliding(2, kernel=3, stride=2, padding=1, ceil_mode=True)),
    (
        "ceil_with_padding",
        "6,6,5",
        sliding(2, kernel=3, stride=2, padding=1, ceil_mode=True, include_padding=True),
    ),
    ("covers_input", "4,6,65", sliding(2, kernel=(4, 6))),
    ("one_axis", "9,15", sliding(1, kernel=3, stride=2, padding=1)),
    ("three_axes", "4,5,3,1", sliding(3, kernel=2, stride=(2, 1, 1))),
)

CASES = [
    *[
        case(
            f"{name}_{kind}_{numerics}",
            AveragePool,
            f"{x_type}[N,{x}]{quant}",
            y=y,
            numerics=numerics,
            **fields,
        )
        for kind, x_type, quant, y in (
            ("i8", "i8", "*0.0217+3", "i8*0.0217+3"),
            ("u8_rescaled", "u8", "*0.0217+131", "u8*0.0171+117"),
        )
        for numerics in ("integer", "ort")
        for name, x, fields in GEOMETRY
    ],
    *[case(f"{name}_float", AveragePool, f"f32[N,{x}]", **fields) for name, x, fields in GEOMETRY],
    *[
        case(
            f"{name}_{numerics}",
            AveragePool,
            f"{x}",
            y=y,
            numerics=numerics,
            **sliding(2, kernel=2, padding=1),
        )
        for numerics in ("integer", "ort")
        for name, x, y in (
            ("i8_to_u8", "i8[N,4,4,7]*0.0217+3", "u8*0.0217+131"),
            ("u8_to_i8", "u8[N,4,4,7]*0.0217+131", "i8*0.03-11"),
            ("ties", "i8[N,4,4,9]*0.5+1 in -9..9", "i8*0.5+1"),
            ("ties_rescaled", "i8[N,4,4,9]*0.5+1 in -9..9", "i8*0.25-2"),
            ("ends", "u8[N,4,4,9]*0.0217+0 ends", "u8*0.0217+0"),
            ("zero_point_least", "i8[N,4,4,9]*0.0217-128", "i8*0.0217-128"),
            ("large_result", "i8[N,4,4,9]*0.0217+3", "i8*0.00031+3"),
            ("tiny_result", "i8[N,4,4,9]*1e-10+3", "i8*1.1+3"),
            ("fixed_batch", "i8[2,4,4,9]*0.0217+3", "i8*0.0217+3"),
        )
    ],
    *[
        case(
            f"{name}_{kind}_{numerics}",
            AveragePool,
            f"{kind}[N,{x}]{quant}",
            y=f"{kind}{quant}",
            numerics=numerics,
            **fields,
        )
        for kind, quant in (("i8", "*0.0217+3"), ("u8", "*0.0217+131"))
        for numerics in ("torch-nchw", "torch-nhwc", "qnnpack")
        for name, x, fields in GEOMETRY
    ],
    *[
        case(
            f"{name}_{numerics}",
            AveragePool,
            x,
            y=y,
            numerics=numerics,
            **sliding(2, kernel=2, padding=1),
        )
        for numerics in ("torch-nchw", "torch-nhwc", "qnnpack")
        for name, x, y in (
            ("ties", "i8[N,4,4,17]*0.5+1 in -9..9", "i8*0.5+1"),
            ("ends", "u8[N,4,4,9]*0.0217+0 ends", "u8*0.0217+0"),
            ("fixed_batch", "i8[2,4,4,9]*0.0217+3", "i8*0.0217+3"),
        )
    ],
    *[
        case(
            f"divisor_{divisor}_{name}_{numerics}",
            AveragePool,
            x,
            y=y,
            numerics=numerics,
            divisor=divisor,
            **sliding(2, kernel=3, padding=1),
        )
        for divisor in (1, 5, 100)
        for name, x, y, numerics in (
            ("i8", "i8[N,5,5,17]*0.0217+3", "i8*0.0217+3", "integer"),
            ("rescaled", "u8[N,5,5,17]*0.0217+131", "u8*0.0171+117", "integer"),
            ("i8", "i8[N,5,5,17]*0.0217+3", "i8*0.0217+3", "torch-nchw"),
            ("u8", "u8[N,5,5,17]*0.0217+131", "u8*0.0217+131", "torch-nhwc"),
            ("float", "f32[N,5,5,17]", "", "integer"),
        )
    ],
    *[
        case(
            f"clamp_{low}_to_{high}_{numerics}",
            AveragePool,
            "i8[N,4,4,7]*0.0217+3",
            y="i8*0.0217+3",
            clamp=(low, high),
            numerics=numerics,
            **sliding(2, kernel=2),
        )
        for low, high in ((3, 127), (-11, 35), (4, 4))
        for numerics in ("integer", "ort", "torch-nhwc")
    ],
    case(
        "inception",
        AveragePool,
        "i8[N,28,28,192]*0.0217+3",
        bench=True,
        **sliding(2, kernel=3, padding=1),
    ),
]
