"""Cases of power."""

from nprt.ops.power import Power

from .case import case

CASES = [
    case(name, Power, a, b)
    for name, a, b in (
        ("positive", "f32[N,33] in 0.001..50", "f32[N,33] in -5..5"),
        ("squares", "f32[N,33]", "const f32[] in 2..2"),
        ("roots", "f32[N,33] in 0..50", "const f32[] in 0.5..0.5"),
        ("whole_exponents", "f32[N,33]", "f32[33] step 1"),
        ("wild", "f32[N,99] wild", "f32[N,99] wild"),
        ("repeated", "f32[N,1,7]", "f32[5,1] in -2..2"),
        ("scalars", "f32[]", "f32[]"),
        ("free_length", "f32[N,T]", "f32[T]"),
    )
]
