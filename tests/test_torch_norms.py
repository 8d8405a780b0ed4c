"""Normalizations, softmax, matrix products, attention and LSTM of torch on quantized tensors, against torch itself."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch_runner import ENGINES, QUIET, Function, converted, engine, fx, outputs, run, tq

from nprt.ops.batch_norm import BatchNorm
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.group_norm import GroupNorm
from nprt.ops.layer_norm import LayerNorm

if torch.backends.cpu.get_cpu_capability() != "AVX512":
    pytest.skip("torch has other vector loops on this CPU", allow_module_level=True)

# What torch says of the two directions of an LSTM, which have scales of their own.
CAT = "ignore:All inputs of this cat operator"
pytestmark = [pytest.mark.filterwarnings(text) for text in (*QUIET, CAT)]

Q = torch.ops.quantized
ends = pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8], ids=("quint8", "qint8"))
engines = pytest.mark.parametrize("name", ENGINES)
few = settings(deadline=None, max_examples=10, derandomize=True)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def compare(function: Any, *inputs: Any, **options: Any) -> Any:
    """nprt and torch give the same codes."""
    module = Function(function)
    model = converted(module, *inputs, **options)
    (actual,), (expected,) = run(model, *inputs), outputs(module, *inputs)
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)
    return model


def channels_last(x: Any) -> Any:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.ndim]) if x.ndim in formats else x


class Draws:
    """What the tests of this file draw: codes, scales that make ties, vectors."""

    def __init__(self, data: Any, dtype: Any) -> None:
        self.data, self.dtype = data, dtype
        info = torch.iinfo(dtype)
        self.low, self.high = info.min, info.max
        self.rng = np.random.default_rng(data.draw(st.integers(0, 999)))
        self.ties = data.draw(st.booleans())

    def zero_point(self) -> int:
        return self.data.draw(st.integers(self.low, self.high - 1))

    def scale(self, low: float, high: float) -> float:
        return float(np.float32(self.rng.uniform(low, high)))

    def quant(self, low: float = 0.01, high: float = 0.05) -> tuple[float, int]:
        if self.ties:
            return 2.0 ** -int(self.rng.integers(3, 7)), self.zero_point()
        return self.scale(low, high), self.zero_point()

    def codes(self, *shape: int, quant: tuple[float, int], spread: int = 256) -> Any:
        spread = min(spread, 256)
        array = self.rng.integers(self.low, self.low + spread, shape)
        array = array.astype("u1" if self.low == 0 else "i1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch._make_per_tensor_quantized_tensor(torch.from_numpy(array), *quant)

    def vector(self, size: int) -> Any:
        values = self.rng.normal(size=size)
        values = np.rint(values * 8) / 8 if self.ties else values
        return torch.from_numpy(values.astype(np.float32))


# --- batch norm ---------------------------------------------------------------------------------------


@engines
@ends
@few
@given(data=st.data())
def test_batch_norm(name, dtype, data):
    draw = Draws(data, dtype)
    x_quant, y_quant = draw.quant(), draw.quant()
    shape, operators = data.draw(
        st.sampled_from(
            [
                ((3, 17), (Q.batch_norm1d, Q.batch_norm1d_relu)),
                ((3, 7, 5), (Q.batch_norm1d, Q.batch_norm1d_relu)),
                ((3, 70, 5, 2), (Q.batch_norm2d, Q.batch_norm2d_relu, Q.batch_norm)),
                ((2, 6, 3, 2, 4), (Q.batch_norm3d, Q.batch_norm3d_relu)),
            ]
        )
    )
    size = shape[1]
    weight, bias, mean = (draw.vector(size) for _ in range(3))
    var = draw.vector(size).abs() + 0.25
    operator = data.draw(st.sampled_from(operators))
    with engine(name):
        x = draw.codes(*shape, quant=x_quant)
        x = channels_last(x) if data.draw(st.booleans()) else x
        model = compare(lambda p: operator(p, weight, bias, mean, var, 1e-5, *y_quant), x)
    assert BatchNorm in map(type, model.ops)


def test_batch_norm_in_fixed_point():
    """A depthwise convolution of one tap, within one code of the real numbers."""
    rng = np.random.default_rng(0)
    x = torch.quantize_per_tensor(torch.randn(3, 6, 5, 4), 0.03, 120, torch.quint8)
    vectors = [torch.from_numpy(rng.uniform(0.5, 1.5, 6).astype(np.float32)) for _ in range(4)]
    module = Function(lambda p: Q.batch_norm2d_relu(p, *vectors, 1e-5, 0.04, 10))
    model = converted(module, x, numerics="integer")
    assert DepthwiseConv in map(type, model.ops)
    assert np.abs(run(model, x)[0].astype(int) - outputs(module, x)[0]).max() <= 1


@engines
def test_batch_norm_modules(name):
    """BatchNorm and ReLU in front of a convolution, where nothing can be folded."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.BatchNorm2d(5), torch.nn.ReLU(), torch.nn.Conv2d(5, 7, 3), torch.nn.MaxPool2d(2)
    )
    for parameter in (*module.parameters(), *module.buffers()):
        if parameter.is_floating_point():
            parameter.data += torch.rand_like(parameter) / 2
    inputs = [torch.randn(2, 5, 9, 9) for _ in range(3)]
    module = fx(module, name, inputs)
    with engine(name):
        model = converted(module, inputs[0])
        np.testing.assert_array_equal(run(model, inputs[1])[0], outputs(module, inputs[1])[0])


# --- layer, group and instance norm -------------------------------------------------------------------


@engines
@ends
@few
@given(data=st.data())
def test_layer_norm(name, dtype, data):
    draw = Draws(data, dtype)
    x_quant, y_quant = draw.quant(), draw.quant()
    size = data.draw(st.sampled_from([2, 7, 31, 32, 63, 64, 70, 769]))
    normalized = data.draw(st.sampled_from([[size], [3, size]]))
    weight, bias = (draw.vector(normalized[0] if len(normalized) == 1 else 0) for _ in range(2))
    if len(normalized) == 2:
        weight, bias = (draw.vector(3 * size).reshape(3, size) for _ in range(2))
    weight, bias = (item if data.draw(st.booleans()) else None for item in (weight, bias))
    with engine(name):
        x = draw.codes(2, 3, size, quant=x_quant, spread=data.draw(st.sampled_from([3, 40, 256])))
        model = compare(lambda p: Q.layer_norm(p, normalized, weight, bias, 1e-5, *y_quant), x)
    assert LayerNorm in map(type, model.ops)
    assert not model.origin.notes


@engines
@ends
@few
@given(data=st.data())
def test_group_norm(name, dtype, data):
    draw = Draws(data, dtype)
    x_quant, y_quant = draw.quant(), draw.quant()
    channels, groups = data.draw(
        st.sampled_from([(6, 1), (6, 2), (6, 6), (64, 2), (70, 2), (70, 70), (96, 3)])
    )
    tail = data.draw(st.sampled_from([(3, 5), (1, 1), (7,), (2, 3, 2)]))
    weight, bias = draw.vector(channels), draw.vector(channels)
    with engine(name):
        batch = min(2, int(np.prod(tail)))  # see below
        x = draw.codes(
            batch, channels, *tail, quant=x_quant, spread=data.draw(st.sampled_from([5, 256]))
        )
        x = channels_last(x) if data.draw(st.booleans()) else x
        model = compare(lambda p: Q.group_norm(p, groups, weight, bias, 1e-5, *y_quant), x)
        assert GroupNorm in map(type, model.ops)
        compare(lambda p: Q.instance_norm(p, weight, bias, 1e-3, *y_quant), x)
        compare(lambda p: Q.instance_norm(p, None, None, 1e-3, *y_quant), x)


def test_samples_that_torch_leaves_unwritten():
    """torch's kernel for channels_last tensors writes as many samples as a group has elements: 8 here."""
    x = channels_last(torch.quantize_per_tensor(torch.randn(64, 8, 2, 2), 0.03, 120, torch.quint8))
    module = Function(lambda p: Q.group_norm(p, 4, None, None, 1e-5, 0.02, 128))
    model = converted(module, x)
    assert any("the first 8 " in note for note in model.origin.notes)
    (actual,), (expected,) = run(model, x), outputs(module, x)
    np.testing.assert_array_equal(actual[:8], expected[:8])
    (right,) = outputs(module, x.contiguous())
    assert np.abs(actual.astype(int) - right).max() <= 1


def test_volumes_have_the_contiguous_kernel():
    """It writes all samples, where the one of channels-last images would write 2."""
    x = channels_last(torch.quantize_per_tensor(torch.randn(64, 4, 1, 1, 2), 0.03, 9, torch.quint8))
    model = compare(lambda p: Q.group_norm(p, 4, None, None, 1e-5, 0.03, 100), x)
    (norm,) = [op for op in model.ops if op.name == "group_norm"]
    assert not norm.channels_last
    assert not any("unwritten" in str(note) for note in model.origin.notes)


def test_norms_of_large_tensors():
    """Sums of squares beyond 2**32."""
    draw_codes = np.random.default_rng(0).integers(200, 256, (1, 8, 160, 160)).astype(np.uint8)
    x = torch._make_per_tensor_quantized_tensor(torch.from_numpy(draw_codes), 0.031, 3)
    compare(lambda p: Q.group_norm(p, 2, None, None, 1e-5, 0.02, 128), x)
    compare(lambda p: Q.layer_norm(p, [160, 160], None, None, 1e-5, 0.02, 128), x)


def test_norms_stay_float_islands_in_fixed_point():
    x = torch.quantize_per_tensor(torch.randn(2, 6, 8), 0.03, 120, torch.quint8)
    module = Function(lambda p: Q.layer_norm(p, [8], None, None, 1e-5, 0.02, 128))
    model = converted(module, x, numerics="integer")
    (norm,) = (op for op in model.ops if isinstance(op, LayerNorm))
    assert model.types[norm.outputs[0]].is_float
    assert np.abs(run(model, x)[0].astype(int) - outputs(module, x)[0]).max() <= 1


def test_a_scale_that_is_no_float32_is_noted():
    x = torch.quantize_per_tensor(torch.randn(2, 6, 8), 0.1, 120, torch.quint8)
    model = converted(Function(lambda p: Q.layer_norm(p, [8], None, None, 1e-5, 0.02, 128)), x)
    assert "no float32" in model.origin.notes[0]


@engines
def test_norm_modules(name):
    """LayerNorm, GroupNorm and InstanceNorm between convolutions, quantized by FX."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 3),
        torch.nn.GroupNorm(3, 12),
        torch.nn.InstanceNorm2d(12, affine=True),
        torch.nn.LayerNorm([12, 6, 6]),
        torch.nn.Conv2d(12, 4, 3),
    )
    inputs = [torch.randn(2, 3, 8, 8) for _ in range(3)]
    module = fx(module, name, inputs)
    with engine(name):
        model = converted(module, inputs[0])
        np.testing.assert_array_equal(run(model, inputs[1])[0], outputs(module, inputs[1])[0])


# --- softmax and matmul -------------------------------------------------------------------------------


@engines
@ends
@few
@given(data=st.data())
def test_softmax(name, dtype, data):
    draw = Draws(data, dtype)
    x_quant = draw.quant()
    y_quant = data.draw(
        st.sampled_from([(1 / 256, draw.low), (1 / 256, draw.low + 3), (0.01, draw.low)])
    )
    size, axis = data.draw(st.integers(1, 300)), data.draw(st.sampled_from([-1, 1, 2]))
    with engine(name):
        x = draw.codes(
            3, 5, size, quant=x_quant, spread=data.draw(st.sampled_from([2, 5, 60, 256]))
        )
        model = compare(lambda p: Q.softmax(p, axis, *y_quant), x)
        assert not model.origin.notes
        model = converted(Function(lambda p: Q.softmax(p, axis, *y_quant)), x, numerics="integer")
        expected = Q.softmax(x, axis, *y_quant).int_repr().numpy().astype(int)
        assert np.abs(run(model, x)[0] - expected).max() <= 1


def test_softmax_whose_sum_overflows_in_torch():
    """1500 equal codes are 1/1500 each, to nprt."""
    x = torch.quantize_per_tensor(torch.zeros(2, 1500), 0.1, 9, torch.quint8)
    with engine("qnnpack"):
        model = converted(Function(lambda p: Q.softmax(p, -1, 1 / 256, 0)), x)
        assert "leaves 32 bits" in model.origin.notes[0]
        assert np.all(run(model, x)[0] == 0)


@engines
@ends
def test_matmul(name, dtype):
    """The exact sum: few codes differ from float32 sums, and by one."""
    rng = np.random.default_rng(0)
    wrong = total = 0
    info = torch.iinfo(dtype)
    for k in (3, 17, 64, 300):
        with engine(name):
            a, b = (
                torch._make_per_tensor_quantized_tensor(
                    torch.from_numpy(
                        rng.integers(info.min, info.max + 1, shape).astype(
                            "u1" if info.min == 0 else "i1"
                        )
                    ),
                    0.0217,
                    info.min + 117,
                )
                for shape in ((2, 9, k), (2, k, 33))
            )
            module = Function(lambda p, q, k=k: Q.matmul(p, q, 0.1 * k**0.5, info.min + 120))
            model = converted(module, a, b)
            difference = run(model, a, b)[0].astype(int) - outputs(module, a, b)[0]
            assert np.abs(difference).max() <= 1
            assert "order" in model.origin.notes[0]
        wrong, total = wrong + np.count_nonzero(difference), total + difference.size
    assert wrong / total < 0.001


# --- attention and LSTM -------------------------------------------------------------------------------

quantizable, quantized = torch.ao.nn.quantizable, torch.ao.nn.quantized


class Attention(torch.nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.attention = torch.nn.MultiheadAttention(16, 4, batch_first=batch_first)

    def forward(self, x: Any) -> Any:
        x = self.quant(x)
        y, weights = self.attention(x, x, x)
        return self.dequant(y), self.dequant(weights)


class Recurrent(torch.nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.lstm = torch.nn.LSTM(8, 16, **options)

    def forward(self, x: Any) -> Any:
        y, (h, c) = self.lstm(self.quant(x))
        return self.dequant(y), self.dequant(h), self.dequant(c)


def static(module: Any, name: str, inputs: Any) -> Any:
    """Eager mode with torch's own replacements for LSTM and MultiheadAttention."""
    with engine(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.eval().qconfig = tq.get_default_qconfig(name)
        observed = {
            torch.nn.LSTM: quantizable.LSTM,
            torch.nn.MultiheadAttention: quantizable.MultiheadAttention,
        }
        module = tq.prepare(
            module, prepare_custom_config_dict={"float_to_observed_custom_module_class": observed}
        )
        for x in inputs:
            module(x)
        final = {
            quantizable.LSTM: quantized.LSTM,
            quantizable.MultiheadAttention: quantized.MultiheadAttention,
        }
        return tq.convert(
            module, convert_custom_config_dict={"observed_to_quantized_custom_module_class": final}
        )


@engines
@pytest.mark.parametrize("batch_first", [False, True])
def test_attention(name, batch_first):
    torch.manual_seed(0)
    inputs = [torch.randn(5, 3, 16) for _ in range(4)]
    module = static(Attention(batch_first), name, inputs)
    with engine(name):
        model = converted(module, inputs[0], batch_axis=0 if batch_first else 1)
        assert model.types["x"].shape == (("N", 3, 16) if batch_first else (5, "N", 16))
        for x in (*inputs, torch.randn((7, 3, 16) if batch_first else (5, 7, 16))):
            for actual, expected in zip(run(model, x), outputs(module, x), strict=True):
                assert np.mean(actual != expected) < 0.01  # float32 products in another order


@engines
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}, {"bias": False}],
    ids=["plain", "bidirectional", "batch_first", "no_bias"],
)
def test_lstm(name, options):
    torch.manual_seed(0)
    first = options.get("batch_first", False)
    inputs = [torch.randn(64, 3, 8) if first else torch.randn(3, 64, 8) for _ in range(3)]
    module = static(Recurrent(**options), name, inputs)
    with engine(name):
        model = converted(module, inputs[0], batch_axis=0 if first else 1)
        assert "N" in model.types["x"].shape
        for x in inputs:
            for actual, expected in zip(run(model, x), outputs(module, x), strict=True):
                np.testing.assert_array_equal(actual, expected)
        integer = converted(module, inputs[0], batch_axis=0 if first else 1, numerics="integer")
        error = np.abs(run(integer, inputs[1])[0] - outputs(module, inputs[1])[0])
        assert error.max() < 0.1
