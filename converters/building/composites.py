"""Functions that a front end writes with several ops: reductions, normalizations, softmax."""

from __future__ import annotations

import math

import numpy as np

from nprt.converters.building.builder import Builder
from nprt.errors import ModelError, ShapeError
from nprt.ir import Array, Dim
from nprt.ops.add import Add
from nprt.ops.div import Div
from nprt.ops.max_pool import MaxPool
from nprt.ops.mul import Mul
from nprt.ops.reduce_mean import ReduceMean
from nprt.ops.reshape import Reshape
from nprt.ops.rules import known
from nprt.ops.softmax import Softmax
from nprt.ops.sub import Sub
from nprt.ops.transpose import Transpose
from nprt.ops.unary import Unary

Axes = tuple[int, ...]


def batch_norm_factors(
    scale: Array, bias: Array, mean: Array, var: Array, epsilon: float
) -> tuple[Array, Array]:
    """Factor and offset that batch norm amounts to, in the order in which onnxruntime computes them. All float32."""
    var = var + np.float32(epsilon)
    if not np.all(var > 0):
        raise ModelError("variance + epsilon is not positive everywhere")
    factor = scale * (np.float32(1) / np.sqrt(var))
    return factor, bias - mean * factor


def grouped_norm(m: Builder, x: str, groups: int, epsilon: float, out: str) -> str:
    """x (batch, channels, ...) normalized over each group of channels with all its positions."""
    dims = m.graph.types[x].shape
    size = known("channels", dims[1]) // groups
    rest = math.prod(known("a dimension", dim) for dim in dims[2:])
    x = m.to_shape(x, (dims[0], groups, size * rest), f"{out}~groups")
    y, _, _ = normalize(m, x, (2,), epsilon, out)
    return m.to_shape(y, dims, f"{out}~whole")


def reduce(m: Builder, x: str, kind: str, axes: Axes, keepdims: bool, out: str) -> str:
    """A reduction of a graph value."""
    if kind in ("L1", "L2", "SumSquare"):
        x = function(m, x, "abs", out) if kind == "L1" else m.emit(Mul, x, x, out=f"{out}~square")
    y = x
    if axes and kind in ("Max", "Min"):
        y = greatest(m, x, kind, axes, keepdims, out)
    elif axes:
        y = m.emit(ReduceMean, x, out=f"{out}~mean", axes=axes, keepdims=keepdims)
        if kind != "Mean":
            dims = m.graph.types[x].shape
            count = math.prod(known("a summed dimension", dims[axis]) for axis in axes)
            if count == 0:
                raise ShapeError(f"there is nothing to sum along axes {axes} of {list(dims)}")
            y = m.emit(Mul, y, m.number(count, out), out=f"{out}~sum")
    return function(m, y, "sqrt", out) if kind == "L2" else y


def greatest(m: Builder, x: str, kind: str, axes: Axes, keepdims: bool, out: str) -> str:
    """ReduceMax as a max pool over (the first axis that stays, the reduced axes, the other axes that stay)."""
    if kind == "Min":
        x = function(m, x, "neg", out)
    dims = m.graph.types[x].shape
    batch, *rest = [axis for axis in range(len(dims)) if axis not in axes] or [-1]
    first: tuple[Dim, ...] = () if batch < 0 else (dims[batch],)
    perm = ((batch,) if first else ()) + axes + tuple(rest)
    window = math.prod(known("a reduced dimension", dims[axis]) for axis in axes)
    stay = math.prod(known("a dimension beside the reduced ones", dims[axis]) for axis in rest)
    x = m.emit(Transpose, x, out=f"{out}~order", perm=perm)
    x = m.to_shape(x, (*(first or (1,)), window, stay), f"{out}~flat")
    y = m.emit(
        MaxPool,
        x,
        out=f"{out}~max",
        kernel=(window,),
        stride=(1,),
        dilation=(1,),
        padding=((0, 0),),
    )
    kept = [1 if axis in axes else dim for axis, dim in enumerate(dims)]
    shape = tuple(dim for axis, dim in enumerate(kept) if keepdims or axis not in axes)
    y = m.to_shape(y, shape, f"{out}~reduced")
    return function(m, y, "neg", out) if kind == "Min" else y


def function(m: Builder, x: str, name: str, out: str) -> str:
    return m.emit(Unary, x, out=f"{out}~{name}", function=name, parameters=())


def scaled_and_shifted(
    m: Builder,
    x: str,
    scale: Array,
    offset: Array,
    axis: int,
    out: str,
) -> str:
    """x * scale + offset with one number of each for every index along `axis`."""
    along = (-1, *(1,) * (m.graph.types[x].rank - 1 - axis))
    factor, shift = (
        m.constant(array.astype(np.float32).reshape(along), f"{out}~{what}")
        for array, what in ((scale, "factor"), (offset, "offset"))
    )
    y = m.emit(Mul, x, factor, out=f"{out}~scaled")
    return m.emit(Add, y, shift, out=out)


def normalize(m: Builder, x: str, axes: Axes, epsilon: float, out: str) -> tuple[str, str, str]:
    """(x - mean) / std along `axes`; also the mean and the standard deviation."""
    mean = m.emit(ReduceMean, x, out=f"{out}~mean", axes=axes, keepdims=True)
    centered = m.emit(Sub, x, mean, out=f"{out}~centered")
    std = root_mean_square(m, centered, axes, epsilon, out)
    return m.emit(Div, centered, std, out=f"{out}~normal"), mean, std


def root_mean_square(m: Builder, x: str, axes: Axes, epsilon: float, out: str) -> str:
    square = m.emit(Mul, x, x, out=f"{out}~square")
    mean = m.emit(ReduceMean, square, out=f"{out}~var", axes=axes, keepdims=True)
    return function(m, m.emit(Add, mean, m.number(epsilon, out), out=f"{out}~biased"), "sqrt", out)


def softmax_op(m: Builder, x: str, axis: int, one_axis: bool, out: str, log: bool = False) -> str:
    """Softmax along one axis, or before opset 13 over all axes from `axis` on."""
    type = m.graph.types[x]
    axis %= type.rank
    if one_axis or axis == type.rank - 1:
        if axis == type.rank - 1:
            return m.emit(Softmax, x, out=out, axis=axis, log=log)
        swap = list(range(type.rank))
        swap[axis], swap[-1] = swap[-1], swap[axis]
        y = m.emit(Transpose, x, out=f"{out}~last", perm=tuple(swap))
        y = m.emit(Softmax, y, out=f"{out}~softmax", axis=type.rank - 1, log=log)
        return m.emit(Transpose, y, out=out, perm=tuple(swap))
    flat = int(np.prod([known("a softmax dimension", d) for d in type.shape[axis:]]))
    y = m.emit(Reshape, x, out=f"{out}~flat", like=type.with_shape((*type.shape[:axis], flat)))
    y = m.emit(Softmax, y, out=f"{out}~softmax", axis=axis, log=log)
    return m.emit(Reshape, y, out=out, like=type)
