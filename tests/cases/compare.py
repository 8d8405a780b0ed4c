"""Cases of compare."""

import numpy as np

from nprt.ops.compare import RELATIONS, Compare

from .case import case

UPPER = [0, 2**32, -(2**32), 2**33]
SPECIAL = [np.nan, -np.inf, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, np.inf]

CASES = [
    case(f"{relation}_{name}", Compare, a, b, relation=relation)
    for relation in RELATIONS
    for name, a, b in (
        ("i8", "i8[N,33]*0.0217+3 in -4..4", "i8[N,33]*0.0217+3 in -4..4"),
        ("u8", "u8[N,3,15]*0.0217+3", "u8[15]*0.0217+3"),
        ("plain_codes", "u8[N,17] in 0..3", "u8[N,17] in 0..3"),
        ("int16", "i16[N,3,17] in -3..3", "i16[3,1] in -3..3"),
        ("int16_ends", "i16[N,65]", "const i16[65]"),
        ("int32", "i32[N,33] in -3..3", "i32[N,33] in -3..3"),
        ("int32_ends", "i32[N,17]", "const i32[17]"),
        ("int64", "i64[N,33] in -3..3", "i64[33] in -3..3"),
        # Differences in the upper half only.
        ("int64_upper", ("i64[4]", UPPER), ("i64[4,1]", UPPER)),
        ("int64_ends", "i64[N,1,5]", "i64[3,1]"),
        ("float", "f32[N,99] wild", "f32[N,99] wild"),
        ("float_special", ("f32[9]", SPECIAL), ("f32[9,1]", SPECIAL)),
        ("bool", "bool[N,17]", "bool[N,17]"),
    )
]
