"""Calibration statistics: what a tensor's values were, and the range to quantize it over.

An observer is fed the float values of one tensor, batch after batch, and then names a range
``(lo, hi)``. All state has a fixed size: it depends neither on the number of batches nor on their
size, and no observer keeps a sample.

Three of them (``Percentile``, ``Entropy``, ``Mse``) choose the range from one exact streaming
``Histogram``; the order of the data and its split into batches do not change their answer by a bit.

The range is in the units of the tensor. It need not contain zero: whoever turns it into a scale and
a zero point widens it to contain zero first. It never reaches past the observed data, except that
a symmetric range ``(-t, t)`` does so on the side that has the smaller magnitude.
"""

from __future__ import annotations

import copy
import math
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "OBSERVERS",
    "Entropy",
    "Histogram",
    "MinMax",
    "MovingAverage",
    "Mse",
    "Observer",
    "ObserverFactory",
    "Percentile",
    "make_observer",
]

CHUNK = 1 << 15  # values binned at a time: the scratch of an update stays in the L2 cache
BLOCK = 1 << 17  # elements of a (candidates, bins) table held at a time while choosing a range
DENORMAL_EXPONENT = -149  # 2**-149 is the smallest positive float32
SIGNIFICAND = 24  # bits in the significand of a float32
FLOAT32_MAX = float(np.finfo(np.float32).max)


@runtime_checkable
class Observer(Protocol):
    """What a calibration needs from a statistic; any class with these two methods will do."""

    def update(self, values: NDArray[np.float32]) -> None:
        """Take in ``values``: float32, any shape, possibly empty, any number of times.

        TypeError: another dtype. ValueError: NaN or infinity among them; nothing of that
        batch is then counted, and the observer may go on being used.
        """
        ...

    def range(self) -> tuple[float, float]:
        """The range ``(lo, hi)``, ``lo <= hi``, both finite. ValueError: no value was seen."""
        ...


def extremes(values: NDArray[np.float32]) -> tuple[float, float] | None:
    """Smallest and largest of ``values`` (float32, any shape), or None when there are none.

    Both are exact; a negative zero comes back as zero. TypeError unless float32; ValueError when
    a value is NaN or infinite.
    """
    if not isinstance(values, np.ndarray) or values.dtype != np.float32:
        found = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise TypeError(f"an observer takes a float32 array, got {found}")
    if values.size == 0:
        return None
    low, high = float(values.min()), float(values.max())  # NaN wins over every number in both
    if not (math.isfinite(low) and math.isfinite(high)):
        nans = int(np.count_nonzero(np.isnan(values)))
        infinities = int(np.count_nonzero(np.isinf(values)))
        raise ValueError(
            f"{nans + infinities} of {values.size} values are not finite ({nans} NaN, {infinities} "
            "infinite), and a range cannot be taken from them. Check the calibration samples and "
            "their preprocessing (a division by zero, a missing value, a wrong dtype), and that "
            "the float model gives finite values for these samples. If it holds infinities on "
            "purpose (an attention mask), use a large finite number or keep this tensor in float."
        )
    return low + 0.0, high + 0.0  # -0.0 + 0.0 is 0.0


def nothing_seen() -> ValueError:
    return ValueError(
        "no value was observed, so there is no range: run at least one non-empty batch of "
        "calibration samples through the model"
    )


def symmetric_about_zero(low: float, high: float) -> tuple[float, float]:
    bound = max(abs(low), abs(high))
    return -bound, bound


def averaged(
    old: NDArray[np.float64], new: NDArray[np.float64], constant: float
) -> NDArray[np.float64]:
    """``old + constant * (new - old)``, elementwise, of float32 values, each step in float32.

    Each operation in float64 on float32 values, rounded to float32, is the float32 one. Where the
    difference overflows float32, it stays in float64 and only the result is rounded.
    """
    change = new - old
    fits = np.abs(change) <= FLOAT32_MAX
    step = np.float32(constant) * np.where(fits, change, 0.0).astype(np.float32)
    total = np.where(fits, old + step.astype(np.float64), old + constant * change)
    return total.astype(np.float32).astype(np.float64)


def check_averaging_constant(constant: float) -> float:
    if not 0.0 < constant <= 1.0:
        raise ValueError(f"averaging_constant must be in (0, 1], got {constant}")
    return constant


def check_levels(levels: int) -> int:
    if levels < 2:
        raise ValueError(f"levels must be at least 2 (256 for 8 bits), got {levels}")
    return levels


class MinMax:
    """The smallest and the largest value seen; the same range as torch's MinMaxObserver.

    ``symmetric``: the range is ``(-t, t)`` with ``t`` the largest magnitude. ``levels`` does not
    matter here; every observer accepts both so that all are built alike.
    """

    def __init__(self, *, levels: int = 256, symmetric: bool = False) -> None:
        check_levels(levels)
        self.symmetric = symmetric
        self.minimum = math.inf
        self.maximum = -math.inf

    def update(self, values: NDArray[np.float32]) -> None:
        seen = extremes(values)
        if seen is not None:
            self.minimum = min(self.minimum, seen[0])
            self.maximum = max(self.maximum, seen[1])

    def range(self) -> tuple[float, float]:
        if self.minimum > self.maximum:
            raise nothing_seen()
        if self.symmetric:
            return symmetric_about_zero(self.minimum, self.maximum)
        return self.minimum, self.maximum


class MovingAverage:
    """Exponential averages of each batch's minimum and of its maximum.

    The first batch sets both; then ``average += averaging_constant * (batch - average)``. These are
    the float32 operations of torch's MovingAverageMinMaxObserver in its order, so the bits agree.
    (Where the difference overflows float32 torch's average becomes infinite; this one does not.
    Where rounding makes the two averages cross torch has no range; here they change places in it.)
    Empty batches are skipped. The range depends on the order and the size of the batches: that is
    the method.

    ``averaging_constant``: the weight of a new batch, in (0, 1].
    """

    def __init__(
        self, *, averaging_constant: float = 0.01, levels: int = 256, symmetric: bool = False
    ) -> None:
        check_levels(levels)
        self.averaging_constant = check_averaging_constant(averaging_constant)
        self.symmetric = symmetric
        self.average: tuple[float, float] | None = None  # of the minima, of the maxima; float32

    def update(self, values: NDArray[np.float32]) -> None:
        seen = extremes(values)
        if seen is None:
            return
        if self.average is None:
            self.average = seen
        else:
            old = np.array(self.average, dtype=np.float64)
            new = np.array(seen, dtype=np.float64)
            low, high = averaged(old, new, self.averaging_constant).tolist()
            self.average = low, high

    def range(self) -> tuple[float, float]:
        if self.average is None:
            raise nothing_seen()
        low, high = min(self.average), max(self.average)
        return symmetric_about_zero(low, high) if self.symmetric else (low, high)


class Histogram:
    """Exact counts of float32 values in equal bins, growing with the data, in constant memory.

    Bin ``k`` holds the values with ``k * width <= x < (k + 1) * width``, where ``width`` is
    ``2**exponent``: the bins' edges are whole multiples of a power of two, and zero is one of
    them. Doubling the width merges bin ``k`` into bin ``k // 2``, and since
    ``floor(floor(x / w) / 2) == floor(x / (2 * w))`` the merged counts are the ones that counting
    all values anew would have given. Nothing is interpolated.

    The exponent is the smallest for which the bins from the minimum's to the maximum's number at
    most ``bins``, but never finer than one float32 step at the largest magnitude. It depends on the
    minimum and the maximum alone and only grows as they move apart, so the whole state is a
    function of the multiset of values: order and batching leave no trace.

    ``counts``  int64 (bins,): ``counts[i]`` is bin ``first + i``; ``first`` is the minimum's bin.
    ``zeros``   how many of the values are exactly zero. They are in ``counts`` too. Any quantizer
                has zero on its grid, so a pile of zeros (after a relu) must not weigh on a range.
    ``minimum``, ``maximum``  exact.

    Between half and all of the bins are in use, unless all values lie within ``bins`` float32
    steps of each other. One value far away widens all bins: what lies within one bin cannot be
    told apart any more.
    """

    def __init__(self, bins: int = 2048) -> None:
        if bins < 2:
            raise ValueError(f"bins must be at least 2, got {bins}")
        self.counts: NDArray[np.int64] = np.zeros(bins, dtype=np.int64)
        self.first = 0
        self.exponent = DENORMAL_EXPONENT
        self.zeros = 0
        self.minimum = math.inf
        self.maximum = -math.inf

    @property
    def width(self) -> float:
        """The width of a bin, a power of two, in the units of the data."""
        return math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    def update(self, values: NDArray[np.float32]) -> None:
        """Count ``values``: float32, any shape. Errors as ``Observer.update``."""
        seen = extremes(values)
        if seen is None:
            return
        if seen[0] < self.minimum or seen[1] > self.maximum:
            self._cover(min(seen[0], self.minimum), max(seen[1], self.maximum))
        # The division is in float64, where scaling a float32 by these powers of two is exact
        # (-149 <= exponent <= 128); in float32 it could underflow to zero, in the wrong bin.
        scale = math.ldexp(1.0, -self.exponent)
        position = np.empty(min(CHUNK, values.size), dtype=np.float64)
        nonzero = 0
        chunks = np.nditer(
            values, flags=["external_loop", "buffered"], order="K", buffersize=CHUNK
        )  # strided and transposed arrays a chunk at a time; contiguous ones without a copy
        for item in chunks:
            chunk = np.asarray(item)
            place = position[: chunk.size]
            np.multiply(chunk, scale, out=place, dtype=np.float64)
            np.floor(place, out=place)
            np.subtract(place, self.first, out=place)  # integers below 2**25: exact
            self.counts += np.bincount(place.astype(np.intp), minlength=self.counts.size)
            nonzero += int(np.count_nonzero(chunk))
        self.zeros += values.size - nonzero

    def _cover(self, low: float, high: float) -> None:
        """Widen the bins, if need be, and place them so that ``low`` is in the first."""
        exponent = finest_exponent(low, high, self.counts.size)
        first = math.floor(math.ldexp(low, -exponent))
        if self.minimum <= self.maximum:
            used = np.flatnonzero(self.counts)
            # A shift by 63 leaves 0 or -1, as any longer one would.
            merged = (used + self.first) >> min(exponent - self.exponent, 63)
            counts = np.zeros_like(self.counts)
            np.add.at(counts, merged - first, self.counts[used])
            self.counts = counts
        self.exponent, self.first = exponent, first
        self.minimum, self.maximum = low, high


def finest_exponent(low: float, high: float, bins: int) -> int:
    """The smallest exponent of a bin width with which ``bins`` bins cover ``low`` to ``high``.

    ``low <= high`` are float32 values. Not below the float32 step at the larger magnitude, so that
    bin numbers fit 25 bits.
    """
    magnitude = max(-low, high)
    step = math.frexp(magnitude)[1] - SIGNIFICAND if magnitude > 0.0 else DENORMAL_EXPONENT
    exponent = max(step, DENORMAL_EXPONENT)
    if high > low:
        # bins * 2**exponent > high - low is needed; one less, for the rounding of the quotient.
        exponent = max(exponent, math.frexp((high - low) / bins)[1] - 1)
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= bins:
        exponent += 1
    return exponent


class HistogramObserver:
    """The common part of the observers that choose a range from a ``Histogram``.

    ``bins``       how many bins (int, at least 2); 8 bytes each.
    ``levels``     how many codes the quantizer has (256 for 8 bits).
    ``symmetric``  the range is ``(-t, t)`` and its zero point the middle code.
    """

    def __init__(self, *, bins: int = 2048, levels: int = 256, symmetric: bool = False) -> None:
        self.histogram = Histogram(bins)
        self.levels = check_levels(levels)
        self.symmetric = symmetric

    def update(self, values: NDArray[np.float32]) -> None:
        self.histogram.update(values)

    def _seen(self) -> Histogram:
        if self.histogram.minimum > self.histogram.maximum:
            raise nothing_seen()
        return self.histogram

    def _within_data(self, low: float, high: float) -> tuple[float, float]:
        """``(low, high)`` in the units of the data, cut to the data that were observed."""
        minimum, maximum = self.histogram.minimum, self.histogram.maximum
        if self.symmetric:
            bound = min(high, max(-minimum, maximum))
            return -bound, bound
        return min(max(low, minimum), maximum), max(min(high, maximum), minimum)


class Percentile(HistogramObserver):
    """The range that holds the middle ``percentile`` per cent of the values.

    Asymmetric: half of what is cut is cut on each side, so ``lo`` and ``hi`` are the
    ``(100 - percentile) / 2`` and ``100 - (100 - percentile) / 2`` percentiles of the values, as
    onnxruntime's calibrater has it. Symmetric: ``hi = -lo`` is the ``percentile`` percentile of
    the magnitudes. Ranks are those of ``numpy.percentile`` (linear); a value is known to within
    its bin, so each end is at most one bin width from the exact percentile. The minimum, the
    maximum and zero are exact. ``percentile`` is in (0, 100]; 100 is the same as ``MinMax``.
    """

    def __init__(
        self,
        *,
        percentile: float = 99.99,
        bins: int = 2048,
        levels: int = 256,
        symmetric: bool = False,
    ) -> None:
        if not 0.0 < percentile <= 100.0:
            raise ValueError(f"percentile must be in (0, 100], got {percentile}")
        super().__init__(bins=bins, levels=levels, symmetric=symmetric)
        self.percentile = percentile

    def range(self) -> tuple[float, float]:
        seen = self._seen()
        counts, first = nonzero_counts(seen)
        if self.symmetric:
            # |x| for x in bin -1 - k lies in bin k, save for an x on the edge between two.
            used = np.flatnonzero(counts)
            magnitude = np.where(used + first < 0, -1 - (used + first), used + first)
            first = int(magnitude.min()) if used.size else 0
            folded = np.zeros(counts.size, dtype=np.int64)
            np.add.at(folded, magnitude - first, counts[used])
            bound = max(-seen.minimum, seen.maximum)
            # With both signs and no zeros, the smallest magnitude is known only to its bin.
            smallest = max(first * seen.width, seen.minimum, -seen.maximum)
            if seen.zeros:
                smallest = 0.0
            value = self._value_at(self.percentile / 100.0, folded, first, smallest, bound)
            return -value, value
        cut = (1.0 - self.percentile / 100.0) / 2.0
        low = self._value_at(cut, counts, first, seen.minimum, seen.maximum)
        high = self._value_at(1.0 - cut, counts, first, seen.minimum, seen.maximum)
        return low, high

    def _value_at(
        self, fraction: float, counts: NDArray[np.int64], first: int, low: float, high: float
    ) -> float:
        """The value below which ``fraction`` of all values lie.

        ``counts`` int64 (n,) of the values that are not zero, from bin ``first`` on; ``low`` and
        ``high`` the least and greatest value of all.
        """
        width, zeros = self.histogram.width, self.histogram.zeros
        below = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        negative = int(below[min(max(-first, 0), counts.size)])
        total = int(below[-1]) + zeros

        def sorted_value(rank: int) -> float:
            if rank == 0:
                return low
            if rank == total - 1:
                return high
            if negative <= rank < negative + zeros:
                return 0.0
            if rank >= negative:
                rank -= zeros
            bin_ = int(np.searchsorted(below, rank, side="right")) - 1
            inside = (rank - int(below[bin_]) + 0.5) / int(counts[bin_])
            return min(max((first + bin_ + inside) * width, low), high)

        rank = fraction * (total - 1)
        lower = math.floor(rank)
        upper = min(lower + 1, total - 1)
        start, end = sorted_value(lower), sorted_value(upper)
        return min(max(start + (rank - lower) * (end - start), low), high)


def nonzero_counts(histogram: Histogram) -> tuple[NDArray[np.int64], int]:
    """The counts without the exact zeros and without empty bins at the ends; their first bin.

    At least one bin is returned, empty if every value was zero.
    """
    counts = histogram.counts.copy()
    if histogram.zeros:
        counts[-histogram.first] -= histogram.zeros  # zero lies in bin 0
    used = np.flatnonzero(counts)
    if used.size == 0:
        return counts[:1], histogram.first
    return counts[used[0] : used[-1] + 1], histogram.first + int(used[0])


def x_log_x(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """``x * log(x)``, with its limit 0 at 0; x >= 0."""
    return x * np.log(np.where(x > 0.0, x, 1.0))


class Entropy(HistogramObserver):
    """The range whose quantized distribution tells least apart from the real one.

    Szymon Migacz's method for TensorRT ("8-bit inference with TensorRT", GTC 2017), which
    onnxruntime and MXNet also follow. For each candidate window of bins:

    - ``P`` is the histogram inside the window, with what lies outside added to the end bins;
    - ``Q`` is the histogram inside the window *without* that, quantized: the window is cut into
      ``levels`` equal groups of bins and each group's count is spread evenly over those of its
      bins that are not empty in ``P``;
    - the window with the smallest Kullback-Leibler divergence of ``Q`` from ``P`` wins; of equals
      (within 1e-12 nats), the narrowest.

    Details that differ between implementations, and how they are here:

    - Windows reach ``t`` bins to both sides of zero. Symmetric: ``[-t, t]``. Asymmetric: cut to the
      data on each side, so that values after a relu get ``[0, t]`` with all levels inside.
    - The narrowest windows have as many bins as levels (with fewer, ``P`` itself loses its shape
      and the divergence goes to zero), unless their outer bins are empty: then still narrower ones
      that hold the same values take part. So a far outlier is clipped close to the rest.
    - A group is ``floor`` or ``ceil`` of ``bins / levels`` bins; no remainder goes to the last one.
    - An end bin may be empty in ``Q`` and not in ``P``. It is given the probability of half a
      sample, and the others are scaled down by as much, so that the divergence is finite.
    - Exact zeros are left out: they are on every grid. Both distributions are normalized.

    Sampling noise counts as information, so with few samples (below about a hundred per bin in
    use) the method clips more than it should. ``Mse`` does not.
    """

    TIE = 1e-12  # nats: above the rounding errors of the sums, below what one sample changes

    def range(self) -> tuple[float, float]:
        low, high, divergence = self.candidates()
        best = int(np.argmax(divergence <= divergence.min() + self.TIE))
        return self._within_data(float(low[best]), float(high[best]))

    def candidates(
        self,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """All windows and their divergences: ``lo``, ``hi`` and nats, each float64 (candidates,).

        The windows' ends are bin edges in the units of the data, narrowest first. All are 0 nats
        when every value is zero. ValueError: no value was seen.
        """
        seen = self._seen()
        counts, first = nonzero_counts(seen)
        end = first + counts.size
        inner = max(first, -end, 0)  # bins between zero and the data
        reach = np.arange(inner + 1, max(-first, end, inner + 1) + 1, dtype=np.int64)
        if self.symmetric:
            start, stop = -reach, reach
        else:
            start = np.maximum(-reach, min(first, 0))
            stop = np.minimum(reach, max(end, 0))
        # As many bins as levels, and half as many where the data are (all may be far from zero).
        begin, close = np.clip(start - first, 0, counts.size), np.clip(stop - first, 0, counts.size)
        wide = (stop - start >= self.levels) & (close - begin >= self.levels // 2)
        running = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        inside = running[close] - running[begin]
        narrowest = int(np.argmax(wide)) if wide.any() else reach.size - 1
        narrowest = int(np.argmax(inside == inside[narrowest]))
        start, stop = start[narrowest:], stop[narrowest:]
        divergence = np.zeros(start.size, dtype=np.float64)
        rows = max(1, BLOCK // (self.levels + 1))
        for row in range(0, start.size if counts.any() else 0, rows):
            block = slice(row, row + rows)
            divergence[block] = divergences(counts, first, start[block], stop[block], self.levels)
        low = np.multiply(start, seen.width, dtype=np.float64)
        high = np.multiply(stop, seen.width, dtype=np.float64)
        return low, high, divergence


def divergences(
    counts: NDArray[np.int64],
    first: int,
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    levels: int,
) -> NDArray[np.float64]:
    """Kullback-Leibler divergences, in nats, of the windows ``[start, stop)``; see ``Entropy``.

    ``counts`` int64 (n,), the first and the last not zero, from bin ``first`` on. ``start < stop``
    int64 (windows,), in bins; they may reach past ``counts``, and a window of a single bin has
    values outside on one side at most. Returns float64 (windows,),
    infinity for a window that holds nothing.

    The sums over bins come from running sums, so that a window costs ``levels`` steps, not its
    number of bins: in ``sum p log p`` only the end bins depend on the window, and ``log q`` is
    constant over the non-empty bins of a group.
    """
    size = counts.size
    weight = counts.astype(np.float64)
    running = np.concatenate([np.zeros(1), np.cumsum(weight)])  # exact: integers below 2**53
    used = np.concatenate([np.zeros(1), np.cumsum(weight > 0.0)])
    plogp = np.concatenate([np.zeros(1), np.cumsum(x_log_x(weight))])
    total = float(running[-1])
    half_sample = 0.5 / total

    # Bin i of a window of n bins belongs to group floor(i * levels / n), so group g begins at bin
    # ceil(g * n / levels). With fewer bins than levels some groups have no bin.
    length = stop - start  # (windows,)
    group = np.arange(levels + 1, dtype=np.int64)
    edge = start[:, None] - (-group * length[:, None]) // levels  # (windows, levels + 1)
    edge = np.clip(edge - first, 0, size)
    mass = np.diff(running[edge], axis=1)  # (windows, levels): the count of a group
    occupied = np.diff(used[edge], axis=1)  # its bins that are not empty in P

    begin, end = np.clip(start - first, 0, size), np.clip(stop - first, 0, size)
    inside = running[end] - running[begin]
    window = np.arange(start.size)
    ends = [  # (count clipped to this end, count in its bin, its group), each (windows,)
        (running[begin], weight[np.minimum(begin, size - 1)], np.zeros_like(length)),
        (total - running[end], weight[np.maximum(end - 1, 0)], (length - 1) * levels // length),
    ]
    bare = np.zeros(start.size)  # end bins that are empty in Q and not in P
    for clipped, held, at in ends:
        occupied[window, at] += (clipped > 0.0) & (held == 0.0)
        bare += (clipped > 0.0) & (mass[window, at] == 0.0)

    # log q = log(mass / occupied) + shift, where shift normalizes Q and makes room for bare ends.
    log_spread = np.log(np.where(mass > 0.0, mass, 1.0) / np.maximum(occupied, 1.0))
    shift = np.log1p(-half_sample * bare) - np.log(np.maximum(inside, 1.0))
    log_p = plogp[end] - plogp[begin] - total * math.log(total)  # sum of p * log p
    log_q = np.einsum("wg,wg->w", mass, log_spread) + inside * shift  # sum of p * log q
    for clipped, held, at in ends:
        log_p += x_log_x(held + clipped) - x_log_x(held)
        log_end = np.where(mass[window, at] > 0.0, log_spread[window, at] + shift, np.nan)
        log_q += clipped * np.where(np.isnan(log_end), math.log(half_sample), log_end)
    return np.where(inside > 0.0, (log_p - log_q) / total, np.inf)


class Mse(HistogramObserver):
    """The range whose quantizer has the smallest mean squared error on the data.

    The error is that of the whole quantizer, rounding inside its range and clipping outside, with
    the grid it really has: scale ``s = (hi - lo) / (levels - 1)``, ``lo <= 0 <= hi``, and zero
    point ``round(-lo / s)`` (symmetric: ``levels // 2``), so that zero is on the grid. It is
    integrated in closed form over the histogram, values being spread evenly over their bin (over
    its observed part, for the first and the last bin; exact zeros count as zeros, without error).

    Rounding costs about ``s**2 / 12`` and clipping is convex in each end, so the error has few
    local minima: a coarse grid over both ends, geometric (far outliers) and linear, then ever
    finer grids around its best local minima. ``MinMax``'s range is one of the candidates, and is
    kept when no other gains a thousandth of its error.

    Choosing the clipping point by squared error: Sung, Shin, Hwang, "Resiliency of deep neural
    networks under quantization" (2015); Banner et al., "Post training 4-bit quantization of
    convolutional networks" (2019), who assume a distribution where this takes the histogram.
    """

    GRID = 16  # points of each of the two coarse scales, per end; times 4 when one end is free
    STARTS = 4  # local minima of the coarse grid that are refined
    REFINED = 7  # points per end of a finer grid; each is (REFINED - 1) / 2 times finer
    PRECISION = 1e-3  # where refining stops: the step relative to the range
    KEEP = 1e-3  # the relative gain that is worth clipping

    def range(self) -> tuple[float, float]:
        seen = self._seen()
        width = seen.width
        minimum, maximum = seen.minimum / width, seen.maximum / width  # in bins from here on
        if minimum == maximum == 0.0:
            return 0.0, 0.0
        if self.symmetric:  # one free end: the axis of lo is the point 0, and stands for -hi
            minimum, maximum = max(minimum, -maximum, 0.0), max(-minimum, maximum)
        points = self.GRID if minimum < 0.0 < maximum else 4 * self.GRID
        lows = 0.0 - coarse_scale(-maximum, -minimum, points)  # 0 alone unless minimum < 0
        highs = coarse_scale(minimum, maximum, points)
        edges, steps = density_steps(seen)

        def errors(lows: NDArray[np.float64], highs: NDArray[np.float64]) -> NDArray[np.float64]:
            low, high = np.meshgrid(lows, highs, indexing="ij")  # (lows, highs)
            if self.symmetric:
                low = -high
            flat = squared_errors(
                low.ravel(), high.ravel(), edges, steps, self.levels, self.symmetric
            )
            return flat.reshape(high.shape)

        coarse = errors(lows, highs)
        least = float(coarse[-1, -1]) * (1.0 - self.KEEP)
        best = float(lows[-1]), float(highs[-1])  # of MinMax
        for at_low, at_high in local_minima(coarse, self.STARTS):
            table, row, column, axis_low, axis_high = coarse, at_low, at_high, lows, highs
            while True:
                if table[row, column] < least:
                    least = float(table[row, column])
                    best = float(axis_low[row]), float(axis_high[column])
                step = self.PRECISION * (axis_high[column] - axis_low[row])
                if max(spacing(axis_low), spacing(axis_high)) <= step:
                    break
                axis_low = finer_scale(axis_low, row, self.REFINED)
                axis_high = finer_scale(axis_high, column, self.REFINED)
                table = errors(axis_low, axis_high)
                row, column = divmod(int(np.argmin(table)), axis_high.size)
        low, high = best
        return self._within_data(low * width, high * width)


def coarse_scale(near: float, far: float, points: int) -> NDArray[np.float64]:
    """Where an end of the range may lie: up to ``2 * points`` ascending distances from zero.

    ``near`` and ``far`` bound the magnitudes of the data on that side, in bins. The last distance
    is ``far``; without data on that side (``far <= 0``) zero is the only one.
    """
    if far <= 0.0:
        return np.zeros(1, dtype=np.float64)
    geometric = np.geomspace(min(0.5, far), far, points)  # below a bin nothing is known
    linear = np.linspace(max(near, 0.0), far, points)
    scale = np.unique(np.concatenate([geometric[:-1], linear[linear > 0.0]]))
    return scale[scale <= far]


def finer_scale(axis: NDArray[np.float64], index: int, points: int) -> NDArray[np.float64]:
    """``points`` equal steps between the neighbours of ``axis[index]``; one point stays one."""
    if axis.size == 1:
        return axis
    return np.linspace(axis[max(index - 1, 0)], axis[min(index + 1, axis.size - 1)], points)


def spacing(axis: NDArray[np.float64]) -> float:
    """The largest step of ``axis``, 0 if it is a single point."""
    return float(np.abs(np.diff(axis)).max(initial=0.0))


def local_minima(table: NDArray[np.float64], at_most: int) -> list[tuple[int, int]]:
    """Indices of the entries of ``table`` (2-d) no neighbour is below, lowest entries first."""
    rows, columns = table.shape
    padded = np.pad(table, 1, constant_values=np.inf)
    lowest = np.full(table.shape, np.inf)
    for i in range(3):
        for j in range(3):
            lowest = np.minimum(lowest, padded[i : i + rows, j : j + columns])
    found = np.argwhere(table == lowest)
    order = np.argsort(table[found[:, 0], found[:, 1]], kind="stable")
    return [(int(i), int(j)) for i, j in found[order[:at_most]]]


def density_steps(
    histogram: Histogram,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The histogram as a staircase: edges, in bins, and by how much the density falls at each.

    Both float64 (edges,). Density is the count per bin width of the values that are not zero. The
    end bins reach only to the minimum and the maximum; edges where nothing changes are left out.
    """
    thinnest = 2.0**-10  # of a bin: an end bin with its only value on its edge
    counts, first = nonzero_counts(histogram)
    edges = first + np.arange(counts.size + 1, dtype=np.float64)
    edges[0] = min(max(edges[0], histogram.minimum / histogram.width), edges[1] - thinnest)
    edges[-1] = max(min(edges[-1], histogram.maximum / histogram.width), edges[-2] + thinnest)
    density = counts / np.diff(edges)
    falls = -np.diff(density, prepend=0.0, append=0.0)
    changes = falls != 0.0
    return edges[changes], falls[changes]


def squared_errors(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    edges: NDArray[np.float64],
    falls: NDArray[np.float64],
    levels: int,
    symmetric: bool,
) -> NDArray[np.float64]:
    """Summed squared quantization errors of candidate ranges, in squared bins.

    ``low <= 0 <= high``, not both zero, float64 (ranges,), in bins; ``edges`` and ``falls`` from
    ``density_steps``. Returns float64 (ranges,).

    With the scale s as the unit, the nearest code to y is m = round(y), clipped to the codes there
    are, and the integral of (y - m)**2 from 0 to y is

        G(y) = m / 12 + (y - m)**3 / 3

    both inside the range (each whole cell gives 1/12) and, m standing still, outside. The sum over
    bins of density * (G(right) - G(left)) is the sum over edges of G * (fall of the density).
    """
    scale = (high - low) / (levels - 1)
    zero_point = np.rint(-low / scale)
    if symmetric:  # (levels - 1) / 2 was rounded, a tie when levels is even
        zero_point[:] = levels // 2
    result = np.empty(scale.shape, dtype=np.float64)
    rows = max(1, BLOCK // edges.size)
    for row in range(0, scale.size, rows):
        block = slice(row, row + rows)
        rest = edges / scale[block, None]  # y, (ranges, edges)
        code = np.rint(rest)
        np.maximum(code, -zero_point[block, None], out=code)
        np.minimum(code, levels - 1 - zero_point[block, None], out=code)
        rest -= code
        result[block] = (code @ falls) / 12.0
        cube = np.multiply(rest, rest, out=code)
        cube *= rest
        result[block] += (cube @ falls) / 3.0
    return result * scale**3


class ObserverFactory(Protocol):
    """Makes an observer; the classes here and a ``functools.partial`` of them are factories."""

    def __call__(self, *, levels: int, symmetric: bool) -> Observer: ...


OBSERVERS: dict[str, ObserverFactory] = {
    "minmax": MinMax,
    "moving_average": MovingAverage,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": Mse,
}


def make_observer(
    spec: str | ObserverFactory | Observer, *, levels: int, symmetric: bool
) -> Observer:
    """A fresh observer for one tensor.

    ``spec`` is a key of ``OBSERVERS``; or something to call with ``levels`` and ``symmetric``, for
    instance ``functools.partial(Percentile, percentile=99.9)``; or an observer, which is copied as
    it stands (so one may serve as the pattern for many tensors) and keeps its own settings.

    ValueError: an unknown name. TypeError: none of these, or the call returned no observer.
    """
    if isinstance(spec, str):
        if spec not in OBSERVERS:
            known = ", ".join(OBSERVERS)
            raise ValueError(f"there is no observer named {spec!r}; there are {known}")
        return OBSERVERS[spec](levels=levels, symmetric=symmetric)
    if not isinstance(spec, type) and isinstance(spec, Observer):
        return copy.deepcopy(spec)
    if not callable(spec):
        raise TypeError(f"{spec!r} is neither an observer's name, nor a factory, nor an observer")
    made = spec(levels=levels, symmetric=symmetric)
    if not isinstance(made, Observer):
        raise TypeError(f"{spec!r} returned {made!r}, which has no update() and range()")
    return made
