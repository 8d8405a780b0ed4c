"""Calibration observers: exact streaming statistics, and the ranges chosen from them."""

import copy
import functools
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nprt.converters.observers import (
    OBSERVERS,
    Entropy,
    Histogram,
    MinMax,
    MovingAverage,
    Mse,
    Observer,
    Percentile,
    make_observer,
)

HISTOGRAM_OBSERVERS = (Percentile, Entropy, Mse)
FLOAT32 = np.finfo(np.float32)

SAMPLES = 200_000


def relu(x):
    return np.maximum(x, 0.0)


def with_outliers(x, *outliers):
    return np.concatenate([x, np.array(outliers)])


def distribution(name, seed=0, n=SAMPLES):
    rng = np.random.default_rng(seed)
    values = {
        "gaussian": lambda: rng.normal(size=n),
        "laplace": lambda: rng.laplace(size=n),
        "relu_gaussian": lambda: relu(rng.normal(size=n)),
        "uniform": lambda: rng.uniform(-1.0, 1.0, n),
        "positive_uniform": lambda: rng.uniform(5.0, 6.0, n),
        "far_from_zero": lambda: rng.normal(-1.02, 0.001, n),
        "negative_gamma": lambda: -rng.gamma(2.0, size=n),
        "silu": lambda: (lambda x: x / (1.0 + np.exp(-x)))(3.0 * rng.normal(size=n)),
        "gaussian_outliers": lambda: with_outliers(rng.normal(size=n), 30.0, 31.0, -12.0),
        "relu_outlier": lambda: with_outliers(relu(rng.normal(size=n)), 60.0),
    }[name]()
    return values.astype(np.float32)


DISTRIBUTIONS = (
    "gaussian",
    "laplace",
    "relu_gaussian",
    "uniform",
    "positive_uniform",
    "far_from_zero",
    "negative_gamma",
    "silu",
    "gaussian_outliers",
    "relu_outlier",
)


def observe(observer, *batches):
    for batch in batches:
        observer.update(np.asarray(batch, dtype=np.float32))
    return observer


def state(histogram):
    assert histogram.counts.dtype == np.int64
    return (
        histogram.exponent,
        histogram.first,
        histogram.counts.tolist(),
        histogram.zeros,
        histogram.minimum,
        histogram.maximum,
    )


# The histogram

floats = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-4.0, 4.0, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**-149, -(2.0**-149), 3e38, -3e38, 0.5, -0.5]),
)


@given(
    values=st.lists(floats, min_size=1, max_size=60),
    bins=st.sampled_from([2, 3, 8, 100, 2048]),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    data=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_order_and_batching_leave_no_trace(values, bins, cuts, data):
    whole = observe(Histogram(bins), values)
    shuffled = np.array(data.draw(st.permutations(values)), dtype=np.float32)
    parts = observe(Histogram(bins), *np.split(shuffled, sorted(cuts)))
    assert state(parts) == state(whole)

    # ... and it is the histogram counted directly, with Python's exact arithmetic.
    x = [float(v) for v in np.array(values, dtype=np.float32)]
    width = whole.width
    where = [math.floor(v / width) if abs(v) >= width else (-1 if v < 0 else 0) for v in x]
    expected = [0] * bins
    for k in where:
        expected[k - whole.first] += 1
    assert whole.counts.tolist() == expected
    assert whole.first == min(where)
    assert (whole.minimum, whole.maximum) == (min(x), max(x))
    assert whole.zeros == x.count(0.0)
    assert whole.total == len(x)


@given(st.lists(floats, min_size=1, max_size=30), st.sampled_from([2, 5, 64]))
@settings(max_examples=200, deadline=None)
def test_bins_are_as_narrow_as_they_can_be(values, bins):
    histogram = observe(Histogram(bins), values)
    low, high = histogram.minimum, histogram.maximum
    narrower = histogram.exponent - 1
    span = math.floor(math.ldexp(high, -narrower)) - math.floor(math.ldexp(low, -narrower)) + 1
    step = max(math.frexp(max(-low, high))[1] - 24, -149) if low or high else -149
    assert span > bins or histogram.exponent == step  # of a float32 at the largest magnitude


@pytest.mark.parametrize("name", sorted(OBSERVERS))
def test_ranges_do_not_depend_on_batching(name):
    if name == "moving_average":
        pytest.skip("its range depends on the batches by definition")
    x = distribution("silu", n=50_000)
    one = observe(OBSERVERS[name](levels=256, symmetric=False), x)
    reverse = np.array_split(x[::-1], 7)
    assert one.range() == observe(OBSERVERS[name](levels=256, symmetric=False), *reverse).range()


def test_any_memory_layout_is_counted():
    x = distribution("gaussian").reshape(40, 50, 10, 10)
    expected = state(observe(Histogram(), x.ravel()))
    assert state(observe(Histogram(), x.transpose(0, 2, 3, 1))) == expected
    assert state(observe(Histogram(), np.asfortranarray(x))) == expected
    doubled = np.repeat(x.ravel(), 2)
    assert state(observe(Histogram(), doubled[::2])) == expected
    assert state(observe(Histogram(), doubled[::-2])) == expected


def test_tiny_negative_values_keep_their_bin_beside_huge_ones():
    # In float32 the quotient underflows to -0.0 and would be counted in bin 0.
    histogram = observe(Histogram(), [3e38, -(2.0**-149), 2.0**-149])
    assert histogram.first == -1
    assert histogram.counts[:2].tolist() == [1, 1]


@pytest.mark.parametrize("name", sorted(OBSERVERS))
def test_memory_is_bounded(name):
    observer = OBSERVERS[name](levels=256, symmetric=False)
    observe(observer, distribution("gaussian", n=1000))
    before = len(pickle.dumps(observer))
    for batch in range(30):
        observe(observer, 2.0**batch * distribution("laplace", batch, n=10_000))
    assert len(pickle.dumps(observer)) <= before + 64  # Python's integers have grown


@pytest.mark.parametrize("layout", ["contiguous", "strided"])
def test_scratch_of_an_update_does_not_depend_on_the_batch(layout):
    x = distribution("gaussian", n=4_000_000)
    x = x if layout == "contiguous" else x[::2]
    histogram = observe(Histogram(), x[:10])
    tracemalloc.start()
    histogram.update(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_500_000 < x.nbytes


# MinMax and MovingAverage


def batches(n=25):
    rng = np.random.default_rng(3)
    return [(rng.normal(size=(4, 9)) * 10.0 ** rng.uniform(-3, 3)).astype("f4") for _ in range(n)]


def test_minmax_is_torch_minmax():
    torch = pytest.importorskip("torch")
    from torch.ao.quantization.observer import MinMaxObserver

    ours, theirs = MinMax(), MinMaxObserver()
    for batch in batches():
        ours.update(batch)
        theirs(torch.from_numpy(batch))
        assert ours.range() == (theirs.min_val.item(), theirs.max_val.item())


@pytest.mark.parametrize("constant", [0.01, 0.1, 1.0 / 3.0, 1.0])
def test_moving_average_is_torch_moving_average(constant):
    torch = pytest.importorskip("torch")
    from torch.ao.quantization.observer import MovingAverageMinMaxObserver

    ours = MovingAverage(averaging_constant=constant)
    theirs = MovingAverageMinMaxObserver(averaging_constant=constant)
    for batch in batches(200):
        ours.update(batch)
        theirs(torch.from_numpy(batch))
        assert ours.range() == (theirs.min_val.item(), theirs.max_val.item())


def test_moving_average_by_hand():
    observer = observe(MovingAverage(averaging_constant=0.25), [0.0, 8.0], [], [-4.0, 0.0])
    assert observer.range() == (-1.0, 6.0)


def test_moving_average_does_not_overflow():
    observer = observe(MovingAverage(averaging_constant=0.5), [3e38], [-3e38])
    assert observer.range() == (0.0, 0.0)


# Percentile


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("percentile", [100.0, 99.99, 99.9, 90.0, 50.0, 1.0])
def test_percentile_is_numpys_within_a_bin(name, percentile):
    x = distribution(name)
    observer = observe(Percentile(percentile=percentile), x)
    cut = (100.0 - percentile) / 2.0
    expected = np.percentile(x.astype(np.float64), [cut, 100.0 - cut])
    np.testing.assert_allclose(observer.range(), expected, rtol=0, atol=observer.histogram.width)

    observer = observe(Percentile(percentile=percentile, symmetric=True), x)
    expected = np.percentile(np.abs(x.astype(np.float64)), percentile)
    low, high = observer.range()
    assert -low == high
    np.testing.assert_allclose(high, expected, rtol=0, atol=observer.histogram.width)


@given(
    st.lists(floats, min_size=1, max_size=40),
    st.floats(0.01, 100.0),
    st.sampled_from([4, 2048]),
)
@settings(max_examples=200, deadline=None)
def test_percentile_of_few_values(values, percentile, bins):
    x = np.array(values, dtype=np.float64)
    cut = (100.0 - percentile) / 2.0
    ours = observe(Percentile(percentile=percentile, bins=bins), values)
    tolerance = ours.histogram.width * (1.0 + 1e-9) + 1e-12 * float(np.abs(x).max())
    expected = np.percentile(x, [cut, 100.0 - cut])
    np.testing.assert_allclose(ours.range(), expected, rtol=0, atol=tolerance)
    ours = observe(Percentile(percentile=percentile, bins=bins, symmetric=True), values)
    expected = np.percentile(np.abs(x), percentile)
    np.testing.assert_allclose(ours.range()[1], expected, rtol=0, atol=tolerance)


def test_percentile_100_is_minmax():
    x = distribution("silu")
    assert observe(Percentile(percentile=100.0), x).range() == observe(MinMax(), x).range()


# Mse


def quantization_error(x, low, high, levels, symmetric):
    """Mean squared error of ``x`` (float64) after the quantizer that a range leads to."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return float(np.mean(x**2))
    scale = (high - low) / (levels - 1)
    zero_point = levels // 2 if symmetric else round(-low / scale)
    codes = np.clip(np.rint(x / scale) + zero_point, 0, levels - 1)
    return float(np.mean((x - scale * (codes - zero_point)) ** 2))


def brute_force(x, levels, symmetric):
    """The least error over a direct search: a fine grid over one end, then the other, in turns."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    fractions = np.concatenate([np.geomspace(1e-3, 1.0, 40), np.linspace(0.02, 1.0, 50)])
    if symmetric:
        bound = max(-low, high)
        return min(quantization_error(x, -f * bound, f * bound, levels, True) for f in fractions)
    best, best_low, best_high = math.inf, low, high
    for _ in range(3):
        lows = fractions * low if low < 0.0 else [0.0]
        best, best_low = min((quantization_error(x, a, best_high, levels, False), a) for a in lows)
        highs = fractions * high if high > 0.0 else [0.0]
        best, best_high = min((quantization_error(x, best_low, b, levels, False), b) for b in highs)
    return best


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("levels", [256, 16])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_is_the_best_there_is(name, levels, symmetric):
    x = distribution(name, n=20_000)
    wide = x.astype(np.float64)
    chosen = observe(Mse(levels=levels, symmetric=symmetric), x).range()
    error = quantization_error(wide, *chosen, levels, symmetric)
    assert error <= 1.02 * brute_force(wide, levels, symmetric)
    minmax = observe(MinMax(symmetric=symmetric), x).range()
    assert error <= quantization_error(wide, *minmax, levels, symmetric)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["uniform", "relu_gaussian", "silu"])
def test_mse_at_other_samples_of_the_distribution(name, symmetric):
    chosen = observe(Mse(symmetric=symmetric), distribution(name, seed=1)).range()
    other = distribution(name, seed=2)
    minmax = observe(MinMax(symmetric=symmetric), other).range()
    other = other.astype(np.float64)
    ours = quantization_error(other, *chosen, 256, symmetric)
    assert ours <= 1.001 * quantization_error(other, *minmax, 256, symmetric)


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_of_data_far_from_zero_puts_one_code_on_them(symmetric):
    # The step of the grid is wider than the data: the best is a code on their mean. The error has
    # many local minima here, each with another code there.
    x = distribution("far_from_zero", n=500)
    wide = x.astype(np.float64)
    chosen = observe(Mse(symmetric=symmetric), x).range()
    assert quantization_error(wide, *chosen, 256, symmetric) <= 1.02 * np.var(wide)


def test_mse_clips_more_with_fewer_levels():
    x = distribution("laplace")
    ends = [observe(Mse(levels=levels), x).range()[1] for levels in (4, 16, 64, 256)]
    assert ends == sorted(ends)
    assert ends[0] < 0.5 * ends[-1]


# Entropy


def slow_divergence(histogram, low, high, levels):
    """Kullback-Leibler divergence of the window [low, high), bin by bin."""
    counts = {histogram.first + i: int(c) for i, c in enumerate(histogram.counts) if c}
    if 0 in counts:
        counts[0] -= histogram.zeros
    start, stop = round(low / histogram.width), round(high / histogram.width)
    size = stop - start
    p = [0.0] * size
    inside = [0.0] * size
    for k, count in counts.items():
        p[min(max(k - start, 0), size - 1)] += count
        if start <= k < stop:
            inside[k - start] += count
    total = sum(p)
    groups = {}
    for i in range(size):
        groups.setdefault(i * levels // size, []).append(i)
    q = [0.0] * size
    for members in groups.values():
        occupied = [i for i in members if p[i] > 0]
        for i in occupied:
            q[i] = sum(inside[j] for j in members) / len(occupied)
    held = sum(inside)
    if held == 0:
        return math.inf
    p = [v / total for v in p]
    q = [v / held for v in q]
    bare = [i for i in range(size) if p[i] > 0 and q[i] == 0]
    half_sample = 0.5 / total
    q = [v * (1.0 - half_sample * len(bare)) for v in q]
    for i in bare:
        q[i] = half_sample
    assert sum(q) == pytest.approx(1.0)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", [n for n in DISTRIBUTIONS if n != "far_from_zero"])  # too slow
def test_entropy_has_the_least_divergence_of_all_candidates(name, symmetric):
    x = distribution(name, n=20_000)
    for bins, levels in ((300, 16), (129, 64), (64, 100)):
        observer = observe(Entropy(bins=bins, levels=levels, symmetric=symmetric), x)
        lows, highs, divergence = observer.candidates()
        slow = [
            slow_divergence(observer.histogram, low, high, levels)
            for low, high in zip(lows, highs, strict=True)
        ]
        np.testing.assert_allclose(divergence, slow, rtol=1e-9, atol=1e-12)
        best = next(i for i, value in enumerate(slow) if value <= min(slow) + 1e-12)
        minimum, maximum = float(x.min()), float(x.max())
        low, high = observer.range()
        if symmetric:
            assert high == min(highs[best], max(-minimum, maximum)) == -low
        else:
            assert (low, high) == (max(lows[best], minimum), min(highs[best], maximum))


def test_entropy_candidates_are_as_wide_as_the_levels():
    observer = observe(Entropy(), distribution("gaussian"))
    lows, highs, _ = observer.candidates()
    width = observer.histogram.width
    assert (highs[0] - lows[0]) / width == 256
    assert np.all(np.diff(highs) == width)
    assert highs[-1] >= observer.histogram.maximum > highs[-1] - width or lows[-1] < -highs[-2]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("outlier", [20.0, 100.0, 400.0])
def test_entropy_clips_a_far_outlier(outlier, symmetric):
    x = with_outliers(distribution("gaussian"), outlier)
    low, high = observe(Entropy(symmetric=symmetric), x).range()
    assert 3.0 < high < 6.0
    assert -6.0 < low < -3.0


@pytest.mark.parametrize("symmetric", [False, True])
def test_entropy_keeps_a_uniform_range(symmetric):
    low, high = observe(Entropy(symmetric=symmetric), distribution("uniform")).range()
    assert high > 0.98
    assert low < -0.98
    low, high = observe(Entropy(symmetric=symmetric), distribution("positive_uniform")).range()
    assert high > 5.98


def test_entropy_after_relu_starts_at_zero():
    x = distribution("relu_outlier")
    low, high = observe(Entropy(), x).range()
    assert low == 0.0
    assert 3.0 < high < 6.0


@pytest.mark.parametrize("kind", [Entropy, Mse])
def test_exact_zeros_do_not_weigh(kind):
    x = distribution("gaussian")
    padded = np.concatenate([x, np.zeros(10 * x.size, dtype=np.float32)])
    assert observe(kind(), padded).range() == observe(kind(), x).range()


# Every observer

EDGE_CASES = {
    "zeros": [0.0, 0.0, 0.0],
    "negative_zero": [-0.0],
    "single": [0.3],
    "single_negative": [-7.5],
    "constant": [1e-3] * 1000,
    "two": [-1.0, 1.0],
    "denormals": [2.0**-149, 2.0**-148, 5e-40],
    "one_denormal": [-(2.0**-149)],
    "both_signs_denormal": [-(2.0**-149), 2.0**-149],
    "huge": [1e38, -1e38, 3e38],
    "limits": [float(FLOAT32.min), float(FLOAT32.max)],
    "one_huge": [1e38],
    "huge_and_denormal": [float(FLOAT32.max), 2.0**-149, -(2.0**-149)],
    "neighbours": [1.0, float(np.nextafter(np.float32(1), np.float32(2)))],
    "minus_step_and_one": [-(2.0**-149), 1.0],
    "integers": [0.0, 1.0, 2.0, 3.0],
    "negative": [-3.0, -2.0, -1.5],
}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", sorted(OBSERVERS))
@pytest.mark.parametrize("case", EDGE_CASES)
@pytest.mark.filterwarnings("error")
def test_edge_cases(case, name, symmetric):
    values = np.array(EDGE_CASES[case], dtype=np.float32)
    low, high = observe(make_observer(name, levels=256, symmetric=symmetric), values).range()
    assert type(low) is float
    assert type(high) is float
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert low <= high
    minimum, maximum = float(values.min()), float(values.max())
    if symmetric:
        assert -low == high <= max(-minimum, maximum)
    else:
        assert minimum <= low
        assert high <= maximum
    if minimum == maximum:  # with -128 codes below zero and 127 above, t may be 127.5 / 128 of it
        assert max(-low, high) >= abs(minimum) * (127.5 / 128 - 0.001 if symmetric else 1)


@given(
    st.lists(floats, min_size=1, max_size=30),
    st.sampled_from(sorted(OBSERVERS)),
    st.booleans(),
    st.sampled_from([(2, 2), (16, 16), (2048, 256), (300, 255)]),
)
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("error")
def test_ranges_stay_within_the_data(values, name, symmetric, sizes):
    bins, levels = sizes
    factory = OBSERVERS[name]
    if factory in HISTOGRAM_OBSERVERS:
        factory = functools.partial(factory, bins=bins)
    observer = make_observer(factory, levels=levels, symmetric=symmetric)
    low, high = observe(observer, values).range()
    x = np.array(values, dtype=np.float32)
    bound = float(np.abs(x).max())
    assert low <= high
    if symmetric:
        assert -low == high <= bound
    else:
        assert float(x.min()) <= low
        assert high <= float(x.max())


@pytest.mark.parametrize("name", sorted(OBSERVERS))
class TestEveryObserver:
    def make(self, name):
        return make_observer(name, levels=256, symmetric=False)

    def test_is_an_observer(self, name):
        assert isinstance(self.make(name), Observer)

    def test_nothing_seen(self, name):
        observer = observe(self.make(name), [], np.zeros((0, 3, 8, 8)))
        with pytest.raises(ValueError, match="no value was observed"):
            observer.range()

    def test_any_shape(self, name):
        scalar = observe(self.make(name), np.array(2.5))
        assert scalar.range() == observe(self.make(name), np.full((1, 1, 1), 2.5)).range()

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, name, bad):
        observer = observe(self.make(name), [1.0, -2.0])
        before = observer.range()
        batch = np.array([[5.0, bad], [bad, 9.0]], dtype=np.float32)
        kinds = r"2 NaN, 0 infinite" if np.isnan(bad) else r"0 NaN, 2 infinite"
        with pytest.raises(ValueError, match=rf"^2 of 4 values are not finite \({kinds}\)"):
            observer.update(batch)
        assert observer.range() == before  # nothing of the batch was counted

    def test_other_dtypes(self, name):
        with pytest.raises(TypeError, match="float32 array, got float64"):
            self.make(name).update(np.ones(3))
        with pytest.raises(TypeError, match="float32 array, got list"):
            self.make(name).update([1.0])

    def test_does_not_change_its_input(self, name):
        x = distribution("silu", n=1000)
        kept = x.copy()
        x.flags.writeable = False
        observer = observe(self.make(name), x)
        assert observer.range() == observer.range()
        np.testing.assert_array_equal(x, kept)

    def test_too_few_levels(self, name):
        with pytest.raises(ValueError, match="levels"):
            OBSERVERS[name](levels=1, symmetric=False)


def test_bad_parameters():
    with pytest.raises(ValueError, match="bins"):
        Histogram(1)
    for percentile in (0.0, -1.0, 100.1, math.nan):
        with pytest.raises(ValueError, match="percentile"):
            Percentile(percentile=percentile)
    for constant in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="averaging_constant"):
            MovingAverage(averaging_constant=constant)


def test_make_observer():
    for name, kind in OBSERVERS.items():
        assert type(make_observer(name, levels=16, symmetric=True)) is kind
        assert type(make_observer(kind, levels=16, symmetric=True)) is kind
    made = make_observer(functools.partial(Percentile, percentile=90.0), levels=16, symmetric=True)
    assert (made.percentile, made.levels, made.symmetric) == (90.0, 16, True)

    pattern = Mse(bins=64)
    first = make_observer(pattern, levels=256, symmetric=True)
    observe(first, [1.0, 2.0])
    assert first is not pattern
    assert pattern.histogram.total == 0
    assert state(copy.deepcopy(first).histogram) == state(first.histogram)

    with pytest.raises(ValueError, match=r"'kl'; there are minmax, .*, mse$"):
        make_observer("kl", levels=256, symmetric=False)
    with pytest.raises(TypeError, match="neither"):
        make_observer(3, levels=256, symmetric=False)
    with pytest.raises(TypeError, match=r"no update\(\) and range\(\)"):
        make_observer(lambda levels, symmetric: None, levels=256, symmetric=False)
