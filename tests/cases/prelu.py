"""Cases of prelu."""

from nprt.ops.prelu import Prelu

from .case import case

CASES = [
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
]
