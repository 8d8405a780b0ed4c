"""matmul of two values. Same result as `ops.matmul` on codes whose zero points are known.

With bytes x and signed bytes w, `sum((x - a) * (w - b))` is `sum(x * w) - a * sum(w) - b * sum(x) + terms * a * b`:
all three sums are dot products of four terms at a time. Four rows of w are interleaved when they are loaded, so that w
needs no packing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt.ir import Array
from nprt.jit.emit import I8, I64, Kernel, Value
from nprt.jit.kernels import stage as stages
from nprt.jit.kernels.rows import int_arg
from nprt.jit.kernels.stage import Layout
from nprt.jit.simd import Level

NAMES = (
    *("x", "x_start", "w", "w_start", "y", "batch", "rows", "terms", "columns"),
    *("x_zero", "w_zero", "both_zero", "parameters", "offset", "low", "high"),
)
RECORD = np.dtype([(name, "i8") for name in NAMES])


def emit(name: str, level: Level, kind: str, layout: Layout, rest: int) -> Any:
    return _Matmul(name, level, kind, layout, rest).finish()


class _Matmul:
    """The kernel under construction.

    Args:
        rest: how many terms there are beyond a multiple of four.
    """

    def __init__(self, name: str, level: Level, kind: str, layout: Layout, rest: int) -> None:
        self.k, self.level = Kernel(name, RECORD), level
        self.kind, self.layout, self.rest = kind, layout, rest
        # Two rows' registers hold the sums of x and of w.
        self.height = max(1, level.tiles.get(4, 1) - 2)
        self.item = 4 if kind in stages.WIDE else 1

    def finish(self) -> Any:
        """Tiles of `height` rows by the columns of a vector of bytes, going down first."""
        k, unit = self.k, self.level.bytes
        tiles_down = (k.arg("rows") + (self.height - 1)) // self.height
        tiles_across = (k.arg("columns") + (unit - 1)) // unit
        begin, end = k.share(k.arg("batch") * tiles_across * tiles_down)
        with k.range(begin, end) as index:
            across = index // tiles_down
            batch, column = across // tiles_across, across % tiles_across * unit
            x, w = (k.arg(n) + k.load(k.arg(f"{n}_start"), I64, batch * 8) for n in ("x", "w"))
            last, first = k.arg("rows") - 1, index % tiles_down * self.height
            rows = [(first + r).minimum(last) for r in range(self.height)]
            sums = self.products([x + row * k.arg("terms") for row in rows], w + column)
            y = k.arg("y") + batch * k.arg("rows") * k.arg("columns") * self.item
            for row, own in zip(rows, self.centered(*sums), strict=True):
                self.end(own, y + row * k.arg("columns") * self.item, column)
        return k.finish()

    def products(
        self, xs: list[Value], w: Value
    ) -> tuple[list[list[Value]], list[Value], list[Value]]:
        """For each row four vectors of sums, in the order of `interleave4`; the sums of w; and those of each row."""
        k, level, height = self.k, self.level, self.height
        columns, nothing = k.arg("columns"), k.const(level.i8, 0)
        whole = k.arg("terms") - self.rest

        def step(at: Value, sums: list[Value], count: int = 4) -> list[Value]:
            here = w + at * columns
            rows = [k.load(here + columns * i, level.i8) ^ -128 for i in range(count)]
            mixed = level.interleave4(k, *rows, *[nothing] * (4 - count))
            ones = k.const(level.i8, [*[1] * count, *[0] * (4 - count)] * level.lanes)
            found: list[Value] = []
            for r, x in enumerate(xs):
                four = level.broadcast4(k, x + at)
                found += [level.dot4(k, sums[4 * r + j], four, mixed[j]) for j in range(4)]
            found += [level.dot4(k, sums[4 * height + j], ones, mixed[j]) for j in range(4)]
            for r, x in enumerate(xs):
                own = sums[4 * height + 4 + r]
                found.append(level.dot4(k, own, level.broadcast4(k, x + at), ones))
            return found

        sums = k.loop(0, whole, 4, [k.const(level.i32, 0)] * (5 * height + 4), step)
        if self.rest:
            sums = step(whole, sums, self.rest)
        by_row = [sums[4 * r : 4 * r + 4] for r in range(height)]
        return by_row, sums[4 * height : 4 * height + 4], sums[4 * height + 4 :]

    def centered(
        self, by_row: list[list[Value]], of_w: list[Value], of_x: list[Value]
    ) -> list[list[Value]]:
        """Sums of products of differences from the zero points."""
        zeros = ("x_zero", "w_zero", "both_zero")
        x_zero, w_zero, both = (int_arg(self.k, self.level, name) for name in zeros)
        about = [both - x_zero * total for total in of_w]
        return [
            [acc + own - w_zero * total for acc, own in zip(row, about, strict=True)]
            for row, total in zip(by_row, of_x, strict=True)
        ]

    def end(self, sums: list[Value], y: Value, column: Value) -> None:
        """Four vectors of sums, in the order of `interleave4`, to a row of y."""
        k, level = self.k, self.level
        p = stages.load_parameters(k, level, self.layout, k.arg("parameters"))
        codes = [stages.FORMULAS[self.kind](k, level, s, p) for s in sums]
        if self.kind not in stages.WITH_OFFSET and self.item == 1:
            codes = [code + int_arg(k, level, "offset") for code in codes]
        left = (k.arg("columns") - column).minimum(level.bytes) * self.item
        y = y + column * self.item
        if self.item == 1:
            low, high = (k.arg(n).truncated(I8) for n in ("low", "high"))
            parts = [stages.to_bytes(k, level, codes, low, high, interleaved=True)]
        else:
            order = np.argsort(level.channel_order.reshape(-1)).tolist()
            plain = k.shuffle(k.join(codes), None, order)
            parts = [plain.lanes(j * level.lanes, level.lanes).bits(level.i8) for j in range(4)]
        with k.when_else(left < level.bytes * self.item) as (some, all):
            with some:
                for j, part in enumerate(parts):
                    count = (left - j * level.bytes).maximum(0).minimum(level.bytes)
                    level.store_first(k, part, y + j * level.bytes, count)
            with all:
                for j, part in enumerate(parts):
                    k.store(part, y, j * level.bytes)


def lower(p: Any, op: Any) -> bool:
    x, w, y = p.type(op.inputs[0]), p.type(op.inputs[1]), p.type(op.outputs[0])
    if x.is_float or any(op.inputs[2:]):
        return False
    # Sums come as differences; how large these may be decides about the stage.
    largest = np.full((1, x.shape[-1]), 255, np.int16)
    stage = stages.stage_of(op, x, w, y, largest, 0, None)
    if stage is None:
        return False
    level: Level = p.level
    left, right = p.read(op.inputs[0]), p.read(op.inputs[1])
    out = p.write(op.outputs[0])
    (rows, terms), columns = x.shape[-2:], y.shape[-1]
    x_zero = p.zero_byte(op.inputs[0]) - level.shift
    w_zero = p.zero_byte(op.inputs[1]) - 128
    x_start, w_start = (_starts(b, y.shape[:-2]) for b in (left, right))
    layout, kind, rest = stage.layout, stage.kind, terms % 4
    p.step(
        op,
        f"matmul {kind} {rest}",
        lambda name: emit(name, level, kind, layout, rest),
        RECORD,
        {
            "x": left,
            "x_start": x_start,
            "w": right,
            "w_start": w_start,
            "y": out,
            "batch": len(x_start),
            "rows": rows,
            "terms": terms,
            "columns": columns,
            "x_zero": x_zero,
            "w_zero": w_zero,
            "both_zero": terms * x_zero * w_zero,
            "parameters": stage.pack(np.zeros((1, level.lanes), np.int64), level.lanes),
            "offset": stage.offset,
            "low": stage.low,
            "high": stage.high,
        },
        reads=[left, right],
        writes=[out],
        macs=math.prod(y.shape) * terms,
    )
    return True


def _starts(buffer: Any, batch: tuple[int, ...]) -> Array:
    """Bytes to each matrix of a dense buffer that broadcasts to `batch`."""
    own = buffer.shape[:-2]
    size = math.prod(buffer.shape[-2:])
    numbers = np.arange(math.prod(own), dtype=np.int64).reshape(own)
    return np.ascontiguousarray(np.broadcast_to(numbers, batch)).reshape(-1) * size
