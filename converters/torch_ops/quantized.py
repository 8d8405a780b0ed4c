"""Operators on quantized tensors: PyTorch's int8 kernels, by engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nprt import rounding
from nprt.converters.building.layers import convolution, transposed_convolution
from nprt.converters.torch_ops import faults
from nprt.converters.torch_ops.elementwise import Translate
from nprt.converters.torch_ops.importer import (
    Importer,
    array_of,
    packed_engine,
    quantized_array,
)
from nprt.converters.torch_ops.layers import geometry
from nprt.converters.torch_ops.movement import identity
from nprt.converters.torch_ops.recording import Call, one_line
from nprt.errors import ModelError
from nprt.ir import Array, QuantParams
from nprt.ops.dequantize import Dequantize
from nprt.ops.linear import Linear
from nprt.ops.lookup import Lookup
from nprt.ops.rules import known
from nprt.ops.unary import Unary

# --- between floats and codes ------------------------------------------------------------------------


def quantize_per_tensor(m: Importer, call: Call) -> None:
    m.quantize(call, m.real(call.args[0]))


def dequantize(m: Importer, call: Call) -> None:
    ref = call.args[0]
    chosen = m.run_time.get(ref)
    if chosen is not None:
        (result,) = call.outputs
        assert result is not None
        m.run_time[result] = chosen
        return m.later(result, lambda: chosen.real(m, m.out(call)))
    if not m.is_quantized(call.args[0]):
        return identity(m, call)
    return m.bind(call, m.real(call.args[0]))


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
    room = 2**31 - 1 - greatest_sums(call, codes, quant)
    if np.any(np.abs(sums) > room):
        m.note(
            call,
            "its bias does not fit in the int32 sums of the engine qnnpack: torch's sums may overflow, and nprt's bias "
            "is cut off where they cannot",
        )
        sums = np.clip(sums.astype(np.float64), -room, room)
    scale = np.float32(x_scale) * quant.scales
    added = QuantParams.of(scale, 0, 0 if scale.ndim else None)
    added_codes = m.graph.constant(sums.astype(np.int32), base, added)
    return x, w, m.emit(Dequantize, added_codes, out=f"{base}~real")


def greatest_sums(call: Call, codes: Array, quant: QuantParams) -> Array:
    """int64 (out_channels,): bounds of the sums of a layer without its bias, eq. (4), for any codes of x."""
    packed: Any = call.args[1]
    if hasattr(packed, "stride") and packed.transpose():
        parts = codes.reshape(packed.groups(), -1, *codes.shape[1:]).swapaxes(1, 2)
        codes = parts.reshape(-1, *parts.shape[2:])
    rows = codes.reshape(len(codes), -1).astype(np.int64)
    return 255 * np.abs(rows - np.reshape(quant.zero_points, (-1, 1))).sum(axis=1)


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
        codes, numerics = seen.weight, engine
        if transposed:
            fields["output_padding"] = tuple(packed.output_padding())[-rank:]
            codes, numerics = as_transposed(m, call, packed, seen, bias, weight)
        elif faults.is_general(seen):
            numerics = "onednn-general"
        elif faults.saturates(seen):
            numerics = "fbgemm-saturating"
        fields |= {"numerics": m.numerics(numerics), "groups": groups, "out": f"{m.out(call)}~sum"}
        build = transposed_convolution if transposed else convolution
        y = build(m, *operands(m, call, engine, weight, codes, bias), **fields)
        activated(m, call, y, activation)

    return translate


def as_transposed(
    m: Importer,
    call: Call,
    packed: Any,
    seen: faults.Convolution,
    bias: Array | None,
    weight: torch.Tensor,
) -> tuple[Array, str]:
    """Weights and numerics of a transposed convolution, which onednn has to be asked for."""
    if packed_engine(packed) != "onednn":
        return seen.weight, seen.engine
    kernel = faults.Transposed(packed, seen, bias, weight.q_scale())
    codes = kernel.weights()
    if codes is not seen.weight:
        m.note(call, faults.SCRAMBLED)
    x_scale = m.recording.values[call.args[0].index].scale
    assert x_scale is not None
    numerics = kernel.numerics(codes, x_scale)
    if numerics is None:
        m.note(call, "onednn rounds this layer in an order of its own; few codes may differ by one")
    return codes, numerics or "onednn"


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
        engine = numerics = m.layer_engine(packed)
        if engine == "onednn" and m.recording.values[call.args[0].index].dtype == torch.qint8:
            numerics = "onednn-general"
        codes = array_of(weight.int_repr())
        values = operands(m, call, engine, weight, codes, bias)
        y = m.emit(Linear, *values, out=f"{m.out(call)}~sum", numerics=m.numerics(numerics))
        activated(m, call, y, activation)

    return translate


def fused_by_onednn(m: Importer, call: Call) -> None:
    """What only FX with the backend config of onednn makes of a model."""
    raise ModelError(
        "this fusion of the onednn backend config is not supported; prepare and convert with the default backend_config"
    )
