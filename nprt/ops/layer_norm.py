"""layer_norm: each row to mean 0 and variance 1, then scaled and shifted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt import rounding
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules
from nprt.ops.norms import finish, normalized_type, require_epsilon, require_vector, standardized


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Op):
    """`y = (x - mean) / sqrt(variance + epsilon) * weight + bias`, mean and variance along the last axis.

    Values:
        x: (..., n) with n >= 1, codes quantized per tensor, or float32.
        weight, bias: float32 (n,).
        y: of x's shape; codes quantized per tensor, or float32 with float32 x, from float64 rounded once.

    Fields:
        epsilon: a number > 0.
        numerics: which formula gives the codes: `fbgemm` is eq. (51), the only one.
    """

    name = "layer_norm"
    INPUTS = ("x", "weight?", "bias?")

    epsilon: float
    numerics: str = "integer"

    def type_rule(
        self,
        y: TensorType,
        x: TensorType,
        weight: TensorType | None = None,
        bias: TensorType | None = None,
    ) -> TensorType:
        rules.require_numerics(self.numerics)
        rules.require_real("x", x)
        require_epsilon(self.epsilon)
        rules.require_rank("x", x, range(1, 17))
        rules.require_positive("the last axis", (rules.known("the last axis", x.shape[-1]),), 1)
        require_vector("weight", weight, x.shape[-1])
        require_vector("bias", bias, x.shape[-1])
        return normalized_type(y, x, self.numerics)

    def reference(
        self, y: TensorType, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Array:
        w, b = (None if given is None else given.data for given in (weight, bias))
        if y.is_float:
            with np.errstate(over="ignore", invalid="ignore"):
                real = standardized(x.data, self.epsilon)
                real = real if w is None else real * w
                return np.asarray(real if b is None else real + b, np.float32)
        qx, qy = (rounding.Affine(type.scale, type.zero_point) for type in (x.type, y))
        with np.errstate(over="ignore", invalid="ignore"):
            return finish(rounding.layer_norm_fbgemm(x.data, w, b, self.epsilon, qx, qy), y)
