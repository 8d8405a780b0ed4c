"""Operators that move data. On codes they move codes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from nprt.converters.torch_ops.importer import DTYPES, Importer, arguments
from nprt.converters.torch_ops.recording import Call, Ref
from nprt.errors import ModelError, ShapeError
from nprt.ir import Shape
from nprt.ops.cast import Cast
from nprt.ops.concat import Concat
from nprt.ops.dequantize import Dequantize
from nprt.ops.expand import Expand
from nprt.ops.gather import Gather
from nprt.ops.pad import Pad
from nprt.ops.rules import known
from nprt.ops.transpose import Transpose


def identity(m: Importer, call: Call) -> None:
    """detach, clone, alias, contiguous: the same value."""
    m.bind(call, m.value(call.args[0]))


def to_recorded_shape(m: Importer, call: Call) -> None:
    """view, reshape, squeeze, unsqueeze, flatten: the shape is the one that was recorded."""
    x = m.value(call.args[0])
    m.bind(call, reshaped(m, x, m.result(call).shape, m.out(call)))


def reshaped(m: Importer, x: str, shape: Shape, out: str) -> str:
    free = [dim for dim in m.graph.types[x].shape if isinstance(dim, str)]
    if sorted(free) != sorted(dim for dim in shape if isinstance(dim, str)):
        raise ShapeError(
            f"shape {list(m.graph.types[x].shape)} cannot become {list(shape)} while {', '.join(free)} is free"
        )
    return m.to_shape(x, shape, out)


def permute(m: Importer, call: Call) -> None:
    x = m.value(call.args[0])
    rank = m.graph.types[x].rank
    transposed(m, call, x, tuple(axis % rank for axis in call.args[1]))


def transpose(m: Importer, call: Call) -> None:
    x = m.value(call.args[0])
    rank = m.graph.types[x].rank
    axes = call.args[1:] or (rank - 2, rank - 1)
    perm = list(range(rank))
    if rank > 1:
        a, b = (axis % rank for axis in axes)
        perm[a], perm[b] = perm[b], perm[a]
    transposed(m, call, x, tuple(perm))


def transposed(m: Importer, call: Call, x: str, perm: tuple[int, ...]) -> None:
    m.bind(call, m.emit(Transpose, x, out=m.out(call), perm=perm))


def expand(m: Importer, call: Call) -> None:
    x = m.value(call.args[0])
    like = m.graph.types[x].with_shape(m.result(call).shape)
    m.bind(call, x if like == m.graph.types[x] else m.emit(Expand, x, out=m.out(call), like=like))


def slice_(m: Importer, call: Call) -> None:
    x, axis, start, stop, step = arguments(call, "self", dim=0, start=None, end=None, step=1)
    value = m.value(x)
    shape = m.graph.types[value].shape
    axis %= len(shape)
    size = shape[axis]
    if isinstance(size, str):
        whole = (start or 0) == 0 and step == 1 and (stop is None or stop == size or stop >= 2**31)
        if not whole:
            raise ShapeError(f"axis {axis} is the free dimension {size} and cannot be cut")
        return m.bind(call, value)
    bounds = slice(start, None if stop is None or isinstance(stop, str) else stop, step).indices(
        size
    )
    return m.bind(call, m.sliced(value, {axis: bounds}, m.out(call)))


def select(m: Importer, call: Call) -> None:
    """One index along an axis, which goes."""
    value = m.value(call.args[0])
    axis, index = call.args[1:]
    shape = m.graph.types[value].shape
    axis %= len(shape)
    index %= known("the selected axis", shape[axis])
    y = m.sliced(value, {axis: (index, index + 1, 1)}, f"{m.out(call)}~slice")
    m.bind(call, reshaped(m, y, (*shape[:axis], *shape[axis + 1 :]), m.out(call)))


def split(m: Importer, call: Call) -> None:
    """split, split_with_sizes, chunk, tensor_split: the parts as they were recorded."""
    x = m.value(call.args[0])
    axis = call.kwargs.get("dim", call.args[2] if len(call.args) > 2 else 0)
    axis %= m.graph.types[x].rank
    start = 0
    for index in range(len(call.outputs)):
        size = known("a split dimension", m.result(call, index).shape[axis])
        m.bind(call, m.sliced(x, {axis: (start, start + size, 1)}, m.out(call)), index)
        start += size


def unbind(m: Importer, call: Call) -> None:
    x, axis = arguments(call, "self", dim=0)
    value = m.value(x)
    shape = m.graph.types[value].shape
    axis %= len(shape)
    for index in range(len(call.outputs)):
        y = m.sliced(value, {axis: (index, index + 1, 1)}, f"{m.out(call)}~slice")
        m.bind(call, reshaped(m, y, (*shape[:axis], *shape[axis + 1 :]), m.out(call)), index)


def cat(m: Importer, call: Call) -> None:
    """Parts of size 0 are left out."""
    parts, axis = arguments(call, "tensors", dim=0)
    parts = [part for part in parts if m.shape(part) != (0,)]
    axis %= len(m.result(call).shape)
    values = [m.real(part) for part in parts]
    like = m.graph.types[values[0]]
    m.bind(call, m.emit(Concat, *values, out=m.out(call), like=like, axis=axis))


def stack(m: Importer, call: Call) -> None:
    parts, axis = arguments(call, "tensors", dim=0)
    shape = m.result(call).shape
    axis %= len(shape)
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    values = [reshaped(m, m.value(part), one, f"{m.out(call)}~part") for part in parts]
    like = m.graph.types[values[0]]
    m.bind(call, m.emit(Concat, *values, out=m.out(call), like=like, axis=axis))


def pad(m: Importer, call: Call) -> None:
    x, padding, value = arguments(call, "self", "pad", value=0)
    name = m.value(x)
    rank = m.graph.types[name].rank
    pairs = [(0, 0)] * rank
    for index in range(len(padding) // 2):
        pairs[rank - 1 - index] = (padding[2 * index], padding[2 * index + 1])
    mode = {"constant_pad_nd": "constant"}.get(call.op.rpartition(".")[2], "")
    if not mode:
        mode = "reflect" if "reflection" in call.op else "edge"
    if any(min(pair) < 0 for pair in pairs):
        ranges: dict[int, tuple[int, int | None, int]] = {
            axis: (
                max(0, -before),
                known("a cut dimension", m.graph.types[name].shape[axis]) - max(0, -after),
                1,
            )
            for axis, (before, after) in enumerate(pairs)
            if min(before, after) < 0
        }
        name = m.sliced(name, ranges, f"{m.out(call)}~cut")
        pairs = [(max(0, before), max(0, after)) for before, after in pairs]
    like = m.graph.types[name]
    if m.is_quantized(x) and mode == "constant":
        real = m.emit(Dequantize, name, out=f"{m.out(call)}~real")
        real = m.emit(
            Pad,
            real,
            out=f"{m.out(call)}~padded",
            padding=tuple(pairs),
            mode=mode,
            value=float(value),
        )
        return m.quantize(call, real)
    fields = {"value": float(value)} if mode == "constant" else {}
    return m.bind(
        call,
        m.emit(Pad, name, out=m.out(call), like=like, padding=tuple(pairs), mode=mode, **fields),
    )


def cast(m: Importer, call: Call) -> None:
    """_to_copy and to: another dtype, or the same value."""
    x = m.value(call.args[0])
    dtype = DTYPES.get(m.result(call).dtype)
    if dtype is None:
        raise ModelError(
            f"dtype {m.result(call).dtype} is not supported; keep the model in float32"
        )
    if m.graph.types[x].dtype != dtype:
        x = m.emit(Cast, x, out=m.out(call), like=m.graph.types[x].with_dtype(dtype))
    m.bind(call, x)


def copy(m: Importer, call: Call) -> None:
    """copy_: the target takes the source's value, broadcast and cast."""
    source = m.value(call.args[1])
    like = m.type_of(m.result(call))
    if m.graph.types[source].dtype != like.dtype:
        source = m.emit(
            Cast,
            source,
            out=f"{m.out(call)}~cast",
            like=like.with_shape(m.graph.types[source].shape),
        )
    if m.graph.types[source].shape != like.shape:
        source = m.emit(Expand, source, out=m.out(call), like=like)
    m.bind(call, source)


def repeat(m: Importer, call: Call) -> None:
    """Each axis joined to itself so many times."""
    y = m.value(call.args[0])
    times = tuple(call.args[1])
    shape = m.graph.types[y].shape
    y = reshaped(m, y, (*(1,) * (len(times) - len(shape)), *shape), f"{m.out(call)}~rank")
    for axis, count in enumerate(times):
        if count != 1:
            y = m.emit(Concat, *[y] * count, out=m.out(call), like=m.graph.types[y], axis=axis)
    m.bind(call, y)


def flip(m: Importer, call: Call) -> None:
    x = m.value(call.args[0])
    rank = m.graph.types[x].rank
    ranges: dict[int, tuple[int, int | None, int]] = {
        axis % rank: (-1, None, -1) for axis in call.args[1]
    }
    m.bind(call, m.sliced(x, ranges, m.out(call)))


def pixel_shuffle(m: Importer, call: Call) -> None:
    x, factor = m.value(call.args[0]), call.args[1]
    n, c, h, w = m.graph.types[x].shape
    c, h, w = (known("a shuffled dimension", dim) for dim in (c, h, w))
    y = reshaped(m, x, (n, c // factor**2, factor, factor, h, w), f"{m.out(call)}~split")
    y = m.emit(Transpose, y, out=f"{m.out(call)}~order", perm=(0, 1, 4, 2, 5, 3))
    m.bind(call, reshaped(m, y, m.result(call).shape, m.out(call)))


def pixel_unshuffle(m: Importer, call: Call) -> None:
    x, factor = m.value(call.args[0]), call.args[1]
    n, c, h, w = m.graph.types[x].shape
    c, h, w = (known("a shuffled dimension", dim) for dim in (c, h, w))
    split = (n, c, h // factor, factor, w // factor, factor)
    y = reshaped(m, x, split, f"{m.out(call)}~split")
    y = m.emit(Transpose, y, out=f"{m.out(call)}~order", perm=(0, 1, 3, 5, 2, 4))
    m.bind(call, reshaped(m, y, m.result(call).shape, m.out(call)))


def windows(m: Importer, call: Call) -> None:
    """Tensor.unfold: windows along an axis, their elements along a new last one."""
    x, axis, size, step = call.args
    value, out = m.value(x), m.out(call)
    axis %= m.graph.types[value].rank
    count = known("a dimension cut into windows", m.result(call).shape[axis])
    indices = np.arange(count)[:, np.newaxis] * step + np.arange(size)
    index = m.constant(indices.astype(np.int64), f"{out}~index")
    y = m.emit(Gather, value, index, out=f"{out}~windows", like=m.graph.types[value], axis=axis)
    rank = m.graph.types[y].rank
    order = (*(i for i in range(rank) if i != axis + 1), axis + 1)
    m.bind(call, m.emit(Transpose, y, out=out, perm=order))


def columns(m: Importer, call: Call) -> None:
    """im2col, F.unfold: each window as a column of (channels, kernel)."""
    x, kernel, dilation, padding, stride = call.args
    value, out = m.value(x), m.out(call)
    pads = [(0, 0), (0, 0), *((pad, pad) for pad in padding)]
    like = m.graph.types[value]
    if any(padding):
        value = m.emit(Pad, value, out=f"{out}~padded", like=like, padding=tuple(pads), value=0.0)
    for axis, spatial in ((2, 0), (4, 1)):
        size = known("a dimension cut into windows", m.graph.types[value].shape[axis])
        reach = (kernel[spatial] - 1) * dilation[spatial]
        starts = np.arange(0, size - reach, stride[spatial])
        indices = np.arange(kernel[spatial])[:, np.newaxis] * dilation[spatial] + starts
        index = m.constant(indices.astype(np.int64), f"{out}~index")
        like = m.graph.types[value]
        value = m.emit(Gather, value, index, out=f"{out}~windows", like=like, axis=axis)
    y = m.emit(Transpose, value, out=f"{out}~order", perm=(0, 1, 2, 4, 3, 5))
    m.bind(call, reshaped(m, y, m.result(call).shape, out))


def channel_shuffle(m: Importer, call: Call) -> None:
    x, groups = m.value(call.args[0]), call.args[1]
    n, c, *rest = m.graph.types[x].shape
    size = known("channels", c) // groups
    y = reshaped(m, x, (n, groups, size, *rest), f"{m.out(call)}~split")
    y = m.emit(Transpose, y, out=f"{m.out(call)}~order", perm=(0, 2, 1, *range(3, 3 + len(rest))))
    m.bind(call, reshaped(m, y, m.result(call).shape, m.out(call)))


def index_select(m: Importer, call: Call) -> None:
    x, axis, index = arguments(call, "self", "dim", "index")
    m.bind(call, gathered(m, call, m.value(x), axis, m.value(index)))


def embedding(m: Importer, call: Call) -> None:
    weight, indices, *_ = call.args
    m.bind(call, gathered(m, call, m.real(weight, "weight"), 0, m.value(indices)))


def gathered(m: Importer, call: Call, x: str, axis: int, index: str) -> str:
    return m.emit(
        Gather, x, index, out=m.out(call), like=m.graph.types[x], axis=axis % m.graph.types[x].rank
    )


def index(m: Importer, call: Call) -> None:
    """x[..., indices, ...] with one index tensor, or with known ones for axes side by side."""
    x, indices = call.args
    given = [(axis, item) for axis, item in enumerate(indices) if item is not None]
    if len(given) != 1:
        return indexed_together(m, call, x, given)
    axis, item = given[0]
    if isinstance(item, Ref) and m.recording.values[item.index].dtype == torch.bool:
        raise ModelError("indexing with a mask that depends on the inputs is not supported")
    m.bind(call, gathered(m, call, m.value(x), axis, m.value(item)))


def indexed_together(m: Importer, call: Call, x: Any, given: list[tuple[int, Any]]) -> None:
    """Several index tensors: their axes as one, and one index into it."""
    axes = [axis for axis, _ in given]
    if axes != list(range(axes[0], axes[0] + len(axes))):
        raise ModelError(
            "indexing with tensors for axes that are not side by side is not supported"
        )
    value, out = m.value(x), m.out(call)
    shape = m.graph.types[value].shape
    sizes = [known("an indexed dimension", shape[axis]) for axis in axes]
    arrays = [m.array(item, "an index") for _, item in given]
    if any(array.dtype == np.bool_ for array in arrays):
        raise ModelError("indexing with several masks is not supported")
    wrapped = [np.where(a < 0, a + size, a) for a, size in zip(arrays, sizes, strict=True)]
    flat = np.ravel_multi_index(np.broadcast_arrays(*wrapped), sizes).astype(np.int64)
    merged = (*shape[: axes[0]], math.prod(sizes), *shape[axes[-1] + 1 :])
    y = reshaped(m, value, merged, f"{out}~merged")
    m.bind(call, gathered(m, call, y, axes[0], m.constant(flat, f"{out}~index")))


def roll(m: Importer, call: Call) -> None:
    x, shifts, axes = arguments(call, "self", "shifts", dims=())
    y = m.value(x)
    for shift, axis in zip(
        np.atleast_1d(shifts).tolist(), np.atleast_1d(axes).tolist(), strict=True
    ):
        size = known("a rolled dimension", m.graph.types[y].shape[axis])
        cut = (size - shift) % size
        if not cut:
            continue
        parts = [
            m.sliced(y, {axis % m.graph.types[y].rank: pair}, f"{m.out(call)}~part")
            for pair in ((cut, size, 1), (0, cut, 1))
        ]
        y = m.emit(
            Concat,
            *parts,
            out=m.out(call),
            like=m.graph.types[y],
            axis=axis % m.graph.types[y].rank,
        )
    m.bind(call, y)
