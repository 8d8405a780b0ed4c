"""Operands that broadcast, laid out for `rows`: every row of the result meets a row of each operand.

The last axes make a row. Where an operand repeats along them, it is repeated in memory first; along the axes before
them it is read again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nprt.ir import Array
from nprt.jit.kernels import copy, rows
from nprt.jit.plan import SLACK, Buffer, as_bytes

LEAST_ROW = 256  # elements: shorter rows cost more than repeated operands


def arguments(
    p: Any, op: Any, out: Any, operands: Sequence[str | Array]
) -> tuple[dict[str, Any], list[Any]]:
    """The arguments of `rows.emit`, and the buffers of the operands; adds steps that repeat operands.

    Args:
        out: the buffer of the result, to whose shape the operands broadcast.
        operands: names of values, or arrays that are not 8-bit.

    Returns:
        None in place of a buffer that takes too many axes to make.
    """
    buffers = [_constant(x) if isinstance(x, np.ndarray) else p.any_layout(x) for x in operands]
    if all(buffer.shape == out.shape for buffer in buffers):
        return rows.arguments(out, *buffers), buffers
    axes = _row_axes(out.shape, all(buffer.dense for buffer in (out, *buffers)))
    lead, row = out.shape[: len(out.shape) - axes], out.shape[len(out.shape) - axes :]
    laid = []
    for operand, buffer in zip(operands, buffers, strict=True):
        shape = (1,) * (len(out.shape) - len(buffer.shape)) + buffer.shape
        wanted = (*shape[: len(lead)], *row)
        laid.append(buffer if shape == wanted else _repeat(p, op, operand, buffer, wanted))
    args = {"rows": math.prod(lead), "row": math.prod(row), "total": math.prod(out.shape)}
    for key, buffer in zip(("y", *(f"x{i}" for i in range(len(laid)))), (out, *laid), strict=True):
        args |= {key: buffer, f"{key}_rows": _starts(buffer, out.shape, lead)}
    return args, laid


def _row_axes(shape: tuple[int, ...], dense: bool) -> int:
    """How many of the last axes make a row; of an image with a halo, those of a line."""
    most = len(shape) if dense else 2
    for axes in range(1, most):
        if math.prod(shape[-axes:]) >= LEAST_ROW:
            return axes
    return most


def _steps(buffer: Any, shape: tuple[int, ...]) -> list[int]:
    """Bytes from one element to the next along the axes of `shape`, 0 where the buffer repeats."""
    missing = len(shape) - len(buffer.shape)
    own = zip(buffer.shape, buffer.steps, shape[missing:], strict=True)
    return [0] * missing + [0 if size < wanted else step for size, step, wanted in own]


def _starts(buffer: Any, shape: tuple[int, ...], lead: tuple[int, ...]) -> Array:
    """Bytes from the beginning to each row."""
    total = np.full((), buffer.start, np.int64)
    for size, step in zip(lead, _steps(buffer, shape), strict=False):
        total = np.add.outer(total, np.arange(size) * step)
    return np.ascontiguousarray(total.reshape(-1))


def _repeat(p: Any, op: Any, operand: str | Array, source: Any, shape: tuple[int, ...]) -> Any:
    """A dense buffer with the value in a larger shape."""
    constant = operand if isinstance(operand, np.ndarray) else p.constant(operand)
    if constant is not None:
        return _constant(np.broadcast_to(as_bytes(constant), shape), source.name)
    target = Buffer(source.name, shape, source.item)
    steps = tuple(_steps(source, shape))
    starts = (source.start, target.start)
    copied = copy.add_step(
        p, op, source, target, shape, steps, target.steps, source.item, *starts, what="repeat"
    )
    return target if copied else None


def _constant(array: Array, name: str = "") -> Buffer:
    memory = np.zeros(array.nbytes + SLACK, np.uint8)
    memory[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return Buffer(name, array.shape, array.itemsize, data=memory)
