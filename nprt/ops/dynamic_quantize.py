"""dynamic_quantize: float32 to codes whose scale and zero point are found at run time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt import rounding
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class DynamicQuantize(Op):
    """The range of x, extended to hold 0, is spread over the codes of y.

    Values:
        x: float32 of any shape, finite.
        y: uint8 codes of x's shape, or int8 with numerics `torch`; no scale in their type.
        scale: float32 of shape (). Where x is all zeros or empty, 1 with `onnx` and 0.1 with `torch`.
        zero_point: of y's dtype and shape ().

    Fields:
        numerics: `onnx` is eq. (3), ONNX's DynamicQuantizeLinear; `torch` is eq. (39) to (41),
            torch.quantize_per_tensor_dynamic.
        reduce_range: the scale is chosen for half as many codes; only with `torch`.
    """

    name = "dynamic_quantize"
    INPUTS = ("x",)
    OUTPUTS = ("y", "scale", "zero_point")

    numerics: str = "onnx"
    reduce_range: bool = False

    def type_rule(
        self, y: TensorType, scale: TensorType, zero_point: TensorType, x: TensorType
    ) -> tuple[TensorType, TensorType, TensorType]:
        rules.require_dtype("x", x, "float32")
        rules.require_numerics(self.numerics, ("onnx", "torch"))
        if self.reduce_range and self.numerics != "torch":
            rules.reject(f"reduce_range is of PyTorch; numerics {self.numerics!r} has none")
        dtype = "int8" if self.numerics == "torch" and y.dtype == "int8" else "uint8"
        return TensorType(dtype, x.shape), TensorType("float32", ()), TensorType(dtype, ())

    def reference(
        self, y: TensorType, scale: TensorType, zero_point: TensorType, x: Tensor
    ) -> tuple[Array, Array, Array]:
        if self.numerics == "onnx":
            return rounding.dynamic_quantize(x.data, axis=None)
        codes, found, zero = rounding.dynamic_quantize_torch(
            x.data, None, "torch", *y.code_range, reduce_range=self.reduce_range
        )
        return codes.astype(y.numpy), found.astype(np.float32), zero.astype(y.numpy)
