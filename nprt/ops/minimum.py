"""minimum: the less of two values, element by element."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Minimum(Op):
    """The less of a and b, broadcast as in NumPy; NaN if either is NaN.

    Values:
        a, b: any dtype, alike in dtype and quantization (per tensor).
        y: as a and b.
    """

    name = "minimum"
    INPUTS = ("a", "b")

    def type_rule(self, y: TensorType, a: TensorType, b: TensorType) -> TensorType:
        return rules.broadcast_alike(a, b)

    def reference(self, y: TensorType, a: Tensor, b: Tensor) -> Array:
        return np.asarray(np.minimum(a.data, b.data))
