"""resize. Same result as `ops.resize`, but for linear resizing along three axes.

A line of y meets one or two lines of x, its *sides*, and each pixel of it one or two columns; all weights are found
when the plan is made. `rounding.interpolation` has the formulas.
"""

from __future__ import annotations

import math
from functools import partial, reduce
from typing import Any

import numpy as np

from nprt import rounding
from nprt.ir import Array
from nprt.jit.emit import F32, I8, I32, I64, Kernel, Type, Value, vector
from nprt.jit.kernels.stage import to_bytes
from nprt.jit.simd import Level
from nprt.ops.resize import fixed_point, neighbours

NAMES = ("x", "y", "lines", "count", "columns", "width", "channels", "shift", "zero", "blocked")
RECORD = np.dtype([(name, "i8") for name in NAMES])
SIDES = [(f"{what}{side}", "u4") for what in ("at", "weight") for side in range(2)]
# Bytes from the line's start; weights are int32 or float32.
COLUMN = np.dtype(SIDES)
# Bytes from the start of y and of x, and from there to the sides.
LINE = np.dtype([("y", "i8"), ("x", "i8"), *SIDES])


# --- the kernels ------------------------------------------------------------------------------------------


def emit_nearest(name: str, level: Level) -> Any:
    """Copies of pixels; `channels` is their size in bytes."""
    k = Kernel(name, RECORD)
    begin, end = k.share(k.arg("count"))
    size = k.arg("channels")
    with k.range(begin, end) as index, k.range(0, k.arg("width")) as place:
        line, column = _entries(k, index, place)
        (row, _), (pixel, _) = _places(k, line, LINE), _places(k, column, COLUMN)
        x = k.arg("x") + k.load(line, I64, 8) + row + pixel
        y = k.arg("y") + k.load(line, I64) + place * size
        level.store_run(k, y, size, partial(k.load, x, level.i8))
    return k.finish()


def _entries(k: Kernel, line: Value, place: Value) -> tuple[Value, Value]:
    """The addresses of a line's and of a column's numbers."""
    return k.arg("lines") + line * LINE.itemsize, k.arg("columns") + place * COLUMN.itemsize


def emit(name: str, level: Level, kind: str, sides: int, vectors: int) -> Any:
    """Weighted sums of `sides` lines by two columns.

    Args:
        kind: "float" of float32; else of codes: a numerics.
        vectors: of int32 or float32 to do at once.
    """
    k = Kernel(name, RECORD)
    begin, end = k.share(k.arg("count"))
    item = 4 if kind == "float" else 1
    channels, unit = k.arg("channels"), vectors * level.lanes
    least, most = k.const(I8, 0), k.const(I8, -1)
    weight = I32 if kind == "integer" else F32
    with k.range(begin, end) as index, k.range(0, k.arg("width")) as place:
        line, column = _entries(k, index, place)
        x = k.arg("x") + k.load(line, I64, 8)
        y = k.arg("y") + k.load(line, I64) + place * channels * item
        v = _weights(k, level, line, LINE, weight)
        w = _weights(k, level, column, COLUMN, weight)
        pixels = _places(k, column, COLUMN)
        addresses = [[x + row + to for to in pixels] for row in _places(k, line, LINE)[:sides]]

        def results(at: Value, addresses: Any = addresses, v: Any = v, w: Any = w) -> list[Value]:
            found = []
            for j in range(vectors):
                first = at + j * level.lanes
                corners = [[_load(k, level, kind, a, first) for a in row] for row in addresses]
                found.append(FORMULAS[kind](k, level, corners, v, w, first))
            return found if item == 4 else [to_bytes(k, level, found, least, most)]

        whole = channels // unit * unit
        with k.range(0, whole, unit) as at:
            for j, part in enumerate(results(at)):
                k.store(part, y + at * item, j * level.bytes)
        with k.when(whole < channels):
            for j, part in enumerate(results(whole)):
                left = (channels - whole) * item - j * level.bytes
                size = vectors * level.lanes if item == 1 else level.bytes
                bytes = part.bits(vector(I8, size))
                count = left.maximum(0).minimum(size)
                level.store_first(k, bytes, y + whole * item + j * level.bytes, count)
    return k.finish()


def _places(k: Kernel, entry: Value, dtype: np.dtype[Any]) -> list[Value]:
    """Bytes to both sides."""
    return [k.load(entry, I32, _offset(dtype, f"at{side}")).unsigned(I64) for side in range(2)]


def _weights(
    k: Kernel, level: Level, entry: Value, dtype: np.dtype[Any], type: Type
) -> list[Value]:
    """Of both sides, as vectors."""
    return [
        k.load(entry, type, _offset(dtype, f"weight{side}")).splat(level.lanes) for side in range(2)
    ]


def _offset(dtype: np.dtype[Any], name: str) -> int:
    return int(dtype.fields[name][1])  # type: ignore[index]


def _load(k: Kernel, level: Level, kind: str, address: Value, channel: Value) -> Value:
    """A vector of elements: floats, bytes, or codes as floats."""
    if kind == "float":
        return k.load(address + channel * 4, level.f32)
    byte = k.load(address + channel, vector(I8, level.lanes)).unsigned(I32)
    if kind == "integer":
        return byte
    return (byte - k.arg("shift").truncated(I32).splat(level.lanes)).to_float()


# --- formulas: corners (lines, columns), weights of lines and of columns, to bytes that are not yet saturated --

Corners = list[list[Value]]
Weights = list[Value]


def _integer(
    k: Kernel, level: Level, corners: Corners, v: Weights, w: Weights, first: Value
) -> Value:
    """Weights add up to a power of two, so a sum of bytes is 128 more than one of codes of int8, scaled."""
    bits = rounding.WEIGHT_BITS * len(corners)
    rows = [a * w[0] + b * w[1] for a, b in corners]
    total = rows[0] if len(rows) == 1 else rows[0] * v[0] + rows[1] * v[1]
    return (total + (1 << (bits - 1))) >> bits  # eq. (29)


def _weigh(
    k: Kernel, level: Level, corners: Corners, v: Weights, w: Weights, first: Value
) -> Value:
    """float32, corner by corner."""
    scale = [[side * row for side in w] for row in v] if len(corners) == 2 else [w]
    products = [
        weight * corner
        for weights, row in zip(scale, corners, strict=True)
        for weight, corner in zip(weights, row, strict=True)
    ]
    total = products[0]
    for product in products[1:]:
        total = total + product
    return total


def _ort(k: Kernel, level: Level, corners: Corners, v: Weights, w: Weights, first: Value) -> Value:
    total = _weigh(k, level, corners, v, w, first).to_int(I32)  # eq. (30)
    return total + k.arg("shift").truncated(I32).splat(level.lanes)


def _nchw(k: Kernel, level: Level, corners: Corners, v: Weights, w: Weights, first: Value) -> Value:
    (a, b), (c, d) = corners
    return _about(k, level, v[0] * (w[0] * a + w[1] * b) + v[1] * (w[0] * c + w[1] * d))  # eq. (70)


def _nhwc(k: Kernel, level: Level, corners: Corners, v: Weights, w: Weights, first: Value) -> Value:
    (a, b), (c, d) = corners
    blocks = k.fma(v[1], k.fma(w[1], d, w[0] * c), v[0] * k.fma(w[1], b, w[0] * a))
    others = k.fma(v[0], k.fma(w[0], a, w[1] * b), v[1] * k.fma(w[0], c, w[1] * d))
    numbers = k.const(level.i32, range(level.lanes)) + first.truncated(I32).splat(level.lanes)
    blocked = numbers.less_signed(k.arg("blocked").truncated(I32).splat(level.lanes))
    return _about(k, level, k.select(blocked, blocks, others))  # eq. (71)


def _about(k: Kernel, level: Level, total: Value) -> Value:
    zero = k.arg("zero").truncated(I32).splat(level.lanes).to_float()
    code = level.round_to_int(k, (total - zero) + zero)
    return code + k.arg("shift").truncated(I32).splat(level.lanes)


FORMULAS = {
    "integer": _integer,
    "ort": _ort,
    "torch-nchw": _nchw,
    "torch-nhwc": _nhwc,
    "float": _weigh,
}


# --- the plan ---------------------------------------------------------------------------------------------


def lower(p: Any, op: Any) -> bool:
    x, y = p.type(op.inputs[0]), p.type(op.outputs[0])
    if x.shape == y.shape and (x.is_float or op.numerics != "torch-nhwc"):
        p.alias(op.outputs[0], p.read(op.inputs[0]))
        return True
    spatial, out = x.shape[1:-1], y.shape[1:-1]
    if op.mode != "nearest" and len(spatial) > 2:
        return False
    source, target = p.read(op.inputs[0]), p.write(op.outputs[0], halo=True)
    kind = "float" if x.is_float else op.numerics
    if op.mode == "nearest":
        axes = [_side(index) for index in op.indices(spatial, out)]
    else:
        axes = [_linear(kind, at, size) for at, size in op.positions(spatial, out)]
    lines, columns = _tables(source, target, axes)
    channels, level = int(y.shape[-1]), p.level
    if op.mode == "nearest":
        key, channels = "resize nearest", channels * source.item

        def build(name: str) -> Any:
            return emit_nearest(name, level)
    else:
        vectors = min(4, 1 << math.ceil(math.log2(math.ceil(channels / level.lanes))))
        key = f"resize {kind} {len(axes)} {vectors}"

        def build(name: str) -> Any:
            return emit(name, level, kind, len(axes), vectors)

    args = {
        "x": source,
        "y": target,
        "lines": lines,
        "count": len(lines),
        "columns": columns,
        "width": len(columns),
        "channels": channels,
        "shift": 128 if x.dtype == "int8" else 0,
        "zero": 0 if x.is_float else int(x.zero_point),
        "blocked": channels // rounding.CHANNEL_BLOCK * rounding.CHANNEL_BLOCK,
    }
    p.step(op, key, build, RECORD, args, reads=[source], writes=[target])
    return True


def _side(index: Array) -> Array:
    """One element for each position, as entries of COLUMN that still hold indices."""
    found = np.zeros(len(index), COLUMN)
    found["at0"] = found["at1"] = index
    return found


def _linear(kind: str, at: Array, size: int) -> Array:
    """Both neighbours of each position, and their weights."""
    if kind in rounding.INTERPOLATE:
        low = np.minimum(at, np.float32(size - 1)).astype(np.int64)
        later = at - low.astype(np.float32)
        sides = (low, np.minimum(low + 1, size - 1), np.float32(1) - later, later)
    else:
        sides = neighbours(at, size)
        if kind == "integer":
            sides = fixed_point(*sides)
    found = np.zeros(len(at), COLUMN)
    found["at0"], found["at1"] = sides[:2]
    for side, weight in enumerate(sides[2:]):
        dtype = np.int32 if kind == "integer" else np.float32
        found[f"weight{side}"] = weight.astype(dtype).view(np.uint32)
    return found


def _tables(source: Any, target: Any, axes: list[Array]) -> tuple[Array, Array]:
    """The lines of all images, and the columns, in bytes. Axes before the last two have one side."""
    columns = _in_bytes(axes[-1], source.steps[-2])
    one = np.zeros(1, COLUMN)
    line = _in_bytes(axes[-2], source.steps[-3]) if len(axes) > 1 else one
    images = [np.arange(source.shape[0]) * source.steps[0]]
    outer = zip(axes[:-2], source.steps[1:-3], strict=True)
    images += [axis["at0"].astype(np.int64) * step for axis, step in outer]
    starts = reduce(np.add.outer, images).reshape(-1)
    lines = np.zeros(len(starts) * len(line), LINE)
    lines["x"] = np.repeat(starts, len(line))
    for name, _ in SIDES:
        lines[name] = np.tile(line[name], len(starts))
    *halo, (left, _) = target.halo
    rows = [np.arange(len(a)) + before for a, (before, _) in zip(axes[:-1], halo, strict=True)]
    lines["y"] = target.offsets([np.arange(target.shape[0]), *rows, np.array([left])])
    return lines, columns


def _in_bytes(axis: Array, step: int) -> Array:
    found = axis.copy()
    for side in ("at0", "at1"):
        found[side] *= step
    return found
