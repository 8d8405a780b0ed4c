"""What add, sub, mul and div share: two operands that broadcast, in codes or in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nprt import rounding
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class BinaryOp(Op):
    """An op on two operands that broadcast as in NumPy.

    Fields:
        clamp: the least and the greatest code of y, for a fused activation; None for the whole dtype.
        numerics: which formula gives the codes; see `docs/quantization.md`.
    """

    INPUTS = ("a", "b")
    FORMULAS: ClassVar[dict[str, Callable[..., Array]]]

    clamp: tuple[int, int] | None = None
    numerics: str = "integer"

    @staticmethod
    def real(a: Array, b: Array) -> Array:
        """The op on real numbers."""
        raise NotImplementedError

    def type_rule(self, y: TensorType, a: TensorType, b: TensorType) -> TensorType:
        rules.require_numerics(self.numerics)
        rules.require_clamp(self.clamp, y)
        if y.is_codes:
            if self.numerics not in self.FORMULAS:
                rules.reject(
                    f"numerics {self.numerics!r} has no {self.name}; use one of {', '.join(self.FORMULAS)}"
                )
            for what, type in (("a", a), ("b", b), ("y", y)):
                rules.require_codes(what, type)
        else:
            rules.require_dtype("y", y, "float32", "int32", "int64")
            rules.require_dtype("a", a, y.dtype)
            rules.require_dtype("b", b, y.dtype)
        return y.with_shape(rules.broadcast(a.shape, b.shape))

    def reference(self, y: TensorType, a: Tensor, b: Tensor) -> Array:
        if not y.is_codes:
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                return self.real(a.data, b.data)
        formula = self.FORMULAS[self.numerics]
        affine = [rounding.Affine(t.scale, t.zero_point) for t in (a.type, b.type, y)]
        low, high = self.clamp or y.code_range
        return np.clip(formula(a.data, b.data, *affine), low, high).astype(y.numpy)

    def macs(self, *args: Any) -> int:
        return 0
