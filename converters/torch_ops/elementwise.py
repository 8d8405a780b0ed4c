"""Operators on each element by itself, and softmax, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from nprt.converters.building.composites import softmax_op
from nprt.converters.torch_ops.importer import Importer, arguments
from nprt.converters.torch_ops.recording import Call, Known, Ref
from nprt.errors import ModelError
from nprt.ir import Op
from nprt.ops.add import Add
from nprt.ops.cast import Cast
from nprt.ops.compare import Compare
from nprt.ops.div import Div
from nprt.ops.maximum import Maximum
from nprt.ops.minimum import Minimum
from nprt.ops.mul import Mul
from nprt.ops.power import Power
from nprt.ops.prelu import Prelu
from nprt.ops.rules import known
from nprt.ops.sub import Sub
from nprt.ops.unary import Unary
from nprt.ops.where import Where

Translate = Callable[[Importer, Call], None]

GREATEST = float(np.finfo(np.float32).max)


def apply(m: Importer, call: Call, x: str, function: str, *parameters: float) -> None:
    """Bind a call to a unary function of x."""
    numbers = tuple(float(np.float32(p)) for p in parameters)
    m.bind(call, m.emit(Unary, x, out=m.out(call), function=function, parameters=numbers))


def unary(function: str, **parameters: float) -> Translate:
    """A function whose parameters are arguments, given here by their names in torch with their defaults."""

    def translate(m: Importer, call: Call) -> None:
        x, *given = arguments(call, "self", **parameters)
        apply(m, call, m.real(x), function, *given)

    return translate


def fixed(function: str, *parameters: float) -> Translate:
    """A function whose parameters are always these."""

    def translate(m: Importer, call: Call) -> None:
        apply(m, call, m.real(call.args[0]), function, *parameters)

    return translate


def binary(cls: type[Op], *, swapped: bool = False) -> Translate:
    """add, sub, mul, div of two values or of a value and a number, with `alpha` as a factor of the second."""

    def translate(m: Importer, call: Call) -> None:
        a, b, alpha, mode = arguments(call, "self", "other", alpha=1, rounding_mode=None)
        if mode is not None:
            raise ModelError(f"rounding_mode={mode!r} is not supported")
        out = m.out(call)
        values = operands(m, call, a, b)
        if alpha != 1:
            values[1] = m.emit(
                Mul,
                values[1],
                m.number(alpha, out),
                out=f"{out}~scaled",
                like=m.graph.types[values[1]],
            )
        y = m.emit(
            cls, *(values[::-1] if swapped else values), out=out, like=m.graph.types[values[0]]
        )
        m.bind(call, y)

    return translate


def operands(m: Importer, call: Call, *items: Any) -> list[str]:
    """Graph values of one dtype: that of the result, float32 for codes; numbers become constants of it."""
    dtype = m.type_of(m.result(call)).dtype if not m.is_quantized(call.outputs[0]) else "float32"
    if dtype == "bool":
        dtypes = [
            m.graph.types[m.real(item)].dtype for item in items if isinstance(item, Ref | Known)
        ]
        dtype = "float32" if "float32" in dtypes else dtypes[0]
    values = []
    for item in items:
        if isinstance(item, Ref | Known):
            value = m.real(item, "operand")
            if m.graph.types[value].dtype != dtype:
                like = m.graph.types[value].with_dtype(dtype)
                value = m.emit(Cast, value, out=f"{m.out(call)}~cast", like=like)
        else:
            value = m.constant(np.asarray(item, dtype), f"{m.out(call)}~number")
        values.append(value)
    return values


def extreme(cls: type[Op]) -> Translate:
    def translate(m: Importer, call: Call) -> None:
        a, b = operands(m, call, *call.args[:2])
        m.bind(call, m.emit(cls, a, b, out=m.out(call), like=m.graph.types[a]))

    return translate


def compare(relation: str) -> Translate:
    def translate(m: Importer, call: Call) -> None:
        a, b = operands(m, call, *call.args[:2])
        m.bind(call, m.emit(Compare, a, b, out=m.out(call), relation=relation))

    return translate


def truth(m: Importer, item: Any, out: str) -> str:
    """A graph value that is true where an argument is not 0."""
    x = m.value(item, f"{out}~number")
    type = m.graph.types[x]
    if type.dtype == "bool":
        return x
    zero = m.constant(np.zeros((), type.numpy), f"{out}~zero")
    return m.emit(Compare, x, zero, out=f"{out}~truth", relation="not_equal")


def logical(kind: str) -> Translate:
    """Logical and, or, xor; also the bitwise ones, of truth values."""

    def translate(m: Importer, call: Call) -> None:
        out = m.out(call)
        if m.type_of(m.result(call)).dtype != "bool":
            raise ModelError("bitwise operators on integers are not supported")
        a, b = (truth(m, item, out) for item in call.args[:2])
        if kind == "xor":
            return m.bind(call, m.emit(Compare, a, b, out=out, relation="not_equal"))
        constant = m.constant(np.full((), kind == "or"), f"{out}~constant")
        chosen = (constant, b) if kind == "or" else (b, constant)
        like = m.graph.types[constant]
        return m.bind(call, m.emit(Where, a, *chosen, out=out, like=like))

    return translate


def bitwise_not(m: Importer, call: Call) -> None:
    if m.type_of(m.result(call)).dtype != "bool":
        raise ModelError("bitwise operators on integers are not supported")
    logical_not(m, call)


def logical_not(m: Importer, call: Call) -> None:
    x = m.value(call.args[0])
    false = m.constant(np.zeros((), m.graph.types[x].numpy), f"{m.out(call)}~false")
    m.bind(call, m.emit(Compare, x, false, out=m.out(call), relation="equal"))


def where(m: Importer, call: Call) -> None:
    condition, a, b = call.args
    values = operands(m, call, a, b)
    y = m.emit(Where, m.value(condition), *values, out=m.out(call), like=m.graph.types[values[0]])
    m.bind(call, y)


def masked_fill(m: Importer, call: Call) -> None:
    x, mask, value = call.args
    values = operands(m, call, value, x)
    if call.overload == "Tensor" and isinstance(value, Known) and not value.tensor.ndim == 0:
        raise ModelError("masked_fill takes a number")
    y = m.emit(Where, m.value(mask), *values, out=m.out(call), like=m.graph.types[values[1]])
    m.bind(call, y)


def clamp(m: Importer, call: Call) -> None:
    x, low, high = arguments(call, "self", min=None, max=None)
    if not any(isinstance(limit, Ref | Known) for limit in (low, high)):
        return clip(m, call, x, low, high)
    y, *bounds = operands(m, call, x, *(bound for bound in (low, high) if bound is not None))
    ops = [cls for cls, bound in ((Maximum, low), (Minimum, high)) if bound is not None]
    for cls, bound in zip(ops, bounds, strict=True):
        y = m.emit(cls, y, bound, out=m.out(call), like=m.graph.types[y])
    return m.bind(call, y)


def clip(m: Importer, call: Call, x: Any, low: float | None, high: float | None) -> None:
    low, high = (-GREATEST if low is None else low), (GREATEST if high is None else high)
    if low == 0 and high == GREATEST:
        return apply(m, call, m.real(x), "relu")
    return apply(m, call, m.real(x), "clip", min(low, high), high)


def clamp_min(m: Importer, call: Call) -> None:
    clamp(m, replace(call, args=(*call.args, None)))


def clamp_max(m: Importer, call: Call) -> None:
    clamp(m, replace(call, args=(call.args[0], None, call.args[1])))


def hardtanh(m: Importer, call: Call) -> None:
    x, low, high = arguments(call, "self", min_val=-1.0, max_val=1.0)
    clip(m, call, x, low, high)


def elu(m: Importer, call: Call) -> None:
    x, alpha, scale, input_scale = arguments(call, "self", alpha=1.0, scale=1.0, input_scale=1.0)
    if input_scale != 1:
        apply(m, call, m.real(x), "celu", 1 / input_scale)
    elif scale != 1:
        apply(m, call, m.real(x), "selu", alpha, scale)
    else:
        apply(m, call, m.real(x), "elu", alpha)


def gelu(m: Importer, call: Call) -> None:
    x, approximate = arguments(call, "self", approximate="none")
    apply(m, call, m.real(x), "gelu_tanh" if approximate == "tanh" else "gelu")


def scaled(function: str, before: float = 1.0, after: float = 1.0) -> Translate:
    """`after * function(before * x)`: exponentials and logarithms to another base."""

    def translate(m: Importer, call: Call) -> None:
        y, out = m.real(call.args[0]), m.out(call)
        if before != 1:
            y = m.emit(Mul, y, m.number(before, out), out=f"{out}~before")
        y = m.emit(Unary, y, out=f"{out}~{function}", function=function)
        if after != 1:
            y = m.emit(Mul, y, m.number(after, out), out=out)
        m.bind(call, y)

    return translate


def exp2(m: Importer, call: Call) -> None:
    y = m.emit(Power, m.number(2.0, m.out(call)), m.real(call.args[0]), out=m.out(call))
    m.bind(call, y)


def logit(m: Importer, call: Call) -> None:
    """`log(x / (1 - x))`, x kept at a distance eps from 0 and 1 where it is given."""
    x, eps = arguments(call, "self", eps=None)
    y, out = m.real(x), m.out(call)
    if eps is not None:
        bounds = float(np.float32(eps)), float(np.float32(1 - eps))
        y = m.emit(Unary, y, out=f"{out}~clip", function="clip", parameters=bounds)
    rest = m.emit(Sub, m.number(1.0, out), y, out=f"{out}~rest")
    odds = m.emit(Div, y, rest, out=f"{out}~odds")
    m.bind(call, m.emit(Unary, odds, out=out, function="log"))


def is_nan(m: Importer, call: Call) -> None:
    x = m.real(call.args[0])
    m.bind(call, m.emit(Compare, x, x, out=m.out(call), relation="not_equal"))


def nan_to_num(m: Importer, call: Call) -> None:
    x, *values = arguments(call, "self", nan=None, posinf=None, neginf=None)
    if any(values):
        raise ModelError("nan_to_num with other numbers than its own is not supported")
    y, out = m.real(x), m.out(call)
    y = m.emit(Unary, y, out=f"{out}~number", function="nan_to_zero")
    apply(m, call, y, "clip", -GREATEST, GREATEST)


def fused(cls: type[Op]) -> Translate:
    """addcmul and addcdiv: `x + value * (a op b)`."""

    def translate(m: Importer, call: Call) -> None:
        x, a, b, value = arguments(call, "self", "tensor1", "tensor2", value=1)
        out = m.out(call)
        y = m.emit(cls, m.real(a), m.real(b), out=f"{out}~product")
        if value != 1:
            y = m.emit(Mul, y, m.number(value, out), out=f"{out}~scaled")
        m.bind(call, m.emit(Add, m.real(x), y, out=out))

    return translate


def lerp(m: Importer, call: Call) -> None:
    """`a + weight * (b - a)`."""
    a, b, weight = arguments(call, "self", "end", "weight")
    out = m.out(call)
    start = m.real(a)
    way = m.emit(Sub, m.real(b), start, out=f"{out}~way")
    step = m.emit(Mul, operands(m, call, weight)[0], way, out=f"{out}~step")
    m.bind(call, m.emit(Add, start, step, out=out))


def glu(m: Importer, call: Call) -> None:
    """The first half along an axis times the sigmoid of the second."""
    x, axis = arguments(call, "self", dim=-1)
    value, out = m.real(x), m.out(call)
    axis %= m.graph.types[value].rank
    size = known("a halved dimension", m.graph.types[value].shape[axis])
    a = m.sliced(value, {axis: (0, size // 2, 1)}, f"{out}~value")
    gate = m.sliced(value, {axis: (size // 2, size, 1)}, f"{out}~half")
    gate = m.emit(Unary, gate, out=f"{out}~gate", function="sigmoid")
    m.bind(call, m.emit(Mul, a, gate, out=out))


def softplus(m: Importer, call: Call) -> None:
    """Linear above a threshold, where float32 cannot tell it from the function."""
    x, beta, threshold = arguments(call, "self", beta=1.0, threshold=20.0)
    if beta * threshold < 16:
        raise ModelError(f"softplus with threshold={threshold} is not supported; use 20")
    apply(m, call, m.real(x), "softplus", beta)


def power(m: Importer, call: Call) -> None:
    x, exponent = call.args
    value = m.real(x)
    if isinstance(exponent, Ref | Known):
        m.bind(call, m.emit(Power, *operands(m, call, x, exponent), out=m.out(call)))
    elif exponent == 2:
        m.bind(call, m.emit(Mul, value, value, out=m.out(call), like=m.graph.types[value]))
    else:
        apply(m, call, value, "pow", exponent)


def prelu(m: Importer, call: Call) -> None:
    x, slope = m.real(call.args[0]), m.array(call.args[1], "the slope of prelu")
    if slope.size == 1:
        return apply(m, call, x, "leaky_relu", float(slope.reshape(())))
    weight = m.constant(slope.reshape(-1), m.out(call))
    if m.graph.types[x].rank < 3:
        return m.bind(call, m.emit(Prelu, x, weight, out=m.out(call)))
    y = m.emit(Prelu, m.channels_last(x), weight, out=f"{m.out(call)}~nhwc")
    return m.bind(call, m.channels_first(y, m.out(call)))


def softmax(log: bool) -> Translate:
    def translate(m: Importer, call: Call) -> None:
        x, axis = m.real(call.args[0]), call.args[1]
        m.bind(call, softmax_op(m, x, axis, True, m.out(call), log))

    return translate
