"""Pooling, means and resizing, in float32 or marked with the numerics of the kernel that torch runs on codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from nprt import rounding
from nprt.converters.torch_ops.elementwise import Translate
from nprt.converters.torch_ops.importer import (
    Importer,
    arguments,
    require_written_in_order,
    spatial,
)
from nprt.converters.torch_ops.layers import reduction
from nprt.converters.torch_ops.recording import Call, Value
from nprt.errors import ModelError
from nprt.ir import Array, Dim
from nprt.ops.adaptive_average_pool import AdaptiveAveragePool, adaptive_windows
from nprt.ops.average_pool import AveragePool
from nprt.ops.gather import Gather
from nprt.ops.max_pool import MaxPool
from nprt.ops.reduce_mean import ReduceMean
from nprt.ops.reshape import Reshape
from nprt.ops.resize import Resize
from nprt.ops.rules import known

# Up to this height + width of its result, torch resizes a float image by the kernel that it has for channels-last ones.
SMALL_IMAGE = 128

# --- kernels ------------------------------------------------------------------------------------------


def source(m: Importer, x: Any) -> Value:
    """What was recorded of an argument that depends on the inputs."""
    return m.recording.values[x.index]


def qnnpack_runs(m: Importer, x: Any) -> bool:
    """Whether the engine is qnnpack and has kernels for x: signed codes go to those that all engines share."""
    return m.engine == "qnnpack" and source(m, x).dtype == torch.quint8


def shared_kernel(m: Importer, call: Call, x: Any) -> str:
    """The numerics of the kernel that all engines share, for the memory format of x.

    Raises:
        ModelError: torch writes the result in the wrong order.
    """
    value = source(m, x)
    require_written_in_order(value, m.result(call))
    return "torch-nhwc" if value.channels_last else "torch-nchw"


def batched(m: Importer, x: str, rank: int, out: str) -> str:
    """x with a batch dimension, where torch allows to leave it out."""
    type = m.graph.types[x]
    if type.rank == rank + 2:
        return x
    if type.rank != rank + 1:
        raise ModelError(
            f"x {type} does not have {rank} spatial dimensions behind batch and channels"
        )
    return m.emit(Reshape, x, out=f"{out}~batched", like=type.with_shape((1, *type.shape)))


def finish(m: Importer, call: Call, y: str) -> None:
    """Bind the channels-last result of a pool under the shape that was recorded."""
    y = m.channels_first(y, m.out(call))
    m.bind(call, m.to_shape(y, m.result(call).shape, m.out(call)))


def finish_average(m: Importer, call: Call, x: Any, y: str) -> None:
    """The same for float32 results, which are codes again if x is."""
    if not m.is_quantized(x):
        return finish(m, call, y)
    y = m.channels_first(y, f"{m.out(call)}~nchw")
    return m.quantize(call, m.to_shape(y, m.result(call).shape, f"{m.out(call)}~shaped"))


def restrided(m: Importer, call: Call) -> None:
    """as_strided where it only renames the strides of axes of size 1, as adaptive pools to one position use it."""
    x, size, stride, *offset = call.args
    value = source(m, x)
    same = all(
        dim == 1 or old == new
        for dim, old, new in zip(value.shape, value.strides, stride, strict=False)
    )
    if tuple(size) != value.shape or not same or any(offset):
        raise ModelError("as_strided is not supported; use reshape, permute or slices")
    m.bind(call, m.value(x))


# --- maxima -------------------------------------------------------------------------------------------


def max_pool(rank: int) -> Translate:
    def translate(m: Importer, call: Call) -> None:
        x, kernel, stride, padding, dilation, ceil = arguments(
            call, "self", "kernel_size", stride=(), padding=0, dilation=1, ceil_mode=False
        )
        fields = window_fields(rank, kernel, stride, padding, dilation, ceil)
        if m.is_quantized(x) and rank < 3 and not ceil and qnnpack_runs(m, x):
            for (pad, _), step in zip(fields["padding"], fields["dilation"], strict=True):
                if pad and step > 1:
                    raise ModelError(
                        "torch's engine qnnpack takes pixels from outside the window where max_pool has padding and "
                        "dilation; use another engine, or pad before"
                    )
        elif m.is_quantized(x):
            shared_kernel(m, call, x)
        value = batched(m, m.value(x), rank, m.out(call))
        maximum(m, call, m.channels_last(value), fields)

    return translate


def window_fields(
    rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: Any
) -> dict[str, Any]:
    """The fields of an op on windows, from torch's arguments. Without a stride it is the kernel."""
    return {
        "kernel": spatial(kernel, rank),
        "stride": spatial(stride if stride not in ((), [], None) else kernel, rank),
        "dilation": spatial(dilation, rank),
        "padding": tuple((pad, pad) for pad in spatial(padding, rank)),
        "ceil_mode": bool(ceil),
    }


def maximum(m: Importer, call: Call, x: str, fields: dict[str, Any]) -> None:
    """Bind a call to the max pool of x (batch, *spatial, channels)."""
    finish(m, call, m.emit(MaxPool, x, out=f"{m.out(call)}~nhwc", like=m.graph.types[x], **fields))


def adaptive_max_pool(rank: int) -> Translate:
    """Windows of different sizes are made alike: each repeats its last element, which moves no maximum."""

    def translate(m: Importer, call: Call) -> None:
        x, _ = call.args
        out = m.out(call)
        value = m.channels_last(batched(m, m.value(x), rank, out))
        sizes, counts = pooled(m, call, x, rank)
        fields = equal_windows(sizes, counts)
        if fields is None:
            kernel = []
            for axis, (size, count) in enumerate(zip(sizes, counts, strict=True), start=1):
                starts, stops = adaptive_windows(size, count)
                kernel.append(int((stops - starts).max()))
                taps = starts[:, np.newaxis] + np.arange(kernel[-1])
                taps = np.minimum(taps, stops[:, np.newaxis] - 1).reshape(-1)
                value = taken(m, value, taps, axis, out)
            fields = window_fields(rank, kernel, (), 0, 1, False)
        maximum(m, call, value, fields)

    return translate


def taken(m: Importer, x: str, indices: Array, axis: int, out: str) -> str:
    """x at some indices along an axis; x itself where these are all there are."""
    if np.array_equal(indices, np.arange(known("a dimension", m.graph.types[x].shape[axis]))):
        return x
    name = m.constant(indices.astype(np.int64), f"{out}~indices")
    return m.emit(Gather, x, name, out=f"{out}~taken", like=m.graph.types[x], axis=axis)


# --- means --------------------------------------------------------------------------------------------


def average_pool(rank: int) -> Translate:
    def translate(m: Importer, call: Call) -> None:
        x, kernel, stride, padding, ceil, include, divisor = arguments(
            call,
            "self",
            "kernel_size",
            stride=(),
            padding=0,
            ceil_mode=False,
            count_include_pad=True,
            divisor_override=None,
        )
        fields = window_fields(rank, kernel, stride, padding, 1, ceil)
        fields |= {"include_padding": bool(include), "divisor": divisor}
        if not m.is_quantized(x):
            return average(m, call, x, rank, fields)
        if rank < 3 and not ceil and qnnpack_runs(m, x):
            ignored = divisor is not None or (not include and any(map(any, fields["padding"])))
            if ignored:
                m.note(
                    call,
                    "torch's engine qnnpack divides by the size of the window, whatever count_include_pad and "
                    "divisor_override say; so does this model",
                )
            fields |= {"include_padding": True, "divisor": None}
            return average(m, call, x, rank, fields, "qnnpack")
        kernel_numerics = shared_kernel(m, call, x)
        return average(m, call, x, rank, fields, "torch-nhwc" if rank == 3 else kernel_numerics)

    return translate


def average(
    m: Importer, call: Call, x: Any, rank: int, fields: dict[str, Any], numerics: str = "integer"
) -> None:
    """An average pool of a float value, or of codes with a kernel's numerics."""
    value = m.channels_last(batched(m, m.real(x), rank, m.out(call)))
    numerics = m.numerics(numerics)
    y = m.emit(AveragePool, value, out=f"{m.out(call)}~nhwc", numerics=numerics, **fields)
    finish_average(m, call, x, y)


def adaptive_average_pool(rank: int) -> Translate:
    """Windows of equal size are an average pool, but for the kernels that all engines share, which round otherwise."""

    def translate(m: Importer, call: Call) -> None:
        x, _ = call.args
        sizes, counts = pooled(m, call, x, rank)
        divides = all(size % count == 0 for size, count in zip(sizes, counts, strict=True))
        fields, numerics = equal_windows(sizes, counts), "integer"
        if m.is_quantized(x) and rank < 3 and divides and sizes != counts and qnnpack_runs(m, x):
            numerics = "qnnpack"
        elif m.is_quantized(x):
            numerics = m.numerics(shared_kernel(m, call, x))
        if fields is not None and numerics in ("integer", "qnnpack"):
            return average(m, call, x, rank, fields, numerics)
        value = m.channels_last(batched(m, m.real(x), rank, m.out(call)))
        type = m.graph.types[value]
        like = type.with_shape((type.shape[0], *counts, type.shape[-1]))
        out = f"{m.out(call)}~nhwc"
        y = m.emit(AdaptiveAveragePool, value, out=out, like=like, numerics=numerics)
        return finish_average(m, call, x, y)

    return translate


def pooled(m: Importer, call: Call, x: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The spatial sizes of x, and of the result of a call."""

    def sizes(shape: Sequence[Dim]) -> tuple[int, ...]:
        return tuple(known("a pooled dimension", dim) for dim in shape[-rank:])

    return sizes(m.shape(x)), sizes(m.result(call).shape)


def equal_windows(sizes: tuple[int, ...], counts: tuple[int, ...]) -> dict[str, Any] | None:
    """The fields of an op on the windows of an adaptive pool, if these are all alike."""
    kernel, stride = [], []
    for size, count in zip(sizes, counts, strict=True):
        starts, stops = (edges.tolist() for edges in adaptive_windows(size, count))
        widths = {stop - start for start, stop in zip(starts, stops, strict=True)}
        steps = {b - a for a, b in pairwise(starts)} or {1}
        if len(widths) > 1 or len(steps) > 1 or steps == {0}:
            return None
        kernel.append(widths.pop())
        stride.append(steps.pop())
    return window_fields(len(sizes), kernel, stride, 0, 1, False)


def mean(m: Importer, call: Call) -> None:
    """The mean over some axes, or over all, of float32 or of codes."""
    x = call.args[0]
    if not m.is_quantized(x):
        return reduction("Mean")(m, call)
    _, given, keepdims, _ = arguments(call, "self", dim=None, keepdim=False, dtype=None)
    rank = len(m.shape(x))
    axes = list(range(rank)) if given is None or given == [] else np.atleast_1d(given).tolist()
    order = tuple(sorted({axis % rank for axis in axes}))
    numerics = mean_kernel(m, x, axes, order)
    if numerics == "torch" and not m.integer:
        m.note(
            call,
            "torch sums this mean in float32 in an order of its own; a code may differ by 1 where two are equally near",
        )
    if numerics == "torch-nhwc" and not m.integer and splits(columns(source(m, x), order)):
        m.note(
            call,
            "on many threads torch sums some channels of this mean in another order; a code may differ by 1",
        )
    out, numerics = f"{m.out(call)}~mean", m.numerics(numerics)
    y = m.emit(
        ReduceMean, m.real(x), out=out, axes=order, keepdims=bool(keepdims), numerics=numerics
    )
    return m.quantize(call, y)


def mean_kernel(m: Importer, x: Any, axes: list[int], order: tuple[int, ...]) -> str:
    """The numerics of a mean of codes; `torch` for a float32 sum whose order has no formula here.

    Args:
        axes: as they are given, which counts for qnnpack.
        order: the same, in order.
    """
    value = source(m, x)
    rank = len(value.shape)
    if qnnpack_runs(m, x) and rank == 4 and axes == [2, 3]:
        return "qnnpack"
    last = tuple(range(rank - len(order), rank))
    if value.contiguous and order == last:
        return "torch-nchw"
    if value.channels_last and order == tuple(range(2, rank)):
        return "torch-nhwc"
    together = order == tuple(range(1, 1 + len(order)))
    sums = value.contiguous and together and columns(value, order) > 1
    return "torch-nhwc" if sums else "torch"


def columns(value: Value, order: tuple[int, ...]) -> int:
    """How many means over the axes `order` there are for each sample."""
    kept = (dim for axis, dim in enumerate(value.shape) if axis not in (0, *order))
    return math.prod(known("a dimension", dim) for dim in kept)


def splits(count: int) -> bool:
    """Whether a thread may get so few columns, behind a multiple of 32, that it sums them otherwise."""
    width = rounding.LANES * rounding.REGISTERS
    return count > width and rounding.REGISTERS <= count % width < rounding.LANES


# --- resizing -----------------------------------------------------------------------------------------


def upsample_nearest(rank: int, *, exact: bool = False) -> Translate:
    """upsample_nearest and _upsample_nearest_exact: a resize, or picked elements where torch takes others."""

    def translate(m: Importer, call: Call) -> None:
        x = call.args[0]
        sizes, counts = pooled(m, call, x, rank)
        factors = scale_factors(call, 2, rank)
        out = m.out(call)
        if m.is_quantized(x):
            shared_kernel(m, call, x)
            if rank == 3 and source(m, x).channels_last and sizes == counts:
                raise ModelError(
                    "torch leaves samples unwritten where it resizes channels-last volumes to their own size"
                )
        value = m.channels_last(m.value(x))
        kernel = nearest_kernel(m, x, counts)
        axes = zip(sizes, counts, factors or (None,) * rank, strict=True)
        chosen = [nearest_indices(*axis, exact, kernel) for axis in axes]
        if m.is_quantized(x) and sizes == counts:
            chosen = [np.arange(count) for count in counts]
        fields = nearest_fields(sizes, counts, factors, exact, chosen)
        if fields is None:
            for axis, indices in enumerate(chosen, start=1):
                value = taken(m, value, indices, axis, out)
            return finish(m, call, value)
        like = m.graph.types[value]
        like = like.with_shape((like.shape[0], *counts, like.shape[-1]))
        return finish(m, call, m.emit(Resize, value, out=f"{out}~nhwc", like=like, **fields))

    return translate


def nearest_kernel(m: Importer, x: Any, counts: tuple[int, ...]) -> str:
    """Which of torch's kernels picks the nearest elements: "codes", "float", or "image", for images in float."""
    if m.is_quantized(x):
        return "codes"
    value = source(m, x)
    wide = value.channels_last and known("channels", value.shape[1]) > 3
    small = len(counts) == 2 and sum(counts) <= SMALL_IMAGE
    return "image" if wide or small else "float"


def nearest_indices(size: int, count: int, factor: float | None, exact: bool, kernel: str) -> Array:
    """Which elements of an axis torch takes: (count,) int64.

    Args:
        factor: the scale factor as it was given; None where only the sizes count.
        exact: of `nearest-exact`.
        kernel: see `nearest_kernel`.
    """
    if kernel == "image" and not exact and count in (size, 2 * size):
        return np.arange(count) // (count // size)
    step = np.float32(size) / np.float32(count)
    if factor is not None:
        step = np.float32(1 / factor)
    index = np.arange(count, dtype=np.float32)
    half = np.float32(0.5)
    if not exact:
        at = index * step
    elif kernel == "float":
        at = np.maximum(rounding.fma(step, index + half, -half), np.float32(0)) + half
    else:
        at = ((index + half) * np.float64(step)).astype(np.float32)
    return np.minimum(np.floor(at), size - 1).astype(np.int64)


def nearest_fields(
    sizes: tuple[int, ...],
    counts: tuple[int, ...],
    factors: tuple[float, ...] | None,
    exact: bool,
    chosen: list[Array],
) -> dict[str, Any] | None:
    """The fields of a resize that takes the chosen elements; None if there is none."""
    coordinates, nearest = ("half_pixel", "round_prefer_ceil") if exact else ("asymmetric", "floor")
    for scales in (None, factors):
        fields: dict[str, Any] = {"coordinates": coordinates, "nearest": nearest, "scales": scales}
        op = Resize(inputs=("x",), outputs=("y",), mode="nearest", **fields)
        if all(map(np.array_equal, op.indices(sizes, counts), chosen)):
            return op.fields()
    return None


def upsample_linear(rank: int) -> Translate:
    """upsample_linear, upsample_bilinear and upsample_trilinear."""

    def translate(m: Importer, call: Call) -> None:
        x, align = call.args[0], bool(call.args[2])
        sizes, counts = pooled(m, call, x, rank)
        factors = None if align else scale_factors(call, 3, rank)
        numerics = "integer"
        if m.is_quantized(x):
            numerics = shared_kernel(m, call, x)
            if sizes == counts and numerics == "torch-nchw":
                factors = None  # it copies
            elif sizes == counts and factors and m.integer:
                raise ModelError(
                    f"torch resamples a channels-last tensor by {factors} to its own size, which has no integer form"
                )
        elif factors is not None:
            # An axis that keeps its size is copied.
            same = zip(sizes, counts, factors, strict=True)
            factors = tuple(1.0 if size == count else factor for size, count, factor in same)
        value = m.channels_last(m.real(x))
        type = m.graph.types[value]
        y = m.emit(
            Resize,
            value,
            out=f"{m.out(call)}~nhwc",
            like=type.with_shape((type.shape[0], *counts, type.shape[-1])),
            mode="linear",
            coordinates="align_corners" if align else "half_pixel",
            scales=factors,
            numerics=m.numerics(numerics),
        )
        finish_average(m, call, x, y)

    return translate


def scale_factors(call: Call, first: int, rank: int) -> tuple[float, ...] | None:
    """Scale factors as they were given, one for each axis; None where only the size counts.

    Args:
        first: where they stand among the arguments.
    """
    items = [*call.args[first:], *(call.kwargs[name] for name in call.kwargs if "scale" in name)]
    flat = [f for item in items for f in (item if isinstance(item, list | tuple) else [item])]
    given = [float(f) for f in flat if f is not None]
    if given and len(given) != rank:
        raise ModelError(f"scale factors {flat} are not {rank} numbers")
    return tuple(given) or None
