"""From sums of codes to the codes of their mean, in registers, exactly as `nprt.rounding` has it.

A *class* is a set of windows alike in shape and in what their sum is divided by. Sums are of bytes: codes of uint8, or
codes of int8 plus 128.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from nprt import rounding
from nprt.ir import Array, TensorType
from nprt.jit.emit import F32, F64, I32, I64, Kernel, Value
from nprt.jit.kernels.rows import float_bits
from nprt.jit.simd import Level, Rescale

# Numbers of each class, and of the whole step. Those of float32 are their bits.
FIELDS = ("start", "multiplier", "rounding", "shift", "threshold", "factor", "count")
SCALARS = ("zero", "scale", "y_scale", "zero_point", "blocked", "offset", "low", "high")


class Sums(NamedTuple):
    """The sizes of classes: how long their windows are along each axis, and what their sums are divided by."""

    lengths: Array  # int64 (classes, axes)
    divisor: Array  # int64 (classes,)

    @property
    def taps(self) -> Array:
        return self.lengths.prod(axis=1)


class Stage(NamedTuple):
    """How sums become bytes.

    Attributes:
        kind: names the formula; part of the kernel's key.
        fields: (classes,) int64 each, some of FIELDS. `start` is added to every sum of bytes.
        scalars: some of SCALARS. Channels before `blocked` are in whole blocks, see `rounding.in_blocks`.
    """

    kind: str
    fields: Mapping[str, Array]
    scalars: Mapping[str, int] = MappingProxyType({})


# --- formulas: sums, with their start, to bytes that are not yet saturated --------------------------------


class Terms:
    """The numbers that a formula reads, as vectors."""

    def __init__(self, k: Kernel, level: Level, klass: Value, channel: Value) -> None:
        """
        Args:
            klass: the address of the class's numbers.
            channel: the number of the first channel of the vector.
        """
        self.k, self.level, self.klass, self.channel = k, level, klass, channel

    def wide(self, name: str) -> Value:
        return self.k.load(self.klass, I64, 8 * FIELDS.index(name))

    def i(self, name: str) -> Value:
        return self._narrow(name).splat(self.level.lanes)

    def f(self, name: str) -> Value:
        return self._narrow(name).bits(F32).splat(self.level.lanes)

    def _narrow(self, name: str) -> Value:
        number = self.wide(name) if name in FIELDS else self.k.arg(name)
        return number.truncated(self.level.i32.element)

    def in_blocks(self) -> Value:
        numbers = self.k.const(self.level.i32, range(self.level.lanes))
        first = self.channel.truncated(self.level.i32.element).splat(self.level.lanes)
        return (numbers + first).less_signed(self.i("blocked"))

    def rescale(self, acc: Value, *, tall: bool) -> Value:
        half = self.level.lanes // 2
        multiplier, rounding_, shift = (
            self.wide(n).splat(half) for n in ("multiplier", "rounding", "shift")
        )
        by = Rescale((multiplier, multiplier), (rounding_, rounding_))
        if tall:
            rest = (self.wide("shift") - 32).truncated(I32).splat(self.level.lanes)
            return self.level.rescale_tall(self.k, acc, by, rest)
        return self.level.rescale(self.k, acc, by, (shift, shift))

    def round(self, value: Value) -> Value:
        return self.level.round_to_int(self.k, value) + self.i("offset")


def _fixed(tall: bool) -> Callable[[Terms, Value], Value]:
    return lambda t, acc: t.rescale(acc, tall=tall) + t.i("offset")  # eq. (21)


def _away(tall: bool) -> Callable[[Terms, Value], Value]:
    def formula(t: Terms, acc: Value) -> Value:
        """`floor((acc + count // 2) / count)`, the half in `start`; one less where a negative mean may be a tie."""
        below = acc.less_signed(t.i("threshold"))
        return t.rescale(acc + t.k.select(below, t.k.const(acc.type, -1), 0), tall=tall)

    return formula  # eq. (20)


def _multiply(t: Terms, acc: Value) -> Value:
    """The zero point is added after rounding in whole blocks, before it elsewhere."""
    blocked, zero = t.in_blocks(), t.i("zero_point")
    before = t.k.select(blocked, t.k.const(zero.type, 0), zero).to_float()
    after = t.k.select(blocked, zero, 0)
    return t.round(acc.to_float() * t.f("factor") + before) + after  # eq. (22), (63) to (66)


def _fused(t: Terms, acc: Value) -> Value:
    value, zero = acc.to_float(), t.i("zero_point").to_float()
    fused = t.k.fma(value, t.f("factor"), zero)
    return t.round(t.k.select(t.in_blocks(), fused, value * t.f("factor") + zero))  # eq. (67)


def _divide(t: Terms, acc: Value) -> Value:
    return t.round(acc.to_float() / t.f("count"))  # eq. (68)


def _real(t: Terms, acc: Value) -> Value:
    half, parts = t.level.lanes // 2, []
    scale, count = (t.wide(name).bits(F64).splat(half) for name in ("factor", "count"))
    for i in range(2):
        parts.append((acc.lanes(i * half, half).to_float(F64) * scale / count).to_float(F32))
    zero = t.i("zero_point").to_float()
    return t.round(t.k.fma(t.k.join(parts), t.f("y_scale"), zero))  # eq. (39)


def _floats(t: Terms, total: Value) -> Value:
    zero = t.i("zero_point").to_float()
    return t.round(total / t.f("count") / t.f("y_scale") + zero)  # eq. (23)


FORMULAS: dict[str, Callable[[Terms, Value], Value]] = {
    "fixed": _fixed(tall=False),
    "fixed_tall": _fixed(tall=True),
    "away": _away(tall=False),
    "away_tall": _away(tall=True),
    "multiply": _multiply,
    "fused": _fused,
    "divide": _divide,
    "real": _real,
    "floats": _floats,  # of sums of dequantized codes
}


# --- stages -----------------------------------------------------------------------------------------------


def of_average_pool(
    numerics: str, x: TensorType, y: TensorType, sums: Sums, *, whole: bool
) -> Stage | None:
    """The stage of an average_pool; None where the kernel does not do it.

    Args:
        whole: one window without padding covers the image.
    """
    if numerics == "integer" and (x.dtype, x.quant) == (y.dtype, y.quant):
        return _away_from_zero(x, sums)
    if numerics == "ort" and not whole:
        return _summed_as_floats(x, y, sums)
    block = rounding.AVERAGE_BLOCK
    blocked = {"torch-nchw": 0, "torch-nhwc": int(x.shape[-1]) // block * block}
    if numerics not in blocked:
        return of_mean(numerics, x, y, sums)
    inverse = np.float32(1) / sums.divisor.astype(np.float32)
    return _multiplied(_differences(x, sums), inverse, y, blocked[numerics])


def of_adaptive(numerics: str, x: TensorType, y: TensorType, sums: Sums) -> Stage | None:
    """The stage of an adaptive_average_pool; None where the kernel does not do it."""
    if numerics == "integer" and (x.dtype, x.quant) == (y.dtype, y.quant):
        return _away_from_zero(x, sums)
    if numerics == "torch-nchw":
        factor: Array = np.ones((), np.float32)
        for lengths in sums.lengths.T:
            factor = factor / lengths.astype(np.float32)
        stage = _multiplied(_raw(x, sums), factor, y, 0)
        return stage._replace(scalars={**stage.scalars, "zero_point": 0})
    if numerics == "torch-nhwc":
        inverse = np.float32(1) / sums.divisor.astype(np.float32)
        blocked = int(x.shape[-1]) // rounding.CHANNEL_BLOCK * rounding.CHANNEL_BLOCK
        return _multiplied(_differences(x, sums), inverse, y, blocked)._replace(kind="fused")
    return of_mean(numerics, x, y, sums)


def of_mean(numerics: str, x: TensorType, y: TensorType, sums: Sums) -> Stage | None:
    """The stage of a mean of all taps; None where the kernel does not do it."""
    start, count = _differences(x, sums), sums.divisor.astype(np.float32)
    xs, ys = np.float32(x.scale), np.float32(y.scale)
    if numerics == "integer":
        real = np.float64(xs) / (np.float64(ys) * sums.divisor)
        multiplier, shift = rounding.quantize_multiplier(real)
        offset = int(y.zero_point) + _shift(y)
        return _fixed_point("fixed", start, multiplier, shift, np.int64(1) << (shift - 1), offset)
    if numerics == "ort":
        return _multiplied(start, xs / (ys * count), y)
    if numerics == "qnnpack":
        return _multiplied(start, xs / (xs * count), y)
    if numerics == "torch-nchw":
        return Stage(
            "divide", {"start": _raw(x, sums), "count": _bits(count)}, {"offset": _shift(y)}
        )
    if numerics != "torch":
        return None
    numbers = {"factor": np.full(len(count), xs, np.float64), "count": sums.divisor}
    wide = {name: number.astype(np.float64).view(np.int64) for name, number in numbers.items()}
    scalars = {"y_scale": float_bits(np.float32(1) / ys), "zero_point": int(y.zero_point)}
    return Stage("real", {"start": start, **wide}, {**scalars, "offset": _shift(y)})


def ends(op: Any, y: TensorType) -> dict[str, int]:
    """The clamp as bytes."""
    low, high = getattr(op, "clamp", None) or y.code_range
    return {"low": low + _shift(y), "high": high + _shift(y)}


def positions(buffer: Any, axes: Sequence[int]) -> Array:
    """Bytes to all positions along some axes of a dense buffer, int64, the last axis varying fastest."""
    return offsets([np.arange(buffer.shape[i]) for i in axes], [buffer.steps[i] for i in axes])


def offsets(indices: Sequence[Array], steps: Sequence[int]) -> Array:
    """Bytes to all combinations of indices along axes, int64, the last axis varying fastest."""
    total = np.zeros((), np.int64)
    for index, step in zip(indices, steps, strict=True):
        total = np.add.outer(total, index * step)
    return total.reshape(-1)


def _away_from_zero(x: TensorType, sums: Sums) -> Stage | None:
    """`rounding.average_integer`; None where int32 or a reciprocal of 31 bits does not reach."""
    taps, count = sums.taps, sums.divisor
    start = (count - taps) * (int(x.zero_point) + _shift(x)) + count // 2
    power = np.frexp(count.astype(np.float64))[1].astype(np.int64) - 1  # 2**power <= count
    shift = power + np.where(count == 1 << power, 30, 31)
    multiplier = -(-(np.int64(1) << shift) // count)
    excess = multiplier * count - (np.int64(1) << shift)
    # `n * multiplier >> shift` is `n // count` for n up to 256 counts; the code of a greater n saturates.
    exact = np.all(256 * count * excess < np.int64(1) << shift)
    if not exact or np.any(np.abs(start) + 255 * taps + 256 * count >= 2**31):
        return None
    ties = (count % 2 == 0) & (_shift(x) > 0)
    threshold = np.where(ties, _shift(x) * count + count // 2, -(2**31))
    stage = _fixed_point("away", start, multiplier, shift, np.zeros_like(shift), 0)
    return stage._replace(fields={**stage.fields, "threshold": threshold})


def _summed_as_floats(x: TensorType, y: TensorType, sums: Sums) -> Stage | None:
    """`rounding.average_pool_ort`; None where a sum might leave float32."""
    if not float(x.scale) * 256 * float(sums.taps.max()) < 1e38:
        return None
    scalars = {"scale": float_bits(x.scale), "y_scale": float_bits(y.scale)}
    scalars |= {"zero": int(x.zero_point) + _shift(x), "zero_point": int(y.zero_point)}
    return Stage("floats", {"count": _bits(sums.divisor)}, {**scalars, "offset": _shift(y)})


def _fixed_point(
    kind: str, start: Array, multiplier: Array, shift: Array, rounding_: Array, offset: int
) -> Stage:
    tall = bool(np.all(shift >= 32))
    fields = {"start": start, "multiplier": multiplier, "rounding": rounding_, "shift": shift}
    return Stage(f"{kind}_tall" if tall else kind, fields, {"offset": offset})


def _multiplied(start: Array, factor: Array, y: TensorType, blocked: int = 2**30) -> Stage:
    scalars = {"zero_point": int(y.zero_point), "offset": _shift(y), "blocked": blocked}
    return Stage("multiply", {"start": start, "factor": _bits(factor)}, scalars)


def _differences(x: TensorType, sums: Sums) -> Array:
    """What makes sums of bytes sums of differences from the zero point."""
    return -sums.taps * (int(x.zero_point) + _shift(x))


def _raw(x: TensorType, sums: Sums) -> Array:
    """What makes sums of bytes sums of codes."""
    return -sums.taps * _shift(x)


def _shift(type: TensorType) -> int:
    """From codes to bytes."""
    return 128 if type.dtype == "int8" else 0


def _bits(numbers: Array) -> Array:
    """float32 as arguments."""
    return numbers.astype(np.float32).view(np.uint32).astype(np.int64)
