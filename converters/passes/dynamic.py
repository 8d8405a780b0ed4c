"""The ops that ONNX has for a layer whose input is quantized at run time become one `dynamic_linear`, bit for bit."""

from __future__ import annotations

import numpy as np

from nprt.converters.graph import Graph, Rewriter
from nprt.ir import Op, QuantParams
from nprt.ops.add import Add
from nprt.ops.cast import Cast
from nprt.ops.dynamic_linear import DynamicLinear
from nprt.ops.dynamic_quantize import DynamicQuantize
from nprt.ops.linear import Linear
from nprt.ops.mul import Mul


def fuse_dynamic(graph: Graph) -> None:
    """`cast(linear(codes, w)) * (scale * w_scale) + bias`, where a `dynamic_quantize` gives codes and scale."""

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if isinstance(op, Mul):
            return _product(rewriter, op)
        return isinstance(op, Add) and _biased(rewriter, op)

    graph.rewrite(rule)


def _product(rewriter: Rewriter, op: Op) -> bool:
    graph = rewriter.graph
    for real, scale in (op.inputs, op.inputs[::-1]):
        cast, scales = rewriter.producer(real, Cast), rewriter.producer(scale, Mul)
        layer = cast and rewriter.producer(cast.inputs[0], Linear)
        source = layer and rewriter.producer(layer.inputs[0], DynamicQuantize)
        if not source or not scales or source.numerics != "onnx":
            continue
        codes, x_scale, zero_point = source.outputs
        constants = [name for name in scales.inputs if name != x_scale]
        once = (*source.outputs, *layer.outputs, *cast.outputs, *scales.outputs)
        if (
            layer.inputs != (codes, layer.inputs[1], "", zero_point)
            or not all(map(rewriter.is_constant, (layer.inputs[1], *constants)))
            or len(constants) != 1
            or not all(map(rewriter.only_reader, once))
        ):
            continue
        w = _with_scale(graph, layer.inputs[1], constants[0])
        return w is not None and rewriter.rebind(op, DynamicLinear, source.inputs[0], w)
    return False


def _with_scale(graph: Graph, w: str, scale: str) -> str | None:
    """The weights, whose zero points are known, with their scales too; None if these are not one for each output."""
    quant = graph.types[w].quant
    scales = graph.constants[scale].reshape(-1)
    if quant is None or scales.size not in (1, graph.constants[w].shape[0]):
        return None
    if graph.types[scale].rank > 1 or not np.all((scales > 0) & np.isfinite(scales)):
        return None
    zeros = np.array(quant.zero_point)
    scales, zeros = np.broadcast_arrays(scales, zeros)
    return graph.constant(
        graph.constants[w], w, QuantParams.of(scales, zeros, 0 if scales.size > 1 else None)
    )


def _biased(rewriter: Rewriter, op: Op) -> bool:
    graph = rewriter.graph
    for real, bias in (op.inputs, op.inputs[::-1]):
        layer = rewriter.producer(real, DynamicLinear)
        if (
            layer is not None
            and layer.numerics == "ort"  # PyTorch's engines add a bias of their own otherwise
            and len(layer.inputs) == 2
            and rewriter.is_constant(bias)
            and graph.types[bias].shape == graph.types[real].shape[-1:]
            and rewriter.only_reader(real) is not None
        ):
            fields = layer.fields()
            return rewriter.rebind(op, DynamicLinear, *layer.inputs, bias, **fields)
    return False
