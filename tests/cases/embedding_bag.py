"""Cases of embedding_bag."""

import numpy as np

from nprt.ops.embedding_bag import EmbeddingBag

from .case import case

OFFSETS = np.array([0, 3, 3, 4, 9])
ROWS = ("const f32[20] in -0.1..0.1", "const f32[20]")

CASES = [
    *[
        case(name, EmbeddingBag, table, indices, "", "", *(() if "f32" in table else ROWS))
        for name, table, indices in (
            ("rows_u8", "const u8[20,17]", "i64[N,1] in 0..19"),
            ("rows_of_rows_u8", "const u8[20,1]", "i32[N,5,1] in 0..19"),
            ("bags_u8", "const u8[20,33]", "i64[N,6] in 0..19"),
            ("bags_i8", "const i8[20,33]", "i64[N,6] in 0..19"),
            ("free_count_u8", "const u8[20,33]", "i64[N,T,1] in 0..19"),
            ("bags", "const f32[20,17]", "i64[N,6] in 0..19"),
            ("no_indices", "const f32[20,17]", "i64[N,0]"),
        )
    ],
    *[
        case(
            f"{mode}_{padding_idx}",
            EmbeddingBag,
            "const f32[5,9]",
            "i64[N,7] in 0..4",
            mode=mode,
            padding_idx=padding_idx,
        )
        for mode in ("sum", "mean", "max")
        for padding_idx in (None, 3)
    ],
    *[
        case(
            f"offsets_{last}_{name}",
            EmbeddingBag,
            table,
            "i64[9] in 0..19",
            ("const i64[5]", OFFSETS),
            weights,
            *rows,
            include_last_offset=last,
            **fields,
        )
        for last in (False, True)
        for name, table, weights, rows, fields in (
            ("u8", "const u8[20,17]", "", ROWS, {}),
            ("u8_weights", "const u8[20,17]", "f32[9]", ROWS, {}),
            ("sum", "const f32[20,17]", "", (), {}),
            ("mean", "const f32[20,17]", "", (), {"mode": "mean"}),
            ("weights", "const f32[20,17]", "f32[9]", (), {}),
            ("weights_padding", "const f32[20,17]", "f32[9]", (), {"padding_idx": 7}),
        )
    ],
    case("run_time_offsets", EmbeddingBag, "const f32[20,17]", "i64[9] in 0..19", "i32[N] in 0..0"),
    case("weights_by_rows", EmbeddingBag, "const f32[20,17]", "i32[N,4] in 0..19", "", "f32[N,4]"),
    case("run_time_table", EmbeddingBag, "f32[20,17]", "const i32[3,4] in 0..19"),
    case(
        "word_embedding",
        EmbeddingBag,
        "const u8[5000,384]",
        "i64[N,64,1] in 0..4999",
        "",
        "",
        "const f32[5000]",
        "const f32[5000]",
        bench=True,
    ),
]
