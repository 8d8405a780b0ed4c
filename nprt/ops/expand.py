"""expand: a value repeated by broadcasting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Expand(Op):
    """x broadcast, as in NumPy, to the shape that y declares.

    Values:
        x: any dtype; if quantized, per tensor.
        y: as x, of a shape that x broadcasts to.
    """

    name = "expand"
    INPUTS = ("x",)

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_per_tensor("x", x)
        if rules.broadcast(x.shape, y.shape) != y.shape:
            raise ShapeError(f"x {x} does not broadcast to {list(y.shape)}")
        return x.with_shape(y.shape)

    def reference(self, y: TensorType, x: Tensor) -> Array:
        return np.broadcast_to(x.data, tuple(map(int, y.shape))).copy()
