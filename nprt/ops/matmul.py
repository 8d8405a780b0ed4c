"""matmul: the product of two values of the model, batched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nprt import rounding
from nprt.errors import ShapeError
from nprt.ir import Array, Tensor, TensorType, numel
from nprt.ops import products, rules
from nprt.ops.products import ProductOp


@dataclass(frozen=True, kw_only=True)
class Matmul(ProductOp):
    """`y[..., m, n] = sum(x[..., m, k] * w[..., k, n])` over k; leading axes broadcast.

    Values:
        x: (..., m, k), w: (..., k, n), both at least 2-dimensional and quantized per tensor.
        x_zero_point, w_zero_point: one element each, for operands quantized at run time; only with int32 y.
        y: (..., m, n): codes, the int32 sum itself, or float32.

    Fields:
        clamp, numerics: see `linear`.
    """

    name = "matmul"
    INPUTS = ("x", "w", "x_zero_point?", "w_zero_point?")
    REQUANTIZE = rounding.REQUANTIZE | {"torch": rounding.requantize_torch}

    def type_rule(
        self,
        y: TensorType,
        x: TensorType,
        w: TensorType,
        x_zero_point: TensorType | None = None,
        w_zero_point: TensorType | None = None,
    ) -> TensorType:
        if x.rank < 2 or w.rank < 2 or x.shape[-1] != w.shape[-2]:
            raise ShapeError(f"x {x} and w {w} are not matrices that can be multiplied")
        if w.quant is not None and w.quant.axis is not None:
            rules.reject(f"w {w} is quantized per channel; use `linear` for constant weights")
        self.check_operands(y, x, w, None, x_zero_point, w.shape[-1])
        self.check_operands(y, w, x, None, w_zero_point, w.shape[-1])
        batch = rules.broadcast(x.shape[:-2], w.shape[:-2])
        return y.with_shape((*batch, x.shape[-2], w.shape[-1]))

    def reference(
        self,
        y: TensorType,
        x: Tensor,
        w: Tensor,
        x_zero_point: Tensor | None = None,
        w_zero_point: Tensor | None = None,
    ) -> Array:
        left = x.centered(x_zero_point)
        right = w.centered(w_zero_point)
        run_time = x_zero_point is not None or w_zero_point is not None
        acc = self.multiply(y, x, w, run_time)(left, right)
        finish = self.output_stage(y, x, w, None)
        return finish(acc.reshape(math.prod(acc.shape[:-1]), acc.shape[-1])).reshape(acc.shape)

    def accumulator_bound(
        self, y: Any, x: Any, w: Any, x_zero_point: Any = None, w_zero_point: Any = None
    ) -> int | None:
        if y.is_float:
            return None
        terms = rules.known(
            "the summed dimension", (x.type if isinstance(x, Tensor) else x).shape[-1]
        )
        x_max = products.largest_difference(x, unknown_zero_point=x_zero_point is not None)
        w_max = products.largest_difference(w, unknown_zero_point=w_zero_point is not None)
        return terms * x_max * w_max

    def macs(self, y: TensorType, x: TensorType, *rest: Any) -> int:
        return numel(y.shape) * numel(x.shape[-1:])
