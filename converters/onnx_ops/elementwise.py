"""Operators on each element by itself: binary arithmetic, activations, batch norm, softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nprt.converters.onnx_ops.importer import Importer, Node
from nprt.errors import ModelError
from nprt.ir import Op
from nprt.ops.add import Add
from nprt.ops.cast import Cast
from nprt.ops.mul import Mul
from nprt.ops.prelu import Prelu
from nprt.ops.reshape import Reshape
from nprt.ops.rules import known
from nprt.ops.softmax import Softmax
from nprt.ops.transpose import Transpose
from nprt.ops.unary import Unary

Translate = Callable[[Importer, Node], None]


def binary(cls: type[Op]) -> Translate:
    """Add, Sub, Mul, Div on two values."""

    def translate(m: Importer, node: Node) -> None:
        a, b = m.value(node.input(0)), m.value(node.input(1))
        m.bind(node.output, m.emit(cls, a, b, out=node.output, like=m.graph.types[a]))

    return translate


def unary(function: str, **attributes: float) -> Translate:
    """An activation whose parameters are attributes, given here with their defaults."""

    def translate(m: Importer, node: Node) -> None:
        parameters = tuple(float(np.float32(node.attr(*item))) for item in attributes.items())
        apply(m, m.value(node.input(0)), node.output, function, *parameters)

    return translate


def apply(m: Importer, x: str, out: str, function: str, *parameters: float) -> None:
    """Bind `out` to a unary function of x."""
    m.bind(out, m.emit(Unary, x, out=out, function=function, parameters=parameters))


def clip(m: Importer, node: Node) -> None:
    """Bounds are attributes before opset 11, inputs from then on."""
    limit = float(np.finfo(np.float32).max)
    if m.opset < 11:
        low, high = node.attr("min", -limit), node.attr("max", limit)
    else:
        low, high = (
            float(m.const(name, what).reshape(())) if name else default
            for name, what, default in (
                (node.input(1), "min", -limit),
                (node.input(2), "max", limit),
            )
        )
    clip_op(m, node, low, high)


def clip_op(m: Importer, node: Node, low: float, high: float) -> None:
    if low > high:
        raise ModelError(f"min {low} is above max {high}")
    apply(m, m.value(node.input(0)), node.output, "clip", float(low), float(high))


def bound(which: str) -> Translate:
    """Max or Min of a value and a constant number, which is a clip."""

    def translate(m: Importer, node: Node) -> None:
        limit = float(np.finfo(np.float32).max)
        constants = [name for name in node.inputs if name in m.known]
        if len(node.inputs) != 2 or len(constants) != 1 or m.known[constants[0]].size != 1:
            raise ModelError(f"{which} is supported for a value and one constant number")
        number = float(m.known[constants[0]].reshape(()))
        x = next(name for name in node.inputs if name not in m.known)
        low, high = (number, limit) if which == "Max" else (-limit, number)
        apply(m, m.value(x), node.output, "clip", low, high)

    return translate


def thresholded_relu(m: Importer, node: Node) -> None:
    alpha = float(node.attr("alpha", 1.0))
    apply(m, m.value(node.input(0)), node.output, "threshold", alpha, 0.0)


def gelu(m: Importer, node: Node) -> None:
    tanh = node.attr("approximate", "none") == "tanh"
    apply(m, m.value(node.input(0)), node.output, "gelu_tanh" if tanh else "gelu")


def power(m: Importer, node: Node) -> None:
    exponent = m.const(node.input(1), "the exponent")
    if exponent.size != 1:
        raise ModelError("Pow is supported with one constant exponent")
    x, value = m.value(node.input(0)), float(exponent.reshape(()))
    if value == 2.0:
        m.bind(node.output, m.emit(Mul, x, x, out=node.output))
    else:
        apply(m, x, node.output, "pow", value)


def prelu(m: Importer, node: Node) -> None:
    x = m.value(node.input(0))
    type = m.graph.types[x]
    slope = m.const(node.input(1), "slope")
    if slope.size == 1:
        return apply(m, x, node.output, "leaky_relu", float(slope.reshape(())))
    if type.rank < 2 or slope.size != type.shape[1]:
        raise ModelError(
            f"slope {list(slope.shape)} is neither one number nor one for each channel of {type}"
        )
    vector = m.constant(slope.reshape(-1), node.input(1))
    if type.rank == 2:
        return m.bind(node.output, m.emit(Prelu, x, vector, out=node.output))
    y = m.emit(Prelu, m.channels_last(x), vector, out=f"{node.output}~nhwc")
    return m.bind(node.output, m.channels_first(y, node.output))


def batch_norm(m: Importer, node: Node) -> None:
    """x * (scale / sqrt(var + epsilon)) + (bias - mean * that); the passes fold it into the layer before."""
    if node.attr("training_mode", 0) or any(node.outputs[1:]):
        raise ModelError("BatchNormalization in training mode; export the model in eval mode")
    node.ignore("momentum", "spatial")
    scale, bias, mean, var = (
        m.const(name, what).astype(np.float64)
        for name, what in zip(node.inputs[1:], ("scale", "bias", "mean", "variance"), strict=True)
    )
    var = var + node.attr("epsilon", 1e-5)
    if not np.all(var > 0):
        raise ModelError("variance + epsilon is not positive everywhere")
    x = m.value(node.input(0))
    rank = m.graph.types[x].rank
    factor = scale / np.sqrt(var)
    along = (-1, *(1,) * (rank - 2))
    a = m.constant(factor.astype(np.float32).reshape(along), f"{node.output}~factor")
    b = m.constant(
        (bias - mean * factor).astype(np.float32).reshape(along), f"{node.output}~offset"
    )
    y = m.emit(Mul, x, a, out=f"{node.output}~scaled")
    m.bind(node.output, m.emit(Add, y, b, out=node.output))


def softmax(m: Importer, node: Node) -> None:
    axis = node.attr("axis", -1 if m.opset >= 13 else 1)
    m.bind(node.output, softmax_op(m, m.value(node.input(0)), axis, m.opset >= 13, node.output))


def softmax_op(m: Importer, x: str, axis: int, one_axis: bool, out: str) -> str:
    """Softmax along one axis, or before opset 13 over all axes from `axis` on."""
    type = m.graph.types[x]
    axis %= type.rank
    if one_axis or axis == type.rank - 1:
        if axis == type.rank - 1:
            return m.emit(Softmax, x, out=out, axis=axis)
        swap = list(range(type.rank))
        swap[axis], swap[-1] = swap[-1], swap[axis]
        y = m.emit(Transpose, x, out=f"{out}~last", perm=tuple(swap))
        y = m.emit(Softmax, y, out=f"{out}~softmax", axis=type.rank - 1)
        return m.emit(Transpose, y, out=out, perm=tuple(swap))
    flat = int(np.prod([known("a softmax dimension", d) for d in type.shape[axis:]]))
    y = m.emit(Reshape, x, out=f"{out}~flat", like=type.with_shape((*type.shape[:axis], flat)))
    y = m.emit(Softmax, y, out=f"{out}~softmax", axis=axis)
    return m.emit(Reshape, y, out=out, like=type)


def log_softmax(m: Importer, node: Node) -> None:
    axis = node.attr("axis", -1 if m.opset >= 13 else 1)
    y = softmax_op(m, m.value(node.input(0)), axis, m.opset >= 13, f"{node.output}~softmax")
    apply(m, y, node.output, "log")


def cast(m: Importer, node: Node) -> None:
    from onnx.helper import tensor_dtype_to_np_dtype

    node.ignore("saturate", "round_mode")
    dtype: Any = tensor_dtype_to_np_dtype(node.attr("to"))
    if node.input(0) in m.known:
        array = m.known[node.input(0)]
        # Symbols stay as they are: a shape is a shape in any integer dtype.
        m.known[node.output] = array if array.dtype == object else array.astype(dtype)
        return
    x = m.value(node.input(0))
    if m.graph.types[x].dtype == dtype.name:
        m.bind(node.output, x)
    else:
        m.bind(
            node.output,
            m.emit(Cast, x, out=node.output, like=m.graph.types[x].with_dtype(dtype.name)),
        )


def layer_norm(m: Importer, node: Node) -> None:
    """LayerNormalization in its parts, over the last axes."""
    from nprt.ops.div import Div
    from nprt.ops.reduce_mean import ReduceMean
    from nprt.ops.sub import Sub

    if any(node.outputs[1:]):
        raise ModelError("the outputs Mean and InvStdDev are not supported")
    node.ignore("stash_type")
    x, out = m.value(node.input(0)), node.output
    rank = m.graph.types[x].rank
    axes = tuple(range(node.attr("axis", -1) % rank, rank))
    mean = m.emit(ReduceMean, x, out=f"{out}~mean", axes=axes, keepdims=True)
    centered = m.emit(Sub, x, mean, out=f"{out}~centered")
    square = m.emit(Mul, centered, centered, out=f"{out}~square")
    var = m.emit(ReduceMean, square, out=f"{out}~var", axes=axes, keepdims=True)
    epsilon = m.constant(np.asarray(node.attr("epsilon", 1e-5), np.float32), f"{out}~epsilon")
    var = m.emit(Add, var, epsilon, out=f"{out}~var_epsilon")
    std = m.emit(Unary, var, out=f"{out}~std", function="sqrt", parameters=())
    y = m.emit(Div, centered, std, out=f"{out}~normal")
    y = m.emit(Mul, y, m.value(node.input(1)), out=f"{out}~scaled")
    if node.input(2):
        y = m.emit(Add, y, m.value(node.input(2)), out=f"{out}~biased")
    m.bind(out, y)
