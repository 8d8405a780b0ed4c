"""softmax against torch, onnxruntime and exact integers."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_runner import make, rule, run, run_onnx, tensor, type_of

from nprt import rounding
from nprt.errors import ModelError, QuantizationError, ShapeError
from nprt.ops.softmax import Softmax

checked = settings(max_examples=60, derandomize=True, deadline=None)

SCALES = st.floats(1e-4, 3.0).map(np.float32)
SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)
LEAST = {"int8": -128, "uint8": 0}


def codes(seed, dtype, shape):
    rng = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    low = rng.integers(info.min, info.max)
    return rng.integers(low, rng.integers(low + 1, info.max + 2), shape).astype(dtype)


def integer(x, y_dtype, axis):
    y = type_of(y_dtype, (), 1 / 256, LEAST[y_dtype])
    return run(Softmax, y, x, tensor(rounding.exp_table(x.type.scale)), axis=axis)


@checked
@given(SHAPES, st.integers(0, 2**32 - 1), st.data(), SCALES)
def test_softmax_of_floats_is_torch(shape, seed, data, spread):
    torch = pytest.importorskip("torch")
    axis = data.draw(st.sampled_from(range(len(shape))))
    x = tensor((np.random.default_rng(seed).normal(size=shape) * spread * 50).astype(np.float32))
    actual = run(Softmax, x.type, x, axis=axis)
    expected = torch.softmax(torch.from_numpy(x.data).double(), axis).float().numpy()
    np.testing.assert_allclose(actual, expected, rtol=2e-7, atol=1e-38)


@checked
@given(SCALES)
def test_exp_table_is_rounded_exp(scale):
    table = rounding.exp_table(scale)
    assert table.dtype == np.int32
    expected = [
        math.floor(Fraction(math.exp(-float(scale) * d)) * 2**23 + Fraction(1, 2))
        for d in range(256)
    ]
    np.testing.assert_array_equal(table, expected)


@checked
@given(
    SHAPES,
    st.integers(0, 2**32 - 1),
    st.data(),
    st.sampled_from(["int8", "uint8"]),
    st.sampled_from(["int8", "uint8"]),
    SCALES,
)
def test_softmax_integer_is_its_formula(shape, seed, data, x_dtype, y_dtype, scale):
    axis = data.draw(st.sampled_from(range(len(shape))))
    x = tensor(codes(seed, x_dtype, shape), scale, data.draw(st.integers(0, 127)))
    actual = np.moveaxis(integer(x, y_dtype, axis), axis, -1).reshape(-1, shape[axis])
    rows = np.moveaxis(x.data, axis, -1).reshape(-1, shape[axis]).tolist()
    for row, result in zip(rows, actual.tolist(), strict=True):
        e = [math.floor(math.exp(-float(scale) * (max(row) - code)) * 2**23 + 0.5) for code in row]
        expected = [
            min(math.floor(Fraction(256 * v, sum(e)) + Fraction(1, 2)), 255) + LEAST[y_dtype]
            for v in e
        ]
        assert result == expected


@checked
@given(st.integers(1, 300), st.integers(0, 2**32 - 1), SCALES)
def test_softmax_integer_is_near_the_real_one(length, seed, scale):
    x = tensor(codes(seed, "int8", (3, length)), scale)
    real = np.exp(x.data * float(scale) - (x.data.max(-1, keepdims=True) * float(scale)))
    real = np.minimum(real / real.sum(-1, keepdims=True) * 256, 255)
    np.testing.assert_allclose(integer(x, "uint8", 1), real, rtol=0, atol=0.501)


def test_softmax_integer_ties_and_ends():
    alone = tensor(np.array([[-128], [5], [127]], np.int8), 0.5)
    np.testing.assert_array_equal(integer(alone, "int8", 1), np.full((3, 1), 127, np.int8))
    # 512 equal entries are 1/2 code each, which goes up; 513 are a little less
    np.testing.assert_array_equal(integer(tensor(np.zeros(512, np.uint8), 0.5), "uint8", 0), 1)
    np.testing.assert_array_equal(integer(tensor(np.zeros(513, np.uint8), 0.5), "uint8", 0), 0)
    far = tensor(np.array([0, 255], np.uint8), 1.0)
    np.testing.assert_array_equal(integer(far, "uint8", 0), np.array([0, 255], np.uint8))


@checked
@given(
    st.tuples(st.integers(1, 4), st.sampled_from([2, 3, 10, 64, 257, 1000])),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["int8", "uint8"]),
    SCALES,
    st.sampled_from([1 / 256, 1 / 255, 0.01, 0.5]).map(np.float32),
    st.data(),
)
def test_softmax_ort_is_onnxruntime(shape, seed, dtype, x_scale, y_scale, data):
    pytest.importorskip("onnxruntime")
    y_zero = data.draw(st.sampled_from([LEAST[dtype], LEAST[dtype] + 1, 0, 100]))
    x = tensor(codes(seed, dtype, shape), x_scale, 3)
    table = tensor(rounding.exp_table_ort(x_scale, shape[1]))
    y = type_of(dtype, (), y_scale, y_zero)
    actual = run(Softmax, y, x, table, axis=1, numerics="ort")
    zeros = np.array([3, y_zero], dtype)
    expected = run_onnx(
        "QLinearSoftmax",
        [x.data, x_scale, zeros[0], y_scale, zeros[1]],
        domain="com.microsoft",
        axis=1,
        opset=13,
    )
    np.testing.assert_array_equal(actual, expected)


def test_a_table_that_could_divide_by_zero_is_refused():
    x, y = type_of("int8", (2, 3), 0.1), type_of("int8", (2, 3), 1 / 256, -128)
    good = rounding.exp_table(np.float32(0.1))
    op = make(Softmax, 2, axis=1)
    op.check_constants(y, x, tensor(good))
    for at, value in [(0, 0), (0, 2**23 + 1), (7, -1), (255, 2**23 + 1)]:
        bad = good.copy()
        bad[at] = value
        with pytest.raises(ModelError):
            op.check_constants(y, x, tensor(bad))
    with pytest.raises(ModelError):
        op.check_constants(y, x, type_of("int32", (256,)))
    op = make(Softmax, 2, axis=1, numerics="ort")
    good = rounding.exp_table_ort(np.float32(0.1), 3)
    op.check_constants(y, x, tensor(good))
    for at, value in [(0, 0), (0, np.inf), (9, np.nan), (9, -1)]:
        bad = good.copy()
        bad[at] = value
        with pytest.raises(ModelError):
            op.check_constants(y, x, tensor(bad))


X = type_of("int8", ("N", "L", 5), 0.1, 3)
Y = type_of("uint8", (), 1 / 256, 0)
TABLE = type_of("int32", (256,))


def test_softmax_keeps_symbols():
    assert rule(Softmax, Y, X, TABLE, axis=1) == Y.with_shape(("N", "L", 5))
    x = type_of("float32", ("N", 5))
    assert rule(Softmax, x, x, axis=1) == x


@pytest.mark.parametrize(
    ("error", "y", "xs", "fields"),
    [
        (ShapeError, Y, (X, TABLE), {"axis": 3}),
        (ShapeError, Y, (X, TABLE), {"axis": -1}),
        (ShapeError, Y, (X.with_shape(("N", 0)), TABLE), {"axis": 1}),
        (ModelError, Y, (X, TABLE), {"axis": 1, "numerics": "exact"}),
        (ModelError, Y, (X, TABLE), {"axis": 1, "numerics": "ort"}),
        (ModelError, Y, (X,), {"axis": 1}),
        (ModelError, Y, (X, TABLE), {"axis": 1, "log": True}),
        (ModelError, Y, (X, type_of("int32", (255,))), {"axis": 1}),
        (ModelError, Y, (X, type_of("float32", (256,))), {"axis": 1}),
        (ModelError, Y, (type_of("float32", (2, 2)), TABLE), {"axis": 1}),
        (QuantizationError, type_of("uint8", (), 1 / 255, 0), (X, TABLE), {"axis": 1}),
        (QuantizationError, type_of("uint8", (), 1 / 256, 1), (X, TABLE), {"axis": 1}),
        (QuantizationError, type_of("int8", (), 1 / 256, 0), (X, TABLE), {"axis": 1}),
        (QuantizationError, type_of("float32"), (X, TABLE), {"axis": 1}),
        (QuantizationError, Y, (type_of("int32", (2, 2), 0.1), TABLE), {"axis": 1}),
    ],
)
def test_softmax_refuses(error, y, xs, fields):
    with pytest.raises(error):
        rule(Softmax, y, *xs, **fields)
