"""All rounding: real scales to integers, accumulators to codes, floats to codes and back.

No other file of the runtime rounds to codes. Each formula has its number in `docs/quantization.md`. A *numerics* names
one family of these formulas; every op that rounds says in its field `numerics` which one it follows.

    integer   fixed point, no float between the first quantize and the last dequantize; ties go up
    ort       onnxruntime's quantized kernels on x86: float32 multipliers; ties go to even
    onnx      the ONNX operators themselves: dequantize, the op in float32, quantize; ties go to even
    fbgemm    PyTorch's engines fbgemm and, for most ops, x86: float32 multipliers, float32 bias; ties go to even
    fbgemm-scalar  the same in add where PyTorch has no vector loop: the zero point is added before rounding
    onednn    PyTorch's engine onednn, and x86 for most convolutions: the zero point is added before rounding
    onednn-general
              its general kernels, for layers for which it has no other: the same in another order
    qnnpack   PyTorch's engine qnnpack: float32 multipliers, int32 bias; add in fixed point, ties away from zero
    torch     `torch.quantize_per_tensor`, and what PyTorch computes in float32 before it; ties go to even
    torch-nchw, torch-nhwc
              PyTorch's own kernels for pooling, means and resizing, on contiguous and on channels-last tensors; all its
              engines share them; ties go to even
    pt2e      PyTorch's `quantized_decomposed` graphs: dequantize, the op in float32, quantize; ties go to even

Shapes: scales and multipliers broadcast against the accumulator, whose last axis holds the channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

NUMERICS = (
    *("integer", "ort", "onnx"),
    *("fbgemm", "fbgemm-scalar", "onednn", "onednn-general", "qnnpack"),
    *("torch", "torch-nchw", "torch-nhwc", "pt2e"),
)


# --- integer: fixed-point multipliers, ties up -------------------------------------------------------


def quantize_multiplier(real: Array) -> tuple[Array, Array]:
    """Write `real` as `multiplier * 2**-shift`: eq. (5).

    Args:
        real: float64, finite, >= 0.

    Returns:
        multiplier int64 in {0} or [2**30, 2**31), and shift int64 in [1, 62]. A `real` below 2**-32 becomes 0,
        as in TFLite's `QuantizeMultiplier`.

    Raises:
        OverflowError: a `real` of 2**30 or more, which no layer with sane scales has.
    """
    fraction, exponent = np.frexp(np.asarray(real, np.float64))  # fraction in [0.5, 1), or 0
    multiplier = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    carried = multiplier == 2**31
    multiplier = np.where(carried, 2**30, multiplier)
    exponent = exponent.astype(np.int64) + carried
    multiplier = np.where(exponent < -31, 0, multiplier)
    exponent = np.maximum(exponent, -31)
    if np.any(exponent > 30):
        raise OverflowError(f"multiplier {np.max(real):g} is not below 2**30")
    return multiplier, 31 - exponent


def multiply_by_quantized_multiplier(acc: Array, multiplier: Array, shift: Array) -> Array:
    """`acc * multiplier * 2**-shift`, rounded once, ties up: eq. (6).

    Args:
        acc: int64, |acc| <= 2**31.
        multiplier: int64 in [0, 2**31).
        shift: int64 in [1, 62].

    Returns:
        int64. The product stays below 2**62 and the rounding term below 2**61, so int64 holds it.
    """
    return (acc * multiplier + (1 << (shift - 1))) >> shift


def requantize_integer(
    acc: Array, x_scale: Array, w_scale: Array, y_scale: Array, y_zero_point: Array
) -> Array:
    """Accumulator to codes, not yet clamped, with numerics `integer`: eq. (7).

    Args:
        acc: int32, bias included.
        x_scale, w_scale, y_scale: float32, > 0; the real multiplier is formed in float64.
        y_zero_point: integer.

    Returns:
        int64.
    """
    real = np.float64(x_scale) * np.float64(w_scale) / np.float64(y_scale)
    multiplier, shift = quantize_multiplier(real)
    return multiply_by_quantized_multiplier(acc.astype(np.int64), multiplier, shift) + y_zero_point


class RequantizeInteger:
    """`clip(requantize_integer(acc + bias, ...), low, high)`, several times faster: in float64, block by block.

    Why float64 is exact enough: with `shift` <= 44, every value on the way from the sum to
    `v = (acc + bias) * multiplier * 2**-shift + (zero_point + 1/2)` is a multiple of 2**-44. Where it is below 2**9
    it has at most 53 bits, so float64 holds it and `floor(v)` is eq. (7). Where a product reaches 2**9 its rounding
    is monotonic and cannot bring it back below, so v is beyond every 8-bit code and the clamp gives the end code, as
    it does for eq. (7). Channels with a greater shift (multipliers below 2**-14) go through `requantize_integer`.
    """

    EXACT_SHIFT = 44
    BLOCK = 1 << 15  # elements; the passes over a block of float64 stay in the L2 cache

    def __init__(
        self,
        bias: Array | None,
        scales: tuple[Array, Array, Array, Array],
        rows: int,
        channels: int,
        clamp: tuple[int, int],
        dtype: np.dtype[Any],
    ) -> None:
        """
        Args:
            bias: int32 (channels,), or None.
            scales: x_scale, w_scale, y_scale and y_zero_point of `requantize_integer`.
            rows: how many rows of sums there will be, in all calls together.
            channels: the size of the last axis of the sums.
            clamp: the least and the greatest code.
            dtype: of the codes, 8-bit.
        """
        x_scale, w_scale, y_scale, y_zero_point = scales
        self.bias = np.zeros(channels, np.int32) if bias is None else bias
        self.scales = (x_scale, np.broadcast_to(w_scale, channels), y_scale, y_zero_point)
        self.clamp = clamp
        self.dtype = dtype
        multiplier, shift = quantize_multiplier(
            np.float64(x_scale) * np.float64(self.scales[1]) / np.float64(y_scale)
        )
        self.inexact = np.flatnonzero(shift > self.EXACT_SHIFT)
        # Repeated for every row of a block: NumPy is faster on arrays of one shape than where it broadcasts.
        block = (min(rows, max(1, self.BLOCK // max(1, channels))), channels)
        self.addend = np.empty(block, np.float64)
        self.addend[...] = self.bias
        self.factor = np.empty(block, np.float64)
        self.factor[...] = np.ldexp(multiplier.astype(np.float64), -shift)
        self.real = np.empty(block, np.float64)

    def __call__(self, acc: Array) -> Array:
        """Codes of `acc` (rows, channels): float32, float64 or int32 holding integers, |acc + bias| < 2**31."""
        x_scale, w_scale, y_scale, y_zero_point = self.scales
        low, high = self.clamp
        above = np.empty(acc.shape, np.uint8)  # the code minus `low`
        step = max(1, len(self.real))
        for start in range(0, len(acc), step):
            block = acc[start : start + step]
            real = self.real[: len(block)]
            real[...] = block
            real += self.addend[: len(block)]
            real *= self.factor[: len(block)]
            real += y_zero_point + 0.5 - low
            np.clip(real, 0, high - low, out=real)
            above[start : start + step] = real  # cut off, which is `floor` of what is not negative
        codes = above.view(self.dtype)
        codes += self.dtype.type(low)
        if self.inexact.size:
            some = self.inexact
            exact = acc[:, some].astype(np.int32) + self.bias[some]
            result = requantize_integer(exact, x_scale, w_scale[some], y_scale, y_zero_point)
            codes[:, some] = np.clip(result, low, high)
        return codes


# --- float32 arithmetic ----------------------------------------------------------------------------


def fma(a: Array, b: Array, c: Array) -> Array:
    """`a * b + c` of float32 rounded once to float32, as a fused multiply-add instruction does.

    The product is exact in float64. The sum is rounded to float64 towards odd (its error decides the last bit), after
    which rounding to float32 is as if the exact sum had been rounded.
    """
    product = np.float64(a) * np.float64(b)
    addend = np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = total.view(np.int64)
    inexact_even = (error != 0) & (bits & 1 == 0)
    towards = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(inexact_even, bits + towards, bits).view(np.float64).astype(np.float32)


# --- ort: float32 multipliers, ties to even ----------------------------------------------------------


def requantize_ort(
    acc: Array, x_scale: Array, w_scale: Array, y_scale: Array, y_zero_point: Array
) -> Array:
    """Accumulator to codes, not yet clamped, as onnxruntime's QLinearConv and QLinearMatMul: eq. (8).

    Args:
        acc: int32, bias included.
        x_scale, w_scale, y_scale: float32, > 0; products and quotient rounded to float32 left to right.
        y_zero_point: integer, added after rounding.

    Returns:
        float32 holding integers (exact for every code after clamping).
    """
    multiplier = np.float32(x_scale) * np.float32(w_scale) / np.float32(y_scale)
    return np.rint(acc.astype(np.float32) * multiplier) + np.float32(y_zero_point)


# --- PyTorch's engines: float32 multipliers, ties to even ---------------------------------------------


def requantize_fbgemm(
    acc: Array,
    x_scale: Array,
    w_scale: Array,
    y_scale: Array,
    y_zero_point: Array,
    bias: Array | None = None,
) -> Array:
    """Accumulator to codes, not yet clamped, as PyTorch's engine fbgemm: eq. (31).

    Args:
        acc: int32, without bias.
        x_scale, w_scale, y_scale: float32, > 0; the bias is added otherwise where w_scale is one for all channels.
        y_zero_point: integer, added after rounding.
        bias: float32 (channels,), real numbers.

    Returns:
        float32 holding integers.
    """
    scale = np.float32(x_scale) * np.float32(w_scale)
    value = acc.astype(np.float32)
    if bias is not None and np.ndim(w_scale):
        value = value + bias / scale
    elif bias is not None:
        value = fma(bias, np.float32(1) / scale, value)
    return np.rint(value * (scale / np.float32(y_scale))) + np.float32(y_zero_point)


def requantize_qnnpack(
    acc: Array, x_scale: Array, w_scale: Array, y_scale: Array, y_zero_point: Array
) -> Array:
    """Accumulator to codes, not yet clamped, as PyTorch's engine qnnpack: eq. (32).

    Args:
        acc: int32, the bias of `quantize_bias_qnnpack` included.
    """
    scale = np.float32(x_scale) * np.float32(w_scale)
    multiplier = scale * (np.float32(1) / np.float32(y_scale))
    return np.rint(acc.astype(np.float32) * multiplier) + np.float32(y_zero_point)


def quantize_bias_qnnpack(bias: Array, x_scale: Array, w_scale: Array) -> Array:
    """A float32 bias as qnnpack quantizes it: eq. (32). float32 holding integers, not yet clamped to int32."""
    scale = (np.float64(x_scale) * np.float64(w_scale)).astype(np.float32)
    return np.rint(bias * (np.float32(1) / scale))


def twice_inverted(scale: Array) -> Array:
    """`1 / (1 / scale)` with each quotient rounded to float32: what onednn makes of a scale."""
    return np.float32(1) / (np.float32(1) / np.float32(scale))


def requantize_onednn(
    acc: Array,
    x_scale: Array,
    w_scale: Array,
    y_scale: Array,
    y_zero_point: Array,
    bias: Array | None = None,
) -> Array:
    """Accumulator to codes, not yet clamped, as PyTorch's engine onednn in convolutions: eq. (33).

    Args:
        as `requantize_fbgemm`; the zero point is added before rounding.
    """
    value = acc.astype(np.float32) * twice_inverted(x_scale) * np.float32(w_scale)
    if bias is not None:
        value = value + bias
    return np.rint(value * (np.float32(1) / twice_inverted(y_scale)) + np.float32(y_zero_point))


def requantize_onednn_linear(
    acc: Array,
    x_scale: Array,
    w_scale: Array,
    y_scale: Array,
    y_zero_point: Array,
    bias: Array | None = None,
) -> Array:
    """`requantize_onednn` as in linear layers, where the scales of the weights are inverted twice as well."""
    return requantize_onednn(acc, x_scale, twice_inverted(w_scale), y_scale, y_zero_point, bias)


def requantize_onednn_product(
    acc: Array,
    x_scale: Array,
    w_scale: Array,
    y_scale: Array,
    y_zero_point: Array,
    bias: Array | None = None,
) -> Array:
    """`requantize_onednn` in general depthwise convolutions, where the product of the scales comes first: eq. (61)."""
    value = acc.astype(np.float32) * (twice_inverted(x_scale) * np.float32(w_scale))
    if bias is not None:
        value = value + bias
    return np.rint(value * (np.float32(1) / twice_inverted(y_scale)) + np.float32(y_zero_point))


def requantize_onednn_quotient(
    acc: Array,
    x_scale: Array,
    w_scale: Array,
    y_scale: Array,
    y_zero_point: Array,
    bias: Array | None = None,
) -> Array:
    """`requantize_onednn` in general transposed convolutions and products, where the last factor divides: eq. (62)."""
    value = acc.astype(np.float32) * twice_inverted(x_scale) * np.float32(w_scale)
    if bias is not None:
        value = value + bias
    return np.rint(value / twice_inverted(y_scale) + np.float32(y_zero_point))


def requantize_onednn_linear_quotient(
    acc: Array,
    x_scale: Array,
    w_scale: Array,
    y_scale: Array,
    y_zero_point: Array,
    bias: Array | None = None,
) -> Array:
    """`requantize_onednn_quotient` in linear layers, where the scales of the weights are inverted twice as well."""
    scale = twice_inverted(w_scale)
    return requantize_onednn_quotient(acc, x_scale, scale, y_scale, y_zero_point, bias)


def requantize_pt2e(
    acc: Array,
    x_scale: Array,
    w_scale: Array,
    y_scale: Array,
    y_zero_point: Array,
    bias: Array | None = None,
) -> Array:
    """Accumulator to codes, not yet clamped, as a `quantized_decomposed` graph: eq. (34).

    PyTorch sums float32 products there, in an order that is not specified. This is the exact sum, rounded once.
    """
    real = acc.astype(np.float64) * np.float64(x_scale) * np.float64(w_scale)
    if bias is not None:
        real = real + bias
    return quantize_pt2e(real.astype(np.float32), y_scale, y_zero_point)


def requantize_torch(
    acc: Array, x_scale: Array, w_scale: Array, y_scale: Array, y_zero_point: Array
) -> Array:
    """Accumulator to codes, not yet clamped: float32 products of dequantized codes, quantized: eq. (57).

    PyTorch sums float32 products there, in an order that is not specified. This is the exact sum, rounded once.
    """
    real = acc.astype(np.float64) * np.float64(x_scale) * np.float64(w_scale)
    return quantize_torch(real.astype(np.float32), y_scale, y_zero_point)


# By numerics. Those of FLOAT_BIAS take the bias by itself, float32; the others find it in the accumulator.
FLOAT_BIAS = ("fbgemm", "onednn", "onednn-general", "pt2e")
REQUANTIZE: dict[str, Callable[..., Array]] = {
    "integer": requantize_integer,
    "ort": requantize_ort,
    "fbgemm": requantize_fbgemm,
    "onednn": requantize_onednn,
    "qnnpack": requantize_qnnpack,
    "pt2e": requantize_pt2e,
}


# --- sums, products and quotients of two codes --------------------------------------------------------
#
# Each takes codes a and b (8-bit, broadcast together) with what they stand for, and returns the codes of y, not yet
# clamped.


class Affine(NamedTuple):
    """real = scale * (code - zero_point); scale float32, zero_point int32, both of shape ()."""

    scale: Array
    zero_point: Array


# Bits of fraction that `add_integer` keeps while it brings its operands to one scale.
ADD_SHIFT = 20


def add_integer(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine, sign: int = 1) -> Array:
    """`a + sign * b` in fixed point, as TFLite's ADD and SUB with single rounding: eq. (11). Returns int64.

    Each difference is below 2**8 and is shifted left by 20; multipliers of at most 1/2 keep the sum below 2**29.
    """
    twice_max = 2.0 * np.float64(max(qa.scale, qb.scale))
    one_scale = [
        _rescale((codes.astype(np.int64) - q.zero_point) << ADD_SHIFT, q.scale / twice_max)
        for codes, q in ((a, qa), (b, qb))
    ]
    total = one_scale[0] + sign * one_scale[1]
    return _rescale(total, twice_max / (2.0**ADD_SHIFT * np.float64(qy.scale))) + qy.zero_point


def sub_integer(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a - b`: eq. (11), with the second operand negated after it is rescaled. Returns int64."""
    return add_integer(a, b, qa, qb, qy, sign=-1)


def mul_integer(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a * b` in fixed point: eq. (7) on the product of the differences. Returns int64."""
    product = (a.astype(np.int64) - qa.zero_point) * (b.astype(np.int64) - qb.zero_point)
    return requantize_integer(product, qa.scale, qb.scale, qy.scale, qy.zero_point)


def div_integer(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a / b` in fixed point, rounded once, ties up: eq. (12). Returns int64.

    A zero divisor gives the end code of the dividend's sign, and the zero point for 0 / 0. The numerator stays below
    2**40 and the denominator below 2**61.
    """
    numerator = a.astype(np.int64) - qa.zero_point
    denominator = b.astype(np.int64) - qb.zero_point
    multiplier, shift = quantize_multiplier(
        np.float64(qa.scale) / (np.float64(qb.scale) * np.float64(qy.scale))
    )
    numerator = np.where(denominator < 0, -numerator, numerator) * multiplier
    # Past 52 bits of shift the quotient of a numerator below 2**40 is 0 in any case.
    magnitude = np.abs(denominator) << np.minimum(shift, 52)
    quotient = (2 * numerator + magnitude) // np.maximum(2 * magnitude, 1)
    return np.where(denominator == 0, np.sign(numerator) * 512, quotient) + qy.zero_point


def _rescale(acc: Array, real: Array) -> Array:
    return multiply_by_quantized_multiplier(acc, *quantize_multiplier(real))


def add_ort(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a + b` as onnxruntime's QLinearAdd on x86: eq. (13). Returns float32 holding integers.

    Raw codes go through two fused multiply-adds, everything else is folded into a constant, and the zero point is added
    before rounding. Not symmetric: a is added last.
    """
    a_ratio = np.float32(qa.scale) / np.float32(qy.scale)
    b_ratio = np.float32(qb.scale) / np.float32(qy.scale)
    offset = fma(a_ratio, np.float32(qa.zero_point), b_ratio * np.float32(qb.zero_point))
    constant = np.float32(qy.zero_point) - offset
    return np.rint(fma(a.astype(np.float32), a_ratio, fma(b.astype(np.float32), b_ratio, constant)))


def mul_ort(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a * b` as onnxruntime's QLinearMul on x86: eq. (14). The zero point is added before rounding."""
    product = (a.astype(np.int32) - qa.zero_point) * (b.astype(np.int32) - qb.zero_point)
    multiplier = np.float32(qa.scale) * np.float32(qb.scale) / np.float32(qy.scale)
    return np.rint(product.astype(np.float32) * multiplier + np.float32(qy.zero_point))


def add_onnx(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a + b` in float32 between dequantize and quantize: eq. (15)."""
    return quantize(dequantize(a, *qa) + dequantize(b, *qb), *qy)


def mul_onnx(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a * b` in float32 between dequantize and quantize: eq. (15)."""
    return quantize(dequantize(a, *qa) * dequantize(b, *qb), *qy)


def sub_onnx(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a - b` in float32 between dequantize and quantize: eq. (15)."""
    return quantize(dequantize(a, *qa) - dequantize(b, *qb), *qy)


def div_onnx(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a / b` in float32 between dequantize and quantize: eq. (15)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        real = dequantize(a, *qa) / dequantize(b, *qb)
    return quantize(real, *qy)


def dequantize_fma(codes: Array, scale: Array, zero_point: Array) -> Array:
    """Codes to float32 as PyTorch's vector kernels: `fma(scale, code, -f32(scale * zero_point))`: eq. (35)."""
    offset = np.float32(scale) * np.float32(zero_point)
    return fma(np.float32(scale), codes.astype(np.float32), -offset)


def add_fbgemm(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a + b` as PyTorch's engines fbgemm, x86 and onednn, and qnnpack on int8: eq. (36)."""
    return quantize_pt2e(dequantize_fma(a, *qa) + dequantize_fma(b, *qb), *qy)


def add_fbgemm_scalar(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`add_fbgemm` where PyTorch has no vector loop, as where one operand is channels_last and one not: eq. (48)."""
    return quantize_remainder(dequantize(a, *qa) + dequantize(b, *qb), *qy)


def add_qnnpack(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a + b` as PyTorch's engine qnnpack on uint8 of one shape: eq. (37). Fixed point, ties away from zero; int64."""
    ratios = [np.float32(q.scale) / np.float32(qy.scale) for q in (qa, qb)]
    _, exponent = np.frexp(max(ratios))
    shift = 21 - (int(exponent) - 1)
    factors = [np.int64(np.rint(np.float64(ratio) * 2.0**shift)) for ratio in ratios]
    total = sum(
        (codes.astype(np.int64) - q.zero_point) * factor
        for codes, q, factor in ((a, qa, factors[0]), (b, qb, factors[1]))
    )
    magnitude = (np.abs(total) + (np.int64(1) << (shift - 1))) >> shift
    return np.sign(total) * magnitude + qy.zero_point


def mul_fbgemm(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a * b` as all of PyTorch's engines: eq. (38)."""
    product = (a.astype(np.int32) - qa.zero_point) * (b.astype(np.int32) - qb.zero_point)
    multiplier = (
        np.float32(qa.scale) * np.float32(qb.scale) * (np.float32(1) / np.float32(qy.scale))
    )
    return np.rint(product.astype(np.float32) * multiplier) + np.float32(qy.zero_point)


def add_pt2e(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a + b` in float32 between PT2E's dequantize and quantize: eq. (34)."""
    return quantize_pt2e(dequantize(a, *qa) + dequantize(b, *qb), *qy)


def sub_pt2e(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a - b` in float32 between PT2E's dequantize and quantize: eq. (34)."""
    return quantize_pt2e(dequantize(a, *qa) - dequantize(b, *qb), *qy)


def mul_pt2e(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a * b` in float32 between PT2E's dequantize and quantize: eq. (34)."""
    return quantize_pt2e(dequantize(a, *qa) * dequantize(b, *qb), *qy)


def div_pt2e(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a / b` in float32 between PT2E's dequantize and quantize: eq. (34)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        real = dequantize(a, *qa) / dequantize(b, *qb)
    return quantize_pt2e(real, *qy)


ADD = {
    "integer": add_integer,
    "ort": add_ort,
    "onnx": add_onnx,
    "fbgemm": add_fbgemm,
    "fbgemm-scalar": add_fbgemm_scalar,
    "qnnpack": add_qnnpack,
    "pt2e": add_pt2e,
}
SUB = {"integer": sub_integer, "onnx": sub_onnx, "pt2e": sub_pt2e}
MUL = {
    "integer": mul_integer,
    "ort": mul_ort,
    "onnx": mul_onnx,
    "fbgemm": mul_fbgemm,
    "pt2e": mul_pt2e,
}
DIV = {"integer": div_integer, "onnx": div_onnx, "pt2e": div_pt2e}


# --- between floats and codes ------------------------------------------------------------------------


def quantize(x: Array, scale: Array, zero_point: Array) -> Array:
    """float32 to codes, not yet clamped: `rint(x / scale) + zero_point`, ties to even: eq. (1).

    ONNX's QuantizeLinear, and the edge of every model that nprt quantizes. NaN becomes the least code.

    Returns:
        float32 holding integers, or infinities that the clamp brings to the end codes.
    """
    with np.errstate(over="ignore"):
        codes = np.rint(np.asarray(x, np.float32) / np.float32(scale))
    return np.where(np.isnan(codes), -np.float32(np.inf), codes) + np.float32(zero_point)


def quantize_torch(x: Array, scale: Array, zero_point: Array) -> Array:
    """float32 to codes, not yet clamped, as `torch.quantize_per_tensor`: eq. (39).

    `rint(fma(x, f32(1 / scale), zero_point))`: the zero point is added before rounding. NaN becomes the greatest code.
    """
    inverse = np.float32(1) / np.float32(scale)
    with np.errstate(over="ignore", invalid="ignore"):
        codes = np.rint(fma(np.asarray(x, np.float32), inverse, np.float32(zero_point)))
    return np.where(np.isnan(codes), np.float32(np.inf), codes)


def quantize_pt2e(x: Array, scale: Array, zero_point: Array) -> Array:
    """float32 to codes, not yet clamped, as `quantized_decomposed.quantize_per_tensor`: eq. (34).

    `rint(f32(x * f32(1 / scale))) + zero_point`. NaN becomes code 0.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        codes = np.rint(np.asarray(x, np.float32) * (np.float32(1) / np.float32(scale)))
    return np.where(np.isnan(codes), np.float32(0), codes + np.float32(zero_point))


QUANTIZE = {"onnx": quantize, "torch": quantize_torch, "pt2e": quantize_pt2e}


def dequantize(codes: Array, scale: Array, zero_point: Array) -> Array:
    """Codes to float32: `scale * (code - zero_point)`, one float32 rounding: eq. (2)."""
    with np.errstate(over="ignore"):  # beyond float32 a real number is an infinity
        return np.float32(scale) * (codes.astype(np.int32) - zero_point).astype(np.float32)


def dynamic_quantize(x: Array, axis: int | None) -> tuple[Array, Array, Array]:
    """float32 to uint8 codes over the range of x extended to hold 0: eq. (3), ONNX's DynamicQuantizeLinear.

    Args:
        x: float32, finite.
        axis: None for one scale; -1 for one for each row along the last axis.

    Returns:
        codes uint8, scale float32 and zero_point uint8; the latter two of shape (), or with the last axis 1.
    """
    keep = axis is not None
    low = np.minimum(x.min(axis=axis, keepdims=keep, initial=0), np.float32(0))
    high = np.maximum(x.max(axis=axis, keepdims=keep, initial=0), np.float32(0))
    scale = (high - low) / np.float32(255)
    scale = np.where(scale == 0, np.float32(1), scale)
    zero_point = np.rint(np.clip(np.float32(0) - low / scale, 0, 255))
    codes = np.clip(quantize(x, scale, zero_point), 0, 255)
    return codes.astype(np.uint8), np.asarray(scale, np.float32), zero_point.astype(np.uint8)


def scale_back_ort(acc: Array, x_scale: Array, w_scale: Array, bias: Array | None) -> Array:
    """int32 sums to float32 as onnxruntime's DynamicQuantizeMatMul: eq. (10)."""
    real = acc.astype(np.float32) * (np.float32(x_scale) * np.float32(w_scale))
    return real if bias is None else real + bias


# PyTorch does not let a scale that it finds at run time fall below this.
LEAST_SCALE_TORCH = np.float32(6.1e-5)


def dynamic_params_torch(
    low: Array, high: Array, least: int = 0, greatest: int = 255
) -> tuple[Array, Array]:
    """The scale and the zero point that PyTorch gives a range when a model runs: eq. (40) and (41).

    Args:
        low, high: float32, the ends of the range; it is extended to hold 0.
        least, greatest: the codes to use.

    Returns:
        scale float64, which some engines read in full, and zero_point int64, a code. A range that is not finite has the
        scale NaN, so that whatever is computed with it is NaN, too.
    """
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    steps = np.float32(greatest - least)
    with np.errstate(all="ignore"):
        scale = (np.float64(high) - np.float64(low)) / np.float64(steps)
        unusable = (np.float32(scale) == 0) | np.isinf(np.float32(1) / np.float32(scale))
        scale = np.where(unusable, 0.1, scale)
        tiny = scale < LEAST_SCALE_TORCH
        growth = LEAST_SCALE_TORCH / np.float32(scale)
        wide = LEAST_SCALE_TORCH * steps
        low, high = (
            np.where(tiny, np.where(high == 0, -wide, low * growth), low),
            np.where(tiny, np.where(low == 0, wide, high * growth), high),
        )
        scale = np.where(tiny, np.float64(LEAST_SCALE_TORCH), scale)
        scale = np.where(np.isfinite(scale), scale, np.nan)
        below, above = low / scale, high / scale
        nearer = abs(least) - np.abs(below) < abs(greatest) - np.abs(above)
        zero_point = np.rint(np.where(nearer, least - below, greatest - above))
    zero_point = np.clip(np.nan_to_num(zero_point, nan=0), least, greatest)
    return np.asarray(scale), np.asarray(zero_point.astype(np.int64))


def dynamic_quantize_torch(
    x: Array,
    axis: int | None,
    numerics: str = "torch",
    least: int = 0,
    greatest: int = 255,
    *,
    reduce_range: bool = False,
) -> tuple[Array, Array, Array]:
    """float32 to codes over the range of x, as PyTorch's dynamic layers: eq. (39), or eq. (42) with `onednn`.

    Args:
        x: float32, finite.
        axis: None for one scale; -1 for one for each row along the last axis.
        least, greatest: the codes of the dtype.
        reduce_range: choose the scale for half as many codes. qnnpack pays no heed to it.

    Returns:
        codes float32 holding integers, scale float64 and zero_point int64; the latter two of shape (), or with the last
        axis 1.
    """
    keep = axis is not None
    low = x.min(axis=axis, keepdims=keep, initial=0)
    high = x.max(axis=axis, keepdims=keep, initial=0)
    half = reduce_range and numerics != "qnnpack"
    ends = (int(least / 2), int(greatest / 2)) if half else (least, greatest)
    scale, zero_point = dynamic_params_torch(low, high, *ends)
    if numerics == "onednn":
        with np.errstate(all="ignore"):
            inverse = np.float32(1) / twice_inverted_torch(scale)
            codes = np.rint(x * inverse + zero_point.astype(np.float32))
        codes = np.where(np.isnan(codes), np.float32(np.inf), codes)
    else:
        codes = quantize_torch(x, scale, zero_point)
    return np.clip(codes, least, greatest), scale, zero_point


def twice_inverted_torch(scale: Array) -> Array:
    """`twice_inverted` of a float64 scale, whose first quotient is rounded to float32 only once."""
    return np.float32(1) / np.float32(1 / np.float64(scale))


def scale_back_fbgemm(acc: Array, x_scale: Array, w_scale: Array, bias: Array | None) -> Array:
    """Sums to float32 as `quantized.linear_dynamic` of PyTorch's engines fbgemm and x86: eq. (43)."""
    factor = np.float32(x_scale) * np.float32(w_scale)
    real = acc.astype(np.float32)
    return real * factor if bias is None else fma(real, factor, bias)


def scale_back_onednn(acc: Array, x_scale: Array, w_scale: Array, bias: Array | None) -> Array:
    """Sums to float32 as `quantized.linear_dynamic` of PyTorch's engine onednn: eq. (44)."""
    real = acc.astype(np.float32) * twice_inverted_torch(x_scale) * twice_inverted(w_scale)
    return real if bias is None else real + bias


# The least scale that PT2E quantizers let `choose_qparams` find.
LEAST_SCALE_PT2E = 2.0**-12


def dynamic_quantize_pt2e(
    x: Array, axis: int | None, *, reduce_range: bool = False
) -> tuple[Array, Array, Array]:
    """float32 to codes over the range of x, as `quantized_decomposed.choose_qparams` and its quantize: eq. (34), (58).

    Args and results as for `dynamic_quantize`; the codes are float32 holding integers.
    """
    keep = axis is not None
    low = np.minimum(x.min(axis=axis, keepdims=keep, initial=0), np.float32(0))
    high = np.maximum(x.max(axis=axis, keepdims=keep, initial=0), np.float32(0))
    greatest = 127 if reduce_range else 255
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.maximum((high - low) / np.float32(greatest), np.float32(LEAST_SCALE_PT2E))
        zero_point = np.clip(-np.rint(low / scale), 0, greatest)
        codes = quantize_pt2e(x, scale, zero_point)
    return np.clip(codes, 0, greatest), np.asarray(scale), np.asarray(zero_point)


class Dynamic(NamedTuple):
    """A layer whose input is quantized at run time: `quantize(x, axis)` gives codes, scale and zero point."""

    quantize: Callable[..., tuple[Array, Array, Array]]
    scale_back: Callable[[Array, Array, Array, Array | None], Array]


# By numerics. Those of PyTorch take `reduce_range`. qnnpack and PT2E graphs scale back as onnxruntime does.
DYNAMIC: dict[str, Dynamic] = {
    "ort": Dynamic(dynamic_quantize, scale_back_ort),
    "fbgemm": Dynamic(partial(dynamic_quantize_torch, numerics="fbgemm"), scale_back_fbgemm),
    "onednn": Dynamic(partial(dynamic_quantize_torch, numerics="onednn"), scale_back_onednn),
    "qnnpack": Dynamic(partial(dynamic_quantize_torch, numerics="qnnpack"), scale_back_ort),
    "pt2e": Dynamic(dynamic_quantize_pt2e, scale_back_ort),
}


# --- PyTorch's kernels on quantized tensors that normalize ----------------------------------------------

# Codes that the vector loop of a normalization takes at once; the rest of a run goes through `quantize_remainder`.
NORM_BLOCK = 32


def quantize_remainder(x: Array, scale: Array, zero_point: Array) -> Array:
    """float32 to codes, not yet clamped, as in the loops behind PyTorch's vector loops: eq. (48).

    `rint(f32(x * f32(1 / scale)) + zero_point)`: the zero point is added before rounding.
    """
    return np.rint(x * (np.float32(1) / np.float32(scale)) + np.float32(zero_point))


def batch_norm_fbgemm(codes: Array, factor: Array, offset: Array, qx: Affine, qy: Affine) -> Array:
    """`x * factor + offset` as PyTorch's quantized batch norm: eq. (49). Not yet clamped.

    Args:
        codes: (..., channels).
        factor, offset: float32 (channels,), real numbers.

    Returns:
        float32 holding integers.
    """
    ratio = np.float64(qx.scale) / np.float64(qy.scale)
    a = (factor.astype(np.float64) * ratio).astype(np.float32)
    b = (offset.astype(np.float64) / np.float64(qy.scale)).astype(np.float32)
    difference = (codes.astype(np.int32) - qx.zero_point).astype(np.float32)
    return np.rint(fma(difference, a, b)) + np.float32(qy.zero_point)


def code_statistics(codes: Array, qx: Affine, epsilon: float) -> tuple[Array, Array]:
    """Mean and inverse standard deviation along the last axis, as PyTorch's quantized normalizations: eq. (50).

    Args:
        codes: integers; sums of codes and of their squares are exact.

    Returns:
        float32 (..., 1): the mean, in codes above the zero point; and scale / deviation, the factor of a code.
    """
    codes = codes.astype(np.int64)
    count, scale = np.float32(codes.shape[-1]), np.float32(qx.scale)
    mean = codes.sum(axis=-1, keepdims=True).astype(np.float32) / count
    square = (codes * codes).sum(axis=-1, keepdims=True).astype(np.float32) / count
    variance = np.maximum(fma(-mean, mean, square), np.float32(0)) * scale * scale
    factor = np.float64(scale) / np.sqrt(variance.astype(np.float64) + epsilon)
    return mean - np.float32(qx.zero_point), factor.astype(np.float32)


def layer_norm_fbgemm(
    codes: Array, weight: Array | None, bias: Array | None, epsilon: float, qx: Affine, qy: Affine
) -> Array:
    """PyTorch's quantized layer_norm along the last axis: eq. (51). Not yet clamped; float32 holding integers.

    Args:
        weight, bias: float32 (n,), or None for ones and for zeros.
    """
    mean, factor = code_statistics(codes, qx, epsilon)
    y = ((codes.astype(np.int32) - qx.zero_point).astype(np.float32) - mean) * factor
    if weight is not None or bias is not None:
        one, zero = np.ones((), np.float32), np.zeros((), np.float32)
        y = fma(y, one if weight is None else weight, zero if bias is None else bias)
    return quantize_in_blocks(y, qy, axis=-1)


def group_norm_fbgemm(
    codes: Array,
    weight: Array,
    bias: Array,
    epsilon: float,
    qx: Affine,
    qy: Affine,
    channels_last: bool,
) -> Array:
    """PyTorch's quantized group_norm and instance_norm: eq. (52). Not yet clamped; float32 holding integers.

    Args:
        codes: (batch, positions, groups, channels of a group).
        weight, bias: float32 (groups, channels of a group).
        channels_last: the kernel for tensors in that memory format.
    """
    batch, positions, groups, size = codes.shape
    whole = codes.transpose(0, 2, 1, 3).reshape(batch, groups, positions * size)
    mean, factor = (s[:, np.newaxis] for s in code_statistics(whole, qx, epsilon))
    difference = (codes.astype(np.int32) - qx.zero_point).astype(np.float32)
    slope = factor * weight
    if channels_last:
        y = fma(difference, slope, fma(-mean, slope, bias))
        return quantize_in_blocks(y, qy, axis=-1)
    return quantize_pt2e(fma(difference - mean, slope, bias), *qy)


def quantize_in_blocks(x: Array, qy: Affine, axis: int) -> Array:
    """eq. (34) for whole blocks of NORM_BLOCK along `axis`, the last one; eq. (48) for the rest."""
    whole = x.shape[axis] // NORM_BLOCK * NORM_BLOCK
    parts = quantize_pt2e(x[..., :whole], *qy), quantize_remainder(x[..., whole:], *qy)
    return np.concatenate(parts, axis=axis)


# --- slopes -------------------------------------------------------------------------------------------


def prelu_fbgemm(x: Array, slope: Array, qx: Affine, qs: Affine, qy: Affine) -> Array:
    """`x` where positive, else `x * slope`, as PyTorch's quantized prelu: eq. (53). Not yet clamped.

    x is multiplied by 1 as a code of the slopes, which is not 1 where their scale cannot express it.

    Args:
        x: codes.
        slope: codes that broadcast to x's shape.

    Returns:
        float32 holding integers.
    """
    info = np.iinfo(slope.dtype)
    one = np.rint(np.float32(1) / np.float32(qs.scale)) + np.float32(qs.zero_point)
    positive = np.int32(np.clip(one, info.min, info.max)) - qs.zero_point
    difference = x.astype(np.int32) - qx.zero_point
    factor = np.where(difference > 0, positive, slope.astype(np.int32) - qs.zero_point)
    multiplier = (
        np.float32(qx.scale) * np.float32(qs.scale) * (np.float32(1) / np.float32(qy.scale))
    )
    acc = (difference * factor).astype(np.float32)
    return np.rint(acc * multiplier) + np.float32(qy.zero_point)


def prelu_integer(x: Array, slope: Array, qx: Affine, qs: Affine, qy: Affine) -> Array:
    """`x` where positive, else `x * slope`, in fixed point: eq. (7) of either. Returns int64, not yet clamped."""
    difference = x.astype(np.int64) - qx.zero_point
    product = difference * (slope.astype(np.int64) - qs.zero_point)
    one = np.float32(1)
    return np.where(
        difference > 0,
        requantize_integer(difference, qx.scale, one, qy.scale, qy.zero_point),
        requantize_integer(product, qx.scale, qs.scale, qy.scale, qy.zero_point),
    )


PRELU = {"integer": prelu_integer, "fbgemm": prelu_fbgemm}


# --- means --------------------------------------------------------------------------------------------


def average_integer(acc: Array, count: Array) -> Array:
    """Mean of raw codes, ties away from zero: eq. (20), TFLite's and CMSIS-NN's AVERAGE_POOL_2D.

    Args:
        acc: int64, sum of `count` codes; x and y have one scale and zero point.
        count: int64, >= 1.

    Returns:
        int64, a code of y.
    """
    return np.sign(acc) * ((np.abs(acc) + count // 2) // count)


def mean_integer(
    acc: Array, count: Array, x_scale: Array, y_scale: Array, y_zero_point: Array
) -> Array:
    """Mean in fixed point, rounded once, ties up: eq. (21). Not yet clamped.

    Args:
        acc: int64, |acc| <= 2**31, sum of `count` differences `code - zero_point`.
        count: int64, >= 1.

    Returns:
        int64.
    """
    real = np.float64(x_scale) / (np.float64(y_scale) * count)
    return _rescale(acc, real) + y_zero_point


def mean_ort(
    acc: Array, count: Array, x_scale: Array, y_scale: Array, y_zero_point: Array
) -> Array:
    """`mean_integer` in float32, as onnxruntime's QLinearGlobalAveragePool on x86: eq. (22)."""
    multiplier = np.float32(x_scale) / (np.float32(y_scale) * np.float32(count))
    return np.rint(acc.astype(np.float32) * multiplier) + np.float32(y_zero_point)


MEAN: dict[str, Callable[[Array, Array, Array, Array, Array], Array]] = {
    "integer": mean_integer,
    "ort": mean_ort,
}


# The channels-last kernels of PyTorch work on blocks of so many channels, and round the channels behind the last whole
# block in another way. This is what they do with AVX512; the other blocks are alike with AVX2.
AVERAGE_BLOCK = 16
CHANNEL_BLOCK = 8


def in_blocks(channels: int, block: int) -> Array:
    """Which channels are in whole blocks: bool (channels,)."""
    return np.arange(channels) < channels // block * block


def average_torch_nchw(acc: Array, count: Array, scale: Array, zero_point: Array) -> Array:
    """Mean as `torch.avg_pool2d` of a contiguous tensor: eq. (63). Not yet clamped.

    Args:
        acc: int64 (..., channels), sum of `count` differences `code - zero_point`.
        count: int64, >= 1; what the sum is divided by.
        scale, zero_point: of x and of y.

    Returns:
        float32 holding integers. The zero point is added before rounding.
    """
    inverse = np.float32(1) / count.astype(np.float32)
    return np.rint(acc.astype(np.float32) * inverse + np.float32(zero_point))


def average_torch_nhwc(acc: Array, count: Array, scale: Array, zero_point: Array) -> Array:
    """`average_torch_nchw` of a channels-last tensor: eq. (64).

    Channels in whole blocks get the zero point after rounding.
    """
    inverse = np.float32(1) / count.astype(np.float32)
    after = np.rint(acc.astype(np.float32) * inverse) + np.float32(zero_point)
    before = average_torch_nchw(acc, count, scale, zero_point)
    return np.where(in_blocks(acc.shape[-1], AVERAGE_BLOCK), after, before)


def average_qnnpack(acc: Array, count: Array, scale: Array, zero_point: Array) -> Array:
    """Mean as PyTorch's engine qnnpack on uint8, in pools and over positions: eq. (65).

    Its multiplier is a quotient of scales, which is not always the reciprocal of `count` rounded once.
    """
    multiplier = np.float32(scale) / (np.float32(scale) * count.astype(np.float32))
    return np.rint(acc.astype(np.float32) * multiplier) + np.float32(zero_point)


AVERAGE = {
    "torch-nchw": average_torch_nchw,
    "torch-nhwc": average_torch_nhwc,
    "qnnpack": average_qnnpack,
}


def adaptive_torch_nchw(acc: Array, counts: list[Array], zero_point: Array) -> Array:
    """Mean of raw codes as `torch.adaptive_avg_pool2d` of a contiguous tensor: eq. (66).

    Args:
        acc: int64 (batch, *out, channels), sums of differences `code - zero_point`.
        counts: for each spatial axis, the lengths of its windows: int64 (out,). Their reciprocals are multiplied axis
            by axis.
        zero_point: of x and of y.

    Returns:
        float32 holding integers, each a code.
    """
    factor: Array = np.ones((), np.float32)
    for lengths in counts:
        factor = factor[..., np.newaxis] / lengths.astype(np.float32)
    total = acc + count_of(counts) * zero_point
    return np.rint(total.astype(np.float32) * factor[..., np.newaxis])


def adaptive_torch_nhwc(acc: Array, counts: list[Array], zero_point: Array) -> Array:
    """`adaptive_torch_nchw` of a channels-last tensor, on differences: eq. (67). Not yet clamped.

    The zero point is added before rounding; in whole blocks of channels the product before it is not rounded.
    """
    inverse = np.float32(1) / count_of(counts).astype(np.float32)
    value, offset = acc.astype(np.float32), np.float32(zero_point)
    fused = np.rint(fma(value, inverse, offset))
    return np.where(
        in_blocks(acc.shape[-1], CHANNEL_BLOCK), fused, np.rint(value * inverse + offset)
    )


def count_of(counts: list[Array]) -> Array:
    """How many elements each window of an adaptive pool holds: (*out, 1) int64."""
    return reduce(np.multiply.outer, counts)[..., np.newaxis]


ADAPTIVE = {"torch-nchw": adaptive_torch_nchw, "torch-nhwc": adaptive_torch_nhwc}


def mean_torch_nchw(total: Array, count: Array) -> Array:
    """Mean of raw codes as `torch.mean` over the last axes of a contiguous tensor: eq. (68).

    Args:
        total: int64, sum of `count` codes.

    Returns:
        float32 holding integers, each a code.
    """
    return np.rint(total.astype(np.float32) / np.float32(count))


def mean_torch_nhwc(real: Array, scale: Array, zero_point: Array) -> Array:
    """Mean of dequantized codes as `torch.mean` over other axes: eq. (69). Not yet clamped.

    Args:
        real: float32 (n, batch, columns), of which the first axis is summed, in PyTorch's order.

    Returns:
        float32 (batch, columns) holding integers.
    """
    mean = column_sums(real) / np.float32(len(real))
    return quantize_torch(mean, scale, zero_point)


# PyTorch sums columns of float32 in registers of 8 lanes, four registers at a time.
LANES, REGISTERS, LEVELS = 8, 4, 4


def column_sums(x: Array) -> Array:
    """The sum of float32 x (n, batch, columns) over its first axis, in the order of `torch.sum` on one thread.

    Columns in whole blocks, of 32, or of 4 where there are fewer than 8, are summed in levels; each other column in
    four interleaved parts.
    """
    columns = x.shape[-1]
    block = REGISTERS * LANES if columns >= LANES else REGISTERS
    whole = columns // block * block
    return np.concatenate([level_sum(x[..., :whole]), interleaved_sum(x[..., whole:])], axis=-1)


def level_sum(rows: Array) -> Array:
    """The sum over the first axis, row by row, in four levels: each 16 rows of one level are one of the next.

    More than 16 where there are 2**20 rows.
    """
    count = len(rows)
    power = max(4, max(count - 1, 0).bit_length() // LEVELS)
    step = 1 << power
    levels = np.zeros((LEVELS, *rows.shape[1:]), np.float32)
    whole = count // step * step
    for start in range(0, whole, step):
        for row in rows[start : start + step]:
            levels[0] += row
        for level in range(1, LEVELS):
            levels[level] += levels[level - 1]
            levels[level - 1] = 0
            if (start + step) & ((step - 1) << (level * power)):
                break
    for row in rows[whole:]:
        levels[0] += row
    return ((levels[0] + levels[1]) + levels[2]) + levels[3]


def interleaved_sum(rows: Array) -> Array:
    """The sum over the first axis as four sums of every fourth row; what is left is added to the first."""
    count = len(rows) // REGISTERS
    together = rows[: count * REGISTERS].reshape(count, REGISTERS, *rows.shape[1:])
    parts = level_sum(together)
    total = parts[0]
    for row in rows[count * REGISTERS :]:
        total = total + row
    for part in parts[1:]:
        total = total + part
    return total


def average_pool_ort(total: Array, count: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """Mean as onnxruntime's QLinearAveragePool: eq. (23). The zero point is added before rounding. Not yet clamped.

    Args:
        total: float32, sum of `count` dequantized elements in row-major order of the window.
        count: int64, >= 1.

    Returns:
        float32 holding integers.
    """
    mean = total / count.astype(np.float32)
    return np.rint(mean / np.float32(y_scale) + np.float32(y_zero_point))


# --- softmax ------------------------------------------------------------------------------------------

EXP_BITS = 23  # bits of fraction in the table of exp; a sum of 2**31 entries stays below 2**54


def exp_table(x_scale: Array) -> Array:
    """`exp(-x_scale * d) * 2**23` for d = 0 .. 255, rounded, ties up: eq. (24). int32 (256,)."""
    distance = np.arange(256, dtype=np.float64)
    return np.floor(np.exp(-np.float64(x_scale) * distance) * 2.0**EXP_BITS + 0.5).astype(np.int32)


def softmax_integer(e: Array, axis: int) -> Array:
    """`e / sum(e)` in steps of 1/256, ties up: eq. (25).

    Args:
        e: int32 in [0, 2**23], entries of `exp_table`, with at least one 2**23 along `axis`.

    Returns:
        int64 in [0, 256]; the caller clamps 256 to 255.
    """
    e = e.astype(np.int64)
    total = e.sum(axis=axis, keepdims=True)
    return (512 * e + total) // (2 * total)


def exp_table_ort(x_scale: Array, length: int) -> Array:
    """`exp(-x_scale * d)` for d = 0 .. 255, enlarged as onnxruntime's QLinearSoftmax does it: eq. (26).

    Args:
        length: how many entries are summed; the enlarged sum fits in float32.

    Returns:
        float32 (256,).
    """
    room = np.float32(np.log(np.float64(np.finfo(np.float32).max / np.float32(length))))
    shift = np.maximum(0.0, np.float64(room) - 5.0) / np.float64(x_scale)
    index = 255.0 - np.arange(256, dtype=np.float64)
    return np.exp((index - 255.0 + shift) * np.float64(x_scale)).astype(np.float32)


def softmax_ort(e: Array, axis: int, y_scale: Array, y_zero_point: Array, signed: bool) -> Array:
    """`e / sum(e)` as onnxruntime's QLinearSoftmax: eq. (27). Not yet clamped.

    Args:
        e: float32, entries of `exp_table_ort`; summed in order along `axis`.
        signed: y is int8, to which the zero point is added before rounding, and after rounding to uint8.

    Returns:
        float32 holding integers.
    """
    total = np.take(np.add.accumulate(e, axis=axis, dtype=np.float32), [-1], axis=axis)
    levels = np.floor(np.float32(1) / np.float32(y_scale))
    with np.errstate(over="ignore"):
        real = e * levels / total
    zero_point = np.float32(y_zero_point)
    return np.rint(real + zero_point) if signed else np.rint(real) + zero_point


def softmax_torch(
    codes: Array, x_scale: Array, x_zero_point: Array, y_scale: Array, y_zero_point: Array
) -> Array:
    """Softmax along the last axis in float32, between dequantize and quantize, as PyTorch: eq. (54).

    Returns:
        float32 holding integers, not yet clamped.
    """
    real = dequantize(codes, x_scale, x_zero_point)
    below = real - real.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(below.astype(np.float64)).astype(np.float32)
    total = e.sum(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)
    return quantize_torch(e / total, y_scale, y_zero_point)


def exp_table_qnnpack(x_scale: Array, length: int) -> Array:
    """`exp(-x_scale * d)` for d = 0 .. 255, enlarged as PyTorch's engine qnnpack does it: eq. (55). int32 (256,).

    Args:
        length: how many entries are summed.
    """
    top = min(float(2**32 - 1) / length, float(2**23 - 1))
    distance = np.arange(256, dtype=np.float64)
    return np.rint(top * np.exp(-distance * np.float64(x_scale))).astype(np.int32)


def softmax_qnnpack(e: Array, axis: int) -> Array:
    """`e / sum(e)` in steps of 1/256, ties up, as PyTorch's engine qnnpack: eq. (56).

    Args:
        e: int32, entries of `exp_table_qnnpack`, at least one of them above 0 along `axis`.

    Returns:
        int64 in [0, 256]; the caller clamps 256 to 255.
    """
    e = e.astype(np.int64)
    total = e.sum(axis=axis, keepdims=True)
    return (256 * e + total // 2) // total


# --- interpolation ------------------------------------------------------------------------------------

WEIGHT_BITS = (
    11  # bits of fraction in a weight: codes times the weights of two axes stay below 2**31
)


def interpolation_weight(fraction: Array) -> Array:
    """A float32 weight in [0, 1] in steps of 2**-11, ties up: eq. (28). int64 in [0, 2**11]."""
    return np.floor(fraction * np.float32(2**WEIGHT_BITS) + np.float32(0.5)).astype(np.int64)


def interpolate_integer(acc: Array, axes: int) -> Array:
    """Sum of codes times the weights of `axes` axes, to codes, ties up: eq. (29). int64 to int64, a code of x."""
    shift = WEIGHT_BITS * axes
    return (acc + (1 << (shift - 1))) >> shift


class Corners(NamedTuple):
    """The four neighbours of positions in an image and their weights, all float32.

    Neighbours are codes (batch, rows, columns, channels), left and right. Weights, of the upper and the lower row and
    of the left and the right column, are (rows, 1, 1) and (columns, 1).
    """

    upper: tuple[Array, Array]
    lower: tuple[Array, Array]
    rows: tuple[Array, Array]
    columns: tuple[Array, Array]


def interpolate_torch_nchw(at: Corners, zero_point: Array) -> Array:
    """Bilinear interpolation of raw codes as `torch.nn.functional.interpolate` of a contiguous tensor: eq. (70).

    Returns:
        float32 holding integers.
    """
    (a, b), (c, d), (v0, v1), (w0, w1) = at
    return _about(v0 * (w0 * a + w1 * b) + v1 * (w0 * c + w1 * d), zero_point)


def interpolate_torch_nhwc(at: Corners, zero_point: Array) -> Array:
    """`interpolate_torch_nchw` of a channels-last tensor, with fused multiply-adds: eq. (71).

    Channels in whole blocks add right neighbours and the lower row last, the others left ones and the upper row.
    """
    (a, b), (c, d), (v0, v1), (w0, w1) = at
    blocks = fma(v1, fma(w1, d, w0 * c), v0 * fma(w1, b, w0 * a))
    others = fma(v0, fma(w0, a, w1 * b), v1 * fma(w0, c, w1 * d))
    return _about(np.where(in_blocks(a.shape[-1], CHANNEL_BLOCK), blocks, others), zero_point)


def _about(total: Array, zero_point: Array) -> Array:
    """PyTorch subtracts the zero point and adds it again, which rounds twice."""
    offset = np.float32(zero_point)
    return np.rint((total - offset) + offset)


INTERPOLATE = {"torch-nchw": interpolate_torch_nchw, "torch-nhwc": interpolate_torch_nhwc}


def interpolate_ort(total: Array) -> Array:
    """Float sum of weighted codes to codes, cut towards zero, as onnxruntime's Resize on 8-bit tensors: eq. (30)."""
    return np.trunc(total)
