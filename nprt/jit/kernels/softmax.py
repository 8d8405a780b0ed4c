"""softmax. Same result as `ops.softmax` on codes with a table of exp: entry by entry, three times down each row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt.jit.emit import F32, F64, I8, I32, I64, Kernel, Value
from nprt.jit.kernels.rows import float_bits
from nprt.jit.simd import Level

SCALARS = ("levels", "before", "offset")
NAMES = ("x", "y", "table", "rows", "inner", "length", *SCALARS)
RECORD = np.dtype([(name, "i8") for name in NAMES])
MOST_TERMS = (
    2**20
)  # sums stay below 2**44, so that quotients of float64 are exact where they are integers


def emit(name: str, level: Level, numerics: str) -> Any:
    """Elements of a row are `inner` bytes apart, and so many rows lie between each other."""
    k = Kernel(name, RECORD)
    inner, table = k.arg("inner"), k.arg("table")
    begin, end = k.share(k.arg("rows"))
    integer = numerics != "ort"
    with k.range(begin, end) as row:
        start = row // inner * inner * k.arg("length") + row % inner
        x, y, stop = k.arg("x") + start, k.arg("y") + start, inner * k.arg("length")

        def byte(at: Value, x: Value = x) -> Value:
            return k.load(x + at, I8).unsigned(I64)

        def greater(at: Value, most: list[Value]) -> list[Value]:
            return [most[0].maximum(byte(at))]

        greatest = k.loop(0, stop, inner, [k.i64(0)], greater)[0]

        def e(at: Value, greatest: Value = greatest) -> Value:
            entry = k.load(table + (greatest - byte(at)) * 4, I32 if integer else F32)
            return entry.signed(I64) if integer else entry

        def add(at: Value, total: list[Value]) -> list[Value]:
            return [total[0] + e(at)]

        zero = k.i64(0) if integer else k.const(F32, 0.0)
        total = k.loop(0, stop, inner, [zero], add)[0]
        with k.range(0, stop, inner) as at:
            code = FORMULAS[numerics](k, level, e(at), total)
            k.store((code + k.arg("offset")).maximum(0).minimum(255).truncated(I8), y + at)
    return k.finish()


def _quotient(top: Value, bottom: Value) -> Value:
    """`top // bottom` of int64, see MOST_TERMS."""
    return (top.to_float(F64) / bottom.to_float(F64)).to_int(I64)


def _integer(k: Kernel, level: Level, e: Value, total: Value) -> Value:
    return _quotient((e << 9) + total, total << 1)  # eq. (25)


def _qnnpack(k: Kernel, level: Level, e: Value, total: Value) -> Value:
    return _quotient((e << 8) + (total >> 1), total)  # eq. (56)


def _ort(k: Kernel, level: Level, e: Value, total: Value) -> Value:
    levels, before = (k.arg(name).truncated(I32).bits(F32) for name in ("levels", "before"))
    # Of a level's own instructions none rounds a single number.
    return Level.round_to_int(level, k, e * levels / total + before).signed(I64)  # eq. (27)


FORMULAS = {"integer": _integer, "qnnpack": _qnnpack, "ort": _ort}


def lower(p: Any, op: Any) -> bool:
    x, y = p.type(op.inputs[0]), p.type(op.outputs[0])
    table = p.constant(op.inputs[1]) if len(op.inputs) > 1 else None
    if not x.is_codes or table is None or x.shape[op.axis] > MOST_TERMS:
        return False
    shift, zero_point = 128 if y.dtype == "int8" else 0, int(y.zero_point)
    scalars = {"offset": zero_point + shift}
    if op.numerics == "ort":
        levels = np.floor(np.float32(1) / np.float32(y.scale))
        if not np.isfinite(levels):
            return False
        before = zero_point if y.dtype == "int8" else 0  # of int8, added before rounding
        scalars = {"levels": float_bits(levels), "before": float_bits(before)}
        scalars["offset"] = zero_point + shift - before
    source, target = p.read(op.inputs[0]), p.write(op.outputs[0])
    level = p.level
    p.step(
        op,
        f"softmax {op.numerics}",
        lambda name: emit(name, level, op.numerics),
        RECORD,
        {
            "x": source,
            "y": target,
            "table": table,
            "rows": math.prod(x.shape) // x.shape[op.axis],
            "inner": math.prod(x.shape[op.axis + 1 :]),
            "length": x.shape[op.axis],
            **scalars,
        },
        reads=[source],
        writes=[target],
    )
    return True
