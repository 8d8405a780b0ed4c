"""LSTM, GRU and their cells of torch, in nprt: int8 products to the bit, float32 states within the rounding of tanh.

Where torch's tanh, which is MKL's, differs by 1 ulp from the correctly rounded one, an output may differ as much. A
code of the next product could follow; none does here. float16 and float32 weights are float32 products in another
order.
"""

from __future__ import annotations

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
from torch_runner import ENGINES, QUIET, converted, engine, outputs, quantize_fx, run, seeded, tq

import nprt
from nprt.converters import from_torch
from nprt.errors import UnsupportedOpError

if torch.backends.cpu.get_cpu_capability() != "AVX512":
    pytest.skip("torch's sigmoid was measured with AVX512", allow_module_level=True)

pytestmark = [pytest.mark.filterwarnings(f) for f in QUIET]

# States lie in [-1, 1]; 1 ulp of tanh is 6e-8, and passes through a few multiplications.
ULPS = 2e-7
# float32 sums of some tens of products in another order.
SUMS = 1e-6


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Flat(nn.Module):
    """A recurrent layer that takes its states, if any, as inputs of their own, and returns them likewise."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, *states: torch.Tensor) -> Any:
        given = states if len(states) == 2 else states[0] if states else None
        result = self.layer(x) if given is None else self.layer(x, given)
        if not isinstance(result, tuple):
            return result
        y, last = result
        return (y, *last) if isinstance(last, tuple) else (y, last)


class Cell(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor, *states: torch.Tensor) -> Any:
        given = states if len(states) == 2 else states[0] if states else None
        return self.cell(x) if given is None else self.cell(x, given)


def dynamic(module: nn.Module, dtype: torch.dtype = torch.qint8) -> nn.Module:
    kinds = {nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell, nn.Linear}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tq.quantize_dynamic(module.eval(), kinds, dtype=dtype)


def compare(
    module: nn.Module, *inputs: torch.Tensor, atol: float = ULPS, **options: Any
) -> nprt.Model:
    """Convert, run both on `inputs`, and compare every output within `atol`."""
    model = converted(module, *inputs, **options)
    same_results(model, module, *inputs, atol=atol)
    return model


def same_results(model: nprt.Model, module: nn.Module, *inputs: torch.Tensor, atol: float) -> None:
    for actual, expected in zip(run(model, *inputs), outputs(module, *inputs), strict=True):
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def states(kind: type[nn.Module], count: int, batch: int, hidden: int) -> list[torch.Tensor]:
    generator = seeded(count)
    number = 2 if kind in (nn.LSTM, nn.LSTMCell) else 1
    return [torch.randn(count, batch, hidden, generator=generator) * 0.3 for _ in range(number)]


# --- int8 weights -------------------------------------------------------------------------------------


@st.composite
def layers(draw) -> dict[str, Any]:
    return {
        "kind": draw(st.sampled_from([nn.LSTM, nn.GRU])),
        "input_size": draw(st.sampled_from([1, 5, 17])),
        "hidden_size": draw(st.sampled_from([1, 7, 32, 35])),
        "num_layers": draw(st.integers(1, 2)),
        "bidirectional": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "length": draw(st.integers(1, 6)),
        "batch": draw(st.integers(1, 4)),
        "with_states": draw(st.booleans()),
        "size": draw(st.sampled_from([1.0, 1e-6, 30.0])),
        "seed": draw(st.integers(0, 2**16)),
    }


@pytest.mark.parametrize("name", ENGINES)
@settings(deadline=None, max_examples=25, derandomize=True)
@given(layer=layers())
def test_quantized_layers(name, layer):
    kind, length, batch = layer["kind"], layer["length"], layer["batch"]
    fields = {
        key: layer[key]
        for key in ("input_size", "hidden_size", "num_layers", "bidirectional", "batch_first")
    }
    torch.manual_seed(layer["seed"])
    with engine(name):
        module = dynamic(Flat(kind(**fields)))
        first = (batch, length) if layer["batch_first"] else (length, batch)
        x = torch.randn(*first, layer["input_size"]) * layer["size"]
        given_states: list[torch.Tensor] = []
        if layer["with_states"]:
            count = layer["num_layers"] * (2 if layer["bidirectional"] else 1)
            given_states = states(kind, count, batch, layer["hidden_size"])
        model = compare(module, x, *given_states, batch_axis=None)
    used = [op for op in model.ops if op.name in ("lstm", "gru")]
    assert len(used) == layer["num_layers"] * (1 + layer["bidirectional"])
    assert {model.constants[op.inputs[-4]].dtype.name for op in used} == {"int8"}
    assert {op.reduce_range for op in used} == {True}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_batch_is_free(name, kind):
    """With and without states; zeros for absent ones grow with the batch."""
    torch.manual_seed(0)
    with engine(name):
        module = dynamic(Flat(kind(5, 33, num_layers=2, bidirectional=True)))
        for with_states in (False, True):
            example = states(kind, 4, 3, 33) if with_states else []
            model = converted(module, torch.randn(6, 3, 5), *example, batch_axis=1)
            assert {model.types[n].shape[1] for n in model.inputs} == {"N"}
            more = states(kind, 4, 7, 33) if with_states else []
            same_results(model, module, torch.randn(6, 7, 5), *more, atol=ULPS)
        first = dynamic(Flat(kind(5, 33, batch_first=True)))
        model = converted(first, torch.randn(3, 6, 5))
        assert model.types[model.inputs[0]].shape == ("N", 6, 5)
        same_results(model, first, torch.randn(7, 6, 5), atol=ULPS)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_length_is_free_where_it_is_the_first_axis(kind):
    torch.manual_seed(0)
    with engine("fbgemm"):
        module = dynamic(Flat(kind(5, 9)))
        model = converted(module, torch.randn(4, 3, 5), batch_axis=0)
        assert model.types[model.inputs[0]].shape == ("N", 3, 5)
        for length in (1, 2, 11):
            same_results(model, module, torch.randn(length, 3, 5), atol=ULPS)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (nn.LSTMCell, {}),
        (nn.GRUCell, {}),
        (nn.RNNCell, {"nonlinearity": "tanh"}),
        (nn.RNNCell, {"nonlinearity": "relu"}),
    ],
    ids=["lstm", "gru", "rnn_tanh", "rnn_relu"],
)
@pytest.mark.parametrize("with_states", [False, True])
def test_quantized_cells(name, kind, fields, with_states):
    torch.manual_seed(0)
    with engine(name):
        module = dynamic(Cell(kind(5, 35, **fields)))
        first = [s[0] for s in states(kind, 1, 4, 35)] if with_states else []
        model = compare(module, torch.randn(4, 5), *first)
        assert model.types[model.inputs[0]].shape == ("N", 5)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_long_sequence_does_not_drift(name, kind):
    """A hundred steps: a code that differs in one of them would show as 1e-3."""
    torch.manual_seed(0)
    with engine(name):
        module = dynamic(Flat(kind(16, 40, num_layers=2, bidirectional=True)))
        compare(module, torch.randn(100, 4, 16, generator=seeded(5)), batch_axis=1)


@pytest.mark.parametrize("name", ENGINES)
def test_a_state_dict_that_was_saved(name):
    def net() -> nn.Module:
        return dynamic(Flat(nn.LSTM(5, 9, num_layers=2)))

    torch.manual_seed(0)
    with engine(name):
        original, saved = net(), io.BytesIO()
        torch.save(original.state_dict(), saved)
        saved.seek(0)
        module = net()
        module.load_state_dict(torch.load(saved, weights_only=False))
        x = torch.randn(4, 3, 5, generator=seeded(2))
        model = compare(module, x, batch_axis=1)
        same_results(model, original, x, atol=ULPS)


class Tagger(nn.Module):
    """Words to tags: an embedding, a recurrent layer and a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 24, bidirectional=True, batch_first=True)
        self.tags = nn.Linear(48, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(self.words(x))
        return torch.log_softmax(self.tags(y), dim=-1)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("by_fx", [False, True])
def test_a_tagger(name, by_fx):
    torch.manual_seed(0)
    x = torch.randint(0, 50, (3, 6), generator=seeded(0))
    with engine(name):
        if by_fx:
            mapping = tq.QConfigMapping().set_global(tq.default_dynamic_qconfig)
            mapping.set_object_type(nn.Embedding, tq.float_qparams_weight_only_qconfig)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                prepared = quantize_fx.prepare_fx(Tagger().eval(), mapping, (x,))
                module = quantize_fx.convert_fx(prepared)
        else:
            module = dynamic(Tagger())
        model = compare(module, x, atol=SUMS)
        assert model.types[model.inputs[0]].shape == ("N", 6)
        same_results(model, module, torch.randint(0, 50, (8, 6)), atol=SUMS)


# --- float16 weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fbgemm", "x86"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_float16_weights(name, kind):
    torch.manual_seed(0)
    with engine(name):
        module = dynamic(Flat(kind(5, 35, num_layers=2, bidirectional=True)), torch.float16)
        model = compare(module, torch.randn(4, 3, 5), batch_axis=1, atol=SUMS)
    weights = [a for n, a in model.constants.items() if n.endswith("weight")]
    assert weights
    for array in weights:
        np.testing.assert_array_equal(array, array.astype(np.float16))


# --- float32 layers, which nprt quantizes itself ------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_float_layers_in_a_quantized_model(kind, bias, batch_first):
    """Only the linear layer behind them is quantized; they stay in float32."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Flat(kind(5, 9, 2, bias=bias, batch_first=batch_first, bidirectional=True))
            self.head = nn.Linear(18, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(x)[0])

    torch.manual_seed(0)
    with engine("fbgemm"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = tq.quantize_dynamic(Net().eval(), {nn.Linear})
        x = torch.randn(3, 4, 5, generator=seeded(0))
        # A code of the linear layer's input may be another one: a step of its range, [-1, 1], times a weight.
        model = compare(module, x, batch_axis=0 if batch_first else 1, atol=1e-3)
    assert "N" in model.types[model.inputs[0]].shape
    names = [op.name for op in model.ops]
    assert names.count(kind.__name__.lower()) == (0 if kind is nn.RNN else 4)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("calibrated", [False, True])
def test_float_models(kind, calibrated):
    """nprt quantizes the weights; the results are near those in float32, for each sample by itself."""
    torch.manual_seed(0)
    cell = kind.__name__.endswith("Cell")
    module = (Cell if cell else Flat)(kind(5, 9)).eval()
    x = torch.randn((3, 5) if cell else (6, 3, 5), generator=seeded(0))
    options: dict[str, Any] = {"batch_axis": 0 if cell else 1}
    if calibrated:
        options["calibration"] = {"x": x.numpy()}
    model = from_torch(module, (x,), **options)
    actual, expected = run(model, x), outputs(module, x)
    for mine, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=0.05)
    weights = [array for array in model.constants.values() if array.ndim == 2 and len(array) > 1]
    assert {array.dtype.name for array in weights} == {"int8"}
    if not calibrated:
        alone = run(model, x[1:2] if cell else x[:, 1:2])
        np.testing.assert_array_equal(alone[0], actual[0][1:2] if cell else actual[0][:, 1:2])


# --- what is refused ----------------------------------------------------------------------------------


class OverPacked(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2, 1]))
        y, _ = self.layer(packed)
        return y.data


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("quantized", [False, True])
def test_packed_sequences_are_refused(kind, quantized):
    with engine("fbgemm"):
        module = OverPacked(kind(5, 9)).eval()
        module = dynamic(module) if quantized else module
        with pytest.raises(UnsupportedOpError, match="PackedSequence"):
            from_torch(module, torch.randn(4, 3, 5), batch_axis=None)


def test_projections_are_refused():
    module, x = Flat(nn.LSTM(5, 9, proj_size=3)).eval(), torch.randn(4, 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UnsupportedOpError, match="proj_size"):
            from_torch(module, x, batch_axis=1)


# --- other ways to keep a module ----------------------------------------------------------------------


class First(nn.Module):
    """The sequence alone."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layer = kind(5, 9, num_layers=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_quantized_torchscript(kind, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5)
    with engine("fbgemm"):
        module = dynamic(First(kind))
        scripted = torch.jit.script(module)
        torch.jit.save(scripted, tmp_path / "module.pt")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it checks shapes in Python
            traced = torch.jit.trace(module, x)
        for kept in (scripted, traced, torch.jit.load(tmp_path / "module.pt")):
            model = compare(kept, x, batch_axis=1)
            assert model.types[model.inputs[0]].shape == (4, "N", 5)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("how", ["script", "trace", "export", "decomposed"])
def test_float_models_kept_otherwise(kind, how):
    """Some of them come apart into a layer for each step; the results stay near those in float32."""
    torch.manual_seed(0)
    module, x = First(kind).eval(), torch.randn(4, 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "script":
            kept = torch.jit.script(module)
        elif how == "trace":
            kept = torch.jit.trace(module, x)
        else:
            kept = torch.export.export(module, (x,))
            kept = kept.run_decompositions() if how == "decomposed" else kept
        model = from_torch(kept, (x,), batch_axis=1)
    np.testing.assert_allclose(run(model, x)[0], outputs(module, x)[0], rtol=0, atol=0.05)
