"""resize: the spatial axes sampled at other positions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nprt import rounding
from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules

MODES = ("nearest", "linear")

# Where position i of an axis of size `out` lies on an axis of size `size`; all in float32, as in onnxruntime.
COORDINATES: dict[str, Callable[[Array, Array, int, int], Array]] = {
    "asymmetric": lambda i, scale, size, out: i / scale,
    "half_pixel": lambda i, scale, size, out: (i + np.float32(0.5)) / scale - np.float32(0.5),
    "pytorch_half_pixel": lambda i, scale, size, out: (
        (i + np.float32(0.5)) / scale - np.float32(0.5) if out > 1 else i * np.float32(0)
    ),
    "align_corners": lambda i, scale, size, out: (
        i * np.float32(size - 1) / np.float32(max(out - 1, 1))
    ),
}

# The same as PyTorch's kernels on quantized tensors find it, eq. (72): multiplied by a step of in / out, and with a
# fused multiply-add on channels-last tensors. Never before the first element.
TORCH: dict[str, Callable[[Array, Array, int, int, bool], Array]] = {
    "half_pixel": lambda i, step, size, out, fused: (
        rounding.fma(step, i + np.float32(0.5), np.float32(-0.5))
        if fused
        else step * (i + np.float32(0.5)) - np.float32(0.5)
    ),
    "align_corners": lambda i, step, size, out, fused: (
        np.float32(size - 1 if out > 1 else 0) / np.float32(max(out - 1, 1)) * i
    ),
}

# Which of two neighbours a position between them takes. A position this near to the middle, in float64, is a tie.
TIE = 1e-6
NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda at: np.ceil(at - (0.5 + TIE)),
    "round_prefer_ceil": lambda at: np.floor(at + (0.5 + TIE)),
    "floor": np.floor,
    "ceil": np.ceil,
}


@dataclass(frozen=True, kw_only=True)
class Resize(Op):
    """x sampled at the positions that map y's spatial axes onto x's.

    Values:
        x: (batch, *spatial, channels), with 1, 2 or 3 spatial axes: codes quantized per tensor, or float32.
        y: (batch, *out, channels) as declared, of x's dtype and quantization.

    Fields:
        mode: "nearest" takes the nearest element, "linear" weighs the two neighbours along each axis. Positions outside
            x take its border.
        coordinates: "half_pixel", "asymmetric", "align_corners" or "pytorch_half_pixel", as ONNX defines them.
        nearest: which neighbour is the nearest: "round_prefer_floor", "round_prefer_ceil", "floor" or "ceil".
        scales: out / in for each spatial axis, where it is not the ratio of the sizes; rounded to float32. Without
            effect if y has x's shape: then y is x, as in onnxruntime, but for linear `torch-nhwc`.
        numerics: how linear weighs codes: `integer` in fixed point, eq. (28) and (29), ties up; `ort` in float32, the
            fraction cut off, eq. (30). `torch-nchw` and `torch-nhwc` are eq. (70) and (71), of two spatial axes;
            they find positions in float32 in their own way, eq. (72), in the coordinates that torch has.
    """

    name = "resize"
    INPUTS = ("x",)

    mode: str
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    scales: tuple[float, ...] | None = None
    numerics: str = "integer"

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_numerics(self.numerics, ("integer", "ort", *rounding.INTERPOLATE))
        rules.require_choice("mode", self.mode, MODES)
        rules.require_choice("coordinates", self.coordinates, tuple(COORDINATES))
        rules.require_choice("nearest", self.nearest, tuple(NEAREST))
        rules.require_real("x", x)
        rules.require_rank("x", x, (3, 4, 5))
        rules.require_rank("y", y, (x.rank,))
        if (x.shape[0], x.shape[-1]) != (y.shape[0], y.shape[-1]):
            raise ShapeError(f"x {x} and y {y} differ in batch or channels")
        rank = x.rank - 2
        if self.numerics in rounding.INTERPOLATE and (
            self.mode != "linear" or rank != 2 or self.coordinates not in TORCH
        ):
            rules.reject(
                f"numerics {self.numerics!r} is for linear resizing along two axes, with coordinates "
                f"{' or '.join(TORCH)}"
            )
        for what, type in (("x", x), ("y", y)):
            spatial = [rules.known("a spatial dimension", dim) for dim in type.shape[1:-1]]
            rules.require_positive(f"spatial dimensions of {what}", spatial, rank)
        if self.scales is not None:
            with np.errstate(over="ignore"):
                scales = np.array(self.scales, np.float32)
            if len(scales) != rank or not np.all((scales > 0) & np.isfinite(scales)):
                raise ShapeError(f"scales={self.scales} is not {rank} positive float32 numbers")
        for axis in range(2, x.rank):  # the axes are resized one after the other
            rules.require_room("x resized in part", (*y.shape[:axis], *x.shape[axis:]))
        return x.with_shape(y.shape)

    def reference(self, y: TensorType, x: Tensor) -> Array:
        if x.data.shape == y.shape and (x.is_float or self.numerics != "torch-nhwc"):
            return x.data
        spatial, out = x.data.shape[1:-1], tuple(map(int, y.shape[1:-1]))
        if self.mode == "nearest":
            return take(x.data, self.indices(spatial, out))
        positions = self.positions(spatial, out)
        if self.numerics in rounding.INTERPOLATE and not x.is_float:
            codes = rounding.INTERPOLATE[self.numerics](
                corners(x.data, positions), x.type.zero_point
            )
            return np.clip(codes, *y.code_range).astype(y.numpy)
        pairs = [neighbours(*axis) for axis in positions]
        if x.is_float:
            return weigh(x.data, pairs)
        if self.numerics == "ort":
            return rounding.interpolate_ort(weigh(x.data.astype(np.float32), pairs)).astype(y.numpy)
        acc = weigh(x.data.astype(np.int64), [fixed_point(*pair) for pair in pairs])
        return rounding.interpolate_integer(acc, len(pairs)).astype(y.numpy)

    def positions(self, spatial: tuple[int, ...], out: tuple[int, ...]) -> list[tuple[Array, int]]:
        """For each spatial axis, where its positions lie in x (out,) float32, and how large x is there."""
        positions = []
        for axis, (size, count) in enumerate(zip(spatial, out, strict=True)):
            index = np.arange(count, dtype=np.float32)
            if self.numerics in rounding.INTERPOLATE:
                step = np.float32(size) / np.float32(count)
                if self.scales is not None:
                    step = np.float32(1 / np.float64(self.scales[axis]))
                at = TORCH[self.coordinates](
                    index, step, size, count, self.numerics == "torch-nhwc"
                )
                positions.append((np.maximum(at, np.float32(0)), size))
                continue
            ratio = np.float32(count) / np.float32(size)
            scale = ratio if self.scales is None else np.float32(self.scales[axis])
            with np.errstate(over="ignore"):  # a tiny scale leads beyond the end of x
                at = COORDINATES[self.coordinates](index, scale, size, count)
            positions.append((index if scale == 1 else at, size))
        return positions

    def indices(self, spatial: tuple[int, ...], out: tuple[int, ...]) -> list[Array]:
        """What mode "nearest" takes along each spatial axis of x: (out,) int64."""
        if spatial == out:
            return [np.arange(count) for count in out]
        return [
            np.clip(NEAREST[self.nearest](at.astype(np.float64)), 0, size - 1).astype(np.int64)
            for at, size in self.positions(spatial, out)
        ]


# Low and high index, weight of the low and of the high element; each (out,).
Neighbours = tuple[Array, Array, Array, Array]


def neighbours(at: Array, size: int) -> Neighbours:
    """The two elements around each position, and their float32 weights. At the border both are the same element."""
    at = np.clip(at, np.float32(0), np.float32(size - 1))
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    same = low == high
    low_weight = np.where(same, np.float32(0.5), high.astype(np.float32) - at)
    high_weight = np.where(same, np.float32(0.5), at - low.astype(np.float32))
    return low, high, low_weight, high_weight


def corners(x: Array, positions: list[tuple[Array, int]]) -> rounding.Corners:
    """The neighbours of each position of two spatial axes, and their weights as PyTorch finds them."""
    sides = []
    for at, size in positions:
        low = np.minimum(at, np.float32(size - 1)).astype(np.int64)
        high_weight = at - low.astype(np.float32)
        sides.append((low, np.minimum(low + 1, size - 1), high_weight))
    (top, bottom, lower), (left, right, later) = sides
    real = x.astype(np.float32)
    one = np.float32(1)
    lower, later = lower[:, np.newaxis, np.newaxis], later[:, np.newaxis]
    return rounding.Corners(
        upper=(take(real, [top, left]), take(real, [top, right])),
        lower=(take(real, [bottom, left]), take(real, [bottom, right])),
        rows=(one - lower, lower),
        columns=(one - later, later),
    )


def fixed_point(low: Array, high: Array, low_weight: Array, high_weight: Array) -> Neighbours:
    """The same with integer weights, which add up to 2**11."""
    weight = rounding.interpolation_weight(high_weight)
    return low, high, 2**rounding.WEIGHT_BITS - weight, weight


def weigh(x: Array, pairs: list[Neighbours]) -> Array:
    """The weighted sum of the corners around each position, the last axis varying fastest, in the weights' dtype."""
    corners = []
    for sides in itertools.product((0, 1), repeat=len(pairs)):
        chosen = [(pair[side], pair[2 + side]) for pair, side in zip(pairs, sides, strict=True)]
        weight = chosen[-1][1]
        for axis, (_, other) in enumerate(reversed(chosen[:-1]), start=1):
            weight = weight * other.reshape(-1, *[1] * axis)
        corners.append(weight[..., np.newaxis] * take(x, [index for index, _ in chosen]))
    total = corners[0]
    for corner in corners[1:]:
        total = total + corner
    return total


def take(x: Array, indices: list[Array]) -> Array:
    """x (batch, *spatial, channels) at the given indices of each spatial axis."""
    for axis, index in enumerate(indices, start=1):
        x = np.take(x, index, axis=axis)
    return x
