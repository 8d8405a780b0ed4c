"""dynamic_linear: a float32 layer computed in int8, its input quantized at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nprt.ir import Array, Op, Tensor, TensorType, numel
from nprt.ops.dynamic import check_product, product, product_bound


@dataclass(frozen=True, kw_only=True)
class DynamicLinear(Op):
    """`linear` on x quantized over its range at run time; the int32 sum is scaled back to float32.

    Values:
        x: (..., in_features) float32, finite.
        w: (out_features, in_features) codes, quantized per tensor or along axis 0.
        bias: (out_features,) float32.
        y: (..., out_features) float32.

    Fields:
        per_row: each row of x gets a scale of its own, so that a result does not depend on what else is in the batch.
            Otherwise one scale serves all of x, as in onnxruntime and PyTorch.
        numerics: `ort` is eq. (3) and (10); PyTorch's engines have their scales by eq. (40) and (41): `fbgemm` (x86,
            too) has eq. (39) and (43), `qnnpack` (39) and (10), `onednn` (42) and (44). `pt2e` is eq. (58), (34) and
            (10), the choose_qparams of PT2E graphs.
        reduce_range: the scale is chosen for the lower 128 codes, as PyTorch does against sums that saturate in int16;
            not with `ort`, and without effect with `qnnpack`.
    """

    name = "dynamic_linear"
    INPUTS = ("x", "w", "bias?")

    per_row: bool = False
    numerics: str = "ort"
    reduce_range: bool = False

    def type_rule(
        self, y: TensorType, x: TensorType, w: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        check_product(x, w, bias, self.numerics, self.reduce_range)
        return TensorType("float32", (*x.shape[:-1], w.shape[0]))

    def reference(self, y: TensorType, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Array:
        added = None if bias is None else bias.data
        axis = -1 if self.per_row else None
        return product(x.data, w, added, self.numerics, axis=axis, reduce_range=self.reduce_range)

    def accumulator_bound(self, y: Any, x: Any, w: Any, bias: Any = None) -> int | None:
        return product_bound(w)

    def macs(self, y: TensorType, x: TensorType, w: TensorType, *rest: Any) -> int:
        return numel(y.shape) * numel(w.shape[1:])
