"""dequantize. Same result as `ops.dequantize` with one scale."""

from __future__ import annotations

from typing import Any

from nprt.jit.emit import Kernel, Value
from nprt.jit.kernels import rows
from nprt.jit.simd import Level

ITEMS = {"int8": "byte", "uint8": "byte", "int16": "short", "int32": "int"}
RECORD = rows.record(1, "scale", "zero")


def emit(name: str, level: Level, item: str) -> Any:
    k = Kernel(name, RECORD)
    scale, zero = rows.float_arg(k, level, "scale"), rows.int_arg(k, level, "zero")

    def body(k: Kernel, loaded: list[list[Value]]) -> list[Value]:
        return [(x - zero).to_float() * scale for x in loaded[0]]  # eq. (2)

    return rows.emit(k, level, [item], "float", body)


def lower(p: Any, op: Any) -> bool:
    x = p.type(op.inputs[0])
    if x.quant.axis is not None:
        return False
    buffer, out = p.read(op.inputs[0]), p.write(op.outputs[0])
    item = ITEMS[x.dtype]
    level = p.level
    p.step(
        op,
        f"dequantize {item}",
        lambda name: emit(name, level, item),
        RECORD,
        {
            **rows.arguments(out, buffer),
            "scale": rows.float_bits(x.scale),
            "zero": int(x.zero_point) + (128 if x.dtype == "int8" else 0),
        },
        reads=[buffer],
        writes=[out],
    )
    return True
