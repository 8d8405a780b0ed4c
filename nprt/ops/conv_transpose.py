"""conv_transpose: the gradient of a convolution used as a layer (deconvolution), channels last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt import rounding
from nprt.errors import ShapeError
from nprt.ir import Array, Tensor, TensorType, numel
from nprt.ops import rules
from nprt.ops.products import ProductOp, sum_bound
from nprt.ops.windows import Padding, padded_shape


@dataclass(frozen=True, kw_only=True)
class ConvTranspose(ProductOp):
    """`y[n, p * stride + t * dilation - before, o] += x[n, p, c] * w[o, t, c]`, starting from bias[o].

    Values:
        x: (batch, *spatial, channels), with 1, 2 or 3 spatial axes.
        w: (out_channels, *kernel, channels / groups); output channel o sees group o * groups // out_channels.
        bias: (out_channels,), as for `conv`.
        y: (batch, *out, out_channels), out = (in - 1) * stride + dilation * (kernel - 1) + 1 + output_padding
           - before - after.

    Fields:
        stride, dilation, output_padding: one integer for each spatial axis.
        padding: (before, after) for each spatial axis, cut off the result.
        groups: divides channels and out_channels.
        clamp, numerics: see `linear`.
    """

    name = "conv_transpose"
    INPUTS = ("x", "w", "bias?")
    REQUANTIZE = rounding.REQUANTIZE | {"onednn-general": rounding.requantize_onednn_quotient}

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Padding
    output_padding: tuple[int, ...]
    groups: int = 1

    def type_rule(
        self, y: TensorType, x: TensorType, w: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        rules.require_rank("x", x, (3, 4, 5))
        rules.require_rank("w", w, (x.rank,))
        rank = x.rank - 2
        rules.require_steps("stride", self.stride, rank)
        rules.require_steps("dilation", self.dilation, rank)
        rules.require_padding(self.padding, rank)
        if len(self.output_padding) != rank or any(p < 0 for p in self.output_padding):
            rules.reject(
                f"output_padding={self.output_padding} is not {rank} integers of at least 0"
            )
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
        self.check_operands(y, x, w, bias, None, out_channels)
        sizes = [rules.known("a spatial dimension", size) for size in x.shape[1:-1]]
        rules.require_positive("spatial dimensions of x", sizes, rank)
        out = [
            (size - 1) * s + d * (k - 1) + 1 + extra - before - after
            for size, k, s, d, extra, (before, after) in zip(
                sizes,
                kernel,
                self.stride,
                self.dilation,
                self.output_padding,
                self.padding,
                strict=True,
            )
        ]
        if min(out, default=1) < 1:
            raise ShapeError(f"padding={self.padding} leaves nothing of the result: {out}")
        shape = (x.shape[0], *out, out_channels)
        rules.require_room("y before its padding is cut off", padded_shape(shape, self.padding))
        return y.with_shape(shape)

    def reference(self, y: TensorType, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Array:
        x_groups = np.split(x.centered(), self.groups, axis=-1)
        w_groups = np.split(w.centered(), self.groups, axis=0)
        sizes = x.data.shape[1:-1]
        # The result before the padding is cut off.
        full = [int(out) + sum(pair) for out, pair in zip(y.shape[1:-1], self.padding, strict=True)]
        multiply = self.multiply(y, x, w, run_time=False)
        dtype = np.float32 if y.is_float else np.int32
        acc = np.zeros((len(x.data), *full, len(w.data)), dtype)
        acc_groups = np.split(acc, self.groups, axis=-1)
        for tap in np.ndindex(w.data.shape[1:-1]):
            first = [t * d for t, d in zip(tap, self.dilation, strict=True)]
            at = (
                slice(None),
                *(
                    slice(f, f + s * (size - 1) + 1, s)
                    for f, s, size in zip(first, self.stride, sizes, strict=True)
                ),
            )
            for xg, wg, acc_group in zip(x_groups, w_groups, acc_groups, strict=True):
                taps = wg.transpose(*range(1, wg.ndim), 0)[tap]  # (channels, out_channels)
                at_tap = acc_group[at]
                np.add(at_tap, multiply(xg, taps), out=at_tap, dtype=dtype, casting="unsafe")
        kept = (
            slice(None),
            *(
                slice(before, size - after)
                for (before, after), size in zip(self.padding, full, strict=True)
            ),
        )
        finish = self.output_stage(y, x, w, bias)
        return finish(acc[kept].reshape(-1, len(w.data))).reshape(y.shape)

    def accumulator_bound(self, y: Any, x: Any, w: Any, bias: Any = None) -> int | None:
        if y.is_float:
            return None
        shape = (w.type if isinstance(w, Tensor) else w).shape
        return sum_bound(x, w, bias, numel(shape[1:]), 0, unknown_zero_point=False)

    def macs(self, y: TensorType, x: TensorType, w: TensorType, *rest: Any) -> int:
        return numel(x.shape[:-1]) * numel(w.shape)
