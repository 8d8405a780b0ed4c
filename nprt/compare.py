"""Two runs of one network, op by op: where they part, by how much, and how often."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from nprt import rounding
from nprt.errors import InputError
from nprt.ir import Array, Model, Op, Tensor, TensorType
from nprt.ops.dequantize import Dequantize
from nprt.ops.products import ProductOp
from nprt.ops.reshape import Reshape
from nprt.ops.transpose import Transpose
from nprt.reference import ReferenceBackend
from nprt.session import bind_dims, check_feeds

# Axis orders are tried for values of at most so many dimensions; a model is channels last where its source is not.
MAX_ORDERED_RANK = 5
# Float32 numbers within so much of a step of one another are the same multiple of it; 8-bit codes span 255 steps.
SAME_STEP = 1e-3
# First products whose signal-to-noise ratio is lower have other weights, or another input; int8 gives 30 dB and more.
UNRELATED_SNR = 10.0


@dataclass(frozen=True)
class Row:
    """One value of the model beside the other run's.

    Attributes:
        name, op: the value, and the op that makes it.
        unit: what `largest` counts. `codes`: both runs have integers. `steps`: steps of the scale of 8-bit codes, where
            a run has real numbers: a quantized value whose counterpart is float32, as far as the codes reach; or a
            float32 value that the model dequantizes from codes with one scale. `ratio`: floats; the difference relative
            to the largest magnitude of the other run.
        compared, differing: how many elements there are, and how many are not equal; quantized ones with a float32
            counterpart are equal where they are no more than half a step from it.
        largest: the largest difference, in `unit`; whole steps beyond the first half one if the value is quantized.
        snr: signal-to-noise ratio in dB, of real numbers; infinite where all are equal (None in JSON).
    """

    name: str
    op: str
    unit: str
    compared: int
    differing: int
    largest: float
    snr: float

    def exceeds(self, codes: float, floats: float) -> bool:
        """Whether the largest difference is beyond what is tolerated."""
        return self.largest > (floats if self.unit == "ratio" else codes)


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        rows: a row for each value that both runs have, in execution order.
        alone: the values of the model that were not compared: the other run has none of that name and size, as after
            layers are fused or axes moved; or has integers whose scale is not known to be the model's.
        hint: what the differences are likely to come from; "" if nothing is likely.
    """

    rows: tuple[Row, ...]
    alone: tuple[str, ...]
    hint: str = ""

    def first_beyond(self, codes: float = 0, floats: float = 1e-5) -> Row | None:
        """The first value that differs by more than so many codes or steps, or by more than so much of the largest."""
        return next((row for row in self.rows if row.exceeds(codes, floats)), None)


def compare(
    model: Model,
    feeds: Mapping[str, Array],
    expected: Mapping[str, Array],
    *,
    isolate: bool = False,
) -> Comparison:
    """Run `model` and compare each value that the other run has, too.

    Args:
        feeds: arrays for the inputs of `model`; float32 for an input of codes is quantized, by eq. (1).
        expected: the other run's arrays by the names of values in `model`. A value may be float32 where `model` has
            codes; an inner one may be channels first where `model` has channels last.
        isolate: each op works on the other run's values where there are any, quantized where they are floats and the
            model's are not, so that a difference shows at the op that makes it and nowhere behind it.

    Raises:
        InputError: the feeds do not fit, or the two runs have no value in common.
    """
    arrays = check_feeds(model, as_inputs(model, feeds))
    dims = bind_dims(model, arrays)
    rows: list[Row] = []
    alone: list[str] = []
    makers = {name: op for op in model.ops for name in op.outputs}

    def observe(name: str, type: TensorType, array: Array) -> Array | None:
        other = np.asarray(expected[name]) if name in expected else None
        if other is None or not _comparable(type, other):
            aligned = None
        else:
            codes = type.quant is not None and _is_real(other)
            values = Tensor(type, array).real() if codes else array
            aligned = other if name in model.outputs else _aligned(values, other)
            aligned = aligned if aligned is not None and aligned.shape == array.shape else None
        if aligned is None:
            alone.append(name)
            return None
        row = difference(type, array, aligned, step_of(model, name))
        rows.append(replace(row, name=name, op=makers[name].name))
        return _as_type(type, aligned) if isolate else None

    with np.errstate(all="ignore"):
        ReferenceBackend(model).run(arrays, dims, (), observe)
    if not rows:
        raise InputError(
            f"the two runs have no value in common; here there are {', '.join(alone[:8])}, "
            f"there {', '.join(list(expected)[:8])}"
        )
    return Comparison(tuple(rows), tuple(alone), _hint(rows, makers))


def _hint(rows: Iterable[Row], makers: Mapping[str, Op]) -> str:
    first = next((row for row in rows if isinstance(makers[row.name], ProductOp)), None)
    if first is None or first.snr >= UNRELATED_SNR:
        return ""
    return "from the first layer on nothing agrees: are these the same weights?"


def as_inputs(model: Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """`feeds` with float arrays for inputs that are codes quantized to these, by eq. (1)."""
    return {
        name: _as_type(model.types[name], np.asarray(array))
        if name in model.inputs and model.types[name].is_codes and _is_real(np.asarray(array))
        else array
        for name, array in feeds.items()
    }


def as_reals(model: Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """`feeds` with codes for inputs that are quantized as the real numbers that they stand for: eq. (2)."""
    return {
        name: Tensor(model.types[name], np.asarray(array)).real()
        if name in model.inputs
        and model.types[name].is_codes
        and np.asarray(array).dtype == model.types[name].numpy
        else array
        for name, array in feeds.items()
    }


def step_of(model: Model, name: str) -> float | None:
    """The scale of the 8-bit codes that a float32 value is dequantized from, if it is one; else None."""
    makers = {made: op for op in model.ops for made in op.outputs}
    op = makers.get(name)
    while isinstance(op, (Reshape, Transpose)):
        op = makers.get(op.inputs[0])
    if not isinstance(op, Dequantize):
        return None
    type = model.types[op.inputs[0]]
    if not type.is_codes or type.quant is None or type.quant.axis is not None:
        return None
    return type.quant.scale[0]


def _is_real(array: Array) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _comparable(type: TensorType, other: Array) -> bool:
    """Whether the difference of a value of `type` and `other` means anything."""
    if type.is_float:
        return _is_real(other)
    if type.quant is None:
        return not _is_real(other)
    return _is_real(other) or other.dtype == type.numpy


def _as_type(type: TensorType, array: Array) -> Array:
    """`array` as data of `type`; real numbers are quantized if that is quantized."""
    if type.quant is None or not _is_real(array):
        return array.astype(type.numpy)
    scale, zero_point = map(type.along_axis, (type.scale, type.zero_point))
    codes = rounding.quantize(array, scale, zero_point).astype(np.float64)
    return np.clip(codes, *type.code_range).astype(type.numpy)


def values_of(model: Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Every value that an op of `model` makes, by name, for `compare` of another model. Raises InputError."""
    arrays = check_feeds(model, as_inputs(model, feeds))
    values: dict[str, Array] = {}

    def observe(name: str, type: TensorType, array: Array) -> None:
        values[name] = array

    with np.errstate(all="ignore"):
        ReferenceBackend(model).run(arrays, bind_dims(model, arrays), (), observe)
    return values


def _aligned(array: Array, other: Array) -> Array | None:
    """`other` in the axis order of `array`; None if its size is another.

    The order is the same, or one is channels last and the other channels first; of these, what agrees best. Any other
    order is taken only if none of these has the shape, so that axes in a wrong order show as differences.
    """
    if other.size != array.size or other.ndim != array.ndim:
        same = other.size == array.size and [n for n in other.shape if n > 1] == [
            n for n in array.shape if n > 1
        ]
        return other.reshape(array.shape) if same else None
    rank = array.ndim
    likely = [tuple(range(rank))]
    if rank > 2:
        likely += [(0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1))]
    best = _best(array, other, likely)
    if best is None and rank <= MAX_ORDERED_RANK:
        best = _best(array, other, itertools.permutations(range(rank)))
    return best


def _best(array: Array, other: Array, orders: Iterable[tuple[int, ...]]) -> Array | None:
    """`other` in the one of these axis orders that has the shape of `array` and the least distance to it."""
    fitting: Iterator[Array] = (other.transpose(order) for order in orders)
    candidates = [candidate for candidate in fitting if candidate.shape == array.shape]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    return min(candidates, key=lambda candidate: _distance(array, candidate))


def _distance(array: Array, other: Array) -> float:
    with np.errstate(all="ignore"):
        return float(np.nansum(np.abs(array.astype(np.float64) - other.astype(np.float64))))


def difference(type: TensorType, array: Array, other: Array, step: float | None = None) -> Row:
    """How far `array`, of `type`, is from `other`; a row without names.

    Args:
        other: of the same shape; integers of the same dtype, or real numbers if `type` is float32 or quantized.
        step: of a float32 value, the scale of the codes that it is dequantized from, if any.
    """
    if type.quant is not None:
        real = Tensor(type, array).real()
        real_other = other if _is_real(other) else Tensor(type, other).real()
    else:
        real, real_other = array, other
    if not _is_real(other):
        unit = "codes"
        gaps = np.abs(array.astype(np.int64) - other.astype(np.int64)).astype(np.float64)
    elif type.is_codes:
        unit = "steps"
        scale, zero_point = map(type.along_axis, (type.scale, type.zero_point))
        low, high = (scale * np.float32(end - zero_point) for end in type.code_range)
        gaps = _gaps(real, np.clip(other, low, high)) / scale
        gaps = np.maximum(np.ceil(gaps - 0.5 - SAME_STEP), 0)
    elif step is not None:
        unit = "steps"
        gaps = _gaps(real, other) / step
        whole = np.rint(gaps)
        gaps = np.where(np.abs(gaps - whole) <= SAME_STEP, whole, gaps)
    else:
        unit = "ratio"
        magnitude = float(np.abs(np.where(np.isfinite(other), other, 0)).max(initial=0))
        gaps = _gaps(real, other)
        gaps = gaps / magnitude if magnitude else np.where(gaps > 0, np.inf, 0.0)
    differing, largest = int(np.count_nonzero(gaps)), float(gaps.max(initial=0))
    return Row("", "", unit, array.size, differing, largest, _snr(real, real_other))


def _gaps(array: Array, other: Array) -> Array:
    """float64: how far floats are from floats; 0 for what is equal, NaN too, and infinity for NaN and a number."""
    equal = (array == other) | (np.isnan(array) & np.isnan(other))
    with np.errstate(all="ignore"):
        gaps = np.where(equal, 0, np.abs(array.astype(np.float64) - other))
    return np.where(np.isnan(gaps), np.inf, gaps)


def _snr(array: Array, other: Array) -> float:
    array, other = array.astype(np.float64), other.astype(np.float64)
    noise = float(np.sum(_gaps(array, other) ** 2))
    signal = float(np.sum(np.where(np.isfinite(other), other, 0) ** 2))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf
