"""quantize: float32 to codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt import rounding
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Quantize(Op):
    """`y = clip(rint(x / scale) + zero_point)`, ties to even: eq. (1), ONNX's QuantizeLinear.

    Values:
        x: float32 of any shape. NaN gives the least code, infinities the end codes.
        y: 8-bit codes with one scale and zero point.
    """

    name = "quantize"
    INPUTS = ("x",)

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_dtype("x", x, "float32")
        rules.require_codes("y", y)
        return y.with_shape(x.shape)

    def reference(self, y: TensorType, x: Tensor) -> Array:
        return to_codes(x.data, y)


def to_codes(x: Array, y: TensorType) -> Array:
    """x float32 as codes of type y."""
    return np.clip(rounding.quantize(x, y.scale, y.zero_point), *y.code_range).astype(y.numpy)
