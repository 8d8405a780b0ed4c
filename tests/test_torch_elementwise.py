"""Int8 kernels of torch on each element by itself: the same codes, but for the ties that docs/torch.md names."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch_runner import ENGINES, QUIET, Function, converted, eager, engine, fx, outputs, run

from nprt.errors import UnsupportedOpError
from nprt.ir import Tensor
from nprt.ops.lookup import Lookup

if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
    pytest.skip("torch has no vector loops on this CPU", allow_module_level=True)

pytestmark = [pytest.mark.filterwarnings(text) for text in QUIET]

Q, F = torch.ops.quantized, torch.nn.functional
DTYPES = (torch.quint8, torch.qint8)
ends = pytest.mark.parametrize("dtype", DTYPES, ids=("quint8", "qint8"))
engines = pytest.mark.parametrize("name", ENGINES)
BLOCK = 64


@pytest.fixture(autouse=True)
def one_thread():
    """With more threads torch cuts large tensors elsewhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def limits(dtype: Any) -> tuple[int, int]:
    info = torch.iinfo(dtype)
    return info.min, info.max


def codes(rng: np.random.Generator, shape: Any, scale: float, zero_point: int, dtype: Any) -> Any:
    """Random codes as a quantized tensor."""
    low, high = limits(dtype)
    array = rng.integers(low, high + 1, shape).astype("u1" if low == 0 else "i1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch._make_per_tensor_quantized_tensor(torch.from_numpy(array), scale, zero_point)


def channels_last(x: Any) -> Any:
    return x.contiguous(memory_format=torch.channels_last)


def compare(function: Any, *inputs: Any, mask: Any = None, **options: Any) -> Any:
    """nprt and torch give the same codes, where `mask` is true; elsewhere codes that differ by at most one."""
    module = Function(function)
    model = converted(module, *inputs, **options)
    (actual,), (expected,) = run(model, *inputs), outputs(module, *inputs)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if mask is None:
        np.testing.assert_array_equal(actual, expected)
    else:
        np.testing.assert_array_equal(actual[mask], expected[mask])
        assert np.abs(actual.astype(int) - expected).max(initial=0) <= 1
    return model


# Scales whose quotients are powers of two, and zero points that are odd, make ties of many results.
scales = st.one_of(
    st.sampled_from([2.0**-3, 2.0**-4, 2.0**-6]),
    st.integers(5000, 100000).map(lambda n: float(np.float32(n / 1e6))),
)


@st.composite
def quantizations(draw: Any, dtype: Any, count: int) -> list[tuple[float, int]]:
    """Scales that are multiples of one, and zero points."""
    low, high = limits(dtype)
    scale = draw(scales)
    factors = st.sampled_from([0.5, 1.0, 2.0, 3.0, 4.0, 6.0])
    return [
        (float(np.float32(scale * draw(factors))), draw(st.integers(low, high - 1)))
        for _ in range(count)
    ]


def in_blocks(shape: Any, run: int, order: Any = None) -> np.ndarray:
    """Which elements the vector loop takes: whole blocks of each run of `run` elements, in memory order."""
    order = tuple(range(len(shape))) if order is None else order
    stored = tuple(shape[axis] for axis in order)
    taken = (np.arange(int(np.prod(stored))) % run < run // BLOCK * BLOCK).reshape(stored)
    return taken.transpose(np.argsort(order))


# --- add and mul --------------------------------------------------------------------------------------


@engines
@ends
@settings(deadline=None, max_examples=12, derandomize=True)
@given(data=st.data())
def test_add(name, dtype, data):
    """All elements but those behind the last whole block; a note says so where the number is no multiple of 64."""
    a, b, y = data.draw(quantizations(dtype, 3))
    shape = (2, data.draw(st.sampled_from([3, 16, 32])), data.draw(st.integers(1, 5)), 4)
    relu, last = data.draw(st.booleans()), data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    with engine(name):
        inputs = [codes(rng, shape, *q, dtype) for q in (a, b)]
        inputs = [channels_last(x) for x in inputs] if last else inputs
        operator = Q.add_relu if relu else Q.add
        mask = in_blocks(shape, int(np.prod(shape)), (0, 2, 3, 1) if last else None)
        exact = (name == "qnnpack" and dtype == torch.quint8) or np.prod(shape[1:]) % BLOCK == 0
        model = compare(
            lambda p, q: operator(p, q, *y), *inputs, mask=mask | True if exact else mask
        )
        assert not (exact and model.origin.notes)


@engines
@ends
@settings(deadline=None, max_examples=8, derandomize=True)
@given(data=st.data())
def test_add_broadcasts(name, dtype, data):
    """One run for each plane, or row, over which the same operand repeats."""
    a, b, y = data.draw(quantizations(dtype, 3))
    rows, columns = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([8, 16, 67]))
    shape = (2, 3, rows, columns)
    other, length = data.draw(
        st.sampled_from(
            [
                ((1, 3, 1, 1), rows * columns),
                ((2, 3, rows, 1), columns),
                ((columns,), columns),
                ((3, rows, columns), 3 * rows * columns),
            ]
        )
    )
    if other == (2, 3, rows, 1) and rows == 1:
        length = rows * columns
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    with engine(name):
        x, z = codes(rng, shape, *a, dtype), codes(rng, other, *b, dtype)
        mask = in_blocks(shape, length)
        if other[0] == 2:
            compare(lambda p, q: Q.add(p, q, *y), x, z, mask=mask)
        else:
            compare(lambda p: Q.add(p, z, *y), x, mask=mask)
            compare(lambda p: Q.add_relu(z, p, *y), x, mask=mask)


@engines
@ends
@settings(deadline=None, max_examples=8, derandomize=True)
@given(data=st.data())
def test_mul(name, dtype, data):
    a, b, y = data.draw(quantizations(dtype, 3))
    y = (float(np.float32(a[0] * b[0] * data.draw(st.sampled_from([2, 8, 64, 100])))), y[1])
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    shapes = data.draw(
        st.sampled_from([((2, 3, 5, 4),) * 2, ((2, 3, 5, 4), (2, 3, 1, 1)), ((2, 7), (2, 1))])
    )
    with engine(name):
        inputs = [codes(rng, s, *q, dtype) for s, q in zip(shapes, (a, b), strict=True)]
        compare(lambda p, q: Q.mul(p, q, *y), *inputs)
        compare(lambda p, q: Q.mul_relu(p, q, *y), *inputs)
        if len(shapes[0]) == 4:
            compare(lambda p, q: Q.mul(p, q, *y), *map(channels_last, inputs))


@engines
@ends
@settings(deadline=None, max_examples=6, derandomize=True)
@given(data=st.data())
def test_add_of_operands_that_lie_differently(name, dtype, data):
    """torch then has no vector loop, so that every element is rounded by the scalar one."""
    a, b, y = data.draw(quantizations(dtype, 3))
    shape = (2, data.draw(st.sampled_from([3, 16])), 4, data.draw(st.integers(2, 5)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    with engine(name):
        x, z = codes(rng, shape, *a, dtype), codes(rng, shape, *b, dtype)
        compare(lambda p, q: Q.add(p, q, *y), x, channels_last(z))
        compare(lambda p, q: Q.add_relu(p, q, *y), channels_last(x), z)


def test_one_note_for_many_layers():
    rng = np.random.default_rng(0)
    x = codes(rng, (2, 5), 0.125, 3, torch.quint8)

    class Chain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adds = torch.nn.ModuleList(
                [Function(lambda p, i=i: Q.add(p, p, 0.5 * 4**i, 5)) for i in range(6)]
            )

        def forward(self, x: Any) -> Any:
            for add in self.adds:
                x = add(x)
            return x

    note, *_ = converted(Chain(), x).origin.notes
    assert note.startswith("6 layers (adds.0, adds.1, adds.2, adds.3, ...): ")


@engines
@ends
def test_numbers(name, dtype):
    rng = np.random.default_rng(0)
    x = codes(rng, (3, 5), 0.0217, limits(dtype)[0] + 100, dtype)
    with engine(name):
        for number in (0.37, -1.9, 12.5, -30.0, 0.0):
            for operator in (Q.add_scalar, Q.mul_scalar, Q.add_scalar_relu, Q.mul_scalar_relu):
                compare(lambda p, f=operator, c=number: f(p, c), x)
                compare(lambda p, f=operator, c=number: f(p, torch.tensor(c)), x)
        compare(lambda p: Q.add.Scalar(p, 0.4), x)
        compare(lambda p: Q.mul.Scalar2(0.4, p), x)


def test_writing_into_an_argument_is_refused():
    x = codes(np.random.default_rng(0), (3, 5), 0.02, 3, torch.quint8)
    with pytest.raises(UnsupportedOpError, match=r"writes into a tensor"):
        converted(Function(lambda p: Q.add.out(p, p, torch.empty_like(p))), x)


# --- cat ----------------------------------------------------------------------------------------------


@engines
@ends
@settings(deadline=None, max_examples=12, derandomize=True)
@given(data=st.data())
def test_cat(name, dtype, data):
    """Every element, also in the kernel for channels_last, which takes 8 channels at once."""
    a, b, y = data.draw(quantizations(dtype, 3))
    y = data.draw(st.sampled_from([y, a]))
    channels = st.sampled_from([1, 3, 8, 11, 16, 19])
    axis = data.draw(st.sampled_from([1, -3]))
    operator = data.draw(st.sampled_from([Q.cat, Q.cat_relu]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    with engine(name):
        inputs = [codes(rng, (2, data.draw(channels), 3, 2), *q, dtype) for q in (a, b)]
        if data.draw(st.booleans()):
            inputs = [channels_last(x) for x in inputs]
        compare(lambda p, q: operator([p, q], axis, *y), *inputs)
        model = compare(lambda p, q: operator([p, q], axis, *y), *inputs, numerics="integer")
        assert not model.origin.notes


def test_cat_with_a_constant():
    rng = np.random.default_rng(0)
    x, z = (codes(rng, (2, 3, 4, 5), 0.125, 3, torch.quint8) for _ in range(2))
    compare(lambda p: Q.cat([p, z], 1, 0.25, 7), x, batch_axis=None)
    compare(lambda p: Q.cat([channels_last(p), channels_last(z)], 1, 0.25, 7), x, batch_axis=None)


# --- functions of one code ----------------------------------------------------------------------------

FUNCTIONS = {
    "relu": lambda x, y: torch.relu(x),
    "relu6": lambda x, y: F.relu6(x),
    "quantized_relu6": lambda x, y: Q.relu6(x),
    "clamp": lambda x, y: torch.clamp(x, -0.31, 0.4),
    "quantized_clamp": lambda x, y: Q.clamp(x, -0.31, 0.4),
    "hardtanh": lambda x, y: F.hardtanh(x, -0.7, 0.2),
    "leaky_relu": lambda x, y: Q.leaky_relu(x, 0.1, False, *y),
    "aten_leaky_relu": lambda x, y: F.leaky_relu(x, 0.1),
    "elu": lambda x, y: Q.elu(x, *y, 0.7),
    "celu": lambda x, y: Q.celu(x, *y, 0.7),
    "hardswish": lambda x, y: Q.hardswish(x, *y),
    "hardsigmoid": lambda x, y: F.hardsigmoid(x),
    "sigmoid": lambda x, y: torch.sigmoid(x),
    "tanh": lambda x, y: torch.tanh(x),
    "threshold": lambda x, y: F.threshold(x, 0.3, 0.1),
    "gelu": lambda x, y: F.gelu(x),
    "gelu_tanh": lambda x, y: F.gelu(x, approximate="tanh"),
    "dropout": lambda x, y: Q.dropout(x, *y),
}
MIXED_UP = ("relu6", "quantized_relu6", "clamp", "quantized_clamp", "hardtanh")


@engines
@ends
@pytest.mark.parametrize("function", FUNCTIONS)
@settings(deadline=None, max_examples=4, derandomize=True)
@given(data=st.data())
def test_functions(name, dtype, function, data):
    x_quant, y_quant = data.draw(quantizations(dtype, 2))
    last = data.draw(st.booleans())
    channels = data.draw(st.sampled_from([16, 5]))
    shape = (2, channels, data.draw(st.sampled_from([4, 3])), 2)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    with engine(name):
        x = codes(rng, shape, *x_quant, dtype)
        x = channels_last(x) if last else x
        mask = in_blocks(shape, int(np.prod(shape)), (0, 2, 3, 1) if last else None)
        apply = lambda x: FUNCTIONS[function](x, y_quant)  # noqa: E731
        if name == "qnnpack" and dtype == torch.quint8 and last and function in MIXED_UP:
            assert compare(apply, x).origin.notes
            return
        model = compare(apply, x, mask=mask)
        compare(apply, x, mask=mask, numerics="integer")
        whole = np.prod(shape[1:]) % BLOCK == 0
        if whole or not model.origin.notes:
            compare(apply, x)
        assert not (whole and model.origin.notes)


@ends
def test_every_function_is_one_table(dtype):
    x = codes(np.random.default_rng(0), (2, 64), 0.02, 3, dtype)
    for function in FUNCTIONS.values():
        model = converted(Function(lambda p, f=function: f(p, (0.03, 5))), x)
        assert {type(op) for op in model.ops} <= {Lookup} or len(model.ops) == 1


def test_views_are_noted():
    """Each row of a slice has a tail of its own."""
    x = codes(np.random.default_rng(0), (3, 128), 0.125, 3, torch.quint8)
    model = converted(Function(lambda p: Q.leaky_relu(p[:, :64], 0.5, False, 0.25, 5)), x)
    assert model.origin.notes


# --- prelu --------------------------------------------------------------------------------------------


@engines
@ends
@settings(deadline=None, max_examples=8, derandomize=True)
@given(data=st.data())
def test_prelu(name, dtype, data):
    x_quant, y_quant = data.draw(quantizations(dtype, 2))
    low, high = limits(dtype)
    slopes = (
        float(np.float32(data.draw(st.integers(3000, 20000)) / 1e6)),
        data.draw(st.integers(low, high)),
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    shape = data.draw(st.sampled_from([(2, 5, 3, 4), (2, 5), (2, 5, 7)]))
    with engine(name):
        x = codes(rng, shape, *x_quant, dtype)
        for count in (1, 5):
            weight = codes(rng, (count,), *slopes, dtype)
            model = compare(lambda p, w=weight: Q.prelu(p, w, *y_quant), x)
            one = np.clip(np.rint(1 / np.float32(slopes[0])) + slopes[1], low, high) - slopes[1]
            expressible = abs(one * slopes[0] - 1) <= slopes[0] / 2
            assert bool(model.origin.notes) == (not expressible)


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point"),
    [
        *((torch.quint8, s, z) for s, z in ((0.001, 9), (0.0078, 128), (0.3, 0), (0.7, 200))),
        *((torch.qint8, s, z) for s, z in ((0.002, 0), (1 / 127, 0), (1 / 64, -3), (0.01, 127))),
        *((torch.quint8, 2.5, 10), (torch.quint8, 0.25, 3)),
    ],
    ids=str,
)
def test_prelu_in_fixed_point(count, dtype, scale, zero_point):
    """Within one code of torch, also where the slopes' scale cannot express 1, or only 0."""
    rng = np.random.default_rng(0)
    x, w = codes(rng, (64, 5), 0.02, 60, dtype), codes(rng, (count,), scale, zero_point, dtype)
    module = Function(lambda p: Q.prelu(p, w, 0.03, 20))
    model = converted(module, x, numerics="integer", require_integer=True)
    (actual,), (expected,) = run(model, x), outputs(module, x)
    assert np.abs(actual.astype(int) - expected.astype(int)).max() <= 1


# --- modules ------------------------------------------------------------------------------------------


class Functional(torch.nn.Module):
    """Everything of FloatFunctional, and what stands between layers."""

    def __init__(self) -> None:
        super().__init__()
        names = ("add", "add_relu", "mul", "cat", "add_scalar", "mul_scalar", "matmul")
        for name in names:
            setattr(self, name, torch.ao.nn.quantized.FloatFunctional())
        self.quant = torch.ao.quantization.QuantStub()
        self.dequant = torch.ao.quantization.DeQuantStub()
        self.dropout, self.identity = torch.nn.Dropout(), torch.nn.Identity()

    def forward(self, x: Any) -> Any:
        x = self.identity(self.dropout(self.quant(x)))
        a, b = x.chunk(2, 1)
        y = self.add.add(a, b)
        y = self.cat.cat([self.add_relu.add_relu(y, a), self.mul.mul(y, b)], 1)
        y = self.mul_scalar.mul_scalar(self.add_scalar.add_scalar(y, 0.7), 1.3)
        y = y.permute(0, 2, 1).reshape(x.shape[0], 8, 8)
        return self.dequant(self.matmul.matmul(y, y.permute(0, 2, 1)).flatten(1))


@engines
def test_functional(name):
    inputs = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    module = eager(Functional(), name, inputs)
    with engine(name):
        model = converted(module, inputs[0])
        (actual,), (expected,) = run(model, inputs[1]), outputs(module, inputs[1])
    step = float(module.matmul.scale)
    # The product is float32 in torch, in an order of its own: a code may differ by one.
    assert np.abs(actual - expected).max() <= 1.001 * step
    assert np.mean(actual != expected) < 0.01


ACTIVATIONS = {
    "relu": torch.nn.ReLU(),
    "relu6": torch.nn.ReLU6(),
    "hardtanh": torch.nn.Hardtanh(),
    "hardswish": torch.nn.Hardswish(),
    "hardsigmoid": torch.nn.Hardsigmoid(),
    "sigmoid": torch.nn.Sigmoid(),
    "tanh": torch.nn.Tanh(),
    "elu": torch.nn.ELU(),
    "leaky_relu": torch.nn.LeakyReLU(),
    "prelu": torch.nn.PReLU(),
    "gelu": torch.nn.GELU(),
    "silu": torch.nn.SiLU(),
    "softmax": torch.nn.Softmax(-1),
}


@engines
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_in_fx(name, activation):
    """Behind a quantized linear layer, with a kernel on codes or as a float island."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(8, 64), ACTIVATIONS[activation], torch.nn.Linear(64, 3)
    )
    inputs = [torch.randn(16, 8) for _ in range(3)]
    module = fx(module, name, inputs)
    with engine(name):
        for numerics in ("auto", "integer"):
            model = converted(module, inputs[0], numerics=numerics)
            (actual,), (expected,) = run(model, inputs[1]), outputs(module, inputs[1])
            if numerics == "auto":
                np.testing.assert_array_equal(actual, expected)
            else:
                assert np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()


@engines
@pytest.mark.parametrize(
    "activation", ["relu", "relu6", "hardswish", "sigmoid", "elu", "leaky_relu", "prelu"]
)
def test_activations_in_eager_mode(name, activation):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(8, 64), ACTIVATIONS[activation], torch.nn.Linear(64, 3)]
    module = torch.ao.quantization.QuantWrapper(torch.nn.Sequential(*layers))
    inputs = [torch.randn(16, 8) for _ in range(3)]
    module = eager(module, name, inputs)
    with engine(name):
        model = converted(module, inputs[0])
        np.testing.assert_array_equal(run(model, inputs[1])[0], outputs(module, inputs[1])[0])


def test_a_table_holds_what_torch_computes():
    x = codes(np.random.default_rng(0), (2, 64), 0.02, 3, torch.quint8)
    model = converted(Function(lambda p: torch.sigmoid(p)), x)
    (op,) = model.ops
    table = Tensor(model.types[op.inputs[1]], model.constants[op.inputs[1]]).data
    assert table.dtype == np.uint8
    assert np.all(np.diff(table.astype(int)) >= 0)


@engines
@ends
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.filterwarnings("ignore:All inputs of this cat operator")
def test_cat_and_stack_of_torch(name, dtype, axis):
    """Other scales than the first part's are allowed; torch warns."""
    rng = np.random.default_rng(0)
    with engine(name):
        for shape in ((3, 11), (2, 11, 5), (2, 11, 3, 2)):
            x = codes(rng, shape, 0.125, limits(dtype)[0] + 101, dtype)
            z = codes(rng, shape, 0.0625, limits(dtype)[0] + 12, dtype)
            options = {"batch_axis": None} if axis == 0 else {}
            compare(lambda p, q: torch.stack([p, q], axis), x, z, **options)
            compare(lambda p, q: torch.cat([p, q], axis), x, z, **options)
            if len(shape) == 4:
                last = channels_last(x), channels_last(z)
                compare(lambda p, q: torch.cat([p, q], axis), *last, **options)
