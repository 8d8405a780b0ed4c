"""Filling spans of a buffer with one byte: the padding around an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from nprt.jit.emit import I8, I64, Kernel
from nprt.jit.simd import Level

RECORD = np.dtype([(name, "i8") for name in ("to", "spans", "count", "value")])


def emit(name: str, level: Level) -> Any:
    k = Kernel(name, RECORD)
    begin, end = k.share(k.arg("count"))
    value = k.arg("value").truncated(I8).splat(level.bytes)
    with k.range(begin, end) as index:
        at = k.arg("spans") + index * 16
        start, size = k.arg("to") + k.load(at, I64), k.load(at, I64, 8)
        level.store_run(k, start, size, lambda at: value)
    return k.finish()


def add_step(p: Any, op: Any, target: Any, spans: Any, value: int) -> None:
    """spans: (count, 2) int64, start and size. No barrier follows: nobody else writes there."""
    level = p.level
    p.step(
        op,
        "fill",
        lambda name: emit(name, level),
        RECORD,
        {
            "to": target,
            "spans": np.ascontiguousarray(spans, np.int64),
            "count": len(spans),
            "value": value,
        },
        reads=[],
        writes=[target],
        barrier=False,
        note="padding",
    )
