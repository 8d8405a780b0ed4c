"""The kernels by the name of their op. An op without one is run by its reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nprt.jit.kernels import (
    average,
    conv_transpose,
    depthwise,
    dequantize,
    elementwise,
    lookup,
    max_pool,
    movement,
    per_channel,
    products,
    quantize,
    quantize_planes,
    resize,
    row_mean,
    softmax,
)


def _quantize(p: Any, op: Any) -> bool:
    """Together with a transpose to channels last, where one follows."""
    reader = p.sole_reader(op.outputs[0])
    if reader is not None and reader.name == "transpose" and quantize_planes.lower(p, op, reader):
        return True
    return quantize.lower(p, op)


def _dequantize(p: Any, op: Any) -> bool:
    one = p.type(op.inputs[0]).quant.axis is None
    return dequantize.lower(p, op) if one else per_channel.lower_dequantize(p, op)


def _reduce_mean(p: Any, op: Any) -> bool:
    last = len(p.shape(op.inputs[0])) - 1
    return row_mean.lower(p, op) if last in op.axes else average.lower_mean(p, op)


# Adds the steps of an op to a plan, or returns False where the kernel does not do it.
KERNELS: dict[str, Callable[[Any, Any], bool]] = {
    "adaptive_average_pool": average.lower_adaptive,
    "add": elementwise.lower,
    "average_pool": average.lower_average_pool,
    "batch_norm": per_channel.lower_batch_norm,
    "concat": movement.lower_concat,
    "conv": products.lower,
    "conv_transpose": conv_transpose.lower,
    "depthwise_conv": depthwise.lower,
    "dequantize": _dequantize,
    "div": elementwise.lower,
    "expand": movement.lower_expand,
    "global_average_pool": average.lower_mean,
    "linear": products.lower,
    "lookup": lookup.lower,
    "max_pool": max_pool.lower,
    "maximum": elementwise.lower,
    "minimum": elementwise.lower,
    "mul": elementwise.lower,
    "pad": movement.lower_pad,
    "prelu": elementwise.lower,
    "quantize": _quantize,
    "reduce_mean": _reduce_mean,
    "reshape": movement.lower_reshape,
    "resize": resize.lower,
    "slice": movement.lower_slice,
    "softmax": softmax.lower,
    "sub": elementwise.lower,
    "transpose": movement.lower_transpose,
}

# The fields that the kernels of each op heed. An op with another is run by its reference.
WINDOW = ("stride", "dilation", "padding", "clamp", "numerics")
POOL = ("kernel", "stride", "dilation", "padding", "ceil_mode")
FIELDS: dict[str, tuple[str, ...]] = {
    "adaptive_average_pool": ("numerics",),
    "add": ("clamp", "numerics"),
    "average_pool": (*POOL, "include_padding", "divisor", "clamp", "numerics"),
    "batch_norm": ("clamp", "numerics"),
    "concat": ("axis",),
    "conv": (*WINDOW, "groups"),
    "conv_transpose": (*WINDOW, "output_padding", "groups"),
    "depthwise_conv": WINDOW,
    "dequantize": (),
    "div": ("clamp", "numerics"),
    "expand": (),
    "global_average_pool": ("numerics",),
    "linear": ("clamp", "numerics"),
    "lookup": ("function",),
    "max_pool": POOL,
    "maximum": (),
    "minimum": (),
    "mul": ("clamp", "numerics"),
    "pad": ("padding", "mode", "value"),
    "prelu": ("numerics",),
    "quantize": ("numerics",),
    "reduce_mean": ("axes", "keepdims", "numerics"),
    "reshape": (),
    "resize": ("mode", "coordinates", "nearest", "scales", "numerics"),
    "slice": ("starts", "stops", "steps"),
    "softmax": ("axis", "numerics", "log"),
    "sub": ("clamp", "numerics"),
    "transpose": ("perm",),
}


def lower(planner: Any, op: Any) -> bool:
    """Add the steps of an op to a plan; False where no kernel does it."""
    if op.name not in KERNELS or not set(op.fields()) <= set(FIELDS[op.name]):
        return False
    return KERNELS[op.name](planner, op)
