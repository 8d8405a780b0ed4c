"""What add, sub, mul and div share: two operands that broadcast, in codes or in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nprt import rounding
from nprt.ir import Array, Op, Tensor, TensorType, numel
from nprt.ops import rules
from nprt.ops.blocks import BLOCK_ELEMENTS, blocks

PAIRS = 256 * 256


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

    @staticmethod
    def multiplier(a: Array, b: Array, y: Array) -> tuple[list[Array], list[Array]]:
        """The scales whose products, one over the other, are the factor between the op on differences and codes."""
        return [np.maximum(a, b) / np.float64(y)], [np.float64(1)]

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
            rules.require_multiplier(*self.multiplier(a.scale, b.scale, y.scale))
        else:
            rules.require_dtype("y", y, "float32", "int32", "int64")
            rules.require_dtype("a", a, y.dtype)
            rules.require_dtype("b", b, y.dtype)
        return y.with_shape(rules.broadcast(a.shape, b.shape))

    def reference(self, y: TensorType, a: Tensor, b: Tensor) -> Array:
        if not y.is_codes:
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                return self.real(a.data, b.data)
        # There are only 65,536 pairs of codes: for a large result they are computed once and looked up.
        if numel(y.shape) > 2 * PAIRS:
            return self._look_up(y, a, b)
        return self._codes(y, a, b)

    def _codes(self, y: TensorType, a: Tensor, b: Tensor) -> Array:
        formula = self.FORMULAS[self.numerics]
        affine = [rounding.Affine(t.scale, t.zero_point) for t in (a.type, b.type, y)]
        low, high = self.clamp or y.code_range
        return np.clip(formula(a.data, b.data, *affine), low, high).astype(y.numpy)

    def _look_up(self, y: TensorType, a: Tensor, b: Tensor) -> Array:
        """`_codes`, from a table whose index is the byte of a, then the byte of b."""
        byte = np.arange(256, dtype=np.uint8)
        every_a = Tensor(a.type, byte.view(a.data.dtype)[:, np.newaxis])
        every_b = Tensor(b.type, byte.view(b.data.dtype))
        table = self._codes(y, every_a, every_b).reshape(PAIRS)
        shape = tuple(map(int, y.shape))
        left, right = (np.broadcast_to(t.data, shape).reshape(-1).view(np.uint8) for t in (a, b))
        out = np.empty(left.shape, y.numpy)
        for block in blocks(len(out), BLOCK_ELEMENTS):
            pair = left[block].astype(np.intp)
            pair <<= 8
            pair += right[block]
            out[block] = table[pair]
        return out.reshape(shape)

    def macs(self, *args: Any) -> int:
        return 0
