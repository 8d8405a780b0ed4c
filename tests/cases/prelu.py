"""Cases of prelu."""

from nprt.ops.prelu import Prelu

from .case import case

CASES = [
    *[
        case(name, Prelu, x, slope)
        for name, x, slope in (
            ("per_channel", "f32[N,4,5,17]", "const f32[17]"),
            ("one_slope", "f32[N,33]", "const f32[] in 0.25..0.25"),
            ("per_position", "f32[N,4,5,7]", "const f32[4,5,1]"),
            ("slope_at_run_time", "f32[N,4,7]", "f32[N,1,7]"),
            ("wild", "f32[N,99] wild", "const f32[99] wild"),
            ("scalars", "f32[]", "f32[]"),
            ("empty", "f32[N,0,3]", "const f32[3]"),
            ("free_length", "f32[N,T,3]", "f32[T,1]"),
        )
    ],
    *[
        case(f"{numerics}_{name}", Prelu, x, slope, y=y, numerics=numerics)
        for numerics in ("integer", "fbgemm")
        for name, x, slope, y in (
            ("per_channel", "u8[N,4,5,17]*0.02+120", "const u8[17]*0.0079+9", "u8*0.017+110"),
            ("i8", "i8[N,5,17]*0.02+3", "const i8[17]*0.0079-9", "i8*0.017-11"),
            ("one_is_no_slope", "u8[N,5,17]*0.02+120", "const u8[17]*0.003+9", "u8*0.017+110"),
            ("one_slope", "u8[N,99]*0.02+120", "const u8[]*0.0079+9", "u8*0.017+110"),
            ("per_position", "u8[N,4,5,7]*0.02+120", "const u8[4,5,1]*0.0079+9", "u8*0.017+110"),
            ("slope_at_run_time", "u8[N,4,7]*0.02+120", "u8[N,1,7]*0.0079+9", "u8*0.017+110"),
            ("ties", "u8[N,9,9]*0.5+120", "const u8[9]*0.5+9", "u8*1+110"),
            ("empty", "u8[N,0,7]*0.02+120", "const u8[7]*0.0079+9", "u8*0.017+110"),
            ("free_length", "u8[N,T,7]*0.02+120", "const u8[7]*0.0079+9", "u8*0.017+110"),
        )
    ],
]
