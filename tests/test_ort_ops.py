"""One operator at a time: every output of nprt has the bits that onnxruntime's default session gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from ort_runner import Builder, assert_same, ort_session

from nprt import Session
from nprt.converters import from_onnx
from nprt.errors import ModelError
from nprt.info import float_ops, summary

examples = settings(deadline=None, derandomize=True, max_examples=50, database=None)

SEEDS = st.integers(0, 2**31)
DTYPES = st.sampled_from([np.uint8, np.int8])


def scale_of(rng):
    """A scale: any, a power of two, or a small odd multiple of one; the latter two make ties."""
    kind = rng.integers(3)
    if kind == 0:
        return np.float32(np.exp(rng.uniform(np.log(1e-4), np.log(2.0))))
    odd = 1 if kind == 1 else 2 * rng.integers(1, 8) + 1
    return np.float32(odd * 2.0 ** -rng.integers(1, 12))


def quant_of(rng, dtype):
    """(scale, zero point), the zero point often at an end of the range."""
    info = np.iinfo(dtype)
    middle = int(rng.integers(info.min, info.max + 1))
    zero = rng.choice([info.min, info.max, middle, middle])
    return scale_of(rng), dtype(zero)


def codes(rng, dtype, shape):
    """Codes, of which many are at the ends."""
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max + 1, shape)
    ends = rng.random(shape)
    x = np.where(ends < 0.1, info.min, np.where(ends > 0.9, info.max, x))
    return x.astype(dtype)


def weight_scales(rng, channels, per_channel):
    if not per_channel:
        return scale_of(rng)
    return np.array([scale_of(rng) for _ in range(channels)], np.float32)


def weight_quant(rng, dtype, channels, per_channel):
    """(scale, zero point); per channel the zero points are equal, as in every real model, or all different."""
    scale = weight_scales(rng, channels, per_channel)
    zero = quant_of(rng, dtype)[1]
    if not per_channel:
        return scale, zero
    if rng.integers(2):
        return scale, np.full(channels, zero, dtype)
    return scale, codes(rng, dtype, channels)


def output_quant(rng, dtype, x_scale, w_scale, terms):
    """A scale for a sum of products that fills the range of codes without drowning in its ends."""
    _, zero = quant_of(rng, dtype)
    spread = np.float32(2.0 ** rng.integers(5, 8) * np.sqrt(terms))
    return np.float32(x_scale * np.max(w_scale) * spread), zero


def bias_of(rng, channels, present):
    return rng.integers(-20000, 20000, channels).astype(np.int32) if present else None


# --- products -------------------------------------------------------------------------------------------


@examples
@given(
    SEEDS,
    DTYPES,
    DTYPES,
    st.booleans(),
    st.booleans(),
    st.sampled_from(["dense", "deep", "groups"]),
    st.data(),
)
def test_qlinear_conv(seed, x_dtype, w_dtype, per_channel, biased, kind, data):
    if x_dtype == np.int8 and w_dtype == np.uint8:
        w_dtype = np.int8  # onnxruntime has no such kernel
    rng = np.random.default_rng(seed)
    rank = data.draw(st.integers(1, 2))
    groups = {"dense": 1, "deep": int(rng.integers(2, 9)), "groups": int(rng.integers(2, 4))}[kind]
    in_group = 1 if kind == "deep" else int(rng.integers(1, 6))
    channels = groups * int(rng.integers(1, 3 if kind == "deep" else 5))
    kernel = rng.integers(1, 4, rank).tolist()
    stride, dilation = rng.integers(1, 3, rank).tolist(), rng.integers(1, 3, rank).tolist()
    pads = rng.integers(0, 3, 2 * rank).tolist()
    size = [int(rng.integers(d * (k - 1) + 1, 9)) for k, d in zip(kernel, dilation, strict=True)]
    x = codes(rng, x_dtype, (int(rng.integers(1, 3)), groups * in_group, *size))
    w = codes(rng, w_dtype, (channels, in_group, *kernel))
    x_quant = quant_of(rng, x_dtype)
    w_quant = weight_quant(rng, w_dtype, channels, per_channel)
    y_quant = output_quant(rng, x_dtype, x_quant[0], w_quant[0], w[0].size)
    b = Builder()
    y = b.node(
        "QLinearConv", b.input(x), *x_quant, w, *w_quant, *y_quant, bias_of(rng, channels, biased),
        kernel_shape=kernel, strides=stride, dilations=dilation, pads=pads, group=groups,
    )  # fmt: skip
    model = assert_same(b, y)
    assert not float_ops(model)


@examples
@given(SEEDS, DTYPES, DTYPES, st.booleans(), st.sampled_from([(), (2,), (2, 3)]), st.booleans())
def test_qlinear_matmul(seed, x_dtype, w_dtype, per_channel, batch, constant):
    if x_dtype == np.int8:
        w_dtype = np.int8
    rng = np.random.default_rng(seed)
    m, k, n = rng.integers(1, 12), int(rng.integers(1, 40)), int(rng.integers(1, 12))
    x = codes(rng, x_dtype, (*batch, m, k))
    w = codes(rng, w_dtype, (k, n) if constant else (*batch, k, n))
    per_channel = per_channel and constant
    x_quant, w_quant = quant_of(rng, x_dtype), weight_quant(rng, w_dtype, n, per_channel)
    y_quant = output_quant(rng, x_dtype, x_quant[0], w_quant[0], k)
    b = Builder()
    y = b.node(
        "QLinearMatMul", b.input(x), *x_quant, w if constant else b.input(w), *w_quant, *y_quant
    )
    assert_same(b, y)


@examples
@given(SEEDS, DTYPES, DTYPES, *[st.booleans()] * 5, st.sampled_from([1.0, 1.0, 0.3, 2.5]))
def test_qgemm(seed, x_dtype, w_dtype, per_channel, biased, trans_a, trans_b, quantized, alpha):
    if x_dtype == np.int8:
        w_dtype = np.int8
    rng = np.random.default_rng(seed)
    m, k, n = int(rng.integers(1, 12)), int(rng.integers(1, 40)), int(rng.integers(1, 12))
    x = codes(rng, x_dtype, (k, m) if trans_a else (m, k))
    w = codes(rng, w_dtype, (n, k) if trans_b else (k, n))
    x_quant, w_quant = quant_of(rng, x_dtype), weight_quant(rng, w_dtype, n, per_channel)
    y_quant = output_quant(rng, x_dtype, x_quant[0], w_quant[0], k) if quantized else ()
    b = Builder()
    y = b.microsoft(
        "QGemm", b.input(x), *x_quant, w, *w_quant, bias_of(rng, n, biased), *y_quant,
        transA=int(trans_a), transB=int(trans_b), alpha=alpha,
    )  # fmt: skip
    assert_same(b, y)


@pytest.mark.parametrize("quantized", [True, False])
def test_qgemm_scales_its_bias_by_alpha(quantized):
    rng = np.random.default_rng(0)
    b = Builder()
    x = b.input(rng.integers(100, 150, (2, 8)).astype(np.uint8))
    x_quant, w_quant = (np.float32(0.05), np.uint8(128)), (np.float32(0.02), np.int8(0))
    y_quant = (np.float32(0.3), np.uint8(128)) if quantized else ()
    w, bias = codes(rng, np.int8, (8, 4)), np.array([2000, -2000, 4000, 100], np.int32)
    y = b.microsoft("QGemm", x, *x_quant, w, *w_quant, bias, *y_quant, alpha=3.0)
    assert_same(b, y)
    proto = b.model(y)
    (expected,) = ort_session(proto).run(None, b.feeds)
    actual = Session(from_onnx(proto, numerics="integer"))(b.feeds[x])
    if quantized:
        assert np.abs(actual.astype(int) - expected).max() <= 1
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


# --- integer and dynamic operators ----------------------------------------------------------------------


def floats(rng, shape):
    x = (rng.standard_normal(shape) * np.exp(rng.uniform(-4, 4))).astype(np.float32)
    kind = rng.integers(4)
    return np.abs(x) if kind == 0 else np.rint(x) if kind == 1 else x


@examples
@given(SEEDS)
def test_dynamic_quantize_linear(seed):
    rng = np.random.default_rng(seed)
    b = Builder()
    x = b.input(floats(rng, rng.integers(1, 30, 2)))
    assert_same(b, *b.node("DynamicQuantizeLinear", x, outputs=3))


@examples
@given(SEEDS, DTYPES, DTYPES, st.booleans(), st.booleans(), st.sampled_from([(), (3,)]))
def test_matmul_integer(seed, x_dtype, w_dtype, constant, per_column, batch):
    if x_dtype == np.int8:
        w_dtype = np.int8
    rng = np.random.default_rng(seed)
    m, k, n = rng.integers(1, 12), int(rng.integers(1, 40)), int(rng.integers(1, 12))
    x = codes(rng, x_dtype, (*batch, m, k))
    w = codes(rng, w_dtype, (k, n) if constant else (*batch, k, n))
    w_zero = codes(rng, w_dtype, (n,) if constant and per_column else ())
    b = Builder()
    y = b.node(
        "MatMulInteger", b.input(x), w if constant else b.input(w), codes(rng, x_dtype, ()), w_zero
    )
    assert_same(b, y)


@examples
@given(SEEDS, DTYPES)
def test_conv_integer(seed, w_dtype):
    rng = np.random.default_rng(seed)
    x = codes(rng, np.uint8, (1, 4, *rng.integers(3, 9, 2)))
    groups = int(rng.choice([1, 2, 4]))
    w = codes(rng, w_dtype, (4, 4 // groups, 3, 3))
    b = Builder()
    y = b.node(
        "ConvInteger", b.input(x), w, codes(rng, np.uint8, ()), codes(rng, w_dtype, ()),
        pads=[1, 0, 1, 1], strides=rng.integers(1, 3, 2).tolist(), group=groups,
    )  # fmt: skip
    assert_same(b, y)


@examples
@given(SEEDS, DTYPES, st.booleans(), st.booleans())
def test_matmul_integer_to_float(seed, w_dtype, per_column, biased):
    rng = np.random.default_rng(seed)
    m, k, n = rng.integers(1, 12), int(rng.integers(1, 40)), int(rng.integers(1, 12))
    x, w = codes(rng, np.uint8, (m, k)), codes(rng, w_dtype, (k, n))
    x_scale, x_zero = quant_of(rng, np.uint8)
    w_scale, w_zero = weight_quant(rng, w_dtype, n, per_column)
    bias = rng.standard_normal(n).astype(np.float32) if biased else None
    b = Builder()
    y = b.microsoft("MatMulIntegerToFloat", b.input(x), w, x_scale, w_scale, x_zero, w_zero, bias)
    assert_same(b, y)


@examples
@given(SEEDS, DTYPES, st.booleans(), st.booleans())
def test_dynamic_quantize_matmul(seed, w_dtype, per_column, biased):
    rng = np.random.default_rng(seed)
    m, k, n = rng.integers(1, 12), int(rng.integers(1, 40)), int(rng.integers(1, 12))
    w_scale, w_zero = weight_quant(rng, w_dtype, n, per_column)
    bias = rng.standard_normal(n).astype(np.float32) if biased else None
    b = Builder()
    y = b.microsoft(
        "DynamicQuantizeMatMul", b.input(floats(rng, (m, k))), codes(rng, w_dtype, (k, n)),
        w_scale, w_zero, bias,
    )  # fmt: skip
    assert_same(b, y)


@examples
@given(SEEDS, DTYPES, st.booleans(), st.integers(1, 2), st.booleans())
def test_dynamic_linear_pattern(seed, w_dtype, biased, readers, swapped):
    """What `quantize_dynamic` writes for MatMul becomes one op where the quantized value has one reader."""
    rng = np.random.default_rng(seed)
    m, k, n = rng.integers(1, 12), int(rng.integers(1, 40)), int(rng.integers(1, 12))
    b = Builder()
    x, x_scale, x_zero = b.node("DynamicQuantizeLinear", b.input(floats(rng, (m, k))), outputs=3)
    outputs = []
    for _ in range(readers):
        w_scale, w_zero = quant_of(rng, w_dtype)
        acc = b.node("MatMulInteger", x, codes(rng, w_dtype, (k, n)), x_zero, w_zero)
        real = b.node("Cast", acc, to=1)
        scale = b.node("Mul", *((w_scale, x_scale) if swapped else (x_scale, w_scale)))
        y = b.node("Mul", *((scale, real) if swapped else (real, scale)))
        if biased:
            y = b.node("Add", y, rng.standard_normal(n).astype(np.float32))
        outputs.append(y)
    model = assert_same(b, *outputs)
    if readers == 1:
        assert [op.name for op in model.ops] == ["dynamic_linear"]


# --- elementwise ----------------------------------------------------------------------------------------

SHAPES = [
    ((3, 4, 5, 6), (3, 4, 5, 6)),
    ((3, 4, 5, 6), (1, 4, 1, 1)),
    ((1, 4, 1, 6), (3, 1, 5, 1)),
    ((7,), (5, 7)),
    ((5, 1), (5, 7)),
    ((5, 7), ()),
    ((), (5, 7)),
    ((1,), (1, 1)),
    ((2, 3, 1), (3, 9)),
]


@examples
@given(
    SEEDS, DTYPES, st.sampled_from(SHAPES), st.sampled_from(["Add", "Mul"]), st.sampled_from("xac")
)
def test_qlinear_binary(seed, dtype, shapes, function, constant):
    """`constant`: which operand is an initializer; x for none."""
    rng = np.random.default_rng(seed)
    b = Builder()
    operands = [codes(rng, dtype, shape) for shape in shapes]
    names = [x if side == constant else b.input(x) for side, x in zip("ac", operands, strict=True)]
    a_quant, c_quant, y_quant = (quant_of(rng, dtype) for _ in range(3))
    if rng.integers(2):
        top = max(a_quant[0], c_quant[0]) if function == "Add" else a_quant[0] * c_quant[0] * 64
        y_quant = (np.float32(top * rng.choice([0.5, 1, 2, 3])), y_quant[1])
    y = b.microsoft(f"QLinear{function}", names[0], *a_quant, names[1], *c_quant, *y_quant)
    assert_same(b, y)


@examples
@given(SEEDS, DTYPES, st.sampled_from(["Add", "Mul"]))
def test_qlinear_binary_of_one_value(seed, dtype, function):
    rng = np.random.default_rng(seed)
    b = Builder()
    x = b.input(np.arange(256).astype(dtype))
    quant, y_quant = quant_of(rng, dtype), quant_of(rng, dtype)
    assert_same(b, b.microsoft(f"QLinear{function}", x, *quant, x, *quant, *y_quant))


@examples
@given(SEEDS, DTYPES, st.integers(1, 4), st.integers(-2, 2))
def test_qlinear_concat(seed, dtype, count, axis):
    rng = np.random.default_rng(seed)
    b = Builder()
    y_quant = quant_of(rng, dtype)
    parts = []
    for _ in range(count):
        shape = [2, 3, 4]
        shape[axis] = int(rng.integers(1, 30))
        parts += [
            b.input(codes(rng, dtype, shape)),
            *(y_quant if rng.integers(3) == 0 else quant_of(rng, dtype)),
        ]
    assert_same(b, b.microsoft("QLinearConcat", *y_quant, *parts, axis=axis))


# --- functions of one code ------------------------------------------------------------------------------


@examples
@given(SEEDS, DTYPES, st.sampled_from(["Sigmoid", "LeakyRelu"]))
def test_qlinear_unary(seed, dtype, function):
    rng = np.random.default_rng(seed)
    b = Builder()
    x = b.input(np.arange(256).astype(dtype))
    attributes = {"alpha": float(rng.choice([0.01, 0.25, 0.1]))} if function == "LeakyRelu" else {}
    y = b.microsoft(
        f"QLinear{function}", x, *quant_of(rng, dtype), *quant_of(rng, dtype), **attributes
    )
    model = assert_same(b, y)
    assert [op.name for op in model.ops] in (["lookup"], ["reshape"])


FUNCTIONS = {
    "Sigmoid": {}, "Tanh": {}, "Exp": {}, "Erf": {}, "HardSigmoid": {"alpha": 0.2}, "HardSwish": {},
    "Elu": {}, "Softplus": {}, "Sqrt": {}, "Log": {}, "Softsign": {}, "Reciprocal": {}, "Celu": {},
    "LeakyRelu": {"alpha": 0.1}, "Relu": {}, "Abs": {}, "Neg": {}, "Floor": {}, "Ceil": {}, "Round": {},
    "Sin": {}, "Cos": {}, "ThresholdedRelu": {}, "Gelu": {"domain": "com.microsoft"},
}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_lookup(function):
    """DequantizeLinear, any function, QuantizeLinear: one table."""
    rng = np.random.default_rng(0)
    for index in range(24):
        dtype = (np.uint8, np.int8)[index % 2]
        b = Builder()
        x = b.dequantize(b.input(np.arange(256).astype(dtype)), quant_of(rng, dtype))
        y = b.quantize(b.node(function, x, **FUNCTIONS[function]), quant_of(rng, dtype))
        model = assert_same(b, y)
        assert [op.name for op in model.ops] in (["lookup"], ["reshape"])


@examples
@given(SEEDS, DTYPES, st.sampled_from([13, 19]))
def test_quantize_dequantize(seed, dtype, opset):
    rng = np.random.default_rng(seed)
    b = Builder(opset)
    quant = quant_of(rng, dtype)
    ties = (rng.integers(-600, 600, 500) / 2).astype(np.float32) * quant[0]
    x = np.concatenate(
        [floats(rng, 500), ties, np.array([0, -0.0, np.inf, -np.inf, 3e38], np.float32)]
    )
    q = b.quantize(b.input(x), quant)
    assert_same(b, q, b.dequantize(q, quant))


@examples
@given(SEEDS, DTYPES, DTYPES)
def test_requantize(seed, first, second):
    """Two pairs with one reader each are merged into one, as onnxruntime does."""
    rng = np.random.default_rng(seed)
    one, two = (
        (scale_of(rng), dtype(np.iinfo(dtype).min + zero))
        for dtype, zero in ((first, rng.integers(1, 255)), (second, rng.integers(1, 255)))
    )
    if rng.integers(2):
        two = (np.float32(one[0] * rng.choice([0.3, 0.9, 1, 1.1, 2])), two[1])
    b = Builder()
    x = (rng.integers(-600, 600, 500) / 2).astype(np.float32) * one[0]
    assert_same(b, b.qdq(b.qdq(b.input(x), one), two))


# --- pooling, softmax -----------------------------------------------------------------------------------


@examples
@given(
    SEEDS,
    DTYPES,
    st.integers(1, 2),
    *[st.booleans()] * 2,
    st.sampled_from(["MaxPool", "QLinearAveragePool"]),
)
def test_pool(seed, dtype, rank, ceil_mode, include, op_type):
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 4, rank).tolist(), rng.integers(1, 4, rank).tolist()
    pads = [int(rng.integers(0, k)) for k in kernel * 2]
    size = [int(rng.integers(k, 10)) for k in kernel]
    b = Builder()
    x = b.input(codes(rng, dtype, (2, 3, *size)))
    attributes = {
        "kernel_shape": kernel,
        "strides": stride,
        "pads": pads,
        "ceil_mode": int(ceil_mode),
    }
    quant = quant_of(rng, dtype)
    if op_type == "MaxPool":
        y = b.quantize(b.node("MaxPool", b.dequantize(x, quant), **attributes), quant)
    else:
        y_quant = (np.float32(quant[0] * rng.choice([0.5, 1, 1, 1.1])), quant_of(rng, dtype)[1])
        y = b.microsoft(op_type, x, *quant, *y_quant, count_include_pad=int(include), **attributes)
    assert_same(b, y)


@examples
@given(SEEDS, DTYPES)
def test_qlinear_global_average_pool(seed, dtype):
    rng = np.random.default_rng(seed)
    b = Builder()
    x = b.input(codes(rng, dtype, (2, 5, *rng.integers(1, 9, 2))))
    quant = quant_of(rng, dtype)
    y_quant = (np.float32(quant[0] * rng.choice([0.5, 1, 1, 1.1])), quant_of(rng, dtype)[1])
    assert_same(b, b.microsoft("QLinearGlobalAveragePool", x, *quant, *y_quant, channels_last=0))


@examples
@given(SEEDS, DTYPES, st.sampled_from([-1, 1]), st.sampled_from([9, 13]))
def test_qlinear_softmax(seed, dtype, axis, opset):
    rng = np.random.default_rng(seed)
    b = Builder()
    x = b.input(codes(rng, dtype, (3, int(rng.integers(1, 12)), int(rng.integers(1, 12)))))
    scale = np.float32(rng.choice([1 / 256, 1 / 255, 1 / 100, 1 / 4]))
    zero = dtype(np.iinfo(dtype).min) if rng.integers(2) else codes(rng, dtype, ())
    quant = (np.float32(min(scale_of(rng), 0.5)), quant_of(rng, dtype)[1])
    assert_same(b, b.microsoft("QLinearSoftmax", x, *quant, scale, zero, axis=axis, opset=opset))


@pytest.mark.parametrize("length", [3, 4, 6, 8, 10, 16, 24, 40])
def test_qlinear_softmax_of_equal_codes(length):
    """1 / length lies on a tie, and which way it goes hangs on the last bit of a float32 sum."""
    for x_scale in (1 / 16, 1 / 10, 0.03):
        for steps in (length // 2, length + length // 2, 100):
            b = Builder()
            quant = (np.float32(x_scale), np.uint8(0), np.float32(1 / steps), np.uint8(0))
            x = b.input(np.full((1, length), 200, np.uint8))
            assert_same(b, b.microsoft("QLinearSoftmax", x, *quant, axis=-1, opset=13))


def test_float_multipliers_are_not_integer_only():
    """Codes throughout are not fixed point throughout: numerics `ort` multiplies by float32."""
    graph = helper.make_graph(
        [helper.make_node("QLinearMatMul", ["x", "s", "z", "w", "s", "z", "s", "z"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["N", 2])],
        [
            numpy_helper.from_array(np.float32(0.3), "s"),
            numpy_helper.from_array(np.uint8(7), "z"),
            numpy_helper.from_array(np.arange(6, dtype=np.uint8).reshape(3, 2), "w"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert not summary(from_onnx(proto))["integer_only"]
    assert summary(from_onnx(proto, numerics="integer"))["integer_only"]
    with pytest.raises(ModelError, match="numerics ort; convert with numerics integer"):
        from_onnx(proto, require_integer=True)


@pytest.mark.parametrize("op_type", ["Reshape", "Transpose", "MaxPool", "Slice"])
def test_codes_whose_scale_only_their_reader_knows(op_type):
    """A graph input in codes, moved before the first DequantizeLinear says what they stand for."""
    rng = np.random.default_rng(0)
    build = Builder()
    x = build.input(rng.integers(0, 256, (2, 3, 6, 6)).astype(np.uint8))
    extra = {
        "Reshape": ([np.array([2, 3, 36, 1])], {}),
        "Transpose": ([], {"perm": [0, 2, 3, 1]}),
        "MaxPool": ([], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        "Slice": ([np.array([1]), np.array([5]), np.array([2])], {}),
    }[op_type]
    moved = build.node(op_type, x, *extra[0], **extra[1])
    assert_same(build, build.dequantize(moved, (np.float32(0.3), np.uint8(7))))
