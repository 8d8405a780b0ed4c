"""transpose: the axes in another order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Transpose(Op):
    """Axis i of y is axis perm[i] of x.

    Values:
        x: any dtype; if quantized, per tensor.
        y: as x, with its dimensions permuted.

    Fields:
        perm: each axis of x once.
    """

    name = "transpose"
    INPUTS = ("x",)

    perm: tuple[int, ...]

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_per_tensor("x", x)
        if sorted(self.perm) != list(range(x.rank)):
            raise ShapeError(f"perm={self.perm} is not a permutation of the {x.rank} axes of x {x}")
        return x.with_shape(tuple(x.shape[axis] for axis in self.perm))

    def reference(self, y: TensorType, x: Tensor) -> Array:
        return np.ascontiguousarray(x.data.transpose(self.perm)).reshape(y.shape)
