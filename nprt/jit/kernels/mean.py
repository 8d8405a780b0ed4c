"""Means over all pixels. Same result as `ops.global_average_pool` on codes, and as `ops.reduce_mean` and
`ops.average_pool` where these do the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt import rounding
from nprt.jit.emit import I8, I32, I64, Kernel, Value, vector
from nprt.jit.kernels import rows
from nprt.jit.kernels.stage import to_bytes
from nprt.jit.simd import Level, Rescale

RECORD = np.dtype(
    [
        (n, "i8")
        for n in (
            *("x", "x_image", "pixel_offset", "pixels", "y", "images", "channels", "start"),
            *("multiplier", "rounding", "shift", "odd_shift", "scale", "offset", "low", "high"),
        )
    ]
)


def emit(name: str, level: Level, numerics: str, tall: bool) -> Any:
    k = Kernel(name, RECORD)
    channels, unit = k.arg("channels"), 4 * level.lanes
    units = (channels + (unit - 1)) // unit
    begin, end = k.share(k.arg("images") * units)
    half = level.lanes // 2

    def code(acc: Value) -> Value:
        if numerics == "ort":
            value = level.round_to_int(k, acc.to_float() * rows.float_arg(k, level, "scale"))
        else:
            m, r, s, o = (
                k.arg(n).splat(half) for n in ("multiplier", "rounding", "shift", "odd_shift")
            )
            value = level.rescale(k, acc, Rescale((m, m), (r, r), (s, o)), tall=tall)
        return value + rows.int_arg(k, level, "offset")

    with k.range(begin, end) as index:
        image, at = index // units, index % units * unit
        x = k.arg("x") + image * k.arg("x_image") + at

        def pixel(j: Value, sums: list[Value], x: Value = x) -> list[Value]:
            here = x + k.load(k.arg("pixel_offset"), I32, j * 4).unsigned(I64)
            return [
                s + k.load(here, vector(I8, level.lanes), i * level.lanes).unsigned(I32)
                for i, s in enumerate(sums)
            ]

        sums = k.loop(0, k.arg("pixels"), 1, [rows.int_arg(k, level, "start")] * 4, pixel)
        low, high = k.arg("low").truncated(I8), k.arg("high").truncated(I8)
        bytes = to_bytes(k, level, [code(s) for s in sums], low, high)
        y = k.arg("y") + image * channels + at
        level.store_first(k, bytes, y, (channels - at).minimum(unit))
    return k.finish()


def covers_all(op: Any, x: Any) -> bool:
    """Whether the op is the mean over all pixels of each image."""
    rank = len(x.shape)
    if op.name == "global_average_pool":
        return True
    if op.name == "reduce_mean":
        return bool(rank >= 3 and sorted(a % rank for a in op.axes) == list(range(1, rank - 1)))
    return tuple(op.kernel) == tuple(x.shape[1:-1]) and not any(map(any, op.padding))


def lower(p: Any, op: Any) -> bool:
    x, y = p.type(op.inputs[0]), p.type(op.outputs[0])
    if not x.is_codes or not y.is_codes or not covers_all(op, x):
        return False
    if op.numerics not in rounding.MEAN or getattr(op, "divisor", None) is not None:
        return False
    if op.name == "average_pool" and op.numerics == "integer":
        if (x.dtype, x.quant) == (y.dtype, y.quant):
            return False  # eq. (20)
        if math.prod(y.shape[1:-1]) != 1:
            return False
    if op.name == "average_pool" and math.prod(y.shape[1:-1]) != 1:
        return False
    count = math.prod(x.shape[1:-1])
    shift_y = 128 if y.dtype == "int8" else 0
    low, high = getattr(op, "clamp", None) or y.code_range
    buffer, out = p.any_layout(op.inputs[0]), p.write(op.outputs[0])
    real = np.float64(x.scale) / (np.float64(y.scale) * count)
    multiplier, shift = map(int, rounding.quantize_multiplier(real))
    tall = shift >= 32
    level = p.level
    images = buffer.shape[0]
    p.step(
        op,
        f"mean {op.numerics}{' tall' * tall}",
        lambda name: emit(name, level, op.numerics, tall),
        RECORD,
        {
            "x": buffer,
            "x_image": buffer.steps[0],
            "pixel_offset": buffer.pixels()[:count].astype(np.uint32),
            "pixels": count,
            "y": out,
            "images": images,
            "channels": x.shape[-1],
            "start": -count * p.zero_byte(op.inputs[0]),
            "multiplier": multiplier,
            "rounding": 1 << (shift - 1),
            "shift": shift,
            "odd_shift": shift - 32 if tall else shift,
            "scale": rows.float_bits(
                np.float32(x.scale) / (np.float32(y.scale) * np.float32(count))
            ),
            "offset": int(y.zero_point) + shift_y,
            "low": low + shift_y,
            "high": high + shift_y,
        },
        reads=[buffer],
        writes=[out],
    )
    return True
