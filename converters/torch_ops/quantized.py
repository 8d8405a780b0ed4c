"""Operators on quantized tensors: PyTorch's int8 kernels, by engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nprt import rounding
from nprt.converters.building.layers import convolution, transposed_convolution
from nprt.converters.torch_ops import faults
from nprt.converters.torch_ops.elementwise import Translate
from nprt.converters.torch_ops.importer import Importer, arguments, array_of, quantized_array
from nprt.converters.torch_ops.layers import geometry
from nprt.converters.torch_ops.movement import identity, join
from nprt.converters.torch_ops.recorder import Call, Known, Ref, one_line
from nprt.errors import ModelError
from nprt.ir import Array, Op, QuantParams, TensorType
from nprt.ops.add import Add
from nprt.ops.dequantize import Dequantize
from nprt.ops.linear import Linear
from nprt.ops.lookup import Lookup
from nprt.ops.rules import known
from nprt.ops.unary import Unary

# --- between floats and codes ------------------------------------------------------------------------


def quantize_per_tensor(m: Importer, call: Call) -> None:
    m.quantize(call, m.real(call.args[0]))


def dequantize(m: Importer, call: Call) -> None:
    if not m.is_quantized(call.args[0]):
        return identity(m, call)
    return m.bind(call, m.real(call.args[0]))


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


def unpacked(packed: Any, rank: int) -> tuple[torch.Tensor, Array | None]:
    """Quantized weights, and float32 bias.

    Args:
        rank: spatial axes, 0 for linear; one-dimensional convolutions are packed with an axis more.

    Raises:
        ModelError: torch does not give them back.
    """
    try:
        weight, bias = packed.unpack()
    except RuntimeError as error:
        raise ModelError(
            f"torch cannot unpack its weights ({one_line(error)}); load the module under another engine"
        ) from None
    if rank and weight.ndim == rank + 3:
        weight = weight.squeeze(2)
    return weight, None if bias is None else bias.detach().numpy()


def operands(
    m: Importer, call: Call, engine: str, weight: torch.Tensor, codes: Array, bias: Array | None
) -> tuple[str, str, str]:
    """Real values of x, of the weights `codes`, and of the bias."""
    base = ".".join(filter(None, (call.place.module, "weight")))
    quant = quantized_array(weight)[1]
    x, w = m.real(call.args[0]), m.graph.constant(codes, base, quant)
    w = m.emit(Dequantize, w, out=f"{base}~real")
    check_scales(m, call, engine, weight)
    if bias is None:
        return x, w, ""
    base = f"{base.removesuffix('weight')}bias"
    if engine != "qnnpack" or m.integer:
        return x, w, m.constant(bias, base)
    x_scale = m.recording.values[call.args[0].index].scale
    assert x_scale is not None
    sums = rounding.quantize_bias_qnnpack(bias, np.float64(x_scale), scales_of(weight))
    if np.any(np.abs(sums) >= 2.0**31):
        raise ModelError("its bias is too large for the int32 sums of the engine qnnpack")
    scale = np.float32(x_scale) * quant.scales
    added = QuantParams.of(scale, 0, 0 if scale.ndim else None)
    added_codes = m.graph.constant(sums.astype(np.int32), base, added)
    return x, w, m.emit(Dequantize, added_codes, out=f"{base}~real")


def scales_of(weight: torch.Tensor) -> Array:
    """float64, of shape () or (channels,)."""
    if weight.qscheme() == torch.per_channel_affine:
        scales: Array = weight.q_per_channel_scales().double().numpy()
        return scales
    return np.array(weight.q_scale(), np.float64)


def check_scales(m: Importer, call: Call, engine: str, weight: torch.Tensor) -> None:
    """onednn inverts scales in float64. That is another float32 for some scales that are not float32 themselves."""
    if engine != "onednn" or m.integer:
        return
    scales = [m.recording.values[call.args[0].index].scale, m.result(call).scale]
    if weight.qscheme() != torch.per_channel_affine and call.op.startswith("quantized.linear"):
        scales.append(weight.q_scale())
    for scale in np.array(scales, np.float64):
        if np.float32(1 / scale) != np.float32(1) / np.float32(scale):
            m.note(
                call,
                f"the scale {scale!r} is no float32, and onednn computes with another float32 near it than nprt; few "
                "codes may differ by one",
            )


def activated(m: Importer, call: Call, real: str, activation: str) -> None:
    """The result of a layer, through the activation that is fused into it, as codes."""
    if activation:
        real = m.emit(Unary, real, out=f"{m.out(call)}~{activation}", function=activation)
    m.quantize(call, real)


def conv(rank: int, activation: str = "") -> Translate:
    def translate(m: Importer, call: Call) -> None:
        packed: Any = call.args[1]
        weight, bias = unpacked(packed, rank)
        engine, groups = m.conv_engine(packed, weight), packed.groups()
        transposed = bool(packed.transpose())
        fields = geometry(rank, packed.stride(), packed.padding(), packed.dilation())
        fields = {name: value[-rank:] for name, value in fields.items()}
        x = m.type_of(m.recording.values[call.args[0].index])
        seen = faults.Convolution(
            engine,
            array_of(weight.int_repr()),
            groups,
            transposed,
            fields["stride"],
            tuple(before for before, _ in fields["padding"]),
            fields["dilation"],
            tuple(known("a spatial dimension", size) for size in x.shape[2:]),
            int(x.zero_point),
            greatest_code(m, m.value(call.args[0])),
        )
        for text in faults.faults(seen):
            m.note(call, text)
        codes = seen.weight
        if transposed:
            codes = faults.weights_in_use(packed, seen, bias)
            fields["output_padding"] = tuple(packed.output_padding())[-rank:]
        if codes is not seen.weight:
            m.note(call, faults.SCRAMBLED)
        fields |= {"numerics": m.numerics(engine), "groups": groups, "out": f"{m.out(call)}~sum"}
        build = transposed_convolution if transposed else convolution
        y = build(m, *operands(m, call, engine, weight, codes, bias), **fields)
        activated(m, call, y, activation)

    return translate


def greatest_code(m: Importer, codes: str) -> int:
    """A bound of the codes of a graph value: that of its dtype, or of the table that it came out of."""
    made = m.graph.producers().get(codes)
    if isinstance(made, Lookup) and made.inputs[1] in m.graph.constants:
        return int(m.graph.constants[made.inputs[1]].max())
    return m.graph.types[codes].code_range[1]


def linear(activation: str = "") -> Translate:
    def translate(m: Importer, call: Call) -> None:
        packed: Any = call.args[1]
        weight, bias = unpacked(packed, 0)
        engine = m.layer_engine(packed)
        codes = array_of(weight.int_repr())
        values = operands(m, call, engine, weight, codes, bias)
        y = m.emit(Linear, *values, out=f"{m.out(call)}~sum", numerics=m.numerics(engine))
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
