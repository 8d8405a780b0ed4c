"""Cases of slice."""

from nprt.ops.slice import Slice

from .case import case

WHOLE = (0, None, 1)

CASES = [
    case(
        name,
        Slice,
        x,
        starts=tuple(part[0] for part in parts),
        stops=tuple(part[1] for part in parts),
        steps=tuple(part[2] for part in parts),
    )
    for name, x, parts in (
        ("whole", "i8[N,5,7]*0.0217+3", (WHOLE, WHOLE, WHOLE)),
        ("columns", "i8[N,5,7]*0.0217+3", (WHOLE, (1, 4, 1), WHOLE)),
        ("last_axis", "u8[N,5,33]*0.0217+3", (WHOLE, WHOLE, (3, 20, 1))),
        ("both_axes", "i8[N,5,7]*0.0217+3", (WHOLE, (1, 4, 1), (2, 7, 1))),
        ("step_2", "i8[N,5,7]*0.0217+3", (WHOLE, WHOLE, (1, None, 2))),
        ("step_beyond_end", "i8[N,5,7]*0.0217+3", (WHOLE, WHOLE, (2, None, 9))),
        ("negative_start", "i8[N,5,7]*0.0217+3", (WHOLE, (-2, None, 1), WHOLE)),
        ("negative_stop", "i8[N,5,7]*0.0217+3", (WHOLE, (0, -1, 1), (0, -3, 1))),
        ("clipped", "i8[N,5,7]*0.0217+3", (WHOLE, (-99, 99, 1), (2, 2**31, 1))),
        ("reversed", "i8[N,5,7]*0.0217+3", (WHOLE, (-1, None, -1), WHOLE)),
        ("reversed_step_3", "i8[N,5,17]*0.0217+3", (WHOLE, WHOLE, (-2, 1, -3))),
        ("reversed_batch", "i8[N,5]*0.0217+3", ((-1, None, -1), WHOLE)),
        ("nothing_left", "i8[N,5]*0.0217+3", (WHOLE, (3, 3, 1))),
        ("free_length", "i8[N,T,5]*0.0217+3", (WHOLE, WHOLE, (1, 3, 1))),
        ("no_axis", "i8[]*0.0217+3", ()),
        ("fixed_batch", "i8[4,5]*0.0217+3", ((1, 3, 1), WHOLE)),
        ("plain_codes", "u8[N,5]", (WHOLE, (1, 4, 1))),
        ("int16", "i16[N,5]", (WHOLE, (1, 4, 1))),
        ("int32", "i32[N,5]*0.01+0", (WHOLE, (1, 4, 1))),
        ("int64", "i64[N,5]", (WHOLE, (1, 4, 1))),
        ("float", "f32[N,15] wild", (WHOLE, (1, 14, 1))),
        ("bool", "bool[N,5]", (WHOLE, (1, 4, 1))),
    )
]
