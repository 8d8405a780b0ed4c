"""Convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nprt.converters.building.layers import convolution, transposed_convolution
from nprt.converters.onnx_ops.importer import Importer, Node
from nprt.errors import ModelError
from nprt.ir import Dim, TensorType
from nprt.ops.add import Add
from nprt.ops.dequantize import Dequantize
from nprt.ops.linear import Linear
from nprt.ops.matmul import Matmul
from nprt.ops.mul import Mul
from nprt.ops.reshape import Reshape
from nprt.ops.rules import known
from nprt.ops.transpose import Transpose
from nprt.ops.windows import Padding


def conv(m: Importer, node: Node) -> None:
    conv_op(m, node, m.value(node.input(0)), m.value(node.input(1)), m.value(node.input(2)))


def conv_op(m: Importer, node: Node, x: str, w: str, bias: str, **fields: object) -> None:
    """Conv with its operands as graph values; `fields` go to the op and its result may be int32."""
    x_zero_point = str(fields.pop("x_zero_point", ""))
    like = fields.pop("like", TensorType("float32", ()))
    assert isinstance(like, TensorType)
    x_type, w_type = m.graph.types[x], m.graph.types[w]
    if x_type.rank not in (3, 4, 5) or w_type.rank != x_type.rank:
        raise ModelError(f"x {x_type} and w {w_type} are not a convolution of 1 to 3 spatial axes")
    node.ignore("kernel_shape")
    geometry = window_fields(
        node, [known("a spatial dimension", d) for d in x_type.shape[2:]], w_type.shape[2:]
    )
    if geometry.pop("ceil_mode"):
        raise ModelError("ceil_mode has no meaning for Conv")
    del geometry["kernel"]
    groups, inputs = node.attr("group", 1), (x, w, bias, x_zero_point)
    y = convolution(m, *inputs, out=node.output, groups=groups, like=like, **geometry)
    m.bind(node.output, y)


def window_fields(node: Node, sizes: list[int], kernel: Sequence[Dim]) -> dict[str, Any]:
    """kernel, stride, dilation, padding and ceil_mode from the attributes that Conv and the pools share."""
    taps = tuple(known("the kernel", k) for k in kernel)
    rank = len(taps)
    stride = tuple(node.attr("strides", [1] * rank))
    dilation = tuple(node.attr("dilations", [1] * rank))
    if len(stride) != rank or len(dilation) != rank:
        raise ModelError(f"strides {stride} and dilations {dilation} do not fit a kernel {taps}")
    return {
        "kernel": taps,
        "stride": stride,
        "dilation": dilation,
        "padding": padding_of(node, sizes, taps, stride, dilation),
        "ceil_mode": bool(node.attr("ceil_mode", 0)),
    }


def padding_of(
    node: Node,
    sizes: list[int],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Padding:
    """(before, after) for each spatial axis, from `pads` or `auto_pad`."""
    auto_pad = node.attr("auto_pad", "NOTSET")
    pads = node.attr("pads", [0] * (2 * len(sizes)))
    if auto_pad in ("NOTSET", ""):
        if len(pads) != 2 * len(sizes) or min(pads, default=0) < 0:
            raise ModelError(f"pads {list(pads)} are not {2 * len(sizes)} integers of at least 0")
        return tuple(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
    if auto_pad == "VALID":
        return ((0, 0),) * len(sizes)
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise ModelError(f"auto_pad {auto_pad!r} is not NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    padding = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        padding.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
    return tuple(padding)


def conv_transpose(m: Importer, node: Node) -> None:
    x, w, bias = (m.value(node.input(i)) for i in range(3))
    x_type, w_type = m.graph.types[x], m.graph.types[w]
    rank = x_type.rank - 2
    if rank not in (1, 2, 3) or w_type.rank != x_type.rank:
        raise ModelError(f"x {x_type} and w {w_type} are not a convolution of 1 to 3 spatial axes")
    node.ignore("kernel_shape")
    groups = node.attr("group", 1)
    stride = tuple(node.attr("strides", [1] * rank))
    dilation = tuple(node.attr("dilations", [1] * rank))
    extra = tuple(node.attr("output_padding", [0] * rank))
    kernel = [known("the kernel", k) for k in w_type.shape[2:]]
    sizes = [known("a spatial dimension", d) for d in x_type.shape[2:]]
    target = node.attr("output_shape", None)
    auto_pad = node.attr("auto_pad", "NOTSET")
    if target is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        node.ignore("pads")
        wanted = target[-rank:] if target else [n * s for n, s in zip(sizes, stride, strict=True)]
        reach = [
            s * (n - 1) + e + (k - 1) * d + 1
            for n, k, s, d, e in zip(sizes, kernel, stride, dilation, extra, strict=True)
        ]
        padding = []
        for full, out in zip(reach, wanted, strict=True):
            total = max(0, full - out)
            small, large = total // 2, total - total // 2
            padding.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
        extra = tuple(
            e + max(0, out - full) for e, full, out in zip(extra, reach, wanted, strict=True)
        )
    else:
        padding = list(padding_of(node, sizes, tuple(kernel), stride, dilation))
    y = transposed_convolution(
        m,
        *(x, w, bias),
        out=node.output,
        groups=groups,
        stride=stride,
        dilation=dilation,
        padding=tuple(padding),
        output_padding=extra,
    )
    m.bind(node.output, y)


def gemm(m: Importer, node: Node) -> None:
    w = m.value(node.input(1))
    trans_a = node.attr("transA", 0)
    if node.input(0) in m.merged and not trans_a and is_weight(m, w):
        x, axes = m.merged[
            node.input(0)
        ]  # a linear layer is the same on any number of leading axes
    else:
        x, axes = m.value(node.input(0)), ()
    if trans_a:
        x = m.emit(Transpose, x, out=f"{x}~t", perm=(1, 0))
    transposed = node.attr("transB", 0)
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    bias = m.value(node.input(2))
    if is_weight(m, w):
        if not transposed:
            w = m.rearranged(w, (1, 0))
        vector = bias_vector(m, bias, m.graph.types[w].shape[0]) if alpha == beta == 1.0 else ""
        y = m.emit(Linear, x, w, vector, out=node.output)
        bias = "" if vector else bias
    else:
        if transposed:
            w = m.emit(Transpose, w, out=f"{w}~t", perm=(1, 0))
        y = m.emit(Matmul, x, w, out=node.output)
    if alpha != 1.0:
        y = m.emit(
            Mul,
            y,
            m.constant(np.float32(alpha)[...], f"{node.output}~alpha"),
            out=f"{node.output}~scaled",
        )
    if bias:
        if beta != 1.0:
            factor = m.constant(np.asarray(beta, np.float32), f"{node.output}~beta")
            bias = m.emit(Mul, bias, factor, out=f"{bias}~scaled")
        y = m.emit(Add, y, bias, out=f"{node.output}~biased")
    if axes:
        m.merged[node.output] = y, axes
    else:
        m.bind(node.output, y)


def matmul(m: Importer, node: Node) -> None:
    m.bind(node.output, matmul_op(m, m.value(node.input(0)), m.value(node.input(1)), node.output))


def matmul_op(m: Importer, x: str, w: str, out: str) -> str:
    """NumPy's matmul on float32 graph values, with its rules for vectors."""
    x_type, w_type = m.graph.types[x], m.graph.types[w]
    if x_type.rank == 1:
        x = m.emit(Reshape, x, out=f"{x}~row", like=x_type.with_shape((1, *x_type.shape)))
    if w_type.rank == 1:
        w = m.emit(Reshape, w, out=f"{w}~column", like=w_type.with_shape((*w_type.shape, 1)))
    if is_weight(m, w) and m.graph.types[w].rank == 2:
        w = m.rearranged(w, (1, 0))
        y = m.emit(Linear, x, w, out=out)
    else:
        y = m.emit(Matmul, x, w, out=out)
    shape = list(m.graph.types[y].shape)
    if w_type.rank == 1:
        del shape[-1]
    if x_type.rank == 1:
        del shape[-1 if w_type.rank == 1 else -2]
    if tuple(shape) != m.graph.types[y].shape:
        y = m.emit(Reshape, y, out=f"{out}~vector", like=m.graph.types[y].with_shape(tuple(shape)))
    return y


def is_weight(m: Importer, name: str) -> bool:
    """Whether a value is a constant, or a dequantized or rearranged one."""
    producers = m.graph.producers()
    while name not in m.graph.constants:
        op = producers.get(name)
        if not isinstance(op, Dequantize | Transpose | Reshape):
            return False
        name = op.inputs[0]
    return True


def bias_vector(m: Importer, bias: str, channels: Dim) -> str:
    """`bias` as a vector of one value for each channel; "" where it is not one."""
    if not bias or not is_weight(m, bias):
        return ""
    shape = m.graph.types[bias].shape
    if shape == (channels,):
        return bias
    if shape == (1, channels):
        return m.rearranged(bias, (0, 1), (channels,))
    return ""
