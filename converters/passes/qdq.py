"""From float ops between dequantize and quantize to ops on codes.

`settle_quantize` brings every group into the form dequantize -> op -> quantize: what only moves data moves codes. `fuse` then
makes one integer op of each group. Both leave the numbers as they are, except that an op on codes rounds as its numerics
says; what cannot be fused stays in float32 between dequantize and quantize.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nprt import rounding
from nprt.converters.graph import FLOAT, Graph, Rewriter
from nprt.converters.passes.tabulate import tabulate
from nprt.ir import Array, Op, QuantParams, TensorType
from nprt.ops.add import Add
from nprt.ops.argmax import Argmax
from nprt.ops.average_pool import AveragePool
from nprt.ops.concat import Concat
from nprt.ops.conv import Conv
from nprt.ops.conv_transpose import ConvTranspose
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.dequantize import Dequantize
from nprt.ops.div import Div
from nprt.ops.expand import Expand
from nprt.ops.gather import Gather
from nprt.ops.global_average_pool import GlobalAveragePool
from nprt.ops.linear import Linear
from nprt.ops.matmul import Matmul
from nprt.ops.max_pool import MaxPool
from nprt.ops.mul import Mul
from nprt.ops.pad import Pad
from nprt.ops.quantize import Quantize, to_codes
from nprt.ops.reduce_mean import ReduceMean
from nprt.ops.reshape import Reshape
from nprt.ops.resize import Resize
from nprt.ops.slice import Slice
from nprt.ops.softmax import Softmax
from nprt.ops.sub import Sub
from nprt.ops.transpose import Transpose
from nprt.ops.unary import Unary

LAYERS = (Conv, DepthwiseConv, ConvTranspose, Linear)
PRODUCTS = (*LAYERS, Matmul)
BINARIES = (Add, Sub, Mul, Div)


# --- data movement ------------------------------------------------------------------------------------


def is_movement(op: Op) -> bool:
    """Whether op only picks elements of its first input, so that it commutes with a monotone map of each element."""
    if isinstance(op, Pad):
        return op.mode != "constant" or op.value == 0.0
    if isinstance(op, Resize):
        return op.mode == "nearest"
    return isinstance(op, Reshape | Transpose | Slice | Gather | Expand | MaxPool)


def settle_quantize(graph: Graph) -> None:
    """Move `dequantize` behind data movement and `quantize` before it, until nothing changes."""

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if is_movement(op) or isinstance(op, Argmax):
            return _move_codes(rewriter, op)
        if isinstance(op, Quantize):
            return _quantize_first(rewriter, op) or _drop_pair(rewriter, op)
        return False

    while graph.rewrite(rule):
        pass


def _source(rewriter: Rewriter, name: str) -> str | None:
    """The 8-bit codes, quantized per tensor, that `name` dequantizes; None if it does not."""
    op = rewriter.producer(name, Dequantize)
    if op is None:
        return None
    type = rewriter.graph.types[op.inputs[0]]
    return op.inputs[0] if type.is_codes and type.quant.axis is None else None


def _on_codes(op: Op, codes: TensorType) -> dict[str, Any]:
    """The fields of a movement op when it moves codes: padding is with the zero point."""
    fields = op.fields()
    if isinstance(op, Pad) and op.mode == "constant":
        fields["value"] = float(codes.zero_point)
    return fields


def _like(rewriter: Rewriter, op: Op, codes: TensorType) -> TensorType:
    """The type of a movement op's result when it moves codes: the shape is the one that it had."""
    return replace(codes, shape=rewriter.graph.types[op.outputs[0]].shape)


def _move_codes(rewriter: Rewriter, op: Op) -> bool:
    """`move(dequantize(q))` is `dequantize(move(q))`."""
    codes = _source(rewriter, op.inputs[0])
    if codes is None or rewriter.is_constant(codes):
        return False
    type = rewriter.graph.types[codes]
    rest = op.inputs[1:]
    if isinstance(op, Argmax):
        return rewriter.rebind(op, Argmax, codes, **op.fields())
    moved = rewriter.add(
        op.__class__,
        codes,
        *rest,
        out=f"{op.outputs[0]}~codes",
        like=_like(rewriter, op, type),
        **_on_codes(op, type),
    )
    return rewriter.rebind(op, Dequantize, moved)


def _quantize_first(rewriter: Rewriter, op: Op) -> bool:
    """`quantize(move(x))` is `move(quantize(x))`, if nothing else reads the moved value."""
    move = rewriter.producers.get(op.inputs[0])
    if move is None or not is_movement(move) or rewriter.only_reader(move.outputs[0]) is None:
        return False
    if _source(rewriter, move.inputs[0]) is not None or rewriter.is_constant(move.inputs[0]):
        return False
    like = rewriter.graph.types[op.outputs[0]]
    codes = rewriter.add(
        Quantize, move.inputs[0], out=f"{op.outputs[0]}~before", like=like.with_shape(())
    )
    return rewriter.rebind(
        op,
        move.__class__,
        codes,
        *move.inputs[1:],
        like=_like(rewriter, move, rewriter.graph.types[codes]),
        **_on_codes(move, like),
    )


def _drop_pair(rewriter: Rewriter, op: Op) -> bool:
    """`quantize(dequantize(q))` with the same parameters is q."""
    codes = _source(rewriter, op.inputs[0])
    if codes is None or rewriter.graph.types[codes] != rewriter.graph.types[op.outputs[0]]:
        return False
    rewriter.replace(op.outputs[0], codes)
    return True


# --- fusion -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """dequantize -> op -> (relu or clip) -> quantize."""

    op: Op
    quantize: Op
    clamp: tuple[int, int] | None


def fuse(graph: Graph, numerics: str, engine_fuses: Callable[[Graph, Group], bool]) -> None:
    """Make integer ops of the groups, root by root, in execution order.

    Args:
        graph: settled.
        numerics: of the ops that are made.
        engine_fuses: for numerics other than `integer`: whether the engine runs this group on codes. An elementwise group
            that it does not is computed as the ONNX operators are defined, with numerics `onnx`.
    """

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if not isinstance(op, Quantize):
            return False
        if tabulate(rewriter, op):
            return True
        group = _group(rewriter, op)
        if group is None:
            return False
        fused = FUSIONS.get(type(group.op))
        if fused is None:
            return False
        chosen = numerics
        if numerics == "ort" and not engine_fuses(graph, group):
            chosen = "onnx"
        return fused(rewriter, group, chosen)

    graph.rewrite(rule)


def _group(rewriter: Rewriter, root: Op) -> Group | None:
    """The group that ends in `root`, if every value inside has one reader."""
    inner = rewriter.producers.get(root.inputs[0])
    like = rewriter.graph.types[root.outputs[0]]
    clamp = None
    if isinstance(inner, Unary) and inner.function in ("relu", "clip"):
        clamp = activation_clamp(inner, like)
        if rewriter.only_reader(inner.outputs[0]) is None:
            return None
        inner = rewriter.producers.get(inner.inputs[0])
    if inner is None or len(inner.outputs) != 1 or rewriter.only_reader(inner.outputs[0]) is None:
        return None
    return Group(inner, root, clamp)


def activation_clamp(op: Unary, y: TensorType) -> tuple[int, int] | None:
    """The codes of y that relu or clip lets through; None for all: eq. (16)."""
    bounds = op.parameters if op.function == "clip" else (0.0, np.inf)
    low, high = (int(to_codes(np.float32(bound)[...], y)) for bound in bounds)
    return None if (low, high) == y.code_range else (low, high)


def _rebind(rewriter: Rewriter, group: Group, *inputs: str, **changes: Any) -> bool:
    """Emit the integer form of the group's op under the name of the group's result."""
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    fields = group.op.fields() | {"clamp": group.clamp} | changes
    like = rewriter.graph.types[group.quantize.outputs[0]]
    return rewriter.rebind(group.quantize, type(group.op), *inputs, like=like, **fields)


def _layer(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    operands = layer_operands(rewriter, group.op)
    if operands is None:
        return False
    return _rebind(rewriter, group, *operands, numerics=_product_numerics(numerics))


def _product_numerics(numerics: str) -> str:
    """A product that the engine leaves in float32 has no exact integer form; its quantized kernel is the nearest."""
    return "ort" if numerics == "onnx" else numerics


def layer_operands(rewriter: Rewriter, op: Op) -> tuple[str, ...] | None:
    """x, w and bias of a layer on codes; None if x or w is not quantized."""
    graph = rewriter.graph
    x = _source(rewriter, op.inputs[0])
    w_op = rewriter.producer(op.inputs[1], Dequantize)
    if x is None or w_op is None or not graph.types[w_op.inputs[0]].is_codes:
        return None
    w = w_op.inputs[0]
    name = op.inputs[2] if len(op.inputs) > 2 else ""
    bias = int32_bias(rewriter, name, x, w) if name else ""
    return None if bias is None else (x, w, bias)


def int32_bias(rewriter: Rewriter, name: str, x: str, w: str) -> str | None:
    """A bias as int32 with scale x_scale * w_scale: eq. (9). Codes that have that scale already are kept.

    Returns None if the bias is not a constant or does not fit.
    """
    graph = rewriter.graph
    types = graph.types
    scale = np.float32(types[x].scale * types[w].scale)
    source = rewriter.producer(name, Dequantize)
    if source is not None and rewriter.is_constant(source.inputs[0]):
        codes, given = graph.constants[source.inputs[0]], types[source.inputs[0]].scale
        if codes.dtype == np.int32 and np.allclose(given, scale, rtol=0.011, atol=1e-6):
            return graph.constant(codes, source.inputs[0])
        real = rounding.dequantize(codes, given, types[source.inputs[0]].zero_point)
    elif rewriter.is_constant(name):
        real = graph.constants[name]
    else:
        return None
    codes = np.rint(real.astype(np.float32) / scale)
    if np.any(np.abs(codes) >= 2.0**31):
        return None
    return graph.constant(codes.astype(np.int32), f"{name}~int32")


def _matmul(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    operands = [_source(rewriter, name) for name in group.op.inputs]
    if None in operands:
        return False
    return _rebind(rewriter, group, *map(str, operands), numerics=_product_numerics(numerics))


def _binary(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    a, b = (_source(rewriter, name) for name in group.op.inputs)
    if a is None or b is None:
        return False
    if numerics == "ort" and isinstance(group.op, Sub | Div):
        numerics = "onnx"
    if numerics == "ort" and _added_last(rewriter.graph.types[a], rewriter.graph.types[b]):
        a, b = b, a
    return _rebind(rewriter, group, a, b, numerics=numerics)


def _added_last(a: TensorType, b: TensorType) -> bool:
    """Whether onnxruntime swaps its operands: where a is the one that repeats along the innermost differing axis."""
    rank = max(a.rank, b.rank)
    a_shape, b_shape = ((1,) * (rank - type.rank) + type.shape for type in (a, b))
    for p, q in zip(reversed(a_shape), reversed(b_shape), strict=True):
        if p != 1 or q != 1:
            return p == 1 and q != 1
    return True


def _average_pool(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    x = _source(rewriter, group.op.inputs[0])
    if x is None:
        return False
    return _rebind(rewriter, group, x, numerics=_product_numerics(numerics))


def _global_average_pool(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    x = _source(rewriter, group.op.inputs[0])
    if x is None or group.clamp is not None:
        return False
    like = rewriter.graph.types[group.quantize.outputs[0]]
    fields = group.op.fields() | {"numerics": _product_numerics(numerics)}
    return rewriter.rebind(group.quantize, type(group.op), x, like=like, **fields)


def _reduce_mean(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    """onnxruntime takes this mean in float32, so only `integer` fuses it."""
    return numerics == "integer" and _global_average_pool(rewriter, group, numerics)


def _resize(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    """Linear interpolation of codes; onnxruntime interpolates float32, so only `integer` fuses it."""
    x = _source(rewriter, group.op.inputs[0])
    if x is None or numerics != "integer":
        return False
    out = rewriter.graph.types[group.quantize.outputs[0]]
    like = _like(rewriter, group.op, rewriter.graph.types[x])
    fields = group.op.fields() | {"numerics": numerics}
    y = rewriter.add(Resize, x, out=f"{group.quantize.outputs[0]}~codes", like=like, **fields)
    return _requantize_into(rewriter, group, y, out)


def _requantize_into(rewriter: Rewriter, group: Group, codes: str, out: TensorType) -> bool:
    """Bind the group's result to `codes`, through a table if its parameters differ or a clamp is left."""
    if rewriter.graph.types[codes] == out and group.clamp is None:
        rewriter.replace(group.quantize.outputs[0], codes)
        return True
    real = rewriter.add(Dequantize, codes, out=f"{codes}~real")
    if group.clamp is not None:
        low, high = rounding.dequantize(np.array(group.clamp), out.scale, out.zero_point).tolist()
        real = rewriter.add(
            Unary, real, out=f"{codes}~clip", function="clip", parameters=(low, high)
        )
    return tabulate(rewriter, replace(group.quantize, inputs=(real,)))


def _concat(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    """Inputs are brought to the parameters of the result, each through a table of its own, and copied."""
    sources = [_source(rewriter, name) for name in group.op.inputs]
    if None in sources or group.clamp is not None:
        return False
    out = rewriter.graph.types[group.quantize.outputs[0]]
    parts = []
    for source in map(str, sources):
        type = rewriter.graph.types[source]
        if (type.dtype, type.quant) == (out.dtype, out.quant):
            parts.append(source)
            continue
        real = rewriter.add(Dequantize, source, out=f"{source}~real")
        name = rewriter.graph.fresh(f"{source}~rescaled")
        rewriter.graph.types[name] = replace(out, shape=type.shape)
        tabulate(rewriter, Quantize(inputs=(real,), outputs=(name,)))
        parts.append(name)
    assert isinstance(group.op, Concat)
    return rewriter.rebind(group.quantize, Concat, *parts, like=out, axis=group.op.axis)


def _softmax(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    x = _source(rewriter, group.op.inputs[0])
    if x is None:
        return False
    graph, out = rewriter.graph, rewriter.graph.types[group.quantize.outputs[0]]
    assert isinstance(group.op, Softmax)
    if numerics == "onnx":
        return False
    if numerics == "ort":
        if group.clamp is not None:
            return False
        table: Array = rounding.exp_table_ort(
            graph.types[x].scale, _softmax_length(graph, group.op)
        )
        like = out
    else:
        table = rounding.exp_table(graph.types[x].scale)
        like = TensorType(out.dtype, (), QuantParams.of(1 / 256, out.code_range[0]))
    name = graph.constant(table, f"{group.op.outputs[0]}~exp")
    y = rewriter.add(
        Softmax,
        x,
        name,
        out=f"{group.op.outputs[0]}~codes",
        like=like,
        axis=group.op.axis,
        numerics=numerics,
    )
    return _requantize_into(rewriter, group, y, out)


def _softmax_length(graph: Graph, op: Softmax) -> int:
    return int(graph.types[op.outputs[0]].shape[op.axis])


FUSIONS: dict[type[Op], Callable[[Rewriter, Group, str], bool]] = {
    Conv: _layer,
    DepthwiseConv: _layer,
    ConvTranspose: _layer,
    Linear: _layer,
    Matmul: _matmul,
    Add: _binary,
    Sub: _binary,
    Mul: _binary,
    Div: _binary,
    AveragePool: _average_pool,
    GlobalAveragePool: _global_average_pool,
    ReduceMean: _reduce_mean,
    Resize: _resize,
    Concat: _concat,
    Softmax: _softmax,
}


def sum_in_int32(graph: Graph) -> None:
    """A product of codes whose result is used as float32: the int32 sum, then `dequantize`: eq. (10)."""

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if not isinstance(op, LAYERS) or not graph.types[op.outputs[0]].is_float:
            return False
        operands = layer_operands(rewriter, op)
        if operands is None:
            return False
        x, w, bias = operands
        scales = np.atleast_1d(np.float32(graph.types[x].scale * graph.types[w].scale))
        last = graph.types[op.outputs[0]].rank - 1
        quant = QuantParams.of(scales, 0, last if scales.size > 1 else None)
        inputs = (x, w, bias) if bias else (x, w)
        acc = rewriter.add(
            type(op),
            *inputs,
            out=f"{op.outputs[0]}~sum",
            like=TensorType("int32", FLOAT.shape),
            **op.fields(),
        )
        graph.types[acc] = replace(graph.types[acc], quant=quant)
        return rewriter.rebind(op, Dequantize, acc)

    graph.rewrite(rule)
