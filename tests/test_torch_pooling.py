"""Pooling, means and resizing of torch modules: codes bit for bit, floats within rounding, faults refused."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is the reference")

import torch.nn.functional as F
from torch_runner import ENGINES, QUIET, assert_same, converted, engine, outputs, run

from nprt.converters.from_torch import import_recording
from nprt.converters.pipeline import float_model
from nprt.converters.torch_ops.batches import record_batches
from nprt.errors import UnsupportedOpError
from nprt.ir import numel

if torch.backends.cpu.get_cpu_capability() != "AVX512":
    pytest.skip("torch rounds some channels otherwise on this CPU", allow_module_level=True)

QUIET = (*QUIET, "ignore:.*not implemented for QNNPACK.*")
pytestmark = [pytest.mark.filterwarnings(f) for f in QUIET]

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
CHANNELS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 40, 47, 65)
# Both averages of codes: eq. (20) takes ties away from zero, torch to even; a code may differ by 1.
ONE_CODE = 1


class Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@st.composite
def codes(draw, rank, *, channels=CHANNELS, sizes=(1, 10), formats=(False, True)):
    """A quantized tensor of `rank` spatial axes: noise, few codes, saturated ones, or two neighbours (many ties)."""
    signed, last = draw(st.booleans()), draw(st.sampled_from(formats))
    least = -128 if signed else 0
    shape = (
        draw(st.integers(1, 2)),
        draw(st.sampled_from(channels)),
        *(draw(st.integers(*sizes)) for _ in range(rank)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low = draw(st.integers(0, 254))
    pools = (range(256), rng.integers(0, 256, 3), (0, 1, 254, 255), (low, low + 1), (low, low + 1))
    data = rng.choice(np.array(draw(st.sampled_from(pools))), shape) + least
    zero_point = draw(st.integers(0, 255)) + least
    scale = draw(st.sampled_from((2.0**-5, 0.0217, 1.7, 3e-4)) | st.floats(2**-12, 4))
    data = torch.from_numpy(data.astype(np.int8 if signed else np.uint8))
    x = torch._make_per_tensor_quantized_tensor(data, scale, zero_point)
    return x.contiguous(memory_format=FORMATS[x.ndim]) if last and rank > 1 else x


@st.composite
def windows(draw, x):
    """Kernel, stride and padding of a pool over x."""
    kernel, stride, padding = [], [], []
    for size in x.shape[2:]:
        kernel.append(draw(st.integers(1, min(size, 4))))
        stride.append(draw(st.integers(1, 3)))
        padding.append(draw(st.integers(0, kernel[-1] // 2)))
    assume(numel(tuple(kernel)) > 1)
    return kernel, stride, padding


def check(function, x, name="fbgemm", within=ONE_CODE):
    """The engine's codes exactly; with numerics integer, within some codes, and no float op."""
    module = Function(function)
    with engine(name):
        assume(not scrambled(x, module(x)))
        model = assert_same(module, x, numerics="torch")
        integer = converted(module, x, numerics="integer", require_integer=True)
        actual, expected = run(integer, x), outputs(module, x)
    difference = np.abs(actual[0].astype(int) - expected[0].astype(int))
    assert actual[0].dtype == expected[0].dtype
    assert difference.max(initial=0) <= within
    return model


def scrambled(x, y):
    """torch's fault on one position that is contiguous in memory."""
    return numel(tuple(x.shape[2:])) == 1 < numel(tuple(y.shape[2:])) and x.shape[1] > 1


def one_op(model, name):
    (op,) = [op for op in model.ops if op.name not in ("reshape", "transpose", "gather")]
    assert op.name == name
    return op


# --- quantized pools ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
@given(st.data(), st.sampled_from(ENGINES))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_average_pools_give_the_engine_s_codes(rank, data, name):
    channels = CHANNELS if rank < 3 else CHANNELS[:10]
    x = data.draw(codes(rank, channels=channels, sizes=(1, 10 if rank < 3 else 5)))
    kernel, stride, padding = data.draw(windows(x))
    fields = {
        "ceil_mode": data.draw(st.booleans()),
        "count_include_pad": data.draw(st.booleans()),
    }
    if rank > 1:
        fields["divisor_override"] = data.draw(st.none() | st.integers(1, 50))
    pool = getattr(F, f"avg_pool{rank}d")
    check(lambda x: pool(x, kernel, stride, padding, **fields), x, name)


@pytest.mark.parametrize("rank", [1, 2, 3])
@given(st.data(), st.sampled_from(ENGINES))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_adaptive_average_pools_give_the_engine_s_codes(rank, data, name):
    x = data.draw(codes(rank, sizes=(1, 10 if rank < 3 else 4)))
    out = data.draw(
        st.just([1] * rank)
        | st.lists(st.integers(1, 7), min_size=rank, max_size=rank)
        | st.tuples(
            *(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]) for n in x.shape[2:])
        )
    )
    pool = getattr(F, f"adaptive_avg_pool{rank}d")
    check(lambda x: pool(x, tuple(out) if rank > 1 else out[0]), x, name)


@pytest.mark.parametrize("rank", [1, 2, 3])
@given(st.data(), st.sampled_from(ENGINES), st.booleans())
@settings(deadline=None, max_examples=40, derandomize=True)
def test_max_pools_give_the_engine_s_codes(rank, data, name, ceil):
    assume(rank < 3 or name != "qnnpack")
    x = data.draw(codes(rank, sizes=(1, 9 if rank < 3 else 5)))
    kernel, stride, padding = data.draw(windows(x))
    dilation = [
        data.draw(st.integers(1, max(1, (size - 1) // max(1, k - 1))))
        for size, k in zip(x.shape[2:], kernel, strict=True)
    ]
    if name == "qnnpack" and not ceil:
        padding = [p if d == 1 else 0 for p, d in zip(padding, dilation, strict=True)]
    pool = getattr(F, f"max_pool{rank}d")
    model = check(
        lambda x: pool(x, kernel, stride, padding, dilation, ceil_mode=ceil), x, name, within=0
    )
    one_op(model, "max_pool")


def test_qnnpack_divides_by_a_quotient_of_scales():
    """Ties, at scales where the quotient is not the reciprocal of the number of elements."""
    rng, one = np.random.default_rng(0), np.float32(1)
    scales = rng.uniform(1e-3, 1, 300).astype(np.float32)
    data = torch.from_numpy(rng.integers(0, 2, (2, 5, 20, 30), dtype=np.uint8) + np.uint8(100))
    for kernel in ((2, 3), (5, 2), (20, 30)):
        size = np.float32(np.prod(kernel))
        unlike = [scale for scale in scales if scale / (scale * size) != one / size]
        for scale in unlike[:4]:
            x = torch._make_per_tensor_quantized_tensor(data, float(scale), 101)
            with engine("qnnpack"):
                assert_same(Function(lambda x, k=kernel: F.avg_pool2d(x, k)), x)
                assert_same(Function(lambda x: F.adaptive_avg_pool2d(x, (4, 3))), x)


def test_pools_without_a_batch():
    data = torch.randint(0, 256, (20, 9, 8), dtype=torch.uint8)
    x = torch._make_per_tensor_quantized_tensor(data, 0.1, 11)
    for function in (
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
        lambda x: F.adaptive_avg_pool2d(x, 1),
    ):
        assert_same(Function(function), x, batch_axis=None)


# --- quantized means ----------------------------------------------------------------------------------


def notes(model):
    """Of means that are not exact on one thread."""
    return [note for note in model.origin.notes if "threads" not in note]


@given(st.data(), st.sampled_from(ENGINES), st.booleans())
@settings(deadline=None, max_examples=150, derandomize=True)
def test_means_give_the_engine_s_codes(data, name, keepdim):
    """Those whose order of summation is known; the others are noted, and within one code."""
    x = data.draw(codes(2, sizes=(1, 20)))
    axes = data.draw(st.sampled_from(([1], [2, 3], [-1, -2], [3], [1, 2, 3], [2], [1, 3])))
    module = Function(lambda x: x.mean(axes, keepdim=keepdim))
    with engine(name):
        model = converted(module, x)
        (actual,), (expected,) = run(model, x), outputs(module, x)
        if not notes(model):
            check(module, x, name)
    noted = 1 if notes(model) else 0
    assert np.abs(actual.astype(int) - expected.astype(int)).max(initial=0) <= noted
    last = sorted(axis % 4 for axis in axes) == list(range(4 - len(axes), 4))
    if last and (x.is_contiguous() or sorted(axis % 4 for axis in axes) == [2, 3]):
        assert not notes(model)
    assert one_op(model, "reduce_mean").numerics != "integer"


@pytest.mark.parametrize("size", [3, 16, 17, 64, 100, 300, 1030, 4100])
def test_long_means_are_summed_in_torch_s_order(size):
    rng = np.random.default_rng(size)
    for columns in (2, 3, 4, 7, 8, 31, 32, 33, 70):
        data = torch.from_numpy(rng.integers(0, 256, (2, size, columns), dtype=np.uint8))
        x = torch._make_per_tensor_quantized_tensor(data, 0.0217, 3)
        assert not notes(assert_same(Function(lambda x: x.mean(1)), x))
        data = data.permute(0, 2, 1).reshape(2, columns, 1, size)
        x = torch._make_per_tensor_quantized_tensor(data.contiguous(), 0.0217, 3)
        x = x.contiguous(memory_format=torch.channels_last)
        model = assert_same(Function(lambda x: x.mean([2, 3])), x)
        assert bool(model.origin.notes) == (columns == 70)


def test_a_mean_of_three_axes_and_of_all():
    data = torch.randint(0, 256, (2, 20, 3, 4, 5), dtype=torch.uint8)
    x = torch._make_per_tensor_quantized_tensor(data, 0.0217, 3)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    for function in (lambda x: x.mean([2, 3, 4]), lambda x: F.adaptive_avg_pool3d(x, 1)):
        assert not assert_same(Function(function), x).origin.notes
        assert not assert_same(Function(function), last).origin.notes
    assert_same(Function(lambda x: x.mean()), x, batch_axis=None)


def test_a_mean_behind_a_transpose_keeps_its_order():
    data = torch.randint(0, 256, (2, 40, 37, 3), dtype=torch.uint8)
    x = torch._make_per_tensor_quantized_tensor(data, 0.0217, 3)
    for order in ((0, 2, 1, 3), (0, 3, 2, 1), (0, 2, 3, 1)):
        module = Function(lambda x, order=order: x.permute(order).contiguous().mean(1))
        model = assert_same(module, x)
        assert not notes(model)


# --- quantized resizing -------------------------------------------------------------------------------


@st.composite
def target(draw, x):
    """Size or scale factors, as `interpolate` takes them."""
    rank = x.ndim - 2
    if draw(st.booleans()):
        return {"size": tuple(draw(st.integers(1, 25)) for _ in range(rank))}
    factor = st.sampled_from((0.5, 1.0, 1.03, 1.5, 2.0, 2.1, 3.0, 4.0)) | st.floats(0.3, 4)
    factors = tuple(draw(factor) for _ in range(rank))
    assume(all(int(n * f) >= 1 for n, f in zip(x.shape[2:], factors, strict=True)))
    return {"scale_factor": factors, "recompute_scale_factor": draw(st.sampled_from((None, True)))}


@given(st.data(), st.sampled_from(ENGINES), st.booleans())
@settings(deadline=None, max_examples=120, derandomize=True)
def test_bilinear_gives_torch_s_codes(data, name, align):
    x = data.draw(codes(2))
    fields = data.draw(target(x)) | {"mode": "bilinear", "align_corners": align}
    if "scale_factor" in fields and x.is_contiguous(memory_format=torch.channels_last):
        same = all(
            int(n * f) == n for n, f in zip(x.shape[2:], fields["scale_factor"], strict=True)
        )
        assume(not same)  # no integer form
    check(lambda x: F.interpolate(x, **fields), x, name)


def test_bilinear_to_the_same_size_resamples_channels_last():
    data = torch.randint(0, 256, (2, 20, 30, 33), dtype=torch.uint8)
    x = torch._make_per_tensor_quantized_tensor(data, 0.0217, 3)
    module = Function(lambda x: F.interpolate(x, scale_factor=1.02, mode="bilinear"))
    assert_same(module, x)
    x = x.contiguous(memory_format=torch.channels_last)
    assert_same(module, x)
    with pytest.raises(UnsupportedOpError, match="its own size"):
        converted(module, x, numerics="integer")


@pytest.mark.parametrize("rank", [2, 3])
@given(st.data(), st.sampled_from(("nearest", "nearest-exact")))
@settings(deadline=None, max_examples=80, derandomize=True)
def test_nearest_takes_torch_s_codes(rank, data, mode):
    x = data.draw(codes(rank, sizes=(1, 12 if rank == 2 else 4)))
    fields = data.draw(target(x)) | {"mode": mode}
    function = Function(lambda x: F.interpolate(x, **fields))
    last = rank == 3 and x.is_contiguous(memory_format=torch.channels_last_3d)
    assume(not last or function(x).shape != x.shape)
    check(function, x, within=0)


# --- float --------------------------------------------------------------------------------------------


@st.composite
def reals(draw, rank, sizes=(1, 12)):
    shape = (
        draw(st.integers(1, 2)),
        draw(st.sampled_from((1, 3, 4, 9))),
        *(draw(st.integers(*sizes)) for _ in range(rank)),
    )
    x = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1))))
    last = rank > 1 and draw(st.booleans())
    return x.contiguous(memory_format=FORMATS[x.ndim]) if last else x


def check_float(function, x, tolerance=0.0):
    """Equal, or within the rounding of float32 sums and weights in another order."""
    module = Function(function)
    recording, _ = record_batches(module, (x,), {}, 0)
    importer = import_recording(recording, "test", "fbgemm", integer=False)
    model = float_model(importer.graph)
    for actual, expected in zip(run(model, x), outputs(module, x), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance, strict=True)
    return model


@pytest.mark.parametrize("rank", [1, 2, 3])
@given(st.data(), st.sampled_from(("nearest", "nearest-exact")))
@settings(deadline=None, max_examples=80, derandomize=True)
def test_nearest_takes_torch_s_elements(rank, data, mode):
    x = data.draw(reals(rank, sizes=(1, 12 if rank < 3 else 5)))
    fields = data.draw(target(x)) | {"mode": mode}
    check_float(lambda x: F.interpolate(x, **fields), x)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("last", [False, True])
def test_nearest_at_many_sizes(mode, last):
    """The kernels differ in few positions, so all sizes are looked at, at the level of indices."""
    for size in (*range(1, 40, 3), 56, 100):
        x = torch.arange(size, dtype=torch.float32).reshape(1, 1, size, 1).repeat(1, 4, 1, 2)
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        for count in (size, 2 * size, 41, 82, 123, 200):
            for width in (2, 128):
                y = lambda x, size=(count, width): F.interpolate(x, size=size, mode=mode)  # noqa: E731
                check_float(y, x)


def test_common_nearest_sizes_are_one_resize():
    x = torch.randn(1, 3, 7, 9)
    for factor in (2, 3, 4, 0.5):
        for mode in ("nearest", "nearest-exact"):
            module = Function(lambda x, f=factor, m=mode: F.interpolate(x, scale_factor=f, mode=m))
            model = check_float(module, x)
            assert [op.name for op in model.ops if op.name != "transpose"] == ["resize"]


@pytest.mark.parametrize(("rank", "mode"), [(1, "linear"), (2, "bilinear"), (3, "trilinear")])
@given(st.data(), st.booleans())
@settings(deadline=None, max_examples=60, derandomize=True)
def test_linear_resizing_is_within_rounding(rank, mode, data, align):
    x = data.draw(reals(rank, sizes=(1, 12 if rank < 3 else 5)))
    fields = data.draw(target(x)) | {"mode": mode, "align_corners": align}
    check_float(lambda x: F.interpolate(x, **fields), x, 1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
@given(st.data(), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=40, derandomize=True)
def test_float_pools_are_within_rounding(rank, data, ceil, include):
    x = data.draw(reals(rank, sizes=(1, 9 if rank < 3 else 5)))
    kernel, stride, padding = data.draw(windows(x))
    divisor = {"divisor_override": data.draw(st.none() | st.integers(1, 9))} if rank > 1 else {}
    average, maximum = (getattr(F, f"{kind}_pool{rank}d") for kind in ("avg", "max"))
    check_float(lambda x: average(x, kernel, stride, padding, ceil, include, **divisor), x, 1e-5)
    check_float(lambda x: maximum(x, kernel, stride, padding, 1, ceil), x)


@pytest.mark.parametrize("rank", [1, 2, 3])
@given(st.data())
@settings(deadline=None, max_examples=40, derandomize=True)
def test_float_adaptive_pools_are_within_rounding(rank, data):
    x = data.draw(reals(rank, sizes=(1, 9 if rank < 3 else 5)))
    out = [data.draw(st.integers(1, 9)) for _ in range(rank)]
    average, maximum = (getattr(F, f"adaptive_{kind}_pool{rank}d") for kind in ("avg", "max"))
    size = tuple(out) if rank > 1 else out[0]
    check_float(lambda x: average(x, size), x, 1e-5)
    check_float(lambda x: maximum(x, size), x)


def test_float_pools_become_integer_with_calibration_data():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3)

        def forward(self, x):
            y = F.adaptive_avg_pool2d(self.conv(x), (5, 3))
            return F.interpolate(y, scale_factor=1.5, mode="bilinear").mean([2, 3])

    x = torch.randn(4, 3, 11, 11, generator=torch.Generator().manual_seed(0))
    net = Net().eval()
    model = converted(net, x, calibration={"x": x.numpy()}, require_integer=True)
    (actual,), (expected,) = run(model, x), outputs(net, x)
    np.testing.assert_allclose(actual, expected, atol=0.03)
    assert {"adaptive_average_pool", "resize", "reduce_mean"} <= {op.name for op in model.ops}


# --- faults of torch ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.interpolate(x, size=(3, 3)),
        lambda x: F.interpolate(x, size=(3, 3), mode="nearest-exact"),
        lambda x: F.interpolate(x, size=(3, 3), mode="bilinear"),
        lambda x: F.adaptive_avg_pool2d(x, 3),
        lambda x: F.avg_pool2d(x, 2, 1, 1),
        lambda x: F.max_pool2d(x, 2, 1, 1),
    ],
)
def test_one_position_that_torch_scrambles_is_refused(function):
    data = torch.randint(0, 256, (2, 5, 1, 1), dtype=torch.uint8)
    x = torch._make_per_tensor_quantized_tensor(data, 0.1, 10)
    with engine("fbgemm"), pytest.raises(UnsupportedOpError, match="wrong order"):
        converted(Function(function), x)
    last = torch._empty_affine_quantized((2, 5, 1, 1), scale=0.1, zero_point=10, dtype=torch.quint8)
    last = last.as_strided((2, 5, 1, 1), (5, 1, 5, 5)).copy_(x)
    with engine("fbgemm"):
        assert_same(Function(function), last)


def strided(shape, strides):
    """A quantized view of noise with these strides."""
    data = torch.randint(0, 256, (20_000,), dtype=torch.uint8, generator=torch.manual_seed(0))
    return torch._make_per_tensor_quantized_tensor(data, 0.125, 10).as_strided(shape, strides)


class Restrided(torch.nn.Module):
    """A function of a view of the input with some strides, of which the batch's is one for a single sample only."""

    def __init__(self, function, sizes):
        super().__init__()
        self.function, self.sizes = function, sizes

    def forward(self, x):
        return self.function(x.reshape(x.shape[0], -1, *self.sizes))


ON_IMAGES = {
    "avg": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "max": lambda x: F.max_pool2d(x, 3, 1, 1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
    "adaptive_one": lambda x: F.adaptive_avg_pool2d(x, 1),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "instance_norm": lambda x: torch.ops.quantized.instance_norm(x, None, None, 1e-5, 0.1, 30),
}
ON_VOLUMES = {
    "avg": lambda x: F.avg_pool3d(x, 3, 1, 1),
    "max": lambda x: F.max_pool3d(x, 3, 1, 1),
    "adaptive": lambda x: F.adaptive_avg_pool3d(x, (2, 1, 2)),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "instance_norm": lambda x: torch.ops.quantized.instance_norm(x, None, None, 1e-5, 0.1, 30),
}


@pytest.mark.parametrize(
    ("rank", "function", "name"),
    [
        (rank, function, name)
        for name in ("fbgemm", "qnnpack")
        for rank, functions in ((2, ON_IMAGES), (3, ON_VOLUMES))
        for function in functions
        if (rank, function, name) != (3, "max", "qnnpack")  # no such kernel
    ],
)
def test_strides_of_a_single_sample(rank, function, name):
    """What torch writes in a wrong order is refused, and nothing else."""
    sizes = (3, 4) if rank == 2 else (2, 3, 4)
    module = Function((ON_IMAGES if rank == 2 else ON_VOLUMES)[function])
    for channels in (1, 4, 17):
        count = channels * numel(sizes)
        spatial = [channels * numel(sizes[axis + 1 :]) for axis in range(rank)]
        for batch in (count, 2 * count, count - 1, channels * sizes[-1], channels, 1):
            x = strided((1, channels, *sizes), (batch, 1, *spatial))
            same = torch.empty_like(x, memory_format=FORMATS[rank + 2]).copy_(x)
            with engine(name):
                right = np.array_equal(outputs(module, x)[0], outputs(module, same)[0])
                if right:
                    assert_same(module, x, batch_axis=None)
                else:
                    with pytest.raises(UnsupportedOpError, match="wrong order"):
                        converted(module, x, batch_axis=None)


def test_a_single_sample_that_torch_scrambles_behind_a_reshape():
    x = strided((2, 3, 4, 4), (48, 1, 12, 3))
    module = Restrided(ON_IMAGES["avg"], (2, 8))
    with engine("fbgemm"):
        with pytest.raises(UnsupportedOpError, match="wrong order"):
            converted(module, x[:1])
        model = converted(module, x)
        for batch in (x, torch.cat([x, x])):
            np.testing.assert_array_equal(run(model, batch)[0], outputs(module, batch)[0])
        np.testing.assert_array_equal(run(model, x[:1])[0], outputs(module, x)[0][:1])
        copied = Restrided(
            lambda q: ON_IMAGES["avg"](q.clone(memory_format=torch.channels_last)), (2, 8)
        )
        assert_same(copied, x[:1])


def test_upsample_of_volumes_to_the_same_size_is_refused():
    data = torch.randint(0, 256, (2, 5, 2, 3, 4), dtype=torch.uint8)
    x = torch._make_per_tensor_quantized_tensor(data, 0.1, 10)
    module = Function(lambda x: F.interpolate(x, size=(2, 3, 4)))
    assert_same(module, x)
    with pytest.raises(UnsupportedOpError, match="unwritten"):
        converted(module, x.contiguous(memory_format=torch.channels_last_3d))


def test_what_qnnpack_does_in_its_own_way():
    data = torch.randint(0, 256, (2, 5, 9, 9), dtype=torch.uint8)
    x = torch._make_per_tensor_quantized_tensor(data, 0.1, 10)
    dilated = Function(lambda x: F.max_pool2d(x, 3, 1, 1, 2))
    ignored = Function(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))
    with engine("qnnpack"):
        with pytest.raises(UnsupportedOpError, match="dilation"):
            converted(dilated, x)
        assert any("count_include_pad" in n for n in assert_same(ignored, x).origin.notes)
    with engine("fbgemm"):
        assert_same(dilated, x)
        assert not assert_same(ignored, x).origin.notes
