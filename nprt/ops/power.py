"""power: one value to the power of another, element by element."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Power(Op):
    """`y = a ** b`, broadcast as in NumPy, computed in float64 and rounded to float32 once.

    Values:
        a, b: float32.
        y: float32.
    """

    name = "power"
    INPUTS = ("a", "b")

    def type_rule(self, y: TensorType, a: TensorType, b: TensorType) -> TensorType:
        rules.require_dtype("a", a, "float32")
        return rules.broadcast_alike(a, b)

    def reference(self, y: TensorType, a: Tensor, b: Tensor) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(np.power(a.data.astype(np.float64), b.data), np.float32)
