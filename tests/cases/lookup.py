"""Cases of lookup."""

import numpy as np

from nprt.ops.lookup import Lookup

from .case import case

CASES = [
    *[
        case(
            f"{x}_to_{y}",
            Lookup,
            f"{x}[N,9,33]*0.0217+3",
            f"const {y}[256]",
            y=y + ("*0.0057+7" if y != "f32" else ""),
        )
        for x in ("i8", "u8")
        for y in ("i8", "u8", "f32")
    ],
    # Each code once.
    case(
        "all_codes_i8",
        Lookup,
        ("i8[256]*0.0217+3", np.arange(-128, 128)),
        "const i8[256]",
        y="i8*0.0057+7",
    ),
    case(
        "all_codes_u8",
        Lookup,
        ("u8[256]*0.0217+3", np.arange(256)),
        ("const u8[256]", np.arange(256)[::-1]),
        y="u8*0.0057+7",
        function="reversed",
    ),
    *[
        case(f"size_{size}", Lookup, f"i8[N,{size}]*0.02+3", "const u8[256]", y="u8*0.0057+7")
        for size in (0, 1, 3, 7, 15, 17, 65)
    ],
    case("one_element", Lookup, "i8[]*0.02+3", "const u8[256]", y="u8*0.0057+7"),
    case("fixed_batch", Lookup, "i8[2,5]*0.02+3", "const u8[256]", y="u8*0.0057+7"),
    case("free_length", Lookup, "i8[N,T]*0.02+3", "const i8[256]", y="i8*0.0057+7"),
    case("not_finite", Lookup, "i8[N,65]*0.02+3", "const f32[256] wild", y="f32"),
    case("table_at_run_time", Lookup, "i8[N,65]*0.02+3", "u8[256]", y="u8*0.0057+7"),
    case(
        "hardswish_of_mobilenetv3",
        Lookup,
        "i8[N,56,56,64]*0.0217+3",
        "const i8[256]",
        y="i8*0.0057+7",
        function="hardswish",
        bench=True,
    ),
]
