"""Scales found when a model runs, and sums scaled back to float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from nprt.rounding.arithmetic import Array, fma
from nprt.rounding.floats import quantize, quantize_pt2e, quantize_torch
from nprt.rounding.products import twice_inverted


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
