"""batch_norm, and dequantize with a scale for each channel. Same result as the ops so named: numbers of each channel
stand beside x as operands that broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nprt import rounding
from nprt.ir import Array
from nprt.jit.emit import I8, Kernel, Value
from nprt.jit.kernels import broadcast, rows
from nprt.jit.kernels.dequantize import ITEMS
from nprt.jit.kernels.stage import to_bytes
from nprt.jit.simd import Level

RECORD = rows.record(3, "zero", "offset", "low", "high")


def emit(name: str, level: Level, kind: str, item: str) -> Any:
    """
    Args:
        kind: a key of FORMULAS.
        item: of x, see `rows.emit`.
    """
    k = Kernel(name, RECORD)
    formula, codes = FORMULAS[kind], kind == "normalize"
    low, high = k.arg("low").truncated(I8), k.arg("high").truncated(I8)
    other = "int" if kind == "dequantize" else "float"

    def body(k: Kernel, loaded: list[list[Value]]) -> list[Value]:
        found = [formula(k, level, *operands) for operands in zip(*loaded, strict=True)]
        return [to_bytes(k, level, found, low, high)] if codes else found

    return rows.emit(k, level, [item, "float", other], "byte" if codes else "float", body)


def _normalize(k: Kernel, level: Level, x: Value, factor: Value, offset: Value) -> Value:
    difference = (x - rows.int_arg(k, level, "zero")).to_float()
    code = level.round_to_int(k, k.fma(difference, factor, offset))  # eq. (49)
    return code + rows.int_arg(k, level, "offset")


FORMULAS: dict[str, Callable[..., Value]] = {
    "normalize": _normalize,
    "scale": lambda k, level, x, factor, offset: x * factor + offset,
    "dequantize": lambda k, level, x, scale, zero: (x - zero).to_float() * scale,  # eq. (2)
}


def lower_batch_norm(p: Any, op: Any) -> bool:
    x, y = p.type(op.inputs[0]), p.type(op.outputs[0])
    factor, offset = (p.constant(name) for name in op.inputs[1:])
    if y.is_float:
        return _add_step(p, op, "scale", "float", list(op.inputs), {})
    if factor is None or offset is None:
        return False
    factor, offset = rounding.batch_norm_factors(factor, offset, x.scale, y.scale)
    if not np.all(np.abs(factor) * 256 + np.abs(offset) < 1e38):
        return False  # float32 might overflow to something that is not a number
    shift = 128 if y.dtype == "int8" else 0
    low, high = op.clamp or y.code_range
    scalars = {
        "zero": p.zero_byte(op.inputs[0]),
        "offset": int(y.zero_point) + shift,
        "low": low + shift,
        "high": high + shift,
    }
    return _add_step(p, op, "normalize", "byte", [op.inputs[0], factor, offset], scalars)


def lower_dequantize(p: Any, op: Any) -> bool:
    x = p.type(op.inputs[0])
    shape = [1] * len(x.shape)
    shape[x.quant.axis] = -1
    shift = 128 if x.dtype == "int8" else 0
    scale, zero = np.asarray(x.quant.scales), x.quant.zero_points.astype(np.int32) + shift
    operands = [op.inputs[0], scale.reshape(shape), zero.reshape(shape)]
    return _add_step(p, op, "dequantize", ITEMS[x.dtype], operands, {})


def _add_step(
    p: Any, op: Any, kind: str, item: str, operands: list[str | Array], scalars: dict[str, int]
) -> bool:
    out = p.write(op.outputs[0], halo=kind == "normalize")
    args, buffers = broadcast.arguments(p, op, out, operands)
    if None in buffers:
        return False
    level = p.level
    p.step(
        op,
        f"per_channel {kind} {item}",
        lambda name: emit(name, level, kind, item),
        RECORD,
        {**args, **scalars},
        reads=buffers,
        writes=[out],
    )
    return True
