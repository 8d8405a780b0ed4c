"""quantize. Same result as `ops.quantize`: float32 to codes, per tensor."""

from __future__ import annotations

from typing import Any

from nprt.jit.emit import I8, Kernel, Value
from nprt.jit.kernels import rows
from nprt.jit.kernels.stage import to_bytes
from nprt.jit.simd import Level

RECORD = rows.record(1, "scale", "zero", "offset", "nan")


def emit(name: str, level: Level, numerics: str) -> Any:
    k = Kernel(name, RECORD)
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
        # The reference of `torch` makes NaN of an infinite x.
        number = (x - x).equals(0.0) if numerics == "torch" else value.equals(value)
        return k.select(number, level.round_to_int(k, value) + offset, nan)

    def body(k: Kernel, loaded: list[list[Value]]) -> list[Value]:
        return [to_bytes(k, level, [code(x) for x in loaded[0]], least, most)]

    return rows.emit(k, level, ["float"], "byte", body)


def lower(p: Any, op: Any) -> bool:
    y = p.type(op.outputs[0])
    shift = 128 if y.dtype == "int8" else 0
    zero_point = int(y.zero_point)
    nan = {"onnx": 0, "torch": 255, "pt2e": shift}[op.numerics]
    scale = y.scale if op.numerics == "onnx" else 1 / y.scale  # float32
    x = p.read(op.inputs[0])
    out = p.write(op.outputs[0], halo=True) if len(y.shape) >= 3 else p.write(op.outputs[0])
    level = p.level
    p.step(
        op,
        f"quantize {op.numerics}",
        lambda name: emit(name, level, op.numerics),
        RECORD,
        {
            **rows.arguments(out, x),
            "scale": rows.float_bits(scale),
            "zero": rows.float_bits(zero_point),
            "offset": shift + (zero_point if op.numerics != "torch" else 0),
            "nan": nan,
        },
        reads=[x],
        writes=[out],
    )
    return True
