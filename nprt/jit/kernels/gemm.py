"""Matrix products: linear and conv. Same result as `ops.linear` and `ops.conv` on codes, with codes or int32 out.

The matrix x is not built. Each of its rows is a set of *runs* of bytes in memory: row r has its run j at `x_offset[r]
+ run_offset[j]`, the same length for all. For linear and a 1x1 convolution that is one run, the channels; for a
convolution over kh x kw there are kh runs of kw * channels bytes, for neighbouring pixels are neighbours in memory.
So the input carries its padding with it, and a first layer with one or three channels needs no layout of its own.
Runs are read in steps of 4 bytes; what is read too much meets weights of 0.

w is packed [panel][step][vector][lane][4]. A tile of R rows by P vectors of channels keeps its sums in registers
through the whole product, from `init` (bias, and what takes off the zero point of x) to the finished bytes.
Threads share out the tiles; those of one panel lie together, so that its weights stay in the cache.

The end of a tile, from sums to bytes, leaves the units for products idle, and products leave the others idle. So, where
the registers hold two small tiles, one ends between the first steps of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nprt.jit.emit import I8, I32, I64, Kernel, Value, vector
from nprt.jit.kernels import binary
from nprt.jit.kernels import stage as stages
from nprt.jit.kernels.stage import Layout
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


class Sum(NamedTuple):
    """An add of the product's codes and another value, in the same kernel.

    Attributes:
        numerics, kinds: see `binary`.
        first: whether the product is the first operand.
    """

    numerics: str
    kinds: str
    first: bool


class Tile(NamedTuple):
    """What the kernel does at a time.

    Attributes:
        rows: of x.
        vectors: of channels.
        ahead: in how many of its first steps the tile before it ends; 0 where each tile ends by itself.
    """

    rows: int
    vectors: int
    ahead: int = 0

    def __str__(self) -> str:
        return f"{self.rows}x{self.vectors}{f' ahead {self.ahead}' if self.ahead else ''}"

    def places(self) -> list[tuple[int, int]]:
        """Row and vector of each sum, vector by vector: the parameters of one serve all rows."""
        return [(r, v) for v in range(self.vectors) for r in range(self.rows)]


class Panel(NamedTuple):
    """Addresses that the tiles of one panel of channels share, and how many bytes of y it has."""

    x: Value
    w: Value
    parameters: Value
    y_ahead: Value
    bytes: Value


def emit(
    name: str,
    level: Level,
    tile: Tile,
    kind: str,
    layout: Layout,
    then: Sum | None = None,
    *,
    clamped: bool = True,
) -> Any:
    """The kernel for a tile, an end (see `stage`), and what follows."""
    return _Gemm(name, level, tile, kind, layout, then, clamped).finish()


class _Gemm:
    """The kernel under construction."""

    def __init__(
        self,
        name: str,
        level: Level,
        tile: Tile,
        kind: str,
        layout: Layout,
        then: Sum | None,
        clamped: bool,
    ) -> None:
        self.k = k = Kernel(name, RECORD)
        self.level, self.tile, self.kind, self.layout, self.then = level, tile, kind, layout, then
        self.item = 4 if kind in stages.WIDE else 1
        self.parameter_bytes = stages.vector_bytes(layout, level.lanes)
        self.offset, self.code_low, self.code_high = (
            k.arg(n).truncated(I32) for n in ("code_offset", "code_low", "code_high")
        )
        ends = ("low", "high") if then else ("code_low", "code_high")
        self.ends = tuple(k.arg(n).truncated(I8) for n in ends) if clamped else ()

    def finish(self) -> Any:
        k, tiles = self.k, self.k.arg("tiles")
        begin, end = k.share(k.arg("panels") * tiles)
        at = [begin // tiles, begin % tiles]

        def following(panel: Value, tile: Value) -> list[Value]:
            last = (tile + 1).equals(tiles)
            return [k.select(last, panel + 1, panel), k.select(last, 0, tile + 1)]

        def alone(_: Value, at: list[Value]) -> list[Value]:
            number, panel = self.place(at)
            _End(self, self.products(number, panel), number, panel).all()
            return following(*at)

        def overlapping(_: Value, carried: list[Value]) -> list[Value]:
            """Each tile ends during the next. The first has none before it: what it ends goes to its own place."""
            before = _End(self, carried[4:], *self.place(carried[2:4]))
            sums = self.products(*self.place(carried[:2]), before)
            before.store()
            return [*following(*carried[:2]), *carried[:2], *sums]

        if not self.tile.ahead:
            k.loop(begin, end, 1, at, alone)
            return k.finish()
        nothing = [k.const(self.level.i32, 0)] * (self.tile.rows * self.tile.vectors)
        _, _, *last = k.loop(begin, end, 1, [*at, *at, *nothing], overlapping)
        with k.when(begin.less_signed(end)):
            _End(self, last[2:], *self.place(last[:2])).all()
        return k.finish()

    def place(self, at: list[Value]) -> tuple[Value, Panel]:
        """The number of a tile in its panel, and the panel, from the numbers of both."""
        k, (index, number) = self.k, at
        about = k.arg("panel") + index * PANEL.itemsize
        return number, Panel(
            x=k.arg("x") + k.load(about, I64, 0),
            w=k.arg("w") + index * k.arg("panel_bytes"),
            parameters=k.arg("parameters") + index * (self.tile.vectors * self.parameter_bytes),
            y_ahead=k.load(about, I64, 8),
            bytes=k.load(about, I64, 16),
        )

    # --- a tile

    def addresses(self, table: str, base: Value, number: Value) -> list[Value]:
        """Of each row of a tile."""
        at = self.k.arg(table) + number * (4 * self.tile.rows)
        return [base + self.k.load(at, I32, 4 * r).unsigned(I64) for r in range(self.tile.rows)]

    def products(self, number: Value, panel: Panel, before: _End | None = None) -> list[Value]:
        """The sums of a tile. `before` ends between its first steps."""
        k, level = self.k, self.level
        init = [
            k.load(panel.parameters, level.i32, v * self.parameter_bytes)
            for v in range(self.tile.vectors)
        ]
        if self.then:  # the other operand comes from afar; it arrives during the product
            for other in self.addresses("other_offset", k.arg("other") + panel.y_ahead, number):
                k.prefetch(other)
        xs = self.addresses("x_offset", panel.x, number)

        def run_at(index: Any) -> list[Value]:
            """Where a run of each row begins."""
            at = k.load(k.arg("run_offset"), I64, index * 8)
            return [x + at for x in xs]

        def steps(start: int, run: list[Value], carried: list[Value]) -> list[Value]:
            end = k.arg("run_bytes")
            return k.loop(start, end, 4, carried, lambda i, c: self.step(run, i, c))

        carried = [panel.w, *init * self.tile.rows]
        if before is not None:
            first = run_at(0)
            for n in range(self.tile.ahead):
                carried = before.part(n, self.step(first, 4 * n, carried))
            carried = steps(4 * self.tile.ahead, first, carried)
        done = 1 if before is not None else 0
        carried = k.loop(done, k.arg("runs"), 1, carried, lambda j, c: steps(0, run_at(j), c))
        return carried[1:]

    def step(self, run: list[Value], i: Any, carried: list[Value]) -> list[Value]:
        """Four bytes of each row, times the weights. `carried`: their address, and the sums row by row."""
        k, level, vectors = self.k, self.level, self.tile.vectors
        w, *sums = carried
        weights = [k.load(w, level.i8, v * level.bytes) for v in range(vectors)]
        for r, row in enumerate(run):
            four = level.broadcast4(k, row, i)
            for v in range(vectors):
                sums[r * vectors + v] = level.dot4(k, sums[r * vectors + v], four, weights[v])
        return [w + vectors * level.bytes, *sums]


class _End:
    """The end of a tile, from sums to bytes in memory."""

    def __init__(self, gemm: _Gemm, sums: list[Value], number: Value, panel: Panel) -> None:
        self.gemm, self.k, self.level, self.tile = gemm, gemm.k, gemm.level, gemm.tile
        self.codes, self.number, self.panel = list(sums), number, panel
        self.parameters = panel.parameters
        self.out: list[list[Value]] = []  # of each row the pieces to store
        self.others: list[Value] = []
        self.parts: list[Callable[[], None]] = []
        if gemm.then:
            self.parts.append(self.find_others)
        self.parts += [partial(self.code, r, v) for r, v in self.tile.places()]
        self.rows_at_once = 1 if gemm.item == 4 else max(1, 4 // self.tile.vectors)
        self.parts += [partial(self.pack, r) for r in range(0, self.tile.rows, self.rows_at_once)]

    def all(self) -> None:
        for part in self.parts:
            part()
        self.store()

    def part(self, n: int, carried: list[Value]) -> list[Value]:
        """The n-th part of `tile.ahead`, behind what made `carried` and before what uses it."""
        count, before = len(self.parts), list(self.codes)
        for act in self.parts[count * n // self.tile.ahead : count * (n + 1) // self.tile.ahead]:
            act()
        changed = [i for i, code in enumerate(self.codes) if code is not before[i]]
        values = [*carried, self.parameters, *(self.codes[i] for i in changed)]
        values = self.k.in_order(values, self.level.register)
        self.parameters = values[len(carried)]
        for i, code in zip(changed, values[len(carried) + 1 :], strict=True):
            self.codes[i] = code
        return values[: len(carried)]

    def find_others(self) -> None:
        base = self.k.arg("other") + self.panel.y_ahead
        self.others = self.gemm.addresses("other_offset", base, self.number)

    def code(self, r: int, v: int) -> None:
        """A vector of sums to codes."""
        k, level, gemm = self.k, self.level, self.gemm
        at = r * self.tile.vectors + v
        address = self.parameters + v * gemm.parameter_bytes
        p = stages.load_parameters(k, level, gemm.layout, address)
        code = stages.FORMULAS[gemm.kind](k, level, self.codes[at], p)
        if gemm.then:
            offset, low, high = (
                bound.splat(level.lanes) for bound in (gemm.offset, gemm.code_low, gemm.code_high)
            )
            own = code if gemm.kind in stages.WITH_OFFSET else code + offset
            own = own.maximum(low).minimum(high)
            other = k.load(self.others[r], vector(I8, level.lanes), v * level.lanes).unsigned(I32)
            a, b = (own, other) if gemm.then.first else (other, own)
            code = binary.apply(k, level, "add", gemm.then.numerics, gemm.then.kinds, a, b)
        self.codes[at] = code

    def pack(self, r: int) -> None:
        """Rows of codes to bytes, from row r, as many as one vector of bytes holds."""
        level, gemm, vectors = self.level, self.gemm, self.tile.vectors
        rows = range(r, min(r + self.rows_at_once, self.tile.rows))
        codes = self.codes[r * vectors : (rows[-1] + 1) * vectors]
        if gemm.item == 4:
            self.out.append([v.bits(level.i8) for v in codes])
            return
        if len(codes) % 4:  # the last one again, for nothing
            codes += [codes[-1]] * (-len(codes) % 4)
        packed = [self.bytes_of(codes[i : i + 4]) for i in range(0, len(codes), 4)]
        if vectors >= 4:
            self.out.append(packed)
        for i in rows if vectors < 4 else ():
            start = (i - r) * vectors * level.lanes
            parts = (2, 1) if vectors == 3 else (vectors,)
            pieces = []
            for part in parts:
                pieces.append(packed[0].lanes(start, part * level.lanes))
                start += part * level.lanes
            self.out.append(pieces)

    def bytes_of(self, codes: list[Value]) -> Value:
        gemm = self.gemm
        has_offset = gemm.then is not None or gemm.kind in stages.WITH_OFFSET
        offset = None if has_offset else gemm.offset
        return stages.to_bytes(self.k, self.level, codes, *gemm.ends, offset=offset)

    def store(self) -> None:
        k, count = self.k, self.panel.bytes
        ys = self.gemm.addresses("y_offset", k.arg("y") + self.panel.y_ahead, self.number)
        whole_width = self.tile.vectors * self.level.lanes * self.gemm.item

        def pieces() -> Iterator[tuple[Value, Value, int]]:
            for y, row in zip(ys, self.out, strict=True):
                at = 0
                for piece in row:
                    yield piece, y, at
                    at += piece.type.count

        with k.when_else(count.equals(whole_width)) as (whole, part):
            with whole:
                for piece, y, at in pieces():
                    k.store(piece, y, at)
            with part:
                for piece, y, at in pieces():
                    left = (count - at).maximum(0).minimum(piece.type.count)
                    self.level.store_first(k, piece, y + at, left)
