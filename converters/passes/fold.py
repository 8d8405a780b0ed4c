"""Constants: ops on constants are computed now, and constant factors and offsets go into the layer before."""

from __future__ import annotations

import dataclasses

import numpy as np

from nprt.converters.graph import DERIVED, Graph, Rewriter, trimmed
from nprt.ir import Array, Dim, Op, Tensor, TensorType, numel, symbols
from nprt.ops.add import Add
from nprt.ops.conv import Conv
from nprt.ops.conv_transpose import ConvTranspose
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.dequantize import Dequantize
from nprt.ops.linear import Linear
from nprt.ops.mul import Mul
from nprt.ops.rules import known
from nprt.ops.sub import Sub

# A constant that is larger than this, and than what it is made of, is left to be computed when the model runs.
MAX_FOLDED_ELEMENTS = 1 << 24

LAYERS = (Conv, DepthwiseConv, ConvTranspose, Linear)


def fold_constants(graph: Graph) -> None:
    """Compute every op whose inputs are all constants; see `folded`."""

    def rule(rewriter: Rewriter, op: Op) -> bool:
        value = folded(graph, op, graph.types[op.outputs[0]])
        if value is None:
            return False
        graph.constants[op.outputs[0]] = value
        return True

    graph.rewrite(rule)


def folded(graph: Graph, op: Op, y: TensorType) -> Array | None:
    """The result, of type y, of an op on constants alone.

    None for `dequantize`, which a later pass fuses, for a shape with symbols, and for what is too large.
    """
    inputs = op.used_inputs()
    if isinstance(op, Dequantize) or not inputs or not all(n in graph.constants for n in inputs):
        return None
    sizes = [graph.constants[name].size for name in inputs]
    if len(op.outputs) != 1 or symbols(y.shape):
        return None
    if numel(y.shape) > max(MAX_FOLDED_ELEMENTS, *sizes):
        return None
    operands = op.arguments(lambda name: Tensor(graph.types[name], graph.constants[name]))
    return np.asarray(op.reference(y, *operands))


def fold_affine(graph: Graph, *, quantized: bool = True) -> None:
    """`layer * factor + offset` with one constant for each output channel becomes the layer alone (batch norm).

    Args:
        graph: with layers in float32.
        quantized: also where the weights are quantized, whose sum then rounds the offset.
    """

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if not isinstance(op, Mul | Add | Sub):
            return False
        layer_at = 0 if isinstance(op, Sub) or rewriter.is_constant(op.inputs[1]) else 1
        layer = rewriter.producer(op.inputs[layer_at], *LAYERS)
        constant = op.inputs[1 - layer_at]
        if layer is None or not rewriter.is_constant(constant):
            return False
        if not quantized and rewriter.producer(layer.inputs[1], Dequantize) is not None:
            return False
        if (
            rewriter.only_reader(layer.outputs[0]) is None
            or not graph.types[layer.inputs[0]].is_float
        ):
            return False
        channels = graph.types[layer.outputs[0]].shape[-1]
        vector = per_channel(graph.constants[constant], channels, graph.types[op.outputs[0]].rank)
        if (
            vector is None
            or graph.types[op.outputs[0]].shape != graph.types[layer.outputs[0]].shape
        ):
            return False
        if isinstance(op, Sub):
            vector = -vector
        folded = (
            _scaled(rewriter, layer, vector)
            if isinstance(op, Mul)
            else _shifted(rewriter, layer, vector)
        )
        if folded is None:
            return False
        graph.ops.remove(layer)
        rewriter.label |= graph.labels.get(layer.outputs[0], frozenset())
        rewriter.emit(dataclasses.replace(folded, outputs=op.outputs))
        return True

    while graph.rewrite(rule):
        pass


def per_channel(array: Array, channels: Dim, rank: int) -> Array | None:
    """`array` as one number for each channel of the last axis, if it broadcasts along that axis alone."""
    if array.ndim > rank or array.size not in (1, channels) or array.dtype != np.float32:
        return None
    if array.size > 1 and array.shape[-1] != channels:
        return None
    return np.broadcast_to(array.reshape(-1), (known("channels", channels),)).astype(np.float64)


def _scaled(rewriter: Rewriter, layer: Op, factor: Array) -> Op | None:
    """The layer with weights and bias times `factor`."""
    graph = rewriter.graph
    x, w, bias, *rest = (*layer.inputs, "", "")[: len(layer.INPUTS)]
    if w not in graph.constants or (bias and bias not in graph.constants):
        return None
    weights = graph.constants[w]
    along = (1,) * (weights.ndim - 1)
    shape = (*along, -1) if isinstance(layer, DepthwiseConv) else (-1, *along)
    new_w = graph.constant((weights * factor.reshape(shape)).astype(np.float32), w)
    new_bias = bias and graph.constant((graph.constants[bias] * factor).astype(np.float32), bias)
    return _with_inputs(layer, x, new_w, new_bias, *rest)


def _shifted(rewriter: Rewriter, layer: Op, offset: Array) -> Op | None:
    """The layer with `offset` added to its bias."""
    graph = rewriter.graph
    x, w, bias, *rest = (*layer.inputs, "", "")[: len(layer.INPUTS)]
    if bias and bias not in graph.constants:
        return None
    old = graph.constants[bias] if bias else np.zeros(offset.shape, np.float32)
    new_bias = graph.constant((old + offset).astype(np.float32), bias or bias_name(w))
    return _with_inputs(layer, x, w, new_bias, *rest)


def bias_name(weights: str) -> str:
    """A name for the bias that goes with weights of this name."""
    base = weights.split(DERIVED)[0]
    return f"{base.removesuffix('weight').removesuffix('.')}.bias"


def _with_inputs(layer: Op, *inputs: str) -> Op:
    return dataclasses.replace(layer, inputs=trimmed(inputs))
