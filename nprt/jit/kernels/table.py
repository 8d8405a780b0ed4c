"""The kernels by the name of their op. An op without one is run by its reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

# A file in this folder, imported when a model first needs it, and its function. It adds the steps of an op to a plan,
# or returns False where its kernel does not do it; then the next one is asked.
KERNELS = {
    "adaptive_average_pool": "average.lower_adaptive",
    "add": "elementwise.lower",
    "average_pool": "average.lower_average_pool",
    "batch_norm": "per_channel.lower_batch_norm",
    "cast": "unary.lower_cast",
    "concat": "movement.lower_concat",
    "conv": "products.lower",
    "conv_transpose": "conv_transpose.lower",
    "depthwise_conv": "depthwise.lower",
    "dequantize": "dequantize.lower per_channel.lower_dequantize",
    "div": "elementwise.lower",
    "dynamic_linear": "dynamic.lower",
    "expand": "movement.lower_expand",
    "global_average_pool": "average.lower_mean",
    "layer_norm": "layer_norm.lower",
    "linear": "products.lower",
    "lookup": "lookup.lower",
    "matmul": "matmul.lower",
    "max_pool": "max_pool.lower",
    "maximum": "elementwise.lower",
    "minimum": "elementwise.lower",
    "mul": "elementwise.lower",
    "pad": "movement.lower_pad",
    "prelu": "elementwise.lower",
    "quantize": "quantize_planes.lower quantize.lower",
    "reduce_mean": "column_mean.lower row_mean.lower average.lower_mean",
    "reshape": "movement.lower_reshape",
    "resize": "resize.lower",
    "slice": "movement.lower_slice",
    "softmax": "softmax.lower",
    "sub": "elementwise.lower",
    "transpose": "movement.lower_transpose",
    "unary": "unary.lower",
}

# The fields that the kernels of each op heed. An op with another is run by its reference.
WINDOW = ("stride", "dilation", "padding", "clamp", "numerics")
POOL = ("kernel", "stride", "dilation", "padding", "ceil_mode")
FIELDS: dict[str, tuple[str, ...]] = {
    "adaptive_average_pool": ("numerics",),
    "add": ("clamp", "numerics"),
    "average_pool": (*POOL, "include_padding", "divisor", "clamp", "numerics"),
    "batch_norm": ("clamp", "numerics"),
    "cast": (),
    "concat": ("axis",),
    "conv": (*WINDOW, "groups"),
    "conv_transpose": (*WINDOW, "output_padding", "groups"),
    "depthwise_conv": WINDOW,
    "dequantize": (),
    "div": ("clamp", "numerics"),
    "dynamic_linear": ("per_row", "numerics", "reduce_range"),
    "expand": (),
    "global_average_pool": ("numerics",),
    "layer_norm": ("epsilon", "numerics"),
    "linear": ("clamp", "numerics"),
    "lookup": ("function",),
    "matmul": ("clamp", "numerics"),
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
    "unary": ("function", "parameters"),
}


def lower(planner: Any, op: Any) -> bool:
    """Add the steps of an op to a plan; False where no kernel does it."""
    if op.name not in KERNELS or not set(op.fields()) <= set(FIELDS[op.name]):
        return False
    return any(_function(place)(planner, op) for place in KERNELS[op.name].split())


@cache
def _function(place: str) -> Callable[[Any, Any], bool]:
    file, _, name = place.partition(".")
    function: Callable[[Any, Any], bool] = getattr(import_module(f"{__package__}.{file}"), name)
    return function
