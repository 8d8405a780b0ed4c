"""The records that machine code of the executor and Python share."""

from __future__ import annotations

import numpy as np

# start: the number of the first chunk. need: how many chunks must be done before one of these begins.
ENTRY = np.dtype([(name, "i8") for name in ("kernel", "args", "chunks", "start", "need")])

JOB = np.dtype([(name, "i8") for name in ("table", "first", "last")])

# ticket: job << 32 | the next chunk, or -1 while the fields of a job change. Each in a cache line of its own.
SHARED = np.dtype(
    {
        "names": ["ticket", "done", "table", "total", "stop", "yield"],
        "formats": ["i8"] * 6,
        "offsets": [0, 64, 128, 136, 192, 200],
        "itemsize": 256,
    }
)
SPINS_BEFORE_YIELD = 2000
SPINS_FOR_JOB = 20_000  # about half a millisecond
CHUNK_BITS = 32
