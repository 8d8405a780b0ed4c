"""The end of every product, in registers: int32 sums to bytes by a numerics, exactly as `nprt.rounding` has it.

Bytes are codes of uint8, or codes of int8 plus 128: that is how every kernel sees 8-bit values. The parameters of
each channel are laid out vector by vector: for each vector of channels its fields one after the other, 8-byte fields
as two halves (int64 even and odd lanes, as `Level.rescale` takes them; float64 the first and the second half of the
lanes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nprt import rounding
from nprt.ir import Array, TensorType
from nprt.jit.emit import F32, F64, I64, Kernel, Value, vector
from nprt.jit.simd import Level, Rescale

# Names and dtypes of parameters, in the order in which they lie in memory.
Layout = tuple[tuple[str, str], ...]
Parameters = Mapping[str, Any]  # of one vector of channels: a Value, or two halves


class Stage(NamedTuple):
    """How sums become bytes.

    Attributes:
        kind: names the formula; part of the kernel's key.
        fields: (channels,) arrays, the parameters of each channel. `init` is where a sum starts.
        offset: added to rounded codes, so that they are bytes: 128 for int8, with the zero point where it comes last.
        low, high: the clamp, in bytes.
    """

    kind: str
    fields: Mapping[str, Array]
    offset: int = 0
    low: int = 0
    high: int = 255

    @property
    def clamped(self) -> bool:
        return (self.low, self.high) != (0, 255)

    @property
    def layout(self) -> Layout:
        """Names and dtypes of the fields, in order."""
        return tuple((name, array.dtype.name) for name, array in self.fields.items())

    def repeated(self, times: int) -> Stage:
        """The channels so many times over."""
        fields = {name: np.tile(array, times) for name, array in self.fields.items()}
        return self._replace(fields=fields)

    def pack(self, order: Array, lanes: int) -> Array:
        """The parameters as bytes.

        Args:
            order: (vectors, lanes) channel numbers, -1 where there is no channel.
        """
        blocks = []
        for array in self.fields.values():
            values = np.where(order >= 0, array[np.maximum(order, 0)], array.dtype.type(0))
            if array.dtype == np.int64:
                values = np.concatenate([values[:, 0::2], values[:, 1::2]], axis=1)
            blocks.append(np.ascontiguousarray(values).view(np.uint8))
        return np.ascontiguousarray(np.concatenate(blocks, axis=1))


def dequantized(stage: Stage, scale: Array) -> Stage:
    """A stage of sums followed by dequantize: float32."""
    scales = np.broadcast_to(np.asarray(scale, np.float32), len(stage.fields["init"]))
    return Stage("real", {**stage.fields, "scale": scales})


def vector_bytes(layout: Layout, lanes: int) -> int:
    """Bytes that the parameters of one vector of channels take up."""
    return sum(np.dtype(dtype).itemsize * lanes for _, dtype in layout)


def load_parameters(k: Kernel, level: Level, layout: Layout, address: Value) -> Parameters:
    """The parameters of one vector of channels, from memory laid out by `Stage.pack`."""
    found: dict[str, Any] = {}
    offset, half = 0, level.lanes // 2
    for name, dtype in layout:
        if dtype in ("int64", "float64"):
            type = vector(I64 if dtype == "int64" else F64, half)
            found[name] = (k.load(address, type, offset), k.load(address, type, offset + 8 * half))
        else:
            type = level.i32 if dtype == "int32" else level.f32
            found[name] = k.load(address, type, offset)
        offset += np.dtype(dtype).itemsize * level.lanes
    return found


# --- formulas: sums and parameters to rounded codes, offset not yet added -----------------------------


def _integer(k: Kernel, level: Level, acc: Value, p: Parameters) -> Value:
    by = Rescale(p["multiplier"], p["rounding"])
    return level.rescale(k, acc, by, p["shift"])  # eq. (7)


def _integer_tall(k: Kernel, level: Level, acc: Value, p: Parameters) -> Value:
    by = Rescale(p["multiplier"], p["rounding"])
    return level.rescale_tall(k, acc, by, p["rest"])  # eq. (7)


def _multiply(k: Kernel, acc: Value, p: Parameters) -> Value:
    return acc.to_float() * p["multiplier"]  # eq. (8) and (32)


def _fbgemm(k: Kernel, acc: Value, p: Parameters) -> Value:
    return (acc.to_float() + p["bias"]) * p["multiplier"]  # eq. (31)


def _fbgemm_tensor(k: Kernel, acc: Value, p: Parameters) -> Value:
    # eq. (31), one scale for all channels
    return k.fma(p["bias"], p["inverse"], acc.to_float()) * p["multiplier"]


def _onednn(k: Kernel, acc: Value, p: Parameters) -> Value:
    value = acc.to_float() * p["x_scale"] * p["w_scale"] + p["bias"]
    return value * p["y_inverse"] + p["y_zero_point"]  # eq. (33)


def _pt2e(k: Kernel, acc: Value, p: Parameters) -> Value:
    half = acc.type.count // 2
    parts = []
    for i in range(2):
        value = acc.lanes(i * half, half).to_float(F64) * p["x_scale"][i] * p["w_scale"][i]
        parts.append((value + p["bias"][i]).to_float(F32))
    return k.join(parts) * p["y_inverse"]  # eq. (34)


REAL = {
    "multiply": _multiply,
    "fbgemm": _fbgemm,
    "fbgemm_tensor": _fbgemm_tensor,
    "onednn": _onednn,
    "pt2e": _pt2e,
}
FAR = "_far"  # a kind whose numbers may be too large for int32


def _rounded(name: str, *, far: bool) -> Callable[..., Value]:
    def formula(k: Kernel, level: Level, acc: Value, p: Parameters) -> Value:
        value = REAL[name](k, acc, p)
        return level.round_to_int(k, value) if far else level.round_near(k, value)

    return formula


FORMULAS: dict[str, Callable[..., Value]] = {
    "integer": _integer,
    "integer_tall": _integer_tall,
    **{name: _rounded(name, far=False) for name in REAL},
    **{name + FAR: _rounded(name, far=True) for name in REAL},
    "sum": lambda k, level, acc, p: acc,
    "real": lambda k, level, acc, p: (acc.to_float() * p["scale"]).bits(level.i32),  # eq. (2)
}
# Kinds whose codes have the offset in them.
WITH_OFFSET = ("integer_tall",)
# Kinds that give 4 bytes for each sum, not a byte.
WIDE = ("sum", "real")


def stage_of(
    op: Any,
    x: TensorType,
    w: TensorType,
    y: TensorType,
    weights: Array,
    zero: int,
    bias: Array | None,
) -> Stage | None:
    """The stage of a conv, depthwise_conv or linear; None for numerics without a formula here.

    Args:
        weights: int8 (channels, ...), zero points taken off.
        zero: what `Level.dot4` sees where x is 0.
        bias: int32 or float32 (channels,), or None.
    """
    channels = len(weights)
    inner = tuple(range(1, weights.ndim))
    # The sums fit in int32, as the accumulators do; NumPy adds that up three times as fast as int64.
    start = -zero * weights.sum(axis=inner, dtype=np.int32).astype(np.int64)
    added = np.zeros(channels, np.int32) if bias is None else bias
    real_bias = added.astype(np.float32)
    if y.dtype == "int32":
        return Stage("sum", {"init": wrapped(start + added)})
    shift = 128 if y.dtype == "int8" else 0
    low, high = op.clamp or y.code_range
    ends = {"low": low + shift, "high": high + shift}
    xs, ws, ys, zero_point = x.scale, w.scale, y.scale, int(y.zero_point)
    init = start if op.numerics in rounding.FLOAT_BIAS else start + added

    def each(value: Any, dtype: type) -> Array:
        return np.broadcast_to(np.asarray(value, dtype), channels)

    def stage(kind: str, offset: int, **fields: Array) -> Stage:
        return Stage(kind, {"init": wrapped(init), **fields}, offset + shift, **ends)

    if op.numerics == "integer":
        real = np.float64(xs) * np.float64(ws) / np.float64(ys)
        multiplier, bits = (each(v, np.int64) for v in rounding.quantize_multiplier(real))
        kind, fields = integer_fields(multiplier, bits, zero_point + shift)
        return stage(kind, zero_point, **fields)

    # The largest number before it is rounded, with room for what float32 makes of it.
    sums = 255.0 * np.abs(weights.astype(np.float32)).sum(axis=inner)
    unit = 1 if op.numerics in rounding.FLOAT_BIAS else np.float64(xs) * np.float64(ws)
    reals = sums * (np.float64(xs) * np.float64(ws)) + np.abs(added) * np.float64(unit)
    largest = 1.01 * reals / np.float64(ys) + 256
    far = "" if np.all(largest < 2.0**30) else FAR

    if op.numerics == "ort":
        multiplier = each(np.float32(xs) * np.float32(ws) / np.float32(ys), np.float32)
        return stage("multiply" + far, zero_point, multiplier=multiplier)
    scale = np.float32(xs) * np.float32(ws)
    if op.numerics == "qnnpack":
        multiplier = each(scale * (np.float32(1) / np.float32(ys)), np.float32)
        return stage("multiply" + far, zero_point, multiplier=multiplier)
    if op.numerics == "fbgemm":
        multiplier = each(scale / np.float32(ys), np.float32)
        if np.ndim(ws):
            bias_ = np.float32(real_bias / scale)
            return stage("fbgemm" + far, zero_point, bias=bias_, multiplier=multiplier)
        inverse = each(np.float32(1) / scale, np.float32)
        fields = {"bias": real_bias, "inverse": inverse, "multiplier": multiplier}
        return stage("fbgemm_tensor" + far, zero_point, **fields)
    twice = rounding.twice_inverted
    if op.numerics == "onednn" or (op.numerics == "onednn-general" and op.name == "depthwise_conv"):
        first, second = twice(xs), twice(ws) if op.name == "linear" else np.float32(ws)
        if op.numerics == "onednn-general":
            first, second = first * second, np.float32(1)  # eq. (61)
        return stage(
            "onednn" + far,
            0,
            x_scale=each(first, np.float32),
            w_scale=each(second, np.float32),
            bias=real_bias,
            y_inverse=each(np.float32(1) / twice(ys), np.float32),
            y_zero_point=each(zero_point, np.float32),
        )
    if op.numerics != "pt2e":
        return None
    return stage(
        "pt2e" + far,
        zero_point,
        x_scale=each(xs, np.float64),
        w_scale=each(ws, np.float64),
        bias=real_bias.astype(np.float64),
        y_inverse=each(np.float32(1) / np.float32(ys), np.float32),
    )


def integer_fields(multiplier: Array, shift: Array, offset: int) -> tuple[str, dict[str, Array]]:
    """The formula and the fields of fixed-point factors, int64 (channels,).

    `integer_tall` is for shifts in [32, 54], which nearly all are: the offset is part of the rounding there. It is at
    most 255, so it stays below 2**62, as does the product.
    """
    half = np.int64(1) << (shift - 1)
    if shift.min() < 32 or shift.max() > 54:
        return "integer", {"multiplier": multiplier, "rounding": half, "shift": shift}
    return "integer_tall", {
        "multiplier": multiplier,
        "rounding": half + (np.int64(offset) << shift),
        "rest": (shift - 32).astype(np.int32),
    }


def wrapped(numbers: Array) -> Array:
    """int64 to int32, modulo 2**32: sums wrap around until the last term brings them back."""
    return numbers.astype(np.int64).astype(np.int32)


def to_bytes(
    k: Kernel,
    level: Level,
    vectors: list[Value],
    low: Value | None = None,
    high: Value | None = None,
    *,
    offset: Value | None = None,
    interleaved: bool = False,
) -> Value:
    """Vectors of int32 bytes, not yet saturated, as one vector of bytes.

    Args:
        low, high: int8, the clamp; None for 0 and 255.
        offset: int32, is added first.
        interleaved: see `Level.pack_interleaved`.
    """
    pack = level.pack_interleaved if interleaved else level.pack_u8
    packed = pack(k, vectors, offset)
    if low is None or high is None:
        return packed
    size = packed.type.count
    return packed.maximum_unsigned(low.splat(size)).minimum_unsigned(high.splat(size))
