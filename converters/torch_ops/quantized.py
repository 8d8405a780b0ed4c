"""Operators on quantized tensors: PyTorch's int8 kernels, by engine, and the quantize and dequantize of PT2E graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nprt.converters.building.layers import convolution, transposed_convolution
from nprt.converters.torch_ops.elementwise import Translate
from nprt.converters.torch_ops.importer import Importer, arguments, quantized_array
from nprt.converters.torch_ops.layers import geometry
from nprt.converters.torch_ops.movement import identity, join
from nprt.converters.torch_ops.recorder import Call, Known, Ref
from nprt.ir import Op, QuantParams, TensorType
from nprt.ops.add import Add
from nprt.ops.dequantize import Dequantize
from nprt.ops.linear import Linear
from nprt.ops.lookup import Lookup
from nprt.ops.quantize import Quantize
from nprt.ops.unary import Unary

# --- between floats and codes ------------------------------------------------------------------------


def quantize_per_tensor(m: Importer, call: Call) -> None:
    m.quantize(call, m.real(call.args[0]))


def dequantize(m: Importer, call: Call) -> None:
    if not m.is_quantized(call.args[0]):
        return identity(m, call)
    return m.bind(call, m.real(call.args[0]))


def decomposed_quantize(m: Importer, call: Call) -> None:
    """PT2E: `clip(rint(x * (1 / scale)) + zero_point, quant_min, quant_max)`."""
    x, scale, zero_point, low, high, _ = arguments(
        call, "input", "scale", "zero_point", "quant_min", "quant_max", "dtype"
    )
    m.traits.quantized = True
    quant = QuantParams.of(number(m, scale, "scale"), int(number(m, zero_point, "zero point")))
    like = m.type_of(m.result(call)).with_shape(())
    like = TensorType(like.dtype, (), quant)
    out = m.out(call)
    y = m.emit(Quantize, m.real(x), out=out, like=like, numerics="pt2e")
    if (low, high) != like.code_range:
        y = clamped(m, y, low, high, out)
    m.bind(call, y)


def decomposed_dequantize(m: Importer, call: Call) -> None:
    """PT2E: `scale * (code - zero_point)`, of what its quantize gave or of constant weights."""
    x, scale, zero_point = call.args[:3]
    quant = QuantParams.of(number(m, scale, "scale"), int(number(m, zero_point, "zero point")))
    dequantize_as(m, call, x, quant)


def decomposed_dequantize_per_channel(m: Importer, call: Call) -> None:
    x, scales, zero_points, axis = call.args[:4]
    arrays = m.array(scales, "scales"), m.array(zero_points, "zero points")
    dequantize_as(m, call, x, QuantParams.of(*arrays, axis))


def dequantize_as(m: Importer, call: Call, x: Any, quant: QuantParams) -> None:
    """dequantize, with the parameters that only the reader of the codes knows."""
    m.traits.quantized = True
    codes = m.with_quant(x, quant)
    m.bind(call, m.emit(Dequantize, codes, out=m.out(call)))


def number(m: Importer, item: Any, what: str) -> float:
    return float(m.array(item, what).reshape(())) if isinstance(item, Known | Ref) else float(item)


def clamped(m: Importer, codes: str, low: int, high: int, out: str) -> str:
    """Codes kept between two codes, by a table."""
    type = m.graph.types[codes]
    least, greatest = type.code_range
    table = np.clip(np.arange(least, greatest + 1), low, high).astype(type.numpy)
    return m.emit(
        Lookup,
        codes,
        m.constant(table, f"{out}~limits"),
        out=f"{out}~limited",
        like=type,
        function="clip",
    )


# --- functions of one code ----------------------------------------------------------------------------


def table(m: Importer, call: Call) -> None:
    """Any operator on each code by itself: torch itself computes all 256 entries."""
    ref = call.args[0]
    value, result = m.recording.values[ref.index], m.result(call)
    x = m.value(ref)
    entries = evaluate(call, value, 256)
    one_by_one = torch.cat([evaluate(call, value, 256, at) for at in range(256)])
    if not torch.equal(entries.int_repr(), one_by_one.int_repr()):
        codes = torch.nonzero(entries.int_repr() != one_by_one.int_repr()).reshape(-1).tolist()
        m.note(call, f"torch rounds the codes {codes} otherwise in the last elements of a tensor")
    array, quant = quantized_array(entries)
    like = TensorType(array.dtype.name, (), quant)
    name = m.graph.constant(array, f"{m.out(call)}~table")
    function = call.op.rpartition(".")[2].strip("_")
    y = m.emit(Lookup, x, name, out=m.out(call), like=like, function=function)
    assert result.scale is not None
    m.bind(call, y)


def evaluate(call: Call, value: Any, count: int, at: int | None = None) -> torch.Tensor:
    """The operator of `call` on every code, in order; or on one alone."""
    signed = value.dtype == torch.qint8
    codes = (
        torch.arange(-128, 128, dtype=torch.int8)
        if signed
        else torch.arange(256, dtype=torch.uint8)
    )
    if at is not None:
        codes = codes[at : at + 1]
    x = torch._make_per_tensor_quantized_tensor(codes, value.scale, value.zero_point)
    namespace, name = call.op.split(".", 1)
    function = getattr(getattr(getattr(torch.ops, namespace), name), call.overload)
    rest = [item.tensor if isinstance(item, Known) else item for item in call.args[1:]]
    keywords = {
        k: item.tensor if isinstance(item, Known) else item for k, item in call.kwargs.items()
    }
    result: torch.Tensor = function(x, *rest, **keywords)
    return result


def on_codes(otherwise: Translate) -> Translate:
    """A table where the first argument is quantized; `otherwise` in float32."""

    def translate(m: Importer, call: Call) -> None:
        if m.is_quantized(call.args[0]):
            return table(m, call)
        return otherwise(m, call)

    return translate


# --- layers -------------------------------------------------------------------------------------------


def weights(
    m: Importer, tensor: torch.Tensor, bias: torch.Tensor | None, call: Call
) -> tuple[str, str]:
    """Dequantized constant weights, and the float32 bias."""
    base = ".".join(filter(None, (call.place.module, "weight")))
    codes, quant = quantized_array(tensor)
    w = m.emit(Dequantize, m.graph.constant(codes, base, quant), out=f"{base}~real")
    if bias is None:
        return w, ""
    return w, m.constant(bias.detach().numpy(), f"{base.removesuffix('weight')}bias")


def activated(m: Importer, call: Call, real: str, activation: str) -> None:
    """The result of a layer, through the activation that is fused into it, as codes."""
    if activation:
        real = m.emit(Unary, real, out=f"{m.out(call)}~{activation}", function=activation)
    m.quantize(call, real)


def conv(rank: int, activation: str = "") -> Translate:
    def translate(m: Importer, call: Call) -> None:
        x, packed, *_ = call.args
        fields = geometry(rank, packed.stride(), packed.padding(), packed.dilation())
        fields = {name: value[-rank:] for name, value in fields.items()}
        weight, bias = packed.unpack()
        if weight.ndim == rank + 3:  # one-dimensional weights are packed with an axis more
            weight = weight.squeeze(2)
        w, b = weights(m, weight, bias, call)
        transposed = bool(packed.transpose())
        extra = tuple(packed.output_padding())[-rank:]
        engine = m.conv_engine(weight, packed.groups(), any(extra))
        fields["numerics"] = m.numerics(engine)
        values, out = (m.real(x), w, b), f"{m.out(call)}~sum"
        if transposed:
            y = transposed_convolution(
                m, *values, out=out, groups=packed.groups(), output_padding=extra, **fields
            )
        else:
            y = convolution(m, *values, out=out, groups=packed.groups(), **fields)
        activated(m, call, y, activation)

    return translate


def linear(activation: str = "") -> Translate:
    def translate(m: Importer, call: Call) -> None:
        x, packed, *_ = call.args
        weight, bias = torch.ops.quantized.linear_unpack(packed)
        w, b = weights(m, weight, bias, call)
        numerics = m.numerics(m.linear_engine())
        y = m.emit(Linear, m.real(x), w, b, out=f"{m.out(call)}~sum", numerics=numerics)
        activated(m, call, y, activation)

    return translate


# --- elementwise --------------------------------------------------------------------------------------


def binary(cls: type[Op], activation: str = "") -> Translate:
    def translate(m: Importer, call: Call) -> None:
        a, b = call.args[:2]
        if not isinstance(b, Ref | Known):
            return table(m, call)
        numerics = m.numerics(m.add_engine(a, b) if cls is Add else "fbgemm")
        y = m.emit(cls, m.real(a), m.real(b), out=f"{m.out(call)}~real", numerics=numerics)
        return activated(m, call, y, activation)

    return translate


def cat(relu: bool) -> Translate:
    def translate(m: Importer, call: Call) -> None:
        parts, axis, *_ = call.args
        join(m, call, parts, axis % len(m.result(call).shape), relu=relu)

    return translate
