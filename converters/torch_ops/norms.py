"""Int8 kernels that normalize, softmax, and the product of two quantized tensors."""

from __future__ import annotations

import math

import numpy as np
import torch

from nprt.converters.torch_ops.elementwise import Translate
from nprt.converters.torch_ops.importer import Importer, arguments, require_written_in_order
from nprt.converters.torch_ops.recording import Call, Value
from nprt.errors import ModelError
from nprt.ops.batch_norm import BatchNorm
from nprt.ops.group_norm import GroupNorm
from nprt.ops.layer_norm import LayerNorm
from nprt.ops.matmul import Matmul
from nprt.ops.rules import known
from nprt.ops.softmax import Softmax
from nprt.ops.unary import Unary

# A batch that nobody runs.
LARGE_BATCH = 1024


def check_scale(m: Importer, call: Call, value: Value) -> None:
    """These kernels compute with the float64 scale of their input; nprt has float32 scales."""
    if value.scale is not None and float(np.float32(value.scale)) != value.scale:
        m.note(
            call,
            "the scale of its input is no float32, and torch computes with all its digits; a code may differ by one "
            "near a tie",
        )


def batch_norm(activation: str = "") -> Translate:
    def translate(m: Importer, call: Call) -> None:
        x, weight, bias, mean, var, epsilon, _, _ = arguments(
            call, "qx", "weight", "bias", "mean", "var", "eps", "output_scale", "output_zero_point"
        )
        check_scale(m, call, m.recording.values[x.index])
        out, value = m.out(call), m.real(x)
        w, b = m.array(weight, "the weight"), m.array(bias, "the bias")
        averages, variances = m.array(mean, "the mean"), m.array(var, "the variance")
        # In this order, in float32.
        inverse = np.float32(1) / np.sqrt(variances + np.float32(epsilon))
        vectors = (
            m.constant(array, f"{out}~{what}")
            for what, array in (("factor", inverse * w), ("offset", b - averages * inverse * w))
        )
        y = m.emit(
            BatchNorm,
            m.channels_last(value),
            *vectors,
            out=f"{out}~nhwc",
            numerics=m.numerics("fbgemm"),
        )
        y = m.channels_first(y, f"{out}~real")
        if activation:
            y = m.emit(Unary, y, out=f"{out}~{activation}", function=activation)
        m.quantize(call, y)

    return translate


def layer_norm(m: Importer, call: Call) -> None:
    x, shape, weight, bias, epsilon, _, _ = arguments(
        call,
        "input",
        "normalized_shape",
        "weight",
        "bias",
        "eps",
        "output_scale",
        "output_zero_point",
    )
    check_scale(m, call, m.recording.values[x.index])
    out, value = m.out(call), m.real(x)
    dims = m.shape(x)
    size = math.prod(shape)
    rows = m.to_shape(value, (*dims[: len(dims) - len(shape)], size), f"{out}~rows")
    vectors = [
        "" if item is None else m.constant(m.array(item, what).reshape(-1), f"{out}~{what}")
        for item, what in ((weight, "weight"), (bias, "bias"))
    ]
    y = m.emit(
        LayerNorm,
        rows,
        *vectors,
        out=f"{out}~normal",
        epsilon=float(epsilon),
        numerics=m.numerics("fbgemm"),
    )
    m.quantize(call, m.to_shape(y, dims, f"{out}~real"))


def group_norm(m: Importer, call: Call) -> None:
    """group_norm, and instance_norm with as many groups as channels."""
    names = ("weight", "bias", "eps", "output_scale", "output_zero_point")
    if call.op.endswith("instance_norm"):
        x, weight, bias, epsilon, _, _ = arguments(call, "input", *names)
        groups = known("channels", m.shape(x)[1])
    else:
        x, groups, weight, bias, epsilon, _, _ = arguments(call, "input", "num_groups", *names)
    value = m.recording.values[x.index]
    last = value.channels_last and len(value.shape) == 4  # volumes have the contiguous kernel only
    check_scale(m, call, value)
    if last:
        check_batch(m, call, value, groups)
        require_written_in_order(value, m.result(call))
    out = m.out(call)
    vectors = [
        "" if item is None else m.constant(m.array(item, what).reshape(-1), f"{out}~{what}")
        for item, what in ((weight, "weight"), (bias, "bias"))
    ]
    y = m.emit(
        GroupNorm,
        m.channels_last(m.real(x)),
        *vectors,
        out=f"{out}~nhwc",
        groups=groups,
        epsilon=float(epsilon),
        channels_last=last,
        numerics=m.numerics("fbgemm"),
    )
    m.quantize(call, m.channels_first(y, f"{out}~real"))


def check_batch(m: Importer, call: Call, value: Value, groups: int) -> None:
    """Note that torch's kernel for channels_last tensors writes no more samples than a group has elements."""
    batch, *rest = value.shape
    written = math.prod(known("a normalized dimension", dim) for dim in rest) // groups
    if written < (LARGE_BATCH if isinstance(batch, str) else batch):
        m.note(
            call,
            f"torch leaves all samples of a channels_last tensor but the first {written} unwritten; nprt computes all",
        )


def softmax(m: Importer, call: Call) -> None:
    """In float32; with a table on qnnpack for uint8 codes of 1/256."""
    x, axis, _, _ = arguments(call, "qx", "dim", "output_scale", "output_zero_point")
    result = m.result(call)
    axis %= len(result.shape)
    table = (
        m.engine == "qnnpack"
        and result.dtype == torch.quint8
        and (result.scale, result.zero_point) == (1 / 256, 0)
    )
    if table:
        length = result.shape[axis]
        if isinstance(length, str):
            raise ModelError("softmax along the free dimension is not supported")
        top = round(min(float(2**32 - 1) / length, float(2**23 - 1)))
        if top * length >= 2**32:
            m.note(
                call,
                f"torch's sum of {length} entries leaves 32 bits where nearly all codes of a row are alike; it then "
                "gives 255 everywhere, or dies, and nprt gives the right codes",
            )
    y = m.emit(
        Softmax,
        m.real(x),
        out=f"{m.out(call)}~real",
        axis=axis,
        numerics=m.numerics("qnnpack" if table else "torch"),
    )
    m.quantize(call, y)


def matmul(m: Importer, call: Call) -> None:
    """A float32 product of the dequantized operands in torch; the exact sum here."""
    a, b = call.args[:2]
    y = m.emit(
        Matmul, m.real(a), m.real(b), out=f"{m.out(call)}~real", numerics=m.numerics("torch")
    )
    m.note(
        call,
        "torch sums float32 products here in an order that is not specified; nprt takes the exact sum, which differs "
        "by one code where an error of float32 crosses a tie",
    )
    m.quantize(call, y)
