"""group_norm: each group of channels of a sample to mean 0 and variance 1, then scaled and shifted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt import rounding
from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType, numel
from nprt.ops import rules
from nprt.ops.norms import finish, normalized_type, require_epsilon, require_vector, standardized


@dataclass(frozen=True, kw_only=True)
class GroupNorm(Op):
    """`y = (x - mean) / sqrt(variance + epsilon) * weight + bias` over all positions and a group of channels.

    Instance norm has one channel in each group.

    Values:
        x: (batch, *spatial, channels), codes quantized per tensor, or float32.
        weight, bias: float32 (channels,).
        y: of x's shape; codes quantized per tensor, or float32 with float32 x, from float64 rounded once.

    Fields:
        groups: how many; divides channels.
        epsilon: a number > 0.
        channels_last: which of PyTorch's two kernels gives the codes: that for tensors in its memory format
            channels_last, or that for contiguous ones. Without effect on float32.
        numerics: which formula gives the codes: `fbgemm` is eq. (52), the only one.
    """

    name = "group_norm"
    INPUTS = ("x", "weight?", "bias?")

    groups: int
    epsilon: float
    channels_last: bool = False
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
        rules.require_rank("x", x, range(2, 17))
        sizes = tuple(rules.known("a normalized dimension", dim) for dim in x.shape[1:])
        rules.require_positive("the normalized dimensions", sizes, len(sizes))
        if self.groups < 1 or sizes[-1] % self.groups:
            raise ShapeError(f"groups={self.groups} does not divide {sizes[-1]} channels")
        require_vector("weight", weight, sizes[-1])
        require_vector("bias", bias, sizes[-1])
        return normalized_type(y, x, self.numerics)

    def reference(
        self, y: TensorType, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Array:
        batch, *spatial, channels = x.data.shape
        parts = (self.groups, channels // self.groups)
        ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        w = (ones if weight is None else weight.data).reshape(parts)
        b = (zeros if bias is None else bias.data).reshape(parts)
        positions = numel(tuple(spatial))
        grouped = x.data.reshape(batch, positions, *parts)
        if y.is_float:
            whole = (batch, self.groups, positions * parts[1])
            rows = grouped.transpose(0, 2, 1, 3).reshape(whole)
            real = standardized(rows, self.epsilon)
            real = real.reshape(batch, self.groups, positions, parts[1])
            with np.errstate(over="ignore", invalid="ignore"):
                real = real.transpose(0, 2, 1, 3) * w + b
                return real.astype(np.float32).reshape(x.data.shape)
        qx, qy = (rounding.Affine(type.scale, type.zero_point) for type in (x.type, y))
        with np.errstate(over="ignore", invalid="ignore"):
            codes = rounding.group_norm_fbgemm(
                grouped, w, b, self.epsilon, qx, qy, self.channels_last
            )
        return finish(codes, y).reshape(x.data.shape)
