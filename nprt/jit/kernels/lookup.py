"""lookup. Same result as `ops.lookup`: a table of 256 bytes or float32, indexed by the byte of x."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt.jit.emit import F32, I8, I64, Kernel
from nprt.jit.simd import Level

RECORD = np.dtype([(name, "i8") for name in ("x", "y", "table", "count")])


def emit(name: str, level: Level, item: int) -> Any:
    k = Kernel(name, RECORD)
    x, y, table = k.arg("x"), k.arg("y"), k.arg("table")
    type = I8 if item == 1 else F32
    begin, end = k.share(k.arg("count"))  # in units of eight bytes
    with k.range(begin, end) as unit:
        bytes = k.load(x, I64, unit * 8)
        for j in range(8):
            index = bytes.shift_right_unsigned(8 * j) & 255
            k.store(k.load(table, type, index * item), y + unit * (8 * item), j * item)
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
        {"x": x, "y": out, "table": data, "count": math.ceil(math.prod(x.shape) / 8)},
        reads=[x],
        writes=[out],
    )
    return True
