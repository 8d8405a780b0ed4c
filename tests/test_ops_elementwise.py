"""unary, prelu, cast, argmax, where, maximum, minimum, power and compare against torch, onnxruntime and math."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_runner import rule, run, run_onnx, tensor, type_of

from nprt.errors import ModelError, QuantizationError, ShapeError
from nprt.ops.argmax import Argmax
from nprt.ops.cast import Cast
from nprt.ops.compare import RELATIONS, Compare
from nprt.ops.maximum import Maximum
from nprt.ops.minimum import Minimum
from nprt.ops.power import Power
from nprt.ops.prelu import Prelu
from nprt.ops.unary import FUNCTIONS, Unary, erf
from nprt.ops.where import Where

checked = settings(max_examples=40, derandomize=True, deadline=None)

SHAPES = st.lists(st.integers(1, 5), min_size=0, max_size=4).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)


def floats(seed, shape, spread=3.0):
    return (np.random.default_rng(seed).normal(size=shape) * spread).astype(np.float32)


# --- unary --------------------------------------------------------------------------------------------

# What torch calls the function, on a float64 tensor; and where it is defined.
EVERYWHERE, POSITIVE, UNIT = (-1e4, 1e4), (1e-6, 1e4), (-1.0, 1.0)
TORCH = {
    "abs": ((), lambda t, x: t.abs(x), EVERYWHERE),
    "acos": ((), lambda t, x: t.acos(x), UNIT),
    "acosh": ((), lambda t, x: t.acosh(x), (1.0, 1e4)),
    "asin": ((), lambda t, x: t.asin(x), UNIT),
    "asinh": ((), lambda t, x: t.asinh(x), EVERYWHERE),
    "atan": ((), lambda t, x: t.atan(x), EVERYWHERE),
    "atanh": ((), lambda t, x: t.atanh(x), UNIT),
    "ceil": ((), lambda t, x: t.ceil(x), EVERYWHERE),
    "celu": ((0.7,), lambda t, x: t.nn.functional.celu(x, 0.7), EVERYWHERE),
    "clip": ((-0.5, 6.0), lambda t, x: t.clamp(x, -0.5, 6.0), EVERYWHERE),
    "cos": ((), lambda t, x: t.cos(x), EVERYWHERE),
    "cosh": ((), lambda t, x: t.cosh(x), (-80.0, 80.0)),
    "elu": ((1.3,), lambda t, x: t.nn.functional.elu(x, 1.3), EVERYWHERE),
    "erf": ((), lambda t, x: t.erf(x), EVERYWHERE),
    "exp": ((), lambda t, x: t.exp(x), (-100.0, 88.0)),
    "expm1": ((), lambda t, x: t.expm1(x), (-100.0, 88.0)),
    "floor": ((), lambda t, x: t.floor(x), EVERYWHERE),
    "gelu": ((), lambda t, x: t.nn.functional.gelu(x), EVERYWHERE),
    "gelu_tanh": ((), lambda t, x: t.nn.functional.gelu(x, approximate="tanh"), EVERYWHERE),
    "hardshrink": ((0.4,), lambda t, x: t.nn.functional.hardshrink(x, 0.4), EVERYWHERE),
    "hardsigmoid": ((1 / 6, 0.5), lambda t, x: t.nn.functional.hardsigmoid(x), EVERYWHERE),
    "hardswish": ((), lambda t, x: t.nn.functional.hardswish(x), EVERYWHERE),
    "leaky_relu": ((0.01,), lambda t, x: t.nn.functional.leaky_relu(x, 0.01), EVERYWHERE),
    "log": ((), lambda t, x: t.log(x), POSITIVE),
    "log1p": ((), lambda t, x: t.log1p(x), (-0.9, 1e4)),
    "logsigmoid": ((), lambda t, x: t.nn.functional.logsigmoid(x), EVERYWHERE),
    "mish": ((), lambda t, x: t.nn.functional.mish(x), EVERYWHERE),
    "nan_to_zero": ((), lambda t, x: t.where(t.isnan(x), 0, x), EVERYWHERE),
    "neg": ((), lambda t, x: t.neg(x), EVERYWHERE),
    "pow": ((2.5,), lambda t, x: t.pow(x, 2.5), POSITIVE),
    "quick_gelu": ((1.702,), lambda t, x: x * t.sigmoid(1.702 * x), EVERYWHERE),
    "reciprocal": ((), lambda t, x: t.reciprocal(x), POSITIVE),
    "relu": ((), lambda t, x: t.relu(x), EVERYWHERE),
    "round": ((), lambda t, x: t.round(x), EVERYWHERE),
    "rsqrt": ((), lambda t, x: t.rsqrt(x), POSITIVE),
    "selu": (
        (1.6732632423543772848170429916717, 1.0507009873554804934193349852946),
        lambda t, x: t.nn.functional.selu(x),
        EVERYWHERE,
    ),
    "sigmoid": ((), lambda t, x: t.sigmoid(x), EVERYWHERE),
    "sign": ((), lambda t, x: t.sign(x), EVERYWHERE),
    "silu": ((), lambda t, x: t.nn.functional.silu(x), EVERYWHERE),
    "sin": ((), lambda t, x: t.sin(x), EVERYWHERE),
    "sinh": ((), lambda t, x: t.sinh(x), (-80.0, 80.0)),
    "softplus": ((1.5,), lambda t, x: t.nn.functional.softplus(x, 1.5, 1e9), (-400.0, 400.0)),
    "softshrink": ((0.4,), lambda t, x: t.nn.functional.softshrink(x, 0.4), EVERYWHERE),
    "softsign": ((), lambda t, x: t.nn.functional.softsign(x), EVERYWHERE),
    "sqrt": ((), lambda t, x: t.sqrt(x), POSITIVE),
    "tan": ((), lambda t, x: t.tan(x), EVERYWHERE),
    "tanh": ((), lambda t, x: t.tanh(x), EVERYWHERE),
    "threshold": ((0.5, -2.0), lambda t, x: t.nn.functional.threshold(x, 0.5, -2.0), EVERYWHERE),
    "trunc": ((), lambda t, x: t.trunc(x), EVERYWHERE),
}


def test_every_function_is_compared():
    assert TORCH.keys() == FUNCTIONS.keys()


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_unary_is_torch_in_float64(function):
    torch = pytest.importorskip("torch")
    parameters, compute, (low, high) = TORCH[function]
    rng = np.random.default_rng(1)
    some = np.concatenate(
        [
            rng.uniform(max(low, -8), min(high, 8), 4000),
            rng.uniform(low, high, 1000),
            np.arange(-8, 8, 0.25),  # ties of round, the corners of hardswish
        ]
    ).astype(np.float32)
    x = tensor(some[(some >= low) & (some <= high)])
    actual = run(Unary, x.type, x, function=function, parameters=parameters)
    expected = compute(torch, torch.from_numpy(x.data).double()).numpy()
    # within half a step of float32; what erf subtracts from 1 is known to 2e-15
    np.testing.assert_allclose(actual, expected, rtol=2**-23, atol=1e-13)


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_unary_takes_what_is_not_finite(function):
    x = tensor(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38], np.float32))
    actual = run(Unary, x.type, x, function=function, parameters=TORCH[function][0])
    assert np.isnan(actual[0]) or function in ("hardshrink", "nan_to_zero", "threshold")


def test_erf_is_the_library_function():
    x = np.concatenate(
        [
            np.linspace(-7, 7, 20001),
            np.arange(-100, 101) / 32,
            [0.0, 1e-300, -1e-9, 1e300, np.inf, -np.inf],
        ]
    )
    expected = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(erf(x), expected, rtol=4e-15, atol=0)
    assert np.isnan(erf(np.array([np.nan])))


@pytest.mark.parametrize(
    ("x", "fields"),
    [
        (type_of("int8", (2,), 0.1), {"function": "relu"}),
        (type_of("float32", (2,)), {"function": "relu2"}),
        (type_of("float32", (2,)), {"function": "relu", "parameters": (1.0,)}),
        (type_of("float32", (2,)), {"function": "clip", "parameters": (1.0,)}),
    ],
)
def test_unary_refuses(x, fields):
    with pytest.raises(ModelError):
        rule(Unary, x, x, **fields)


def test_unary_keeps_symbols():
    x = type_of("float32", ("N", 3))
    assert rule(Unary, x, x, function="relu") == x


# --- prelu --------------------------------------------------------------------------------------------


@checked
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple), SEEDS, st.booleans())
def test_prelu_is_torch(shape, seed, shared):
    torch = pytest.importorskip("torch")
    x = tensor(floats(seed, shape))
    slope = tensor(floats(seed + 1, 1 if shared else shape[-1]))
    expected = torch.nn.functional.prelu(
        torch.from_numpy(np.moveaxis(x.data, -1, 1).copy()), torch.from_numpy(slope.data)
    ).numpy()
    np.testing.assert_array_equal(run(Prelu, x.type, x, slope), np.moveaxis(expected, 1, -1))


@pytest.mark.parametrize(
    ("error", "x", "slope"),
    [
        (ShapeError, type_of("float32", ("N", 3)), type_of("float32", (4,))),
        (ShapeError, type_of("float32", ("N", 3)), type_of("float32", (1, 1, 3))),
        (ModelError, type_of("int8", ("N", 3), 0.1), type_of("float32", (3,))),
        (ModelError, type_of("float32", ("N", 3)), type_of("int32", (3,))),
    ],
)
def test_prelu_refuses(error, x, slope):
    with pytest.raises(error):
        rule(Prelu, x, x, slope)


# --- cast ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["int8", "uint8", "int16", "int32", "int64"])
def test_cast_of_floats_cuts_off_and_saturates(target):
    low, high = np.iinfo(target).min, np.iinfo(target).max
    values = [0.0, -0.0, 0.9, -0.9, 1.5, -1.5, 127.9, -128.9, 255.5, 256.0, 1e20, -1e20]
    values += [2.0**k for k in (15, 31, 32, 63, 64)] + [-(2.0**k) for k in (15, 31, 32, 63, 64)]
    x = np.array([*values, np.inf, -np.inf, np.nan], np.float32)
    expected = [min(max(int(np.trunc(float(v))), low), high) for v in x[:-3]] + [high, low, 0]
    np.testing.assert_array_equal(run(Cast, type_of(target), tensor(x)), np.array(expected, target))


@pytest.mark.parametrize("source", ["int8", "uint8", "int16", "int32", "int64", "bool"])
@pytest.mark.parametrize("target", ["int8", "uint8", "int16", "int32", "int64", "float32", "bool"])
def test_cast_of_integers_saturates(source, target):
    low, high = (0, 1) if source == "bool" else (np.iinfo(source).min, np.iinfo(source).max)
    values = sorted(
        {min(max(v, low), high) for v in (low, -129, -1, 0, 1, 127, 255, 2**24 + 1, high)}
    )
    actual = run(Cast, type_of(target), tensor(np.array(values, source)))
    if target == "float32":
        expected = [np.float32(v) for v in values]
    elif target == "bool":
        expected = [v != 0 for v in values]
    else:
        expected = [min(max(v, np.iinfo(target).min), np.iinfo(target).max) for v in values]
    np.testing.assert_array_equal(actual, np.array(expected, target))


@pytest.mark.parametrize("target", ["int32", "int64", "float32", "bool"])
@pytest.mark.parametrize("source", ["int8", "uint8", "int32", "float32", "bool"])
def test_cast_inside_the_range_is_onnxruntime(source, target):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    data = (np.arange(-20, 20) * 1.7).astype(np.float32)
    data = (np.abs(data) if source == "uint8" else data).astype(source)
    to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target))
    np.testing.assert_array_equal(
        run(Cast, type_of(target), tensor(data)), run_onnx("Cast", [data], to=to)
    )


def test_cast_to_bool_and_of_symbols():
    x = tensor(np.array([0, -0.0, 1e-30, np.nan, -2], np.float32))
    np.testing.assert_array_equal(run(Cast, type_of("bool"), x), [False, False, True, True, True])
    assert rule(Cast, type_of("int64"), type_of("bool", ("N", 2))) == type_of("int64", ("N", 2))
    for y, x in [("float32", ("int8", 0.1)), ("int8", ("float32", None))]:
        with pytest.raises(QuantizationError):
            rule(Cast, type_of(y, (), 0.1 if y == "int8" else None), type_of(x[0], (2,), x[1]))


# --- argmax -------------------------------------------------------------------------------------------


@checked
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    SEEDS,
    st.data(),
    st.sampled_from(["int8", "uint8", "float32"]),
    st.booleans(),
)
def test_argmax_is_onnxruntime(shape, seed, data, dtype, keepdims):
    pytest.importorskip("onnxruntime")
    axis = data.draw(st.sampled_from(range(len(shape))))
    few = np.random.default_rng(seed).integers(0, 4, shape).astype(dtype)  # many ties
    x = tensor(few, None if dtype == "float32" else 0.1)
    actual = run(Argmax, type_of("int64"), x, axis=axis, keepdims=keepdims)
    expected = run_onnx("ArgMax", [few], axis=axis, keepdims=int(keepdims))
    np.testing.assert_array_equal(actual, expected)


def test_argmax_types():
    x = type_of("int8", ("N", 4, "L"), 0.1)
    assert rule(Argmax, type_of("int64"), x, axis=1) == type_of("int64", ("N", "L"))
    assert rule(Argmax, type_of("int64"), x, axis=2, keepdims=True).shape == ("N", 4, 1)
    for bad, axis in [(x, 3), (x, -1), (x.with_shape(("N", 0)), 1)]:
        with pytest.raises(ShapeError):
            rule(Argmax, type_of("int64"), bad, axis=axis)
    with pytest.raises(QuantizationError):
        rule(Argmax, type_of("int64"), type_of("int8", (2, 2), [0.1, 0.2], 0, 0), axis=1)


# --- two operands -------------------------------------------------------------------------------------


@st.composite
def operands(draw, dtypes=("float32", "int32", "int64", "int8", "uint8")):
    """Two arrays that broadcast, with many equal elements."""
    shape = draw(SHAPES)
    sides = []
    for _ in range(2):
        sides.append(
            tuple(
                n if draw(st.booleans()) else 1 for n in shape[draw(st.integers(0, len(shape))) :]
            )
        )
    dtype = draw(st.sampled_from(dtypes))
    rng = np.random.default_rng(draw(SEEDS))
    scale = 0.1 if dtype in ("int8", "uint8") else None
    return [
        tensor(rng.integers(0, 5, side).astype(dtype), scale, 2 if scale else 0) for side in sides
    ]


@checked
@given(operands())
def test_maximum_and_minimum_are_torch(pair):
    torch = pytest.importorskip("torch")
    a, b = pair
    for cls, compute in [(Maximum, torch.maximum), (Minimum, torch.minimum)]:
        expected = compute(torch.from_numpy(a.data), torch.from_numpy(b.data)).numpy()
        np.testing.assert_array_equal(run(cls, a.type, a, b), expected)


@checked
@given(operands(), st.sampled_from(sorted(RELATIONS)))
def test_compare_is_torch(pair, relation):
    torch = pytest.importorskip("torch")
    a, b = pair
    name = {"equal": "eq", "not_equal": "ne"}.get(relation, relation)
    expected = getattr(torch, name)(torch.from_numpy(a.data), torch.from_numpy(b.data)).numpy()
    np.testing.assert_array_equal(run(Compare, type_of("bool"), a, b, relation=relation), expected)


@checked
@given(operands(), operands(("int64",)))
def test_where_is_torch(pair, other):
    torch = pytest.importorskip("torch")
    a, b = pair
    condition = tensor(other[0].data > 2)
    try:
        shape = np.broadcast_shapes(a.data.shape, b.data.shape, condition.data.shape)
    except ValueError:
        with pytest.raises(ShapeError):
            rule(Where, a.type, condition.type, a.type, b.type)
        return
    expected = torch.where(*(torch.from_numpy(np.asarray(t.data)) for t in (condition, a, b)))
    actual = run(Where, a.type, condition, a, b)
    assert actual.shape == shape
    np.testing.assert_array_equal(actual, expected.numpy())


@checked
@given(operands(("float32",)))
def test_power_is_torch_in_float64(pair):
    torch = pytest.importorskip("torch")
    a, b = pair
    b = tensor(b.data - np.float32(1.5))
    expected = torch.pow(torch.from_numpy(a.data).double(), torch.from_numpy(b.data).double())
    np.testing.assert_allclose(run(Power, a.type, a, b), expected.float().numpy(), rtol=2**-23)


CODES = type_of("int8", ("N", 3), 0.1, 2)


@pytest.mark.parametrize(
    ("cls", "fields"), [(Maximum, {}), (Minimum, {}), (Compare, {"relation": "less"})]
)
@pytest.mark.parametrize(
    ("error", "b"),
    [
        (ShapeError, CODES.with_shape(("N", 4))),
        (ShapeError, CODES.with_shape(("M", 3))),
        (QuantizationError, type_of("int8", ("N", 3), 0.2, 2)),
        (QuantizationError, type_of("int8", ("N", 3))),
        (QuantizationError, type_of("uint8", ("N", 3), 0.1, 2)),
    ],
)
def test_unlike_operands_are_refused(cls, fields, error, b):
    with pytest.raises(error):
        rule(cls, CODES, CODES, b, **fields)
    with pytest.raises(error):
        rule(Where, CODES, type_of("bool", (1, 1)), CODES, b)


def test_operands_broadcast_symbols():
    row = CODES.with_shape((1, 3))
    assert rule(Maximum, CODES, row, CODES) == CODES
    assert rule(Where, CODES, type_of("bool", ("N", 1)), row, row) == CODES
    assert rule(Compare, type_of("bool"), row, CODES, relation="equal") == type_of("bool", ("N", 3))
    for bad in ({"relation": "near"},):
        with pytest.raises(ModelError):
            rule(Compare, type_of("bool"), row, CODES, **bad)
    with pytest.raises(ModelError):
        rule(Where, CODES, type_of("int8", ("N", 1)), row, row)
    with pytest.raises(ModelError):
        rule(Power, CODES, CODES, CODES)
