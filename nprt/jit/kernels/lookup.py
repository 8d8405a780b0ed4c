"""lookup. Same result as `ops.lookup`: a table of 256 bytes or float32, indexed by the byte of x.

A vector of bytes at a time where the level can look them up, else byte by byte.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt.jit.emit import F32, I8, I64, Kernel
from nprt.jit.simd import Level

RECORD = np.dtype([(name, "i8") for name in ("x", "y", "table", "count")])
AT_ONCE = 64  # bytes, a multiple of every vector


def emit(name: str, level: Level, item: int) -> Any:
    k = Kernel(name, RECORD)
    x, y, table = k.arg("x"), k.arg("y"), k.arg("table")
    type = I8 if item == 1 else F32
    begin, end = k.share(k.arg("count"))
    with k.range(begin * AT_ONCE, end * AT_ONCE, level.bytes) as at:
        bytes = k.load(x, level.i8, at)
        found = level.lookup(k, table, bytes) if item == 1 else None
        if found is not None:
            k.store(found, y, at)
        else:
            for j in range(0, level.bytes, 8):
                eight = k.load(x, I64, at + j)
                for i in range(8):
                    index = eight.shift_right_unsigned(8 * i) & 255
                    entry = k.load(table, type, index * item)
                    k.store(entry, y + at * item, (j + i) * item)
    return k.finish()


def lower(p: Any, op: Any) -> bool:
    table = p.constant(op.inputs[1])
    if table is None:
        return False
    x, out = p.read(op.inputs[0]), p.write(op.outputs[0])
    item = table.dtype.itemsize
    data = table.view(np.uint8) ^ np.uint8(128) if table.dtype == np.int8 else table.copy()
    level = p.level
    p.step(
        op,
        f"lookup {item}",
        lambda name: emit(name, level, item),
        RECORD,
        {"x": x, "y": out, "table": data, "count": math.ceil(math.prod(x.shape) / AT_ONCE)},
        reads=[x],
        writes=[out],
    )
    return True
