"""Plans of linear and conv: where the rows of the product lie, how its weights are packed, and what it does as well.

Needs: a constant w whose zero points are 0.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from nprt.jit.kernels import binary, gemm
from nprt.jit.kernels import stage as stages
from nprt.jit.kernels.gemm import PANEL, Sum, Tile
from nprt.jit.kernels.weights import constants
from nprt.jit.simd import Level

# How many steps of a tile the end of the one before it is spread over; and the bytes of weights of a panel that stay
# near: a tile that overlaps has fewer rows, so that it reads them more often.
MOST_AHEAD, LEAST_AHEAD, NEAR_BYTES = 8, 4, 1 << 15


def lower(p: Any, op: Any) -> bool:
    """Add the steps of a conv or linear to a plan; False if this kernel does not do it."""
    x, w = p.type(op.inputs[0]), p.type(op.inputs[1])
    y = p.type(op.outputs[0])
    found = constants(p, op)
    if x.is_float or found is None or (len(op.inputs) > 3 and op.inputs[3]):
        return False  # also for a zero point of x that is known only at run time
    signed, bias = found
    if op.name == "linear":
        signed = signed[:, np.newaxis, :]  # a convolution of one pixel
        geometry = Geometry.pixels(p.read(op.inputs[0]), 1, math.prod(x.shape[:-1]))
    else:
        geometry = Geometry.windows(p, op, x, y)
    zero = p.zero_byte(op.inputs[0]) - p.level.shift
    stage = stages.stage_of(op, x, w, y, signed, zero, bias)
    if stage is None:
        return False
    name = op.outputs[0]
    following = p.sole_reader(name)
    if stage.kind == "sum" and following is not None and following.name == "dequantize":
        axis = y.quant.axis
        if axis is None or axis == len(y.shape) - 1:
            stage = stages.dequantized(stage, y.scale)
            name = fuse(p, following)
    addition = None
    if stage.kind not in stages.WIDE and following is not None and following.name == "add":
        addition = sum_of(p, following, name)
    if addition is not None:
        name = fuse(p, following)
    out = p.write(name, halo=op.name == "conv")
    y_offset = out.pixels() if op.name == "conv" else np.arange(geometry.rows) * out.pixel
    add_step(p, op, geometry, signed, stage, out, y_offset, addition)
    return True


def fuse(p: Any, op: Any) -> str:
    """Do the work of `op` in the step at hand: the value to write instead."""
    p.done.add(op.outputs[0])
    output: str = op.outputs[0]
    return output


def sum_of(p: Any, op: Any, name: str) -> tuple[Sum, Any, dict[str, int]] | None:
    """An add that can follow in the same kernel: what it is, the other operand, the scalars; or None."""
    first = op.inputs[0] == name
    other = op.inputs[1] if first else op.inputs[0]
    types = [p.type(n) for n in op.inputs]
    y = p.type(op.outputs[0])
    if other == name or not p.known(other) or not types[0].shape == types[1].shape == y.shape:
        return None
    found = binary.scalars(op, types[0], types[1], y)
    if found is None:
        return None
    kinds, args = found
    return Sum(op.numerics, kinds, first), p.any_layout(other), args


class Geometry:
    """Where the rows of a product lie in memory."""

    def __init__(self, x: Any, x_offset: Any, runs: Any, taps: int, groups: int) -> None:
        """
        Args:
            x: the buffer.
            x_offset: (rows,) bytes from its start to each row.
            runs: (runs,) bytes from there to each run.
            taps: how many pixels are in a run.
            groups: of channels.
        """
        self.x, self.x_offset, self.runs, self.taps, self.groups = x, x_offset, runs, taps, groups

    @property
    def rows(self) -> int:
        return len(self.x_offset)

    @classmethod
    def pixels(cls, x: Any, groups: int, rows: int) -> Geometry:
        return cls(x, np.arange(rows) * x.pixel, np.zeros(1, np.int64), 1, groups)

    @classmethod
    def windows(cls, p: Any, op: Any, x: Any, y: Any) -> Geometry:
        """Of a convolution: w is (out_channels, *kernel, channels)."""
        kernel = p.type(op.inputs[1]).shape[1:-1]
        buffer = p.read(op.inputs[0], op.padding)
        offsets = buffer.windows(y.shape, op.stride, op.padding)
        taps = buffer.taps(kernel, op.dilation)
        if op.groups == 1 and op.dilation[-1] == 1:
            return cls(buffer, offsets, taps[:: kernel[-1]], kernel[-1], 1)
        return cls(buffer, offsets, taps, 1, op.groups)


@cache
def tile_shape(
    level: Level, rows: int, vectors: int, runs: int, run_steps: int, *, add: bool = False
) -> Tile:
    """The tile with the least work for a matrix of `rows` rows and `vectors` vectors of channels.

    Args:
        runs: of a row; see `gemm`.
        run_steps: of 4 bytes, of a run.
        add: whether an add follows in the same kernel; then registers hold more beside the sums.
    """
    tiles = [
        Tile(high, wide)
        for wide, most in level.tiles.items()
        for high in range(1, min(most, max(rows, 1)) + 1)
    ]
    if run_steps >= LEAST_AHEAD:
        ahead = MOST_AHEAD if run_steps >= MOST_AHEAD else LEAST_AHEAD
        tiles += [
            Tile(high * 2 // 3 if add else high, wide, ahead)
            for wide, high in level.overlapping_tiles.items()
            if high < rows and runs * run_steps * wide * level.bytes <= NEAR_BYTES
        ]
    return min(tiles, key=lambda tile: _cycles(level, tile, rows, vectors, runs, run_steps, add))


def _cycles(
    level: Level, tile: Tile, rows: int, vectors: int, runs: int, run_steps: int, add: bool
) -> float:
    """About how long a product takes.

    A step takes the greater of its dot products and its loads, two of which start in each cycle, and at least the
    latency of one dot product. The rest was measured: weights from afar, the beginning of a run, the end of a tile.
    """
    high, wide, steps = tile.rows, tile.vectors, runs * run_steps
    step = max(high * wide / level.dots_per_cycle, (high + wide) / 2, 4)
    far = steps * wide * level.bytes > NEAR_BYTES
    step += 0.25 + (wide * level.bytes / 256 if far else 0)
    ends = {(False, False): 2.5, (False, True): 1.5, (True, False): 6, (True, True): 3.5}
    end = high * wide * ends[add, bool(tile.ahead)]
    return math.ceil(rows / high) * math.ceil(vectors / wide) * (steps * step + runs * 5 + end)


def add_step(
    p: Any,
    op: Any,
    geometry: Geometry,
    weights: Any,
    stage: stages.Stage,
    y: Any,
    y_offset: Any,
    addition: tuple[Sum, Any, dict[str, int]] | None = None,
) -> None:
    """One product. weights int8 (out_channels, *kernel, channels)."""
    level: Level = p.level
    groups, lanes = geometry.groups, level.lanes
    channels = len(weights) // groups
    matrix = weights.reshape(len(weights), len(geometry.runs), -1)
    run_bytes = math.ceil(matrix.shape[2] / 4) * 4
    runs, run_steps = len(geometry.runs), run_bytes // 4
    add = addition is not None
    tile = tile_shape(level, geometry.rows, math.ceil(channels / lanes), runs, run_steps, add=add)
    steps = runs * run_steps
    rows, vectors = tile.rows, tile.vectors
    in_panel = vectors * lanes
    panels = math.ceil(channels / in_panel)  # of each group
    padded = np.zeros((groups, panels * in_panel, len(geometry.runs), run_bytes), np.int8)
    padded[:, :channels, :, : matrix.shape[2]] = matrix.reshape(groups, channels, *matrix.shape[1:])
    fours = padded.reshape(groups * panels, vectors, lanes, 4 * steps).view(np.int32)  # four int8
    packed = fours.transpose(0, 3, 1, 2)
    order = np.full((groups, panels * in_panel), -1)
    order[:, :channels] = np.arange(groups * channels).reshape(groups, channels)
    parameters = stage.pack(order.reshape(-1, lanes), lanes)

    item = 4 if stage.kind in stages.WIDE else 1
    about = np.zeros((groups, panels), PANEL)
    first = np.arange(panels) * in_panel
    about["x"] = (np.arange(groups) * (geometry.x.channels // groups))[:, np.newaxis]
    about["y"] = item * (np.arange(groups)[:, np.newaxis] * channels + first)
    about["count"] = item * np.minimum(channels - first, in_panel)

    tiles = math.ceil(geometry.rows / rows)
    key = f"gemm {tile} {stage.kind}"
    then, reads = None, [geometry.x]
    more: dict[str, Any] = {}
    clamped = stage.clamped and stage.kind not in stages.WIDE
    if addition is not None:
        then, other, more = addition
        reads.append(other)
        pixels = np.arange(geometry.rows) * other.pixel if other.dense else other.pixels()
        more = {**more, "other": other, "other_offset": repeated(pixels, rows)}
        clamped = (more["low"], more["high"]) != (0, 255)
        key += f" add {then.numerics} {then.kinds}{' first' * then.first}"
    key += " clamped" * clamped
    layout = stage.layout
    macs = geometry.rows * weights.size
    p.step(
        op,
        key,
        lambda name: gemm.emit(name, level, tile, stage.kind, layout, then, clamped=clamped),
        gemm.RECORD,
        {
            "x": geometry.x,
            "x_offset": repeated(geometry.x_offset, rows),
            "runs": len(geometry.runs),
            "run_offset": np.ascontiguousarray(geometry.runs, np.int64),
            "run_bytes": run_bytes,
            "w": packed,
            "panels": groups * panels,
            "panel_bytes": steps * in_panel * 4,
            "panel": about.reshape(-1),
            "parameters": parameters,
            "y": y,
            "y_offset": repeated(y_offset, rows),
            "tiles": tiles,
            "code_offset": stage.offset,
            "code_low": stage.low,
            "code_high": stage.high,
            **more,
        },
        reads=reads,
        writes=[y],
        macs=macs,
    )


def repeated(offsets: Any, rows: int) -> Any:
    """int32 offsets for whole tiles: the last row stands in for those that are missing, and is written twice."""
    count = math.ceil(len(offsets) / rows) * rows
    return np.pad(offsets, (0, count - len(offsets)), "edge").astype(np.uint32)
