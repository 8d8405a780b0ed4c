"""Quantized operators: each is dequantize, its float operator, quantize. The passes make one integer op of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nprt.converters.building.composites import softmax_op
from nprt.converters.onnx_ops import layers, pooling
from nprt.converters.onnx_ops.importer import Importer, Node
from nprt.errors import ModelError
from nprt.ir import Op, QuantParams, TensorType
from nprt.ops.cast import Cast
from nprt.ops.concat import Concat
from nprt.ops.dequantize import Dequantize
from nprt.ops.dynamic_linear import DynamicLinear
from nprt.ops.dynamic_quantize import DynamicQuantize
from nprt.ops.linear import Linear
from nprt.ops.lookup import Lookup
from nprt.ops.matmul import Matmul
from nprt.ops.reshape import Reshape
from nprt.ops.transpose import Transpose
from nprt.ops.unary import Unary

Quant = tuple[str, str, str]


# --- QuantizeLinear, DequantizeLinear ------------------------------------------------------------------


def quantize_linear(m: Importer, node: Node) -> None:
    from onnx.helper import tensor_dtype_to_np_dtype

    node.ignore("saturate", "precision")
    if node.attr("block_size", 0):
        raise ModelError("blocked quantization is not supported")
    code = node.attr("output_dtype", 0)
    dtype = tensor_dtype_to_np_dtype(code).name if code else None
    name, axis = node.input(0), node.attr("axis", 1)
    if name in m.known:
        m.known[node.output] = quantize_known(m, node, m.known[name], axis, dtype or "uint8")
    else:
        y = m.quantized(m.value(name), node.input(1), node.input(2), node.output, dtype)
        m.bind(node.output, y)


def quantize_known(m: Importer, node: Node, x: np.ndarray, axis: int, dtype: str) -> np.ndarray:
    """QuantizeLinear on a constant."""
    quant, zero_dtype = m.quant_params(node.input(1), node.input(2), axis, x.ndim)
    along = [-1 if i == quant.axis else 1 for i in range(x.ndim)] if quant.axis is not None else []
    info = np.iinfo(zero_dtype or dtype)
    codes = np.rint(x.astype(np.float32) / quant.scales.reshape(along)) + quant.zero_points.reshape(
        along
    )
    return np.clip(codes, info.min, info.max).astype(info.dtype)


def dequantize_linear(m: Importer, node: Node) -> None:
    if node.attr("block_size", 0):
        raise ModelError("blocked quantization is not supported")
    if node.attr("output_dtype", 0) not in (0, 1):
        raise ModelError("only float32 results are supported")
    axis = node.attr("axis", 1)
    m.bind(
        node.output, m.dequantized((node.input(0), node.input(1), node.input(2)), axis, node.output)
    )


# --- QLinear operators ----------------------------------------------------------------------------------


def triple(node: Node, at: int) -> Quant:
    return node.input(at), node.input(at + 1), node.input(at + 2)


def finish(m: Importer, node: Node, y: str, scale: str, zero_point: str) -> None:
    """Quantize the float result of a QLinear node, whose op follows onnxruntime's kernel on codes."""
    m.traits.qoperator = True
    _decide(m, y)
    m.bind(node.output, m.quantized(y, scale, zero_point, node.output))


def _decide(m: Importer, y: str) -> None:
    """Give numerics `ort` to the op behind y and what only moves its result."""
    for index in reversed(range(len(m.graph.ops))):
        op = m.graph.ops[index]
        if y not in op.outputs:
            continue
        if isinstance(op, Transpose | Reshape):
            y = op.inputs[0]
            continue
        if "numerics" in op.fields():
            m.graph.ops[index] = replace(op, numerics="ort")  # type: ignore[call-arg]
        return


def int32_bias(m: Importer, name: str, x_scale: str, w_scale: str, alpha: float = 1.0) -> str:
    """An int32 bias, whose scale is alpha times that of the sums, as a dequantized constant."""
    if not name:
        return ""
    bias = m.const(name, "bias")
    x_scaled = np.float32(alpha) * m.const(x_scale, "scale").reshape(())
    scale = x_scaled * m.const(w_scale, "scale").reshape(-1)
    if bias.dtype != np.int32:
        raise ModelError(f"bias {name!r} is {bias.dtype}; expected int32")
    bias = bias.reshape(-1)
    quant = QuantParams.of(scale if scale.size > 1 else scale[0], 0, 0 if scale.size > 1 else None)
    return m.emit(Dequantize, m.constant(bias, name, quant), out=f"{name}~real")


def qlinear_conv(m: Importer, node: Node) -> None:
    x = m.dequantized(triple(node, 0))
    w = m.dequantized(triple(node, 3), axis=0)
    bias = int32_bias(m, node.input(8), node.input(1), node.input(4))
    layers.conv_op(m, node, x, w, bias)
    if node.attr("channels_last", 0):
        raise ModelError(
            "channels_last=1 is made by onnxruntime's optimizer; convert the model it came from"
        )
    finish(m, node, m.values[node.output], node.input(6), node.input(7))


def qlinear_matmul(m: Importer, node: Node) -> None:
    x = m.dequantized(triple(node, 0), axis=-2)
    w = m.dequantized(triple(node, 3), axis=-1)
    y = layers.matmul_op(m, x, w, f"{node.output}~real")
    finish(m, node, y, node.input(6), node.input(7))


def qgemm(m: Importer, node: Node) -> None:
    """com.microsoft QGemm: quantized where it has a scale for y, else float32."""
    transposed = node.attr("transB", 0)
    alpha = node.attr("alpha", 1.0)
    x = _scaled(m, m.dequantized(triple(node, 0)), alpha)
    w = m.dequantized(triple(node, 3), axis=0 if transposed else 1)
    if node.attr("transA", 0):
        x = m.emit(Transpose, x, out=f"{x}~t", perm=(1, 0))
    if not transposed:
        w = m.rearranged(w, (1, 0))
    bias = int32_bias(m, node.input(6), node.input(1), node.input(4), alpha)
    y = m.emit(Linear, x, w, bias, out=f"{node.output}~real")
    if node.input(7):
        finish(m, node, y, node.input(7), node.input(8))
    else:
        m.bind(node.output, y)


def _scaled(m: Importer, x: str, alpha: float) -> str:
    """A dequantized value times alpha: the same codes with another scale."""
    if alpha == 1.0:
        return x
    if not alpha > 0.0:
        raise ModelError(f"alpha={alpha} is not supported; it must be above 0")
    codes = m.graph.producers()[x].inputs[0]
    type = m.graph.types[codes]
    quant = QuantParams.of(np.float32(alpha) * type.scale, type.zero_point)
    low, high = type.code_range
    same = m.constant(np.arange(low, high + 1).astype(type.numpy), f"{x}~same", quant)
    like = replace(type, quant=quant)
    scaled = m.emit(Lookup, codes, same, out=f"{x}~scaled", like=like, function="alpha")
    return m.emit(Dequantize, scaled, out=f"{x}~times_alpha")


def qlinear_binary(cls: type[Op]):  # type: ignore[no-untyped-def]
    """QLinearAdd, QLinearMul."""

    def translate(m: Importer, node: Node) -> None:
        a, b = m.dequantized(triple(node, 0)), m.dequantized(triple(node, 3))
        y = m.emit(cls, a, b, out=f"{node.output}~real")
        finish(m, node, y, node.input(6), node.input(7))

    return translate


def qlinear_pool(m: Importer, node: Node) -> None:
    x = m.dequantized(triple(node, 0))
    op = (
        pooling.global_average_pool_op
        if node.op_type == "QLinearGlobalAveragePool"
        else pooling.average_pool_op
    )
    finish(m, node, op(m, node, x), node.input(3), node.input(4))


def qlinear_unary(function: str, **attributes: float):  # type: ignore[no-untyped-def]
    """QLinearSigmoid, QLinearLeakyRelu."""

    def translate(m: Importer, node: Node) -> None:
        parameters = tuple(float(np.float32(node.attr(*item))) for item in attributes.items())
        x = m.dequantized(triple(node, 0))
        y = m.emit(Unary, x, out=f"{node.output}~real", function=function, parameters=parameters)
        finish(m, node, y, node.input(3), node.input(4))

    return translate


def qlinear_softmax(m: Importer, node: Node) -> None:
    x = m.dequantized(triple(node, 0))
    one_axis = node.attr("opset") >= 13
    y = softmax_op(m, x, node.attr("axis", -1), one_axis, f"{node.output}~real")
    finish(m, node, y, node.input(3), node.input(4))


def qlinear_concat(m: Importer, node: Node) -> None:
    parts = [m.dequantized(triple(node, at)) for at in range(2, len(node.inputs), 3)]
    axis = node.attr("axis") % m.graph.types[parts[0]].rank
    y = m.emit(Concat, *parts, out=f"{node.output}~real", axis=axis)
    finish(m, node, y, node.input(0), node.input(1))


# --- integer operators ----------------------------------------------------------------------------------


def dynamic_quantize_linear(m: Importer, node: Node) -> None:
    m.traits.quantized = True
    outputs = [name or f"{node.name}~{i}" for i, name in enumerate(node.outputs)]
    m.emit(DynamicQuantize, m.value(node.input(0)), out=outputs)
    for name, value in zip(node.outputs, m.graph.ops[-1].outputs, strict=True):
        if name:
            m.bind(name, value)


def integer_weight(m: Importer, name: str, zero_point: str, axis: int) -> str:
    """Constant integer weights; their zero points, known here, go into their type with a scale of 1."""
    w = m.const(name, "the weight")
    zeros = (
        m.const(zero_point, "the weight's zero point").reshape(-1)
        if zero_point
        else np.zeros(1, w.dtype)
    )
    quant = QuantParams.of(
        np.ones(zeros.size, np.float32), zeros, axis % w.ndim if zeros.size > 1 else None
    )
    return m.constant(w, name, quant)


def int32_like() -> TensorType:
    return TensorType("int32", ())


def matmul_integer(m: Importer, node: Node) -> None:
    m.traits.quantized = True
    m.bind(node.output, integer_product(m, node, 0, 1, 2, 3, node.output))


def integer_product(
    m: Importer, node: Node, x: int, w: int, x_zero: int, w_zero: int, out: str
) -> str:
    """The int32 product of inputs x and w with the zero points at x_zero and w_zero."""
    left, x_zero_point = m.value(node.input(x)), m.value(node.input(x_zero))
    if node.input(w) in m.known and m.known[node.input(w)].ndim == 2:
        right = integer_weight(m, node.input(w), node.input(w_zero), axis=1)
        right = m.rearranged(right, (1, 0))
        return m.emit(Linear, left, right, "", x_zero_point, out=out, like=int32_like())
    right, w_zero_point = m.value(node.input(w)), m.value(node.input(w_zero))
    return m.emit(Matmul, left, right, x_zero_point, w_zero_point, out=out, like=int32_like())


def conv_integer(m: Importer, node: Node) -> None:
    m.traits.quantized = True
    w = integer_weight(m, node.input(1), node.input(3), axis=0)
    layers.conv_op(
        m,
        node,
        m.value(node.input(0)),
        w,
        "",
        x_zero_point=m.value(node.input(2)),
        like=int32_like(),
    )


def matmul_integer_to_float(m: Importer, node: Node) -> None:
    """com.microsoft MatMulIntegerToFloat: the int32 product times both scales, plus a float32 bias."""
    from nprt.ops.add import Add
    from nprt.ops.mul import Mul

    m.traits.quantized = True
    acc = integer_product(m, node, 0, 1, 4, 5, f"{node.output}~sum")
    real = m.emit(Cast, acc, out=f"{node.output}~cast", like=TensorType("float32", ()))
    scale = m.emit(Mul, m.value(node.input(2)), m.value(node.input(3)), out=f"{node.output}~scale")
    y = m.emit(Mul, real, scale, out=f"{node.output}~real")
    if node.input(6):
        y = m.emit(Add, y, m.value(node.input(6)), out=f"{node.output}~biased")
    m.bind(node.output, y)


def dynamic_quantize_matmul(m: Importer, node: Node) -> None:
    """com.microsoft DynamicQuantizeMatMul."""
    m.traits.quantized = True
    quant, _ = m.quant_params(node.input(2), node.input(3), 1, 2)
    w = m.constant(m.const(node.input(1), "the weight"), node.input(1), quant)
    w = m.rearranged(w, (1, 0))
    y = m.emit(DynamicLinear, m.value(node.input(0)), w, m.value(node.input(4)), out=node.output)
    m.bind(node.output, y)
