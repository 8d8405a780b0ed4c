"""Sliding windows over the spatial axes of a channels-last array: sizes, padding and views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nprt.errors import ShapeError
from nprt.ir import Array, Dim
from nprt.ops import rules

Padding = tuple[tuple[int, int], ...]


def output_size(
    size: Dim,
    kernel: int,
    stride: int,
    dilation: int,
    padding: tuple[int, int],
    ceil_mode: bool = False,
) -> int:
    """Number of window positions along one axis.

    With `ceil_mode` a last window may hang over the end, but it must start inside the input or its leading padding
    (the rule of torch and of ONNX from opset 19).
    """
    size = rules.known("a spatial dimension", size)
    span = size + sum(padding) - dilation * (kernel - 1) - 1
    if span < 0:
        raise ShapeError(
            f"a window of {dilation * (kernel - 1) + 1} does not fit into {size} padded by {padding}"
        )
    count = span // stride + 1
    if ceil_mode and span % stride and count * stride < size + padding[0]:
        count += 1
    return count


def pad(x: Array, padding: Sequence[tuple[int, int]], value: float) -> Array:
    """Pad the spatial axes of x (batch, *spatial, channels)."""
    if not any(map(any, padding)):
        return x
    return np.pad(x, [(0, 0), *padding, (0, 0)], constant_values=value)


def windows(
    x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Array:
    """A read-only view of x (batch, *spatial, channels), already padded, as (batch, *out, *kernel, channels)."""
    rank = len(kernel)
    spatial = range(1, rank + 1)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(
        x, extent, tuple(spatial)
    )  # (batch, *pos, channels, *extent)
    steps = (1, *stride, 1, *dilation)
    return np.moveaxis(view[tuple(slice(None, None, step) for step in steps)], rank + 1, -1)
