"""div: the elementwise quotient of two values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt import rounding
from nprt.ir import Array
from nprt.ops.binary import BinaryOp


@dataclass(frozen=True, kw_only=True)
class Div(BinaryOp):
    """`y = a / b`, broadcast as in NumPy.

    Values:
        a, b: codes quantized per tensor, each with its own scale; or float32, int32 or int64. The quotient of
            integers is cut towards zero; dividing one by 0 is dividing it by 1.
        y: codes with its own scale; or the dtype of a and b.

    Fields:
        clamp: the least and the greatest code of y, for a fused activation; None for the whole dtype.
        numerics: which formula gives the codes; see `docs/quantization.md`.
    """

    name = "div"
    FORMULAS = rounding.DIV

    @staticmethod
    def multiplier(a: Array, b: Array, y: Array) -> tuple[list[Array], list[Array]]:
        return [a], [b, y]

    @staticmethod
    def real(a: Array, b: Array) -> Array:
        if a.dtype.kind == "f":
            return a / b
        b = np.where(b == 0, 1, b)
        quotient, rest = np.divmod(a, b)
        return np.asarray(quotient + ((rest != 0) & ((a < 0) != (b < 0))), a.dtype)
