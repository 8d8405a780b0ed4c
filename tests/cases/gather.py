"""Cases of gather."""

from nprt.ops.gather import Gather

from .case import case

CASES = [
    *[
        case(name, Gather, x, indices, axis=axis)
        for name, axis, x, indices in (
            ("embedding", 0, "const i8[50,17]*0.0217+3", "i64[N,6] in -50..49"),
            ("embedding_u8", 0, "const u8[50,1]*0.0217+3", "i32[N,6] in 0..49"),
            ("rows", 1, "i8[N,7,5]*0.0217+3", "const i64[4] in -7..6"),
            ("last_axis", 2, "i8[N,7,33]*0.0217+3", "const i32[65] in -33..32"),
            ("one_element", 1, "i8[N,7,5]*0.0217+3", "const i64[] in -2..-2"),
            ("run_time", 1, "i8[N,7,5]*0.0217+3", "i64[3] in -7..6"),
            ("table_of_indices", 1, "i8[N,7,5]*0.0217+3", "const i64[2,3] in -7..6"),
            ("no_indices", 1, "i8[N,7,5]*0.0217+3", "const i64[0]"),
            ("free_count", 0, "const i8[7,5]*0.0217+3", "i64[N,T] in -7..6"),
            ("scalar_of_vector", 0, "i8[9]*0.0217+3", "i64[] in -9..8"),
            ("fixed_batch", 0, "i8[2,3]*0.0217+3", "const i64[5] in -2..1"),
            ("plain_codes", 1, "u8[N,5]", "const i64[4] in -5..4"),
            ("int16", 1, "i16[N,5]", "const i64[4] in -5..4"),
            ("int32", 1, "i32[N,5]*0.01+0", "const i64[4] in -5..4"),
            ("int64", 1, "i64[N,5]", "const i64[4] in -5..4"),
            ("float", 1, "f32[N,15] wild", "const i64[14] in -15..14"),
            ("bool", 1, "bool[N,5]", "const i64[4] in -5..4"),
        )
    ],
    case(
        "word_embedding", Gather, "const i8[5000,384]*0.0217+3", "i64[N,64] in 0..4999", bench=True
    ),
]
