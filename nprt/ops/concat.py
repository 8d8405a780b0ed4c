"""concat: values joined along an axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Concat(Op):
    """The inputs one after the other along `axis`.

    Values:
        x...: one or more, of any dtype, alike in dtype, quantization (per tensor) and every dimension but `axis`.
        y: as the inputs; its size along `axis` is the sum of theirs.

    Fields:
        axis: in [0, rank).
    """

    name = "concat"
    INPUTS = ("x*",)

    axis: int

    def type_rule(self, y: TensorType, *xs: TensorType) -> TensorType:
        first = xs[0]
        rules.require_per_tensor("x", first)
        axis = rules.normalized_axis(self.axis, first.rank)
        for x in xs[1:]:
            rules.require_alike("x", x, "the first x", first)
            if x.rank != first.rank or _without(x, axis) != _without(first, axis):
                raise ShapeError(f"x {x} and the first x {first} differ beside axis {axis}")
        if len(xs) == 1:
            return first
        size = sum(rules.known(f"axis {axis}", x.shape[axis]) for x in xs)
        return first.with_shape((*first.shape[:axis], size, *first.shape[axis + 1 :]))

    def reference(self, y: TensorType, *xs: Tensor) -> Array:
        return np.concatenate([x.data for x in xs], axis=self.axis)


def _without(type: TensorType, axis: int) -> tuple[int | str, ...]:
    return type.shape[:axis] + type.shape[axis + 1 :]
