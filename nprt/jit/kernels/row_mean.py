"""reduce_mean where the last axis goes. Same result as `ops.reduce_mean` on codes: one code for each row of sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt.jit.emit import I8, I32, I64, Kernel, Value, vector
from nprt.jit.kernels import average_stage
from nprt.jit.kernels.average_stage import FIELDS, FORMULAS, SCALARS, Sums, Terms, positions
from nprt.jit.kernels.stage import to_bytes
from nprt.jit.simd import Level

NAMES = ("x", "first", "rows", "tap", "taps", "run", "y", "numbers", *SCALARS)
RECORD = np.dtype([(name, "i8") for name in NAMES])


def emit(name: str, level: Level, kind: str) -> Any:
    """A row is `taps` runs of adjacent bytes; its sum is in all lanes when the formula comes."""
    k = Kernel(name, RECORD)
    begin, end = k.share(k.arg("rows"))
    low, high = k.arg("low").truncated(I8), k.arg("high").truncated(I8)
    whole = k.arg("run") // level.lanes * level.lanes
    slot = k.scratch(level.i32)
    with k.range(begin, end) as row:
        x = k.arg("x") + k.load(k.arg("first"), I64, row * 8)

        def tap(j: Value, sums: list[Value], x: Value = x) -> list[Value]:
            here = x + k.load(k.arg("tap"), I64, j * 8)
            return _run(k, level, here, whole, sums)

        lanes, rest = k.loop(0, k.arg("taps"), 1, [k.const(level.i32, 0), k.const(I32, 0)], tap)
        k.store(lanes, slot)
        total = k.loop(0, 4 * level.lanes, 4, [rest], lambda i, t: [t[0] + k.load(slot, I32, i)])
        terms = Terms(k, level, k.arg("numbers"), k.i64(0))
        code = FORMULAS[kind](terms, total[0].splat(level.lanes) + terms.i("start"))
        k.store(to_bytes(k, level, [code], low, high).lanes(0, 1), k.arg("y") + row)
    return k.finish()


def _run(k: Kernel, level: Level, x: Value, whole: Value, sums: list[Value]) -> list[Value]:
    """Add a run to the sums of lanes, and its end to a sum by itself."""

    def add(at: Value, total: list[Value]) -> list[Value]:
        return [total[0] + k.load(x + at, vector(I8, level.lanes)).unsigned(I32)]

    def add_one(at: Value, total: list[Value]) -> list[Value]:
        return [total[0] + k.load(x + at, I8).unsigned(I32)]

    (lanes,) = k.loop(0, whole, level.lanes, sums[:1], add)
    (rest,) = k.loop(whole, k.arg("run"), 1, sums[1:], add_one)
    return [lanes, rest]


def lower(p: Any, op: Any) -> bool:
    x, y = p.type(op.inputs[0]), p.type(op.outputs[0])
    if not x.is_codes or len(x.shape) - 1 not in op.axes:
        return False
    kept = [axis for axis in range(len(x.shape)) if axis not in op.axes]
    last = max(kept, default=-1)  # the axes behind it make a run
    source, target = p.read(op.inputs[0]), p.write(op.outputs[0])
    first = positions(source, kept)
    taps = positions(source, [axis for axis in op.axes if axis < last])
    count = math.prod(x.shape[axis] for axis in op.axes)
    sums = Sums(np.array([[count]]), np.array([count]))
    stage = average_stage.of_mean(op.numerics, x, y, sums)
    if stage is None:
        return False
    numbers = np.zeros(len(FIELDS), np.int64)
    for name, number in stage.fields.items():
        numbers[FIELDS.index(name)] = number[0]
    level = p.level
    p.step(
        op,
        f"row_mean {stage.kind}",
        lambda name: emit(name, level, stage.kind),
        RECORD,
        {
            "x": source,
            "first": first,
            "rows": len(first),
            "tap": taps,
            "taps": len(taps),
            "run": math.prod(x.shape[last + 1 :]),
            "y": target,
            "numbers": numbers,
            **stage.scalars,
            **average_stage.ends(op, y),
        },
        reads=[source],
        writes=[target],
    )
    return True
