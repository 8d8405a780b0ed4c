"""max_pool: the greatest element of each window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt.ir import Array, Tensor, TensorType
from nprt.ops import rules
from nprt.ops.pooling import PoolOp


@dataclass(frozen=True, kw_only=True)
class MaxPool(PoolOp):
    """`y[n, p, c] = max(x[n, p * stride + t * dilation - before, c])` over the taps t that fall on x.

    Values:
        x: (batch, *spatial, channels), 1 to 3 spatial axes: 8-bit integers, per tensor if quantized; or float32.
        y: (batch, *out, channels), of x's dtype and quantization.

    Fields:
        kernel, stride, dilation, padding, ceil_mode: see `PoolOp`. Padding never wins.
    """

    name = "max_pool"
    INPUTS = ("x",)

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_dtype("x", x, "float32", "int8", "uint8")
        rules.require_per_tensor("x", x)
        return x.with_shape(self.output_shape(x))

    def reference(self, y: TensorType, x: Tensor) -> Array:
        least = -np.inf if x.is_float else x.type.code_range[0]
        view = self.windows(x.data, y.shape, least)
        out = np.full(tuple(map(int, y.shape)), least, y.numpy)
        for tap in np.ndindex(self.kernel):
            at = (..., *tap, slice(None))
            np.maximum(out, view[at], out=out)
        return out
