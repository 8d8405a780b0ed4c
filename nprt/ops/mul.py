"""mul: the elementwise product of two values."""

from __future__ import annotations

from dataclasses import dataclass

from nprt import rounding
from nprt.ir import Array
from nprt.ops.binary import BinaryOp


@dataclass(frozen=True, kw_only=True)
class Mul(BinaryOp):
    """`y = a * b`, broadcast as in NumPy.

    Values:
        a, b: codes quantized per tensor, each with its own scale; or float32, int32 or int64.
        y: codes with its own scale; or the dtype of a and b.

    Fields:
        clamp: the least and the greatest code of y, for a fused activation; None for the whole dtype.
        numerics: which formula gives the codes; see `docs/quantization.md`.
    """

    name = "mul"
    FORMULAS = rounding.MUL

    @staticmethod
    def multiplier(a: Array, b: Array, y: Array) -> tuple[list[Array], list[Array]]:
        return [a, b], [y]

    @staticmethod
    def real(a: Array, b: Array) -> Array:
        return a * b
