"""quantize and transpose in one: float32 images, channels first, to codes, channels last. For 2 to 4 channels.

Same result as `ops.quantize` and then `ops.transpose`. One line of an image at a time: a unit of pixels of every
channel is quantized, then the bytes of the channels are put in turn, output vector by output vector. In lines of at
least one unit, the last unit lies over the one before it: nothing is read that is not there, so that the images of the
caller can be read where they are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt.jit.emit import I64, Kernel
from nprt.jit.kernels import quantize
from nprt.jit.simd import Level

RECORD = np.dtype(
    [(n, "i8") for n in ("x", "x_rows", "plane", "y", "y_rows", "rows", "width", *quantize.SCALARS)]
)


def emit(name: str, level: Level, numerics: str, channels: int, *, wide: bool) -> Any:
    """`wide`: for lines of at least one unit."""
    k = Kernel(name, RECORD)
    unit = 4 * level.lanes
    begin, end = k.share(k.arg("rows"))
    width, plane = k.arg("width"), k.arg("plane")
    code = quantize.coder(k, level, numerics)
    with k.range(begin, end) as row:
        x = k.arg("x") + k.load(k.arg("x_rows"), I64, row * 8)
        y = k.arg("y") + k.load(k.arg("y_rows"), I64, row * 8)
        with k.range(0, width, unit) as index:
            at = index.minimum(width - unit) if wide else index
            bytes = [
                code([k.load(x + plane * c + at * 4, level.f32, j * level.bytes) for j in range(4)])
                for c in range(channels)
            ]
            left = (width - at) * channels
            for part in range(channels):
                byte = np.arange(part * unit, (part + 1) * unit)
                pixel, channel = byte // channels, byte % channels
                out = bytes[0]
                out = k.shuffle(out, bytes[1], (pixel + unit * (channel == 1)).tolist())
                for c in range(2, channels):
                    lane = np.where(channel == c, pixel + unit, np.arange(unit))
                    out = k.shuffle(out, bytes[c], lane.tolist())
                target = y + at * channels + part * unit
                if wide:
                    k.store(out, target)
                else:
                    rest = (left - part * unit).maximum(0).minimum(unit)
                    level.store_first(k, out, target, rest)
    return k.finish()


def lower(p: Any, op: Any) -> bool:
    """Together with a transpose to channels last, where no other op reads the codes."""
    transpose = p.sole_reader(op.outputs[0])
    if transpose is None or transpose.name != "transpose":
        return False
    if op.numerics not in quantize.NUMERICS or len(p.shape(op.inputs[0])) < 3:
        return False
    batch, channels, *spatial = p.shape(op.inputs[0])
    rank = len(spatial)
    if rank < 1 or tuple(transpose.perm) != (0, *range(2, rank + 2), 1) or not 2 <= channels <= 4:
        return False
    x = p.read(op.inputs[0])
    p.done.add(transpose.outputs[0])
    out = p.write(transpose.outputs[0], halo=True)
    lines = math.prod(spatial[:-1])
    image = channels * lines * spatial[-1] * 4
    x_rows = np.add.outer(np.arange(batch) * image, np.arange(lines) * spatial[-1] * 4)
    margins = [before for before, _ in out.halo]
    lengths = (*spatial[:-1], 1)
    y_rows = out.offsets(
        [np.arange(batch), *(np.arange(n) + b for n, b in zip(lengths, margins, strict=True))]
    )
    level = p.level
    wide = bool(spatial[-1] >= level.bytes)
    p.step(
        op,
        f"quantize_planes {op.numerics} {channels}{' wide' * wide}",
        lambda name: emit(name, level, op.numerics, channels, wide=wide),
        RECORD,
        {
            "x": x,
            "x_rows": x_rows.reshape(-1).astype(np.int64),
            "plane": lines * spatial[-1] * 4,
            "y": out,
            "y_rows": y_rows.astype(np.int64),
            "rows": len(y_rows),
            "width": spatial[-1],
            **quantize.scalars(op, p.type(op.outputs[0])),
        },
        reads=[x],
        writes=[out],
        in_place=wide,
    )
    return True
