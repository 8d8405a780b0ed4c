"""Cases of max_pool."""

from nprt.ops.max_pool import MaxPool

from .case import case, sliding

CASES = [
    *[
        case(f"{name}_{dtype}", MaxPool, f"{dtype}[N,{x}]{quant}", **fields)
        for dtype, quant in (("i8", "*0.0217+3"), ("u8", "*0.0217+131"), ("f32", ""))
        for name, x, fields in (
            ("kernel_2", "6,8,7", sliding(2, kernel=2, stride=2)),
            ("kernel_3_stride_2", "9,9,17", sliding(2, kernel=3, stride=2, padding=1)),
            ("kernel_3_stride_1", "5,5,33", sliding(2, kernel=3, padding=1)),
            ("kernel_2x3", "5,7,3", sliding(2, kernel=(2, 3), stride=(1, 2))),
            ("kernel_1", "5,5,3", sliding(2, kernel=1, stride=2)),
            ("dilation", "9,9,5", sliding(2, kernel=3, dilation=(2, 3), padding=2)),
            ("one_side", "6,6,5", sliding(2, kernel=3, padding=((2, 0), (0, 1)))),
            ("ceil", "6,7,5", sliding(2, kernel=3, stride=2, ceil_mode=True)),
            ("ceil_padded", "6,6,5", sliding(2, kernel=3, stride=2, padding=1, ceil_mode=True)),
            ("covers_input", "4,6,65", sliding(2, kernel=(4, 6))),
            ("one_axis", "9,15", sliding(1, kernel=3, stride=2, padding=1)),
            ("three_axes", "4,5,3,1", sliding(3, kernel=2, stride=(2, 1, 1))),
        )
    ],
    case(
        "least_codes",
        MaxPool,
        "i8[N,5,5,3]*0.02+3 in -128..-127",
        **sliding(2, kernel=2, padding=1),
    ),
    case(
        "least_codes_u8", MaxPool, "u8[N,5,5,3]*0.02+3 in 0..1", **sliding(2, kernel=2, padding=1)
    ),
    case("fixed_batch", MaxPool, "i8[2,5,5,3]*0.02+3", **sliding(2, kernel=2)),
    case(
        "resnet_stem",
        MaxPool,
        "i8[N,112,112,64]*0.0217-128",
        bench=True,
        **sliding(2, kernel=3, stride=2, padding=1),
    ),
]
