"""Pooling and resizing, in float32 or marked with the numerics of an engine on codes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from nprt.converters.torch_ops.elementwise import Translate
from nprt.converters.torch_ops.importer import Importer, arguments, spatial
from nprt.converters.torch_ops.recorder import Call
from nprt.errors import ModelError
from nprt.ir import Dim
from nprt.ops.average_pool import AveragePool
from nprt.ops.max_pool import MaxPool
from nprt.ops.reshape import Reshape
from nprt.ops.resize import Resize
from nprt.ops.rules import known


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


def max_pool(rank: int) -> Translate:
    def translate(m: Importer, call: Call) -> None:
        x, kernel, stride, padding, dilation, ceil = arguments(
            call, "self", "kernel_size", stride=(), padding=0, dilation=1, ceil_mode=False
        )
        pads = spatial(padding, rank)
        fields = {
            "kernel": spatial(kernel, rank),
            "stride": spatial(stride if stride not in ((), []) else kernel, rank),
            "dilation": spatial(dilation, rank),
            "padding": tuple((pad, pad) for pad in pads),
            "ceil_mode": bool(ceil),
        }
        value = batched(m, m.value(x), rank, m.out(call))
        like = m.graph.types[value]
        y = m.emit(MaxPool, m.channels_last(value), out=f"{m.out(call)}~nhwc", like=like, **fields)
        finish(m, call, y)

    return translate


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
        if divisor is not None and not m.is_quantized(x):
            raise ModelError("divisor_override is not supported")
        fields = {
            "kernel": spatial(kernel, rank),
            "stride": spatial(stride if stride not in ((), [], None) else kernel, rank),
            "dilation": (1,) * rank,
            "padding": tuple((pad, pad) for pad in spatial(padding, rank)),
            "ceil_mode": bool(ceil),
            "include_padding": bool(include),
        }
        average(m, call, x, rank, fields, divisor)

    return translate


def average(
    m: Importer, call: Call, x: Any, rank: int, fields: dict[str, Any], divisor: int | None = None
) -> None:
    """An average pool of a float value, or of codes with the engine's numerics."""
    value = batched(m, m.real(x), rank, m.out(call))
    if divisor is not None:
        fields["divisor"] = divisor
    if m.is_quantized(x):
        fields["numerics"] = m.numerics(m.pool_numerics())
    y = m.emit(AveragePool, m.channels_last(value), out=f"{m.out(call)}~nhwc", **fields)
    if not m.is_quantized(x):
        return finish(m, call, y)
    y = m.channels_first(y, f"{m.out(call)}~nchw")
    return m.quantize(call, m.to_shape(y, m.result(call).shape, f"{m.out(call)}~shaped"))


def adaptive_average_pool(rank: int) -> Translate:
    """Windows of equal size become an average pool; others are not supported."""

    def translate(m: Importer, call: Call) -> None:
        x, _ = call.args
        fields = adaptive_windows(m, call, x, rank)
        average(m, call, x, rank, fields)

    return translate


def adaptive_max_pool(rank: int) -> Translate:
    def translate(m: Importer, call: Call) -> None:
        x, _ = call.args
        fields = adaptive_windows(m, call, x, rank)
        value = batched(m, m.value(x), rank, m.out(call))
        like = m.graph.types[value]
        y = m.emit(MaxPool, m.channels_last(value), out=f"{m.out(call)}~nhwc", like=like, **fields)
        finish(m, call, y)

    return translate


def adaptive_windows(m: Importer, call: Call, x: Any, rank: int) -> dict[str, Any]:
    """The windows of an adaptive pool, if they are all alike: window i is floor(i * n / k) to ceil((i + 1) * n / k)."""
    sizes = [known("a pooled dimension", dim) for dim in m.shape(x)[-rank:]]
    counts = [known("a pooled dimension", dim) for dim in m.result(call).shape[-rank:]]
    kernel, stride = [], []
    for size, count in zip(sizes, counts, strict=True):
        starts = [i * size // count for i in range(count)]
        widths = {math.ceil((i + 1) * size / count) - starts[i] for i in range(count)}
        steps = {b - a for a, b in pairwise(starts)}
        if len(widths) > 1 or len(steps) > 1:
            raise ModelError(
                f"adaptive pooling of {size} to {count} has windows of different sizes; use sizes that divide"
            )
        kernel.append(widths.pop())
        stride.append(steps.pop() if steps else 1)
    return {
        "kernel": tuple(kernel),
        "stride": tuple(stride),
        "dilation": (1,) * rank,
        "padding": ((0, 0),) * rank,
    }


def upsample(rank: int, mode: str, nearest: str = "floor") -> Translate:
    """upsample_nearest, upsample_bilinear and their kin, by the recorded size and the scale factors, if given."""

    def translate(m: Importer, call: Call) -> None:
        args = list(call.args[1:])
        align = False
        if mode == "linear":
            align = (
                args.pop(1)
                if len(args) > 1 and isinstance(args[1], bool)
                else call.kwargs.get("align_corners", False)
            )
        x = call.args[0]
        factors = scale_factors(args[1:], rank)
        value = m.value(x)
        shape: list[Dim] = list(m.result(call).shape)
        like = m.graph.types[value].with_shape((shape[0], *shape[2:], shape[1]))
        coordinates = "align_corners" if align else "half_pixel"
        fields: dict[str, Any] = {
            "mode": mode,
            "coordinates": "asymmetric"
            if mode == "nearest" and nearest == "floor"
            else coordinates,
            "nearest": nearest,
            "scales": None if align else factors,
        }
        if mode == "linear" and m.is_quantized(x):
            value = m.real(x)
            fields["numerics"] = m.numerics("fbgemm")
            like = like.with_dtype("float32")
            y = m.emit(
                Resize, m.channels_last(value), out=f"{m.out(call)}~nhwc", like=like, **fields
            )
            return m.quantize(call, m.channels_first(y, f"{m.out(call)}~nchw"))
        y = m.emit(Resize, m.channels_last(value), out=f"{m.out(call)}~nhwc", like=like, **fields)
        return finish(m, call, y)

    return translate


def scale_factors(rest: list[Any], rank: int) -> tuple[float, ...] | None:
    """Scale factors as they were given, one for each axis; None where only the size counts."""
    flat = [f for item in rest for f in (item if isinstance(item, list | tuple) else [item])]
    given = [float(f) for f in flat if f is not None]
    return tuple(given) if len(given) == rank else None
