"""What max_pool and average_pool share: a window that slides over the spatial axes of a channels-last array."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt.errors import ShapeError
from nprt.ir import Array, Op, Shape, TensorType
from nprt.ops import rules
from nprt.ops.windows import Padding, output_size, pad, windows


@dataclass(frozen=True, kw_only=True)
class PoolOp(Op):
    """An op on windows of x (batch, *spatial, channels), each channel by itself.

    Fields:
        kernel, stride, dilation: one integer for each spatial axis.
        padding: (before, after) for each spatial axis. Each window must hold an element of x.
        ceil_mode: whether a last window may hang over the end, see `windows.output_size`. What hangs over is neither x
            nor padding.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Padding
    ceil_mode: bool = False

    def output_shape(self, x: TensorType) -> Shape:
        """The shape of y."""
        rules.require_rank("x", x, (3, 4, 5))
        rank = x.rank - 2
        rules.require_positive("kernel", self.kernel, rank)
        rules.require_positive("stride", self.stride, rank)
        rules.require_positive("dilation", self.dilation, rank)
        rules.require_padding(self.padding, rank)
        axes = zip(
            x.shape[1:-1], self.kernel, self.stride, self.dilation, self.padding, strict=True
        )
        out = [output_size(*axis, self.ceil_mode) for axis in axes]
        shape = x.with_shape((x.shape[0], *out, x.shape[-1])).shape
        if any(counts.min() < 1 for counts in self.tap_counts(x.shape, shape)):
            raise ShapeError(f"a window over x {x} holds nothing but padding {self.padding}")
        return shape

    def tap_counts(self, x: Shape, y: Shape, *, include_padding: bool = False) -> list[Array]:
        """For each spatial axis, how many taps of each window fall on x, or on its padding: (out,) int64."""
        counts = []
        axes = zip(
            x[1:-1], y[1:-1], self.kernel, self.stride, self.dilation, self.padding, strict=True
        )
        for size, out, kernel, stride, dilation, (before, after) in axes:
            start = np.arange(int(out), dtype=np.int64) * stride - before
            low, high = (-before, int(size) + after) if include_padding else (0, int(size))
            # The taps t of a window are those with low <= start + t * dilation < high.
            first = np.clip(-((start - low) // dilation), 0, kernel)
            stop = np.clip(-((start - high) // dilation), 0, kernel)
            counts.append(stop - first)
        return counts

    def windows(self, x: Array, y: Shape, value: float) -> Array:
        """A view of x as (batch, *out, *kernel, channels), with `value` wherever a tap is outside x."""
        padding = []
        axes = zip(
            x.shape[1:-1],
            y[1:-1],
            self.kernel,
            self.stride,
            self.dilation,
            self.padding,
            strict=True,
        )
        for size, out, kernel, stride, dilation, (before, after) in axes:
            reach = (int(out) - 1) * stride + dilation * (kernel - 1) + 1
            padding.append((before, max(after, reach - before - size)))
        return windows(pad(x, padding, value), self.kernel, self.stride, self.dilation)

    def window_axes(self) -> tuple[int, ...]:
        """The axes of `windows` that run over the taps of one window."""
        rank = len(self.kernel)
        return tuple(range(1 + rank, 1 + 2 * rank))
