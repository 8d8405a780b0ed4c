"""From float ops between dequantize and quantize to ops on codes.

`settle_quantize` brings every group into the form dequantize -> op -> quantize: what only moves data moves codes.
`fuse` then makes one integer op of each group. Both leave the numbers as they are, except that an op on codes rounds as
its numerics says; what cannot be fused stays in float32 between dequantize and quantize.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from nprt import rounding
from nprt.converters.graph import FLOAT, Graph, Rewriter
from nprt.converters.passes.fold import LAYERS, per_channel
from nprt.converters.passes.tabulate import tabulate
from nprt.ir import Array, Op, QuantParams, Tensor, TensorType
from nprt.ops.adaptive_average_pool import AdaptiveAveragePool
from nprt.ops.add import Add
from nprt.ops.argmax import Argmax
from nprt.ops.average_pool import AveragePool
from nprt.ops.batch_norm import BatchNorm
from nprt.ops.binary import BinaryOp
from nprt.ops.concat import Concat
from nprt.ops.conv import Conv
from nprt.ops.conv_transpose import ConvTranspose
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.dequantize import Dequantize
from nprt.ops.div import Div
from nprt.ops.expand import Expand
from nprt.ops.gather import Gather
from nprt.ops.global_average_pool import GlobalAveragePool
from nprt.ops.group_norm import GroupNorm
from nprt.ops.layer_norm import LayerNorm
from nprt.ops.linear import Linear
from nprt.ops.matmul import Matmul
from nprt.ops.max_pool import MaxPool
from nprt.ops.mul import Mul
from nprt.ops.pad import Pad
from nprt.ops.prelu import Prelu
from nprt.ops.products import ProductOp
from nprt.ops.quantize import Quantize, to_codes
from nprt.ops.reduce_mean import TORCH as TORCH_MEAN
from nprt.ops.reduce_mean import ReduceMean
from nprt.ops.reshape import Reshape
from nprt.ops.resize import Resize
from nprt.ops.slice import Slice
from nprt.ops.softmax import TABLE_DTYPES, Softmax
from nprt.ops.sub import Sub
from nprt.ops.transpose import Transpose
from nprt.ops.unary import Unary

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
            return (
                _quantize_first(rewriter, op)
                or _quantize_parts(rewriter, op)
                or _drop_pair(rewriter, op)
            )
        return False

    while graph.rewrite(rule):
        pass


def _source(rewriter: Rewriter, name: str) -> str | None:
    """The 8-bit codes, quantized per tensor, that `name` dequantizes; None if it does not."""
    op = rewriter.producer(name, Dequantize)
    if op is None:
        return None
    type = rewriter.graph.types[op.inputs[0]]
    per_tensor = type.quant is not None and type.quant.axis is None
    return op.inputs[0] if type.is_codes and per_tensor else None


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
        Quantize,
        move.inputs[0],
        out=f"{op.outputs[0]}~before",
        like=like.with_shape(()),
        **op.fields(),
    )
    return rewriter.rebind(
        op,
        move.__class__,
        codes,
        *move.inputs[1:],
        like=_like(rewriter, move, rewriter.graph.types[codes]),
        **_on_codes(move, like),
    )


def _quantize_parts(rewriter: Rewriter, op: Op) -> bool:
    """`quantize(concat(a, b))` is `concat(quantize(a), quantize(b))`; for parts that are not codes already."""
    concat = rewriter.producer(op.inputs[0], Concat)
    if concat is None or rewriter.only_reader(concat.outputs[0]) is None:
        return False
    if all(
        rewriter.is_constant(name) or rewriter.producer(name, Dequantize) for name in concat.inputs
    ):
        return False
    like = rewriter.graph.types[op.outputs[0]]
    parts = [
        rewriter.add(Quantize, name, out=f"{name}~codes", like=like.with_shape(()), **op.fields())
        for name in concat.inputs
    ]
    return rewriter.rebind(op, Concat, *parts, like=like, axis=concat.axis)


def _drop_pair(rewriter: Rewriter, op: Op) -> bool:
    """`quantize(dequantize(q))` with the same parameters is q."""
    codes = _source(rewriter, op.inputs[0])
    if codes is None or rewriter.graph.types[codes] != rewriter.graph.types[op.outputs[0]]:
        return False
    rewriter.replace(op.outputs[0], codes)
    return True


# --- fusion -------------------------------------------------------------------------------------------


Clamp: TypeAlias = tuple[int, int] | None


@dataclass(frozen=True)
class Group:
    """dequantize -> op -> (relu or clip), any number of these -> quantize."""

    op: Op
    quantize: Quantize
    clamp: Clamp


def fuse(graph: Graph, numerics: str) -> list[str]:
    """Make integer ops of the groups, root by root, in execution order, and of the products that are used as float32.

    Args:
        graph: settled.
        numerics: `integer`, or that of an engine. The ops that the engine runs on codes have its numerics already. The
            others it computes in float32, which is the numerics of their quantize: `onnx` or `pt2e`.

    Returns:
        The results of products that the engine computes in float32. Such a sum has no exact integer form; they follow
        the engine's kernel on codes, which differs where an error of float32 crosses the middle between two codes.
    """
    nearest: list[str] = []

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if not isinstance(op, Quantize):
            return False
        if tabulate(rewriter, op):
            return True
        group = _group(rewriter, op)
        fused = FUSIONS.get(type(group.op)) if group else None
        if group is None or fused is None:
            return False
        if numerics == "integer":
            return fused(rewriter, group, numerics)
        decided = getattr(group.op, "numerics", "integer")
        if decided != "integer":
            return fused(rewriter, group, decided)
        done = fused(rewriter, group, group.quantize.numerics)
        if done and isinstance(group.op, PRODUCTS):
            nearest.extend(op.outputs)
        return done

    graph.rewrite(rule)
    sum_in_int32(graph, numerics)
    return nearest


def _group(rewriter: Rewriter, root: Quantize) -> Group | None:
    """The group that ends in `root`, if every value inside has one reader."""
    inner = rewriter.producers.get(root.inputs[0])
    like = rewriter.graph.types[root.outputs[0]]
    clamp = None
    while inner and (limits := activation_bounds(inner)):
        clamp = _nested(activation_clamp(limits, like), clamp)
        if rewriter.only_reader(inner.outputs[0]) is None:
            return None
        inner = rewriter.producers.get(inner.inputs[0])
    if inner is None or len(inner.outputs) != 1 or rewriter.only_reader(inner.outputs[0]) is None:
        return None
    return Group(inner, root, clamp)


def activation_bounds(op: Op) -> tuple[float, float] | None:
    """What relu or clip confines its input to; None for any other op."""
    if not isinstance(op, Unary) or op.function not in ("relu", "clip"):
        return None
    low, high = op.parameters if op.function == "clip" else (0.0, np.inf)
    return low, high


def _nested(inner: Clamp, outer: Clamp) -> Clamp:
    """One clamp that does what `inner` and then `outer` do."""
    if inner is None or outer is None:
        return inner or outer
    low, high = (min(max(code, outer[0]), outer[1]) for code in inner)
    return low, high


def activation_clamp(limits: tuple[float, float], y: TensorType) -> Clamp:
    """The codes of y between two real numbers; None for all: eq. (16)."""
    low, high = (int(to_codes(np.float32(limit)[...], y)) for limit in limits)
    return None if (low, high) == y.code_range else (low, high)


def _rebind(rewriter: Rewriter, group: Group, *inputs: str, **changes: Any) -> bool:
    """Emit the integer form of the group's op under the name of the group's result."""
    fields = group.op.fields() | {"clamp": group.clamp} | changes
    like = rewriter.graph.types[group.quantize.outputs[0]]
    return rewriter.rebind(group.quantize, type(group.op), *inputs, like=like, **fields)


def _layer(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    operands = product_operands(rewriter, group.op)
    if operands is None:
        return False
    x, w, bias = operands
    numerics = "ort" if numerics == "onnx" else numerics
    assert isinstance(group.op, ProductOp)
    if numerics not in group.op.REQUANTIZE:
        return False
    codes: str | None = ""
    if bias and numerics in rounding.FLOAT_BIAS:
        codes = bias if rewriter.is_constant(bias) else None
    elif bias:
        codes = int32_bias(rewriter, bias, x, w, numerics, isinstance(group.op, Linear))
    return codes is not None and _rebind(rewriter, group, x, w, codes, numerics=numerics)


def product_operands(rewriter: Rewriter, op: Op) -> tuple[str, str, str] | None:
    """x, w, and bias or "", of a product on codes; None if x or w is not quantized. The bias is as it was."""
    x = _source(rewriter, op.inputs[0])
    if x is None:
        return None
    if isinstance(op, Matmul):
        other = _source(rewriter, op.inputs[1])
        return None if other is None else (x, other, "")
    w = rewriter.producer(op.inputs[1], Dequantize)
    if w is None or not rewriter.graph.types[w.inputs[0]].is_codes:
        return None
    return x, w.inputs[0], op.inputs[2] if len(op.inputs) > 2 else ""


def int32_bias(
    rewriter: Rewriter, name: str, x: str, w: str, numerics: str, any_scale: bool = False
) -> str | None:
    """A bias as int32 with scale x_scale * w_scale: eq. (9). Codes that have about that scale already are kept.

    Args:
        numerics: `ort` counts as about what onnxruntime does.
        any_scale: with numerics `ort`, the op's kernel takes the codes of a bias whatever their scale is.

    Returns:
        The name of a constant; None if the bias is not a constant or does not fit.
    """
    graph = rewriter.graph
    types = graph.types
    scale = np.float32(types[x].scale * types[w].scale)
    source = rewriter.producer(name, Dequantize)
    if source is not None and rewriter.is_constant(source.inputs[0]):
        codes, given = graph.constants[source.inputs[0]], types[source.inputs[0]].scale
        alike = np.allclose(given, scale, rtol=0.011, atol=1e-6)
        if codes.dtype == np.int32 and (alike or (any_scale and numerics == "ort")):
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


def _binary(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    a, b = (_source(rewriter, name) for name in group.op.inputs)
    if a is None or b is None:
        return numerics == "integer" and _affine(rewriter, group)
    if numerics == "ort" and isinstance(group.op, Sub | Div):
        numerics = "onnx"
    assert isinstance(group.op, BinaryOp)
    if numerics not in group.op.FORMULAS:
        return False
    if numerics == "ort" and _added_last(rewriter.graph.types[a], rewriter.graph.types[b]):
        a, b = b, a
    return _rebind(rewriter, group, a, b, numerics=numerics)


def _affine(rewriter: Rewriter, group: Group) -> bool:
    """`dequantize(x) * factor + offset`, one of each for each channel: a depthwise convolution of one tap."""
    graph, out = rewriter.graph, rewriter.graph.types[group.quantize.outputs[0]]
    if out.rank not in (2, 3, 4, 5) or isinstance(out.shape[-1], str):
        return False
    found = _factor_and_offset(rewriter, group.op, out)
    if found is None or graph.types[found[0]].shape != out.shape:
        return False
    x, factor, offset = found
    w_scale = np.maximum(np.abs(factor), np.finfo(np.float32).tiny * 128) / 127
    sums = np.rint(offset / (np.float64(graph.types[x].scale) * w_scale))
    if np.any(np.abs(sums) >= 2.0**30):
        return False
    ones = (1,) * max(1, out.rank - 2)
    codes = (127 * np.sign(factor)).astype(np.int8).reshape(*ones, -1)
    name = group.op.outputs[0]
    w = graph.constant(codes, f"{name}~factor", QuantParams.of(w_scale, 0, len(ones)))
    bias = graph.constant(sums.astype(np.int32), f"{name}~offset")
    if out.rank == 2:
        positions = graph.types[x].with_shape((out.shape[0], 1, out.shape[1]))
        x = rewriter.add(Reshape, x, out=f"{name}~positions", like=positions)
    y = rewriter.add(
        DepthwiseConv,
        x,
        w,
        bias,
        out=f"{name}~codes",
        like=out.with_shape(()),
        stride=ones,
        dilation=ones,
        padding=((0, 0),) * len(ones),
        clamp=group.clamp,
    )
    return rewriter.rebind(
        group.quantize, Reshape, y, like=replace(graph.types[y], shape=out.shape)
    )


def _factor_and_offset(
    rewriter: Rewriter, op: Op | None, out: TensorType
) -> tuple[str, Array, Array] | None:
    """Codes x and float64 vectors such that op gives `dequantize(x) * factor + offset`; None if it does not."""
    factor, offset = np.ones(1), np.zeros(1)
    while isinstance(op, Add | Sub | Mul | BatchNorm):
        if isinstance(op, BatchNorm):
            scale, shift = (rewriter.graph.constants.get(name) for name in op.inputs[1:])
            if scale is None or shift is None:
                return None
            offset, factor = offset + factor * shift, factor * scale
            x = _source(rewriter, op.inputs[0])
            return None if x is None else (x, factor, offset)
        at = 0 if rewriter.is_constant(op.inputs[1]) else 1
        name = op.inputs[1 - at]
        if not rewriter.is_constant(name) or (isinstance(op, Sub) and at == 1):
            return None
        vector = per_channel(rewriter.graph.constants[name], out.shape[-1], out.rank)
        if vector is None:
            return None
        if isinstance(op, Mul):
            factor = factor * vector
        else:
            offset = offset + factor * (-vector if isinstance(op, Sub) else vector)
        x = _source(rewriter, op.inputs[at])
        if x is not None:
            channels = int(out.shape[-1])
            return x, np.broadcast_to(factor, channels), np.broadcast_to(offset, channels)
        op = rewriter.producers.get(op.inputs[at])
        if op is None or rewriter.only_reader(op.outputs[0]) is None:
            return None
    return None


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
    return (
        x is not None
        and numerics in ("integer", "ort", *rounding.AVERAGE)
        and _rebind(rewriter, group, x, numerics=numerics)
    )


def _global_average_pool(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    return numerics in rounding.MEAN and _mean(rewriter, group, numerics)


def _mean(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    """A mean of codes, the op's fields as they are but for `numerics`."""
    x = _source(rewriter, group.op.inputs[0])
    if x is None or group.clamp is not None:
        return False
    like = rewriter.graph.types[group.quantize.outputs[0]]
    fields = group.op.fields() | {"numerics": numerics}
    return rewriter.rebind(group.quantize, type(group.op), x, like=like, **fields)


def _reduce_mean(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    """onnxruntime takes this mean in float32, and PyTorch where the op does not say otherwise."""
    return numerics in ("integer", *TORCH_MEAN) and _mean(rewriter, group, numerics)


def _adaptive_average_pool(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    return numerics in ("integer", *rounding.ADAPTIVE) and _mean(rewriter, group, numerics)


def _resize(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    """Linear interpolation of codes; onnxruntime interpolates float32."""
    x = _source(rewriter, group.op.inputs[0])
    if x is None or numerics not in ("integer", *rounding.INTERPOLATE):
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
        like = replace(out, shape=type.shape)
        if rewriter.is_constant(source):
            real_codes = Tensor(type, rewriter.graph.constants[source]).real()
            codes = to_codes(real_codes, like, group.quantize.numerics)
            parts.append(rewriter.graph.constant(codes, f"{source}~rescaled", out.quant))
            continue
        real = rewriter.add(Dequantize, source, out=f"{source}~real")
        name = rewriter.graph.fresh(f"{source}~rescaled")
        rewriter.graph.types[name] = like
        tabulate(rewriter, replace(group.quantize, inputs=(real,), outputs=(name,)))
        parts.append(name)
    assert isinstance(group.op, Concat)
    return rewriter.rebind(group.quantize, Concat, *parts, like=out, axis=group.op.axis)


def _batch_norm(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    x = _source(rewriter, group.op.inputs[0])
    if numerics == "integer":
        return _affine(rewriter, group)
    if x is None or numerics != "fbgemm":
        return False
    return _rebind(rewriter, group, x, *group.op.inputs[1:], numerics=numerics)


def _norm(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    """layer_norm and group_norm; there is no fixed-point form."""
    x = _source(rewriter, group.op.inputs[0])
    if x is None or group.clamp is not None or numerics != "fbgemm":
        return False
    like = rewriter.graph.types[group.quantize.outputs[0]]
    inputs = (x, *group.op.inputs[1:])
    return rewriter.rebind(group.quantize, type(group.op), *inputs, like=like, **group.op.fields())


def _prelu(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    x, slope = (_source(rewriter, name) for name in group.op.inputs)
    if x is None or slope is None or group.clamp is not None or numerics not in rounding.PRELU:
        return False
    like = rewriter.graph.types[group.quantize.outputs[0]]
    return rewriter.rebind(group.quantize, Prelu, x, slope, like=like, numerics=numerics)


def _softmax(rewriter: Rewriter, group: Group, numerics: str) -> bool:
    x = _source(rewriter, group.op.inputs[0])
    if x is None:
        return False
    graph, out = rewriter.graph, rewriter.graph.types[group.quantize.outputs[0]]
    assert isinstance(group.op, Softmax)
    if numerics not in TABLE_DTYPES or group.op.log:
        return False
    if numerics == "torch":
        if group.clamp is not None:
            return False
        return rewriter.rebind(
            group.quantize, Softmax, x, like=out, axis=group.op.axis, numerics=numerics
        )
    if numerics in ("ort", "qnnpack"):
        if group.clamp is not None:
            return False
        make = rounding.exp_table_ort if numerics == "ort" else rounding.exp_table_qnnpack
        table: Array = make(graph.types[x].scale, _softmax_length(graph, group.op))
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
    Matmul: _layer,
    Add: _binary,
    Sub: _binary,
    Mul: _binary,
    Div: _binary,
    AdaptiveAveragePool: _adaptive_average_pool,
    AveragePool: _average_pool,
    GlobalAveragePool: _global_average_pool,
    ReduceMean: _reduce_mean,
    Resize: _resize,
    Concat: _concat,
    Softmax: _softmax,
    BatchNorm: _batch_norm,
    LayerNorm: _norm,
    GroupNorm: _norm,
    Prelu: _prelu,
}


def sum_in_int32(graph: Graph, numerics: str) -> None:
    """A product of codes whose result is used as float32: the int32 sum, then `dequantize`: eq. (10).

    A float32 bias becomes int32 with numerics `integer`. Engines add it to the result.
    """

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if not isinstance(op, PRODUCTS) or not graph.types[op.outputs[0]].is_float:
            return False
        operands = product_operands(rewriter, op)
        if operands is None:
            return False
        x, w, bias = operands
        codes: str | None = ""
        if bias and (numerics == "integer" or not rewriter.is_constant(bias)):
            codes = int32_bias(rewriter, bias, x, w, numerics, isinstance(op, Linear))
            if codes is None:
                return False
            bias = ""
        scales = np.atleast_1d(np.float32(graph.types[x].scale * graph.types[w].scale))
        last = graph.types[op.outputs[0]].rank - 1
        quant = QuantParams.of(scales, 0, last if scales.size > 1 else None)
        acc = rewriter.add(
            type(op),
            *((x, w, codes) if codes else (x, w)),
            out=f"{op.outputs[0]}~sum",
            like=TensorType("int32", FLOAT.shape),
            **op.fields() | {"numerics": "integer"},
        )
        graph.types[acc] = replace(graph.types[acc], quant=quant)
        if not bias:
            return rewriter.rebind(op, Dequantize, acc)
        real = rewriter.add(Dequantize, acc, out=f"{op.outputs[0]}~real")
        return rewriter.rebind(op, Add, real, bias)

    graph.rewrite(rule)
