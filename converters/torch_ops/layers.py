"""Layers in float32: convolutions, products, normalizations, attention, means."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from nprt.converters.building.composites import (
    batch_norm_factors,
    grouped_norm,
    normalize,
    reduce,
    scaled_and_shifted,
    softmax_op,
)
from nprt.converters.building.layers import convolution, transposed_convolution
from nprt.converters.torch_ops.elementwise import Translate, operands
from nprt.converters.torch_ops.importer import Importer, arguments, spatial
from nprt.converters.torch_ops.recording import Call, Known
from nprt.errors import ModelError
from nprt.ops.add import Add
from nprt.ops.argmax import Argmax
from nprt.ops.dynamic_linear import DynamicLinear
from nprt.ops.gather import Gather
from nprt.ops.linear import Linear
from nprt.ops.matmul import Matmul
from nprt.ops.mul import Mul
from nprt.ops.rules import known
from nprt.ops.transpose import Transpose


def geometry(rank: int, stride: Any, padding: Any, dilation: Any) -> dict[str, Any]:
    """The fields that convolutions share, from torch's arguments."""
    pads = spatial(padding, rank)
    return {
        "stride": spatial(stride, rank),
        "dilation": spatial(dilation, rank),
        "padding": tuple((pad, pad) for pad in pads),
    }


def conv(m: Importer, call: Call) -> None:
    x, w, bias, stride, padding, dilation, transposed, extra, groups = call.args[:9]
    rank = len(m.shape(x)) - 2
    fields = geometry(rank, stride, padding, dilation)
    values = (m.real(x), m.real(w, parameter(call, "weight")), m.real(bias, "bias"))
    if transposed:
        fields["output_padding"] = spatial(extra, rank)
        y = transposed_convolution(m, *values, out=m.out(call), groups=groups, **fields)
    else:
        y = convolution(m, *values, out=m.out(call), groups=groups, **fields)
    m.bind(call, y)


def linear(m: Importer, call: Call) -> None:
    x, w, bias = arguments(call, "input", "weight", bias=None)
    if len(m.shape(x)) < 1 or not isinstance(w, Known):
        raise ModelError("linear needs constant weights")
    weight, added = m.real(w, parameter(call, "weight")), m.real(bias, "bias")
    chosen = m.run_time.get(x)
    if chosen is not None and chosen.plain and w.codes is not None:
        source, codes = m.real(chosen.source), m.constant_codes(weight)
        y = m.emit(DynamicLinear, source, codes, added, out=m.out(call), **chosen.fields())
    else:
        y = m.emit(Linear, m.real(x), weight, added, out=m.out(call))
    m.bind(call, y)


def parameter(call: Call, name: str) -> str:
    """A name for a parameter that has none of its own."""
    return ".".join(filter(None, (call.place.module, name)))


def matmul(m: Importer, call: Call) -> None:
    a, b = call.args[:2]
    m.bind(call, product(m, m.real(a, "a"), m.real(b, "b"), m.out(call)))


def product(m: Importer, a: str, b: str, out: str) -> str:
    """A matrix product; with a constant matrix on the right, a linear layer."""
    if m.is_constant(b) and m.graph.types[b].rank == 2 and m.graph.types[a].rank >= 2:
        return m.emit(Linear, a, m.rearranged(b, (1, 0)), out=out)
    if m.graph.types[b].rank == 1:
        column = m.to_shape(b, (m.graph.types[b].shape[0], 1), f"{out}~column")
        y = product(m, a, column, f"{out}~column")
        return m.to_shape(y, m.graph.types[y].shape[:-1], out)
    if m.graph.types[a].rank == 1:
        row = m.to_shape(a, (1, m.graph.types[a].shape[0]), f"{out}~row")
        y = product(m, row, b, f"{out}~row")
        shape = m.graph.types[y].shape
        return m.to_shape(y, (*shape[:-2], shape[-1]), out)
    return m.emit(Matmul, a, b, out=out)


def addmm(m: Importer, call: Call) -> None:
    """beta * bias + alpha * (a @ b)."""
    bias, a, b, beta, alpha = arguments(call, "self", "mat1", "mat2", beta=1, alpha=1)
    out = m.out(call)
    matrix = m.real(b, "weight")
    plain = alpha == beta == 1 and isinstance(bias, Known) and isinstance(b, Known)
    if plain and bias.tensor.shape == (b.tensor.shape[-1],):
        y = m.emit(Linear, m.real(a), m.rearranged(matrix, (1, 0)), m.real(bias, "bias"), out=out)
        return m.bind(call, y)
    y = product(m, m.real(a), matrix, f"{out}~product")
    for factor, what in ((alpha, "product"), (beta, "bias")):
        if factor != 1 and what == "product":
            y = m.emit(Mul, y, m.number(factor, out), out=f"{out}~scaled")
    added = m.real(bias, "bias")
    if beta != 1:
        added = m.emit(Mul, added, m.number(beta, out), out=f"{out}~bias")
    return m.bind(call, m.emit(Add, y, added, out=out))


def batch_norm(m: Importer, call: Call) -> None:
    """With running statistics; x * factor + offset, which the passes fold into the layer before."""
    if call.op.endswith("no_training"):
        x, weight, bias, mean, var, _, epsilon = call.args
        training = False
    else:
        x, weight, bias, mean, var, training, _, epsilon = call.args[:8]
    if training or mean is None:
        return instance_norm(m, call, x, weight, bias, epsilon)
    mean, var = (m.array(item, "a running statistic of batch norm") for item in (mean, var))
    scale = np.ones_like(mean) if weight is None else m.array(weight, "weight")
    offset = np.zeros_like(mean) if bias is None else m.array(bias, "bias")
    factors = batch_norm_factors(scale, offset, mean, var, epsilon)
    value = m.real(x)
    return m.bind(call, scaled_and_shifted(m, value, *factors, 1, m.out(call)))


def instance_norm(m: Importer, call: Call, x: Any, weight: Any, bias: Any, epsilon: float) -> None:
    """Batch norm in training mode over one sample of (batch * channels) channels: what instance norm dispatches."""
    if m.shape(x)[0] != 1:
        raise ModelError(
            "batch norm in training mode; call eval() on the module before it is converted"
        )
    channels = known("channels", m.shape(x)[1])
    y = grouped_norm(m, m.real(x), channels, epsilon, m.out(call))
    if weight is not None or bias is not None:
        scale = np.ones(channels, np.float32) if weight is None else m.array(weight, "weight")
        offset = np.zeros(channels, np.float32) if bias is None else m.array(bias, "bias")
        y = scaled_and_shifted(m, y, scale, offset, 1, m.out(call))
    m.bind(call, y)


def layer_norm(m: Importer, call: Call) -> None:
    x, shape, weight, bias, epsilon = call.args[:5]
    m.bind(
        call,
        layer_norm_op(m, m.real(x), len(shape), m.real(weight), m.real(bias), epsilon, m.out(call)),
    )


def layer_norm_op(
    m: Importer, x: str, axes: int, weight: str, bias: str, epsilon: float, out: str
) -> str:
    """x normalized over its last `axes` axes, then times weight plus bias where these are given."""
    rank = m.graph.types[x].rank
    y, _, _ = normalize(m, x, tuple(range(rank - axes, rank)), epsilon, out)
    if weight:
        y = m.emit(Mul, y, weight, out=f"{out}~scaled")
    return m.emit(Add, y, bias, out=out) if bias else y


def group_norm(m: Importer, call: Call) -> None:
    """native_group_norm and group_norm."""
    if call.op.endswith("native_group_norm"):
        x, weight, bias, _, _, _, groups, epsilon = call.args
    else:
        x, groups, weight, bias, epsilon = arguments(
            call, "input", "num_groups", weight=None, bias=None, eps=1e-5
        )
    y = grouped_norm(m, m.real(x), groups, epsilon, m.out(call))
    if weight is not None:
        y = scaled_and_shifted(
            m, y, m.array(weight, "weight"), m.array(bias, "bias"), 1, m.out(call)
        )
    m.bind(call, y)


def reduction(kind: str) -> Translate:
    """mean, sum, amax, amin over some axes, or over all."""

    def translate(m: Importer, call: Call) -> None:
        x, axes, keepdims, _ = arguments(call, "self", dim=None, keepdim=False, dtype=None)
        value = m.real(x)
        rank = m.graph.types[value].rank
        chosen = range(rank) if axes is None or axes == [] else np.atleast_1d(axes).tolist()
        order = tuple(sorted({int(axis) % rank for axis in chosen}))
        m.bind(call, reduce(m, value, kind, order, bool(keepdims), m.out(call)))

    return translate


def argmax(m: Importer, call: Call) -> None:
    x, axis, keepdims = arguments(call, "self", dim=None, keepdim=False)
    if axis is None:
        raise ModelError("argmax over all axes is not supported; name one")
    value = m.value(x)
    axis %= m.graph.types[value].rank
    m.bind(call, m.emit(Argmax, value, out=m.out(call), axis=axis, keepdims=keepdims))


def flash_attention(m: Importer, call: Call) -> None:
    """What scaled_dot_product_attention becomes in an exported program; its other results are for training."""
    named = dict(zip(("dropout_p", "is_causal"), call.args[3:], strict=False)) | dict(call.kwargs)
    attention(m, replace(call, args=call.args[:3], kwargs=named))


def repeated(m: Importer, x: str, heads: int, out: str) -> str:
    """Keys or values with each head so often that there are `heads`."""
    type = m.graph.types[x]
    axis = type.rank - 3
    count = known("heads of keys", type.shape[axis])
    index = m.constant(np.repeat(np.arange(count), heads // count), f"{out}~heads")
    return m.emit(Gather, x, index, out=f"{out}~repeated", like=type, axis=axis)


def attention(m: Importer, call: Call) -> None:
    """softmax(q @ k.T * scale + mask) @ v."""
    q, k, v, mask, dropout, causal, scale, grouped = arguments(
        call,
        "query",
        "key",
        "value",
        attn_mask=None,
        dropout_p=0.0,
        is_causal=False,
        scale=None,
        enable_gqa=False,
    )
    if dropout:
        raise ModelError("attention with dropout is not supported; call eval() on the module")
    out = m.out(call)
    query, key, value = m.real(q), m.real(k), m.real(v)
    if grouped:
        heads = known("heads", m.graph.types[query].shape[-3])
        key, value = (repeated(m, part, heads, out) for part in (key, value))
    rank = m.graph.types[key].rank
    width = known("the width of a head", m.graph.types[query].shape[-1])
    swap = (*range(rank - 2), rank - 1, rank - 2)
    key = m.emit(Transpose, key, out=f"{out}~keys", perm=swap)
    scores = m.emit(Matmul, query, key, out=f"{out}~scores")
    factor = 1 / math.sqrt(width) if scale is None else scale
    scores = m.emit(Mul, scores, m.number(factor, out), out=f"{out}~scaled")
    if causal:
        rows, columns = (
            known("the length of a sequence", d) for d in m.graph.types[scores].shape[-2:]
        )
        hidden = np.triu(np.full((rows, columns), -np.inf, np.float32), 1)
        scores = m.emit(Add, scores, m.constant(hidden, f"{out}~causal"), out=f"{out}~masked")
    elif mask is not None:
        if isinstance(mask, Known) and mask.tensor.dtype.is_floating_point is False:
            array = np.where(m.array(mask, "the mask"), np.float32(0), np.float32(-np.inf))
            added = m.constant(array.astype(np.float32), f"{out}~mask")
        else:
            added = operands(m, call, mask)[0]
        scores = m.emit(Add, scores, added, out=f"{out}~masked")
    weights = softmax_op(m, scores, -1, True, f"{out}~weights")
    m.bind(call, m.emit(Matmul, weights, value, out=out))
