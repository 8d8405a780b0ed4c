"""reduce_mean: the mean over some axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt import rounding
from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules
from nprt.ops.means import check_mean, mean, mean_bound, mean_shape

TORCH = ("qnnpack", "torch", "torch-nchw", "torch-nhwc")
NUMERICS = (*rounding.MEAN, *TORCH)


@dataclass(frozen=True, kw_only=True)
class ReduceMean(Op):
    """The mean of x over `axes`.

    Values:
        x: codes quantized per tensor, or float32.
        y: codes quantized per tensor, or float32 with float32 x.

    Fields:
        axes: one or more, each in [0, rank), in ascending order.
        keepdims: whether the axes stay, with size 1.
        numerics: which formula gives the codes: `integer` is eq. (21), `ort` eq. (22), `qnnpack` eq. (65), and
            `torch-nchw` the mean of raw codes, eq. (68). `torch-nhwc`, eq. (69), sums dequantized codes in torch's
            order down the columns that all other axes but the first make; the first is not in `axes`. These want x and
            y alike. `torch` is eq. (39) on the exact mean of what the codes stand for, rounded to float32.
    """

    name = "reduce_mean"
    INPUTS = ("x",)

    axes: tuple[int, ...]
    keepdims: bool = False
    numerics: str = "integer"

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        for axis in self.axes:
            rules.normalized_axis(axis, x.rank)
        if not self.axes or list(self.axes) != sorted(set(self.axes)):
            raise ShapeError(f"axes={self.axes} is not one or more axes in ascending order")
        check_mean(y, x, self.axes, self.numerics, NUMERICS)
        if y.is_codes and self.numerics in TORCH and self.numerics != "torch":
            rules.require_alike("x", x, "y", y)
            if self.numerics == "torch-nhwc" and 0 in self.axes:
                rules.reject("numerics 'torch-nhwc' has no mean over the first axis")
        return y.with_shape(mean_shape(x, self.axes, self.keepdims))

    def reference(self, y: TensorType, x: Tensor) -> Array:
        if y.is_float or self.numerics not in TORCH:
            return mean(y, x, self.axes, self.numerics)
        codes = np.clip(self._torch(y, x), *y.code_range)
        return codes.astype(y.numpy).reshape(tuple(map(int, y.shape)))

    def _torch(self, y: TensorType, x: Tensor) -> Array:
        """Codes in the order of y, not yet clamped."""
        scale, zero_point = x.type.scale, x.type.zero_point
        count = np.int64(math.prod(x.data.shape[axis] for axis in self.axes))
        if self.numerics == "torch-nhwc":
            columns = [axis for axis in range(1, x.data.ndim) if axis not in self.axes]
            real = x.real().transpose(*self.axes, 0, *columns)
            size = math.prod(x.data.shape[axis] for axis in columns)
            rows = real.reshape(int(count), len(x.data), size)
            return rounding.mean_torch_nhwc(rows, scale, zero_point)
        total = x.data.sum(axis=self.axes, dtype=np.int64)
        if self.numerics == "torch-nchw":
            return rounding.mean_torch_nchw(total, count)
        acc = total - count * zero_point
        if self.numerics == "qnnpack":
            return rounding.average_qnnpack(acc, count, scale, zero_point)
        real = (acc * np.float64(scale) / count).astype(np.float32)
        return rounding.quantize_torch(real, y.scale, y.zero_point)

    def accumulator_bound(self, y: Any, x: Any) -> int | None:
        return mean_bound(x, self.axes)
