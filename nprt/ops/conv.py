"""conv: convolution over 1 to 3 spatial axes, channels last."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt.ir import Array, Tensor, TensorType, difference, numel
from nprt.ops import rules
from nprt.ops.products import Product, ProductOp, sum_bound
from nprt.ops.windows import Padding, output_size, pad, padded_shape, pieces, windows

# The windows are unrolled piece by piece, so that a piece of about this many float32 elements stays in the cache.
UNROLLED_ELEMENTS = 1 << 19


@dataclass(frozen=True, kw_only=True)
class Conv(ProductOp):
    """`y[n, p, o] = bias[o] + sum(x[n, p * stride + t * dilation - before, c] * w[o, t, c])` over taps t, channels c.

    p and t run over the spatial axes. Outside x there are zeros (the zero point, in codes).

    Values:
        x: (batch, *spatial, channels), with 1, 2 or 3 spatial axes.
        w: (out_channels, *kernel, channels / groups); output channel o sees group o * groups // out_channels.
        bias: (out_channels,), int32 with scale x_scale * w_scale and zero point 0, or float32 with float32 x.
        x_zero_point: one element of x's dtype, for x quantized at run time; only with int32 y.
        y: (batch, *out, out_channels).

    Fields:
        stride, dilation: one integer for each spatial axis.
        padding: (before, after) for each spatial axis.
        groups: divides channels and out_channels.
        clamp, numerics: see `linear`.
    """

    name = "conv"
    INPUTS = ("x", "w", "bias?", "x_zero_point?")

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Padding
    groups: int = 1

    def type_rule(
        self,
        y: TensorType,
        x: TensorType,
        w: TensorType,
        bias: TensorType | None = None,
        x_zero_point: TensorType | None = None,
    ) -> TensorType:
        rules.require_rank("x", x, (3, 4, 5))
        rules.require_rank("w", w, (x.rank,))
        rank = x.rank - 2
        rules.require_steps("stride", self.stride, rank)
        rules.require_steps("dilation", self.dilation, rank)
        rules.require_padding(self.padding, rank)
        channels = rules.known("the channel dimension", x.shape[-1])
        out_channels, *kernel, group_channels = (
            rules.known("a weight dimension", d) for d in w.shape
        )
        rules.require_positive("kernel", kernel, rank)
        rules.require_taps(kernel)
        if (
            not 1 <= self.groups <= max(channels, 1)
            or out_channels < 1
            or group_channels * self.groups != channels
            or out_channels % self.groups
        ):
            rules.reject(f"groups={self.groups} does not fit x {x} and w {w}")
        rules.require_weight_axis(w, 0)
        self.check_operands(y, x, w, bias, x_zero_point, out_channels)
        out = [
            output_size(*axis)
            for axis in zip(
                x.shape[1:-1], kernel, self.stride, self.dilation, self.padding, strict=True
            )
        ]
        rules.require_room("x with its padding", padded_shape(x.shape, self.padding))
        rules.require_room("one row of windows", (*out[1:], *kernel, channels))
        return y.with_shape((x.shape[0], *out, out_channels))

    def reference(
        self,
        y: TensorType,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None = None,
        x_zero_point: Tensor | None = None,
    ) -> Array:
        zero = x.zero(x_zero_point)
        padded = pad(x.data, self.padding, zero)
        weights = w.centered()
        multiply = self.multiply(y, x, w, x_zero_point is not None)
        finish = self.output_stage(y, x, w, bias)
        out = np.empty(tuple(map(int, y.shape)), y.numpy)
        row = numel(y.shape[2:-1]) * weights[0].size * self.groups
        extent = self.dilation[0] * (weights.shape[1] - 1) + 1
        for piece in pieces(out.shape, row, UNROLLED_ELEMENTS, self.stride[0], extent):
            seen = difference(padded[piece.seen], zero)
            rows = finish(self._convolve(seen, weights, multiply))
            out[piece.out] = rows.reshape(out[piece.out].shape)
        return out

    def _convolve(self, x: Array, w: Array, multiply: Product) -> Array:
        """x (batch, *padded, channels), w (out_channels, *kernel, group_channels): (positions, out_channels)."""
        view = windows(x, w.shape[1:-1], self.stride, self.dilation)
        positions = math.prod(view.shape[: x.ndim - 1])
        products = [
            multiply(xg.reshape(positions, wg[0].size), wg.reshape(len(wg), wg[0].size).T)
            for xg, wg in zip(
                np.split(view, self.groups, axis=-1), np.split(w, self.groups), strict=True
            )
        ]
        return products[0] if self.groups == 1 else np.concatenate(products, axis=-1)

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
