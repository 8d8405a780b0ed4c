"""Operators that reduce axes to one element, and the normalizations that are made of them."""

from __future__ import annotations

import numpy as np

from nprt.converters.building.composites import (
    batch_norm_factors,
    function,
    grouped_norm,
    normalize,
    reduce,
    root_mean_square,
    scaled_and_shifted,
)
from nprt.converters.onnx_ops.folding import Translate
from nprt.converters.onnx_ops.importer import Importer, Node
from nprt.errors import ModelError, ShapeError
from nprt.ops.add import Add
from nprt.ops.argmax import Argmax
from nprt.ops.div import Div
from nprt.ops.mul import Mul
from nprt.ops.rules import known

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
    factors = batch_norm_factors(scale, bias, mean, var, node.attr("epsilon", 1e-5))
    y = scaled_and_shifted(m, m.value(node.input(0)), *factors, 1, node.output)
    m.bind(node.output, y)


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
    y = grouped_norm(m, x, groups, node.attr("epsilon", 1e-5), out)
    scale, bias = m.const(node.input(1), "scale"), m.const(node.input(2), "bias")
    if scale.size == groups != channels:  # before opset 21: one for each group
        scale, bias = (np.repeat(array, channels // groups) for array in (scale, bias))
    m.bind(out, scaled_and_shifted(m, y, scale, bias, 1, out))
