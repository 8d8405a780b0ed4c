"""Graphs of DequantizeLinear, float operators and QuantizeLinear: the same codes as onnxruntime's default session.

What onnxruntime runs on codes and what in float32 depends on the shape of the graph. In the random ones all scales are
powers of two, so that its float convolutions are exact in any order and many results are ties, and zero points are odd,
so that an op that rounds in the wrong one of the two ways is seen.
"""

import numpy as np
import pytest
from ort_runner import Builder, assert_same

CHANNELS = 4

# Methods of Grower; conv and add come twice as often.
KINDS = [
    "add",
    "add",
    "average_pool",
    "concat",
    "conv",
    "conv",
    "gate",
    "head",
    "lookup",
    "max_pool",
    "move",
    "mul",
]


class Grower:
    """Grows a graph from one image, op by op, on values that are DequantizeLinear results of shape (2, 4, h, w)."""

    def __init__(self, seed, dtype, opset):
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.heads = []
        self.b = Builder(opset)
        x = (self.rng.integers(-300, 300, (2, CHANNELS, 8, 8)) / 16).astype(np.float32)
        name = self.b.input(x)
        self.values = [(self.pair(name, relu=False), (8, 8))]

    def quant(self, relu):
        low = np.iinfo(self.dtype).min
        zero = low if relu else low + int(self.rng.integers(0, 127)) * 2 + 1
        return np.float32(2.0 ** -self.rng.integers(2, 5)), self.dtype(zero)

    def pair(self, name, relu=None):
        """QuantizeLinear, DequantizeLinear."""
        relu = self.rng.integers(3) == 0 if relu is None else relu
        scale, zero = self.quant(relu)
        if self.rng.integers(8) == 0:  # merged with the next pair, whose scale stays
            name = self.b.qdq(name, (2 * scale, zero))
        return self.b.qdq(name, (scale, zero))

    def pick(self):
        """A value: most often the last."""
        at = -1 if self.rng.integers(3) else self.rng.integers(len(self.values))
        return self.values[at]

    def weight(self, shape):
        dtype = self.rng.choice([np.int8, np.uint8]) if self.dtype == np.uint8 else np.int8
        info = np.iinfo(dtype)
        w = self.rng.integers(info.min, info.max + 1, shape).astype(dtype)
        zero = 0 if dtype == np.int8 else 128
        if self.rng.integers(2):
            scale = (2.0 ** -self.rng.integers(8, 10, shape[0])).astype(np.float32)
            return self.b.dequantize(w, (scale, np.full(shape[0], zero, dtype)), axis=0), scale
        scale = np.float32(2.0**-9)
        return self.b.dequantize(w, (scale, dtype(zero))), scale

    def activation(self, name):
        kind = self.rng.integers(4)
        if kind == 0:
            return self.b.node("Relu", name), True
        if kind == 1:
            low, high = np.float32(0), np.float32(self.rng.choice([6, 1000]))
            return self.b.node("Clip", name, low, high), True
        return name, None

    def grow(self):
        result = getattr(self, self.rng.choice(KINDS))(*self.pick())
        if result is not None:
            self.values.append(result)

    def conv(self, x, size):
        depthwise = self.rng.integers(2)
        w, _ = self.weight((CHANNELS, 1 if depthwise else CHANNELS, 3, 3))
        inputs = [x, w]
        y = self.b.node(
            "Conv",
            *inputs,
            pads=[1, 1, 1, 1],
            group=CHANNELS if depthwise else 1,
            kernel_shape=[3, 3],
        )
        y, relu = self.activation(y)
        return self.pair(y, relu if relu and self.rng.integers(2) else None), size

    def add(self, x, size):
        return self.binary("Add", x, size)

    def mul(self, x, size):
        return self.binary("Mul", x, size)

    def binary(self, op_type, x, size):
        same = [name for name, other in self.values if other == size]
        other = same[self.rng.integers(len(same))]
        kind = self.rng.integers(6)
        if kind == 0:
            quant = self.quant(relu=False)
            info = np.iinfo(self.dtype)
            codes = self.rng.integers(info.min, info.max + 1, (CHANNELS, 1, 1)).astype(self.dtype)
            other = self.b.dequantize(codes, quant)
        elif kind == 1:
            other = np.float32(self.rng.choice([0.5, 2, 1.5]))
        y = self.b.node(op_type, *((x, other) if self.rng.integers(2) else (other, x)))
        y, relu = self.activation(y)
        return self.pair(y, relu if relu and self.rng.integers(2) else None), size

    def concat(self, x, size):
        same = [name for name, other in self.values if other == size]
        other = same[self.rng.integers(len(same))]
        y = self.pair(self.b.node("Concat", x, other, axis=1))
        starts, ends = np.array([2]), np.array([2 + CHANNELS])
        y = self.b.node("Slice", y, starts, ends, np.array([1]))
        return (self.pair(y) if self.rng.integers(2) else y), size

    def max_pool(self, x, size):
        y = self.b.node("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        return (self.pair(y) if self.rng.integers(2) else y), size

    def average_pool(self, x, size):
        y = self.b.node("AveragePool", x, kernel_shape=[2, 2], pads=[0, 0, 1, 1])
        return self.pair(y), size

    def lookup(self, x, size):
        op_type = self.rng.choice(["Sigmoid", "LeakyRelu", "Relu", "Tanh", "HardSwish"])
        return self.pair(self.b.node(op_type, x)), size

    def gate(self, x, size):
        """Squeeze and excite."""
        y = self.pair(self.b.node("GlobalAveragePool", x))
        y = self.pair(self.b.node("Sigmoid", y))
        return self.pair(self.b.node("Mul", x, y)), size

    def move(self, x, size):
        y = self.b.node("Transpose", x, perm=[0, 2, 3, 1])
        if self.rng.integers(2):
            y = self.pair(y)
        y = self.b.node("Reshape", y, np.array([0, -1, CHANNELS]))
        if self.rng.integers(2):
            y = self.pair(y)
        y = self.b.node("Transpose", y, perm=[0, 2, 1])
        y = self.b.node("Reshape", y, np.array([0, CHANNELS, *size]))
        return (self.pair(y) if self.rng.integers(2) else y), size

    def head(self, x, size):
        """Flatten, Gemm and what may follow."""
        y = self.pair(self.b.node("Flatten", x))
        features = CHANNELS * size[0] * size[1]
        w, _ = self.weight((8, features))
        y = self.b.node("Gemm", y, w, transB=1)
        if self.rng.integers(3):
            y = self.pair(y)
            if self.rng.integers(2):
                y = self.pair(self.b.node("Softmax", y, axis=-1))
        self.heads.append(y)

    def outputs(self):
        return [*self.heads, self.values[-1][0]]


def grown(seed, dtype, opset):
    grower = Grower(seed, dtype, opset)
    for _ in range(8):
        grower.grow()
    return grower


@pytest.mark.parametrize("int8", [False, True], ids=["default", "int8-allowed"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("opset", [14, 17])
@pytest.mark.parametrize("seed", range(25))
def test_graph(seed, dtype, opset, int8):
    grower = grown(seed + 1000 * opset, dtype, opset)
    assert_same(grower.b, *grower.outputs(), int8=int8)


# --- products: what becomes of the bias, and of a result that is used in float32 ----------------------------


def product(seed, op_type, *, bias=None, bias_scale=1.0, quantized=True, dtype=np.uint8):
    """One Conv, Gemm or MatMul on codes; `bias`: None, "codes" of bias_scale * x_scale * w_scale, or "float"."""
    rng = np.random.default_rng(seed)
    b = Builder()
    info = np.iinfo(dtype)
    shape = (2, 6, 5, 5) if op_type == "Conv" else (3, 6)
    x_quant = (np.float32(rng.uniform(0.01, 0.1)), dtype(rng.integers(info.min, info.max)))
    x = b.dequantize(b.input(rng.integers(info.min, info.max + 1, shape).astype(dtype)), x_quant)
    w_scale = rng.uniform(0.01, 0.05, 4).astype(np.float32)
    w = rng.integers(-127, 128, {"Conv": (4, 6, 3, 3), "Gemm": (4, 6), "MatMul": (6, 4)}[op_type])
    zero = np.zeros(4, np.int8)
    w = b.dequantize(w.astype(np.int8), (w_scale, zero), axis=1 if op_type == "MatMul" else 0)
    inputs = [x, w]
    if bias == "codes":
        scale = (x_quant[0] * w_scale * np.float32(bias_scale)).astype(np.float32)
        codes = rng.integers(-3000, 3000, 4).astype(np.int32)
        inputs.append(b.dequantize(codes, (scale, np.zeros(4, np.int32)), axis=0))
    elif bias == "float" and op_type != "MatMul":
        inputs.append(rng.standard_normal(4).astype(np.float32))
    y = b.node(op_type, *inputs, **({"transB": 1} if op_type == "Gemm" else {}))
    if bias == "float" and op_type == "MatMul":
        y = b.node("Add", y, rng.standard_normal(4).astype(np.float32))
    if quantized:
        y = b.quantize(y, (np.float32(0.1), dtype(info.min + 100)))
    return b, y


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("bias", [None, "codes", "float"])
@pytest.mark.parametrize("op_type", ["Conv", "Gemm", "MatMul"])
def test_product(op_type, bias, seed):
    if (op_type, bias) == ("MatMul", "codes"):
        pytest.skip("MatMul has no bias input")
    b, y = product(seed, op_type, bias=bias)
    model = assert_same(b, y)
    assert not model.origin.notes


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("op_type", "bias_scale"), [("Conv", 1.005), ("Conv", 0.995), ("Gemm", 1.1), ("Gemm", 0.02)]
)
def test_bias_of_another_scale(op_type, bias_scale, seed):
    """onnxruntime takes the codes of a bias as they are: QLinearConv within 1 % of the right scale, QGemm always."""
    b, y = product(seed, op_type, bias="codes", bias_scale=bias_scale)
    assert_same(b, y)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("op_type", "bias"), [("Gemm", None), ("Gemm", "codes"), ("MatMul", None)])
def test_float_result(op_type, bias, seed):
    """The sum is an integer; it is scaled in float32, with the same bits."""
    b, y = product(seed, op_type, bias=bias, quantized=False)
    assert_same(b, y)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_product_on_three_axes(seed, free):
    """MatMul and Add are one QGemm where the shape is known, and a float Add behind the product where it is not."""
    rng = np.random.default_rng(seed)
    b = Builder()
    x_quant = (np.float32(rng.uniform(0.01, 0.1)), np.uint8(rng.integers(256)))
    array = rng.integers(0, 256, (2, 3, 6)).astype(np.uint8)
    x = b.dequantize(b.input(array, ("N", 3, 6) if free else None), x_quant)
    w = b.dequantize(
        rng.integers(-127, 128, (6, 4)).astype(np.int8), (np.float32(0.02), np.int8(0))
    )
    y = b.node("Add", b.node("MatMul", x, w), rng.standard_normal(4).astype(np.float32))
    assert_same(b, b.quantize(y, (np.float32(0.1), np.uint8(100))))


@pytest.mark.parametrize("seed", range(6))
def test_product_of_two_values(seed):
    rng = np.random.default_rng(seed)
    b = Builder()
    quants = [(np.float32(rng.uniform(0.01, 0.1)), np.uint8(rng.integers(256))) for _ in "ab"]
    shapes = [(2, 3, 5), (2, 5, 4)]
    values = [
        b.dequantize(b.input(rng.integers(0, 256, shape).astype(np.uint8)), quant)
        for shape, quant in zip(shapes, quants, strict=True)
    ]
    y = b.node("MatMul", *values)
    assert_same(b, b.quantize(y, (np.float32(0.3), np.uint8(120))))
    assert_same(b, y)
