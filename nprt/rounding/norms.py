"""PyTorch's kernels on quantized tensors that normalize."""

from __future__ import annotations

import numpy as np

from nprt.rounding.arithmetic import Affine, Array, fma
from nprt.rounding.floats import quantize_pt2e

# Codes that the vector loop of a normalization takes at once; the rest of a run goes through `quantize_remainder`.
NORM_BLOCK = 32


def quantize_remainder(x: Array, scale: Array, zero_point: Array) -> Array:
    """float32 to codes, not yet clamped, as in the loops behind PyTorch's vector loops: eq. (48).

    `rint(f32(x * f32(1 / scale)) + zero_point)`: the zero point is added before rounding.
    """
    return np.rint(x * (np.float32(1) / np.float32(scale)) + np.float32(zero_point))


def batch_norm_factors(
    factor: Array, offset: Array, x_scale: Array, y_scale: Array
) -> tuple[Array, Array]:
    """Factor and offset, float32, from codes of x to codes of y."""
    ratio = np.float64(x_scale) / np.float64(y_scale)
    a = (factor.astype(np.float64) * ratio).astype(np.float32)
    return a, (offset.astype(np.float64) / np.float64(y_scale)).astype(np.float32)


def batch_norm_fbgemm(codes: Array, factor: Array, offset: Array, qx: Affine, qy: Affine) -> Array:
    """`x * factor + offset` as PyTorch's quantized batch norm: eq. (49). Not yet clamped.

    Args:
        codes: (..., channels).
        factor, offset: float32 (channels,), real numbers.

    Returns:
        float32 holding integers.
    """
    a, b = batch_norm_factors(factor, offset, qx.scale, qy.scale)
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
