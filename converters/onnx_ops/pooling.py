"""Pooling and resizing."""

from __future__ import annotations

import numpy as np

from nprt.converters.onnx_ops.importer import Importer, Node
from nprt.converters.onnx_ops.layers import window_fields
from nprt.errors import ModelError
from nprt.ops.average_pool import AveragePool
from nprt.ops.global_average_pool import GlobalAveragePool
from nprt.ops.max_pool import MaxPool
from nprt.ops.resize import Resize
from nprt.ops.rules import known


def max_pool(m: Importer, node: Node) -> None:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise ModelError("the second output of MaxPool, Indices, is not supported")
    if node.attr("storage_order", 0):
        raise ModelError("storage_order=1 is not supported")
    x = m.value(node.input(0))
    sizes = [known("a spatial dimension", d) for d in m.graph.types[x].shape[2:]]
    fields = window_fields(node, sizes, node.attr("kernel_shape"))
    y = m.emit(
        MaxPool, m.channels_last(x), out=f"{node.output}~nhwc", like=m.graph.types[x], **fields
    )
    m.bind(node.output, m.channels_first(y, node.output))


def average_pool(m: Importer, node: Node) -> None:
    m.bind(node.output, average_pool_op(m, node, m.value(node.input(0))))


def average_pool_op(m: Importer, node: Node, x: str) -> str:
    last = bool(node.attr("channels_last", 0))
    spatial = slice(1, -1) if last else slice(2, None)
    sizes = [known("a spatial dimension", d) for d in m.graph.types[x].shape[spatial]]
    fields = window_fields(node, sizes, node.attr("kernel_shape"))
    include = bool(node.attr("count_include_pad", 0))
    x = x if last else m.channels_last(x)
    whole = {"kernel": tuple(sizes), "stride": (1,) * len(sizes), "padding": ((0, 0),) * len(sizes)}
    if m.opset < 19 and all(fields[name] == value for name, value in whole.items()):
        # One window over everything: onnxruntime sums it as it does GlobalAveragePool.
        y = m.emit(GlobalAveragePool, x, out=f"{node.output}~nhwc")
        return y if last else m.channels_first(y, node.output)
    y = m.emit(AveragePool, x, out=f"{node.output}~nhwc", include_padding=include, **fields)
    return y if last else m.channels_first(y, node.output)


def global_average_pool(m: Importer, node: Node) -> None:
    m.bind(node.output, global_average_pool_op(m, node, m.value(node.input(0))))


def global_average_pool_op(m: Importer, node: Node, x: str) -> str:
    last = bool(node.attr("channels_last", 0))
    y = m.emit(GlobalAveragePool, x if last else m.channels_last(x), out=f"{node.output}~nhwc")
    return y if last else m.channels_first(y, node.output)


def global_max_pool(m: Importer, node: Node) -> None:
    x = m.channels_last(m.value(node.input(0)))
    sizes = tuple(known("a spatial dimension", d) for d in m.graph.types[x].shape[1:-1])
    ones = (1,) * len(sizes)
    y = m.emit(
        MaxPool,
        x,
        out=f"{node.output}~nhwc",
        like=m.graph.types[x],
        kernel=sizes,
        stride=ones,
        dilation=ones,
        padding=((0, 0),) * len(sizes),
        ceil_mode=False,
    )
    m.bind(node.output, m.channels_first(y, node.output))


def resize(m: Importer, node: Node) -> None:
    """Resize; only along spatial axes."""
    x = m.value(node.input(0))
    type = m.graph.types[x]
    old = m.opset < 11
    scales_input, sizes_input = (1, 9) if old else (2, 3)
    mode = node.attr("mode", "nearest")
    coordinates = "asymmetric" if old else node.attr("coordinate_transformation_mode", "half_pixel")
    nearest = "floor" if old else node.attr("nearest_mode", "round_prefer_floor")
    if mode not in ("nearest", "linear"):
        raise ModelError(f"mode {mode!r} is not supported; use nearest or linear")
    if coordinates not in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
        raise ModelError(f"coordinate_transformation_mode {coordinates!r} is not supported")
    if node.attr("antialias", 0) or node.attr("exclude_outside", 0):
        raise ModelError("antialias and exclude_outside are not supported")
    if node.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ModelError("only keep_aspect_ratio_policy stretch is supported")
    node.ignore("cubic_coeff_a", "extrapolation_value")
    axes = [axis % type.rank for axis in node.attr("axes", list(range(type.rank)))]
    scales: list[float] | None = None
    if node.input(sizes_input) and m.const(node.input(sizes_input), "sizes").size:
        target = dict(zip(axes, m.const(node.input(sizes_input), "sizes").tolist(), strict=True))
        shape = [target.get(axis, dim) for axis, dim in enumerate(type.shape)]
    else:
        values = m.const(node.input(scales_input), "scales").astype(float).tolist()
        factor = dict(zip(axes, values, strict=True))
        scales = [factor.get(axis, 1.0) for axis in range(type.rank)]
        shape = [
            dim
            if scale == 1.0
            else int(np.float32(known("a resized dimension", dim)) * np.float32(scale))
            for dim, scale in zip(type.shape, scales, strict=True)
        ]
    if tuple(shape[:2]) != type.shape[:2]:
        raise ModelError(
            f"resizing batch or channels, {list(type.shape)} to {shape}, is not supported"
        )
    last = (shape[0], *shape[2:], shape[1])
    y = m.emit(
        Resize,
        m.channels_last(x),
        out=f"{node.output}~nhwc",
        like=type.with_shape(last),
        mode=mode,
        coordinates=coordinates,
        nearest=nearest,
        scales=None if scales is None else tuple(scales[2:]),
    )
    m.bind(node.output, m.channels_first(y, node.output))
