"""Operators on each element by itself, and softmax."""

from __future__ import annotations

from typing import Any

import numpy as np

from nprt.converters.building.composites import softmax_op
from nprt.converters.graph import FLOAT
from nprt.converters.onnx_ops.folding import Translate
from nprt.converters.onnx_ops.importer import Importer, Node
from nprt.ir import Op
from nprt.ops.cast import Cast
from nprt.ops.compare import Compare
from nprt.ops.maximum import Maximum
from nprt.ops.minimum import Minimum
from nprt.ops.mul import Mul
from nprt.ops.power import Power
from nprt.ops.prelu import Prelu
from nprt.ops.unary import Unary
from nprt.ops.where import Where

# The greatest float32: no bound.
GREATEST = float(np.finfo(np.float32).max)


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
    """Bounds are attributes before opset 11, inputs from then on; where they cross, the maximum wins."""
    x = m.value(node.input(0))
    if m.opset < 11:
        low, high = node.attr("min", -GREATEST), node.attr("max", GREATEST)
    else:
        names = [name for name in node.inputs[1:] if name]
        if not m.graph.types[x].is_float or not all(name in m.known for name in names):
            for name, cls in zip(node.inputs[1:], (Maximum, Minimum), strict=False):
                if name:
                    x = m.emit(cls, x, m.value(name), out=node.output)
            return m.bind(node.output, x)
        low, high = (
            float(m.known[name].reshape(())) if name else default
            for name, default in ((node.input(1), -GREATEST), (node.input(2), GREATEST))
        )
    return apply(m, x, node.output, "clip", float(min(low, high)), float(high))


def variadic(cls: type[Op]) -> Translate:
    """Sum, Mean, Max, Min: a binary op along all inputs. Max and Min with one constant number are a clip."""

    def translate(m: Importer, node: Node) -> None:
        values = [m.value(name) for name in node.inputs]
        numbers = [v for v in values if m.graph.types[v] == FLOAT and v in m.graph.constants]
        if cls in (Maximum, Minimum) and len(values) == 2 and len(numbers) == 1:
            (x,) = (v for v in values if v not in numbers)
            limit = float(m.graph.constants[numbers[0]])
            low, high = (limit, GREATEST) if cls is Maximum else (-GREATEST, limit)
            return apply(m, x, node.output, "clip", low, high)
        y = values[0]
        for value in values[1:]:
            y = m.emit(cls, y, value, out=node.output, like=m.graph.types[y])
        if node.op_type == "Mean":
            share = m.constant(np.asarray(1 / len(values), np.float32), f"{node.output}~share")
            y = m.emit(Mul, y, share, out=node.output)
        return m.bind(node.output, y)

    return translate


def compare(relation: str) -> Translate:
    def translate(m: Importer, node: Node) -> None:
        a, b = m.value(node.input(0)), m.value(node.input(1))
        m.bind(node.output, m.emit(Compare, a, b, out=node.output, relation=relation))

    return translate


def is_nan(m: Importer, node: Node) -> None:
    """Only NaN differs from itself."""
    x = m.value(node.input(0))
    m.bind(node.output, m.emit(Compare, x, x, out=node.output, relation="not_equal"))


def logical_not(m: Importer, node: Node) -> None:
    x, false = m.value(node.input(0)), m.constant(np.zeros((), bool), f"{node.output}~false")
    m.bind(node.output, m.emit(Compare, x, false, out=node.output, relation="equal"))


def where(m: Importer, node: Node) -> None:
    """Where; in the form that takes NaN for 0, as exporters write attention, a function of one element."""
    condition, a, b = (m.value(node.input(i)) for i in range(3))
    test = m.graph.producers().get(condition)
    if isinstance(test, Compare) and test.inputs == (b, b) and test.relation == "not_equal":
        zero = m.graph.constants.get(a)
        if zero is not None and zero.size == 1 and not zero.any() and m.graph.types[b].is_float:
            return apply(m, b, node.output, "nan_to_zero")
    y = m.emit(Where, condition, a, b, out=node.output, like=m.graph.types[a])
    return m.bind(node.output, y)


def thresholded_relu(m: Importer, node: Node) -> None:
    alpha = float(node.attr("alpha", 1.0))
    apply(m, m.value(node.input(0)), node.output, "threshold", alpha, 0.0)


def gelu(m: Importer, node: Node) -> None:
    tanh = node.attr("approximate", "none") == "tanh"
    apply(m, m.value(node.input(0)), node.output, "gelu_tanh" if tanh else "gelu")


def power(m: Importer, node: Node) -> None:
    x, exponent = m.value(node.input(0)), m.value(node.input(1))
    type = m.graph.types[exponent]
    if type.dtype in ("int32", "int64"):
        exponent = m.emit(Cast, exponent, out=f"{exponent}~real", like=type.with_dtype("float32"))
    array = m.graph.constants.get(exponent)
    if array is None or array.size != 1 or array.ndim > m.graph.types[x].rank:
        y = m.emit(Power, x, exponent, out=node.output)
    elif float(array.reshape(())) == 2.0:
        y = m.emit(Mul, x, x, out=node.output, like=m.graph.types[x])
    else:
        return apply(m, x, node.output, "pow", float(array.reshape(())))
    return m.bind(node.output, y)


def prelu(m: Importer, node: Node) -> None:
    x = m.value(node.input(0))
    type = m.graph.types[x]
    slope = m.const(node.input(1), "slope")
    if slope.size == 1:
        return apply(m, x, node.output, "leaky_relu", float(slope.reshape(())))
    if type.rank < 3 or slope.ndim < type.rank - 1 or slope.size != slope.shape[1 - type.rank]:
        return m.bind(node.output, m.emit(Prelu, x, m.value(node.input(1)), out=node.output))
    per_channel = m.constant(slope.reshape(-1), node.input(1))
    y = m.emit(Prelu, m.channels_last(x), per_channel, out=f"{node.output}~nhwc")
    return m.bind(node.output, m.channels_first(y, node.output))


def softmax(m: Importer, node: Node) -> None:
    softmax_node(m, node, log=False)


def log_softmax(m: Importer, node: Node) -> None:
    softmax_node(m, node, log=True)


def softmax_node(m: Importer, node: Node, log: bool) -> None:
    axis = node.attr("axis", -1 if m.opset >= 13 else 1)
    x = m.value(node.input(0))
    m.bind(node.output, softmax_op(m, x, axis, m.opset >= 13, node.output, log))


def cast(m: Importer, node: Node) -> None:
    from onnx.helper import tensor_dtype_to_np_dtype

    node.ignore("saturate", "round_mode")
    dtype: Any = tensor_dtype_to_np_dtype(node.attr("to"))
    array = m.known.get(node.input(0))
    if array is not None:
        # Symbols stay as they are: a shape is a shape in any integer dtype.
        return m.know(node.output, array if array.dtype == object else array.astype(dtype))
    x = m.value(node.input(0))
    if m.graph.types[x].dtype != dtype.name:
        x = m.emit(Cast, x, out=node.output, like=m.graph.types[x].with_dtype(dtype.name))
    return m.bind(node.output, x)
