"""depthwise_conv. Same result as `ops.depthwise_conv` on codes, one output channel for each channel of x.

Needs: a constant w whose zero points are 0.

4 * lanes channels at a time, several neighbouring output pixels of a line together. The taps of a window are cut into
*columns*, one for each place along the line. A column is read once, and its bytes are interleaved by fours of taps, so
that one `dot4` sums four taps of one channel; then it serves every pixel of the tile whose window it is in. Fours are
filled up with weights of 0. Sums come in the order of `Level.channel_order`, in which weights and parameters are
packed; packing to bytes brings the plain order back. Where windows move by one pixel, neighbours that have few channels
are taken as one pixel with more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from nprt.jit.emit import I8, I32, I64, ORDERED_SCALARS, Kernel, Value
from nprt.jit.kernels import stage as stages
from nprt.jit.kernels.stage import Layout
from nprt.jit.kernels.weights import constants
from nprt.jit.simd import Level

RECORD = np.dtype(
    [
        (n, "i8")
        for n in (
            *("x", "x_offset", "tap", "pixel", "w", "parameters", "y", "y_offset"),
            *("tiles", "channels", "offset", "low", "high"),
        )
    ]
)
MOST_TAPS = 1024  # of a window: its kernel has them all one after the other
MANY_TAPS = 64  # of a window whose pixels are done one by one, for the size of the kernel
MOST_OPEN = 5  # pixels at a time, so that their sums are in registers


class Tile(NamedTuple):
    """What the kernel does at a time.

    Attributes:
        pixels: of output, side by side.
        step: from the window of one to that of the next, in pixels of input.
        columns: of a window.
        dilation: from one column to the next, in pixels of input.
        taps: of each column.
    """

    pixels: int
    step: int
    columns: int
    dilation: int
    taps: int

    @property
    def fours(self) -> int:
        """Of each column."""
        return math.ceil(self.taps / 4)

    @property
    def places(self) -> list[int]:
        """Where columns are read, in pixels of input from the first."""
        return sorted({t * self.step + j * self.dilation for t, j in self.windows()})

    def windows(self) -> Iterator[tuple[int, int]]:
        """Every pixel of output with every column of its window."""
        return ((t, j) for t in range(self.pixels) for j in range(self.columns))

    def at(self, place: int) -> list[tuple[int, int]]:
        """The pixels whose window has a column there, and which column that is."""
        return [(t, j) for t, j in self.windows() if t * self.step + j * self.dilation == place]

    def done_at(self, place: int) -> list[int]:
        """The pixels whose window ends there."""
        last = place - (self.columns - 1) * self.dilation
        return [t for t in range(self.pixels) if t * self.step == last]

    @property
    def open(self) -> int:
        """The most pixels that have begun and not ended at a time."""
        return min(self.pixels, (self.columns - 1) * self.dilation // self.step + 1)

    @property
    def cost(self) -> float:
        """About the cycles of one unit of channels: dot products, shuffles, and the end of each pixel."""
        products = self.fours * (2 * self.pixels * self.columns + 4 * len(self.places))
        return products + 10 * self.pixels + 10


def emit(name: str, level: Level, tile: Tile, kind: str, layout: Layout, *, clamped: bool) -> Any:
    return _Depthwise(name, level, tile, kind, layout, clamped).finish()


class _Depthwise:
    """The kernel under construction."""

    def __init__(
        self, name: str, level: Level, tile: Tile, kind: str, layout: Layout, clamped: bool
    ) -> None:
        self.k = k = Kernel(name, RECORD)
        self.level, self.tile, self.kind, self.layout = level, tile, kind, layout
        self.parameter_bytes = stages.vector_bytes(layout, level.lanes)
        self.item = 4 if kind in stages.WIDE else 1
        self.offset = None if kind in stages.WITH_OFFSET else k.arg("offset").truncated(I32)
        self.ends = [k.arg(n).truncated(I8) for n in ("low", "high")] if clamped else []
        self.nothing = k.const(level.i8, 0)

    def finish(self) -> Any:
        k, tile, unit = self.k, self.tile, self.level.bytes
        begin, end = k.share(k.arg("tiles"))
        channels = k.arg("channels")
        taps = [k.load(k.arg("tap"), I64, 8 * i) for i in range(tile.taps)]
        with k.range(0, (channels + (unit - 1)) // unit) as number:
            first = number * unit
            w = k.arg("w") + number * (tile.columns * tile.fours * 4 * unit)
            parameters = k.arg("parameters") + number * (4 * self.parameter_bytes)
            count = (channels - first).minimum(unit) * self.item
            with k.range(begin, end) as index:
                x_offset, y_offset = (
                    k.load(k.arg(n), I32, index * 4).unsigned(I64) for n in ("x_offset", "y_offset")
                )
                x, y = k.arg("x") + first + x_offset, k.arg("y") + first * self.item + y_offset
                self.pixels([x + tap for tap in taps], w, parameters, y, count)
        return k.finish()

    def pixels(self, at: list[Value], w: Value, parameters: Value, y: Value, count: Value) -> None:
        """All pixels of a tile: each column once, and the end of each pixel as soon as it may be.

        Args:
            at: the taps of the first column.
            count: bytes of a pixel of y.
        """
        k, tile = self.k, self.tile
        sums: dict[
            int, list[Value]
        ] = {}  # four vectors for each pixel that has begun and not ended
        here = tile.places[0]
        for place in tile.places:
            ahead = k.arg("pixel") * (place - here)
            at, here = [a + ahead for a in at], place
            for four in range(tile.fours):
                mixed = self.column(at, four)
                for t, j in tile.at(place):
                    own = sums[t] if t in sums else self.init(parameters)
                    sums[t] = self.products(own, mixed, w, j * tile.fours + four)
            for t in tile.done_at(place):
                self.end(sums.pop(t), parameters, y + k.arg("channels") * (t * self.item), count)
            w, parameters, *at = self.in_order(sums, [w, parameters, *at])

    def in_order(self, sums: dict[int, list[Value]], addresses: list[Value]) -> list[Value]:
        """The addresses anew, so that one column's weights and parameters are not kept for the next."""
        if not self.level.register:
            return addresses
        tied, rest = addresses[:ORDERED_SCALARS], addresses[ORDERED_SCALARS:]
        flat = [v for own in sums.values() for v in own]
        values = self.k.in_order([*tied, *flat], self.level.register)
        for i, t in enumerate(sums):
            start = len(tied) + 4 * i
            sums[t] = values[start : start + 4]
        return [*values[: len(tied)], *rest]

    def init(self, parameters: Value) -> list[Value]:
        level = self.level
        return [self.k.load(parameters, level.i32, i * self.parameter_bytes) for i in range(4)]

    def column(self, at: list[Value], four: int) -> list[Value]:
        """The bytes of up to four taps, interleaved: four vectors."""
        k, level = self.k, self.level
        bytes = [k.load(a, level.i8) for a in at[4 * four : 4 * four + 4]]
        if level.shift:
            bytes = [b ^ -128 for b in bytes]
        return level.interleave4(k, *bytes, *[self.nothing] * (4 - len(bytes)))

    def products(self, sums: list[Value], mixed: list[Value], w: Value, number: int) -> list[Value]:
        k, level = self.k, self.level
        weights = [k.load(w, level.i8, (number * 4 + i) * level.bytes) for i in range(4)]
        return [level.dot4(k, *each) for each in zip(sums, mixed, weights, strict=True)]

    def end(self, sums: list[Value], parameters: Value, y: Value, count: Value) -> None:
        """The four vectors of one pixel to memory."""
        k, level = self.k, self.level
        codes = []
        for i, acc in enumerate(sums):
            address = parameters + i * self.parameter_bytes
            p = stages.load_parameters(k, level, self.layout, address)
            codes.append(stages.FORMULAS[self.kind](k, level, acc, p))
        if self.item == 1:
            bytes = stages.to_bytes(
                k, level, codes, *self.ends, offset=self.offset, interleaved=True
            )
            level.store_part(k, bytes, y, count)
            return
        plain = np.argsort(level.channel_order.reshape(-1))
        whole = k.shuffle(k.join(codes), None, plain.tolist())
        for i in range(4):
            part = whole.lanes(i * level.lanes, level.lanes).bits(level.i8)
            start = i * level.bytes
            level.store_first(k, part, y + start, (count - start).maximum(0).minimum(level.bytes))


def joined(level: Level, channels: int, width: int) -> int:
    """How many neighbouring pixels to take as one with so many times the channels, to fill whole vectors."""
    choices = [n for n in (1, 2, 4) if width % n == 0]
    return min(choices, key=lambda n: (math.ceil(channels * n / level.bytes) / n, n))


def lower(p: Any, op: Any) -> bool:
    x, w, y = p.type(op.inputs[0]), p.type(op.inputs[1]), p.type(op.outputs[0])
    found = constants(p, op)
    if x.is_float or found is None or (len(op.inputs) > 3 and op.inputs[3]):
        return False
    channels = x.shape[-1]
    if found[0].shape[-1] != channels:
        return False
    signed, bias = found[0].reshape(-1, channels), found[1]
    level: Level = p.level
    zero = p.zero_byte(op.inputs[0]) - level.shift
    stage = stages.stage_of(op, x, w, y, signed.T, zero, bias)
    if stage is None:
        return False
    kernel = tuple(map(int, w.shape[:-1]))
    if math.prod(kernel) > MOST_TAPS:
        return False
    source = p.read(op.inputs[0], op.padding)
    target = p.write(op.outputs[0], halo=True)
    join = 1
    if op.stride[-1] == 1 and stage.kind not in stages.WIDE:
        join = joined(level, channels, y.shape[-2])
    add_step(p, op, source, target, signed.reshape(*kernel, channels), stage, join)
    return True


@cache
def tile_shape(level: Level, kernel: tuple[int, ...], step: int, dilation: int, width: int) -> Tile:
    """The tile with the least work for lines of `width` output pixels."""
    kinds = [(kernel[-1], dilation, math.prod(kernel[:-1])), (1, 1, math.prod(kernel))]
    few = math.prod(kernel) <= MANY_TAPS
    tiles = [
        tile
        for pixels in range(1, (min(level.pixels, width) if few else 1) + 1)
        for tile in (Tile(pixels, step, *kind) for kind in kinds)
        if pixels == 1 or tile.open <= MOST_OPEN
    ]
    return min(tiles, key=lambda tile: math.ceil(width / tile.pixels) * tile.cost)


def add_step(
    p: Any, op: Any, source: Any, target: Any, weights: Any, stage: stages.Stage, join: int
) -> None:
    """weights: int8 (*kernel, channels). `join` pixels are taken as one with so many times the channels."""
    level: Level = p.level
    *kernel, channels = weights.shape
    y = p.type(op.outputs[0])
    width = y.shape[-2] // join
    tile = tile_shape(level, tuple(kernel), join * op.stride[-1], op.dilation[-1], width)
    stage, channels = stage.repeated(join), channels * join

    # weights by column: (columns, taps, channels)
    by_column = weights.reshape(tile.taps, tile.columns, -1).swapaxes(0, 1)
    taps = source.taps(kernel, op.dilation).reshape(tile.taps, tile.columns)[:, 0]
    units = math.ceil(channels / level.bytes)
    padded = np.zeros((tile.columns, tile.fours * 4, units * level.bytes), np.int8)
    padded[:, : tile.taps, :channels] = np.tile(by_column, join)
    order = np.arange(units * level.bytes).reshape(units, level.bytes)[:, level.channel_order]
    fours = padded.reshape(tile.columns * tile.fours, 4, -1)[:, :, order]
    packed = fours.transpose(2, 0, 3, 4, 1)  # unit, four, vector, lane, tap
    parameters = stage.pack(
        np.where(order < channels, order, -1).reshape(-1, level.lanes), level.lanes
    )

    # the last tile of a line lies over its end, and does some pixels again
    first = np.minimum(np.arange(0, width, tile.pixels), width - tile.pixels) * join
    x_offset = source.windows(y.shape, op.stride, op.padding).reshape(-1, y.shape[-2])[:, first]
    y_offset = target.pixels().reshape(-1, y.shape[-2])[:, first]
    layout, clamped = stage.layout, stage.clamped
    window = f"{tile.pixels} by {tile.step} of {tile.columns}x{tile.taps} by {tile.dilation}"
    p.step(
        op,
        f"depthwise {window} {stage.kind}{' clamped' * clamped}",
        lambda name: emit(name, level, tile, stage.kind, layout, clamped=clamped),
        RECORD,
        {
            "x": source,
            "x_offset": x_offset.reshape(-1).astype(np.uint32),
            "tap": taps,
            "pixel": source.pixel,
            "w": np.ascontiguousarray(packed),
            "parameters": parameters,
            "y": target,
            "y_offset": y_offset.reshape(-1).astype(np.uint32),
            "tiles": x_offset.size,
            "channels": channels,
            "offset": stage.offset,
            "low": stage.low,
            "high": stage.high,
        },
        reads=[source],
        writes=[target],
        macs=math.prod(y.shape) * math.prod(kernel),
    )
