"""Operators over whole axes, in float32."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt.converters.building.composites import function, reduce
from nprt.converters.torch_ops.elementwise import Translate
from nprt.converters.torch_ops.importer import Importer, arguments
from nprt.converters.torch_ops.recording import Call
from nprt.errors import ModelError
from nprt.ops.add import Add
from nprt.ops.argmax import Argmax
from nprt.ops.cast import Cast
from nprt.ops.compare import Compare
from nprt.ops.concat import Concat
from nprt.ops.mul import Mul
from nprt.ops.reduce_mean import ReduceMean
from nprt.ops.rules import known
from nprt.ops.sub import Sub

# Longer running sums are not written out.
MAX_RUNNING_SUM = 512


def axes_of(m: Importer, x: str, dim: Any) -> tuple[int, ...]:
    """The reduced axes in order; all for None or an empty list."""
    rank = m.graph.types[x].rank
    chosen = range(rank) if dim is None or dim == [] else np.atleast_1d(dim).tolist()
    return tuple(sorted({int(axis) % rank for axis in chosen}))


def variance(root: bool, with_mean: bool = False) -> Translate:
    """var, std; with_mean: var_mean, std_mean."""

    def translate(m: Importer, call: Call) -> None:
        x, dim, correction, _ = arguments(call, "self", dim=None, correction=1, keepdim=False)
        value, out = m.real(x), m.out(call)
        axes = axes_of(m, value, dim)
        dims = m.graph.types[value].shape
        count = math.prod(known("a reduced dimension", dims[axis]) for axis in axes)
        freedom = count - (1 if correction is None else correction)
        if freedom <= 0:
            raise ModelError(f"{count} elements have no variance with correction {correction}")
        mean = m.emit(ReduceMean, value, out=f"{out}~mean", axes=axes, keepdims=True)
        centered = m.emit(Sub, value, mean, out=f"{out}~centered")
        square = m.emit(Mul, centered, centered, out=f"{out}~square")
        y = m.emit(ReduceMean, square, out=f"{out}~var", axes=axes, keepdims=True)
        if freedom != count:
            y = m.emit(Mul, y, m.number(count / freedom, out), out=f"{out}~corrected")
        if root:
            y = function(m, y, "sqrt", out)
        m.bind(call, m.to_shape(y, m.result(call).shape, out))
        if with_mean:
            m.bind(call, m.to_shape(mean, m.result(call, 1).shape, f"{out}~means"), 1)

    return translate


def vector_norm(m: Importer, call: Call) -> None:
    """linalg_vector_norm and norm along axes, of orders 1, 2 and infinity."""
    x, order, dim, keepdims, _ = arguments(call, "self", ord=2, dim=None, keepdim=False, dtype=None)
    order = 2 if order is None else order
    value, out = m.real(x), m.out(call)
    axes = axes_of(m, value, dim)
    if order in (1, 2):
        return m.bind(call, reduce(m, value, f"L{int(order)}", axes, bool(keepdims), out))
    if order == math.inf:
        absolute = function(m, value, "abs", out)
        return m.bind(call, reduce(m, absolute, "Max", axes, bool(keepdims), out))
    raise ModelError(f"a norm of order {order} is not supported; use 1, 2 or infinity")


def extreme(kind: str) -> Translate:
    """max and min: of all elements; or along an axis, and where along it the first one is."""

    def translate(m: Importer, call: Call) -> None:
        x, dim, keepdims = arguments(call, "self", dim=None, keepdim=False)
        value, out = m.real(x), m.out(call)
        axes = axes_of(m, value, dim)
        m.bind(call, reduce(m, value, kind, axes, bool(keepdims), out))
        if dim is None:
            return
        ref = call.outputs[1]
        assert ref is not None
        m.later(ref, lambda: index_of(m, value, kind, axes[0], bool(keepdims), f"{out}~index"))

    return translate


def index_of(m: Importer, x: str, kind: str, axis: int, keepdims: bool, out: str) -> str:
    x = function(m, x, "neg", out) if kind == "Min" else x
    return m.emit(Argmax, x, out=out, axis=axis, keepdims=keepdims)


def argmin(m: Importer, call: Call) -> None:
    x, axis, keepdims = arguments(call, "self", dim=None, keepdim=False)
    if axis is None:
        raise ModelError("argmin over all axes is not supported; name one")
    value = m.real(x)
    axis %= m.graph.types[value].rank
    m.bind(call, index_of(m, value, "Min", axis, bool(keepdims), m.out(call)))


def logsumexp(m: Importer, call: Call) -> None:
    x, dim, _ = arguments(call, "self", "dim", keepdim=False)
    value, out = m.real(x), m.out(call)
    axes = axes_of(m, value, dim)
    greatest = reduce(m, value, "Max", axes, True, out)
    scaled = function(m, m.emit(Sub, value, greatest, out=f"{out}~below"), "exp", out)
    total = function(m, reduce(m, scaled, "Sum", axes, True, out), "log", out)
    y = m.emit(Add, total, greatest, out=f"{out}~kept")
    m.bind(call, m.to_shape(y, m.result(call).shape, out))


def running_sum(m: Importer, call: Call) -> None:
    """cumsum, one addition after the other, as torch does."""
    x, axis, _ = arguments(call, "self", "dim", dtype=None)
    value, out = m.real(x), m.out(call)
    type = m.graph.types[value]
    axis %= type.rank
    count = known("a summed dimension", type.shape[axis])
    if type.dtype != m.type_of(m.result(call)).dtype or not 0 < count <= MAX_RUNNING_SUM:
        raise ModelError(
            f"a running sum of {count} elements of {type.dtype} is not supported; expected at most {MAX_RUNNING_SUM}, "
            "and a result of that dtype"
        )
    total, sums = "", []
    for index in range(count):
        part = m.sliced(value, {axis: (index, index + 1, 1)}, f"{out}~part")
        total = m.emit(Add, total, part, out=f"{out}~sum", like=type) if total else part
        sums.append(total)
    m.bind(call, m.emit(Concat, *sums, out=out, like=type, axis=axis))


def truth(kind: str) -> Translate:
    """any ("Max") and all ("Min"): of truth values as 0 and 1."""

    def translate(m: Importer, call: Call) -> None:
        x, dim, keepdims = arguments(call, "self", dim=None, keepdim=False)
        value, out = m.value(x), m.out(call)
        type = m.graph.types[value]
        zero = m.constant(np.zeros((), type.numpy), f"{out}~zero")
        holds = m.emit(Compare, value, zero, out=f"{out}~holds", relation="not_equal")
        real = m.emit(Cast, holds, out=f"{out}~real", like=type.with_dtype("float32"))
        y = reduce(m, real, kind, axes_of(m, real, dim), bool(keepdims), out)
        m.bind(call, m.emit(Compare, y, m.number(0.0, out), out=out, relation="not_equal"))

    return translate
