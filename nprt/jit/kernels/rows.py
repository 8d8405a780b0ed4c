"""What elementwise kernels share: values walked row by row, in units of four vectors.

A row is a stretch of memory without gaps: of an image with a halo, one line of pixels; of dense values, any piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nprt.jit.emit import F32, I8, I16, I32, I64, Kernel, Value, vector
from nprt.jit.simd import Level

CHUNK = 1 << 11  # elements of a row of dense values
Body = Callable[[Kernel, list[list[Value]]], list[Value]]


def record(inputs: int, *scalars: str) -> np.dtype[Any]:
    """The arguments: base and row offsets of y and of each input, and more numbers."""
    names = ["y", "y_rows", "rows", "row", "total"]
    for i in range(inputs):
        names += [f"x{i}", f"x{i}_rows"]
    return np.dtype([(name, "i8") for name in (*names, *scalars)])


def emit(k: Kernel, level: Level, items: Sequence[str], out: str, body: Body) -> Any:
    """Load four vectors of each input, call `body`, store what it returns.

    Args:
        items: of each input, "byte" or "short" (widened to int32), "raw" (one vector of bytes), "float" or "int".
        out: "byte": body returns one vector of bytes; "float": four of float32 or int32.
    """
    unit, item = 4 * level.lanes, 1 if out == "byte" else 4
    begin, end = k.share(k.arg("rows"))
    with k.range(begin, end) as row:
        size = (k.arg("total") - row * k.arg("row")).minimum(k.arg("row"))

        def base(name: str) -> Value:
            return k.arg(name) + k.load(k.arg(f"{name}_rows"), I64, row * 8)

        y, xs = base("y"), [base(f"x{i}") for i in range(len(items))]

        def results(at: Value) -> list[Value]:
            loaded = []
            for x, kind in zip(xs, items, strict=True):
                if kind == "byte":
                    parts = [
                        k.load(x + at, vector(I8, level.lanes), j * level.lanes).unsigned(I32)
                        for j in range(4)
                    ]
                elif kind == "short":
                    parts = [
                        k.load(x + at * 2, vector(I16, level.lanes), j * 2 * level.lanes).signed(
                            I32
                        )
                        for j in range(4)
                    ]
                elif kind == "raw":
                    parts = [k.load(x + at, level.i8)]
                else:
                    type = level.f32 if kind == "float" else level.i32
                    parts = [k.load(x + at * 4, type, j * level.bytes) for j in range(4)]
                loaded.append(parts)
            return body(k, loaded)

        def store(vectors: list[Value], at: Value) -> None:
            for j, part in enumerate(vectors):
                k.store(part, y + at * item, j * level.bytes)

        def store_first(vectors: list[Value], at: Value) -> None:
            for j, part in enumerate(vectors):
                left = (size - at) * item - j * level.bytes
                count = left.maximum(0).minimum(level.bytes)
                level.store_first(k, part.bits(level.i8), y + at * item + j * level.bytes, count)

        whole = size // unit * unit
        with k.range(0, whole, unit) as at:
            store(results(at), at)
        with k.when(whole < size):
            store_first(results(whole), whole)
    return k.finish()


def arguments(y: Any, *xs: Any) -> dict[str, Any]:
    """The rows of buffers of one shape."""
    buffers = (y, *xs)
    total = math.prod(y.shape)
    if all(b.dense for b in buffers):
        row = min(CHUNK, max(total, 1))
        count = math.ceil(total / row)
        tables = [np.arange(count, dtype=np.int64) * row * b.item for b in buffers]
    else:
        row = math.prod(y.shape[-2:])
        tables = [
            b.offsets(
                [
                    np.arange(n) + before
                    for n, before in zip(
                        (*b.shape[:-2], 1), (0, *(before for before, _ in b.halo)), strict=True
                    )
                ]
            )
            for b in buffers
        ]
    args: dict[str, Any] = {"rows": len(tables[0]), "row": row, "total": total}
    for name, buffer, table in zip(
        ("y", *(f"x{i}" for i in range(len(xs)))), buffers, tables, strict=True
    ):
        args |= {name: buffer, f"{name}_rows": np.ascontiguousarray(table, np.int64)}
    return args


def float_bits(number: Any) -> int:
    """A float32 as an argument."""
    return int(np.float32(number).view(np.uint32))


def float_arg(k: Kernel, level: Level, name: str) -> Value:
    return k.arg(name).truncated(I32).bits(F32).splat(level.lanes)


def int_arg(k: Kernel, level: Level, name: str) -> Value:
    return k.arg(name).truncated(I32).splat(level.lanes)
