"""What the recorder finds out of a torch module: operators, names, places, the batch; and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the recorder runs torch")

import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch_runner import QUIET, quantize_fx, tq

from nprt import Session
from nprt.converters import from_torch
from nprt.converters.from_torch import import_recording
from nprt.converters.pipeline import float_model
from nprt.converters.torch_ops import recorder
from nprt.converters.torch_ops.batches import record_batches
from nprt.converters.torch_ops.recording import Known, needed
from nprt.errors import InputError, ModelError, ShapeError, UnsupportedOpError

pytestmark = [pytest.mark.filterwarnings(f) for f in (*QUIET, "ignore::UserWarning")]


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *x):
        return self.function(self, *x)


def recorded(function, *x, **layers):
    return recorder.record(Fn(function, **layers).eval(), x, {})


def operators(recording):
    return [call.op for call in recording.calls]


def refused(function, *x, **layers):
    """The messages with which a conversion is refused."""
    with pytest.raises(UnsupportedOpError) as caught:
        from_torch(Fn(function, **layers), x)
    return str(caught.value)


X = torch.linspace(-1, 1, 24).reshape(2, 3, 4)


# --- operators ----------------------------------------------------------------------------------------


def test_known_values_are_left_out():
    """What depends on no input is computed, not recorded; parameters keep their names."""
    weight = nn.Parameter(torch.ones(4))
    recording = recorded(lambda s, x: x * (s.inner.w.exp() + 1), X, inner=holder(w=weight))
    assert operators(recording) == ["aten.mul"]
    known = recording.calls[0].args[1]
    assert isinstance(known, Known)
    assert known.name == "inner.w"
    np.testing.assert_allclose(known.tensor.numpy(), np.exp(1) + 1, rtol=1e-6)


def holder(**parameters):
    module = nn.Module()
    for name, parameter in parameters.items():
        setattr(module, name, parameter)
    return module


def test_composite_operators_stay_whole():
    recording = recorded(
        lambda s, x: F.scaled_dot_product_attention(s.layer(x), x @ x.mT @ x, x),
        X,
        layer=nn.Linear(4, 4),
    )
    assert operators(recording) == [
        "aten.linear",
        "aten.transpose",
        "aten.matmul",
        "aten.matmul",
        "aten.scaled_dot_product_attention",
    ]


def test_what_no_output_needs_is_not_needed():
    recording = recorded(lambda s, x: (x.sort()[0], x + 1)[1], X)
    assert operators(recording) == ["aten.sort", "aten.add"]
    calls, values = needed(recording)
    assert [call.op for call in calls] == ["aten.add"]
    assert values == {*recording.inputs.values(), *recording.outputs.values()}


def test_values_hold_data_if_asked_to():
    recording = recorder.record(Fn(lambda s, x: torch.relu(x + 1)), (X,), {}, keep_data=True)
    (output,) = recording.outputs.values()
    torch.testing.assert_close(recording.values[output.index].data, torch.relu(X + 1))


# --- names and places ---------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return torch.erfc(self.layer(x))  # the line that messages name


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.tail = nn.Softmax(-1)

    def forward(self, left, right):
        y = self.blocks(left + right)
        return {"sorted": self.tail(y).sort()[0], "plain": y}


LINE = Block.forward.__code__.co_firstlineno + 1


def check_places(message, modules):
    """Both erfc with their module and line, and sort with the line of the root, all at once."""
    lines = message.splitlines()[1:]
    erfc = [line for line in lines if "erfc" in line]
    assert len(erfc) == 2, message
    for line, module in zip(erfc, modules, strict=True):
        assert line.strip().startswith(f"{module} (Block) at ")
        assert f"test_torch_recorder.py:{LINE}" in line
    assert any("sort" in line and "test_torch_recorder.py" in line for line in lines), message


def test_places_of_an_eager_module():
    with pytest.raises(UnsupportedOpError) as caught:
        from_torch(Net(), (X, X))
    check_places(str(caught.value), ["blocks.0", "blocks.1"])


def test_places_of_an_exported_program():
    program = torch.export.export(Net(), (X, X))
    with pytest.raises(UnsupportedOpError) as caught:
        from_torch(program, (X, X))
    check_places(str(caught.value), ["blocks.0", "blocks.1"])


def test_places_of_a_graph_module():
    mapping = tq.get_default_qconfig_mapping("fbgemm")
    prepared = quantize_fx.prepare_fx(Net().eval(), mapping, (X, X))
    prepared(X, X)
    with pytest.raises(UnsupportedOpError) as caught:
        from_torch(quantize_fx.convert_fx(prepared), (X, X))
    message = str(caught.value)
    assert message.count("erfc") == 2
    assert message.count(f"test_torch_recorder.py:{LINE}") == 2


@pytest.mark.parametrize(
    ("example", "names"),
    [
        ((X, X), ["left", "right"]),
        ({"left": X, "right": X}, ["left", "right"]),
        ({"right": X, "left": X}, ["right", "left"]),
    ],
)
def test_names_of_inputs_and_outputs(example, names):
    def forward(left, right):
        return {"sum": left + right, "twice": left * 2}

    module = Fn(None)
    module.forward = forward
    model = imported(module, example)
    assert list(model.inputs) == names
    assert list(model.outputs) == ["sum", "twice"]


def imported(module, example):
    """The float model, without quantization."""
    from nprt.converters.torch_ops import source

    args, kwargs = source.call_of(example)
    recording, _ = record_batches(module, args, kwargs, 0)
    return float_model(import_recording(recording, "module", "x86", integer=True).graph)


def test_keyword_arguments_of_an_exported_program():
    """By name, in any order."""

    class Difference(nn.Module):
        def forward(self, a, b):
            return a - 2 * b

    program = torch.export.export(Difference(), (X,), {"b": X + 1})
    model = imported(program.module(), {"b": X + 1, "a": X})
    values = Session(model).run(None, {"a": X.numpy(), "b": (X + 1).numpy()})
    np.testing.assert_allclose(values[0], (X - 2 * (X + 1)).numpy(), rtol=1e-6)


def test_nested_inputs_and_outputs():
    def forward(s, pair):
        return [pair[0] + pair[1], (pair[0],)]

    recording = recorder.record(Fn(forward), ([X, X],), {})
    assert len(recording.inputs) == 2
    assert list(recording.outputs) == ["output_0", "output_1"]


# --- the batch ----------------------------------------------------------------------------------------


def batch_of(function, *x, **layers):
    recording, notes = record_batches(Fn(function, **layers).eval(), x, {}, 0)
    (output,) = recording.outputs.values()
    return recording.values[output.index].shape, notes


def test_free_batch():
    assert batch_of(lambda s, x: x.reshape(x.shape[0], -1), X) == (("N", 12), [])


def test_batch_in_the_middle():
    assert batch_of(lambda s, x: x.transpose(0, 1), X) == ((3, "N", 4), [])


def test_constant_repeated_for_each_sample():
    token = nn.Parameter(torch.ones(1, 1, 4))
    shape, notes = batch_of(
        lambda s, x: torch.cat([s.inner.t.expand(x.shape[0], -1, -1), x], 1),
        X,
        inner=holder(t=token),
    )
    assert (shape, notes) == (("N", 4, 4), [])


def test_merged_batch_is_fixed():
    shape, notes = batch_of(lambda s, x: x.reshape(-1, 4), X)
    assert shape == (6, 4)
    assert notes == [
        "the batch is fixed at 2: an output has shape [N*3, 4], which merges the batch with other dimensions"
    ]


def test_batch_that_the_module_refuses():
    def forward(s, x):
        assert x.shape[0] == 2, "two only"
        return x + 1

    shape, notes = batch_of(forward, X)
    assert shape == (2, 3, 4)
    assert "two only" in notes[0]


def test_program_of_a_larger_batch():
    """What is done otherwise from some number of samples on is seen, if that number is not too large."""
    shape, notes = batch_of(lambda s, x: x * 2 if x.shape[0] <= 4 else x * 3, X)
    assert shape == (2, 3, 4)
    assert "when the batch goes from 2 to 11" in notes[0]


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: x * torch.tensor(float(x.shape[0])),
        lambda s, x: x / torch.ones(x.shape[0]).sum(),
    ],
)
def test_constants_that_depend_on_the_batch(function):
    shape, notes = batch_of(function, X)
    assert shape == (2, 3, 4)
    assert "depends on the number of samples" in notes[0]


def test_inference_mode():
    """It changes what the dispatcher shows, not what is recorded."""
    with torch.inference_mode():
        shape, notes = batch_of(lambda s, x: F.adaptive_avg_pool1d(x, 2), X)
    assert shape == ("N", 3, 2)
    assert notes == []


def test_free_batch_that_an_int8_op_cannot_have():
    """A sum over the samples; the message says what to do."""
    module, x = Fn(lambda s, x: x.t() @ x), X[:, 0]
    (name,) = recorder.input_names(module, (x,), {})
    with pytest.raises(ShapeError, match="batch_axis=None"):
        from_torch(module, x, calibration={name: np.ones((16, 4), np.float32)})


def test_other_batch_axis():
    recording, notes = record_batches(Fn(lambda s, x: x * 2), (X,), {}, 1)
    assert recording.values[0].shape == (2, "N", 4)
    assert notes == []


# --- in-place writes ----------------------------------------------------------------------------------


def converted_equals(function, x):
    model = imported(Fn(function), x)
    with torch.no_grad():
        expected = Fn(function)(x.clone()).numpy()
    np.testing.assert_allclose(Session(model)(x.numpy()), expected, rtol=1e-6)


def in_place(s, x):
    y = x + 1
    y.mul_(3)
    F.relu_(y)
    y += x
    return y.clamp_(max=5)


def buffer_filled_whole(s, x):
    y = torch.zeros(2, 3, 4)
    y.copy_(x)
    return y * 2


def test_in_place_operators():
    converted_equals(in_place, X)


def test_buffer_filled_whole():
    model = imported(Fn(buffer_filled_whole), (X,))
    np.testing.assert_allclose(Session(model)(X.numpy()), 2 * X.numpy())


def through_a_view(s, x):
    y = x + 1
    y[:, 0] = 7
    return y


def of_a_viewed_tensor(s, x):
    y = x + 1
    z = y[:, 0]
    y.mul_(2)
    return z


def into_a_constant(s, x):
    y = torch.zeros(2, 3, 4)
    y[:, 0] = x[:, 0]
    return y


def into_a_constant_that_is_read(s, x):
    y = torch.zeros(2, 3, 4)
    y[:, 0] = x[:, 0]
    return x + y.exp()


@pytest.mark.parametrize(
    "function", [through_a_view, of_a_viewed_tensor, into_a_constant, into_a_constant_that_is_read]
)
def test_writes_through_views_are_refused(function):
    message = refused(function, X)
    assert "changed through a view" in message
    assert f"test_torch_recorder.py:{function.__code__.co_firstlineno + 2}" in message or (
        f"test_torch_recorder.py:{function.__code__.co_firstlineno + 3}" in message
    )


def test_a_buffer_that_changes_by_itself_is_state():
    """Also where what is written does not depend on the inputs."""
    module = nn.Module()
    module.register_buffer("count", torch.ones(1))

    def forward(s, x):
        s.inner.count.mul_(3)
        return x * s.inner.count

    recording = recorder.record(Fn(forward, inner=module), (X,), {})
    assert recording.problems == [
        "buffer inner.count changes whenever the module runs; a model has no state"
    ]
    assert module.count == 1


def test_state_is_refused_and_restored():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("last", torch.zeros(2, 3, 4))

        def forward(self, x):
            y = x + self.last
            self.last.copy_(x)
            return y

    module = Counter()
    with pytest.raises(UnsupportedOpError, match="keeps what depends on the inputs in a buffer"):
        from_torch(module, X)
    assert not module.last.any()


# --- data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda s, x: x * x.max().item(), "_local_scalar_dense"),
        (lambda s, x: x if x.sum() > 0 else -x, "_local_scalar_dense"),
        (lambda s, x: x[x > 0], "mask"),
        (lambda s, x: x + torch.from_numpy(x.numpy().mean(0)), "Tensor.numpy"),
        (lambda s, x: x * x[0, 0].tolist()[0], "Tensor.tolist"),
        (lambda s, x: torch.unique(x), "_unique2"),
        (lambda s, x: x[: int(x[0, 0, 0] + 2)], "_local_scalar_dense"),
    ],
)
def test_control_by_data_is_refused(function, operator):
    message = refused(function, X)
    assert operator in message
    assert "test_torch_recorder.py:" in message


def test_control_flow_operators_are_refused():
    """As they stand in a graph."""
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    branch = nn.Module()
    branch.a, branch.b = torch.fx.symbolic_trace(nn.ReLU()), torch.fx.symbolic_trace(nn.Tanh())
    branches = [graph.get_attr(name) for name in "ab"]
    choice = graph.call_function(torch.ops.higher_order.cond, (True, *branches, (x,)))
    graph.output(choice)
    with pytest.raises(ModelError, match="node cond: cond is control flow"):
        from_torch(torch.fx.GraphModule(branch, graph), X)


def test_data_behind_the_dispatcher():
    """What no operator shows changes when the inputs do: another run tells."""

    def forward(s, x):
        hidden = torch.frombuffer(bytearray(bytes(x.untyped_storage())), dtype=torch.float32)
        return x + hidden[:4]

    assert "outside of torch's operators" in refused(forward, X)


def test_random_numbers_are_refused():
    assert "random" in refused(lambda s, x: x + torch.randn(4), X)
    assert "random" in refused(lambda s, x: x + 2 * torch.rand(4).exp(), X)
    assert "random" in refused(lambda s, x: F.dropout(x, 0.5, training=True), X)


def test_data_attribute_is_the_tensor_itself():
    converted_equals(lambda s, x: x.data * 2, X)


# --- what the module is like afterwards ---------------------------------------------------------------


def test_training_mode_is_restored():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(3))
    module[0].eval()
    recording = recorder.record(module, (X,), {})
    assert [m.training for m in module.modules()] == [True, False, True, True]
    assert module[2].num_batches_tracked == 0
    assert "aten.bernoulli_" not in operators(recording)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_active(fails):
    hooks = torch.nn.modules.module

    def forward(s, x):
        if fails:
            raise RuntimeError("on purpose")
        return x + 1

    module = Fn(forward).train()
    before = (
        len(hooks._global_forward_hooks),
        len(hooks._global_forward_pre_hooks),
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.random.get_rng_state().sum().item(),
    )
    if fails:
        with pytest.raises(InputError, match="on purpose"):
            recorder.record(module, (X,), {})
    else:
        recorder.record(module, (X,), {})
    assert module.training
    assert not _get_current_dispatch_mode_stack()
    assert not torch.overrides._get_current_function_mode_stack()
    assert before == (
        len(hooks._global_forward_hooks),
        len(hooks._global_forward_pre_hooks),
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.random.get_rng_state().sum().item(),
    )


def test_exceptions_of_the_module_are_the_causes_of_ours():
    def forward(s, x):
        raise ZeroDivisionError("the module's own")

    with pytest.raises(InputError, match="the module's own") as caught:
        from_torch(Fn(forward), X)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# --- dequantized weights ------------------------------------------------------------------------------


def test_codes_of_known_values_are_kept():
    """Of a dequantized constant the codes are kept, through transposes too."""

    def forward(s, x):
        scales, zeros = torch.full((5,), 0.1), torch.zeros(5, dtype=torch.int64)
        q = torch.quantize_per_channel(s.inner.w, scales, zeros, 0, torch.qint8)
        return x @ q.dequantize().t()

    torch.manual_seed(0)
    recording = recorded(forward, X, inner=holder(w=nn.Parameter(torch.randn(5, 4))))
    known = next(a for a in recording.calls[-1].args if isinstance(a, Known))
    assert known.codes is not None
    assert known.codes.axis == 1
    real = known.codes.tensor * known.codes.scale
    torch.testing.assert_close(real.float(), known.tensor)
