"""depthwise_conv. Same result as `ops.depthwise_conv` on codes, one output channel for each channel of x.

Needs: a constant w whose zero points are 0.

For each output pixel, 4 * lanes channels at a time: the bytes of four taps are interleaved, so that one `dot4` sums
four taps of one channel. The taps are padded to a multiple of four with weights of 0. Sums come in the order of
`Level.channel_order`, in which weights and parameters are packed; packing to bytes brings the plain order back.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt.jit.emit import I8, I32, I64, Kernel, Value
from nprt.jit.kernels import stage as stages
from nprt.jit.kernels.gemm import byte_zero_point
from nprt.jit.simd import Level

RECORD = np.dtype(
    [
        (n, "i8")
        for n in (
            *("x", "x_offset", "tap", "fours", "w", "parameters", "y", "y_offset"),
            *("pixels", "channels", "offset", "low", "high"),
        )
    ]
)


def emit(
    name: str, level: Level, fours: int, kind: str, layout: tuple[tuple[str, str], ...]
) -> Any:
    """The kernel for `fours` * 4 taps; 0 for a number that is known when it runs."""
    k = Kernel(name, RECORD)
    begin, end = k.share(k.arg("pixels"))
    channels, unit = k.arg("channels"), level.bytes
    size = stages.vector_bytes(layout, level.lanes)
    item = 4 if kind in stages.WIDE else 1
    zero = k.arg("offset").truncated(I32).splat(level.lanes)
    low, high = k.arg("low").truncated(I8), k.arg("high").truncated(I8)
    count = k.arg("fours")
    units = (channels + (unit - 1)) // unit

    def products(x: Value, w: Value, j: Any, sums: list[Value], ahead: list[Value]) -> list[Value]:
        bytes = [k.load(x + a, level.i8) for a in ahead]
        if level.shift:
            bytes = [b ^ -128 for b in bytes]
        mixed = level.interleave4(k, *bytes)
        return [
            level.dot4(k, s, m, k.load(w, level.i8, i * level.bytes + j * 4 * level.bytes))
            for i, (s, m) in enumerate(zip(sums, mixed, strict=True))
        ]

    with k.range(0, units) as number:
        at = number * unit
        w = k.arg("w") + number * (count * (4 * level.bytes))
        parameters = k.arg("parameters") + number * (4 * size)
        p = [stages.load_parameters(k, level, layout, parameters + i * size) for i in range(4)]
        table = k.arg("tap")
        known = [[k.load(table, I64, 32 * j + 8 * i) for i in range(4)] for j in range(fours)]
        left = (channels - at).minimum(unit) * item
        with k.range(begin, end) as pixel:
            x = k.arg("x") + at + k.load(k.arg("x_offset"), I32, pixel * 4).unsigned(I64)
            y = k.arg("y") + at * item + k.load(k.arg("y_offset"), I32, pixel * 4).unsigned(I64)
            sums = [q["init"] for q in p]
            if fours:
                for j in range(fours):
                    sums = products(x, w, j, sums, known[j])
            else:

                def some(j: Value, sums: list[Value], x: Value = x, w: Value = w) -> list[Value]:
                    ahead = [k.load(table, I64, j * 32 + 8 * i) for i in range(4)]
                    return products(x, w, j, sums, ahead)

                sums = k.loop(0, count, 1, sums, some)
            if kind == "sum":
                plain = np.argsort(level.channel_order.reshape(-1))
                whole = k.shuffle(k.join(sums), None, plain.tolist())
                for i in range(4):
                    part = whole.lanes(i * level.lanes, level.lanes).bits(level.i8)
                    rest = (left - i * level.bytes).maximum(0).minimum(level.bytes)
                    level.store_first(k, part, y + i * level.bytes, rest)
            else:
                codes = [
                    stages.FORMULAS[kind](k, level, s, q) + zero
                    for s, q in zip(sums, p, strict=True)
                ]
                packed = stages.to_bytes(k, level, codes, low, high, interleaved=True)
                with k.when_else(left.equals(unit)) as (full, part_):
                    with full:
                        k.store(packed, y)
                    with part_:
                        level.store_first(k, packed, y, left)
    return k.finish()


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
    kernel = signed.shape[:-1]
    signed = signed.reshape(-1, channels)
    level: Level = p.level
    start = -(byte_zero_point(x) - level.shift) * signed.sum(axis=0, dtype=np.int64)
    stage = stages.stage_of(op, x, w, y, start, bias)
    source = p.read(op.inputs[0], op.padding)
    target = p.write(op.outputs[0], halo=True)

    fours = math.ceil(len(signed) / 4)
    taps = np.zeros(fours * 4, np.int64)
    taps[: len(signed)] = source.taps(kernel, op.dilation)
    units = math.ceil(channels / level.bytes)
    padded = np.zeros((fours * 4, units * level.bytes), np.int8)
    padded[: len(signed), :channels] = signed
    by_unit = padded.reshape(fours, 4, units, level.bytes)[:, :, :, level.channel_order]
    packed = by_unit.transpose(2, 0, 3, 4, 1)  # unit, four, vector, lane, tap
    order = np.arange(units * level.bytes).reshape(units, level.bytes)[:, level.channel_order]
    parameters = stage.pack(
        np.where(order < channels, order, -1).reshape(-1, level.lanes), level.lanes
    )
    static = fours if fours <= 7 else 0
    layout = stage.layout
    p.step(
        op,
        f"depthwise {static} {stage.kind}",
        lambda name: emit(name, level, static, stage.kind, layout),
        RECORD,
        {
            "x": source,
            "x_offset": source.windows(y.shape, op.stride, op.padding).astype(np.uint32),
            "tap": taps,
            "fours": fours,
            "w": np.ascontiguousarray(packed),
            "parameters": parameters,
            "y": target,
            "y_offset": target.pixels().astype(np.uint32),
            "pixels": math.prod(y.shape[:-1]),
            "channels": channels,
            "offset": stage.offset,
            "low": stage.low,
            "high": stage.high,
        },
        reads=[source],
        writes=[target],
        macs=math.prod(y.shape[:-1]) * signed.size,
    )
    return True
