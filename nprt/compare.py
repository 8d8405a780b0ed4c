"""Two runs of one network, op by op: where they part, by how much, and how often."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from nprt.errors import InputError
from nprt.ir import Array, Model, Op, Tensor, TensorType
from nprt.reference import ReferenceBackend
from nprt.session import bind_dims, check_feeds

# Axis orders are tried for values of at most so many dimensions; a model is channels last where its source is not.
MAX_ORDERED_RANK = 5


@dataclass(frozen=True)
class Row:
    """One value of the model beside the other run's.

    Attributes:
        name, op: the value, and the op that makes it.
        codes: whether it is integers; floats otherwise.
        compared, differing: how many elements there are, and how many are not equal.
        largest: the largest difference: in codes; or, of floats, relative to the largest magnitude of the other run.
        snr: signal-to-noise ratio in dB, of real numbers; infinite where all are equal.
    """

    name: str
    op: str
    codes: bool
    compared: int
    differing: int
    largest: float
    snr: float

    def exceeds(self, codes: float, floats: float) -> bool:
        """Whether the largest difference is beyond what is tolerated."""
        return self.largest > (codes if self.codes else floats)


@dataclass(frozen=True)
class Comparison:
    """The rows in execution order, and the names of values without a counterpart."""

    rows: tuple[Row, ...]
    alone: tuple[str, ...]

    def first_beyond(self, codes: float = 0, floats: float = 1e-5) -> Row | None:
        """The first value that differs by more than so many codes, or by more than so much of the largest float."""
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
        feeds: arrays for the inputs of `model`.
        expected: the other run's arrays by the names of values in `model`. A value may have its axes in another order.
        isolate: each op works on the other run's values where there are any, so that a difference shows at the op that
            makes it and nowhere behind it.

    Raises:
        InputError: the feeds do not fit, or the two runs have no value in common.
    """
    arrays = check_feeds(model, feeds)
    dims = bind_dims(model, arrays)
    rows: list[Row] = []
    alone: list[str] = []
    makers = {name: op for op in model.ops for name in op.outputs}

    def observe(name: str, type: TensorType, array: Array) -> Array | None:
        other = expected.get(name)
        aligned = None if other is None else _aligned(array, np.asarray(other))
        if aligned is None:
            alone.append(name)
            return None
        rows.append(_row(name, makers[name], type, array, aligned))
        return aligned.astype(array.dtype) if isolate else None

    with np.errstate(all="ignore"):
        ReferenceBackend(model).run(arrays, dims, (), observe)
    if not rows:
        raise InputError(
            f"the two runs have no value in common; here there are {', '.join(alone[:8])}, "
            f"there {', '.join(list(expected)[:8])}"
        )
    return Comparison(tuple(rows), tuple(alone))


def values_of(model: Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Every value that an op of `model` makes, by name, for `compare` of another model. Raises InputError."""
    arrays = check_feeds(model, feeds)
    values: dict[str, Array] = {}

    def observe(name: str, type: TensorType, array: Array) -> None:
        values[name] = array

    with np.errstate(all="ignore"):
        ReferenceBackend(model).run(arrays, bind_dims(model, arrays), (), observe)
    return values


def _aligned(array: Array, other: Array) -> Array | None:
    """`other` in the axis order of `array`; of several that fit, the one that agrees best. None if none fits."""
    if other.size != array.size or other.ndim != array.ndim:
        same = other.size == array.size and [n for n in other.shape if n > 1] == [
            n for n in array.shape if n > 1
        ]
        return other.reshape(array.shape) if same else None
    if array.ndim > MAX_ORDERED_RANK:
        return other if other.shape == array.shape else None
    best: Array | None = None
    fewest = math.inf
    for order in _orders(array.ndim):
        candidate = other.transpose(order)
        if candidate.shape != array.shape:
            continue
        differing = int(np.count_nonzero(candidate != array))
        if differing < fewest:
            best, fewest = candidate, differing
        if not differing:
            break
    return best


def _orders(rank: int) -> Iterator[tuple[int, ...]]:
    """Axis orders, the likely ones first: as it is, channels last, channels first."""
    likely = [tuple(range(rank))]
    if rank > 2:
        likely += [(0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1))]
    yield from likely
    yield from (order for order in itertools.permutations(range(rank)) if order not in likely)


def _row(name: str, op: Op, type: TensorType, array: Array, other: Array) -> Row:
    return replace(difference(type, array, other), name=name, op=op.name)


def difference(type: TensorType, array: Array, other: Array) -> Row:
    """How far `array` is from `other`, both of `type`; a row without names."""
    codes = not type.is_float
    if codes:
        gaps = np.abs(array.astype(np.int64) - other.astype(np.int64)).astype(np.float64)
        differing = int(np.count_nonzero(gaps))
        largest = float(gaps.max(initial=0))
        real, real_other = (
            Tensor(type, values.astype(type.numpy)).real() if type.quant else values
            for values in (array, other)
        )
    else:
        real, real_other = array, other
        equal = (array == other) | (np.isnan(array) & np.isnan(other))
        differing = int(array.size - np.count_nonzero(equal))
        magnitude = float(np.abs(np.where(np.isfinite(other), other, 0)).max(initial=0))
        gap = float(np.where(equal, 0, np.abs(array.astype(np.float64) - other)).max(initial=0))
        largest = gap / magnitude if magnitude else (math.inf if gap else 0.0)
        largest = math.inf if math.isnan(largest) else largest
    return Row("", "", codes, array.size, differing, largest, _snr(real, real_other))


def _snr(array: Array, other: Array) -> float:
    noise = float(np.sum((array.astype(np.float64) - other.astype(np.float64)) ** 2))
    signal = float(np.sum(other.astype(np.float64) ** 2))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf
