"""depthwise_conv: each channel convolved by itself, channels last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt.ir import Array, Tensor, TensorType, numel
from nprt.ops import rules
from nprt.ops.products import ProductOp, sum_bound
from nprt.ops.windows import Padding, output_size, pad


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
        clamp, numerics: see `linear`.
    """

    name = "depthwise_conv"
    INPUTS = ("x", "w", "bias?", "x_zero_point?")

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
        rules.require_positive("stride", self.stride, rank)
        rules.require_positive("dilation", self.dilation, rank)
        rules.require_padding(self.padding, rank)
        channels = rules.known("the channel dimension", x.shape[-1])
        *kernel, out_channels = (rules.known("a weight dimension", d) for d in w.shape)
        rules.require_positive("kernel", kernel, rank)
        if channels < 1 or out_channels % channels:
            rules.reject(f"w {w} does not have a multiple of {channels} channels")
        if w.quant is not None and w.quant.axis not in (None, rank):
            rules.reject(f"w {w} is quantized along axis {w.quant.axis}; expected {rank}")
        self.check_operands(y, x, w, bias, x_zero_point, out_channels)
        out = [
            output_size(*axis)
            for axis in zip(
                x.shape[1:-1], kernel, self.stride, self.dilation, self.padding, strict=True
            )
        ]
        return y.with_shape((x.shape[0], *out, out_channels))

    def reference(
        self,
        y: TensorType,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None = None,
        x_zero_point: Tensor | None = None,
    ) -> Array:
        padded = pad(x.centered(x_zero_point), self.padding, 0)
        weights = w.centered()
        padded = np.repeat(padded, weights.shape[-1] // padded.shape[-1], axis=-1)
        taps = numel(weights.shape[:-1])
        # Up to 256 taps a float32 sum of integers is exact (see products.CHUNK); beyond, float64 is, below 2**53.
        exact = np.float32 if y.is_float or taps <= 256 else np.float64
        sizes = [int(size) for size in y.shape[1:-1]]
        acc = np.zeros((len(padded), *sizes, weights.shape[-1]), exact)
        for tap in np.ndindex(weights.shape[:-1]):
            first = [t * d for t, d in zip(tap, self.dilation, strict=True)]
            window = (
                slice(None),
                *(
                    slice(f, f + s * (size - 1) + 1, s)
                    for f, s, size in zip(first, self.stride, sizes, strict=True)
                ),
            )
            acc += padded[window] * weights[tap]
        return self.finish(acc if y.is_float else acc.astype(np.int32), y, x, w, bias)

    def accumulator_bound(
        self, y: Any, x: Any, w: Any, bias: Any = None, x_zero_point: Any = None
    ) -> int | None:
        if y.is_float:
            return None
        shape = (w.type if isinstance(w, Tensor) else w).shape
        return sum_bound(
            x,
            w,
            bias,
            numel(shape[:-1]),
            len(shape) - 1,
            unknown_zero_point=x_zero_point is not None,
        )

    def macs(self, y: TensorType, x: TensorType, w: TensorType, *rest: Any) -> int:
        return numel(y.shape) * numel(w.shape[:-1])
