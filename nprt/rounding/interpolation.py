"""Linear interpolation of codes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nprt.rounding.arithmetic import Array, fma
from nprt.rounding.means import CHANNEL_BLOCK, in_blocks

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
