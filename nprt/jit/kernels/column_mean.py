"""reduce_mean with numerics `torch-nhwc`. Same result as `ops.reduce_mean`: float32, summed in the order of
`rounding.column_sums`, where the columns are the last axes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt import rounding
from nprt.jit.emit import I8, I32, I64, Kernel, Value, vector
from nprt.jit.kernels.average_stage import ends, positions
from nprt.jit.kernels.rows import float_arg, float_bits, int_arg
from nprt.jit.kernels.stage import to_bytes
from nprt.jit.simd import Level

NAMES = (
    *("x", "image", "images", "y", "tap", "columns", "blocked"),
    *("zero", "scale", "inverse", "zero_point", "offset", "low", "high"),
)
RECORD = np.dtype([(name, "i8") for name in NAMES])
PARTS = rounding.REGISTERS  # into which a column that is in no block is cut


def emit(name: str, level: Level, count: int) -> Any:
    """One vector of columns at a time.

    Args:
        count: of rows.
    """
    k = Kernel(name, RECORD)
    columns = k.arg("columns")
    units = (columns + (level.lanes - 1)) // level.lanes
    begin, end = k.share(k.arg("images") * units)
    low, high = k.arg("low").truncated(I8), k.arg("high").truncated(I8)
    slot = k.scratch(level.f32)
    with k.range(begin, end) as index:
        image, column = index // units, index % units * level.lanes
        x = k.arg("x") + image * k.arg("image") + column
        with k.when_else(column < k.arg("blocked")) as (block, other):
            with block:
                k.store(level_sum(k, level, x, 0, 1, count), slot)
            with other:
                k.store(_interleaved(k, level, x, count), slot)
        mean = k.load(slot, level.f32) / float(count)
        zero = int_arg(k, level, "zero_point").to_float()
        value = k.fma(mean, float_arg(k, level, "inverse"), zero)  # eq. (39)
        code = level.round_to_int(k, value) + int_arg(k, level, "offset")
        bytes = to_bytes(k, level, [code], low, high)
        y = k.arg("y") + image * columns + column
        level.store_first(k, bytes, y, (columns - column).minimum(level.lanes))
    return k.finish()


def _row(k: Kernel, level: Level, x: Value, number: Value) -> Value:
    """A vector of a row, as real numbers."""
    at = x + k.load(k.arg("tap"), I64, number * 8)
    code = k.load(at, vector(I8, level.lanes)).unsigned(I32) - int_arg(k, level, "zero")
    return code.to_float() * float_arg(k, level, "scale")


def level_sum(k: Kernel, level: Level, x: Value, first: int, stride: int, count: int) -> Value:
    """`rounding.level_sum` of `count` rows from `first` on, `stride` apart."""
    power = max(4, max(count - 1, 0).bit_length() // rounding.LEVELS)
    step = 1 << power
    whole = count // step * step
    nothing = k.const(level.f32, 0.0)

    def add(number: Value, total: list[Value]) -> list[Value]:
        return [total[0] + _row(k, level, x, number * stride + first)]

    def block(start: Value, levels: list[Value]) -> list[Value]:
        """Rows for the first level; each level is carried to the next until one has room for more."""
        levels = [*k.loop(start, start + step, 1, levels[:1], add), *levels[1:]]
        carried: Value | None = None
        for i in range(1, rounding.LEVELS):
            total = levels[i] + levels[i - 1]
            levels[i] = total if carried is None else k.select(carried, total, levels[i])
            kept = nothing if carried is None else k.select(carried, nothing, levels[i - 1])
            levels[i - 1] = kept
            full = ((start + step) & ((step - 1) << (i * power))).equals(0)
            carried = full if carried is None else carried & full
        return levels

    levels = k.loop(0, whole, step, [nothing] * rounding.LEVELS, block)
    (levels[0],) = k.loop(whole, count, 1, levels[:1], add)
    return ((levels[0] + levels[1]) + levels[2]) + levels[3]


def _interleaved(k: Kernel, level: Level, x: Value, count: int) -> Value:
    """`rounding.interleaved_sum`."""
    each = count // PARTS
    first, *others = (level_sum(k, level, x, part, PARTS, each) for part in range(PARTS))
    total = first
    for number in range(each * PARTS, count):
        total = total + _row(k, level, x, k.i64(number))
    for part in others:
        total = total + part
    return total


def lower(p: Any, op: Any) -> bool:
    x, y = p.type(op.inputs[0]), p.type(op.outputs[0])
    rank = len(x.shape)
    last = max(op.axes) + 1
    if op.numerics != "torch-nhwc" or not x.is_codes or op.axes != tuple(range(1, last)):
        return False
    columns = math.prod(x.shape[last:])
    if last == rank or columns < rounding.LANES:
        return False
    if not float(x.scale) * 256 * math.prod(x.shape[1:last]) < 1e38:
        return False  # the sum might leave float32
    source, target = p.read(op.inputs[0]), p.write(op.outputs[0])
    taps = positions(source, op.axes)
    level, block = p.level, rounding.LANES * rounding.REGISTERS
    p.step(
        op,
        f"column_mean {len(taps)}",
        lambda name: emit(name, level, len(taps)),
        RECORD,
        {
            "x": source,
            "image": source.steps[0],
            "images": x.shape[0],
            "y": target,
            "tap": taps,
            "columns": columns,
            "blocked": columns // block * block,
            "zero": p.zero_byte(op.inputs[0]),
            "scale": float_bits(x.scale),
            "inverse": float_bits(np.float32(1) / np.float32(x.scale)),
            "zero_point": int(x.zero_point),
            "offset": 128 if y.dtype == "int8" else 0,
            **ends(op, y),
        },
        reads=[source],
        writes=[target],
    )
    return True
