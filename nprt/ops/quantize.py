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
        x: float32 of any shape. Infinities give the end codes; NaN gives the least code, with numerics `torch` the
            greatest and with `pt2e` code 0.
        y: 8-bit codes with one scale and zero point.

    Fields:
        numerics: `onnx` is eq. (1); `torch` is eq. (39), torch.quantize_per_tensor; `pt2e` is eq. (34), the quantize of
            PT2E graphs. The latter two multiply by the reciprocal of the scale.
    """

    name = "quantize"
    INPUTS = ("x",)

    numerics: str = "onnx"

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_choice("numerics", self.numerics, tuple(rounding.QUANTIZE))
        rules.require_dtype("x", x, "float32")
        rules.require_codes("y", y)
        return y.with_shape(x.shape)

    def reference(self, y: TensorType, x: Tensor) -> Array:
        return to_codes(x.data, y, self.numerics)


def to_codes(x: Array, y: TensorType, numerics: str = "onnx") -> Array:
    """x float32 as codes of type y."""
    codes = rounding.QUANTIZE[numerics](x, y.scale, y.zero_point)
    return np.clip(codes, *y.code_range).astype(y.numpy)
