"""reduce_mean: the mean over some axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules
from nprt.ops.means import check_mean, mean, mean_bound, mean_shape


@dataclass(frozen=True, kw_only=True)
class ReduceMean(Op):
    """The mean of x over `axes`.

    Values:
        x: codes quantized per tensor, or float32.
        y: codes quantized per tensor, or float32 with float32 x.

    Fields:
        axes: one or more, each in [0, rank), in ascending order.
        keepdims: whether the axes stay, with size 1.
        numerics: which formula gives the codes: `integer` is eq. (21), `ort` eq. (22).
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
        check_mean(y, x, self.axes, self.numerics)
        return y.with_shape(mean_shape(x, self.axes, self.keepdims))

    def reference(self, y: TensorType, x: Tensor) -> Array:
        return mean(y, x, self.axes, self.numerics)

    def accumulator_bound(self, y: Any, x: Any) -> int | None:
        return mean_bound(x, self.axes)
