"""Softmax on codes."""

from __future__ import annotations

import numpy as np

from nprt.rounding.arithmetic import Array
from nprt.rounding.floats import dequantize, quantize_torch

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
