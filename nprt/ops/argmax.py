"""argmax: where the greatest element along an axis is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt.errors import InputError, ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Argmax(Op):
    """The index of the greatest element of x along `axis`, the first one where there are several.

    Values:
        x: any dtype; if quantized, per tensor. NaN counts as greater than any number.
        y: int64.

    Fields:
        axis: in [0, rank).
        keepdims: whether the axis stays, with size 1.
    """

    name = "argmax"
    INPUTS = ("x",)

    axis: int
    keepdims: bool = False

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_per_tensor("x", x)
        axis = rules.normalized_axis(self.axis, x.rank)
        if x.shape[axis] == 0:
            raise ShapeError(f"x {x} has nothing along axis {axis}")
        kept = (1,) if self.keepdims else ()
        return TensorType("int64", (*x.shape[:axis], *kept, *x.shape[axis + 1 :]))

    def reference(self, y: TensorType, x: Tensor) -> Array:
        if x.data.shape[self.axis] == 0:
            raise InputError(f"x {list(x.data.shape)} has nothing along axis {self.axis}")
        return np.argmax(x.data, axis=self.axis).astype(np.int64).reshape(y.shape)
