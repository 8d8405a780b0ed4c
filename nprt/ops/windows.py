"""Sliding windows over the spatial axes of a channels-last array: sizes, padding and views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from nprt.errors import ShapeError
from nprt.ir import Array, Dim, Shape
from nprt.ops import rules
from nprt.ops.blocks import evenly

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


def padded_shape(x: Shape, padding: Padding) -> Shape:
    """The shape of x (batch, *spatial, channels) with its padding."""
    sizes = [
        rules.known("a spatial dimension", size) + before + after
        for size, (before, after) in zip(x[1:-1], padding, strict=True)
    ]
    return (x[0], *sizes, x[-1])


def pad(x: Array, padding: Sequence[tuple[int, int]], value: Any) -> Array:
    """Pad the spatial axes of x (batch, *spatial, channels)."""
    if not any(map(any, padding)):
        return x
    sizes = [
        size + before + after for size, (before, after) in zip(x.shape[1:-1], padding, strict=True)
    ]
    padded = np.full((len(x), *sizes, x.shape[-1]), value, x.dtype)
    inside = (slice(b, b + size) for size, (b, _) in zip(x.shape[1:-1], padding, strict=True))
    at = (slice(None), *inside)
    padded[at] = x
    return padded


def windows(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    joined: int = 1,
) -> Array:
    """A read-only view of x (batch, *spatial, channels), already padded, as (batch, *out, *kernel, channels).

    Args:
        joined: how many neighbouring windows along the last spatial axis to put side by side, as if they were one with
            `joined * channels` channels: (batch, *out, out_last / joined, *kernel, joined * channels). It divides the
            number of windows there, and the stride there is 1.
    """
    if joined > 1:
        x = np.ascontiguousarray(x)
    out = [
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(x.shape[1:-1], kernel, stride, dilation, strict=True)
    ]
    batch, *spatial, channels = x.strides
    steps = [bytes * s for bytes, s in zip(spatial, stride, strict=True)]
    taps = [bytes * d for bytes, d in zip(spatial, dilation, strict=True)]
    out[-1] //= joined
    steps[-1] *= joined
    return np.lib.stride_tricks.as_strided(
        x,
        (len(x), *out, *kernel, joined * x.shape[-1]),
        (batch, *steps, *taps, channels),
        writeable=False,
    )


class Piece(NamedTuple):
    """A part of an output (batch, *out, channels), and the part of the padded input that its windows see.

    Each is an index of the first two axes.
    """

    out: tuple[slice, slice]
    seen: tuple[slice, slice]


def pieces(out: Sequence[int], row: int, limit: int, stride: int, extent: int) -> Iterator[Piece]:
    """Cut an output into pieces that fit into the cache: several images, or several rows of one image.

    Args:
        out: (batch, rows, ...), the output's shape.
        row: elements that one row takes up.
        limit: elements that a piece may take up. It holds at least one row.
        stride, extent: of the windows along the rows' axis.
    """
    batch, rows = out[:2]
    images = max(1, limit // max(1, rows * row))
    height = evenly(rows, max(1, limit // max(1, row)))
    for image in range(0, batch, images):
        some = slice(image, min(image + images, batch))
        for top in range(0, rows, height):
            end = min(top + height, rows)
            yield Piece(
                (some, slice(top, end)), (some, slice(top * stride, (end - 1) * stride + extent))
            )
