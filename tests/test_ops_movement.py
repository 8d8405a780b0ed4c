"""reshape, transpose, slice, concat, pad, gather and expand against torch and onnxruntime."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_runner import make, rule, run, run_onnx, tensor, type_of

from nprt.errors import InputError, ModelError, QuantizationError, ShapeError
from nprt.ops.concat import Concat
from nprt.ops.expand import Expand
from nprt.ops.gather import Gather
from nprt.ops.pad import Pad
from nprt.ops.reshape import Reshape
from nprt.ops.slice import Slice
from nprt.ops.transpose import Transpose

checked = settings(max_examples=40, derandomize=True, deadline=None)

# dtype and scale: codes, plain integers, floats and truth values all move alike
KINDS = st.sampled_from(
    [
        ("int8", 0.1),
        ("uint8", 0.3),
        ("int32", None),
        ("int64", None),
        ("float32", None),
        ("bool", None),
    ]
)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)

CODES = type_of("int8", ("N", 4, 6), 0.1, 7)
PER_CHANNEL = type_of("int8", (2, 3), [0.1, 0.2, 0.3], 0, 1)


def numbered(kind, shape):
    """Elements that tell where they came from, as far as the dtype can."""
    dtype, scale = kind
    data = np.arange(np.prod(shape, dtype=int)) * 7 - 100
    data = data % 2 if dtype == "bool" else data
    return tensor(data.astype(dtype).reshape(shape), scale, 3 if scale else 0)


def same_kind(x, shape=()):
    return x.type.with_shape(tuple(shape))


# --- reshape ------------------------------------------------------------------------------------------


@checked
@given(KINDS, SHAPES, st.randoms(use_true_random=False))
def test_reshape_is_torch(kind, shape, random):
    torch = pytest.importorskip("torch")
    x = numbered(kind, shape)
    target = list(shape)
    random.shuffle(target)
    target = [1, target[0], int(np.prod(target[1:], dtype=int))]
    expected = torch.from_numpy(x.data).reshape(target).numpy()
    np.testing.assert_array_equal(run(Reshape, same_kind(x, target), x), expected)


def test_reshape_of_symbols_and_nothing():
    assert rule(Reshape, CODES.with_shape((24, "N")), CODES).shape == (24, "N")
    assert rule(Reshape, CODES.with_shape(("N", 2, 2, 6)), CODES).quant == CODES.quant
    x = tensor(np.zeros((0, 3), np.float32))
    assert run(Reshape, type_of("float32", (3, 0, 2)), x).shape == (3, 0, 2)
    assert run(Reshape, type_of("int64"), tensor(np.array([5]))).shape == ()


@pytest.mark.parametrize(
    ("error", "shape", "x"),
    [
        (ShapeError, ("N", 25), CODES),
        (ShapeError, (24,), CODES),
        (ShapeError, ("M", 24), CODES),
        (ShapeError, ("N", "N", 24), CODES),
        (QuantizationError, (6,), PER_CHANNEL),
    ],
)
def test_reshape_refuses(error, shape, x):
    with pytest.raises(error):
        rule(Reshape, x.with_shape(shape) if x is CODES else type_of("int8", shape), x)


# --- transpose ----------------------------------------------------------------------------------------


@checked
@given(KINDS, SHAPES, st.data())
def test_transpose_is_torch(kind, shape, data):
    torch = pytest.importorskip("torch")
    x = numbered(kind, shape)
    perm = tuple(data.draw(st.permutations(range(len(shape)))))
    actual = run(Transpose, x.type, x, perm=perm)
    np.testing.assert_array_equal(actual, torch.from_numpy(x.data).permute(perm).numpy())
    assert actual.flags.c_contiguous


def test_transpose_moves_symbols():
    assert rule(Transpose, CODES, CODES, perm=(1, 2, 0)) == CODES.with_shape((4, 6, "N"))
    assert run(Transpose, type_of("bool"), tensor(np.array(True)), perm=()).shape == ()


@pytest.mark.parametrize(
    ("error", "x", "perm"),
    [
        (ShapeError, CODES, (0, 1)),
        (ShapeError, CODES, (0, 1, 1)),
        (ShapeError, CODES, (0, 1, 3)),
        (ShapeError, CODES, (0, 1, -1)),
        (QuantizationError, PER_CHANNEL, (1, 0)),
    ],
)
def test_transpose_refuses(error, x, perm):
    with pytest.raises(error):
        rule(Transpose, x, x, perm=perm)


# --- slice --------------------------------------------------------------------------------------------


@checked
@given(KINDS, SHAPES, st.data())
def test_slice_is_onnxruntime(kind, shape, data):
    pytest.importorskip("onnxruntime")
    x = numbered(kind, shape)
    stops = st.integers(-7, 7) | st.none()
    steps = st.sampled_from([-3, -2, -1, 1, 2, 3])
    # A start before the beginning with a step below 0 is nothing in Python, the first element in ONNX.
    parts = [data.draw(st.tuples(st.integers(-n, 7), stops, steps)) for n in shape]
    starts, stops, steps = zip(*parts, strict=True)
    far = [(2**31 if step > 0 else -(2**31)) for step in steps]
    ends = [end if stop is None else stop for stop, end in zip(stops, far, strict=True)]
    axes = np.arange(len(shape))
    expected = run_onnx(
        "Slice", [x.data, *(np.array(v, np.int64) for v in (starts, ends, axes, steps))]
    )
    actual = run(Slice, x.type, x, starts=starts, stops=stops, steps=steps)
    np.testing.assert_array_equal(actual, expected)


def test_slice_of_a_symbolic_axis():
    rest = {"starts": (0, 1, 5), "stops": (None, 3, None), "steps": (1, 1, -2)}
    assert rule(Slice, CODES, CODES, **rest).shape == ("N", 2, 3)
    back = {"starts": (-1, 0, 0), "stops": (None, 9, 0), "steps": (-1, 1, 1)}
    assert rule(Slice, CODES, CODES, **back).shape == ("N", 4, 0)


@pytest.mark.parametrize(
    ("error", "x", "fields"),
    [
        (ShapeError, CODES, {"starts": (0, 0), "stops": (1, 1), "steps": (1, 1)}),
        (ShapeError, CODES, {"starts": (0, 0, 0), "stops": (None, 1), "steps": (1, 1, 1)}),
        (ShapeError, CODES, {"starts": (0, 0, 0), "stops": (None, 1, 1), "steps": (1, 0, 1)}),
        (ShapeError, CODES, {"starts": (0, 0, 0), "stops": (1, 1, 1), "steps": (1, 1, 1)}),
        (ShapeError, CODES, {"starts": (1, 0, 0), "stops": (None, 1, 1), "steps": (1, 1, 1)}),
        (ShapeError, CODES, {"starts": (0, 0, 0), "stops": (None, 1, 1), "steps": (2, 1, 1)}),
        (QuantizationError, PER_CHANNEL, {"starts": (0, 0), "stops": (1, 1), "steps": (1, 1)}),
    ],
)
def test_slice_refuses(error, x, fields):
    with pytest.raises(error):
        rule(Slice, x, x, **fields)


# --- concat -------------------------------------------------------------------------------------------


@checked
@given(KINDS, SHAPES, st.data())
def test_concat_is_torch(kind, shape, data):
    torch = pytest.importorskip("torch")
    axis = data.draw(st.sampled_from(range(len(shape))))
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    xs = [numbered(kind, (*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]
    expected = torch.cat([torch.from_numpy(x.data) for x in xs], axis).numpy()
    np.testing.assert_array_equal(run(Concat, xs[0].type, *xs, axis=axis), expected)


def test_concat_beside_a_symbol():
    assert rule(Concat, CODES, CODES, CODES, axis=1) == CODES.with_shape(("N", 8, 6))
    assert rule(Concat, CODES, CODES, axis=0) == CODES


@pytest.mark.parametrize(
    ("error", "xs", "axis"),
    [
        (ShapeError, (CODES, CODES), 3),
        (ShapeError, (CODES, CODES), -1),
        (ShapeError, (CODES, CODES), 0),  # N + N is no dimension
        (ShapeError, (CODES, CODES.with_shape(("N", 4, 5))), 1),
        (ShapeError, (CODES, CODES.with_shape(("N", 4))), 1),
        (QuantizationError, (CODES, type_of("int8", ("N", 4, 6), 0.2, 7)), 1),
        (QuantizationError, (CODES, type_of("int8", ("N", 4, 6), 0.1, 6)), 1),
        (QuantizationError, (CODES, type_of("uint8", ("N", 4, 6), 0.1, 7)), 1),
        (QuantizationError, (PER_CHANNEL, PER_CHANNEL), 0),
    ],
)
def test_concat_refuses(error, xs, axis):
    with pytest.raises(error):
        rule(Concat, CODES, *xs, axis=axis)


# --- pad ----------------------------------------------------------------------------------------------


@checked
@given(
    st.sampled_from(
        [("int8", 0.1), ("uint8", 0.3), ("int32", None), ("int64", None), ("float32", None)]
    ),
    SHAPES,
    st.data(),
    st.sampled_from(["constant", "edge", "reflect"]),
)
def test_pad_is_onnxruntime(kind, shape, data, mode):
    pytest.importorskip("onnxruntime")
    x = numbered(kind, shape)
    limits = [min(3, n - 1) if mode == "reflect" else 3 for n in shape]
    padding = tuple(tuple(data.draw(st.integers(0, m)) for _ in range(2)) for m in limits)
    value = data.draw(st.integers(0, 127)) if mode == "constant" else 0
    pads = np.array([p[0] for p in padding] + [p[1] for p in padding], np.int64)
    constant = np.array(value, x.data.dtype)
    expected = run_onnx("Pad", [x.data, pads, constant], mode=mode)
    actual = run(Pad, x.type, x, padding=padding, mode=mode, value=float(value))
    np.testing.assert_array_equal(actual, expected)


def test_pad_values_and_symbols():
    x = tensor(np.array([[True, True]]))
    actual = run(Pad, x.type, x, padding=((0, 1), (1, 0)))
    np.testing.assert_array_equal(actual, [[False, True, True], [False, False, False]])
    x = tensor(np.ones(1, np.float32))
    np.testing.assert_array_equal(
        run(Pad, x.type, x, padding=((1, 0),), value=0.1), np.array([0.1, 1], np.float32)
    )
    padding = ((0, 0), (1, 2), (0, 3))
    assert rule(Pad, CODES, CODES, padding=padding, value=-128.0).shape == ("N", 7, 9)


@pytest.mark.parametrize(
    ("error", "x", "fields"),
    [
        (ShapeError, CODES, {"padding": ((0, 0), (1, 1))}),
        (ShapeError, CODES, {"padding": ((0, 0), (1, 1), (0, -1))}),
        (ShapeError, CODES, {"padding": ((1, 0), (1, 1), (0, 0))}),
        (ShapeError, CODES, {"padding": ((0, 0), (4, 0), (0, 0)), "mode": "reflect"}),
        (ShapeError, CODES, {"padding": ((0, 0), (2**40, 0), (0, 0))}),
        (ShapeError, type_of("float32", (0,)), {"padding": ((1, 0),), "mode": "edge"}),
        (ModelError, CODES, {"padding": ((0, 0), (1, 1), (0, 0)), "mode": "wrap"}),
        (ModelError, CODES, {"padding": ((0, 0), (1, 1), (0, 0)), "value": 0.5}),
        (ModelError, CODES, {"padding": ((0, 0), (1, 1), (0, 0)), "value": 128.0}),
        (ModelError, type_of("bool", (2,)), {"padding": ((1, 1),), "value": 2.0}),
        (ModelError, type_of("float32", (2,)), {"padding": ((1, 1),), "value": 1e39}),
        (ModelError, type_of("int64", (2,)), {"padding": ((1, 1),), "value": 2.0**63}),
        (QuantizationError, PER_CHANNEL, {"padding": ((1, 1), (0, 0))}),
    ],
)
def test_pad_refuses(error, x, fields):
    with pytest.raises(error):
        rule(Pad, x, x, **fields)


# --- gather -------------------------------------------------------------------------------------------


@checked
@given(KINDS, SHAPES, st.data(), st.sampled_from(["int32", "int64"]))
def test_gather_is_onnxruntime(kind, shape, data, index_dtype):
    pytest.importorskip("onnxruntime")
    x = numbered(kind, shape)
    axis = data.draw(st.sampled_from(range(len(shape))))
    index_shape = data.draw(st.lists(st.integers(0, 3), max_size=2))
    index = st.integers(-shape[axis], shape[axis] - 1)
    count = int(np.prod(index_shape, dtype=int))
    drawn = data.draw(st.lists(index, min_size=count, max_size=count))
    indices = np.array(drawn, index_dtype).reshape(index_shape)
    expected = run_onnx("Gather", [x.data, indices], axis=axis)
    np.testing.assert_array_equal(run(Gather, x.type, x, tensor(indices), axis=axis), expected)


def test_gather_shapes():
    indices = type_of("int64", ("L", 2))
    assert rule(Gather, CODES, CODES, indices, axis=1) == CODES.with_shape(("N", "L", 2, 6))
    assert rule(Gather, CODES, CODES, type_of("int64"), axis=0) == CODES.with_shape((4, 6))


@pytest.mark.parametrize("index", [4, -5, 2**31 - 1])
def test_gather_refuses_an_index(index):
    x, indices = tensor(np.zeros((2, 4), np.int8), 0.1), tensor(np.array([0, index]))
    op = make(Gather, 2, axis=1)
    with pytest.raises(ModelError, match=str(index)):
        op.check_constants(x.type, x.type, indices)
    op.check_constants(x.type, x.type, indices.type)
    with pytest.raises(InputError, match=str(index)):
        op.reference(x.type.with_shape((2, 2)), x, indices)


@pytest.mark.parametrize(
    ("error", "x", "indices", "axis"),
    [
        (ShapeError, CODES, type_of("int64", (2,)), 3),
        (ShapeError, type_of("float32"), type_of("int64", (2,)), 0),
        (ModelError, CODES, type_of("float32", (2,)), 0),
        (ModelError, CODES, type_of("uint8", (2,)), 0),
        (QuantizationError, PER_CHANNEL, type_of("int64", (2,)), 0),
    ],
)
def test_gather_refuses(error, x, indices, axis):
    with pytest.raises(error):
        rule(Gather, x, x, indices, axis=axis)


# --- expand -------------------------------------------------------------------------------------------


@checked
@given(KINDS, SHAPES, st.data())
def test_expand_is_torch(kind, shape, data):
    torch = pytest.importorskip("torch")
    kept = [data.draw(st.booleans()) for _ in shape]
    x = numbered(kind, [n if keep else 1 for n, keep in zip(shape, kept, strict=True)])
    target = (*data.draw(st.lists(st.integers(1, 3), max_size=2)), *shape)
    expected = torch.from_numpy(x.data).expand(target).numpy()
    actual = run(Expand, same_kind(x, target), x)
    np.testing.assert_array_equal(actual, expected)
    assert actual.flags.writeable


def test_expand_to_symbols():
    x = type_of("uint8", (1, 1, 6), 0.1)
    assert rule(Expand, x.with_shape(("N", 3, 6)), x) == x.with_shape(("N", 3, 6))
    assert rule(Expand, CODES.with_shape((5, "N", 4, 6)), CODES).shape == (5, "N", 4, 6)


@pytest.mark.parametrize(
    ("error", "shape", "x"),
    [
        (ShapeError, ("N", 4, 7), CODES),
        (ShapeError, ("N", 1, 6), CODES),
        (ShapeError, (4, 6), CODES),
        (ShapeError, (2, 4, 6), CODES),
        (QuantizationError, (2, 2, 3), PER_CHANNEL),
    ],
)
def test_expand_refuses(error, shape, x):
    with pytest.raises(error):
        rule(Expand, type_of("int8", shape), x)
