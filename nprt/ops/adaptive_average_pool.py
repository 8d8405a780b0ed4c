"""adaptive_average_pool: the mean of each of a given number of windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt import rounding
from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules
from nprt.ops.means import integer_mean
from nprt.ops.products import largest_difference


@dataclass(frozen=True, kw_only=True)
class AdaptiveAveragePool(Op):
    """`y[n, p, c] = mean(x[n, q, c])` over `floor(p * in / out) <= q < ceil((p + 1) * in / out)` on each spatial axis.

    Windows differ in size, and overlap, where out does not divide in. Elsewhere this is an average_pool.

    Values:
        x: (batch, *in, channels), with 1, 2 or 3 spatial axes: codes quantized per tensor, or float32.
        y: (batch, *out, channels) as declared: codes quantized per tensor, or float32 with float32 x.

    Fields:
        numerics: `integer` is the mean of the raw codes, eq. (20), where x and y are alike in dtype and quantization,
            and the rescaled sum of the differences, eq. (21), where they are not. `torch-nchw` is eq. (66) and
            `torch-nhwc` eq. (67), where they are alike.
    """

    name = "adaptive_average_pool"
    INPUTS = ("x",)

    numerics: str = "integer"

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_numerics(self.numerics, ("integer", *rounding.ADAPTIVE))
        rules.require_real("x", x)
        rules.require_real("y", y)
        rules.require_rank("x", x, (3, 4, 5))
        rules.require_rank("y", y, (x.rank,))
        if (x.shape[0], x.shape[-1]) != (y.shape[0], y.shape[-1]):
            raise ShapeError(f"x {x} and y {y} differ in batch or channels")
        for what, type in (("x", x), ("y", y)):
            spatial = [rules.known("a spatial dimension", dim) for dim in type.shape[1:-1]]
            rules.require_positive(f"spatial dimensions of {what}", spatial, x.rank - 2)
        if x.is_float or y.is_float or self.numerics in rounding.ADAPTIVE:
            rules.require_alike("x", x, "y", y)
        if not x.is_float:
            rules.require_multiplier([x.scale], [y.scale])
        for axis in range(2, x.rank):  # the axes are summed one after the other
            rules.require_room("x pooled in part", (*y.shape[:axis], *x.shape[axis:]))
        rules.require_room("y", y.shape)
        return y

    def reference(self, y: TensorType, x: Tensor) -> Array:
        sizes = zip(x.data.shape[1:-1], map(int, y.shape[1:-1]), strict=True)
        windows = [adaptive_windows(size, out) for size, out in sizes]
        counts = [stop - start for start, stop in windows]
        if y.is_float:
            total = window_sums(x.data, windows, np.dtype(np.float64))
            return (total / rounding.count_of(counts)).astype(np.float32)
        count = rounding.count_of(counts)
        acc = window_sums(x.data, windows, np.dtype(np.int64)) - count * x.type.zero_point
        if self.numerics == "integer":
            codes = integer_mean(y, x.type, acc, count)
        else:
            codes = rounding.ADAPTIVE[self.numerics](acc, counts, x.type.zero_point)
        return np.clip(codes, *y.code_range).astype(y.numpy)

    def accumulator_bound(self, y: Any, x: Any) -> int | None:
        if y.is_float:
            return None
        sizes = zip(
            x.type.shape[1:-1] if isinstance(x, Tensor) else x.shape[1:-1],
            y.shape[1:-1],
            strict=True,
        )
        longest = [min(int(size), -(-int(size) // int(out)) + 1) for size, out in sizes]
        return math.prod(longest) * largest_difference(x)


def adaptive_windows(size: int, out: int) -> tuple[Array, Array]:
    """Where each of `out` windows over `size` elements starts and stops: (out,) int64 each."""
    index = np.arange(out, dtype=np.int64)
    return index * size // out, -(-(index + 1) * size // out)


def window_sums(x: Array, windows: list[tuple[Array, Array]], dtype: np.dtype[Any]) -> Array:
    """The sum over each window of x (batch, *spatial, channels), axis by axis."""
    for axis, window in enumerate(windows, start=1):
        # reduceat sums from each edge to the next; every second of these sums is a window. An edge is an index, so what
        # ends with x needs one element behind it.
        edges = np.stack(window, axis=-1).reshape(-1)
        behind = np.zeros((*x.shape[:axis], 1, *x.shape[axis + 1 :]), dtype)
        sums = np.add.reduceat(
            np.concatenate([x, behind], axis=axis), edges, axis=axis, dtype=dtype
        )
        x = sums.take(np.arange(0, len(edges), 2), axis=axis)
    return x
