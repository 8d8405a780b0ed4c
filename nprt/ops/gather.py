"""gather: elements picked along an axis by index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt.errors import InputError, ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Gather(Op):
    """`y[before, i, after] = x[before, indices[i], after]`, where before and after are the axes around `axis`.

    Values:
        x: any dtype; if quantized, per tensor.
        indices: int32 or int64 of any shape; an index below 0 counts from the end. An index that x does not have is an
            error: of the model where the indices are constant, else an InputError when the model runs.
        y: as x; the shape of indices stands in place of `axis`.

    Fields:
        axis: in [0, rank).
    """

    name = "gather"
    INPUTS = ("x", "indices")

    axis: int = 0

    def type_rule(self, y: TensorType, x: TensorType, indices: TensorType) -> TensorType:
        rules.require_per_tensor("x", x)
        rules.require_dtype("indices", indices, "int32", "int64")
        axis = rules.normalized_axis(self.axis, x.rank)
        return x.with_shape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])

    def check_constants(self, y: Any, x: Any, indices: Any) -> None:
        """Constant indices are proven here; others when the model runs."""
        size = (x.type if isinstance(x, Tensor) else x).shape[self.axis]
        if isinstance(indices, Tensor) and isinstance(size, int):
            wrong = (indices.data < -size) | (indices.data >= size)
            if wrong.any():
                raise ShapeError(
                    f"index {indices.data[wrong].flat[0]} is not in [{-size}, {size}), the size of axis {self.axis} "
                    f"of x {x.type if isinstance(x, Tensor) else x}"
                )

    def reference(self, y: TensorType, x: Tensor, indices: Tensor) -> Array:
        size = x.data.shape[self.axis]
        wrong = (indices.data < -size) | (indices.data >= size)
        if wrong.any():
            raise InputError(
                f"index {indices.data[wrong].flat[0]} is not in [{-size}, {size}), "
                f"the size of axis {self.axis} of x {x.type}"
            )
        return np.take(x.data, indices.data, axis=self.axis).reshape(y.shape)
