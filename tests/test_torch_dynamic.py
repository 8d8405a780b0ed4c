"""Linear layers of torch that quantize their input at run time, in nprt: the same float32 bits, engine by engine."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch_runner import (
    ENGINES,
    QUIET,
    assert_same,
    converted,
    engine,
    outputs,
    quantize_fx,
    run,
    seeded,
    tq,
)

import nprt
from nprt import rounding
from nprt.converters import from_torch
from nprt.converters.torch_ops.dynamic import scale_of_onednn
from nprt.errors import UnsupportedOpError

if torch.backends.cpu.get_cpu_capability() != "AVX512":
    pytest.skip("torch's int8 kernels were measured with AVX512", allow_module_level=True)

pytestmark = [pytest.mark.filterwarnings(f) for f in QUIET]

# linear_prepack_fp16 is an error with the other engines.
FLOAT16_ENGINES = ("fbgemm", "x86")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Dynamic(nn.Module):
    """One operator on packed weights, as torch's own modules call it."""

    def __init__(self, packed: Any, *, relu: bool = False, reduce_range: bool = True) -> None:
        super().__init__()
        self.packed, self.reduce_range = packed, reduce_range
        self.op = (
            torch.ops.quantized.linear_relu_dynamic if relu else torch.ops.quantized.linear_dynamic
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x, self.packed, self.reduce_range)


def packed_linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float | torch.Tensor,
    zero_point: int = 0,
) -> Any:
    """Weights packed for the current engine: one scale, or one for each row."""
    if isinstance(scale, float):
        quantized = torch.quantize_per_tensor(weight, scale, zero_point, torch.qint8)
    else:
        zeros = torch.full((len(scale),), zero_point, dtype=torch.int64)
        quantized = torch.quantize_per_channel(weight, scale, zeros, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(quantized, bias)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 33), nn.ReLU(), nn.Linear(33, 5))


def dynamic(module: nn.Module, qconfig: Any = None, dtype: torch.dtype = torch.qint8) -> nn.Module:
    """torch.ao.quantization.quantize_dynamic on the linear layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = {nn.Linear: qconfig} if qconfig else {nn.Linear}
        return tq.quantize_dynamic(module.eval(), spec, dtype=dtype)


def by_fx(
    module: nn.Module, qconfig: Any, *example: torch.Tensor, reference: bool = False
) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = tq.QConfigMapping().set_global(qconfig)
        prepared = quantize_fx.prepare_fx(module.eval(), mapping, example)
        convert = quantize_fx.convert_to_reference_fx if reference else quantize_fx.convert_fx
        return convert(prepared)


def ops(model: nprt.Model) -> list[str]:
    return [op.name for op in model.ops]


# --- the bits of each engine --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("shape", [(4, 7), (3, 5, 7), (2, 3, 4, 7)], ids=str)
def test_quantize_dynamic(name, per_channel, shape):
    with engine(name):
        qconfig = tq.per_channel_dynamic_qconfig if per_channel else None
        model = assert_same(dynamic(mlp(), qconfig), torch.randn(shape, generator=seeded(1)) * 3)
    assert ops(model) == ["dynamic_linear", "unary", "dynamic_linear"]
    assert {model.constants[op.inputs[1]].dtype.name for op in model.ops[::2]} == {"int8"}
    assert model.types[model.inputs[0]].shape[0] == "N"
    assert model.origin.engine == f"torch {name}"


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_fx(name, per_channel):
    qconfig = tq.per_channel_dynamic_qconfig if per_channel else tq.default_dynamic_qconfig
    with engine(name):
        x = torch.randn(4, 7, generator=seeded(1))
        assert_same(by_fx(mlp(), qconfig, x), x)
        # FX fuses a relu into the layer before it.
        fused = by_fx(nn.Sequential(nn.Linear(7, 9), nn.ReLU()), qconfig, x)
        assert_same(fused, x)


@st.composite
def layers(draw) -> dict[str, Any]:
    """A layer and its input: sizes, scales, zero points, and values that are ties, tiny, one-sided or all alike."""
    inputs = draw(st.sampled_from([1, 3, 8, 31, 64, 257]))
    return {
        "rows": draw(st.integers(1, 5)),
        "inputs": inputs,
        "outputs": draw(st.sampled_from([1, 2, 7, 16, 33])),
        "seed": draw(st.integers(0, 2**16)),
        "kind": draw(
            st.sampled_from(["normal", "ties", "tiny", "positive", "negative", "zeros", "alike"])
        ),
        "size": 10.0 ** draw(st.integers(-3, 3)),
        "per_channel": draw(st.booleans()),
        "zero_point": draw(st.sampled_from([0, 0, -128, 5])),
        "biased": draw(st.booleans()),
        "relu": draw(st.booleans()),
        "reduce_range": draw(st.booleans()),
    }


def values(kind: str, shape: tuple[int, ...], size: float, generator: torch.Generator) -> Any:
    x = torch.randn(shape, generator=generator) * size
    return {
        "normal": x,
        "ties": torch.round(x / size * 64) * (size / 128),
        "tiny": x / size * 1e-5,
        "positive": x.abs() + size,
        "negative": -x.abs() - size,
        "zeros": torch.zeros(shape),
        "alike": torch.full(shape, size),
    }[kind]


@pytest.mark.parametrize("name", ENGINES)
@settings(deadline=None, max_examples=60, derandomize=True)
@given(layer=layers())
def test_linear_dynamic(name, layer):
    generator = seeded(layer["seed"])
    weight = torch.randn(layer["outputs"], layer["inputs"], generator=generator)
    bias = torch.randn(layer["outputs"], generator=generator) if layer["biased"] else None
    scale: Any = 0.0217
    if layer["per_channel"]:
        scale = torch.rand(layer["outputs"], generator=generator, dtype=torch.float64) * 0.03 + 1e-3
    x = values(layer["kind"], (layer["rows"], layer["inputs"]), layer["size"], generator)
    zero_point = 0 if name == "onednn" else layer["zero_point"]  # onednn takes no other
    with engine(name):
        packed = packed_linear(weight, bias, scale, zero_point)
        module = Dynamic(packed, relu=layer["relu"], reduce_range=layer["reduce_range"])
        assert_same(module, x)


@pytest.mark.parametrize("name", ENGINES)
def test_long_sums(name):
    with engine(name):
        weight = torch.randn(9, 5000, generator=seeded(0))
        module = Dynamic(packed_linear(weight, None, 0.03))
        assert_same(module, torch.randn(3, 5000, generator=seeded(1)))


@pytest.mark.parametrize("name", ENGINES)
def test_another_batch_than_the_example(name):
    with engine(name):
        module = dynamic(mlp())
        model = converted(module, torch.randn(2, 7, generator=seeded(0)))
        for rows in (1, 3, 17):
            x = torch.randn(rows, 7, generator=seeded(rows)) * rows
            np.testing.assert_array_equal(run(model, x)[0], outputs(module, x)[0])
    assert run(model, torch.empty(0, 7))[0].shape == (0, 5)


@pytest.mark.parametrize("made", ENGINES)
@pytest.mark.parametrize("now", ["fbgemm", "onednn"])
def test_the_weights_know_their_engine(made, now):
    """Weights packed by one engine, converted and run while another one is current."""
    with engine(made):
        module = dynamic(mlp())
    with engine(now):
        model = assert_same(module, torch.randn(4, 7, generator=seeded(3)))
    expected = "fbgemm" if made == "x86" else made
    assert {op.numerics for op in model.ops[::2]} == {expected}


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.floats(1e-8, 10, allow_subnormal=False))
def test_a_float32_stands_for_onednns_scale(scale):
    found = scale_of_onednn(scale)
    assert rounding.twice_inverted(found) == rounding.twice_inverted_torch(np.float64(scale))
    assert abs(float(found) - scale) <= 2e-7 * scale


# --- scales and zero points ---------------------------------------------------------------------------


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    low=st.floats(-1e6, 1e6, width=32),
    high=st.floats(-1e6, 1e6, width=32),
    factor=st.sampled_from([1.0, 1e-6, 1e-9, 1e-30, 1e-44]),
    reduce_range=st.booleans(),
)
def test_scale_and_zero_point(low, high, factor, reduce_range):
    x = torch.tensor([low, high]) * factor
    with engine("fbgemm"):
        scale, zero_point = torch._choose_qparams_per_tensor(x, reduce_range)
    ends = (0, 127) if reduce_range else (0, 255)
    found = rounding.dynamic_params_torch(x.min().numpy(), x.max().numpy(), *ends)
    assert (float(found[0]), int(found[1])) == (scale, zero_point)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("numerics", ["fbgemm", "onednn", "qnnpack"])
def test_what_is_not_finite_gives_nan(bad, numerics):
    """torch gives arbitrary numbers there."""
    x = np.float32([[1, bad, -2]])
    codes, scale, zero_point = rounding.DYNAMIC[numerics].quantize(x, None)
    assert np.isnan(scale)
    assert zero_point == 0
    assert np.isfinite(codes).all()


# --- float16 weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOAT16_ENGINES)
@pytest.mark.parametrize("features", [(7, 5), (600, 33)], ids=str)
def test_float16_weights(name, features):
    """float32 sums whose order differs: each of k products is rounded, so the tolerance grows with k."""
    with engine(name):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(*features), nn.ReLU())
        eager = dynamic(copy.deepcopy(net), dtype=torch.float16)
        x = torch.randn(4, features[0], generator=seeded(1))
        graph = by_fx(net, tq.float16_dynamic_qconfig, x)  # with a fused relu
        for module in (eager, graph):
            model = converted(module, x)
            np.testing.assert_allclose(
                run(model, x)[0], outputs(module, x)[0], rtol=0, atol=1e-7 * features[0] ** 0.5 * 4
            )
            weights = model.constants[model.ops[0].inputs[1]]
            np.testing.assert_array_equal(weights, weights.astype(np.float16))


# --- reference modules --------------------------------------------------------------------------------


@pytest.mark.parametrize("per_channel", [False, True])
def test_reference_modules(per_channel):
    """torch multiplies dequantized codes in float32 there, nprt the codes: equal to within float32 rounding."""
    qconfig = tq.per_channel_dynamic_qconfig if per_channel else tq.default_dynamic_qconfig
    with engine("fbgemm"):
        x = torch.randn(4, 7, generator=seeded(1))
        module = by_fx(mlp(), qconfig, x, reference=True)
        model = converted(module, x)
    assert ops(model) == ["dynamic_linear", "unary", "dynamic_linear"]
    # 33 products of about 1, each rounded.
    np.testing.assert_allclose(run(model, x)[0], outputs(module, x)[0], rtol=0, atol=2e-6)


class RunTimeCodes(nn.Module):
    def __init__(self, dtype: torch.dtype, reduce_range: bool) -> None:
        super().__init__()
        self.dtype, self.reduce_range = dtype, reduce_range

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.quantize_per_tensor_dynamic(x, self.dtype, self.reduce_range).dequantize()


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8], ids=str)
@pytest.mark.parametrize("reduce_range", [False, True])
def test_quantize_per_tensor_dynamic(name, dtype, reduce_range):
    with engine(name):
        for seed, size in enumerate((1.0, 1e-6, 300.0, 0.0)):
            x = torch.randn(5, 67, generator=seeded(seed)) * size
            assert_same(RunTimeCodes(dtype, reduce_range), x)


def test_codes_with_a_run_time_scale_go_nowhere_else():
    class Moved(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (
                torch.quantize_per_tensor_dynamic(x, torch.quint8, False).reshape(-1).dequantize()
            )

    with pytest.raises(UnsupportedOpError, match="scale is found at run time"):
        from_torch(Moved(), torch.randn(4, 7), batch_axis=None)


def test_float16_inputs_are_refused():
    x = torch.randn(4, 7)
    module = by_fx(mlp(), tq.float16_dynamic_qconfig, x, reference=True)
    with pytest.raises(UnsupportedOpError, match="float16 layers with float32 inputs"):
        from_torch(module, x)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_dynamic_convolutions_are_refused(rank):
    cls = getattr(torch.ao.nn.quantized.dynamic, f"Conv{rank}d")
    with engine("fbgemm"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = nn.Sequential(cls(3, 4, 3))
        with pytest.raises(UnsupportedOpError, match="quantize it statically"):
            from_torch(module, torch.randn(2, 3, *[6] * rank))


# --- saved models, and a whole one --------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
def test_a_state_dict_that_was_saved(name):
    with engine(name):
        saved = io.BytesIO()
        torch.save(dynamic(mlp()).state_dict(), saved)
        saved.seek(0)
        module = dynamic(nn.Sequential(nn.Linear(7, 33), nn.ReLU(), nn.Linear(33, 5)))
        module.load_state_dict(torch.load(saved, weights_only=False))
        x = torch.randn(4, 7, generator=seeded(2))
        model = assert_same(module, x)
        reference = dynamic(mlp())
        np.testing.assert_array_equal(run(model, x)[0], outputs(reference, x)[0])


@pytest.mark.parametrize("name", ["fbgemm", "qnnpack"])
def test_torchscript(name):
    with engine(name):
        module = dynamic(mlp())
        x = torch.randn(4, 7, generator=seeded(2))
        assert_same(torch.jit.script(module), x)
        assert_same(torch.jit.trace(module, x), x)


@pytest.fixture(scope="module")
def regression():
    """Linear(3, 3), ReLU, Linear(3, 1) trained on 12,000 samples of a smooth function; and 3,000 to test it."""
    torch.manual_seed(0)
    x = torch.rand(15000, 3, generator=seeded(0)) * 16 - 8
    y = nn.functional.softplus(4 * x[:, :1]) / 4 + x[:, 1:2] / 2 - x[:, 2:]
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x[:12000]), y[:12000])
        loss.backward()
        return loss

    optimizer.step(closure)
    return net.eval(), (x[12000:], y[12000:])


@pytest.mark.parametrize("name", ENGINES)
def test_a_trained_regression(name, regression):
    """The losses of torch and of nprt are the same, because the outputs are."""
    net, (x, y) = regression
    with torch.no_grad():
        trained = float(nn.functional.mse_loss(net(x), y))
    with engine(name):
        module = dynamic(copy.deepcopy(net))
        model = converted(module, x[:4])
        with torch.no_grad():
            theirs = module(x)
    ours = run(model, x)[0]
    np.testing.assert_array_equal(ours, theirs.numpy())
    quantized = float(nn.functional.mse_loss(theirs, y))
    assert np.mean((ours - y.numpy()) ** 2) == pytest.approx(quantized, rel=1e-5)
    assert trained < 0.001 < quantized < 0.01
