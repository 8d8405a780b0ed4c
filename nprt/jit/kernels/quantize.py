"""quantize. Same result as `ops.quantize`: float32 to codes, per tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nprt.jit.emit import I8, Kernel, Value
from nprt.jit.kernels import rows
from nprt.jit.kernels.stage import to_bytes
from nprt.jit.simd import Level

NUMERICS = ("onnx", "torch", "pt2e")
SCALARS = ("scale", "zero", "offset", "nan")
RECORD = rows.record(1, *SCALARS)


def coder(k: Kernel, level: Level, numerics: str) -> Callable[[list[Value]], Value]:
    """A function from four vectors of float32 to one of bytes."""
    scale, zero = rows.float_arg(k, level, "scale"), rows.float_arg(k, level, "zero")
    offset, nan = rows.int_arg(k, level, "offset"), rows.int_arg(k, level, "nan")
    least, most = k.const(I8, 0), k.const(I8, -1)

    def code(x: Value) -> Value:
        if numerics == "onnx":
            value = x / scale  # eq. (1)
        elif numerics == "torch":
            value = k.fma(x, scale, zero)  # eq. (39)
        else:
            value = x * scale  # eq. (34)
        return k.select(value.equals(value), level.round_to_int(k, value) + offset, nan)

    return lambda xs: to_bytes(k, level, [code(x) for x in xs], least, most)


def emit(name: str, level: Level, numerics: str) -> Any:
    k = Kernel(name, RECORD)
    code = coder(k, level, numerics)

    def body(k: Kernel, loaded: list[list[Value]]) -> list[Value]:
        return [code(loaded[0])]

    return rows.emit(k, level, ["float"], "byte", body)


def scalars(op: Any, y: Any) -> dict[str, int]:
    shift = 128 if y.dtype == "int8" else 0
    zero_point = int(y.zero_point)
    scale = y.scale if op.numerics == "onnx" else 1 / y.scale  # float32
    return {
        "scale": rows.float_bits(scale),
        "zero": rows.float_bits(zero_point),
        "offset": shift + (zero_point if op.numerics != "torch" else 0),
        "nan": {"onnx": 0, "torch": 255, "pt2e": shift}[op.numerics],
    }


def lower(p: Any, op: Any) -> bool:
    if op.numerics not in NUMERICS:
        return False
    x = p.read(op.inputs[0])
    y = p.type(op.outputs[0])
    out = p.write(op.outputs[0], halo=len(y.shape) >= 3)
    level = p.level
    p.step(
        op,
        f"quantize {op.numerics}",
        lambda name: emit(name, level, op.numerics),
        RECORD,
        {**rows.arguments(out, x), **scalars(op, y)},
        reads=[x],
        writes=[out],
    )
    return True
