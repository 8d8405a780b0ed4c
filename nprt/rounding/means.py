"""Means of codes."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from nprt.rounding.arithmetic import Array, fma, rescale
from nprt.rounding.floats import quantize_torch


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
    return rescale(acc, real) + y_zero_point


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
