"""layer_norm. Same result as `ops.layer_norm` on codes: sums of a row and of its squares, then the row once more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt import rounding
from nprt.ir import Array
from nprt.jit.emit import F32, F64, I8, I32, Kernel, Value, vector
from nprt.jit.kernels.rows import float_bits, int_arg
from nprt.jit.kernels.stage import to_bytes
from nprt.jit.simd import Level

NAMES = (
    *("x", "y", "rows", "row", "weight", "bias", "blocked", "shift", "zero", "zero_point"),
    *("scale", "epsilon", "inverse", "y_zero_point", "offset"),  # epsilon is the bits of float64
)
RECORD = np.dtype([(name, "i8") for name in NAMES])
MOST_ELEMENTS = 2**15  # of a row: sums of squares stay below 2**31


def emit(name: str, level: Level, *, affine: bool) -> Any:
    """
    Args:
        affine: there are weights and biases.
    """
    k = Kernel(name, RECORD)
    begin, end = k.share(k.arg("rows"))
    size = k.arg("row")
    slots = k.scratch(level.i32), k.scratch(level.i32)
    least, most = k.const(I8, 0), k.const(I8, -1)
    with k.range(begin, end) as row:
        x, y = (k.arg(n) + row * size for n in ("x", "y"))
        mean, factor = _statistics(k, level, x, slots)

        def codes(at: Value, x: Value = x, mean: Value = mean, factor: Value = factor) -> Value:
            found = []
            for j in range(4):
                first = at + j * level.lanes
                byte = k.load(x + first, vector(I8, level.lanes)).unsigned(I32)
                value = ((byte - int_arg(k, level, "zero")).to_float() - mean) * factor  # eq. (51)
                if affine:
                    w, b = (k.load(k.arg(n) + first * 4, level.f32) for n in ("weight", "bias"))
                    value = k.fma(value, w, b)
                found.append(_quantized(k, level, value, first))
            return to_bytes(k, level, found, least, most)

        level.store_run(k, y, size, codes)
    return k.finish()


def _statistics(
    k: Kernel, level: Level, x: Value, slots: tuple[Value, Value]
) -> tuple[Value, Value]:
    """The mean above the zero point, and the factor of a code, in all lanes: eq. (50)."""
    size = k.arg("row")
    whole = size // level.lanes * level.lanes
    shift = k.arg("shift").truncated(I32)

    def lanes(at: Value, sums: list[Value]) -> list[Value]:
        code = k.load(x + at, vector(I8, level.lanes)).unsigned(I32) - shift.splat(level.lanes)
        return [sums[0] + code, sums[1] + code * code]

    def one(at: Value, sums: list[Value]) -> list[Value]:
        code = k.load(x + at, I8).unsigned(I32) - shift
        return [sums[0] + code, sums[1] + code * code]

    def lane(at: Value, sums: list[Value]) -> list[Value]:
        return [total + k.load(slot, I32, at) for total, slot in zip(sums, slots, strict=True)]

    vectors = k.loop(0, whole, level.lanes, [k.const(level.i32, 0)] * 2, lanes)
    for slot, total in zip(slots, vectors, strict=True):
        k.store(total, slot)
    rest = k.loop(whole, size, 1, [k.const(I32, 0)] * 2, one)
    total, squares = k.loop(0, 4 * level.lanes, 4, rest, lane)
    count, scale = size.to_float(F32), k.arg("scale").truncated(I32).bits(F32)
    mean = total.to_float() / count
    variance = k.fma(mean * -1.0, mean, squares.to_float() / count).maximum(0.0) * scale * scale
    spread = k.call("llvm.sqrt.f64", F64, variance.to_float(F64) + k.arg("epsilon").bits(F64))
    factor = (scale.to_float(F64) / spread).to_float(F32)
    above = mean - k.arg("zero_point").to_float(F32)
    return above.splat(level.lanes), factor.splat(level.lanes)


def _quantized(k: Kernel, level: Level, value: Value, first: Value) -> Value:
    """The zero point is added after rounding in whole blocks, before it elsewhere: eq. (34) and (48)."""
    numbers = k.const(level.i32, range(level.lanes)) + first.truncated(I32).splat(level.lanes)
    blocked = numbers.less_signed(int_arg(k, level, "blocked"))
    zero = int_arg(k, level, "y_zero_point")
    before = k.select(blocked, k.const(level.i32, 0), zero).to_float()
    value = value * k.arg("inverse").truncated(I32).bits(F32).splat(level.lanes)
    code = level.round_to_int(k, value + before) + k.select(blocked, zero, 0)
    return code + int_arg(k, level, "offset")


def lower(p: Any, op: Any) -> bool:
    x, y = p.type(op.inputs[0]), p.type(op.outputs[0])
    size = int(x.shape[-1])
    if x.is_float or size > MOST_ELEMENTS:
        return False
    given = [name for name in op.inputs[1:] if name]
    if any(p.constant(name) is None for name in given):
        return False
    weight, bias = (
        _vector(p, op.inputs[i] if len(op.inputs) > i else "", size, start)
        for i, start in ((1, 1.0), (2, 0.0))
    )
    inverse = np.float32(1) / np.float32(y.scale)
    largest = 512.0 * float(x.scale) / math.sqrt(op.epsilon) * np.abs(weight) + np.abs(bias)
    if not np.all(largest * float(inverse) < 1e37):
        return False  # float32 might overflow to something that is not a number
    source, target = p.read(op.inputs[0]), p.write(op.outputs[0])
    level, affine = p.level, bool(given)
    padding = (0, -size % (4 * level.lanes))
    p.step(
        op,
        f"layer_norm{' affine' * affine}",
        lambda name: emit(name, level, affine=affine),
        RECORD,
        {
            "x": source,
            "y": target,
            "rows": math.prod(x.shape[:-1]),
            "row": size,
            "weight": np.pad(weight, padding),
            "bias": np.pad(bias, padding),
            "blocked": size // rounding.NORM_BLOCK * rounding.NORM_BLOCK,
            "shift": 128 if x.dtype == "int8" else 0,
            "zero": p.zero_byte(op.inputs[0]),
            "zero_point": int(x.zero_point),
            "scale": float_bits(x.scale),
            "epsilon": int(np.float64(op.epsilon).view(np.int64)),
            "inverse": float_bits(inverse),
            "y_zero_point": int(y.zero_point),
            "offset": 128 if y.dtype == "int8" else 0,
        },
        reads=[source],
        writes=[target],
    )
    return True


def _vector(p: Any, name: str, size: int, start: float) -> Array:
    """A constant, or `start` where there is none."""
    found: Array = p.constant(name) if name else np.full(size, start, np.float32)
    return found
