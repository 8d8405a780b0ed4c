"""Cases of resize."""

from nprt.ops.resize import COORDINATES, NEAREST, TORCH, Resize

from .case import case

SIZES = (
    ("double", "4,5,7", "8,10,7"),
    ("larger", "3,4,5", "7,9,5"),
    ("smaller", "9,8,17", "4,3,17"),
    ("one_axis", "5,3", "8,3"),
    ("to_one", "5,4,3", "1,1,3"),
)

CASES = [
    *[
        case(
            f"nearest_{coordinates}_{nearest}_{name}",
            Resize,
            f"i8[N,{x}]*0.0217+3",
            y=f"i8[N,{y}]",
            mode="nearest",
            coordinates=coordinates,
            nearest=nearest,
        )
        for coordinates in COORDINATES
        for nearest in NEAREST
        for name, x, y in SIZES
    ],
    *[
        case(
            f"linear_{coordinates}_{name}_{kind}_{numerics}",
            Resize,
            f"{kind}[N,{x}]{quant}",
            y=f"{kind}[N,{y}]",
            mode="linear",
            coordinates=coordinates,
            numerics=numerics,
        )
        for kind, quant, numerics in (
            ("i8", "*0.0217+3", "integer"),
            ("u8", "*0.0217+131", "integer"),
            ("i8", "*0.0217+3", "ort"),
            ("u8", "*0.0217+131", "ort"),
            ("f32", "", "integer"),
        )
        for coordinates in COORDINATES
        for name, x, y in SIZES
    ],
    *[
        case(
            f"linear_{coordinates}_{name}_{kind}_{numerics}",
            Resize,
            f"{kind}[N,{x}]{quant}",
            y=f"{kind}[N,{y}]",
            mode="linear",
            coordinates=coordinates,
            scales=scales,
            numerics=numerics,
        )
        for kind, quant in (("i8", "*0.0217+3"), ("u8", "*0.0217+131"))
        for numerics in ("torch-nchw", "torch-nhwc")
        for coordinates in TORCH
        for name, x, y, scales in (
            *[(*sizes, None) for sizes in SIZES if sizes[0] != "one_axis"],
            ("channels", "4,5,33", "7,9,33", None),
            ("scales", "4,5,9", "9,11,9", (2.3, 2.3)),
            ("same", "4,5,9", "4,5,9", (1.1, 1.1)),
        )
    ],
    *[
        case(f"{mode}_{name}", Resize, x, y=y, mode=mode, scales=scales, numerics=numerics)
        for mode, numerics in (("nearest", "integer"), ("linear", "integer"), ("linear", "ort"))
        for name, x, y, scales in (
            (f"three_axes_{numerics}", "i8[N,3,4,2,5]*0.02+3", "i8[N,5,3,4,5]", None),
            (f"scales_{numerics}", "u8[N,4,5,3]*0.02+3", "u8[N,9,11,3]", (2.3, 2.3)),
            (f"tiny_scale_{numerics}", "u8[N,4,5,3]*0.02+3", "u8[N,2,2,3]", (1e-30, 0.5)),
            (f"same_{numerics}", "u8[N,4,5,3]*0.02+3", "u8[N,4,5,3]", None),
            (f"fixed_batch_{numerics}", "u8[2,4,5,3]*0.02+3", "u8[2,8,5,3]", None),
            (f"ends_{numerics}", "i8[N,4,4,3]*0.02+3 ends", "i8[N,7,7,3]", None),
        )
    ],
    case("float_nearest", Resize, "f32[N,4,5,3] wild", y="f32[N,8,10,3]", mode="nearest"),
    *[
        case(
            f"upsample_{mode}",
            Resize,
            "i8[N,28,28,64]*0.0217+3",
            y="i8[N,56,56,64]",
            mode=mode,
            coordinates="asymmetric" if mode == "nearest" else "half_pixel",
            bench=True,
        )
        for mode in ("nearest", "linear")
    ],
]
