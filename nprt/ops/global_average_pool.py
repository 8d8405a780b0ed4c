"""global_average_pool: the mean of each channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules
from nprt.ops.means import check_mean, mean, mean_bound, mean_in_lanes, mean_shape


@dataclass(frozen=True, kw_only=True)
class GlobalAveragePool(Op):
    """`y[n, 0, ..., c] = mean(x[n, p, c])` over all positions p.

    Values:
        x: (batch, *spatial, channels), with 1 or more spatial axes: codes quantized per tensor, or float32.
        y: (batch, 1, ..., channels): codes quantized per tensor, or float32 with float32 x.

    Fields:
        numerics: which formula gives the codes: `integer` is eq. (21), `ort` eq. (22).
    """

    name = "global_average_pool"
    INPUTS = ("x",)

    numerics: str = "integer"

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_rank("x", x, (3, 4, 5))
        axes = spatial_axes(x)
        check_mean(y, x, axes, self.numerics)
        return y.with_shape(mean_shape(x, axes, keepdims=True))

    def reference(self, y: TensorType, x: Tensor) -> Array:
        if y.is_float:
            batch, *positions, channels = x.data.shape
            rows = x.data.reshape(batch, math.prod(positions), channels)
            return mean_in_lanes(rows).reshape(y.shape)
        return mean(y, x, spatial_axes(x.type), self.numerics)

    def accumulator_bound(self, y: Any, x: Any) -> int | None:
        return mean_bound(x, spatial_axes(x.type if isinstance(x, Tensor) else x))


def spatial_axes(x: TensorType) -> tuple[int, ...]:
    return tuple(range(1, x.rank - 1))
