"""prelu: a slope of its own for the negative side of each channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt import rounding
from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Prelu(Op):
    """`y = x` where x >= 0, and `x * slope` elsewhere.

    Values:
        x: codes quantized per tensor, or float32.
        slope: of a shape that broadcasts to x's: (channels,) for one slope per channel, channels last. Codes quantized
            per tensor where x is codes, else float32.
        y: of x's shape; codes quantized per tensor where x is codes, else float32.

    Fields:
        numerics: which formula gives the codes: `integer` is eq. (7), `fbgemm` eq. (53).
    """

    name = "prelu"
    INPUTS = ("x", "slope")

    numerics: str = "integer"

    def type_rule(self, y: TensorType, x: TensorType, slope: TensorType) -> TensorType:
        rules.require_numerics(self.numerics, rounding.PRELU)
        rules.require_real("x", x)
        if rules.broadcast(x.shape, slope.shape) != x.shape:
            raise ShapeError(f"slope {slope} does not broadcast to x {x}")
        if x.is_float:
            rules.require_dtype("slope", slope, "float32")
            return x
        rules.require_codes("slope", slope)
        rules.require_codes("y", y)
        rules.require_multiplier([x.scale], [y.scale])
        rules.require_multiplier([x.scale, slope.scale], [y.scale])
        return y.with_shape(x.shape)

    def reference(self, y: TensorType, x: Tensor, slope: Tensor) -> Array:
        if y.is_float:
            with np.errstate(over="ignore", invalid="ignore"):
                return np.where(x.data < 0, x.data * slope.data, x.data)
        affine = [rounding.Affine(t.scale, t.zero_point) for t in (x.type, slope.type, y)]
        codes = rounding.PRELU[self.numerics](x.data, slope.data, *affine)
        return np.clip(codes, *y.code_range).astype(y.numpy)
