"""resize against onnxruntime and torch, and its fixed-point form against exact integers."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_runner import channels_first, channels_last, rule, run, run_onnx, tensor, type_of

from nprt.errors import ModelError, QuantizationError, ShapeError
from nprt.ops.resize import COORDINATES, NEAREST, Resize

checked = settings(max_examples=80, derandomize=True, deadline=None)

SIZES = st.integers(1, 12) | st.sampled_from([48, 49, 63])
DTYPES = st.sampled_from(["float32", "int8", "uint8"])


@st.composite
def images(draw, rank):
    spatial = tuple(draw(SIZES if rank < 3 else st.integers(1, 7)) for _ in range(rank))
    out = tuple(draw(SIZES if rank < 3 else st.integers(1, 7)) for _ in range(rank))
    shape = (draw(st.integers(1, 2)), *spatial, draw(st.integers(1, 3)))
    dtype = draw(DTYPES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if dtype == "float32":
        x = tensor(rng.normal(size=shape).astype(np.float32))
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        data = np.where(
            rng.random(shape) < 0.3,
            rng.choice([low, high], shape),
            rng.integers(low, high + 1, shape),
        )
        x = tensor(data.astype(dtype), 0.1, 3)
    return x, x.type.with_shape((shape[0], *out, shape[-1]))


def onnx_resize(x, y, coordinates, scales=None, **attributes):
    sizes = np.array([y.shape[0], y.shape[-1], *y.shape[1:-1]], np.int64)
    if scales is not None:
        scales, sizes = np.array([1, 1, *scales], np.float32), None
    result = run_onnx(
        "Resize",
        [channels_first(x.data), None, scales, sizes][: 4 if scales is None else 3],
        coordinate_transformation_mode=coordinates,
        **attributes,
    )
    return channels_last(result)


@checked
@given(
    st.integers(1, 3).flatmap(images),
    st.sampled_from(sorted(COORDINATES)),
    st.sampled_from(sorted(NEAREST)),
)
def test_nearest_is_onnxruntime(image, coordinates, nearest):
    pytest.importorskip("onnxruntime")
    x, y = image
    actual = run(Resize, y, x, mode="nearest", coordinates=coordinates, nearest=nearest)
    expected = onnx_resize(x, y, coordinates, mode="nearest", nearest_mode=nearest)
    np.testing.assert_array_equal(actual, expected)


@checked
@given(st.sampled_from([2, 2, 3]).flatmap(images), st.sampled_from(sorted(COORDINATES)))
def test_linear_in_float_is_onnxruntime(image, coordinates):
    pytest.importorskip("onnxruntime")
    x, y = image
    actual = run(Resize, y, x, mode="linear", coordinates=coordinates, numerics="ort")
    expected = onnx_resize(x, y, coordinates, mode="linear")
    np.testing.assert_array_equal(actual, expected)


@checked
@given(
    images(2),
    st.sampled_from(sorted(COORDINATES)),
    st.sampled_from(["nearest", "linear"]),
    st.tuples(st.floats(0.3, 3.2), st.floats(0.3, 3.2)),
)
def test_given_scales_are_onnxruntime(image, coordinates, mode, scales):
    pytest.importorskip("onnxruntime")
    x, y = image
    scales = tuple(float(np.float32(scale)) for scale in scales)
    out = [
        math.floor(np.float32(n) * np.float32(s))
        for n, s in zip(x.data.shape[1:3], scales, strict=True)
    ]
    assume(min(out) >= 1)
    y = y.with_shape((y.shape[0], *out, y.shape[-1]))
    expected = onnx_resize(x, y, coordinates, scales, mode=mode)
    actual = run(Resize, y, x, mode=mode, coordinates=coordinates, scales=scales, numerics="ort")
    np.testing.assert_array_equal(actual, expected)


@checked
@given(images(2), st.sampled_from(sorted(COORDINATES)))
def test_linear_in_fixed_point(image, coordinates):
    x, y = image
    assume(not x.is_float)
    actual = run(Resize, y, x, mode="linear", coordinates=coordinates)
    axes = []
    positions = Resize(
        inputs=("x",), outputs=("y",), mode="linear", coordinates=coordinates
    ).positions(x.data.shape[1:-1], y.shape[1:-1])
    for at, size in positions:
        axes.append([])
        for position in at:
            position = min(max(Fraction(float(position)), 0), size - 1)
            low = math.floor(position)
            weight = Fraction(1, 2) if low == size - 1 else position - low
            axes[-1].append(
                (low, min(low + 1, size - 1), math.floor(weight * 2**11 + Fraction(1, 2)))
            )
    for (i, (top, bottom, v)), (j, (left, right, h)) in itertools.product(*map(enumerate, axes)):
        total = (
            x.data[:, top, left].astype(object) * (2048 - v) * (2048 - h)
            + x.data[:, top, right].astype(object) * (2048 - v) * h
            + x.data[:, bottom, left].astype(object) * v * (2048 - h)
            + x.data[:, bottom, right].astype(object) * v * h
        )
        assert np.all(np.abs(total) + 2**21 < 2**31)
        np.testing.assert_array_equal(actual[:, i, j], (total + 2**21) // 2**22)


@checked
@given(st.sampled_from([1, 2, 3]).flatmap(images), st.sampled_from(["half_pixel", "align_corners"]))
def test_linear_is_torch(image, coordinates):
    """Within float32 for floats, within one code for codes."""
    torch = pytest.importorskip("torch")
    x, y = image
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(channels_first(x.data).astype(np.float64)),
        size=y.shape[1:-1],
        mode={1: "linear", 2: "bilinear", 3: "trilinear"}[y.rank - 2],
        align_corners=coordinates == "align_corners",
    )
    actual = run(Resize, y, x, mode="linear", coordinates=coordinates)
    tolerance = 1e-4 if x.is_float else 0.75
    np.testing.assert_allclose(actual, channels_last(expected.numpy()), rtol=0, atol=tolerance)


def test_doubling_nearest_is_torch():
    torch = pytest.importorskip("torch")
    x = tensor(np.arange(30, dtype=np.uint8).reshape(1, 3, 5, 2), 0.1)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(channels_first(x.data).astype(np.float32)), scale_factor=2
    )
    y = x.type.with_shape((1, 6, 10, 2))
    actual = run(Resize, y, x, mode="nearest", coordinates="asymmetric", nearest="floor")
    np.testing.assert_array_equal(actual, channels_last(expected.numpy()).astype(np.uint8))


def test_fixed_point_ties_go_up():
    x = tensor(np.array([-1, 0, -2, -1, 0, 1], np.int8).reshape(3, 2, 1), 0.1)
    actual = run(
        Resize, x.type.with_shape((3, 1, 1)), x, mode="linear"
    )  # half way: -0.5, -1.5, 0.5
    np.testing.assert_array_equal(actual, np.array([0, -1, 1], np.int8).reshape(3, 1, 1))


IMAGE = type_of("int8", ("N", 4, 5, 3), 0.1, 7)


def test_resize_keeps_a_symbolic_batch():
    y = IMAGE.with_shape(("N", 8, 3, 3))
    assert rule(Resize, y, IMAGE, mode="nearest", scales=(2.0, 0.6)) == y


def test_a_tiny_scale_stays_inside():
    x = tensor(np.arange(4, dtype=np.int8).reshape(1, 4, 1), 0.1)
    for mode in ("nearest", "linear"):
        y = x.type.with_shape((1, 3, 1))
        actual = run(Resize, y, x, mode=mode, coordinates="asymmetric", scales=(1e-38,))
        np.testing.assert_array_equal(actual.ravel(), [0, 3, 3])


@pytest.mark.parametrize(
    ("error", "shape", "x", "fields"),
    [
        (ShapeError, ("M", 8, 8, 3), IMAGE, {}),
        (ShapeError, ("N", 8, 8, 4), IMAGE, {}),
        (ShapeError, ("N", 8, 3), IMAGE, {}),
        (ShapeError, ("N", 0, 8, 3), IMAGE, {}),
        (ShapeError, ("N", "H", 8, 3), IMAGE, {}),
        (ShapeError, ("N", 8, 8, 3), IMAGE.with_shape(("N", 0, 5, 3)), {}),
        (ShapeError, ("N", 3), IMAGE.with_shape(("N", 3)), {}),
        (ShapeError, ("N", 8, 8, 3), IMAGE, {"scales": (2.0,)}),
        (ShapeError, ("N", 8, 8, 3), IMAGE, {"scales": (2.0, 0.0)}),
        (ShapeError, ("N", 8, 8, 3), IMAGE, {"scales": (2.0, -1.0)}),
        (ShapeError, ("N", 8, 8, 3), IMAGE, {"scales": (2.0, 1e-50)}),
        (ShapeError, ("N", 8, 8, 3), IMAGE, {"scales": (2.0, 1e50)}),
        (ModelError, ("N", 8, 8, 3), IMAGE, {"mode": "cubic"}),
        (ModelError, ("N", 8, 8, 3), IMAGE, {"coordinates": "tf_crop_and_resize"}),
        (ModelError, ("N", 8, 8, 3), IMAGE, {"nearest": "round"}),
        (ModelError, ("N", 8, 8, 3), IMAGE, {"numerics": "exact"}),
        (QuantizationError, (1, 8, 8, 3), type_of("int32", (1, 4, 5, 3), 0.1), {}),
    ],
)
def test_resize_refuses(error, shape, x, fields):
    with pytest.raises(error):
        rule(Resize, IMAGE.with_shape(shape), x, **({"mode": "linear"} | fields))
