"""Matrix products: linear and conv. Same result as `ops.linear` and `ops.conv` on codes, with codes or int32 out.

Needs: a constant w whose zero points are 0.

The matrix x is not built. Each of its rows is a set of *runs* of bytes in memory: row r has its run j at `x_offset[r]
+ run_offset[j]`, the same length for all. For linear and a 1x1 convolution that is one run, the channels; for a
convolution over kh x kw there are kh runs of kw * channels bytes, for neighbouring pixels are neighbours in memory.
So the input carries its padding with it, and a first layer with one or three channels needs no layout of its own.
Runs are read in steps of 4 bytes; what is read too much meets weights of 0.

w is packed [panel][step][vector][lane][4]. A tile of R rows by P vectors of channels keeps its sums in registers
through the whole product, from `init` (bias, and what takes off the zero point of x) to the finished bytes.
Threads share out the tiles; those of one panel lie together, so that its weights stay in the cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt.jit.emit import I8, I32, I64, Kernel, Value, vector
from nprt.jit.kernels import binary
from nprt.jit.kernels import stage as stages
from nprt.jit.simd import Level

RECORD = np.dtype(
    [
        (name, "i8")
        for name in (
            *("x", "x_offset", "runs", "run_offset", "run_bytes"),
            *("w", "panels", "panel_bytes", "panel", "parameters"),
            *("y", "y_offset", "tiles", "code_offset", "code_low", "code_high"),
            *("other", "other_offset", *binary.SCALARS),  # of an add that follows
        )
    ]
)
# Of each panel: where its channels begin in a pixel of x and of y (bytes), and how many bytes of y it has.
PANEL = np.dtype([("x", "i8"), ("y", "i8"), ("count", "i8")])


@dataclass(frozen=True)
class Sum:
    """An add of the product's codes and another value, in the same kernel.

    Attributes:
        numerics, kinds: see `binary`.
        first: whether the product is the first operand.
    """

    numerics: str
    kinds: str
    first: bool


def emit(
    name: str,
    level: Level,
    rows: int,
    vectors: int,
    kind: str,
    layout: tuple[tuple[str, str], ...],
    then: Sum | None = None,
) -> Any:
    """The kernel for tiles of `rows` rows by `vectors` vectors."""
    k = Kernel(name, RECORD)
    each_row, each_vector = range(rows), range(vectors)
    item = 4 if kind in stages.WIDE else 1
    width = vectors * level.lanes * item
    size = stages.vector_bytes(layout, level.lanes)
    tiles, runs, run_bytes = k.arg("tiles"), k.arg("runs"), k.arg("run_bytes")
    begin, end = k.share(k.arg("panels") * tiles)
    zero, code_low, code_high = (
        k.arg(n).truncated(I32).splat(level.lanes) for n in ("code_offset", "code_low", "code_high")
    )
    ends = ("low", "high") if then else ("code_low", "code_high")
    low, high = (k.arg(n).truncated(I8) for n in ends)

    def addresses(table: str, base: Value, tile: Value) -> list[Value]:
        at = k.arg(table) + tile * (4 * rows)
        return [base + k.load(at, I32, 4 * r).unsigned(I64) for r in each_row]

    def add(codes: list[Value], tile: Value, y_ahead: Value) -> None:
        """Replace codes of the product by those of its sum with the other value."""
        assert then is not None
        others = addresses("other_offset", k.arg("other") + y_ahead, tile)
        for r in each_row:
            for v in each_vector:
                at = r * vectors + v
                own = codes[at].maximum(code_low).minimum(code_high)
                byte = k.load(others[r], vector(I8, level.lanes), v * level.lanes).unsigned(I32)
                a, b = (own, byte) if then.first else (byte, own)
                codes[at] = binary.apply(k, level, "add", then.numerics, then.kinds, a, b)

    def tile_of(tile: Value, panel: Value, x_base: Value, y_ahead: Value, count: Value) -> None:
        parameters = k.arg("parameters") + panel * (vectors * size)
        sums = [k.load(parameters, level.i32, v * size) for _ in each_row for v in each_vector]
        if then:  # the other operand comes from afar; it arrives during the product
            for other in addresses("other_offset", k.arg("other") + y_ahead, tile):
                k.prefetch(other)
        xs = addresses("x_offset", x_base, tile)

        def run(j: Value, carried: list[Value]) -> list[Value]:
            ahead = k.load(k.arg("run_offset"), I64, j * 8)
            starts = [x + ahead for x in xs]

            def step(i: Value, carried: list[Value]) -> list[Value]:
                w, *acc = carried
                weights = [k.load(w, level.i8, v * level.bytes) for v in each_vector]
                for r in each_row:
                    four = level.broadcast4(k, starts[r], i)
                    for v in each_vector:
                        at = r * vectors + v
                        acc[at] = level.dot4(k, acc[at], four, weights[v])
                return [w + vectors * level.bytes, *acc]

            return k.loop(0, run_bytes, 4, carried, step)

        w = k.arg("w") + panel * k.arg("panel_bytes")
        _, *sums = k.loop(0, runs, 1, [w, *sums], run)
        codes = list(sums)
        for v in each_vector:
            p = stages.load_parameters(k, level, layout, parameters + v * size)
            for r in each_row:
                at = r * vectors + v
                codes[at] = stages.FORMULAS[kind](k, level, sums[at], p)
                if item == 1 and kind not in stages.WITH_OFFSET:
                    codes[at] = codes[at] + zero
        if then:
            add(codes, tile, y_ahead)
        ys = addresses("y_offset", k.arg("y") + y_ahead, tile)
        out = []
        for r in each_row:
            row = codes[r * vectors : (r + 1) * vectors]
            if item == 4:
                out.append([v.bits(level.i8) for v in row])
            elif vectors == 3:  # packed as four, the last one for nothing
                four = stages.to_bytes(k, level, [*row, row[2]], low, high)
                out.append(
                    [four.lanes(0, 2 * level.lanes), four.lanes(2 * level.lanes, level.lanes)]
                )
            else:
                parts = [row[i : i + 4] for i in range(0, vectors, 4)]
                out.append([stages.to_bytes(k, level, part, low, high) for part in parts])
        with k.when_else(count.equals(width)) as (whole, part):
            with whole:
                for y, pieces in zip(ys, out, strict=True):
                    at = 0
                    for piece in pieces:
                        k.store(piece, y, at)
                        at += piece.type.count
            with part:
                for y, pieces in zip(ys, out, strict=True):
                    at = 0
                    for piece in pieces:
                        left = (count - at).maximum(0).minimum(piece.type.count)
                        level.store_first(k, piece, y + at, left)
                        at += piece.type.count

    first, last = begin // tiles, (end + tiles - 1) // tiles
    with k.range(first, last) as panel:
        start = (begin - panel * tiles).maximum(0)
        stop = (end - panel * tiles).minimum(tiles)
        about = k.arg("panel") + panel * PANEL.itemsize
        x_base = k.arg("x") + k.load(about, I64, 0)
        y_ahead = k.load(about, I64, 8)
        count = k.load(about, I64, 16)
        with k.range(start, stop) as tile:
            tile_of(tile, panel, x_base, y_ahead, count)
    return k.finish()


def lower(p: Any, op: Any) -> bool:
    """Add the steps of a conv or linear to a plan; False if this kernel does not do it."""
    x, w = p.type(op.inputs[0]), p.type(op.inputs[1])
    y = p.type(op.outputs[0])
    weights, bias = p.constant(op.inputs[1]), None
    if len(op.inputs) > 3 and op.inputs[3]:
        return False  # a zero point known only at run time
    if x.is_float or weights is None:
        return False
    if len(op.inputs) > 2 and op.inputs[2]:
        bias = p.constant(op.inputs[2])
        if bias is None:
            return False
    zero_points = w.quant.zero_points if w.quant else np.int32(0)
    shift = 128 if w.dtype == "uint8" else 0
    if np.any(zero_points != shift):
        return False
    signed = (weights ^ 0x80).view(np.int8) if shift else weights
    if op.name == "linear":
        signed = signed[:, np.newaxis, :]  # a convolution of one pixel
        geometry = Geometry.pixels(p.read(op.inputs[0]), 1, math.prod(x.shape[:-1]))
    else:
        geometry = Geometry.windows(p, op, x, y)
    x_zero = byte_zero_point(x) - p.level.shift
    start = -x_zero * signed.sum(axis=tuple(range(1, signed.ndim)), dtype=np.int64)
    stage = stages.stage_of(op, x, w, y, start, bias)
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


def byte_zero_point(type: Any) -> int:
    """The zero point of 8-bit values as bytes: of int8, 128 more."""
    zero_point = int(type.quant.zero_points) if type.quant else 0
    return zero_point + (128 if type.dtype == "int8" else 0)


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


def tile_shape(level: Level, rows: int, vectors: int) -> tuple[int, int]:
    """The tile with the least work for a matrix of `rows` rows and `vectors` vectors of channels.

    A step of a tile takes the greater of its dot products and its loads, two of which start in each cycle, and at least
    the latency of one dot product.
    """
    best = (math.inf, 1, 1)
    for wide, most in level.tiles.items():
        for high in range(1, min(most, max(rows, 1)) + 1):
            cycles = max(high * wide / level.dots_per_cycle, (high + wide) / 2, 4.5) + 0.5
            work = math.ceil(rows / high) * math.ceil(vectors / wide) * cycles
            best = min(best, (work, -high, wide))
    return -best[1], best[2]


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
    rows, vectors = tile_shape(level, geometry.rows, math.ceil(channels / lanes))
    matrix = weights.reshape(len(weights), len(geometry.runs), -1)
    run_bytes = math.ceil(matrix.shape[2] / 4) * 4
    steps = len(geometry.runs) * run_bytes // 4
    in_panel = vectors * lanes
    panels = math.ceil(channels / in_panel)  # of each group
    padded = np.zeros((groups, panels * in_panel, len(geometry.runs), run_bytes), np.int8)
    padded[:, :channels, :, : matrix.shape[2]] = matrix.reshape(groups, channels, *matrix.shape[1:])
    packed = padded.reshape(groups * panels, vectors, lanes, steps, 4).transpose(0, 3, 1, 2, 4)
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
    key = f"gemm {rows}x{vectors} {stage.kind}"
    then, reads = None, [geometry.x]
    more: dict[str, Any] = {}
    if addition is not None:
        then, other, more = addition
        reads.append(other)
        pixels = other.pixels() if op.name == "conv" else np.arange(geometry.rows) * other.pixel
        more = {**more, "other": other, "other_offset": repeated(pixels, rows)}
        key += f" add {then.numerics} {then.kinds}{' first' * then.first}"
    layout = stage.layout
    macs = geometry.rows * weights.size
    p.step(
        op,
        key,
        lambda name: emit(name, level, rows, vectors, stage.kind, layout, then),
        RECORD,
        {
            "x": geometry.x,
            "x_offset": repeated(geometry.x_offset, rows),
            "runs": len(geometry.runs),
            "run_offset": np.ascontiguousarray(geometry.runs, np.int64),
            "run_bytes": run_bytes,
            "w": np.ascontiguousarray(packed),
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
