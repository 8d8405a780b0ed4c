"""Moving bytes: padding, transposes, slices, joins. Same result as the assignment of one strided view to another.

Up to five outer axes are walked with strides in bytes; the innermost part is a *run* of adjacent bytes, or, where the
elements are not adjacent, a row of elements of 1, 2, 4 or 8 bytes, or one element again and again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from nprt.jit.emit import I8, I16, I32, I64, Kernel, Value
from nprt.jit.simd import Level

AXES = 5
RECORD = np.dtype(
    [
        (name, "i8")
        for name in (
            *("from", "to", "count"),
            *(f"{what}{axis}" for axis in range(AXES) for what in ("size", "from_step", "to_step")),
            *("run", "from_item", "to_item"),
        )
    ]
)
ITEMS = {1: I8, 2: I16, 4: I32, 8: I64}


def emit(name: str, level: Level, item: int, axes: int, *, repeat: bool = False) -> Any:
    """`item` 0 copies runs of bytes; else rows of elements of so many bytes, or the first one over and over."""
    k = Kernel(name, RECORD)
    begin, end = k.share(k.arg("count"))
    run = k.arg("run")
    sizes = [k.arg(f"size{axis}") for axis in range(axes)]
    steps = [(k.arg(f"from_step{axis}"), k.arg(f"to_step{axis}")) for axis in range(axes)]
    with k.range(begin, end) as index:
        source, target = k.arg("from"), k.arg("to")
        rest: Value = index
        for axis in reversed(range(axes)):
            at = rest % sizes[axis] if axis else rest
            rest = rest // sizes[axis] if axis else rest
            source, target = source + at * steps[axis][0], target + at * steps[axis][1]
        if repeat:
            element = k.load(source, ITEMS[item]).splat(level.bytes // item).bits(level.i8)
            level.store_run(k, target, run * item, lambda _: element)
        elif item:
            from_item, to_item = k.arg("from_item"), k.arg("to_item")
            with k.range(0, run) as i:
                k.store(k.load(source + i * from_item, ITEMS[item]), target + i * to_item)
        else:
            level.store_run(k, target, run, partial(k.load, source, level.i8))
    return k.finish()


def merge(
    shape: tuple[int, ...], source: tuple[int, ...], target: tuple[int, ...]
) -> list[tuple[int, int, int]]:
    """(size, step, step) of the axes, without those of size 1, neighbours joined where both steps allow it."""
    axes: list[tuple[int, int, int]] = []
    for size, a, b in zip(shape, source, target, strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1] == a * size and axes[-1][2] == b * size:
            axes[-1] = (axes[-1][0] * size, a, b)
        else:
            axes.append((size, a, b))
    return axes


def add_step(
    p: Any,
    op: Any,
    source: Any,
    target: Any,
    shape: tuple[int, ...],
    from_steps: tuple[int, ...],
    to_steps: tuple[int, ...],
    item: int,
    from_start: int = 0,
    to_start: int = 0,
    what: str = "copy",
) -> bool:
    """Copy elements of `item` bytes between buffers; steps in bytes. False if there are too many axes."""
    axes = merge((*shape, 1), (*from_steps, item), (*to_steps, item))
    if axes and axes[-1][1:] == (item, item):
        run, kind, last = axes.pop()[0] * item, 0, (0, 0)
    elif axes:
        (run, *last), kind = axes.pop(), item  # type: ignore[assignment]
    else:
        run, kind, last = item, 0, (0, 0)
    if len(axes) > AXES:
        return False
    outer = len(axes)
    args: dict[str, Any] = {
        "from": (source, from_start),
        "to": (target, to_start),
        "count": int(np.prod([size for size, _, _ in axes])),
        "run": run,
        "from_item": last[0],
        "to_item": last[1],
    }
    for axis, (size, a, b) in enumerate(axes):
        args |= {f"size{axis}": size, f"from_step{axis}": a, f"to_step{axis}": b}
    level, repeat = p.level, kind > 0 and tuple(last) == (0, item)
    p.step(
        op,
        f"copy {kind} {outer}{' repeat' * repeat}",
        lambda name: emit(name, level, kind, outer, repeat=repeat),
        RECORD,
        args,
        reads=[source],
        writes=[target],
        note=what,
    )
    return True
