"""where: one of two values, element by element."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Where(Op):
    """`y = a` where condition is true, and `b` elsewhere, broadcast as in NumPy.

    Values:
        condition: bool.
        a, b: any dtype, alike in dtype and quantization (per tensor).
        y: as a and b.
    """

    name = "where"
    INPUTS = ("condition", "a", "b")

    def type_rule(
        self, y: TensorType, condition: TensorType, a: TensorType, b: TensorType
    ) -> TensorType:
        rules.require_dtype("condition", condition, "bool")
        either = rules.broadcast_alike(a, b)
        return either.with_shape(rules.broadcast(condition.shape, either.shape))

    def reference(self, y: TensorType, condition: Tensor, a: Tensor, b: Tensor) -> Array:
        return np.where(condition.data, a.data, b.data)
