"""Numerics `integer` against exact rational arithmetic: Python integers and fractions, zero mismatches.

What is checked: the multiplier and shift that stand for a real number, every formula that uses them at the ends of its
range and on ties, and that a model made from a float model has nothing else in it.
"""

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from op_runner import run, tensor, type_of

from nprt import rounding
from nprt.info import float_ops
from nprt.ops.add import Add
from nprt.ops.average_pool import AveragePool
from nprt.ops.div import Div
from nprt.ops.global_average_pool import GlobalAveragePool
from nprt.ops.linear import Linear
from nprt.ops.mul import Mul
from nprt.ops.quantize import Quantize
from nprt.ops.sub import Sub

HALF = Fraction(1, 2)


def ties_up(value):
    return math.floor(value + HALF)


def multiplier_of(real):
    """The fraction m * 2**-shift that stands for a float64 `real`: 31 bits, ties up. 0 below 2**-32."""
    if real == 0:
        return Fraction(0)
    fraction, exponent = math.frexp(real)
    multiplier = ties_up(Fraction(fraction) * 2**31)
    if multiplier == 2**31:
        multiplier, exponent = 2**30, exponent + 1
    if exponent < -31:
        return Fraction(0)
    return Fraction(multiplier) * Fraction(2) ** (exponent - 31)


def rescaled(acc, real):
    return ties_up(acc * multiplier_of(float(real)))


def clipped(value, low, high):
    return max(low, min(high, value))


def int32_values(seed, bound=2**31 - 1):
    """Both ends, every power of two and what lies one and two beside it, and random ones."""
    near = [s * (2**k + d) for k in range(32) for d in (-2, -1, 0, 1, 2) for s in (1, -1)]
    values = [0, bound, -bound, bound - 1, *near]
    values += np.random.default_rng(seed).integers(-bound, bound, 300).tolist()
    return np.array(sorted({v for v in values if abs(v) <= bound}), np.int64)


def reals():
    """Multipliers: powers of two (whose products meet ties), their neighbours, range ends, and random ones."""
    powers = [2.0**k for k in range(-34, 30)]
    beside = [np.nextafter(p, side) for p in powers for side in (0, np.inf)]
    odd = [k * 2.0**-n for k in (3, 5, 7, 11) for n in range(3, 30, 5)]
    # fractions that round up to 2**31
    carried = [(1 - 2.0**-33) * p for p in powers]
    rng = np.random.default_rng(0)
    return [*powers, *beside, *odd, *carried, *np.exp(rng.uniform(-22, 20, 100)).tolist(), 0.0]


def test_quantize_multiplier():
    real = np.array(reals())
    multiplier, shift = rounding.quantize_multiplier(real)
    assert np.all((multiplier == 0) | ((multiplier >= 2**30) & (multiplier < 2**31)))
    assert np.all((shift >= 1) & (shift <= 62))
    for m, s, r in zip(multiplier.tolist(), shift.tolist(), real.tolist(), strict=True):
        assert Fraction(m, 2**s) == multiplier_of(r), r


def test_multiply_by_quantized_multiplier():
    acc = np.append(int32_values(1), [2**31, -(2**31)])
    for real in reals():
        multiplier, shift = rounding.quantize_multiplier(np.float64(real))
        actual = rounding.multiply_by_quantized_multiplier(acc, multiplier, shift)
        exact = Fraction(int(multiplier), 2 ** int(shift))
        assert actual.tolist() == [ties_up(a * exact) for a in acc.tolist()], real


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_requantize(dtype):
    """Sums of any size, through the op itself: with x at its zero point the sum is the bias."""
    info = np.iinfo(dtype)
    sums = int32_values(2)
    rng = np.random.default_rng(3)
    x = tensor(np.full((2, 1), 5, np.int8), 0.5, 5)
    for y_scale, zero in ((0.25, 0), (1.0, info.max), (2.0**-20, info.min), (0.37, 3)):
        w_scale = np.where(
            rng.integers(2, size=sums.size),
            2.0 ** rng.integers(-31, 0, sums.size),
            np.exp(rng.uniform(-20, -1, sums.size)),
        ).astype(np.float32)
        w = tensor(rng.integers(-127, 128, (sums.size, 1)).astype(np.int8), w_scale, 0, 0)
        y = type_of(dtype, (), y_scale, zero)
        actual = run(Linear, y, x, w, tensor(sums.astype(np.int32)), numerics="integer")
        expected = []
        for s, scale in zip(sums.tolist(), w_scale.tolist(), strict=True):
            real = float(np.float64(0.5) * scale / np.float64(np.float32(y_scale)))
            expected.append(clipped(rescaled(s, real) + zero, info.min, info.max))
        np.testing.assert_array_equal(actual, [expected, expected])


# --- two codes --------------------------------------------------------------------------------------------


def exact_add(a, b, qa, qb, qy, sign):
    twice = 2 * max(qa[0], qb[0])
    one, two = (
        rescaled((code - zero) * 2**20, scale / twice) for code, (scale, zero) in ((a, qa), (b, qb))
    )
    return rescaled(one + sign * two, twice / (2.0**20 * qy[0])) + qy[1]


def exact_mul(a, b, qa, qb, qy):
    return rescaled((a - qa[1]) * (b - qb[1]), qa[0] * qb[0] / qy[0]) + qy[1]


def exact_div(a, b, qa, qb, qy):
    numerator, denominator = a - qa[1], b - qb[1]
    if denominator == 0:
        return ((numerator > 0) - (numerator < 0)) * 512 + qy[1]
    quotient = numerator * multiplier_of(qa[0] / (qb[0] * qy[0])) / denominator
    return ties_up(quotient) + qy[1]


BINARY = {
    Add: lambda *args: exact_add(*args, 1),
    Sub: lambda *args: exact_add(*args, -1),
    Mul: exact_mul,
    Div: exact_div,
}
TRIPLES = [
    ((0.5, 0), (0.5, 0), (0.5, 0)),
    ((0.5, 3), (0.25, -7), (1.0, 1)),
    ((1.0, -128), (0.001, 127), (0.9, 5)),
    ((0.0173, 11), (0.0391, -90), (0.0444, -128)),
]


@pytest.mark.parametrize("triple", TRIPLES)
@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.name)
def test_binary(op, triple):
    """Every pair of codes, of which one is every third."""
    triple = [(float(np.float32(scale)), zero) for scale, zero in triple]
    (qa, qb, qy) = triple
    a, b = np.arange(-128, 128, 3, np.int8)[:, None], np.arange(-128, 128).astype(np.int8)
    y = type_of("int8", (), *qy)
    actual = run(op, y, tensor(a, *qa), tensor(b, *qb), numerics="integer")
    exact = BINARY[op]
    expected = [
        [clipped(exact(p, q, qa, qb, qy), -128, 127) for q in b.tolist()] for (p,) in a.tolist()
    ]
    np.testing.assert_array_equal(actual, expected)


# --- means ------------------------------------------------------------------------------------------------


def test_average_of_raw_codes():
    """Ties away from zero."""
    for count in (1, 2, 3, 4, 6, 9, 49, 2**20):
        acc = np.unique(np.clip(int32_values(count), -255 * count, 255 * count))
        actual = rounding.average_integer(acc, np.int64(count))
        for a, code in zip(acc.tolist(), actual.tolist(), strict=True):
            assert code == int(math.copysign(math.floor(Fraction(abs(a), count) + HALF), a))


@pytest.mark.parametrize("y_scale", [0.5, 0.25, 0.31])
@pytest.mark.parametrize("op", [AveragePool, GlobalAveragePool], ids=lambda op: op.name)
def test_pool(op, y_scale):
    rng = np.random.default_rng(4)
    x = rng.integers(-128, 128, (1, 4, 4, 40)).astype(np.int8)
    x[..., :8] = rng.choice([-128, 127], (1, 4, 4, 8))
    y = type_of("int8", (), y_scale, 7)
    size = 2 if op is AveragePool else 4
    fields = {}
    if op is AveragePool:
        fields = {
            "kernel": (2, 2), "stride": (2, 2), "dilation": (1, 1), "padding": ((0, 0), (0, 0)),
        }  # fmt: skip
    actual = run(op, y, tensor(x, 0.5, 7), numerics="integer", **fields)
    for row, column, channel in np.ndindex(*actual.shape[1:]):
        window = x[0, row * size : (row + 1) * size, column * size : (column + 1) * size, channel]
        codes = window.astype(int).reshape(-1).tolist()
        if op is AveragePool and y_scale == 0.5:
            total = sum(codes)
            expected = int(
                math.copysign(math.floor(Fraction(abs(total), len(codes)) + HALF), total)
            )
        else:
            total = sum(code - 7 for code in codes)
            expected = rescaled(total, 0.5 / (float(np.float32(y_scale)) * len(codes))) + 7
        assert actual[0, row, column, channel] == clipped(expected, -128, 127)


# --- softmax, interpolation -------------------------------------------------------------------------------


@pytest.mark.parametrize("x_scale", [1e-4, 0.0625, 0.1, 1.0, 3.3])
def test_exp_table(x_scale):
    """The table is right to the last of its 23 bits."""
    scale = np.float32(x_scale)
    with localcontext() as context:
        context.prec = 60
        exact = [
            int((Decimal(-float(scale) * 1) * d).exp() * 2**23 + Decimal("0.5")) for d in range(256)
        ]
    np.testing.assert_array_equal(rounding.exp_table(scale), exact)


def test_softmax():
    rng = np.random.default_rng(5)
    for length in (1, 2, 3, 8, 10, 256):
        e = rng.integers(0, 2**23 + 1, (50, length)).astype(np.int32)
        e[:, 0] = 2**23
        e[:25] = 2**23  # all alike: 256 / length, a tie where it is odd halves
        actual = rounding.softmax_integer(e, 1)
        for row, codes in zip(e.tolist(), actual.tolist(), strict=True):
            assert codes == [ties_up(Fraction(256 * value, sum(row))) for value in row]


def test_interpolate():
    acc = int32_values(6)
    for axes in (1, 2):
        actual = rounding.interpolate_integer(acc, axes)
        assert actual.tolist() == [ties_up(Fraction(a, 2 ** (11 * axes))) for a in acc.tolist()]


# --- whole models -----------------------------------------------------------------------------------------

MODELS = Path(__file__).resolve().parents[1] / "models"


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.onnx")))
def test_model_is_integer_only(name):
    """Between its first quantize and its last dequantize, an `integer` model has no float op and no other numerics."""
    onnx = pytest.importorskip("onnx")
    from models.data import synthetic_images
    from nprt.converters import from_onnx
    from nprt.converters.quantize import QuantizationConfig

    source = onnx.load(MODELS / f"{name}.onnx")
    value = source.graph.input[0]
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)[1:]
    images = synthetic_images(32, shape, seed=0)
    config = QuantizationConfig(observer="minmax")
    model = from_onnx(source, calibration={value.name: images}, config=config, require_integer=True)
    assert float_ops(model) == []
    inner = [op for op in model.ops if not isinstance(op, Quantize)]
    assert {op.numerics for op in inner if hasattr(op, "numerics")} == {"integer"}
