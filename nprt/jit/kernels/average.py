"""Means of windows. Same result as `ops.average_pool`, `ops.adaptive_average_pool`, `ops.global_average_pool` and
`ops.reduce_mean` on codes, but for means over the last axis.

Windows are cut to the image, so no padding is read: a window with fewer taps is of another class, see `average_stage`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from nprt.ir import Array, TensorType
from nprt.jit.emit import I8, I16, I32, I64, Kernel, Value, vector
from nprt.jit.kernels import average_stage, rows
from nprt.jit.kernels.average_stage import (
    FIELDS,
    FORMULAS,
    SCALARS,
    Stage,
    Sums,
    Terms,
    offsets,
    positions,
)
from nprt.jit.kernels.stage import to_bytes
from nprt.jit.simd import Level
from nprt.ops.adaptive_average_pool import adaptive_windows

NAMES = ("x", "y", "windows", "count", "channels", "classes", "tap", *SCALARS)
RECORD = np.dtype([(name, "i8") for name in NAMES])
# Offsets, the last among the classes.
WINDOW = np.dtype([(name, "u4") for name in ("x", "y", "klass")])
CLASS = np.dtype([(name, "i8") for name in (*FIELDS, "tap", "taps")])
NARROW = 2**16 // 255  # so many bytes add up in 16 bits


# --- the kernel -------------------------------------------------------------------------------------------


def emit(name: str, level: Level, kind: str, narrow: bool) -> Any:
    k = Kernel(name, RECORD)
    channels, unit = k.arg("channels"), 4 * level.lanes
    units = (channels + (unit - 1)) // unit
    begin, end = k.share(k.arg("count") * units)
    low, high = k.arg("low").truncated(I8), k.arg("high").truncated(I8)
    total = _floats if kind == "floats" else _narrow if narrow else _bytes
    with k.range(begin, end) as index:
        at = index % units * unit
        window = k.arg("windows") + index // units * WINDOW.itemsize
        x, y, klass = (k.load(window, I32, 4 * i).unsigned(I64) for i in range(3))
        klass = k.arg("classes") + klass
        taps = k.load(klass, I64, CLASS.fields["taps"][1])  # type: ignore[index]
        first = k.arg("tap") + k.load(klass, I64, CLASS.fields["tap"][1])  # type: ignore[index]
        here = k.arg("x") + x + at
        vectors = []
        for j, acc in enumerate(total(k, level, here, first, taps)):
            terms = Terms(k, level, klass, at + j * level.lanes)
            started = acc if kind == "floats" else acc + terms.i("start")
            vectors.append(FORMULAS[kind](terms, started))
        bytes = to_bytes(k, level, vectors, low, high)
        target, left = k.arg("y") + y + at, channels - at
        with k.when_else(left < unit) as (some, all):
            with some:
                level.store_first(k, bytes, target, left)
            with all:
                k.store(bytes, target)
    return k.finish()


def _each_tap(
    k: Kernel, x: Value, first: Value, taps: Value, start: list[Value], add: Callable[..., Value]
) -> list[Value]:
    """`add(sum, address, i)` for each tap and each sum."""

    def tap(j: Value, sums: list[Value]) -> list[Value]:
        here = x + k.load(first, I64, j * 8)
        return [add(s, here, i) for i, s in enumerate(sums)]

    return k.loop(0, taps, 1, start, tap)


def _bytes(k: Kernel, level: Level, x: Value, first: Value, taps: Value) -> list[Value]:
    """Four vectors of sums of bytes in 32 bits."""

    def add(total: Value, here: Value, i: int) -> Value:
        return total + k.load(here, vector(I8, level.lanes), i * level.lanes).unsigned(I32)

    return _each_tap(k, x, first, taps, [k.const(level.i32, 0)] * 4, add)


def _narrow(k: Kernel, level: Level, x: Value, first: Value, taps: Value) -> list[Value]:
    """The same, first added up in 16 bits."""
    count = 2 * level.lanes

    def add(total: Value, here: Value, i: int) -> Value:
        return total + k.load(here, vector(I8, count), i * count).unsigned(I16)

    pairs = _each_tap(k, x, first, taps, [k.const(vector(I16, count), 0)] * 2, add)
    return [p.lanes(i * level.lanes, level.lanes).unsigned(I32) for p in pairs for i in range(2)]


def _floats(k: Kernel, level: Level, x: Value, first: Value, taps: Value) -> list[Value]:
    """Four vectors of sums of dequantized codes, in the order of the taps. Padding would add 0."""
    zero, scale = rows.int_arg(k, level, "zero"), rows.float_arg(k, level, "scale")

    def add(total: Value, here: Value, i: int) -> Value:
        code = k.load(here, vector(I8, level.lanes), i * level.lanes).unsigned(I32)
        return total + (code - zero).to_float() * scale

    return _each_tap(k, x, first, taps, [k.const(level.f32, 0.0)] * 4, add)


# --- windows ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """The windows along one axis of x, cut to x: `count` taps from `first` on, `step` apart. Arrays (windows,)."""

    first: Array
    count: Array
    step: int = 1


class Windows(NamedTuple):
    """Which pixels of x each pixel of y is the mean of.

    Attributes:
        first: (windows,) bytes from the beginning of x to the first tap.
        klass: (windows,) the number of the class.
        taps: for each class, bytes from the first tap to each.
        sums: the sizes of the classes.
    """

    first: Array
    klass: Array
    taps: list[Array]
    sums: Sums


def slide(buffer: Any, axes: Sequence[Axis], divisor: Array) -> Windows:
    """The windows over the spatial axes of a buffer.

    Args:
        divisor: int64 (*out,), what the sums are divided by.
    """
    lengths = np.meshgrid(*(axis.count for axis in axes), indexing="ij")
    each = np.stack([*lengths, divisor], axis=-1).reshape(-1, len(axes) + 1)
    classes, klass = np.unique(each, axis=0, return_inverse=True)
    sums = Sums(classes[:, :-1], classes[:, -1])
    steps = [step * axis.step for step, axis in zip(buffer.steps[1:-1], axes, strict=True)]
    starts = [axis.first + before for axis, (before, _) in zip(axes, buffer.halo, strict=True)]
    return Windows(
        buffer.offsets([np.arange(buffer.shape[0]), *starts]),
        np.tile(klass.reshape(-1), buffer.shape[0]),
        [offsets([np.arange(n) for n in counts], steps) for counts in sums.lengths],
        sums,
    )


def pool_axes(op: Any, x: TensorType, y: TensorType) -> list[Axis]:
    """The windows of an average_pool."""
    axes = []
    sizes = zip(x.shape[1:-1], y.shape[1:-1], strict=True)
    fields = zip(op.kernel, op.stride, op.dilation, op.padding, strict=True)
    for (size, out), (kernel, stride, dilation, (before, _)) in zip(sizes, fields, strict=True):
        start = np.arange(out, dtype=np.int64) * stride - before
        skipped = np.clip(-(start // dilation), 0, kernel)
        stop = np.clip(-((start - size) // dilation), 0, kernel)
        axes.append(Axis(start + skipped * dilation, stop - skipped, dilation))
    return axes


# --- ops --------------------------------------------------------------------------------------------------


def lower_average_pool(p: Any, op: Any) -> bool:
    x, y = p.type(op.inputs[0]), p.type(op.outputs[0])
    if not x.is_codes:
        return False
    whole = tuple(op.kernel) == x.shape[1:-1] and not any(map(any, op.padding))
    every_tap = op.include_padding and op.numerics == "ort"
    if op.divisor is not None or every_tap:
        divisor = np.full(y.shape[1:-1], op.divisor or math.prod(op.kernel), np.int64)
    else:
        counts = op.tap_counts(x.shape, y.shape, include_padding=op.include_padding)
        divisor = reduce(np.multiply.outer, counts)
    source = p.read(op.inputs[0])
    windows = slide(source, pool_axes(op, x, y), divisor)
    stage = average_stage.of_average_pool(op.numerics, x, y, windows.sums, whole=whole)
    return _add_step(p, op, source, windows, stage)


def lower_adaptive(p: Any, op: Any) -> bool:
    x, y = p.type(op.inputs[0]), p.type(op.outputs[0])
    if not x.is_codes:
        return False
    axes = []
    for size, out in zip(x.shape[1:-1], y.shape[1:-1], strict=True):
        start, stop = adaptive_windows(size, out)
        axes.append(Axis(start, stop - start))
    source = p.read(op.inputs[0])
    windows = slide(source, axes, reduce(np.multiply.outer, [axis.count for axis in axes]))
    stage = average_stage.of_adaptive(op.numerics, x, y, windows.sums)
    return _add_step(p, op, source, windows, stage)


def lower_mean(p: Any, op: Any) -> bool:
    """global_average_pool, and reduce_mean where the last axis stays: one window for each position that stays."""
    x, y = p.type(op.inputs[0]), p.type(op.outputs[0])
    rank = len(x.shape)
    axes = tuple(range(1, rank - 1)) if op.name == "global_average_pool" else op.axes
    if not x.is_codes or rank - 1 in axes:
        return False
    source = p.read(op.inputs[0])
    taps = positions(source, axes)
    first = positions(source, [axis for axis in range(max(axes)) if axis not in axes])
    sums = Sums(np.array([[len(taps)]]), np.array([len(taps)]))
    windows = Windows(first, np.zeros(len(first), np.int64), [taps], sums)
    return _add_step(p, op, source, windows, average_stage.of_mean(op.numerics, x, y, sums))


def _add_step(p: Any, op: Any, source: Any, windows: Windows, stage: Stage | None) -> bool:
    if stage is None:
        return False
    y = p.type(op.outputs[0])
    pool = op.name != "reduce_mean"
    target = p.write(op.outputs[0], halo=pool)
    count = len(windows.first)
    channels = math.prod(y.shape) // count
    table = np.empty(count, WINDOW)
    table["x"] = windows.first
    table["y"] = target.pixels() if pool else np.arange(count) * channels
    table["klass"] = windows.klass * CLASS.itemsize
    classes = np.zeros(len(windows.taps), CLASS)
    for name, numbers in stage.fields.items():
        classes[name] = numbers
    sizes = np.array([len(taps) for taps in windows.taps])
    classes["taps"], classes["tap"] = sizes, (np.cumsum(sizes) - sizes) * 8
    narrow = stage.kind != "floats" and bool(sizes.max() <= NARROW)
    level = p.level
    p.step(
        op,
        f"average {stage.kind}{' narrow' * narrow}",
        lambda name: emit(name, level, stage.kind, narrow),
        RECORD,
        {
            "x": source,
            "y": target,
            "windows": table,
            "count": count,
            "channels": channels,
            "classes": classes,
            "tap": np.concatenate(windows.taps).astype(np.int64),
            **stage.scalars,
            **average_stage.ends(op, y),
        },
        reads=[source],
        writes=[target],
    )
    return True
