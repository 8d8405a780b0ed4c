"""lookup. Same result as `ops.lookup`: a table of 256 bytes or float32, indexed by the byte of x.

A vector of bytes at a time where the level can look them up, else byte by byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nprt.jit.emit import F32, I8, I64, Kernel, Value
from nprt.jit.kernels import rows
from nprt.jit.simd import Level

RECORD = rows.record(1, "table")


def emit(name: str, level: Level, item: int) -> Any:
    k = Kernel(name, RECORD)
    table = k.arg("table")
    type = I8 if item == 1 else F32
    begin, end = k.share(k.arg("rows"))
    with k.range(begin, end) as row:
        y, x = (k.arg(n) + k.load(k.arg(f"{n}_rows"), I64, row * 8) for n in ("y", "x0"))
        size = (k.arg("total") - row * k.arg("row")).minimum(k.arg("row"))
        whole = size // level.bytes * level.bytes

        def look_up(at: Value, x: Value = x) -> Value | None:
            return level.lookup(k, table, k.load(x, level.i8, at)) if item == 1 else None

        with k.range(0, whole, level.bytes) as at:
            found = look_up(at)
            if found is not None:
                k.store(found, y, at)
            else:
                for j in range(0, level.bytes, 8):
                    eight = k.load(x, I64, at + j)
                    for i in range(8):
                        index = eight.shift_right_unsigned(8 * i) & 255
                        entry = k.load(table, type, index * item)
                        k.store(entry, y + at * item, (j + i) * item)
        with k.when(whole < size):
            found = look_up(whole)
            if found is not None:
                level.store_first(k, found, y + whole, size - whole)
            else:
                with k.range(whole, size) as at:
                    index = k.load(x, I8, at).unsigned(I64)
                    k.store(k.load(table, type, index * item), y + at * item)
    return k.finish()


def lower(p: Any, op: Any) -> bool:
    table = p.constant(op.inputs[1])
    if table is None:
        return False
    item = table.dtype.itemsize
    x, out = p.any_layout(op.inputs[0]), p.write(op.outputs[0], halo=item == 1)
    data = table.view(np.uint8) ^ np.uint8(128) if table.dtype == np.int8 else table.copy()
    level = p.level
    p.step(
        op,
        f"lookup {item}",
        lambda name: emit(name, level, item),
        RECORD,
        {**rows.arguments(out, x), "table": data},
        reads=[x],
        writes=[out],
    )
    return True
