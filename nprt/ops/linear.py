"""linear: a constant weight matrix applied to the last axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt import rounding
from nprt.ir import Array, Tensor, TensorType, difference, numel
from nprt.ops import rules
from nprt.ops.blocks import blocks
from nprt.ops.products import ProductOp, sum_bound

# Rows are multiplied so many at a time, which bounds the memory that a large batch takes.
ROWS = 1 << 10


@dataclass(frozen=True, kw_only=True)
class Linear(ProductOp):
    """`y[..., o] = bias[o] + sum(x[..., i] * w[o, i])` over i.

    Values:
        x: (..., in_features).
        w: (out_features, in_features), quantized per tensor or along axis 0.
        bias: (out_features,), int32 with scale x_scale * w_scale and zero point 0, or float32 with float32 x.
        x_zero_point: one element of x's dtype, for x quantized at run time; only with int32 y.
        y: (..., out_features): codes, the int32 sum itself, or float32 with float32 x and w.

    Fields:
        clamp: the least and the greatest code of y, for a fused activation; None for the whole dtype.
        numerics: which formula turns sums into codes; see `docs/quantization.md`.
    """

    name = "linear"
    INPUTS = ("x", "w", "bias?", "x_zero_point?")
    REQUANTIZE = rounding.REQUANTIZE | {
        "onednn": rounding.requantize_onednn_linear,
        "onednn-general": rounding.requantize_onednn_linear_quotient,
    }

    def type_rule(
        self,
        y: TensorType,
        x: TensorType,
        w: TensorType,
        bias: TensorType | None = None,
        x_zero_point: TensorType | None = None,
    ) -> TensorType:
        rules.require_rank("w", w, (2,))
        if x.rank < 1 or x.shape[-1] != w.shape[1]:
            rules.reject(f"the last axis of x {x} is not the {w.shape[1]} in_features of w {w}")
        rules.require_weight_axis(w, 0)
        self.check_operands(y, x, w, bias, x_zero_point, w.shape[0])
        return y.with_shape((*x.shape[:-1], w.shape[0]))

    def reference(
        self,
        y: TensorType,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None = None,
        x_zero_point: Tensor | None = None,
    ) -> Array:
        zero = x.zero(x_zero_point)
        weights = w.centered().T
        multiply = self.multiply(y, x, w, x_zero_point is not None)
        finish = self.output_stage(y, x, w, bias)
        rows = x.data.reshape(math.prod(x.data.shape[:-1]), len(weights))
        out = np.empty((len(rows), weights.shape[1]), y.numpy)
        for block in blocks(len(rows), ROWS):
            out[block] = finish(multiply(difference(rows[block], zero), weights))
        return out.reshape(y.shape)

    def accumulator_bound(
        self, y: Any, x: Any, w: Any, bias: Any = None, x_zero_point: Any = None
    ) -> int | None:
        if y.is_float:
            return None
        shape = (w.type if isinstance(w, Tensor) else w).shape
        return sum_bound(
            x, w, bias, numel(shape[1:]), 0, unknown_zero_point=x_zero_point is not None
        )

    def macs(self, y: TensorType, x: TensorType, w: TensorType, *rest: Any) -> int:
        return numel(y.shape) * numel(w.shape[1:])
