"""conv_transpose. Same result as `ops.conv_transpose` on codes: products of `gemm`, one for each *phase*.

The positions of y that are alike modulo the stride see the same taps, at places of x that are one apart: a convolution
of x with some of the taps, in reverse. Needs: a constant w whose zero points are 0.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt.ir import Array
from nprt.jit.kernels import products, weights
from nprt.jit.kernels import stage as stages


@dataclass(frozen=True)
class Phase:
    """Along one axis: the positions `first`, `first + stride`, ... of y.

    Attributes:
        count: of positions.
        places: the places of x that its taps see from the first position, ascending; from the next one further. A
            single one where it has no taps.
        taps: of the kernel, in that order.
    """

    first: int
    count: int
    places: tuple[int, ...]
    taps: tuple[int, ...]


def phases(out: int, kernel: int, stride: int, dilation: int, before: int) -> list[Phase]:
    found = []
    for first in range(min(stride, out)):
        seen = [(first + before - t * dilation, t) for t in range(kernel)]
        some = sorted((at // stride, t) for at, t in seen if at % stride == 0)
        count = math.ceil((out - first) / stride)
        places, taps = zip(*some, strict=True) if some else ((0,), ())
        found.append(Phase(first, count, places, taps))
    return found


def halo(axis: list[Phase], size: int) -> tuple[int, int]:
    """How far the phases of an axis see beyond x."""
    least = min(phase.places[0] for phase in axis)
    most = max(phase.places[-1] + phase.count - 1 for phase in axis)
    return max(0, -least), max(0, most - size + 1)


def lower(p: Any, op: Any) -> bool:
    x, w, y = p.type(op.inputs[0]), p.type(op.inputs[1]), p.type(op.outputs[0])
    found = weights.constants(p, op)
    if found is None:
        return False
    signed, bias = found
    fields = zip(y.shape[1:-1], w.shape[1:-1], op.stride, op.dilation, op.padding, strict=True)
    axes = [phases(out, k, s, d, before) for out, k, s, d, (before, _) in fields]
    halos = tuple(halo(axis, size) for axis, size in zip(axes, x.shape[1:-1], strict=True))
    source, target = p.read(op.inputs[0], halos), p.write(op.outputs[0], halo=True)
    pixels = target.pixels().reshape(y.shape[:-1])
    for some in itertools.product(*axes):
        part = _taps(signed, some)
        zero = p.zero_byte(op.inputs[0]) - p.level.shift
        stage = stages.stage_of(op, x, w, y, part, zero, bias)
        if stage is None:
            return False
        starts = zip(some, op.stride, strict=True)
        at = (slice(None), *(slice(phase.first, None, s) for phase, s in starts))
        geometry = _geometry(source, some, op.groups)
        products.add_step(p, op, geometry, part, stage, target, pixels[at].reshape(-1))
        p.steps[-1].barrier = False  # each writes pixels of its own
    p.steps[-1].barrier = True
    return True


def _taps(signed: Array, some: tuple[Phase, ...]) -> Array:
    """The weights (out_channels, *taps, channels) of the phases; 0 where they have none."""
    for axis, phase in enumerate(some, start=1):
        taken = signed.take(phase.taps or (0,), axis=axis)
        signed = taken if phase.taps else np.zeros_like(taken)
    return signed


def _geometry(source: Any, some: tuple[Phase, ...], groups: int) -> products.Geometry:
    """Where the rows of x lie that the phases see: one for each position."""
    axes = zip(some, source.halo, strict=True)
    positions = [np.arange(phase.count) + phase.places[0] + before for phase, (before, _) in axes]
    x_offset = source.offsets([np.arange(source.shape[0]), *positions])
    ahead = [np.array(phase.places) - phase.places[0] for phase in some]
    runs = source.offsets([np.zeros(1, np.int64), *ahead])
    last = ahead[-1]
    if groups == 1 and np.all(np.diff(last) == 1):
        return products.Geometry(source, x_offset, runs[:: len(last)], len(last), 1)
    return products.Geometry(source, x_offset, runs, 1, groups)
