"""What max_pool and average_pool share: a window that slides over the spatial axes of a channels-last array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nprt.errors import ShapeError
from nprt.ir import Array, Op, Shape, TensorType, numel
from nprt.ops import rules
from nprt.ops.windows import Padding, output_size, pad, padded_shape, windows

# All windows together look at this many elements of one image at most: a kernel is not backed by data of its size.
MAX_WORK = 2**36


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
        rules.require_taps(self.kernel)
        rules.require_steps("stride", self.stride, rank)
        rules.require_steps("dilation", self.dilation, rank)
        rules.require_padding(self.padding, rank)
        axes = zip(
            x.shape[1:-1], self.kernel, self.stride, self.dilation, self.padding, strict=True
        )
        out = [output_size(*axis, self.ceil_mode) for axis in axes]
        shape = (x.shape[0], *out, x.shape[-1])
        rules.require_room("x with its padding", self._padded_shape(x.shape, out))
        rules.require_room("y", shape)
        if numel(shape) * math.prod(self.kernel) > MAX_WORK:
            raise ShapeError(
                f"kernel={self.kernel} over x {x} looks at more than {MAX_WORK} elements"
            )
        for size, count, kernel, stride, dilation, (before, _) in zip(
            x.shape[1:-1], out, self.kernel, self.stride, self.dilation, self.padding, strict=True
        ):
            if not windows_meet(int(size), count, kernel, stride, dilation, before):
                raise ShapeError(f"a window over x {x} holds nothing but padding {self.padding}")
        return shape

    def _padded_shape(self, x: Shape, out: Sequence[int]) -> Shape:
        """x with its padding, and with what the last windows need behind it."""
        shape = padded_shape(x, self.padding)
        axes = zip(shape[1:-1], out, self.kernel, self.stride, self.dilation, strict=True)
        sizes = [
            max(int(size), (count - 1) * stride + dilation * (kernel - 1) + 1)
            for size, count, kernel, stride, dilation in axes
        ]
        return (x[0], *sizes, x[-1])

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


def windows_meet(
    size: int, count: int, kernel: int, stride: int, dilation: int, before: int
) -> bool:
    """Whether each of `count` windows has a tap on an axis of `size` elements behind `before` elements of padding.

    A window that begins on the axis has a tap there. The first tap that is not before the axis, of a window that begins
    before it, is at its start modulo `dilation`, and these repeat.
    """
    if (count - 1) * stride - before >= size or before > dilation * (kernel - 1):
        return False
    starts = np.arange(min(count, -(-before // stride), dilation), dtype=np.int64) * stride - before
    return bool(np.all(starts % dilation < size))
