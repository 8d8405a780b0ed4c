"""dynamic_quantize: float32 to uint8 codes whose scale and zero point are found at run time."""

from __future__ import annotations

from dataclasses import dataclass

from nprt import rounding
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class DynamicQuantize(Op):
    """ONNX's DynamicQuantizeLinear: the range of x, extended to hold 0, is spread over 0..255: eq. (3).

    Values:
        x: float32 of any shape.
        y: uint8 codes of x's shape, with no scale in their type.
        scale: float32 of shape (); 1 where x is all zeros or empty.
        zero_point: uint8 of shape ().
    """

    name = "dynamic_quantize"
    INPUTS = ("x",)
    OUTPUTS = ("y", "scale", "zero_point")

    def type_rule(
        self, y: TensorType, scale: TensorType, zero_point: TensorType, x: TensorType
    ) -> tuple[TensorType, TensorType, TensorType]:
        rules.require_dtype("x", x, "float32")
        return TensorType("uint8", x.shape), TensorType("float32", ()), TensorType("uint8", ())

    def reference(
        self, y: TensorType, scale: TensorType, zero_point: TensorType, x: Tensor
    ) -> tuple[Array, Array, Array]:
        return rounding.dynamic_quantize(x.data, axis=None)
