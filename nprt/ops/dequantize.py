"""dequantize: codes, or int32 sums, to float32."""

from __future__ import annotations

from dataclasses import dataclass

from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Dequantize(Op):
    """`y = scale * (x - zero_point)`: eq. (2), ONNX's DequantizeLinear.

    Values:
        x: quantized per tensor or per axis; int32 with zero point 0.
        y: float32 of x's shape.
    """

    name = "dequantize"
    INPUTS = ("x",)

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        if x.quant is None:
            rules.reject(f"x {x} has no scale and zero point")
        if x.dtype == "int32" and any(x.quant.zero_point):
            rules.reject(f"x {x} has a zero point; expected 0 for int32")
        return TensorType("float32", x.shape)

    def reference(self, y: TensorType, x: Tensor) -> Array:
        return x.real()
