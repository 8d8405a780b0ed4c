"""dynamic_linear: a float32 layer computed in int8, its input quantized at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nprt import rounding
from nprt.ir import Array, Op, Tensor, TensorType, numel
from nprt.ops import rules
from nprt.ops.products import exact_terms, integer_matmul, sum_bound


@dataclass(frozen=True, kw_only=True)
class DynamicLinear(Op):
    """`linear` on x quantized as by `dynamic_quantize`; the int32 sum is scaled back to float32: eq. (10).

    Values:
        x: (..., in_features) float32.
        w: (out_features, in_features) codes, quantized per tensor or along axis 0.
        bias: (out_features,) float32.
        y: (..., out_features) float32.

    Fields:
        per_row: each row of x gets a scale of its own, so that a result does not depend on what else is in the batch.
            Otherwise one scale serves all of x, as in onnxruntime.
    """

    name = "dynamic_linear"
    INPUTS = ("x", "w", "bias?")

    per_row: bool = False

    def type_rule(
        self, y: TensorType, x: TensorType, w: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        rules.require_dtype("x", x, "float32")
        rules.require_dtype("y", y, "float32")
        rules.require_rank("w", w, (2,))
        if not w.is_codes:
            rules.reject(f"w {w} is not an 8-bit quantized tensor")
        rules.require_weight_axis(w, 0)
        if x.rank < 1 or x.shape[-1] != w.shape[1]:
            rules.reject(f"the last axis of x {x} is not the {w.shape[1]} in_features of w {w}")
        if bias is not None and (bias.dtype, bias.shape) != ("float32", (w.shape[0],)):
            rules.reject(f"bias {bias} is not float32 of shape [{w.shape[0]}]")
        return TensorType("float32", (*x.shape[:-1], w.shape[0]))

    def reference(self, y: TensorType, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Array:
        codes, scale, zero_point = rounding.dynamic_quantize(
            x.data, axis=-1 if self.per_row else None
        )
        centered = codes.astype("float32") - zero_point.astype("float32")
        terms = exact_terms(TensorType("uint8", ()), w, run_time=True)
        acc = integer_matmul(centered, w.centered().T, terms)
        return rounding.scale_back_ort(
            acc, scale, w.type.scale, None if bias is None else bias.data
        )

    def accumulator_bound(self, y: Any, x: Any, w: Any, bias: Any = None) -> int | None:
        x = TensorType("uint8", (x.type if isinstance(x, Tensor) else x).shape)
        shape = (w.type if isinstance(w, Tensor) else w).shape
        return sum_bound(x, w, None, numel(shape[1:]), 0, unknown_zero_point=True)

    def macs(self, y: TensorType, x: TensorType, w: TensorType, *rest: Any) -> int:
        return numel(y.shape) * numel(w.shape[1:])
