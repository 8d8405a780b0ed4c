"""batch_norm: a factor and an offset for each channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt import rounding
from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules
from nprt.ops.norms import finish, normalized_type


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Op):
    """`y = x * factor + offset`: what batch norm with running statistics amounts to.

    Values:
        x: (..., channels), codes quantized per tensor, or float32.
        factor, offset: float32 (channels,).
        y: of x's shape; codes quantized per tensor, or float32 with float32 x.

    Fields:
        clamp: the least and the greatest code of y, for a fused activation; None for the whole dtype.
        numerics: which formula gives the codes: `fbgemm` is eq. (49), the only one.
    """

    name = "batch_norm"
    INPUTS = ("x", "factor", "offset")

    clamp: tuple[int, int] | None = None
    numerics: str = "integer"

    def type_rule(
        self, y: TensorType, x: TensorType, factor: TensorType, offset: TensorType
    ) -> TensorType:
        rules.require_numerics(self.numerics)
        rules.require_clamp(self.clamp, y)
        rules.require_real("x", x)
        for what, type in (("factor", factor), ("offset", offset)):
            rules.require_dtype(what, type, "float32")
            if x.rank < 1 or type.shape != x.shape[-1:]:
                raise ShapeError(f"{what} {type} is not one number for each channel of x {x}")
        return normalized_type(y, x, self.numerics)

    def reference(self, y: TensorType, x: Tensor, factor: Tensor, offset: Tensor) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            if y.is_float:
                return x.data * factor.data + offset.data
            qx, qy = (rounding.Affine(type.scale, type.zero_point) for type in (x.type, y))
            codes = rounding.batch_norm_fbgemm(x.data, factor.data, offset.data, qx, qy)
        return finish(codes, y, self.clamp)
