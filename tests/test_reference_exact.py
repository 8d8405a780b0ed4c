"""The products of the reference against their definition: plain loops over Python's integers, of any size.

The reference goes through float32 matrix products and requantizes in float64, in blocks; these tests show that none of
it can be seen in a result.
"""

import itertools
import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from nprt import rounding
from nprt.ops import blocks, conv, depthwise_conv, linear
from nprt.ops.add import Add
from nprt.ops.conv import Conv
from nprt.ops.conv_transpose import ConvTranspose
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.linear import Linear
from nprt.ops.matmul import Matmul
from nprt.ops.products import exact_terms, integer_matmul
from tests.op_runner import run, tensor, type_of

SETTINGS = settings(max_examples=25, deadline=None)
FORMS = ("codes", "int32", "run time", "float")


# --- the definition -----------------------------------------------------------------------------------


def requantized(total, real, zero_point, low, high):
    """eq. (7) in Python's integers, then the clamp. `real` is a float64."""
    fraction, exponent = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, exponent = 2**30, exponent + 1
    if exponent < -31:
        multiplier, exponent = 0, -31
    shift = 31 - exponent
    code = ((total * multiplier + (1 << (shift - 1))) >> shift) + zero_point
    return min(max(code, low), high)


class Problem:
    """Operands of a product in one of its forms, and what the definition makes of its sums."""

    def __init__(self, draw, form, x_shape, w_shape, axis, channels, bias=True):
        self.form = form
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.x_dtype, w_dtype, self.y_dtype = (
            draw(st.sampled_from(["int8", "uint8"])) for _ in range(3)
        )
        if axis is not None:
            w_dtype = "int8"
        info = np.iinfo(self.x_dtype)
        extreme = draw(st.booleans())
        x = codes(rng, self.x_dtype, x_shape, extreme)
        w = codes(rng, w_dtype, w_shape, extreme)
        zero = int(rng.choice([info.min, info.max, rng.integers(info.min, info.max + 1)]))
        self.bias = (
            rng.integers(-(2**20), 2**20, channels) if bias and draw(st.booleans()) else None
        )
        self.extra = []
        self.x_zero = self.w_zero = 0
        if form == "float":
            self.x, self.w = (np.float32(a) / 64 for a in (x, w))
            self.operands = [tensor(self.x), tensor(self.w)]
            self.y = type_of("float32")
        elif form == "codes":
            w_scale = rng.uniform(1e-6, 1e-2, channels if axis is not None else None)
            if axis is not None and draw(st.booleans()):
                w_scale[rng.integers(channels)] = 1e-12  # too fine a multiplier for float64
            scales = [float(rng.uniform(0.01, 0.05)) for _ in range(2)]
            w_zero = 0 if axis is not None else codes(rng, w_dtype, (), False)
            self.operands = [
                tensor(x, scales[0], zero),
                tensor(w, w_scale, w_zero, axis),
            ]
            self.y = type_of(
                self.y_dtype, scale=scales[1], zero_point=codes(rng, self.y_dtype, (), False)
            )
            self.x, self.w = x.astype(object) - zero, w.astype(object) - int(w_zero)
        else:
            self.operands = [tensor(x), tensor(w)]
            if form == "run time":
                self.extra = [tensor(np.array(zero, self.x_dtype))]
            else:
                zero = 0
            self.y = type_of("int32")
            self.x, self.w = x.astype(object) - zero, w.astype(object)
        if self.bias is not None:
            dtype = np.float32 if form == "float" else np.int32
            self.bias_operand = [tensor(self.bias.astype(dtype))]
        else:
            self.bias_operand = [None]

    def check(self, cls, sums, with_bias=True, **fields):
        """`sums`: object array of exact sums, channels last."""
        arguments = [*self.operands, *(self.bias_operand if with_bias else []), *self.extra]
        result = run(cls, self.y, *arguments, **fields)
        if self.bias is not None:
            sums = sums + self.bias.astype(object)
        if self.form == "float":
            np.testing.assert_allclose(result, sums.astype(np.float64), rtol=1e-5, atol=1e-3)
            return
        if self.form == "codes":
            sums = self.codes_of(sums, fields.get("clamp"))
        np.testing.assert_array_equal(result, sums.astype(np.int64))

    def codes_of(self, sums, clamp):
        x, w = (operand.type for operand in self.operands)
        low, high = clamp or self.y.code_range
        w_scale = np.broadcast_to(np.float64(w.scale), sums.shape[-1])
        real = np.float64(x.scale) * w_scale / np.float64(self.y.scale)
        out = np.empty(sums.shape, object)
        for at in np.ndindex(sums.shape):
            out[at] = requantized(
                int(sums[at]), float(real[at[-1]]), int(self.y.zero_point), low, high
            )
        return out


def codes(rng, dtype, shape, extreme):
    info = np.iinfo(dtype)
    if extreme:
        return rng.choice(np.array([info.min, info.max], dtype), shape)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def slow_conv(x, w, stride, dilation, padding, groups):
    """Every index written out. x (batch, *spatial, channels), w (out_channels, *kernel, channels / groups)."""
    batch, *size, _ = x.shape
    out_channels, *kernel, group_channels = w.shape
    out = [
        (n + b + a - d * (k - 1) - 1) // s + 1
        for n, k, s, d, (b, a) in zip(size, kernel, stride, dilation, padding, strict=True)
    ]
    y = np.zeros((batch, *out, out_channels), object)
    for n, o in itertools.product(range(batch), range(out_channels)):
        first = o * groups // out_channels * group_channels
        for p in np.ndindex(*out):
            for t in np.ndindex(*kernel):
                at = [
                    i * s + j * d - b
                    for i, j, s, d, (b, _) in zip(p, t, stride, dilation, padding, strict=True)
                ]
                if all(0 <= i < n for i, n in zip(at, size, strict=True)):
                    for c in range(group_channels):
                        y[(n, *p, o)] += x[(n, *at, first + c)] * w[(o, *t, c)]
    return y


# --- the ops ------------------------------------------------------------------------------------------


@st.composite
def geometry(draw, rank):
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    dilation = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    stride = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    padding = [draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in range(rank)]
    size = [
        max(1, d * (k - 1) + 1 - sum(p)) + draw(st.integers(0, 3))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    return size, kernel, tuple(stride), tuple(dilation), tuple(padding)


@pytest.fixture(autouse=True, params=["one block", "many blocks"])
def cut(request, monkeypatch):
    """Small problems are cut into pieces as large ones are."""
    if request.param == "many blocks":
        monkeypatch.setattr(conv, "UNROLLED_ELEMENTS", 40)
        monkeypatch.setattr(depthwise_conv, "PIECE_ELEMENTS", 10)
        monkeypatch.setattr(linear, "ROWS", 2)
        monkeypatch.setattr(rounding.RequantizeInteger, "BLOCK", 7)


@pytest.mark.parametrize("form", FORMS)
@SETTINGS
@given(data=st.data())
def test_conv(form, data):
    rank = data.draw(st.integers(1, 3))
    size, kernel, stride, dilation, padding = data.draw(geometry(rank))
    groups, inputs, outputs = (data.draw(st.integers(1, 3)) for _ in range(3))
    batch = data.draw(st.integers(0, 2))
    problem = Problem(
        data.draw,
        form,
        (batch, *size, groups * inputs),
        (groups * outputs, *kernel, inputs),
        data.draw(st.sampled_from([None, 0])),
        groups * outputs,
    )
    sums = slow_conv(problem.x, problem.w, stride, dilation, padding, groups)
    clamp = (3, 99) if form == "codes" and data.draw(st.booleans()) else None
    problem.check(
        Conv,
        sums,
        stride=stride,
        dilation=dilation,
        padding=padding,
        groups=groups,
        clamp=clamp,
    )


@pytest.mark.parametrize("form", FORMS)
@SETTINGS
@given(data=st.data())
def test_depthwise_conv(form, data):
    rank = data.draw(st.integers(1, 3))
    size, kernel, stride, dilation, padding = data.draw(geometry(rank))
    channels, m, batch = (data.draw(st.integers(low, 3)) for low in (1, 1, 0))
    problem = Problem(
        data.draw,
        form,
        (batch, *size, channels),
        (*kernel, channels * m),
        data.draw(st.sampled_from([None, rank])),
        channels * m,
    )
    w = np.moveaxis(problem.w, -1, 0)[..., np.newaxis]
    sums = slow_conv(problem.x, w, stride, dilation, padding, channels)
    problem.check(DepthwiseConv, sums, stride=stride, dilation=dilation, padding=padding)


@pytest.mark.parametrize("form", ["codes", "int32", "float"])
@SETTINGS
@given(data=st.data())
def test_conv_transpose(form, data):
    rank = data.draw(st.integers(1, 2))
    size = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    stride, dilation = (tuple(data.draw(st.integers(1, 2)) for _ in range(rank)) for _ in range(2))
    extra = tuple(data.draw(st.integers(0, s - 1)) for s in stride)
    full = [
        (n - 1) * s + d * (k - 1) + 1
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    ]
    padding = tuple(
        (data.draw(st.integers(0, (n - 1) // 2)), data.draw(st.integers(0, (n - 1) // 2)))
        for n in full
    )
    groups, inputs, outputs = (data.draw(st.integers(1, 2)) for _ in range(3))
    batch = data.draw(st.integers(0, 2))
    problem = Problem(
        data.draw,
        form,
        (batch, *size, groups * inputs),
        (groups * outputs, *kernel, inputs),
        data.draw(st.sampled_from([None, 0])),
        groups * outputs,
    )
    out = [n - b - a + e for n, (b, a), e in zip(full, padding, extra, strict=True)]
    sums = np.zeros((batch, *out, groups * outputs), object)
    for n, o in itertools.product(range(batch), range(groups * outputs)):
        first = o // outputs * inputs
        for p, t in itertools.product(np.ndindex(*size), np.ndindex(*kernel)):
            at = [
                i * s + j * d - b
                for i, j, s, d, (b, _) in zip(p, t, stride, dilation, padding, strict=True)
            ]
            if all(0 <= i < n for i, n in zip(at, out, strict=True)):
                for c in range(inputs):
                    sums[(n, *at, o)] += problem.x[(n, *p, first + c)] * problem.w[(o, *t, c)]
    problem.check(
        ConvTranspose,
        sums,
        stride=stride,
        dilation=dilation,
        padding=padding,
        output_padding=extra,
        groups=groups,
    )


@pytest.mark.parametrize("form", FORMS)
@SETTINGS
@given(data=st.data())
def test_linear(form, data):
    """Also with sums longer than float32 can hold."""
    inputs = data.draw(st.sampled_from([1, 2, 7, 257, 258, 259, 515, 1200]))
    outputs, rows = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 5))
    problem = Problem(
        data.draw,
        form,
        (rows, inputs),
        (outputs, inputs),
        data.draw(st.sampled_from([None, 0])),
        outputs,
    )
    problem.check(Linear, problem.x @ problem.w.T if rows else np.zeros((0, outputs), object))


@pytest.mark.parametrize("form", FORMS)
@SETTINGS
@given(data=st.data())
def test_matmul(form, data):
    m, k, n, batch = (data.draw(st.integers(1, 4)) for _ in range(4))
    k = data.draw(st.sampled_from([k, 300, 700]))
    shapes = ((batch, m, k), (k, n)) if data.draw(st.booleans()) else ((m, k), (batch, k, n))
    problem = Problem(data.draw, form, *shapes, None, n, bias=False)
    sums = np.zeros((batch, m, n), object)
    for i in range(batch):
        x = problem.x[i] if problem.x.ndim == 3 else problem.x
        w = problem.w[i] if problem.w.ndim == 3 else problem.w
        sums[i] = x @ w
    problem.check(Matmul, sums, with_bias=False)


# --- the bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x_zero", "w_zero"), [(-128, -128), (-128, 0), (0, 0), (127, 127)])
def test_the_longest_sum_in_float32_is_exact(x_zero, w_zero):
    """All products at their greatest, and one less: an odd sum just below 2**24."""
    x, w = tensor(np.int8([[0]]), 1, x_zero), tensor(np.int8([[0]]), 1, w_zero)
    terms = exact_terms(x, w)
    x_far = max(127 - x_zero, x_zero + 128)
    w_far = max(127 - w_zero, w_zero + 128)
    assert terms * x_far * w_far <= 2**24 < (terms + 1) * x_far * w_far
    for length in (terms, terms + 1, 3 * terms + 1):
        a, b = np.full((1, length), x_far, np.float32), np.full((length, 1), w_far, np.float32)
        a[0, 0] -= 1
        expected = length * x_far * w_far - w_far
        assert int(integer_matmul(a, b, terms)[0, 0]) == expected


def test_depthwise_with_more_taps_than_float32_holds():
    taps = 700
    x = np.full((1, taps, 1), 127, np.int8)
    w = np.full((taps, 1), 127, np.int8)
    x[0, 0] = 126
    result = run(
        DepthwiseConv,
        type_of("int32"),
        tensor(x, 1, -128),
        tensor(w),
        stride=(1,),
        dilation=(1,),
        padding=((0, 0),),
    )
    assert int(result[0, 0, 0]) == taps * 255 * 127 - 127


def sums_to_requantize(rng, real):
    """Sums around every tie and around the ends of int32."""
    ends = [0, 1, 2**22, 2**24, 2**30, 2**31 - 1]
    values = [s * (v + d) for v in ends for s in (-1, 1) for d in (-2, -1, 0, 1)]
    for code in (-129, -128, -2, -1, 0, 1, 64, 126, 127, 128, 254, 255, 256):
        tie = Fraction(2 * code + 1, 2) / Fraction(real)
        values += [int(tie) + d for d in range(-3, 4)]
    values += [int(v) for v in rng.integers(-(2**31) + 1, 2**31, 50)]
    values += [int(v / real) for v in rng.uniform(-300, 300, 200)]
    return [v for v in values if abs(v) < 2**31]


@pytest.mark.parametrize("seed", range(20))
def test_requantize_equals_the_definition(seed):
    """Multipliers from 2**-40 to 2**3, powers of two among them: ties that are hit exactly."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(["int8", "uint8"][seed % 2])
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    zero_point = int(rng.integers(low, high + 1))
    reals = [2.0**e for e in range(-16, 3)] + [2.0 ** rng.uniform(-40, 3) for _ in range(40)]
    for real in reals:
        w_scale, one = np.float32([real]), np.float32(1)
        sums = sums_to_requantize(rng, float(w_scale[0]))
        bias = int(rng.choice([0, 1, -5, 2**20, -(2**30)]))
        acc = np.array([s - bias for s in sums if abs(s - bias) < 2**31], np.int32)[:, np.newaxis]
        stage = rounding.RequantizeInteger(
            np.array([bias], np.int32),
            (one, w_scale, one, np.int32(zero_point)),
            len(acc),
            1,
            (low, high),
            dtype,
        )
        expected = [
            requantized(int(a) + bias, float(w_scale[0]), zero_point, low, high) for a in acc[:, 0]
        ]
        result = stage(acc)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result[:, 0], expected)


@pytest.mark.parametrize(
    ("x_scale", "w_scale", "acc", "code"),
    [
        ("0x1.fc3798p+3", "0x1.fb5618p-21", -5097251, -77),
        ("0x1.e4e692p+3", "0x1.d1d700p-22", 15287149, 100),
        ("0x1.fb6486p+3", "0x1.fc2924p-22", -10194502, -77),
        ("0x1.ab3510p+3", "0x1.e2e20ap-24", -50967197, -77),
        ("0x1.ae99eep+3", "0x1.d2b170p-24", -52319617, -77),
    ],
)
def test_a_sum_that_float64_would_round_to_a_tie(x_scale, w_scale, acc, code):
    """One or two steps of 2**-shift below a tie, shift 47 to 50: too fine for float64, so eq. (7) itself is used."""
    scales = [np.float32(float.fromhex(scale)) for scale in (x_scale, w_scale)]
    assert requantized(acc, float(scales[0]) * float(scales[1]), 0, -128, 127) == code
    stage = rounding.RequantizeInteger(
        None, (*scales, np.float32(1), np.int32(0)), 1, 1, (-128, 127), np.dtype(np.int8)
    )
    assert stage(np.array([[acc]], np.int32))[0, 0] == code


@pytest.mark.parametrize("numerics", ["integer", "ort", "onnx"])
@pytest.mark.parametrize(("a_dtype", "b_dtype"), [("int8", "int8"), ("uint8", "int8")])
def test_a_large_sum_equals_its_small_parts(numerics, a_dtype, b_dtype):
    """A large elementwise result is looked up in a table of all pairs of codes."""
    rng = np.random.default_rng(0)
    a = tensor(codes(rng, a_dtype, (3, 300, 301), False), 0.02, 3)
    b = tensor(codes(rng, b_dtype, (300, 1), False), 0.05, -7 if b_dtype == "int8" else 7)
    y = type_of("int8", scale=0.04, zero_point=-3)
    large = run(Add, y, a, b, numerics=numerics)
    for i, row in itertools.product(range(3), (0, 17, 299)):
        part = run(
            Add,
            y,
            tensor(a.data[i, row], 0.02, 3),
            tensor(b.data[row], 0.05, -7 if b_dtype == "int8" else 7),
            numerics=numerics,
        )
        np.testing.assert_array_equal(large[i, row], part)


@given(st.integers(0, 1000), st.integers(1, 50))
@SETTINGS
def test_blocks_cover_everything_once(count, most):
    cuts = list(blocks.blocks(count, most))
    assert [i for cut in cuts for i in range(count)[cut]] == list(range(count))
    assert all(0 < cut.stop - cut.start <= most for cut in cuts)
