"""Operators that reduce axes to one element, and the normalizations that are made of them."""

from __future__ import annotations

import math

import numpy as np

from nprt.converters.onnx_ops.folding import Translate
from nprt.converters.onnx_ops.importer import Importer, Node
from nprt.converters.onnx_ops.movement import to_shape
from nprt.errors import ModelError, ShapeError
from nprt.ir import Array, Dim
from nprt.ops.add import Add
from nprt.ops.argmax import Argmax
from nprt.ops.div import Div
from nprt.ops.max_pool import MaxPool
from nprt.ops.mul import Mul
from nprt.ops.reduce_mean import ReduceMean
from nprt.ops.rules import known
from nprt.ops.sub import Sub
from nprt.ops.transpose import Transpose
from nprt.ops.unary import Unary

Axes = tuple[int, ...]

# Since these opsets the axes are an input.
AXES_INPUT = {"ReduceSum": 13}


def reduction(kind: str) -> Translate:
    """ReduceMean and its kin, by the name that they have after "Reduce"."""

    def translate(m: Importer, node: Node) -> None:
        x = m.value(node.input(0))
        rank = m.graph.types[x].rank
        given = m.optional_ints(node, "axes", 1, since=AXES_INPUT.get(node.op_type, 18))
        keepdims = bool(node.attr("keepdims", 1))
        noop = node.attr("noop_with_empty_axes", 0) and not given
        axes = tuple(sorted({axis % rank for axis in given or () if -rank <= axis < rank}))
        if len(axes) != len(given or ()):
            raise ShapeError(f"axes {given} are not distinct axes of {m.graph.types[x]}")
        if not given and not noop:
            axes = tuple(range(rank))
        m.bind(node.output, reduce(m, x, kind, axes, keepdims, node.output))

    return translate


def reduce(m: Importer, x: str, kind: str, axes: Axes, keepdims: bool, out: str) -> str:
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
            y = m.emit(Mul, y, number(m, count, out), out=f"{out}~sum")
    return function(m, y, "sqrt", out) if kind == "L2" else y


def greatest(m: Importer, x: str, kind: str, axes: Axes, keepdims: bool, out: str) -> str:
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
    x = to_shape(m, x, (*(first or (1,)), window, stay), f"{out}~flat")
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
    y = to_shape(m, y, shape, f"{out}~reduced")
    return function(m, y, "neg", out) if kind == "Min" else y


def function(m: Importer, x: str, name: str, out: str) -> str:
    return m.emit(Unary, x, out=f"{out}~{name}", function=name, parameters=())


def number(m: Importer, value: float, out: str) -> str:
    return m.constant(np.asarray(value, np.float32), f"{out}~number")


def argmax(m: Importer, node: Node) -> None:
    """ArgMax, and ArgMin as the ArgMax of what is negated."""
    if node.attr("select_last_index", 0):
        raise ModelError("select_last_index=1 is not supported")
    x = m.value(node.input(0))
    if node.op_type == "ArgMin":
        x = function(m, x, "neg", node.output)
    axis = node.attr("axis", 0) % m.graph.types[x].rank
    keep = bool(node.attr("keepdims", 1))
    m.bind(node.output, m.emit(Argmax, x, out=node.output, axis=axis, keepdims=keep))


# --- normalization ------------------------------------------------------------------------------------


def batch_norm(m: Importer, node: Node) -> None:
    """x * (scale / sqrt(var + epsilon)) + (bias - mean * that); the passes fold it into the layer before."""
    if node.attr("training_mode", 0) or any(node.outputs[1:]):
        raise ModelError("BatchNormalization in training mode; export the model in eval mode")
    node.ignore("momentum", "spatial")
    scale, bias, mean, var = (
        m.const(name, what).astype(np.float32)
        for name, what in zip(node.inputs[1:], ("scale", "bias", "mean", "variance"), strict=True)
    )
    var = var + np.float32(node.attr("epsilon", 1e-5))
    if not np.all(var > 0):
        raise ModelError("variance + epsilon is not positive everywhere")
    factor = scale * (
        np.float32(1) / np.sqrt(var)
    )  # in this order, to the bit what onnxruntime has
    y = scaled_and_shifted(m, m.value(node.input(0)), factor, bias - mean * factor, 1, node.output)
    m.bind(node.output, y)


def scaled_and_shifted(
    m: Importer,
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


def normalize(m: Importer, x: str, axes: Axes, epsilon: float, out: str) -> tuple[str, str, str]:
    """(x - mean) / std along `axes`; also the mean and the standard deviation."""
    mean = m.emit(ReduceMean, x, out=f"{out}~mean", axes=axes, keepdims=True)
    centered = m.emit(Sub, x, mean, out=f"{out}~centered")
    std = root_mean_square(m, centered, axes, epsilon, out)
    return m.emit(Div, centered, std, out=f"{out}~normal"), mean, std


def root_mean_square(m: Importer, x: str, axes: Axes, epsilon: float, out: str) -> str:
    square = m.emit(Mul, x, x, out=f"{out}~square")
    mean = m.emit(ReduceMean, square, out=f"{out}~var", axes=axes, keepdims=True)
    return function(m, m.emit(Add, mean, number(m, epsilon, out), out=f"{out}~biased"), "sqrt", out)


def layer_norm(m: Importer, node: Node) -> None:
    """LayerNormalization and RMSNormalization, over the last axes."""
    node.ignore("stash_type")
    x, out = m.value(node.input(0)), node.output
    rank = m.graph.types[x].rank
    axes = tuple(range(node.attr("axis", -1) % rank, rank))
    epsilon = node.attr("epsilon", 1e-5)
    if node.op_type == "RMSNormalization":
        rms = root_mean_square(m, x, axes, epsilon, out)
        y = m.emit(Div, x, rms, out=f"{out}~normal")
    else:
        y, mean, std = normalize(m, x, axes, epsilon, out)
        if len(node.outputs) > 1 and node.outputs[1]:
            m.bind(node.outputs[1], mean)
        if len(node.outputs) > 2 and node.outputs[2]:
            m.bind(node.outputs[2], function(m, std, "reciprocal", out))
    y = m.emit(Mul, y, m.value(node.input(1)), out=f"{out}~scaled")
    if node.input(2):
        y = m.emit(Add, y, m.value(node.input(2)), out=out)
    m.bind(out, y)


def group_norm(m: Importer, node: Node) -> None:
    """GroupNormalization, and InstanceNormalization, which has one channel in each group."""
    node.ignore("stash_type")
    x, out = m.value(node.input(0)), node.output
    dims = m.graph.types[x].shape
    channels = known("channels", dims[1])
    groups = channels if node.op_type == "InstanceNormalization" else node.attr("num_groups")
    if groups < 1 or channels % groups:
        raise ShapeError(f"{channels} channels are not {groups} equal groups")
    rest = math.prod(known("a dimension", dim) for dim in dims[2:])
    x = to_shape(m, x, (dims[0], groups, channels // groups * rest), f"{out}~groups")
    y, _, _ = normalize(m, x, (2,), node.attr("epsilon", 1e-5), out)
    y = to_shape(m, y, dims, f"{out}~whole")
    scale, bias = m.const(node.input(1), "scale"), m.const(node.input(2), "bias")
    if scale.size == groups != channels:  # before opset 21: one for each group
        scale, bias = (np.repeat(array, channels // groups) for array in (scale, bias))
    m.bind(out, scaled_and_shifted(m, y, scale, bias, 1, out))
