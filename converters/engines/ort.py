"""What onnxruntime's optimizer makes of a quantized graph, measured on its optimized graphs (1.31, x86-64).

`merge_pairs` and `add_biases` are those of its rewrites that change numbers. `decide` finds the ops that it runs on
codes; the others it computes in float32 between dequantize and quantize, which rounds differently. See
`docs/decisions/0004-ort-fusion.md`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from nprt.converters.graph import DERIVED, Graph, Rewriter
from nprt.converters.passes.qdq import activation_bounds
from nprt.ir import Op, QuantParams, TensorType, symbols
from nprt.ops.add import Add
from nprt.ops.average_pool import AveragePool
from nprt.ops.conv import Conv
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.dequantize import Dequantize
from nprt.ops.global_average_pool import GlobalAveragePool
from nprt.ops.linear import Linear
from nprt.ops.matmul import Matmul
from nprt.ops.max_pool import MaxPool
from nprt.ops.mul import Mul
from nprt.ops.quantize import Quantize
from nprt.ops.reshape import Reshape
from nprt.ops.slice import Slice
from nprt.ops.softmax import Softmax
from nprt.ops.transpose import Transpose

# Ops that have a kernel on codes, with the number of operands that must be codes beside the weights.
KERNELS: dict[type[Op], int] = {
    Conv: 1,
    DepthwiseConv: 1,
    Linear: 1,
    Matmul: 2,
    Add: 2,
    Mul: 2,
    AveragePool: 1,
    GlobalAveragePool: 1,
    Softmax: 1,
}

# Those whose kernel takes uint8 activations only, unless int8 is allowed.
UNSIGNED_ONLY = (Conv, DepthwiseConv, Matmul)

# Ops past which onnxruntime moves a pair of quantize and dequantize.
PROPAGATES = (Reshape, Slice, MaxPool, Transpose)


def follow(graph: Graph, *, qoperator: bool, int8: bool) -> None:
    """Do to a graph of float ops between dequantize and quantize what onnxruntime does.

    Args:
        graph: as it was read.
        qoperator: the model has QLinear operators, which have decided already.
        int8: int8 activations stay int8, as with the session option `session.qdqisint8allowed`.
    """
    if not qoperator:
        merge_pairs(graph)
    add_biases(graph)
    decide(graph, int8=int8)


def merge_pairs(graph: Graph) -> None:
    """quantize, dequantize, quantize with nothing else in between, and dequantized again: one quantize is left.

    It covers the range that the two have in common.
    """

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if not isinstance(op, Quantize):
            return False
        dequantize = rewriter.producer(op.inputs[0], Dequantize)
        first = dequantize and rewriter.producer(dequantize.inputs[0], Quantize)
        if not first or not all(map(rewriter.only_reader, (*first.outputs, *dequantize.outputs))):
            return False
        inner, outer = graph.types[first.outputs[0]], graph.types[op.outputs[0]]
        readers = rewriter.readers(op.outputs[0])
        dequantized = bool(readers) and all(isinstance(reader, Dequantize) for reader in readers)
        if inner.dtype != outer.dtype or not dequantized or op.outputs[0] in graph.outputs:
            return False
        quant = common_range(inner, outer)
        like = replace(outer, quant=quant)
        return quant is not None and rewriter.rebind(op, Quantize, first.inputs[0], like=like)

    while graph.rewrite(rule):
        pass


def common_range(a: TensorType, b: TensorType) -> QuantParams | None:
    """Scale and zero point for the real numbers that both types hold, in float32 as onnxruntime computes them."""
    low, high = a.code_range
    least = max(np.float32(low - type.zero_point) * type.scale for type in (a, b))
    greatest = min(np.float32(high - type.zero_point) * type.scale for type in (a, b))
    if least >= greatest:
        return None
    scale = (greatest - least) / np.float32(high - low)
    zero = np.float32(low) - least / scale
    return QuantParams.of(scale, int(np.sign(zero) * np.floor(np.abs(zero) + np.float32(0.5))))


def add_biases(graph: Graph) -> None:
    """MatMul with quantized weights, then Add of a constant vector, is one layer with a bias.

    Unless the shape is free and has more than two dimensions.
    """

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if not isinstance(op, Add):
            return False
        for real, bias in (op.inputs, op.inputs[::-1]):
            layer = rewriter.producer(real, Linear)
            if layer is None or len(layer.inputs) != 2 or rewriter.only_reader(real) is None:
                continue
            y, vector = graph.types[real], graph.types[bias]
            if not rewriter.is_constant(bias) or vector.with_shape(y.shape[-1:]) != vector:
                continue
            if rewriter.producer(layer.inputs[1], Dequantize) and (
                y.rank == 2 or not symbols(y.shape)
            ):
                return rewriter.rebind(op, Linear, *layer.inputs, bias, **layer.fields())
        return False

    graph.rewrite(rule)


def decide(graph: Graph, *, int8: bool) -> None:
    """Give numerics `ort` to the float ops that onnxruntime runs on codes.

    Unless int8 is allowed, onnxruntime makes uint8 of int8 activations wherever one op alone reads them, and an op that
    sees both kinds then stays in float32.
    """
    codes = _Codes(graph, int8)
    graph.ops = [
        replace(op, numerics="ort") if codes.runs_on(op) else op  # type: ignore[call-arg]
        for op in graph.ops
    ]


def is_layout(op: Op) -> bool:
    """Whether op is a transpose that the import put around an operator; the source has none there."""
    return isinstance(op, Transpose) and any(DERIVED in name for name in op.inputs + op.outputs)


class _Codes:
    """The dtype of the codes that each op sees in onnxruntime."""

    def __init__(self, graph: Graph, int8: bool) -> None:
        self.graph = graph
        self.int8 = int8
        self.producers = graph.producers()
        self.readers = graph.consumers()
        # How many ops read a value, the readers of what it is dequantized to counting as its own.
        self.uses: Counter[str] = Counter(graph.outputs)
        for op in reversed(graph.ops):
            for name in op.used_inputs():
                through = isinstance(op, Dequantize) or is_layout(op)
                self.uses[name] += self.uses[op.outputs[0]] if through else 1

    def runs_on(self, op: Op) -> bool:
        """Whether onnxruntime runs a float op on codes: those of its operands and its result are of one dtype."""
        if type(op) not in KERNELS or not self.graph.types[op.outputs[0]].is_float:
            return False
        if isinstance(op, Softmax) and op.log:
            return False
        dtypes = {self.of_operand(name) for name in op.inputs[: KERNELS[type(op)]]}
        dtypes.add(self.of_result(op))
        if not self.int8 and isinstance(op, UNSIGNED_ONLY):
            return dtypes == {"uint8"}
        return len(dtypes) == 1 and None not in dtypes

    def of_operand(self, name: str) -> str | None:
        """The dtype of the codes that a float value stands for; None if it stands for none."""
        op = self.producer(name)
        if isinstance(op, Dequantize):
            return self.of_codes(op.inputs[0])
        if not isinstance(op, PROPAGATES) or self.of_operand(op.inputs[0]) is None:
            return None
        return self.of_pair(self.dtype_behind(op.inputs[0]), self.uses[op.outputs[0]])

    def dtype_behind(self, name: str) -> str:
        """The dtype, in the model, of the codes that a float value was made from by movement."""
        op = self.producer(name)
        assert op is not None
        if isinstance(op, Dequantize):
            return self.graph.types[op.inputs[0]].dtype
        return self.dtype_behind(op.inputs[0])

    def of_result(self, op: Op) -> str | None:
        """The dtype of the codes that an op's result is quantized to; None if it is used in float32."""
        moved = False
        reader = self.only_reader(op)
        while reader is not None and not isinstance(reader, Quantize):
            moved = moved or (isinstance(reader, PROPAGATES) and not is_layout(reader))
            if not isinstance(reader, PROPAGATES) and (moved or not self.vanishes(reader)):
                return None
            reader = self.only_reader(reader)
        if reader is None:
            return None
        codes = reader.outputs[0]
        # A quantize behind movement goes before it, as a pair that this op alone writes.
        return self.of_pair(self.graph.types[codes].dtype, 1) if moved else self.of_codes(codes)

    def of_codes(self, codes: str) -> str:
        """The dtype of the codes that a quantize, an input or a constant gives."""
        op = self.producer(codes)
        dtype = self.graph.types[codes].dtype
        if not isinstance(op, Quantize) or codes in self.graph.outputs:
            return dtype
        return self.of_pair(dtype, self.uses[op.outputs[0]])

    def of_pair(self, dtype: str, uses: int) -> str:
        """The dtype of the codes between a quantize and the dequantize that `uses` ops read."""
        return "uint8" if uses == 1 and not self.int8 else dtype

    def producer(self, name: str) -> Op | None:
        """What makes a value, apart from a change of layout."""
        op = self.producers.get(name)
        while op is not None and is_layout(op):
            op = self.producers.get(op.inputs[0])
        return op

    def only_reader(self, op: Op) -> Op | None:
        name = op.outputs[0]
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.graph.outputs else None

    def vanishes(self, op: Op) -> bool:
        """Whether op is a relu or clip that lets every code of the quantize behind it through."""
        limits = activation_bounds(op)
        reader = self.only_reader(op)
        while isinstance(reader, PROPAGATES):
            reader = self.only_reader(reader)
        if limits is None or not isinstance(reader, Quantize):
            return False
        y = self.graph.types[reader.outputs[0]]
        low, high = (float(y.scale * np.float32(end - y.zero_point)) for end in y.code_range)
        slack = float(np.finfo(np.float32).eps)
        return limits[0] - low <= slack and high - limits[1] <= slack
