"""prelu: a slope of its own for the negative side of each channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Prelu(Op):
    """`y = x` where x >= 0, and `x * slope` elsewhere.

    Values:
        x: float32.
        slope: float32, of a shape that broadcasts to x's: (channels,) for one slope per channel, channels last.
        y: float32 of x's shape.
    """

    name = "prelu"
    INPUTS = ("x", "slope")

    def type_rule(self, y: TensorType, x: TensorType, slope: TensorType) -> TensorType:
        rules.require_dtype("x", x, "float32")
        rules.require_dtype("slope", slope, "float32")
        if rules.broadcast(x.shape, slope.shape) != x.shape:
            raise ShapeError(f"slope {slope} does not broadcast to x {x}")
        return x

    def reference(self, y: TensorType, x: Tensor, slope: Tensor) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(x.data < 0, x.data * slope.data, x.data)
