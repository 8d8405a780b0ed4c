"""slice: a regular part of each axis, forwards or backwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nprt.errors import ShapeError
from nprt.ir import Array, Dim, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Slice(Op):
    """`y = x[start:stop:step, ...]`, as in Python: negative positions count from the end, and all are clipped to x.

    Values:
        x: any dtype; if quantized, per tensor.
        y: as x, with the sizes that the slices leave.

    Fields:
        starts, stops, steps: one for each axis of x. A stop of None is the end of the axis, or with a negative step
            its beginning: (0, None, 1) is the whole axis, (-1, None, -1) the whole axis reversed. An axis whose size is
            a symbol takes only these two.
    """

    name = "slice"
    INPUTS = ("x",)

    starts: tuple[int, ...]
    stops: tuple[int | None, ...]
    steps: tuple[int, ...]

    def slices(self) -> Iterator[slice]:
        return map(slice, self.starts, self.stops, self.steps)

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_per_tensor("x", x)
        if not len(self.starts) == len(self.stops) == len(self.steps) == x.rank:
            raise ShapeError(
                f"starts={self.starts}, stops={self.stops}, steps={self.steps} "
                f"are not one for each of the {x.rank} axes of x {x}"
            )
        if 0 in self.steps:
            raise ShapeError(f"steps={self.steps} has a step of 0")
        return x.with_shape(tuple(map(sliced, x.shape, self.slices())))

    def reference(self, y: TensorType, x: Tensor) -> Array:
        return np.ascontiguousarray(x.data[tuple(self.slices())]).reshape(y.shape)


def sliced(size: Dim, part: slice) -> Dim:
    """What `part` leaves of an axis."""
    if isinstance(size, str):
        if (part.start, part.stop, part.step) not in ((0, None, 1), (-1, None, -1)):
            raise ShapeError(
                f"{part} of an axis of unknown size {size}; only the whole axis is known"
            )
        return size
    return len(range(*part.indices(size)))
