"""What global_average_pool and reduce_mean share: the mean over whole axes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from nprt import rounding
from nprt.ir import Array, Shape, Tensor, TensorType
from nprt.ops import rules
from nprt.ops.products import largest_difference


def mean_shape(x: TensorType, axes: tuple[int, ...], keepdims: bool) -> Shape:
    """x's shape without `axes`, or with 1 in their place."""
    shape = [1 if axis in axes else dim for axis, dim in enumerate(x.shape)]
    return tuple(dim for axis, dim in enumerate(shape) if keepdims or axis not in axes)


def check_mean(
    y: TensorType,
    x: TensorType,
    axes: tuple[int, ...],
    numerics: str,
    known: Iterable[str] = rounding.MEAN,
) -> None:
    """Both float32 or both codes, and sizes that are known where codes are summed, so that the sum can be bounded.

    Args:
        known: the numerics that the op has formulas for.
    """
    rules.require_numerics(numerics, known)
    rules.require_real("x", x)
    rules.require_real("y", y)
    if x.is_float or y.is_float:
        rules.require_alike("x", x, "y", y)
    else:
        rules.require_multiplier([x.scale], [y.scale])
    for axis in axes:
        if not (x.is_float and isinstance(x.shape[axis], str)):
            rules.require_positive(f"axis {axis}", (rules.known(f"axis {axis}", x.shape[axis]),), 1)


def mean(y: TensorType, x: Tensor, axes: tuple[int, ...], numerics: str) -> Array:
    """The mean over `axes`, in the shape of y: float32, or codes by eq. (21) or (22)."""
    if y.is_float:
        return x.data.mean(axis=axes, dtype=np.float64).astype(np.float32).reshape(y.shape)
    codes = mean_codes(y, x, axes, numerics)
    return np.clip(codes, *y.code_range).astype(y.numpy).reshape(y.shape)


def mean_codes(y: TensorType, x: Tensor, axes: tuple[int, ...], numerics: str) -> Array:
    """The mean over `axes`, which stay with size 1, as codes of y that are not yet clamped."""
    count = np.int64(math.prod(x.data.shape[axis] for axis in axes))
    total = x.data.sum(axis=axes, dtype=np.int64, keepdims=True)
    acc = total - count * x.type.zero_point
    return rounding.MEAN[numerics](acc, count, x.type.scale, y.scale, y.zero_point)


def integer_mean(y: TensorType, x: TensorType, acc: Array, count: Array) -> Array:
    """Codes of y by eq. (20) where x and y are alike, else by eq. (21); not yet clamped.

    Args:
        acc: int64, sums of `count` differences.
    """
    if (x.dtype, x.quant) == (y.dtype, y.quant):
        return rounding.average_integer(acc + count * x.zero_point, count)
    return rounding.mean_integer(acc, count, x.scale, y.scale, y.zero_point)


def mean_in_lanes(x: Array) -> Array:
    """The mean over axis 1 of x (batch, n, channels) float32, in onnxruntime's order: four lanes, then the rest."""
    count = x.shape[1]
    lanes = np.zeros((len(x), 4, x.shape[2]), np.float32)
    for start in range(0, count - 3, 4):
        lanes += x[:, start : start + 4]
    total = (lanes[:, 0] + lanes[:, 2]) + (lanes[:, 1] + lanes[:, 3])
    for index in range(count // 4 * 4, count):
        total += x[:, index]
    return total / np.float32(count)


def mean_bound(x: TensorType | Tensor, axes: tuple[int, ...]) -> int | None:
    """The largest |sum| of codes over `axes`."""
    type = x.type if isinstance(x, Tensor) else x
    if type.is_float:
        return None
    count = math.prod(rules.known(f"axis {axis}", type.shape[axis]) for axis in axes)
    return count * largest_difference(type)
