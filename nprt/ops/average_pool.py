"""average_pool: the mean of each window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from nprt import rounding
from nprt.ir import Array, Tensor, TensorType
from nprt.ops import rules
from nprt.ops.means import integer_mean, mean_codes
from nprt.ops.pooling import PoolOp
from nprt.ops.products import largest_difference


@dataclass(frozen=True, kw_only=True)
class AveragePool(PoolOp):
    """`y[n, p, c] = mean(x[n, p * stride + t * dilation - before, c])` over the taps t that fall on x.

    Values:
        x: (batch, *spatial, channels), with 1, 2 or 3 spatial axes: codes quantized per tensor, or float32.
        y: (batch, *out, channels): codes quantized per tensor, or float32 with float32 x.

    Fields:
        kernel, stride, dilation, padding, ceil_mode: see `PoolOp`.
        include_padding: taps on the padding count as zeros (the zero point, in codes); otherwise they do not count.
        divisor: what each sum is divided by, in place of the number of its taps; not with numerics `ort`.
        clamp: the least and the greatest code of y, for a fused activation; None for the whole dtype.
        numerics: `integer` is the mean of the raw codes, eq. (20), where x and y are alike in dtype and quantization,
            and the rescaled sum of the differences, eq. (21), where they are not. `ort` is eq. (22) where one window
            without padding covers x, and eq. (23) elsewhere; there, with include_padding, taps that hang over the end
            count as well. `torch-nchw` is eq. (63), `torch-nhwc` eq. (64), `qnnpack` eq. (65), where x and y are
            alike.
    """

    name = "average_pool"
    INPUTS = ("x",)

    include_padding: bool = False
    divisor: int | None = None
    clamp: tuple[int, int] | None = None
    numerics: str = "integer"

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_numerics(self.numerics, ("integer", "ort", *rounding.AVERAGE))
        rules.require_clamp(self.clamp, y)
        rules.require_real("x", x)
        rules.require_real("y", y)
        if x.is_float or y.is_float:
            rules.require_alike("x", x, "y", y)
        else:
            rules.require_multiplier([x.scale], [y.scale])
            if self.numerics in rounding.AVERAGE:
                rules.require_alike("x", x, "y", y)
        if self.divisor is not None:
            if not 1 <= self.divisor < 2**31:
                rules.reject(f"divisor={self.divisor} is not in [1, 2**31)")
            if self.numerics == "ort" and not y.is_float:
                rules.reject("numerics 'ort' has no divisor")
        return y.with_shape(self.output_shape(x))

    def reference(self, y: TensorType, x: Tensor) -> Array:
        count = self._count(y, x)
        if y.is_float:
            return self._row_major_sum(x.data, y) / count.astype(np.float32)
        if self.numerics == "ort":
            codes = self._ort(y, x, count)
        elif self.numerics == "integer":
            codes = self._integer(y, x, count)
        else:
            formula = rounding.AVERAGE[self.numerics]
            codes = formula(self._differences(y, x), count, x.type.scale, x.type.zero_point)
        low, high = self.clamp or y.code_range
        return np.clip(codes, low, high).astype(y.numpy)

    def _count(self, y: TensorType, x: Tensor) -> Array:
        """What the sum of each window is divided by: (*out, 1) int64."""
        if self.divisor is not None:
            return np.full((*map(int, y.shape[1:-1]), 1), self.divisor, np.int64)
        counts = self.tap_counts(x.data.shape, y.shape, include_padding=self.include_padding)
        return reduce(np.multiply.outer, counts)[..., np.newaxis]

    def _differences(self, y: TensorType, x: Tensor) -> Array:
        """The sum of `code - zero_point` of each window: (batch, *out, channels) int64."""
        zero_point = x.type.zero_point
        view = self.windows(x.data, y.shape, int(zero_point))
        axes = list(range(view.ndim))
        kept = [axis for axis in axes if axis not in self.window_axes()]
        total = np.einsum(view, axes, kept, dtype=np.int64)  # a sum over the window's axes
        return total - math.prod(self.kernel) * np.int64(zero_point)

    def _integer(self, y: TensorType, x: Tensor, count: Array) -> Array:
        return integer_mean(y, x.type, self._differences(y, x), count)

    def _ort(self, y: TensorType, x: Tensor, count: Array) -> Array:
        if x.data.shape[1:-1] == self.kernel and not any(map(any, self.padding)):
            return mean_codes(y, x, tuple(range(1, y.rank - 1)), "ort")
        if self.include_padding:
            count = np.full_like(count, math.prod(self.kernel))
        total = self._row_major_sum(x.real(), y)
        return rounding.average_pool_ort(total, count, y.scale, y.zero_point)

    def _row_major_sum(self, x: Array, y: TensorType) -> Array:
        """The sum of each window of x float32, in the order of its taps: the last bit depends on it."""
        view = self.windows(x, y.shape, 0)
        total = np.zeros(tuple(map(int, y.shape)), np.float32)
        for tap in np.ndindex(self.kernel):
            at = (..., *tap, slice(None))
            total += view[at]
        return total

    def accumulator_bound(self, y: Any, x: Any) -> int | None:
        return None if y.is_float else math.prod(self.kernel) * largest_difference(x)
