"""softmax. Same result as `ops.softmax` on codes with a table of exp.

A row is walked three times: for its greatest code, for its sum, for its results. There are no more than 256 different
results in a row: of a long one they are computed first, a vector at a time, and looked up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from nprt.jit.emit import F32, F64, I8, I32, I64, Kernel, Value, vector
from nprt.jit.kernels.rows import float_arg, float_bits
from nprt.jit.simd import Level

SCALARS = ("levels", "before", "offset")
NAMES = ("x", "y", "table", "rows", "inner", "length", *SCALARS)
RECORD = np.dtype([(name, "i8") for name in NAMES])
# Sums stay below 2**44, so that quotients of float64 are exact where they are integers.
MOST_TERMS = 2**20
LONG = 128  # terms of adjacent bytes


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


def emit_long(name: str, level: Level, numerics: str) -> Any:
    """Elements of a row are adjacent."""
    k = Kernel(name, RECORD)
    size, table = k.arg("length"), k.arg("table")
    begin, end = k.share(k.arg("rows"))
    results, slot = k.scratch(vector(I8, 256)), k.scratch(level.i8)
    with k.range(begin, end) as row:
        x, y = (k.arg(name) + row * size for name in ("x", "y"))
        greatest = _greatest(k, level, x, size, slot)
        total = _total(k, numerics, x, size, greatest, table)
        with k.range(0, 256, level.lanes) as at:
            e = k.load(table + at * 4, level.f32 if numerics == "ort" else level.i32)
            code = VECTORS[numerics](k, level, e, total) + k.arg("offset").truncated(I32).splat(
                level.lanes
            )
            k.store(code.maximum(0).minimum(255).truncated(I8), results + at)
        _look_up(k, level, x, y, size, greatest, results)
    return k.finish()


def _greatest(k: Kernel, level: Level, x: Value, size: Value, slot: Value) -> Value:
    whole = size // level.bytes * level.bytes

    def vectors(at: Value, most: list[Value]) -> list[Value]:
        return [most[0].maximum_unsigned(k.load(x + at, level.i8))]

    def single(at: Value, most: list[Value], x: Value = x) -> list[Value]:
        return [most[0].maximum(k.load(x + at, I8).unsigned(I64))]

    k.store(k.loop(0, whole, level.bytes, [k.const(level.i8, 0)], vectors)[0], slot)
    rest = k.loop(whole, size, 1, [k.i64(0)], single)
    return k.loop(0, level.bytes, 1, rest, partial(single, x=slot))[0]


def _total(k: Kernel, numerics: str, x: Value, size: Value, greatest: Value, table: Value) -> Value:
    """int64, or float32 that is summed in order."""
    integer = numerics != "ort"
    whole = size // 8 * 8

    def e(byte: Value) -> Value:
        entry = k.load(table + (greatest - byte) * 4, I32 if integer else F32)
        return entry.signed(I64) if integer else entry

    def eight(at: Value, total: list[Value]) -> list[Value]:
        bytes, found = k.load(x + at, I64), total[0]
        for i in range(8):
            found = found + e(bytes.shift_right_unsigned(8 * i) & 255)
        return [found]

    def single(at: Value, total: list[Value]) -> list[Value]:
        return [total[0] + e(k.load(x + at, I8).unsigned(I64))]

    start = k.i64(0) if integer else k.const(F32, 0.0)
    return k.loop(whole, size, 1, k.loop(0, whole, 8, [start], eight), single)[0]


def _look_up(
    k: Kernel, level: Level, x: Value, y: Value, size: Value, greatest: Value, results: Value
) -> None:
    """By vectors where the level can, else byte by byte."""
    top = greatest.truncated(I8).splat(level.bytes)
    done: Value | int = 0
    if level.lookup(k, results, top) is not None:
        done = size // level.bytes * level.bytes
        with k.range(0, done, level.bytes) as at:
            found = level.lookup(k, results, top - k.load(x + at, level.i8))
            assert found is not None
            k.store(found, y + at)
    with k.range(done, size) as at:
        below = greatest - k.load(x + at, I8).unsigned(I64)
        k.store(k.load(results + below, I8), y + at)


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


def _integers(numerics: str, k: Kernel, level: Level, e: Value, total: Value) -> Value:
    """A formula on int32, in halves of int64."""
    half = level.lanes // 2
    parts = [e.lanes(i * half, half).signed(I64) for i in range(2)]
    totals = total.splat(half)
    return k.join([FORMULAS[numerics](k, level, part, totals).truncated(I32) for part in parts])


def _floats(k: Kernel, level: Level, e: Value, total: Value) -> Value:
    levels, before = (float_arg(k, level, name) for name in ("levels", "before"))
    return level.round_to_int(k, e * levels / total.splat(level.lanes) + before)  # eq. (27)


VECTORS: dict[str, Callable[..., Value]] = {
    "integer": partial(_integers, "integer"),
    "qnnpack": partial(_integers, "qnnpack"),
    "ort": _floats,
}


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
    level, inner = p.level, math.prod(x.shape[op.axis + 1 :])
    long = inner == 1 and x.shape[op.axis] >= LONG
    p.step(
        op,
        f"softmax {op.numerics}{' long' * long}",
        lambda name: (emit_long if long else emit)(name, level, op.numerics),
        RECORD,
        {
            "x": source,
            "y": target,
            "table": table,
            "rows": math.prod(x.shape) // x.shape[op.axis],
            "inner": inner,
            "length": x.shape[op.axis],
            **scalars,
        },
        reads=[source],
        writes=[target],
    )
    return True
