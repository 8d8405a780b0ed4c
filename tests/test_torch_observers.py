"""torch's observers without torch: scales and zero points are those of torch.ao.quantization, to the bit."""

import copy
import warnings

import numpy as np
import pytest

from nprt.converters.observers import MovingAverage, Observer
from nprt.converters.torch_observers import (
    PER_CHANNEL,
    PER_TENSOR,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
    cascade_sum,
    choose_qparams_torch,
    linspace,
)

torch = pytest.importorskip("torch", reason="torch's observers are the reference")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.ao.quantization import observer as torch_observer

if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
    pytest.skip("torch rounds sums otherwise on this CPU", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:.*reduce_range.*:UserWarning")

PER_TENSOR_KINDS = (MinMaxObserver, MovingAverageMinMaxObserver, HistogramObserver)
PER_CHANNEL_KINDS = (PerChannelMinMaxObserver, MovingAveragePerChannelMinMaxObserver)
KINDS = PER_TENSOR_KINDS + PER_CHANNEL_KINDS
CUSTOM_CODES = [(None, None), (0, 15), (-8, 7), (-127, 127), (0, 255), (-3, 200), (-1, 0)]


def torch_twin(ours):
    """torch's observer of the same name with the same options."""
    options = {
        name: getattr(ours, name)
        for name in (
            *("quant_min", "quant_max", "reduce_range", "eps"),
            *("ch_axis", "averaging_constant", "bins"),
        )
        if hasattr(ours, name)
    }
    kind = getattr(torch_observer, type(ours).__name__)
    dtype, qscheme = getattr(torch, ours.dtype), getattr(torch, ours.qscheme)
    return kind(dtype=dtype, qscheme=qscheme, **options)


def assert_same_qparams(ours, theirs):
    scale, zero_point = ours.qparams()
    expected_scale, expected_zero_point = theirs.calculate_qparams()
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(scale, expected_scale.numpy(), strict=True)
    floating = ours.qscheme.endswith("float_qparams")
    assert zero_point.dtype == (np.float32 if floating else np.int32)
    np.testing.assert_array_equal(zero_point, expected_zero_point.numpy())
    assert zero_point.shape == tuple(expected_zero_point.shape)


def check(ours, batches, every=True):
    """Feeds both; qparams have to agree after each batch, or only after the last."""
    theirs = torch_twin(ours)
    for i, batch in enumerate(batches):
        batch = np.asarray(batch, dtype=np.float32)
        ours.update(batch)
        theirs(torch.from_numpy(batch.copy()))
        crossed = bool((theirs.min_val > theirs.max_val).any())  # averages, by rounding
        if (every or i == len(batches) - 1) and not crossed:
            assert_same_qparams(ours, theirs)
    return theirs


DISTRIBUTIONS = {
    "gaussian": lambda rng, shape: rng.normal(size=shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
    "relu": lambda rng, shape: np.maximum(rng.normal(size=shape), 0.0),
    "uniform": lambda rng, shape: rng.uniform(-1.0, 1.0, shape),
    "positive": lambda rng, shape: rng.uniform(5.0, 6.0, shape),
    "far_from_zero": lambda rng, shape: rng.normal(-1.02, 0.001, shape),
    "negative": lambda rng, shape: -rng.gamma(2.0, size=shape),
    "cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    "integers": lambda rng, shape: rng.integers(-5, 5, shape).astype(np.float64),
    "neighbours": lambda rng, shape: 1.0 + rng.integers(0, 9, shape) * 2.0**-23,
    "zeros": lambda rng, shape: np.zeros(shape),
    "constant": lambda rng, shape: np.full(shape, rng.normal()),
}


def random_batches(rng, shape, number):
    """Batches of one or of several distributions, of like or of unlike scales."""
    one = str(rng.choice(list(DISTRIBUTIONS)))
    mixed, spread = rng.random() < 0.5, float(rng.choice([0.0, 0.3, 4.0]))
    centre = rng.uniform(-4.0, 4.0)
    for _ in range(number):
        name = str(rng.choice(list(DISTRIBUTIONS))) if mixed else one
        scale = 10.0 ** (centre + rng.uniform(-spread, spread))
        yield (DISTRIBUTIONS[name](rng, shape) * scale).astype(np.float32)


# --- ranges to parameters ---


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("codes", CUSTOM_CODES)
@pytest.mark.parametrize("qscheme", PER_TENSOR + PER_CHANNEL)
@pytest.mark.parametrize("dtype", ["qint8", "quint8", "int8", "uint8"])
def test_choose_qparams(dtype, qscheme, codes, reduce_range):
    if codes == (-1, 0) and reduce_range:
        codes = (-2, 0)
    options = {"quant_min": codes[0], "quant_max": codes[1], "reduce_range": reduce_range}
    base = torch_observer.UniformQuantizationObserverBase
    rng = np.random.default_rng(7)
    centre = rng.normal(size=2000) * 10.0 ** rng.uniform(-9.0, 6.0, 2000)
    radius = rng.exponential(size=2000) * 10.0 ** rng.uniform(-9.0, 6.0, 2000)
    edges = [0.0, 1.0, -1.0, 2.0**-149, -(2.0**-149), 127.5, 0.5, -0.5, 1e38, 2.0**-24, -127.0]
    pairs = [(a, b) for a in edges for b in edges if a <= b]
    low = np.append(centre - radius, [a for a, _ in pairs]).astype(np.float32)
    high = np.append(centre + radius, [b for _, b in pairs]).astype(np.float32)
    for eps in (2.0**-23, 1e-12, 0.1):
        kind = type("Base", (base,), {"forward": None, "calculate_qparams": None})
        theirs = kind(getattr(torch, dtype), getattr(torch, qscheme), eps=eps, **options)
        expected = theirs._calculate_qparams(torch.from_numpy(low), torch.from_numpy(high))
        actual = choose_qparams_torch(low, high, dtype=dtype, qscheme=qscheme, eps=eps, **options)
        np.testing.assert_array_equal(actual[0], expected[0].numpy(), strict=True)
        np.testing.assert_array_equal(actual[1], expected[1].numpy())


def test_choose_qparams_by_hand():
    scale, zero_point = choose_qparams_torch(-1.0, 1.55)
    assert (scale.dtype, zero_point.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(scale, np.float32([2.55]) / np.float32(255))
    np.testing.assert_array_equal(zero_point, [100])
    # -0.5 / 1 and -1.5 / 1 are ties, to even
    _, zero_point = choose_qparams_torch([-0.5, -1.5], [254.5, 253.5])
    np.testing.assert_array_equal(zero_point, [0, 2])
    scale, zero_point = choose_qparams_torch(0.0, 0.0, dtype="qint8")
    np.testing.assert_array_equal(scale, np.float32([2.0**-23]))
    np.testing.assert_array_equal(zero_point, [-128])
    scale, zero_point = choose_qparams_torch(-3.0, 2.0, qscheme="per_tensor_symmetric")
    np.testing.assert_array_equal(scale, np.float32([3.0]) / np.float32(127.5))
    np.testing.assert_array_equal(zero_point, [128])


# --- observers of ranges ---


def option_sets(kind):
    for dtype in ("qint8", "quint8"):
        for qscheme in PER_CHANNEL if kind in PER_CHANNEL_KINDS else PER_TENSOR:
            for reduce_range in (False, True):
                refused = dtype == "quint8" and qscheme.endswith("symmetric") and reduce_range
                if refused and kind is not HistogramObserver:
                    continue
                yield {"dtype": dtype, "qscheme": qscheme, "reduce_range": reduce_range}


@pytest.mark.parametrize("kind", [MinMaxObserver, MovingAverageMinMaxObserver])
def test_per_tensor(kind):
    rng = np.random.default_rng(11)
    for options in option_sets(kind):
        for _ in range(15):
            low, high = CUSTOM_CODES[rng.integers(0, len(CUSTOM_CODES) - 1)]
            eps = float(rng.choice([2.0**-23, 1e-9, 0.01]))
            more = {"quant_min": low, "quant_max": high, "eps": eps}
            if kind is MovingAverageMinMaxObserver:
                more["averaging_constant"] = float(rng.choice([0.01, 0.1, 0.3, 1.0]))
            check(kind(**options, **more), list(random_batches(rng, (3, 40), 4)))


@pytest.mark.parametrize("kind", PER_CHANNEL_KINDS)
def test_per_channel(kind):
    rng = np.random.default_rng(12)
    for options in option_sets(kind):
        for shape, axis in (((5, 7), 0), ((5, 7), -1), ((2, 3, 4, 5), 1), ((2, 3, 4), -3)):
            for _ in range(2):
                low, high = CUSTOM_CODES[rng.integers(0, len(CUSTOM_CODES) - 1)]
                more = {"quant_min": low, "quant_max": high, "ch_axis": axis}
                if kind is MovingAveragePerChannelMinMaxObserver:
                    more["averaging_constant"] = float(rng.choice([0.01, 0.1, 0.3, 1.0]))
                check(kind(**options, **more), list(random_batches(rng, shape, 4)))


def test_averages_that_cross():
    """In float32 the average of the minima can step over that of the maxima; torch then raises."""
    for kind in (MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver):
        rng = np.random.default_rng(0)
        crossed = 0
        for _ in range(100):
            ours = kind(averaging_constant=0.3)
            theirs = torch_twin(ours)
            start, far = (
                np.float32(rng.uniform(33.0, 63.0)),
                np.float32(rng.uniform(-150.0, -100.0)),
            )
            for pair in ([start, np.nextafter(start, np.float32(64))], [far, far]):
                batch = np.array([pair], dtype=np.float32)
                ours.update(batch)
                theirs(torch.from_numpy(batch))
            low, high = ours.range()
            assert low <= high
            ends = [theirs.min_val.item(), theirs.max_val.item()]
            assert [low, high] == sorted(ends)
            crossed += ends != sorted(ends)
        assert crossed


def test_one_channel_is_one_tensor():
    rng = np.random.default_rng(3)
    tensor = MovingAverage(averaging_constant=0.3)
    channel = MovingAveragePerChannelMinMaxObserver(averaging_constant=0.3)
    extreme = [np.array([[3e38, -3e38]]), np.array([[-3e38, -3.2e38]])]  # differences overflow
    for batch in [*random_batches(rng, (1, 50), 6), *extreme]:
        tensor.update(batch.astype(np.float32))
        channel.update(batch.astype(np.float32))
        low, high = channel.range()
        assert (low[0], high[0]) == tensor.range()


# --- the observer of a histogram ---


def check_histogram(ours, batches):
    theirs = check(ours, batches, every=False)
    assert (ours.minimum, ours.maximum) == (theirs.min_val.item(), theirs.max_val.item())
    if ours.minimum < ours.maximum:
        np.testing.assert_array_equal(ours.histogram, theirs.histogram.numpy(), strict=True)
    else:  # which bin a single value is in does not matter
        assert ours.histogram.sum() == theirs.histogram.sum().item()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_histogram_of_one_distribution(name):
    rng = np.random.default_rng(4)
    check_histogram(HistogramObserver(), [DISTRIBUTIONS[name](rng, 10_000)])
    for n in (3, 100, 20_000):
        batches = [np.float32(0.5 + i) * DISTRIBUTIONS[name](rng, n) for i in range(3)]
        check_histogram(HistogramObserver(dtype="qint8"), batches)


@pytest.mark.parametrize("threads", [1, 2])
def test_histogram_of_random_batches(threads):
    rng = np.random.default_rng(threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for options in option_sets(HistogramObserver):
            for _ in range(2):
                low, high = CUSTOM_CODES[rng.integers(0, len(CUSTOM_CODES) - 1)]
                more = {"quant_min": low, "quant_max": high}
                size = int(rng.choice([1, 10, 1000, 30_000]))
                batches = list(random_batches(rng, size, int(rng.integers(1, 6))))
                check_histogram(HistogramObserver(**options, **more), batches)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bins", [1, 2, 7, 31, 255, 1000, 4096])
def test_histogram_with_other_bins(bins):
    rng = np.random.default_rng(bins)
    for _ in range(3):
        batches = list(random_batches(rng, 2000, 3))
        check_histogram(HistogramObserver(bins=bins), batches)


@pytest.mark.parametrize(
    "batches",
    [
        [[0.0], [0.0, 0.0]],
        [[-7.5]],
        [[3.0], [3.0], [-1.0, 3.0]],
        [[1e20] * 3, [1.0, 2.0, 2e20]],
        [[2.0**24, 2.0**24], [2.0**24 + 2]],
        [[-(2.0**-149), 2.0**-149], [2.0**-140]],
        [[1e-40, 3e-39], [-2e-42]],
        [[1e34, -1e34, 0.0], [1.5e35]],
        [[1.0, 1.0 + 2.0**-23], [1.0 - 2.0**-24]],
        [[0.0, 1.0], [0.5], [0.0, 2.0], [-2.0, 2.0]],  # middles of pieces on edges of bins
        [np.zeros((0, 4)), [[1.0, 2.0], [3.0, -4.0]], np.zeros(0)],
    ],
)
def test_histogram_of_few_values(batches):
    check_histogram(HistogramObserver(), batches)


@pytest.mark.parametrize("n", [1, 7, 8, 33, 511, 512, 513, 2048, 4095, 100_000])
def test_cascade_sum(n):
    rng = np.random.default_rng(n)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # above 32,768 elements torch shares the work; a histogram has fewer
    try:
        for _ in range(20):
            x = (rng.exponential(size=n) ** 3).astype(np.float32)
            assert cascade_sum(x) == torch.from_numpy(x).sum().item()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("points", [2, 3, 2049, 32769])
def test_linspace(points):
    rng = np.random.default_rng(points)
    for _ in range(20):
        low = np.float32(rng.normal())
        high = np.float32(low + rng.exponential())
        expected = torch.linspace(torch.tensor(low), torch.tensor(high), points).numpy()
        np.testing.assert_array_equal(linspace(low, high, points), expected, strict=True)


def test_the_sum_in_another_order_would_be_noticed():
    rng = np.random.default_rng(0)
    x = (rng.exponential(size=(50, 2048)) ** 3).astype(np.float32)
    theirs = torch.from_numpy(x).sum(1).numpy()
    assert np.any(x.sum(axis=1) != theirs)
    np.testing.assert_array_equal([cascade_sum(row) for row in x], theirs)


# --- every observer ---


@pytest.mark.parametrize("kind", KINDS)
class TestEveryObserver:
    def test_nothing_seen(self, kind):
        observer = kind()
        observer.update(np.zeros((0, 3), dtype=np.float32))
        for ask in (observer.range, observer.qparams):
            with pytest.raises(ValueError, match="no value was observed"):
                ask()

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, kind, bad):
        observer = kind()
        observer.update(np.float32([[1.0, -2.0], [0.5, 3.0]]))
        before = observer.qparams()
        with pytest.raises(ValueError, match="1 of 4 values are not finite"):
            observer.update(np.float32([[5.0, bad], [9.0, 1.0]]))
        np.testing.assert_array_equal(before, observer.qparams())  # nothing of it was counted

    def test_other_dtypes(self, kind):
        with pytest.raises(TypeError, match="float32 array, got float64"):
            kind().update(np.ones((3, 3)))

    def test_any_layout(self, kind):
        x = np.random.default_rng(0).normal(size=(6, 4, 8)).astype(np.float32)
        check(kind(), [x.transpose(2, 0, 1), x.transpose(2, 0, 1)[:, ::2, ::-1]])
        x.flags.writeable = False
        kind().update(x)

    def test_copies_are_independent(self, kind):
        first = kind()
        second = copy.deepcopy(first)
        second.update(np.float32([[1.0, 2.0]]))
        third = kind()
        for untouched in (first, third):
            with pytest.raises(ValueError, match="no value was observed"):
                untouched.range()

    def test_options(self, kind):
        with pytest.raises(ValueError, match="dtype 'int4' is unknown"):
            kind(dtype="int4")
        with pytest.raises(ValueError, match="give both"):
            kind(quant_min=0)
        for low, high in ((1, 5), (-5, -1), (0, 0), (-200, 200)):
            with pytest.raises(ValueError, match="must hold 0"):
                kind(quant_min=low, quant_max=high)
        with pytest.raises(ValueError, match=r"reduced to \[-1, 0\]|must hold 0"):
            kind(quant_min=0, quant_max=1, reduce_range=True)
        for eps in (0.0, -1.0, np.nan, 1e-60):
            with pytest.raises(ValueError, match="eps must be"):
                kind(eps=eps)
        per_tensor = kind in PER_TENSOR_KINDS
        other = PER_CHANNEL[0] if per_tensor else PER_TENSOR[0]
        with pytest.raises(ValueError, match=f"has no qscheme '{other}'"):
            kind(qscheme=other)
        symmetric = PER_TENSOR[1] if per_tensor else PER_CHANNEL[1]
        if kind is not HistogramObserver:
            with pytest.raises(ValueError, match="cannot reduce the range"):
                kind(qscheme=symmetric, reduce_range=True)
        if "Moving" in kind.__name__:
            with pytest.raises(ValueError, match="averaging_constant"):
                kind(averaging_constant=0.0)


@pytest.mark.parametrize("kind", PER_TENSOR_KINDS)
def test_is_an_observer(kind):
    observer = kind()
    assert isinstance(observer, Observer)
    observer.update(np.float32([1.0, -3.0]))
    assert all(type(end) is float for end in observer.range())


def test_errors_of_ranges():
    for low, high in ((1.0, 0.0), (np.nan, 1.0), (0.0, np.inf)):
        with pytest.raises(ValueError, match="a range must be finite"):
            choose_qparams_torch(low, high)
    with pytest.raises(ValueError, match="same shape"):
        choose_qparams_torch([0.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="'affine' is unknown"):
        choose_qparams_torch(0.0, 1.0, qscheme="affine")
    with pytest.raises(ValueError, match="overflows float32"):
        choose_qparams_torch(-3e38, 3e38)
    scale, _ = choose_qparams_torch(-3e38, 3e38, qscheme="per_tensor_symmetric")
    assert np.isfinite(scale).all()


def test_a_histogram_too_wide():
    observer = HistogramObserver()
    observer.update(np.float32([-1e34, 1.5e35]))
    before = observer.range()
    with pytest.raises(ValueError, match=r"too far apart for 2048 bins"):
        observer.update(np.float32([1.7e35]))
    assert observer.range() == before
    with pytest.raises(ValueError, match="bins"):
        HistogramObserver(bins=0)


def test_channels():
    observer = PerChannelMinMaxObserver(ch_axis=1)
    with pytest.raises(ValueError, match=r"shape \(4,\) have no channels on axis 1"):
        observer.update(np.ones(4, dtype=np.float32))
    observer.update(np.ones((2, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="have 4 channels on axis 1; the batches before had 3"):
        observer.update(np.ones((2, 4), dtype=np.float32))
