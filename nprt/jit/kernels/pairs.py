"""Any op on two codes, as a table of its results for all pairs. Same result as the op's reference, which fills it."""

from __future__ import annotations

from typing import Any

import numpy as np

from nprt.ir import Array, Tensor, TensorType
from nprt.jit.emit import I8, I64, Kernel, Value
from nprt.jit.kernels import rows
from nprt.jit.simd import Level

RECORD = rows.record(2, "table")
AT_ONCE = 8


def emit(name: str, level: Level) -> Any:
    """Element by element. A row of the table is what one byte of the first operand gives with every other byte."""
    k = Kernel(name, RECORD)
    table = k.arg("table")
    begin, end = k.share(k.arg("rows"))

    def entry(a: Value, b: Value) -> Value:
        return k.load(table + (a << 8), I8, b)

    with k.range(begin, end) as row:
        y, a, b = (
            k.arg(name) + k.load(k.arg(f"{name}_rows"), I64, row * 8) for name in ("y", "x0", "x1")
        )
        size = (k.arg("total") - row * k.arg("row")).minimum(k.arg("row"))
        whole = size // AT_ONCE * AT_ONCE
        with k.range(0, whole, AT_ONCE) as at:
            eight = k.load(a, I64, at), k.load(b, I64, at)
            for i in range(AT_ONCE):
                pair = [x.shift_right_unsigned(8 * i) & 255 for x in eight]
                k.store(entry(*pair), y + at, i)
        with k.range(whole, size) as at:
            pair = [k.load(x, I8, at).unsigned(I64) for x in (a, b)]
            k.store(entry(*pair), y, at)
    return k.finish()


def table(op: Any, a: TensorType, b: TensorType, y: TensorType) -> Array:
    """The bytes (256, 256) that `op` makes of all pairs of bytes."""
    byte = np.arange(256, dtype=np.uint8)
    operands = []
    for type, bytes in ((a, byte[:, np.newaxis]), (b, byte)):
        codes = bytes ^ np.uint8(128) if type.dtype == "int8" else bytes
        every = np.broadcast_to(codes.view(type.numpy), (256, 256))
        operands.append(Tensor(type.with_shape((256, 256)), every))
    result = op.reference(y.with_shape((256, 256)), *operands)
    found: Array = np.ascontiguousarray(result).view(np.uint8)
    return found ^ np.uint8(128) if y.dtype == "int8" else found
