"""Between floats and codes."""

from __future__ import annotations

import numpy as np

from nprt.rounding.arithmetic import Array, fma


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
