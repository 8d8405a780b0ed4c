"""From sums of products to codes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from nprt.rounding.arithmetic import (
    Array,
    fma,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
)
from nprt.rounding.floats import quantize_pt2e, quantize_torch


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


def lost_to_int16(x: Array, w: Array) -> Array:
    """What sums of products lose where the sum of each two of them is cut to 16 bits: eq. (73).

    Args:
        x: (..., taps, channels) codes, zero points not taken off.
        w: (taps, channels) codes, likewise. A last odd tap is a pair with 0, and loses nothing.

    Returns:
        int32 (..., channels), to be taken off the exact sums.
    """
    end = x.shape[-2] // 2 * 2
    products = x[..., :end, :].astype(np.int32) * w[:end].astype(np.int32)
    pairs = products[..., 0::2, :] + products[..., 1::2, :]
    lost: Array = (pairs - np.clip(pairs, -(2**15), 2**15 - 1)).sum(axis=-2, dtype=np.int32)
    return lost


# The most that a pair of products of a uint8 and an int8 loses.
MOST_LOST_TO_INT16 = 2 * 255 * 128 - 2**15


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
    *,
    linear: bool = False,
    product_first: bool = False,
    divide: bool = False,
) -> Array:
    """Accumulator to codes, not yet clamped, as PyTorch's engine onednn in convolutions: eq. (33).

    Args:
        as `requantize_fbgemm`; the zero point is added before rounding.
        linear: the scales of the weights are inverted twice as well, as in linear layers.
        product_first: the product of the scales is rounded first: eq. (61).
        divide: the last factor divides: eq. (62).
    """
    x_scale, y_scale = twice_inverted(x_scale), twice_inverted(y_scale)
    w_scale = twice_inverted(w_scale) if linear else np.float32(w_scale)
    real: Array = acc.astype(np.float32)
    real = real * (x_scale * w_scale) if product_first else real * x_scale * w_scale
    if bias is not None:
        real = real + bias
    real = real / y_scale if divide else real * (np.float32(1) / y_scale)
    return np.rint(real + np.float32(y_zero_point))


requantize_onednn_linear = partial(requantize_onednn, linear=True)
# Of onednn's general kernels: for depthwise convolutions, transposed convolutions and products, and linear layers.
requantize_onednn_product = partial(requantize_onednn, product_first=True)
requantize_onednn_quotient = partial(requantize_onednn, divide=True)
requantize_onednn_linear_quotient = partial(requantize_onednn, linear=True, divide=True)


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
FLOAT_BIAS = ("fbgemm", "fbgemm-saturating", "onednn", "onednn-general", "pt2e")
REQUANTIZE: dict[str, Callable[..., Array]] = {
    "integer": requantize_integer,
    "ort": requantize_ort,
    "fbgemm": requantize_fbgemm,
    "onednn": requantize_onednn,
    "qnnpack": requantize_qnnpack,
    "pt2e": requantize_pt2e,
}
