"""depthwise_conv: each channel convolved by itself, channels last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt import rounding
from nprt.ir import Array, Tensor, TensorType, difference, numel
from nprt.ops import rules
from nprt.ops.blocks import largest_divisor
from nprt.ops.products import ProductOp, exact_terms, sum_bound
from nprt.ops.windows import Padding, output_size, pad, padded_shape, pieces, windows

# The output is computed piece by piece, so that a piece of about this many float32 elements stays in the cache.
PIECE_ELEMENTS = 1 << 16
LONG_ROW = 1 << 10  # elements


@dataclass(frozen=True, kw_only=True)
class DepthwiseConv(ProductOp):
    """`y[n, p, o] = bias[o] + sum(x[n, p * stride + t * dilation - before, o // m] * w[t, o])` over taps t.

    Values:
        x: (batch, *spatial, channels), with 1, 2 or 3 spatial axes.
        w: (*kernel, channels * m), with m >= 1 output channels for each channel of x; quantized along the last axis.
        bias: (channels * m,), as for `conv`.
        x_zero_point: as for `conv`.
        y: (batch, *out, channels * m).

    Fields:
        stride, dilation: one integer for each spatial axis.
        padding: (before, after) for each spatial axis.
        clamp: see `linear`.
        numerics: see `linear`; `fbgemm-saturating` is `fbgemm` of codes of y after sums that saturate, eq. (73), for
            uint8 x and int8 w.
    """

    name = "depthwise_conv"
    INPUTS = ("x", "w", "bias?", "x_zero_point?")
    REQUANTIZE = rounding.REQUANTIZE | {
        "fbgemm-saturating": rounding.requantize_fbgemm,
        "onednn-general": rounding.requantize_onednn_product,
    }

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Padding

    def type_rule(
        self,
        y: TensorType,
        x: TensorType,
        w: TensorType,
        bias: TensorType | None = None,
        x_zero_point: TensorType | None = None,
    ) -> TensorType:
        rules.require_rank("x", x, (3, 4, 5))
        rank = x.rank - 2
        rules.require_rank("w", w, (rank + 1,))
        rules.require_steps("stride", self.stride, rank)
        rules.require_steps("dilation", self.dilation, rank)
        rules.require_padding(self.padding, rank)
        channels = rules.known("the channel dimension", x.shape[-1])
        *kernel, out_channels = (rules.known("a weight dimension", d) for d in w.shape)
        rules.require_positive("kernel", kernel, rank)
        rules.require_taps(kernel)
        if channels < 1 or out_channels < 1 or out_channels % channels:
            rules.reject(f"w {w} does not have a multiple of {channels} channels")
        rules.require_weight_axis(w, rank)
        self.check_operands(y, x, w, bias, x_zero_point, out_channels)
        if self._saturates(y):
            rules.require_dtype("x", x, "uint8")
            rules.require_dtype("w", w, "int8")
        out = [
            output_size(*axis)
            for axis in zip(
                x.shape[1:-1], kernel, self.stride, self.dilation, self.padding, strict=True
            )
        ]
        padded = padded_shape((*x.shape[:-1], out_channels), self.padding)
        rules.require_room("x with its padding", padded)
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
        finish = self.output_stage(y, x, w, bias)
        out = np.empty(tuple(map(int, y.shape)), y.numpy)
        extent = self.dilation[0] * (len(weights) - 1) + 1
        taps = weights[..., 0].size
        short = y.is_float or taps <= exact_terms(x, w, run_time=x_zero_point is not None)
        dtype = np.float32 if short else np.float64  # in float64 integers are exact below 2**53
        for piece in pieces(out.shape, numel(y.shape[2:]), PIECE_ELEMENTS, self.stride[0], extent):
            seen = difference(padded[piece.seen], zero).astype(dtype, copy=False)
            acc = self._convolve(seen, weights.astype(dtype, copy=False))
            if self._saturates(y):
                acc = acc.astype(np.int32) - self._lost(padded[piece.seen], w.data)
            out[piece.out] = finish(acc.reshape(-1, acc.shape[-1])).reshape(acc.shape)
        return out

    def _convolve(self, x: Array, w: Array) -> Array:
        """x (batch, *padded, channels), w (*kernel, channels * m): (batch, *out, channels * m)."""
        per_channel = w.shape[-1] // x.shape[-1]
        if per_channel > 1:
            x = np.repeat(x, per_channel, axis=-1)
        # NumPy runs along the last axis, so neighbouring windows are joined to make that axis long.
        joined = 1
        if self.stride[-1] == 1:
            width = x.shape[-2] - self.dilation[-1] * (w.shape[-2] - 1)
            joined = largest_divisor(width, LONG_ROW // x.shape[-1])
        view = windows(x, w.shape[:-1], self.stride, self.dilation, joined)
        batch, *axes = range(view.ndim)
        out, kernel, channel = axes[: w.ndim - 1], axes[w.ndim - 1 : -1], axes[-1]
        taps = np.tile(w, joined)
        acc = np.einsum(view, [batch, *axes], taps, [*kernel, channel], [batch, *out, channel])
        return acc.reshape(*acc.shape[:-2], acc.shape[-2] * joined, w.shape[-1])

    def _saturates(self, y: TensorType) -> bool:
        return self.numerics == "fbgemm-saturating" and y.is_codes

    def _lost(self, x: Array, w: Array) -> Array:
        """Codes x and w as for `_convolve`: what the sums lose to saturation, int32 (batch, *out, channels * m)."""
        channels, rank = w.shape[-1], w.ndim - 1
        x = np.repeat(x, channels // x.shape[-1], axis=-1)
        view = windows(x, w.shape[:-1], self.stride, self.dilation)
        taps = view.reshape(*view.shape[: 1 + rank], -1, channels)
        return rounding.lost_to_int16(taps, w.reshape(-1, channels))

    def accumulator_bound(
        self, y: Any, x: Any, w: Any, bias: Any = None, x_zero_point: Any = None
    ) -> int | None:
        if y.is_float:
            return None
        shape = (w.type if isinstance(w, Tensor) else w).shape
        taps = numel(shape[:-1])
        bound = sum_bound(
            x, w, bias, taps, len(shape) - 1, unknown_zero_point=x_zero_point is not None
        )
        return bound + taps // 2 * rounding.MOST_LOST_TO_INT16 * self._saturates(y)

    def macs(self, y: TensorType, x: TensorType, w: TensorType, *rest: Any) -> int:
        return numel(y.shape) * numel(w.shape[:-1])
