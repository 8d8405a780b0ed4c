"""max_pool. Same result as `ops.max_pool` of 8-bit values. Around the image lie bytes of 0, which never win."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nprt.jit.emit import I32, I64, Kernel, Value
from nprt.jit.simd import Level

RECORD = np.dtype(
    [(n, "i8") for n in ("x", "x_offset", "tap", "taps", "y", "y_offset", "pixels", "channels")]
)


def emit(name: str, level: Level) -> Any:
    k = Kernel(name, RECORD)
    begin, end = k.share(k.arg("pixels"))
    channels = k.arg("channels")
    with k.range(begin, end) as pixel:
        x = k.arg("x") + k.load(k.arg("x_offset"), I32, pixel * 4).unsigned(I64)
        y = k.arg("y") + k.load(k.arg("y_offset"), I32, pixel * 4).unsigned(I64)

        def greatest(at: Value, x: Value = x) -> Value:
            def tap(j: Value, carried: list[Value]) -> list[Value]:
                ahead = k.load(k.arg("tap"), I64, j * 8)
                return [carried[0].maximum_unsigned(k.load(x + ahead, level.i8, at))]

            return k.loop(0, k.arg("taps"), 1, [k.const(level.i8, 0)], tap)[0]

        level.store_run(k, y, channels, greatest)
    return k.finish()


def lower(p: Any, op: Any) -> bool:
    x, y = p.type(op.inputs[0]), p.type(op.outputs[0])
    if x.dtype not in ("int8", "uint8"):
        return False
    halo = []
    axes = zip(
        x.shape[1:-1], y.shape[1:-1], op.kernel, op.stride, op.dilation, op.padding, strict=True
    )
    for size, out, kernel, stride, dilation, (before, _) in axes:
        reach = (out - 1) * stride + dilation * (kernel - 1) + 1
        halo.append((before, max(0, reach - before - size)))
    source = p.read(op.inputs[0], tuple(halo), fill_with=0)
    target = p.write(op.outputs[0], halo=True)
    taps = source.taps(op.kernel, op.dilation)
    level = p.level
    p.step(
        op,
        "max_pool",
        lambda name: emit(name, level),
        RECORD,
        {
            "x": source,
            "x_offset": source.windows(y.shape, op.stride, op.padding).astype(np.uint32),
            "tap": taps.astype(np.int64),
            "taps": len(taps),
            "y": target,
            "y_offset": target.pixels().astype(np.uint32),
            "pixels": math.prod(y.shape[:-1]),
            "channels": y.shape[-1],
        },
        reads=[source],
        writes=[target],
    )
    return True
