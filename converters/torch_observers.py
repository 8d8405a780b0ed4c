"""The observers of torch.ao.quantization: the same scales and zero points, to the bit, without torch.

They are for quantizing as a torch recipe does, or for comparing with one; what nprt chooses by
itself is in `observers.py` and `quantize.py`. The formulas, every operation rounded to float32, with
codes from ``qmin`` to ``qmax``, a range ``[low, high]``, ``least = min(low, 0)``, ``most = max(high, 0)``:

    affine          S = max((most - least) / (qmax - qmin), eps)
                    Z = clip(qmin - rint(least / S), qmin, qmax)                                     (T1)
    symmetric       S = max(max(-least, most) / ((qmax - qmin) / 2), eps)
                    Z = 0 for qint8; 128 for quint8, or floor((qmin + qmax) / 2) of given codes      (T2)
    float_qparams   S = (high - low) / (qmax - qmin), or 1 if that is not above eps
                    Z = -low / S, a float32                                                          (T3)

They differ from eq. (17) and (18) of `docs/quantization.md`: those divide in float64, (18) by 127
where (T2) has 127.5, and constant zeros have scale 1 there, ``eps`` here.

Everything but ``HistogramObserver`` is plain elementwise arithmetic. That one has sums of float32,
whose bits depend on their order; the order here is the one of torch on x86-64 with AVX2 or better,
which does not depend on the number of threads. On other CPUs torch itself gives other histograms,
and can give another range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nprt.converters.observers import (
    FLOAT32_MAX,
    MinMax,
    MovingAverage,
    averaged,
    check_averaging_constant,
    extremes,
    nothing_seen,
)
from nprt.rounding import fma

__all__ = [
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "PerChannelMinMaxObserver",
    "choose_qparams_torch",
]

Float32s = NDArray[np.float32]

EPS = 2.0**-23  # torch.finfo(torch.float32).eps

# The codes of a dtype, all of them and with one bit less. torch takes either name.
CODES = {"int8": (-128, 127), "uint8": (0, 255)}
REDUCED_CODES = {"int8": (-64, 63), "uint8": (0, 127)}
DTYPES = {"qint8": "int8", "quint8": "uint8", "int8": "int8", "uint8": "uint8"}

PER_TENSOR = ("per_tensor_affine", "per_tensor_symmetric")
PER_CHANNEL = (
    "per_channel_affine",
    "per_channel_symmetric",
    "per_channel_affine_float_qparams",
)

UPSAMPLING = 16  # a bin is cut into so many before it is spread over the bins of a wider histogram
QUANTILE_STEP = 1e-5  # by which the search moves one end of the range
TARGET_BINS = 256  # codes that the search reckons with, whatever qmin and qmax
LANES, UNROLLED, LEVELS = 8, 4, 4  # the shape of a float32 sum, see `cascade_sum`


# --- ranges to parameters ---


def choose_qparams_torch(
    low: ArrayLike,
    high: ArrayLike,
    *,
    dtype: str = "quint8",
    qscheme: str = "per_tensor_affine",
    quant_min: int | None = None,
    quant_max: int | None = None,
    reduce_range: bool = False,
    eps: float = EPS,
) -> tuple[Float32s, NDArray[Any]]:
    """Scale and zero point for reals in ``[low, high]``, as torch's observers have them: (T1) to (T3).

    ``low``, ``high``  numbers, or one for each channel; they are rounded to float32.
    ``dtype``          "qint8" or "quint8"; "int8" and "uint8" mean the same.
    ``qscheme``        "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine",
                       "per_channel_symmetric" or "per_channel_affine_float_qparams". Per tensor and
                       per channel have the same formula.
    ``quant_min``, ``quant_max``  the codes to use, both or none; 0 is among them, and they are at
                       most 256. As in torch they need not be codes of ``dtype``.
    ``reduce_range``   one bit less: [-64, 63], [0, 127], or half of each of the given ends, rounded
                       down. As in torch, the zero point of symmetric quint8 stays 128.
    ``eps``            the least scale, above 0; it is rounded to float32.

    Returns the scale, float32, and the zero point, int32 (float32 for (T3)), both of shape
    (channels,), which is (1,) for numbers. Ties of ``least / S`` go to even.

    ValueError: names or codes other than these; ``low > high``, values that are not finite, shapes
    that differ; ``high - low`` too wide for float32 (torch's scale is infinite then).
    """
    qmin, qmax = code_range(dtype, quant_min, quant_max, reduce_range)
    if qscheme not in PER_TENSOR + PER_CHANNEL:
        raise ValueError(
            f"qscheme {qscheme!r} is unknown; there are {', '.join(PER_TENSOR + PER_CHANNEL)}"
        )
    lows = np.atleast_1d(np.asarray(low, dtype=np.float32))
    highs = np.atleast_1d(np.asarray(high, dtype=np.float32))
    if lows.shape != highs.shape or lows.ndim != 1:
        raise ValueError(
            f"low and high must be two numbers, or have the same shape (channels,); got "
            f"{lows.shape} and {highs.shape}"
        )
    bad = ~(np.isfinite(lows) & np.isfinite(highs) & (lows <= highs))
    if np.any(bad):
        raise ValueError(
            f"a range must be finite, with low <= high; got [{lows[bad][0]}, {highs[bad][0]}]. Check "
            "the values that it was taken from for NaN and infinities."
        )
    floor = least_scale(eps)
    least, most = np.minimum(lows, np.float32(0)), np.maximum(highs, np.float32(0))

    if qscheme.endswith("symmetric"):  # (T2)
        scale = np.maximum(np.maximum(-least, most) / np.float32((qmax - qmin) / 2), floor)
        middle = 0
        if DTYPES[dtype] == "uint8":
            middle = 128 if quant_min is None else (qmin + qmax) // 2
        return scale, np.full(scale.shape, middle, dtype=np.int32)

    if qscheme.endswith("float_qparams"):  # (T3)
        scale = spread(lows, highs) / np.float32(qmax - qmin)
        scale = np.where(scale > floor, scale, np.float32(1))
        return scale, -lows / scale

    scale = np.maximum(spread(least, most) / np.float32(qmax - qmin), floor)  # (T1)
    zero_point = qmin - np.rint(least / scale).astype(np.int32)
    return scale, np.clip(zero_point, qmin, qmax).astype(np.int32)


def code_range(
    dtype: str, quant_min: int | None, quant_max: int | None, reduce_range: bool
) -> tuple[int, int]:
    """The least and the greatest code. ValueError as `choose_qparams_torch`."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; there are {', '.join(DTYPES)}")
    if quant_min is None and quant_max is None:
        return (REDUCED_CODES if reduce_range else CODES)[DTYPES[dtype]]
    if quant_min is None or quant_max is None:
        raise ValueError(
            f"give both quant_min and quant_max, or neither; got {quant_min} and {quant_max}"
        )
    half = 2 if reduce_range else 1
    qmin, qmax = quant_min // half, quant_max // half
    if not (qmin <= 0 <= qmax and qmin < qmax and quant_max - quant_min < 256):
        raise ValueError(
            f"[quant_min, quant_max] must hold 0 and from 2 to 256 codes; got [{quant_min}, "
            f"{quant_max}]" + (f", reduced to [{qmin}, {qmax}]" if reduce_range else "")
        )
    return qmin, qmax


def least_scale(eps: float) -> np.float32:
    floor = np.float32(eps)
    if not 0.0 < floor < math.inf:
        raise ValueError(f"eps must be a positive float32, got {eps}; 2**-23 is usual")
    return floor


def spread(low: Float32s, high: Float32s) -> Float32s:
    """``high - low`` in float32. ValueError where it overflows."""
    with np.errstate(over="ignore"):
        difference = high - low
    if not np.all(np.isfinite(difference)):
        raise ValueError(
            f"the range [{low.min()}, {high.max()}] is too wide: high - low overflows float32. Check "
            "the calibration samples for values near the end of float32, or keep this tensor in float."
        )
    return difference


# --- observers of ranges ---


@dataclass(kw_only=True, eq=False)
class TorchObserver:
    """What all observers here have in common: the options of `choose_qparams_torch`, with its errors.

    An observer is fed with ``update(values)``, float32 of any shape, batch after batch; empty
    batches are skipped. ``range()`` is the range so far and ``qparams()`` its scale and zero point,
    shaped as `choose_qparams_torch` returns them. Both may be called at any time.

    The errors are those of ``observers.Observer``, and a batch that raises leaves no trace: TypeError
    for another dtype, ValueError for NaN and infinities, and ValueError where nothing was seen. torch
    warns or goes on in these cases.
    """

    dtype: str = "quint8"
    qscheme: str = "per_tensor_affine"
    quant_min: int | None = None
    quant_max: int | None = None
    reduce_range: bool = False
    eps: float = EPS

    schemes: ClassVar[tuple[str, ...]] = PER_TENSOR

    def __post_init__(self) -> None:
        code_range(self.dtype, self.quant_min, self.quant_max, self.reduce_range)
        least_scale(self.eps)
        if self.qscheme not in self.schemes:
            raise ValueError(
                f"{type(self).__name__} has no qscheme {self.qscheme!r}; use "
                f"{' or '.join(self.schemes)}"
            )

    def _expect_zero_point_in_range(self) -> None:
        """Refuses what torch refuses: 128 is not in [0, 127]."""
        symmetric = self.qscheme.endswith("symmetric")
        if symmetric and self.reduce_range and DTYPES[self.dtype] == "uint8":
            raise ValueError(
                f"{type(self).__name__} cannot reduce the range of symmetric {self.dtype}; use "
                "qint8, or an affine qscheme, or quant_min=0 and quant_max=127 without reduce_range"
            )

    def update(self, values: Float32s) -> None:
        raise NotImplementedError

    def range(self) -> tuple[Any, Any]:
        raise NotImplementedError

    def qparams(self) -> tuple[Float32s, NDArray[Any]]:
        """Scale and zero point of what was seen so far: torch's ``calculate_qparams()``."""
        low, high = self.range()
        return choose_qparams_torch(
            low,
            high,
            dtype=self.dtype,
            qscheme=self.qscheme,
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            reduce_range=self.reduce_range,
            eps=self.eps,
        )


@dataclass(kw_only=True, eq=False)
class MinMaxObserver(TorchObserver):
    """torch's MinMaxObserver: the least and the greatest value seen, `observers.MinMax`.

    ValueError also for symmetric quint8 with ``reduce_range``, as in torch.
    """

    statistic: MinMax | MovingAverage = field(default_factory=MinMax, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_zero_point_in_range()

    def update(self, values: Float32s) -> None:
        self.statistic.update(values)

    def range(self) -> tuple[float, float]:
        return self.statistic.range()


@dataclass(kw_only=True, eq=False)
class MovingAverageMinMaxObserver(MinMaxObserver):
    """torch's MovingAverageMinMaxObserver: `observers.MovingAverage`, which states its contract."""

    averaging_constant: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self.statistic = MovingAverage(averaging_constant=self.averaging_constant)


@dataclass(kw_only=True, eq=False)
class PerChannelMinMaxObserver(TorchObserver):
    """torch's PerChannelMinMaxObserver: the least and the greatest value of each channel.

    ``ch_axis``: the axis of the channels, negative ones from the end. Values have two axes or more,
    and in every batch the same number of channels; ValueError otherwise, and for symmetric quint8
    with ``reduce_range``. ``range()`` gives two float32 arrays of shape (channels,).
    """

    qscheme: str = "per_channel_affine"
    ch_axis: int = 0
    bounds: tuple[Float32s, Float32s] | None = field(default=None, init=False, repr=False)

    schemes: ClassVar[tuple[str, ...]] = PER_CHANNEL

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_zero_point_in_range()

    def update(self, values: Float32s) -> None:
        if extremes(values) is None:
            return
        if values.ndim < 2 or not -values.ndim <= self.ch_axis < values.ndim:
            raise ValueError(
                f"values of shape {values.shape} have no channels on axis {self.ch_axis}: they need "
                "two axes or more, this one among them. Set ch_axis, or observe them per tensor."
            )
        others = tuple(i for i in range(values.ndim) if i != self.ch_axis % values.ndim)
        low, high = values.min(axis=others), values.max(axis=others)
        if self.bounds is None:
            self.bounds = low, high
        elif low.shape != self.bounds[0].shape:
            raise ValueError(
                f"values of shape {values.shape} have {low.size} channels on axis {self.ch_axis}; "
                f"the batches before had {self.bounds[0].size}. Check ch_axis and the samples."
            )
        else:
            self.bounds = self._combined(self.bounds, (low, high))

    def _combined(
        self, old: tuple[Float32s, Float32s], new: tuple[Float32s, Float32s]
    ) -> tuple[Float32s, Float32s]:
        return np.minimum(old[0], new[0]), np.maximum(old[1], new[1])

    def range(self) -> tuple[Float32s, Float32s]:
        if self.bounds is None:
            raise nothing_seen()
        return self.bounds


@dataclass(kw_only=True, eq=False)
class MovingAveragePerChannelMinMaxObserver(PerChannelMinMaxObserver):
    """torch's MovingAveragePerChannelMinMaxObserver: `observers.MovingAverage` for each channel."""

    averaging_constant: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_averaging_constant(self.averaging_constant)

    def _combined(
        self, old: tuple[Float32s, Float32s], new: tuple[Float32s, Float32s]
    ) -> tuple[Float32s, Float32s]:
        low, high = averaged(
            np.array(old, np.float64), np.array(new, np.float64), self.averaging_constant
        )
        return low.astype(np.float32), high.astype(np.float32)

    def range(self) -> tuple[Float32s, Float32s]:
        low, high = super().range()
        return np.minimum(low, high), np.maximum(low, high)


# --- the observer of a histogram ---


@dataclass(kw_only=True, eq=False)
class HistogramObserver(TorchObserver):
    """torch's HistogramObserver: the range with the least squared error, found from a histogram.

    ``bins``: equal bins between the least and the greatest value seen. Where a batch widens that
    range, the bins so far are cut in 16 and each piece goes to the bin of its middle. The range is
    narrowed from both ends, by quantiles of 1e-5, until the expected error grows; it may exceed the
    greatest value by rounding. Unlike `observers.Mse`, it depends on the order of the batches.

    ``histogram`` float32 (bins,), from ``minimum`` to ``maximum``. A bin holds up to 2**24 values
    exactly; torch counts a batch with more than that in one bin by number of threads.

    ValueError also where ``(maximum - minimum) * bins`` overflows float32; torch's histogram is
    meaningless then. torch does not refuse ``reduce_range`` for symmetric quint8 here, whose zero point is 128.
    """

    bins: int = 2048
    histogram: Float32s = field(init=False, repr=False)
    minimum: np.float32 = field(default=np.float32(math.inf), init=False, repr=False)
    maximum: np.float32 = field(default=np.float32(-math.inf), init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins < 1:
            raise ValueError(f"bins must be at least 1, got {self.bins}")
        self.histogram = np.zeros(self.bins, dtype=np.float32)

    def update(self, values: Float32s) -> None:
        seen = extremes(values)
        if seen is None:
            return
        low = min(np.float32(seen[0]), self.minimum)
        high = max(np.float32(seen[1]), self.maximum)
        self._expect_room(float(low), float(high))
        counts = count(values, low, high, self.bins)
        if self.minimum <= self.maximum:
            counts += self._stretched(low, high)
        self.histogram, self.minimum, self.maximum = counts, low, high

    def _expect_room(self, low: float, high: float) -> None:
        if (high - low) * self.bins > FLOAT32_MAX:
            raise ValueError(
                f"values from {low} to {high} are too far apart for {self.bins} bins: (maximum - "
                "minimum) * bins overflows float32. Check the calibration samples for values near the "
                "end of float32, or use MinMaxObserver."
            )

    def _stretched(self, low: np.float32, high: np.float32) -> Float32s:
        """The histogram so far, over ``[low, high]``, which holds its range."""
        if (low, high) == (self.minimum, self.maximum):
            return self.histogram
        if self.minimum == self.maximum:
            one_value = np.array([self.minimum])
            return count(one_value, low, high, self.bins) * cascade_sum(self.histogram)
        pieces = self.bins * UPSAMPLING
        weights = np.repeat(self.histogram, UPSAMPLING) / np.float32(UPSAMPLING)
        width = (self.maximum - self.minimum) / np.float32(pieces)
        middles = linspace(self.minimum, self.maximum, pieces + 1)[:-1] + np.float32(0.5) * width
        edges = linspace(low, high, self.bins + 1)
        target = np.searchsorted(edges, middles, side="right") - 1
        stretched = np.zeros(self.bins, dtype=np.float32)
        np.add.at(stretched, np.clip(target, 0, self.bins - 1), weights)  # in float32, in order
        return stretched

    def range(self) -> tuple[float, float]:
        if self.minimum > self.maximum:
            raise nothing_seen()
        start, end = self._search()
        width = (self.maximum - self.minimum) / np.float32(self.bins)
        low = self.minimum + width * np.float32(start)
        high = self.minimum + width * np.float32(end + 1)
        return float(low), float(high)

    def _search(self) -> tuple[int, int]:
        """The first and the last bin of the range."""
        total = float(cascade_sum(self.histogram))
        cumulated = np.cumsum(self.histogram, dtype=np.float64).astype(np.float32)
        steps = np.full(round(1 / QUANTILE_STEP) + 2, QUANTILE_STEP)
        alphas = np.add.accumulate(np.append(0.0, steps))  # one rounding per step, as in torch
        betas = np.subtract.accumulate(np.append(1.0, steps))
        firsts = np.searchsorted(cumulated, (alphas * total).astype(np.float32), side="left")
        lasts = np.searchsorted(cumulated, (betas * total).astype(np.float32), side="right") - 1
        alpha, beta, first, last = (a.tolist() for a in (alphas, betas, firsts, lasts))

        i = j = 0  # steps taken from below, from above
        start, end = 0, self.bins - 1
        least_error = math.inf
        while alpha[i] < beta[j]:
            left = min(max(first[i + 1], start), end)
            right = max(min(last[j + 1], end), start)
            new_start, new_end = start, end
            if left - start > end - right:
                new_start = left
                i += 1
            else:
                new_end = right
                j += 1
            if (new_start, new_end) == (start, end):
                continue
            error = self._quantization_error(new_start, new_end)
            if error > least_error:
                break
            least_error, start, end = error, new_start, new_end
        return start, end

    def _quantization_error(self, start: int, end: int) -> float:
        """Squared error, float32, of 256 codes over the bins from ``start`` to ``end``.

        Values lie evenly in their bin. A bin reaches from one code's cell to another's, which it
        covers in part, and covers the cells in between as a whole.
        """
        exact_width = (float(self.maximum) - float(self.minimum)) / self.bins
        exact_cell = exact_width * (end - start + 1) / TARGET_BINS
        if exact_cell == 0.0:
            return 0.0
        width, cell, half = (
            np.float32(exact_width),
            np.float32(exact_cell),
            np.float32(exact_cell / 2),
        )
        with np.errstate(all="ignore"):  # a width of 0 in float32: infinities and NaN, as in torch
            density = self.histogram / width
            begins = (np.arange(self.bins) - start).astype(np.float32) * width
            ends = begins + width
            first = np.clip(np.floor_divide(begins, cell), 0, TARGET_BINS - 1)
            last = np.clip(np.floor_divide(ends, cell), 0, TARGET_BINS - 1)
            first_centre = (first + np.float32(0.5)) * cell
            last_centre = last * cell + half
            error = second_moment(begins - first_centre, half, density)
            error = error + (last - first - np.float32(1)) * second_moment(-half, half, density)
            error = error + second_moment(-half, ends - last_centre, density)
            return float(cascade_sum(error))


def second_moment(begin: Any, end: Any, density: Float32s) -> Float32s:
    """``density`` times the integral of x**2 from ``begin`` to ``end``, in float32."""
    return density * ((end * end * end - begin * begin * begin) / np.float32(3))


def count(values: Float32s, low: np.float32, high: np.float32, bins: int) -> Float32s:
    """How many values, all in ``[low, high]``, are in each of equal bins; float32 (bins,).

    A value on an edge belongs to the bin above, to within the rounding of float32. If ``low ==
    high``, all are in the middle bin: torch's has another place, but no use is made of it.
    """
    flat = values.reshape(-1)
    if low == high:
        places = np.full(flat.size, bins // 2)
    else:
        places = ((flat - low) * np.float32(bins) / (high - low)).astype(np.intp)
    return np.bincount(np.minimum(places, bins - 1), minlength=bins).astype(np.float32)


def linspace(low: np.float32, high: np.float32, points: int) -> Float32s:
    """``points`` numbers from ``low`` to ``high``: float32 steps from the nearer end, rounded once."""
    step = (high - low) / np.float32(points - 1)
    place = np.arange(points)
    upwards = fma(step, place.astype(np.float32), np.asarray(low))
    downwards = fma(-step, (points - 1 - place).astype(np.float32), np.asarray(high))
    return np.where(place < points // 2, upwards, downwards)


def cascade_sum(values: Float32s) -> np.float32:
    """The sum of float32 ``values`` (n,) in float32, in torch's order.

    A register holds 8 lanes (1 if n < 8) and a row 4 registers. Blocks of 16 rows are added up in
    four levels, where a level passes its sum on to the next after 16 blocks of its own (more, if
    there are 2**20 rows); then the levels are added, the registers, the lanes, in order. Registers
    that fill no row are added to the first register, and single values come before the lanes.
    """
    lanes = LANES if values.size >= LANES else 1
    width = lanes * UNROLLED
    whole, registers = values.size // width, values.size // lanes
    rows = values[: whole * width].reshape(whole, width)
    power = max(4, max(whole - 1, 0).bit_length() // LEVELS)
    block = 1 << power
    levels = np.zeros((LEVELS, width), dtype=np.float32)
    done = 0
    for done in range(block, whole + 1, block):
        levels[0] = in_order(rows[done - block : done])
        for level in range(1, LEVELS):
            levels[level] += levels[level - 1]
            levels[level - 1] = 0
            if done & ((block - 1) << (level * power)):
                break
    levels[0] = in_order(np.concatenate([levels[:1], rows[done:]]))
    parts = in_order(levels).reshape(UNROLLED, lanes)
    rest = values[whole * width : registers * lanes].reshape(-1, lanes)
    register = in_order(np.concatenate([parts[:1], rest, parts[1:]]))
    tail = in_order(np.append(np.float32(0), values[registers * lanes :]))
    return np.float32(in_order(np.append(tail, register)))


def in_order(rows: Float32s) -> Float32s:
    """The sum over the first axis, one row after the other; `sum` would add in pairs."""
    total: Float32s = np.add.accumulate(rows, axis=0, dtype=np.float32)[-1]
    return total
