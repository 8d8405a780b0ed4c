"""Ops on two values that broadcast: by a formula on vectors, else by a table of all pairs of bytes.

Same result as `ops.add`, `ops.sub`, `ops.mul`, `ops.div`, `ops.prelu`, `ops.maximum` and `ops.minimum` on 8-bit
values, as the first five on float32, and as the first three on int32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nprt.ir import TensorType
from nprt.jit.emit import Kernel, Value
from nprt.jit.kernels import binary, broadcast, pairs, rows
from nprt.jit.simd import Level

PLAIN_RECORD = rows.record(2)
PLAIN: dict[str, Callable[[Value, Value], Value]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "prelu": lambda x, slope: x.k.select(x < 0.0, x * slope, x),
    "maximum": lambda a, b: a.maximum_unsigned(b),
    "minimum": lambda a, b: a.minimum_unsigned(b),
}
# Of which elements, and what `rows` calls these. Bytes are in the order of their codes.
FLOATS, BYTES = {"float32": "float"}, {"int8": "raw", "uint8": "raw"}
NUMBERS = {**FLOATS, "int32": "int"}
ITEMS = {"add": NUMBERS, "sub": NUMBERS, "mul": NUMBERS, "div": FLOATS, "prelu": FLOATS}
ITEMS |= {"maximum": BYTES, "minimum": BYTES}


def emit_plain(name: str, level: Level, op: str, item: str) -> Any:
    """A few operations on each pair of elements, without numerics."""
    k = Kernel(name, PLAIN_RECORD)

    def body(k: Kernel, loaded: list[list[Value]]) -> list[Value]:
        return [PLAIN[op](a, b) for a, b in zip(*loaded, strict=True)]

    return rows.emit(k, level, [item, item], "byte" if item == "raw" else "float", body)


def lower(p: Any, op: Any) -> bool:
    a, b, y = p.type(op.inputs[0]), p.type(op.inputs[1]), p.type(op.outputs[0])
    item = ITEMS.get(op.name, {}).get(y.dtype)
    if item is not None:
        found = _plain(p.level, op, item)
    elif y.is_codes:
        found = _on_codes(p.level, op, a, b, y)
    else:
        return False
    kernel, build, record, scalars = found
    out = p.write(op.outputs[0], halo=True)
    args, operands = broadcast.arguments(p, op, out, op.inputs)
    if None in operands:
        return False
    p.step(op, kernel, build, record, {**args, **scalars}, reads=operands, writes=[out])
    return True


# A kernel's key, what builds it, its arguments' dtype, and the arguments that are not operands.
Found = tuple[str, Callable[[str], Any], np.dtype[Any], dict[str, Any]]


def _plain(level: Level, op: Any, item: str) -> Found:
    return (
        f"{op.name} {item}",
        lambda name: emit_plain(name, level, op.name, item),
        PLAIN_RECORD,
        {},
    )


def _on_codes(level: Level, op: Any, a: TensorType, b: TensorType, y: TensorType) -> Found:
    found = binary.scalars(op, a, b, y) if op.name in binary.OPS else None
    if found is None:
        table = pairs.table(op, a, b, y)
        return "pairs", lambda name: pairs.emit(name, level), pairs.RECORD, {"table": table}
    kinds, scalars = found
    return (
        f"{op.name} {op.numerics} {kinds}",
        lambda name: binary.emit(name, level, op.name, op.numerics, kinds),
        binary.RECORD,
        scalars,
    )
