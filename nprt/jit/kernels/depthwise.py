"""depthwise_conv. Same result as `ops.depthwise_conv` on codes, one output channel for each channel of x.

Needs: a constant w whose zero points are 0.

For each output pixel, 4 * lanes channels at a time: the bytes of four taps are interleaved, so that one `dot4` sums
four taps of one channel. The taps are padded to a multiple of four with weights of 0. Sums come in the order of
`Level.channel_order`, in which weights and parameters are packed; packing to bytes brings the plain order back.
Several pixels are done together, to load weights and parameters once. Where windows move by one pixel, neighbours that
have few channels are taken as one pixel with more.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt.jit.emit import I8, I32, I64, Kernel, Value
from nprt.jit.kernels import stage as stages
from nprt.jit.kernels.gemm import byte_zero_point, repeated
from nprt.jit.simd import Level

RECORD = np.dtype(
    [
        (n, "i8")
        for n in (
            *("x", "x_offset", "tap", "fours", "w", "parameters", "y", "y_offset"),
            *("tiles", "channels", "offset", "low", "high"),
        )
    ]
)


def emit(name: str, level: Level, taps: int, kind: str, layout: tuple[tuple[str, str], ...]) -> Any:
    """The kernel for so many taps; 0 for a number that is known when it runs, a multiple of four."""
    k = Kernel(name, RECORD)
    pixels = range(level.pixels)
    begin, end = k.share(k.arg("tiles"))
    channels, unit = k.arg("channels"), level.bytes
    size = stages.vector_bytes(layout, level.lanes)
    item = 4 if kind in stages.WIDE else 1
    zero = k.arg("offset").truncated(I32).splat(level.lanes)
    low, high = k.arg("low").truncated(I8), k.arg("high").truncated(I8)
    fours, table = k.arg("fours"), k.arg("tap")
    units = (channels + (unit - 1)) // unit
    nothing = k.const(level.i8, 0)

    def products(xs: list[Value], w: Value, j: Any, sums: list[Value], real: int) -> list[Value]:
        """Add four taps, of which the first `real` are there, to the sums of all pixels."""
        ahead = [k.load(table, I64, j * 32 + 8 * i) for i in range(real)]
        weights = [k.load(w, level.i8, j * (4 * unit) + i * unit) for i in range(4)]
        out = []
        for t in pixels:
            bytes = [k.load(xs[t] + a, level.i8) for a in ahead]
            if level.shift:
                bytes = [b ^ -128 for b in bytes]
            mixed = level.interleave4(k, *bytes, *[nothing] * (4 - real))
            own = sums[4 * t : 4 * t + 4]
            out += [level.dot4(k, s, m, v) for s, m, v in zip(own, mixed, weights, strict=True)]
        return out

    def addresses(name: str, base: Value, tile: Value) -> list[Value]:
        at = k.arg(name) + tile * (4 * level.pixels)
        return [base + k.load(at, I32, 4 * t).unsigned(I64) for t in pixels]

    with k.range(0, units) as number:
        at = number * unit
        w = k.arg("w") + number * (fours * (4 * unit))
        parameters = k.arg("parameters") + number * (4 * size)
        left = (channels - at).minimum(unit) * item
        with k.range(begin, end) as tile:
            xs = addresses("x_offset", k.arg("x") + at, tile)
            sums = [k.load(parameters, level.i32, i * size) for _ in pixels for i in range(4)]
            if taps:
                for j in range(math.ceil(taps / 4)):
                    sums = products(xs, w, j, sums, min(4, taps - 4 * j))
            else:

                def some(j: Value, sums: list[Value], xs: Any = xs, w: Any = w) -> list[Value]:
                    return products(xs, w, j, sums, 4)

                sums = k.loop(0, fours, 1, sums, some)
            for i in range(4):
                p = stages.load_parameters(k, level, layout, parameters + i * size)
                for t in pixels:
                    code = stages.FORMULAS[kind](k, level, sums[4 * t + i], p)
                    sums[4 * t + i] = (
                        code if kind in (*stages.WIDE, *stages.WITH_OFFSET) else code + zero
                    )
            ys = addresses("y_offset", k.arg("y") + at * item, tile)
            for t in pixels:
                own = sums[4 * t : 4 * t + 4]
                if item == 4:
                    plain = np.argsort(level.channel_order.reshape(-1))
                    whole = k.shuffle(k.join(own), None, plain.tolist())
                    for i in range(4):
                        part = whole.lanes(i * level.lanes, level.lanes).bits(level.i8)
                        rest = (left - i * unit).maximum(0).minimum(unit)
                        level.store_first(k, part, ys[t] + i * unit, rest)
                else:
                    packed = stages.to_bytes(k, level, own, low, high, interleaved=True)
                    with k.when_else(left.equals(unit)) as (full, some_):
                        with full:
                            k.store(packed, ys[t])
                        with some_:
                            level.store_first(k, packed, ys[t], left)
    return k.finish()


def joined(level: Level, channels: int, width: int) -> int:
    """How many neighbouring pixels to take as one with so many times the channels, to fill whole vectors."""
    choices = [n for n in (1, 2, 4) if width % n == 0]
    return min(choices, key=lambda n: (math.ceil(channels * n / level.bytes) / n, n))


def lower(p: Any, op: Any) -> bool:
    x, w, y = p.type(op.inputs[0]), p.type(op.inputs[1]), p.type(op.outputs[0])
    weights, bias = p.constant(op.inputs[1]), None
    if x.is_float or weights is None or (len(op.inputs) > 3 and op.inputs[3]):
        return False
    if len(op.inputs) > 2 and op.inputs[2]:
        bias = p.constant(op.inputs[2])
        if bias is None:
            return False
    zero_points = w.quant.zero_points if w.quant else np.int32(0)
    shift = 128 if w.dtype == "uint8" else 0
    channels = weights.shape[-1]
    if np.any(zero_points != shift) or channels != x.shape[-1]:
        return False
    signed = (weights ^ 0x80).view(np.int8) if shift else weights
    signed = signed.reshape(-1, channels)
    level: Level = p.level
    start = -(byte_zero_point(x) - level.shift) * signed.sum(axis=0, dtype=np.int64)
    stage = stages.stage_of(op, x, w, y, start, bias)
    if stage is None:
        return False
    source = p.read(op.inputs[0], op.padding)
    target = p.write(op.outputs[0], halo=True)

    join = 1
    if op.stride[-1] == 1 and stage.kind not in stages.WIDE:
        join = joined(level, channels, y.shape[-2])
        signed, stage = np.tile(signed, join), stage.repeated(join)
        channels *= join
    add_step(p, op, source, target, signed, stage, join)
    return True


def add_step(
    p: Any, op: Any, source: Any, target: Any, signed: Any, stage: stages.Stage, join: int
) -> None:
    """signed: int8 (taps, channels), with the channels of `join` pixels."""
    level: Level = p.level
    count, channels = signed.shape
    fours = math.ceil(count / 4)
    taps = np.zeros(fours * 4, np.int64)
    taps[:count] = source.taps(p.type(op.inputs[1]).shape[:-1], op.dilation)
    units = math.ceil(channels / level.bytes)
    padded = np.zeros((fours * 4, units * level.bytes), np.int8)
    padded[:count, :channels] = signed
    by_unit = padded.reshape(fours, 4, units, level.bytes)[:, :, :, level.channel_order]
    packed = by_unit.transpose(2, 0, 3, 4, 1)  # unit, four, vector, lane, tap
    order = np.arange(units * level.bytes).reshape(units, level.bytes)[:, level.channel_order]
    parameters = stage.pack(
        np.where(order < channels, order, -1).reshape(-1, level.lanes), level.lanes
    )
    static = count if count <= 25 else 0
    layout = stage.layout
    y = p.type(op.outputs[0])
    x_offset = source.windows(y.shape, op.stride, op.padding)[::join]
    y_offset = target.pixels()[::join]
    p.step(
        op,
        f"depthwise {static} {stage.kind}",
        lambda name: emit(name, level, static, stage.kind, layout),
        RECORD,
        {
            "x": source,
            "x_offset": repeated(x_offset, level.pixels),
            "tap": taps,
            "fours": fours,
            "w": np.ascontiguousarray(packed),
            "parameters": parameters,
            "y": target,
            "y_offset": repeated(y_offset, level.pixels),
            "tiles": math.ceil(len(x_offset) / level.pixels),
            "channels": channels,
            "offset": stage.offset,
            "low": stage.low,
            "high": stage.high,
        },
        reads=[source],
        writes=[target],
        macs=len(x_offset) * signed.size,
    )
