"""reshape, transpose, expand, concat, slice, pad. Same result as the ops so named: copies of strided parts, or none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt.jit.kernels import copy, fill


def lower_reshape(p: Any, op: Any) -> bool:
    p.alias(op.outputs[0], p.read(op.inputs[0]))
    return True


def lower_transpose(p: Any, op: Any) -> bool:
    x = p.any_layout(op.inputs[0])
    order = [axis for axis in op.perm if x.shape[axis] != 1]
    if order == sorted(order):  # only axes of size 1 move
        return lower_reshape(p, op)
    out = p.write(op.outputs[0], halo=True)
    steps = tuple(x.steps[axis] for axis in op.perm)
    return copy.add_step(
        p, op, x, out, out.shape, steps, out.steps, x.item, x.start, out.start, "transpose"
    )


def lower_expand(p: Any, op: Any) -> bool:
    x = p.any_layout(op.inputs[0])
    out = p.write(op.outputs[0], halo=True)
    missing = len(out.shape) - len(x.shape)
    own = zip(x.shape, x.steps, out.shape[missing:], strict=True)
    steps = (0,) * missing + tuple(0 if size < wanted else step for size, step, wanted in own)
    return copy.add_step(
        p, op, x, out, out.shape, steps, out.steps, x.item, x.start, out.start, "expand"
    )


def lower_concat(p: Any, op: Any) -> bool:
    xs = [p.any_layout(name) for name in op.inputs]
    out = p.write(op.outputs[0], halo=True)
    at = out.start
    axis = op.axis % len(out.shape)
    for index, x in enumerate(xs):
        done = copy.add_step(
            p, op, x, out, x.shape, x.steps, out.steps, x.item, x.start, at, "concat"
        )
        if not done:
            return False
        p.steps[-1].barrier = index == len(xs) - 1  # the parts do not overlap
        at += x.shape[axis] * out.steps[axis]
    return True


def lower_slice(p: Any, op: Any) -> bool:
    x = p.any_layout(op.inputs[0])
    out = p.write(op.outputs[0], halo=True)
    start, steps = x.start, []
    for size, part, step in zip(x.shape, op.slices(), x.steps, strict=True):
        first, _, stride = part.indices(size)
        start += first * step
        steps.append(stride * step)
    return copy.add_step(
        p, op, x, out, out.shape, tuple(steps), out.steps, x.item, start, out.start, "slice"
    )


def lower_pad(p: Any, op: Any) -> bool:
    """Constant padding of 8-bit values: the whole is filled first."""
    x = p.any_layout(op.inputs[0])
    if op.mode != "constant" or x.item != 1 or p.type(op.inputs[0]).dtype == "bool":
        return False
    out = p.write(op.outputs[0])
    value = int(op.value) + (128 if p.type(op.inputs[0]).dtype == "int8" else 0)
    spans = np.array([[0, math.prod(out.shape)]], np.int64)
    fill.add_step(p, op, out, spans, value)
    p.steps[-1].barrier = True  # the copy overwrites
    start = sum(before * step for (before, _), step in zip(op.padding, out.steps, strict=True))
    return copy.add_step(p, op, x, out, x.shape, x.steps, out.steps, 1, x.start, start, "pad")
