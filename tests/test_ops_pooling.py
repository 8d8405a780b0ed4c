"""max_pool, average_pool, global_average_pool and reduce_mean against torch, onnxruntime and exact integers."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_runner import channels_first, channels_last, make, rule, run, run_onnx, tensor, type_of

from nprt.errors import ModelError, QuantizationError, ShapeError
from nprt.ops.average_pool import AveragePool
from nprt.ops.global_average_pool import GlobalAveragePool
from nprt.ops.max_pool import MaxPool
from nprt.ops.reduce_mean import ReduceMean

checked = settings(max_examples=60, derandomize=True, deadline=None)

SCALES = st.floats(1e-3, 1.0).map(np.float32)
CODE_DTYPES = st.sampled_from(["int8", "uint8"])


def codes(seed, dtype, shape):
    """Random codes, a third of them at the ends of the dtype."""
    rng = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    data = rng.integers(info.min, info.max + 1, shape)
    ends = rng.choice([info.min, info.max], shape)
    return np.where(rng.random(shape) < 1 / 3, ends, data).astype(dtype)


def zero_points(dtype):
    info = np.iinfo(dtype)
    return st.integers(int(info.min), int(info.max))


@st.composite
def geometries(draw, rank=None, dilated=False, symmetric=False):
    """A window that fits. With `symmetric`, padding as torch allows it."""
    rank = rank or draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    dilation = tuple(draw(st.integers(1, 2)) if dilated else 1 for _ in range(rank))
    padding, spatial = [], []
    for k, d in zip(kernel, dilation, strict=True):
        reach = d * (k - 1) + 1
        before = draw(st.integers(0, (k if symmetric else reach) // 2))
        after = before if symmetric else draw(st.integers(0, reach // 2))
        padding.append((before, after))
        # torch's 3-d pools want x to be no smaller than the kernel; no window may hold padding alone
        least = max(d, reach if symmetric else reach - before - after)
        spatial.append(draw(st.integers(least, least + 6)))
    fields = {
        "kernel": kernel,
        "stride": stride,
        "dilation": dilation,
        "padding": tuple(padding),
        "ceil_mode": draw(st.booleans()),
    }
    shape = (draw(st.integers(1, 2)), *spatial, draw(st.integers(1, 5)))
    return shape, fields, draw(st.integers(0, 2**32 - 1))


def onnx_attributes(fields):
    before, after = zip(*fields["padding"], strict=True)
    return {
        "kernel_shape": fields["kernel"],
        "strides": fields["stride"],
        "pads": (*before, *after),
        "ceil_mode": int(fields["ceil_mode"]),
    }


def windows_by_hand(x, y_shape, fields, *, include_padding):
    """For each output position: its place, and the elements and number of padded zeros in its window."""
    rank = len(fields["kernel"])
    for place in itertools.product(*map(range, y_shape[1 : 1 + rank])):
        inside, padded = [], 0
        for tap in itertools.product(*map(range, fields["kernel"])):
            at = [
                p * s + t * d - before
                for p, s, t, d, (before, _) in zip(
                    place,
                    fields["stride"],
                    tap,
                    fields["dilation"],
                    fields["padding"],
                    strict=True,
                )
            ]
            if all(0 <= a < n for a, n in zip(at, x.shape[1:], strict=False)):
                inside.append(tuple(at))
            elif include_padding and all(
                a < n + after
                for a, n, (_, after) in zip(at, x.shape[1:], fields["padding"], strict=False)
            ):
                padded += 1
        yield place, inside, padded


def fixed_point(acc, real):
    """acc * real with a 31-bit multiplier, rounded once, ties up, in Python's integers."""
    fraction, exponent = math.frexp(real)
    multiplier = math.floor(Fraction(fraction) * 2**31 + Fraction(1, 2))
    return math.floor(Fraction(acc) * multiplier * Fraction(2) ** (exponent - 31) + Fraction(1, 2))


# --- max_pool -----------------------------------------------------------------------------------------


@checked
@given(geometries(dilated=True, symmetric=True), st.sampled_from(["int8", "uint8", "float32"]))
def test_max_pool_is_torch(geometry, dtype):
    torch = pytest.importorskip("torch")
    shape, fields, seed = geometry
    if dtype == "float32":
        data = np.random.default_rng(seed).normal(size=shape).astype(np.float32) - 3
        x = tensor(data)
    else:
        data = codes(seed, dtype, shape)
        x = tensor(data, 0.1, 3)
    pool = getattr(torch.nn.functional, f"max_pool{len(fields['kernel'])}d")
    expected = pool(
        torch.from_numpy(channels_first(data).astype(np.float64)),
        fields["kernel"],
        fields["stride"],
        [before for before, _ in fields["padding"]],
        fields["dilation"],
        fields["ceil_mode"],
    ).numpy()
    actual = run(MaxPool, x.type, x, **fields)
    np.testing.assert_array_equal(actual, channels_last(expected).astype(dtype))


@checked
@given(geometries(dilated=True), CODE_DTYPES)
def test_max_pool_with_uneven_padding_is_onnxruntime(geometry, dtype):
    pytest.importorskip("onnxruntime")
    shape, fields, seed = geometry
    data = codes(seed, dtype, shape)
    x = tensor(data, 0.1, 3)
    actual = run(MaxPool, x.type, x, **fields)
    attributes = onnx_attributes(fields) | {"dilations": fields["dilation"]}
    expected = channels_last(run_onnx("MaxPool", [channels_first(data)], **attributes))
    np.testing.assert_array_equal(actual, expected)


# --- average_pool -------------------------------------------------------------------------------------


@checked
@given(geometries(symmetric=True), st.booleans())
def test_average_pool_of_floats_is_torch(geometry, include_padding):
    torch = pytest.importorskip("torch")
    shape, fields, seed = geometry
    data = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    pool = getattr(torch.nn.functional, f"avg_pool{len(fields['kernel'])}d")
    expected = pool(
        torch.from_numpy(channels_first(data).astype(np.float64)),
        fields["kernel"],
        fields["stride"],
        [before for before, _ in fields["padding"]],
        fields["ceil_mode"],
        include_padding,
    ).numpy()
    x = tensor(data)
    actual = run(AveragePool, x.type, x, include_padding=include_padding, **fields)
    np.testing.assert_allclose(actual, channels_last(expected), rtol=1e-6, atol=1e-7)


@checked
@given(geometries(dilated=True), st.data(), CODE_DTYPES, st.booleans())
def test_average_pool_of_raw_codes(geometry, data, dtype, include_padding):
    """Same quantization in and out: TFLite's formula, with C's division that cuts off."""
    shape, fields, seed = geometry
    zero_point = data.draw(zero_points(dtype))
    x = tensor(codes(seed, dtype, shape), 0.1, zero_point)
    actual = run(AveragePool, x.type, x, include_padding=include_padding, **fields)
    for place, inside, padded in windows_by_hand(
        x.data, actual.shape, fields, include_padding=include_padding
    ):
        count = len(inside) + padded
        for n, c in np.ndindex(shape[0], shape[-1]):
            acc = sum(int(x.data[(n, *at, c)]) for at in inside) + padded * zero_point
            half = count // 2 if acc > 0 else -(count // 2)
            assert actual[(n, *place, c)] == int(Fraction(acc + half, count))


@checked
@given(geometries(dilated=True), st.data(), CODE_DTYPES, CODE_DTYPES, SCALES, SCALES, st.booleans())
def test_average_pool_to_another_scale(
    geometry, data, x_dtype, y_dtype, x_scale, y_scale, include_padding
):
    shape, fields, seed = geometry
    x_zero, y_zero = data.draw(zero_points(x_dtype)), data.draw(zero_points(y_dtype))
    assume((x_dtype, x_scale, x_zero) != (y_dtype, y_scale, y_zero))
    x = tensor(codes(seed, x_dtype, shape), x_scale, x_zero)
    y = type_of(y_dtype, (), y_scale, y_zero)
    low, high = y.code_range
    actual = run(
        AveragePool, y, x, include_padding=include_padding, clamp=(low + 3, high - 5), **fields
    )
    for place, inside, padded in windows_by_hand(
        x.data, actual.shape, fields, include_padding=include_padding
    ):
        real = float(x_scale) / (float(y_scale) * (len(inside) + padded))
        for n, c in np.ndindex(shape[0], shape[-1]):
            acc = sum(int(x.data[(n, *at, c)]) - x_zero for at in inside)
            expected = min(max(fixed_point(acc, real) + y_zero, low + 3), high - 5)
            assert actual[(n, *place, c)] == expected


@checked
@given(geometries(), st.data(), CODE_DTYPES, SCALES, SCALES, st.booleans())
def test_average_pool_ort_is_onnxruntime(geometry, data, dtype, x_scale, y_scale, include_padding):
    pytest.importorskip("onnxruntime")
    assume(x_scale / y_scale < 256)  # what onnxruntime takes
    shape, fields, seed = geometry
    x_zero, y_zero = data.draw(zero_points(dtype)), data.draw(zero_points(dtype))
    x = tensor(codes(seed, dtype, shape), x_scale, x_zero)
    y = type_of(dtype, (), y_scale, y_zero)
    actual = run(AveragePool, y, x, include_padding=include_padding, numerics="ort", **fields)
    zeros = np.array([x_zero, y_zero], dtype)
    expected = run_onnx(
        "QLinearAveragePool",
        [channels_first(x.data), x_scale, zeros[0], y_scale, zeros[1]],
        domain="com.microsoft",
        count_include_pad=int(include_padding),
        **onnx_attributes(fields),
    )
    expected = channels_last(expected)
    # onnxruntime also keeps a last window that begins in the padding at the end
    assume(expected.shape == actual.shape)
    np.testing.assert_array_equal(actual, expected)


def test_ties_of_raw_codes_go_away_from_zero():
    fields = {"kernel": (2,), "stride": (2,), "dilation": (1,), "padding": ((0, 0),)}
    data = np.array([-128, -127, -2, -1, -1, 0, 0, 1, 1, 2, 126, 127], np.int8).reshape(1, 12, 1)
    x = tensor(data, 0.5, -7)
    expected = np.array([-128, -2, -1, 1, 2, 127], np.int8).reshape(1, 6, 1)
    np.testing.assert_array_equal(run(AveragePool, x.type, x, **fields), expected)


def test_ties_of_rescaled_sums_go_up():
    fields = {"kernel": (2,), "stride": (2,), "dilation": (1,), "padding": ((0, 0),)}
    data = np.array([-2, -1, -1, 0, 0, 1, 1, 2], np.int8).reshape(1, 8, 1)
    actual = run(AveragePool, type_of("int8", (), 0.5, 10), tensor(data, 0.5, 0), **fields)
    np.testing.assert_array_equal(actual, np.array([9, 10, 11, 12], np.int8).reshape(1, 4, 1))


def test_average_pool_states_its_bound():
    op = make(
        AveragePool, 1, kernel=(3, 5), stride=(1, 1), dilation=(1, 1), padding=((0, 0), (0, 0))
    )
    x = type_of("uint8", (1, 9, 9, 2), 0.1, 100)
    assert op.accumulator_bound(x, x) == 15 * 155
    assert op.accumulator_bound(type_of("float32"), type_of("float32")) is None


POOL = {"kernel": (3, 3), "stride": (2, 2), "dilation": (1, 1), "padding": ((1, 1), (1, 1))}
IMAGE = type_of("int8", ("N", 7, 8, 3), 0.1, 5)


@pytest.mark.parametrize("cls", [MaxPool, AveragePool])
def test_pools_keep_a_symbolic_batch(cls):
    assert rule(cls, IMAGE, IMAGE, **POOL).shape == ("N", 4, 4, 3)
    assert rule(cls, IMAGE, IMAGE, **POOL, ceil_mode=True).shape == ("N", 4, 5, 3)


def test_only_a_maximum_needs_no_scale():
    """The greatest of some integers is one of them, whatever they stand for; their mean is not."""
    plain = type_of("int8", (1, 7, 8, 3))
    assert rule(MaxPool, plain, plain, **POOL) == type_of("int8", (1, 4, 4, 3))
    with pytest.raises(QuantizationError):
        rule(AveragePool, plain, plain, **POOL)


@pytest.mark.parametrize("cls", [MaxPool, AveragePool])
@pytest.mark.parametrize(
    ("error", "x", "fields"),
    [
        (ShapeError, type_of("int8", (4, 4), 0.1), {}),
        (ShapeError, IMAGE, {"kernel": (3,)}),
        (ShapeError, IMAGE, {"kernel": (0, 3)}),
        (ShapeError, IMAGE, {"stride": (2, 0)}),
        (ShapeError, IMAGE, {"dilation": (1, -1)}),
        (ShapeError, IMAGE, {"padding": ((1, -1), (1, 1))}),
        (ShapeError, IMAGE, {"kernel": (10, 3)}),
        (ShapeError, IMAGE, {"padding": ((3, 0), (0, 0))}),  # the first window is all padding
        (ShapeError, IMAGE, {"padding": ((0, 4), (0, 0))}),  # the last one
        (ShapeError, IMAGE, {"padding": ((2**40, 0), (0, 0))}),
        (ShapeError, type_of("int8", (1, "H", 8, 3), 0.1), {}),
        (ShapeError, type_of("int8", (1, 0, 8, 3), 0.1), {"padding": ((2, 2), (1, 1))}),
        (
            ShapeError,  # taps on both sides of x, none on it
            type_of("int8", (1, 1, 9, 3), 0.1),
            {"kernel": (2, 3), "dilation": (4, 1), "padding": ((2, 2), (1, 1))},
        ),
        (ModelError, type_of("int32", (1, 7, 8, 3), 0.1), {}),
        (QuantizationError, type_of("int8", (1, 7, 8, 3), [0.1, 0.2, 0.3], 0, 3), {}),
    ],
)
def test_pools_refuse(cls, error, x, fields):
    with pytest.raises(error):
        rule(cls, x, x, **(POOL | fields))


@pytest.mark.parametrize(
    ("y", "x", "fields"),
    [
        (IMAGE, IMAGE, {"numerics": "exact"}),
        (IMAGE, IMAGE, {"clamp": (3, 2)}),
        (IMAGE, IMAGE, {"clamp": (-129, 2)}),
        (type_of("float32"), type_of("float32", (1, 7, 8, 3)), {"clamp": (0, 6)}),
        (type_of("float32"), IMAGE, {}),
        (IMAGE, type_of("float32", (1, 7, 8, 3)), {}),
    ],
)
def test_average_pool_refuses(y, x, fields):
    with pytest.raises(ModelError):
        rule(AveragePool, y, x, **(POOL | fields))


# --- means over whole axes ----------------------------------------------------------------------------


@checked
@given(
    st.lists(st.integers(1, 9), min_size=3, max_size=5).map(tuple),
    st.integers(0, 2**32 - 1),
    st.data(),
    CODE_DTYPES,
    CODE_DTYPES,
    SCALES,
    SCALES,
)
def test_global_average_pool_in_fixed_point(shape, seed, data, x_dtype, y_dtype, x_scale, y_scale):
    x_zero, y_zero = data.draw(zero_points(x_dtype)), data.draw(zero_points(y_dtype))
    x = tensor(codes(seed, x_dtype, shape), x_scale, x_zero)
    y = type_of(y_dtype, (), y_scale, y_zero)
    actual = run(GlobalAveragePool, y, x)
    assert actual.shape == (shape[0], *[1] * (len(shape) - 2), shape[-1])
    count = math.prod(shape[1:-1])
    real = float(x_scale) / (float(y_scale) * count)
    low, high = y.code_range
    rows = x.data.reshape(shape[0], count, shape[-1])
    for n, c in np.ndindex(shape[0], shape[-1]):
        acc = sum(int(code) - x_zero for code in rows[n, :, c])
        expected = min(max(fixed_point(acc, real) + y_zero, low), high)
        assert actual.reshape(shape[0], shape[-1])[n, c] == expected
    axes = tuple(range(1, len(shape) - 1))
    np.testing.assert_array_equal(run(ReduceMean, y, x, axes=axes, keepdims=True), actual)


@checked
@given(
    st.tuples(
        st.integers(1, 3), st.sampled_from([1, 7, 16]), st.integers(1, 14), st.integers(1, 40)
    ),
    st.integers(0, 2**32 - 1),
    st.data(),
    CODE_DTYPES,
    SCALES,
    SCALES,
    st.booleans(),
)
def test_global_average_pool_ort_is_onnxruntime(shape, seed, data, dtype, x_scale, y_scale, last):
    pytest.importorskip("onnxruntime")
    assume(x_scale / y_scale < 256)  # what onnxruntime takes
    x_zero, y_zero = data.draw(zero_points(dtype)), data.draw(zero_points(dtype))
    x = tensor(codes(seed, dtype, shape), x_scale, x_zero)
    actual = run(GlobalAveragePool, type_of(dtype, (), y_scale, y_zero), x, numerics="ort")
    zeros = np.array([x_zero, y_zero], dtype)
    expected = run_onnx(
        "QLinearGlobalAveragePool",
        [x.data if last else channels_first(x.data), x_scale, zeros[0], y_scale, zeros[1]],
        domain="com.microsoft",
        channels_last=int(last),
    )
    np.testing.assert_array_equal(actual, expected if last else channels_last(expected))


@checked
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple), st.data(), st.booleans())
def test_reduce_mean_of_floats_is_torch(shape, data, keepdims):
    torch = pytest.importorskip("torch")
    axes = data.draw(st.sets(st.sampled_from(range(len(shape))), min_size=1).map(sorted))
    x = tensor(
        np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=shape).astype(np.float32)
    )
    actual = run(ReduceMean, x.type, x, axes=tuple(axes), keepdims=keepdims)
    expected = torch.from_numpy(x.data).double().mean(axes, keepdim=keepdims).float().numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)
    if shape[1:]:
        x = tensor(x.data[..., np.newaxis].repeat(2, -1))
        expected = x.data.astype(np.float64).mean(tuple(range(1, len(shape))), keepdims=True)
        if x.data.ndim >= 3:
            np.testing.assert_allclose(
                run(GlobalAveragePool, x.type, x), expected, rtol=1e-6, atol=1e-7
            )


def test_means_know_symbols():
    x = type_of("float32", ("N", 5, "C"))
    assert rule(ReduceMean, x, x, axes=(1,)).shape == ("N", "C")
    assert rule(ReduceMean, x, x, axes=(0, 1), keepdims=True).shape == (1, 1, "C")
    assert rule(GlobalAveragePool, x, x).shape == ("N", 1, "C")
    q = type_of("int8", ("N", 5, 4, 3), 0.1)
    assert rule(GlobalAveragePool, q, q).shape == ("N", 1, 1, 3)
    assert make(GlobalAveragePool, 1).accumulator_bound(q, q) == 20 * 128
    assert make(ReduceMean, 1, axes=(1,)).accumulator_bound(q, q) == 5 * 128


@pytest.mark.parametrize(
    ("error", "y", "x", "fields"),
    [
        (ShapeError, IMAGE, IMAGE, {"axes": ()}),
        (ShapeError, IMAGE, IMAGE, {"axes": (2, 1)}),
        (ShapeError, IMAGE, IMAGE, {"axes": (1, 1)}),
        (ShapeError, IMAGE, IMAGE, {"axes": (4,)}),
        (ShapeError, IMAGE, IMAGE, {"axes": (-1,)}),
        (ShapeError, IMAGE, IMAGE, {"axes": (0,)}),  # a sum of unknown length
        (ShapeError, type_of("float32"), type_of("float32", (2, 0)), {"axes": (1,)}),
        (ModelError, IMAGE, IMAGE, {"axes": (1,), "numerics": "exact"}),
        (QuantizationError, type_of("float32"), IMAGE, {"axes": (1,)}),
        (QuantizationError, IMAGE, type_of("int32", (3, 3), 0.1), {"axes": (1,)}),
    ],
)
def test_reduce_mean_refuses(error, y, x, fields):
    with pytest.raises(error):
        rule(ReduceMean, y, x, **fields)


@pytest.mark.parametrize(
    "x",
    [type_of("int8", (2, 3), 0.1), type_of("int8", (2, "H", 3), 0.1), type_of("int32", (2, 2, 3))],
)
def test_global_average_pool_refuses(x):
    with pytest.raises(ModelError):
        rule(GlobalAveragePool, IMAGE, x)
