"""dynamic_linear: a range, codes, a product, and its sums scaled back. Same result as `ops.dynamic_linear` of finite x.

Four kernels: `range` finds the ends of slices of x, `choose` makes a scale of them, `code` makes codes, `scale` makes
float32 of sums. Between the last two stands a product of `gemm`. What the numerics are is in `rounding.dynamic`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nprt import rounding
from nprt.jit.emit import F32, F64, I8, I32, Kernel, Value
from nprt.jit.kernels import products, weights
from nprt.jit.kernels import stage as stages
from nprt.jit.kernels.stage import to_bytes
from nprt.jit.plan import Buffer
from nprt.jit.simd import Level

SLICE = 1 << 12  # elements of x whose range is found together, where there is one scale for all
ENDS = np.dtype([("low", "f4"), ("high", "f4")])
# What `choose` finds: the scale that sums are scaled back with, what codes are made with, and the zero point.
CHOSEN = np.dtype([("scale", "f4"), ("step", "f4"), ("zero", "i4")])


# --- range: float32 to the ends of slices -----------------------------------------------------------------

RANGE = np.dtype([(name, "i8") for name in ("x", "total", "slice", "slices", "ends")])


def emit_range(name: str, level: Level) -> Any:
    """The least and the greatest of each slice, and of 0."""
    k = Kernel(name, RANGE)
    begin, end = k.share(k.arg("slices"))
    slots = k.scratch(level.f32), k.scratch(level.f32)
    with k.range(begin, end) as index:
        first = index * k.arg("slice")
        count = (k.arg("total") - first).minimum(k.arg("slice"))
        x = k.arg("x") + first * 4
        whole = count // level.lanes * level.lanes

        def vectors(at: Value, ends: list[Value], x: Value = x) -> list[Value]:
            v = k.load(x + at * 4, level.f32)
            return [v.minimum(ends[0]), v.maximum(ends[1])]

        def numbers(at: Value, ends: list[Value], x: Value = x) -> list[Value]:
            v = k.load(x + at * 4, F32)
            return [v.minimum(ends[0]), v.maximum(ends[1])]

        both = k.loop(0, whole, level.lanes, [k.const(level.f32, 0.0)] * 2, vectors)
        low, high = k.loop(whole, count, 1, [k.const(F32, 0.0)] * 2, numbers)
        for slot, lanes in zip(slots, both, strict=True):
            k.store(lanes, slot)

        def lane(at: Value, ends: list[Value]) -> list[Value]:
            return [
                k.load(slots[0], F32, at).minimum(ends[0]),
                k.load(slots[1], F32, at).maximum(ends[1]),
            ]

        low, high = k.loop(0, 4 * level.lanes, 4, [low, high], lane)
        to = k.arg("ends") + index * ENDS.itemsize
        k.store(low, to)
        k.store(high, to, 4)
    return k.finish()


# --- choose: the ends to a scale and a zero point ---------------------------------------------------------

CHOOSE = np.dtype([(name, "i8") for name in ("ends", "each", "rows", "chosen", "most")])


def emit_choose(name: str, level: Level, numerics: str) -> Any:
    """Of each row, whose ends are those of `each` slices; codes are chosen for up to `most`."""
    k = Kernel(name, CHOOSE)
    begin, end = k.share(k.arg("rows"))
    each = k.arg("each")
    with k.range(begin, end) as row:
        ends = k.arg("ends") + row * each * ENDS.itemsize

        def widen(at: Value, found: list[Value], ends: Value = ends) -> list[Value]:
            low, high = (k.load(ends + at * ENDS.itemsize, F32, 4 * i) for i in range(2))
            return [low.minimum(found[0]), high.maximum(found[1])]

        low, high = k.loop(0, each, 1, [k.const(F32, 0.0)] * 2, widen)
        scale, step, zero = CHOICES[numerics](k, low, high, k.arg("most").to_float(F32))
        to = k.arg("chosen") + row * CHOSEN.itemsize
        for i, number in enumerate((scale, step, zero.to_int(I32))):
            k.store(number, to, 4 * i)
    return k.finish()


Choice = tuple[Value, Value, Value]  # the fields of CHOSEN


def _round(number: Value, most: Value) -> Value:
    """To the nearest integer, ties to even, of what is clipped to [0, most]."""
    magic = 1.5 * 2.0 ** (52 if number.type == F64 else 23)
    return number.maximum(0.0).minimum(most) + magic - magic


def _ort(k: Kernel, low: Value, high: Value, most: Value) -> Choice:
    scale = (high - low) / most
    scale = k.select(scale.equals(0.0), k.const(F32, 1.0), scale)
    return scale, scale, _round(0.0 - low / scale, most)  # eq. (3)


def _pt2e(k: Kernel, low: Value, high: Value, most: Value) -> Choice:
    scale = ((high - low) / most).maximum(rounding.LEAST_SCALE_PT2E)
    return scale, k.const(F32, 1.0) / scale, _round(0.0 - low / scale, most)  # eq. (58)


def _fbgemm(k: Kernel, low: Value, high: Value, most: Value) -> Choice:
    wide, zero = _torch(k, low, high, most)
    scale = wide.to_float(F32)
    return scale, k.const(F32, 1.0) / scale, zero


def _onednn(k: Kernel, low: Value, high: Value, most: Value) -> Choice:
    wide, zero = _torch(k, low, high, most)
    scale = k.const(F32, 1.0) / (k.const(F64, 1.0) / wide).to_float(F32)
    return scale, k.const(F32, 1.0) / scale, zero


def _torch(k: Kernel, low: Value, high: Value, most: Value) -> tuple[Value, Value]:
    """The scale float64, and the zero point: eq. (40) and (41) for codes from 0 on."""
    top, least = most.to_float(F64), k.const(F32, float(rounding.LEAST_SCALE_TORCH))
    scale = (high.to_float(F64) - low.to_float(F64)) / top
    narrow = scale.to_float(F32)
    unusable = narrow.equals(0.0) | (k.const(F32, 1.0) / narrow).equals(float("inf"))
    scale = k.select(unusable, k.const(F64, 0.1), scale)
    tiny = scale < least.to_float(F64)
    growth, wide = least / scale.to_float(F32), least * most
    grown = k.select(high.equals(0.0), 0.0 - wide, low * growth)
    high = k.select(tiny, k.select(low.equals(0.0), wide, high * growth), high)
    low = k.select(tiny, grown, low)
    scale = k.select(tiny, least.to_float(F64), scale)
    below, above = low.to_float(F64) / scale, high.to_float(F64) / scale
    nearer = 0.0 - _size(below) < top - _size(above)
    return scale, _round(k.select(nearer, 0.0 - below, top - above), top)


def _size(number: Value) -> Value:
    return number.k.select(number < 0.0, 0.0 - number, number)


CHOICES = {
    "ort": _ort,
    "pt2e": _pt2e,
    "fbgemm": _fbgemm,
    "qnnpack": _fbgemm,
    "onednn": _onednn,
}


# --- code: float32 to codes -------------------------------------------------------------------------------

CODE = np.dtype([(n, "i8") for n in ("x", "y", "rows", "row", "chosen", "chosen_step", "most")])


def emit_code(name: str, level: Level, numerics: str) -> Any:
    k = Kernel(name, CODE)
    begin, end = k.share(k.arg("rows"))
    size = k.arg("row")
    low, high = k.const(I8, 0), k.arg("most").truncated(I8)
    with k.range(begin, end) as row:
        x, y = k.arg("x") + row * size * 4, k.arg("y") + row * size
        chosen = k.arg("chosen") + row * k.arg("chosen_step")
        step = k.load(chosen, F32, 4).splat(level.lanes)
        zero = k.load(chosen, I32, 8).splat(level.lanes)

        def codes(at: Value, x: Value = x, step: Value = step, zero: Value = zero) -> Value:
            vectors = [k.load(x + at * 4, level.f32, j * level.bytes) for j in range(4)]
            found = [CODES[numerics](k, level, v, step, zero) for v in vectors]
            return to_bytes(k, level, found, low, high)

        level.store_run(k, y, size, codes)
    return k.finish()


def _before(k: Kernel, level: Level, x: Value, step: Value, zero: Value) -> Value:
    return level.round_to_int(k, x * step + zero.to_float())  # eq. (42)


def _fused(k: Kernel, level: Level, x: Value, step: Value, zero: Value) -> Value:
    return level.round_to_int(k, k.fma(x, step, zero.to_float()))  # eq. (39)


CODES: dict[str, Callable[..., Value]] = {
    "ort": lambda k, level, x, step, zero: level.round_to_int(k, x / step) + zero,  # eq. (1)
    "pt2e": lambda k, level, x, step, zero: level.round_to_int(k, x * step) + zero,  # eq. (34)
    "fbgemm": _fused,
    "qnnpack": _fused,
    "onednn": _before,
}


# --- scale: sums to float32 -------------------------------------------------------------------------------

NAMES = ("x", "y", "rows", "row", "chosen", "chosen_step", "w_sum", "w_scale", "bias")
SCALE = np.dtype([(name, "i8") for name in NAMES])


def emit_scale(name: str, level: Level, numerics: str, *, biased: bool) -> Any:
    k = Kernel(name, SCALE)
    begin, end = k.share(k.arg("rows"))
    size, item = k.arg("row"), 4
    with k.range(begin, end) as row:
        x, y = (k.arg(n) + row * size * item for n in ("x", "y"))
        chosen = k.arg("chosen") + row * k.arg("chosen_step")
        scale = k.load(chosen, F32).splat(level.lanes)
        zero = k.load(chosen, I32, 8).splat(level.lanes)

        def real(at: Value, x: Value = x, scale: Value = scale, zero: Value = zero) -> Value:
            acc = k.load(x, level.i32, at) - zero * k.load(k.arg("w_sum"), level.i32, at)
            w_scale = k.load(k.arg("w_scale"), level.f32, at)
            bias = k.load(k.arg("bias"), level.f32, at) if biased else None
            return _scaled(k, numerics, acc.to_float(), scale, w_scale, bias)

        whole = size // level.lanes * level.bytes
        with k.range(0, whole, level.bytes) as at:
            k.store(real(at), y, at)
        with k.when(whole < size * item):
            level.store_first(k, real(whole).bits(level.i8), y + whole, size * item - whole)
    return k.finish()


def _scaled(
    k: Kernel, numerics: str, acc: Value, scale: Value, w_scale: Value, bias: Value | None
) -> Value:
    if numerics == "onednn":
        value = acc * scale * w_scale
    elif numerics == "fbgemm" and bias is not None:
        return k.fma(acc, scale * w_scale, bias)  # eq. (43)
    else:
        value = acc * (scale * w_scale)
    return value if bias is None else value + bias  # eq. (10) and (44)


# --- the plan ---------------------------------------------------------------------------------------------


def lower(p: Any, op: Any) -> bool:
    x, w = p.type(op.inputs[0]), p.type(op.inputs[1])
    found = weights.constants(p, op)
    if found is None or op.numerics not in CHOICES:
        return False
    signed, bias = found
    source, target = p.read(op.inputs[0]), p.write(op.outputs[0])
    row, rows, name = x.shape[-1], math.prod(x.shape[:-1]), op.outputs[0]
    chosen = _choose(p, op, source, rows, row)
    about = {"rows": rows, "chosen": chosen}
    about["chosen_step"] = CHOSEN.itemsize if op.per_row else 0
    codes = Buffer(f"{name} codes", (rows, row), 1)
    most = 127 if op.reduce_range and op.numerics == "pt2e" else 255
    _code(p, op, {"x": source, "y": codes, "row": row, **about, "most": most})
    sums = Buffer(f"{name} sums", (rows, len(signed)), 4)
    w_sum = signed.sum(axis=1, dtype=np.int64)
    stage = stages.Stage("sum", {"init": stages.wrapped(p.level.shift * w_sum)})
    geometry = products.Geometry.pixels(codes, 1, rows)
    y_offset = np.arange(rows) * sums.pixel
    products.add_step(p, op, geometry, signed[:, np.newaxis, :], stage, sums, y_offset)
    scale = rounding.twice_inverted(w.scale) if op.numerics == "onednn" else np.float32(w.scale)
    columns = {"w_sum": stages.wrapped(w_sum), "w_scale": np.broadcast_to(scale, len(signed))}
    if bias is not None:
        columns["bias"] = bias
    padded = {n: np.pad(column, (0, -len(signed) % p.level.lanes)) for n, column in columns.items()}
    _scale(p, op, {"x": sums, "y": target, "row": len(signed), **about, **padded})
    return True


def _choose(p: Any, op: Any, source: Any, rows: int, row: int) -> Buffer:
    """Steps that find the scale of x, or of each of its rows."""
    level, name, total = p.level, op.outputs[0], rows * row
    size = row if op.per_row else SLICE
    slices, count = math.ceil(total / size), rows if op.per_row else 1
    ends = Buffer(f"{name} ends", (slices,), ENDS.itemsize)
    chosen = Buffer(f"{name} chosen", (count,), CHOSEN.itemsize)
    half = op.reduce_range and op.numerics != "qnnpack"
    p.step(
        op,
        "dynamic range",
        lambda name: emit_range(name, level),
        RANGE,
        {"x": source, "total": total, "slice": size, "slices": slices, "ends": ends},
        reads=[source],
        writes=[ends],
    )
    p.step(
        op,
        f"dynamic choose {op.numerics}",
        lambda name: emit_choose(name, level, op.numerics),
        CHOOSE,
        {
            "ends": ends,
            "each": slices // count,
            "rows": count,
            "chosen": chosen,
            "most": 127 if half else 255,
        },
        reads=[ends],
        writes=[chosen],
    )
    return chosen


def _code(p: Any, op: Any, args: dict[str, Any]) -> None:
    level = p.level
    p.step(
        op,
        f"dynamic code {op.numerics}",
        lambda name: emit_code(name, level, op.numerics),
        CODE,
        args,
        reads=[args["x"], args["chosen"]],
        writes=[args["y"]],
    )


def _scale(p: Any, op: Any, args: dict[str, Any]) -> None:
    level, biased = p.level, "bias" in args
    p.step(
        op,
        f"dynamic scale {op.numerics}{' bias' * biased}",
        lambda name: emit_scale(name, level, op.numerics, biased=biased),
        SCALE,
        args,
        reads=[args["x"], args["chosen"]],
        writes=[args["y"]],
    )
