"""Sums, products and quotients of two codes, and slopes.

Each formula takes codes a and b (8-bit, broadcast together) with what they stand for, and returns the codes of y, not
yet clamped.
"""

from __future__ import annotations

import numpy as np

from nprt.rounding.arithmetic import Affine, Array, fma, quantize_multiplier, rescale
from nprt.rounding.floats import dequantize, quantize, quantize_pt2e
from nprt.rounding.norms import quantize_remainder
from nprt.rounding.products import requantize_integer

# Bits of fraction that `add_integer` keeps while it brings its operands to one scale.
ADD_SHIFT = 20


def add_integer(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine, sign: int = 1) -> Array:
    """`a + sign * b` in fixed point, as TFLite's ADD and SUB with single rounding: eq. (11). Returns int64.

    Each difference is below 2**8 and is shifted left by 20; multipliers of at most 1/2 keep the sum below 2**29.
    """
    twice_max = 2.0 * np.float64(max(qa.scale, qb.scale))
    one_scale = [
        rescale((codes.astype(np.int64) - q.zero_point) << ADD_SHIFT, q.scale / twice_max)
        for codes, q in ((a, qa), (b, qb))
    ]
    total = one_scale[0] + sign * one_scale[1]
    return rescale(total, twice_max / (2.0**ADD_SHIFT * np.float64(qy.scale))) + qy.zero_point


def sub_integer(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a - b`: eq. (11), with the second operand negated after it is rescaled. Returns int64."""
    return add_integer(a, b, qa, qb, qy, sign=-1)


def mul_integer(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a * b` in fixed point: eq. (7) on the product of the differences. Returns int64."""
    product = (a.astype(np.int64) - qa.zero_point) * (b.astype(np.int64) - qb.zero_point)
    return requantize_integer(product, qa.scale, qb.scale, qy.scale, qy.zero_point)


def div_integer(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a / b` in fixed point, rounded once, ties up: eq. (12). Returns int64.

    A zero divisor gives the end code of the dividend's sign, and the zero point for 0 / 0. The numerator stays below
    2**40 and the denominator below 2**61.
    """
    numerator = a.astype(np.int64) - qa.zero_point
    denominator = b.astype(np.int64) - qb.zero_point
    multiplier, shift = quantize_multiplier(
        np.float64(qa.scale) / (np.float64(qb.scale) * np.float64(qy.scale))
    )
    numerator = np.where(denominator < 0, -numerator, numerator) * multiplier
    # Past 52 bits of shift the quotient of a numerator below 2**40 is 0 in any case.
    magnitude = np.abs(denominator) << np.minimum(shift, 52)
    quotient = (2 * numerator + magnitude) // np.maximum(2 * magnitude, 1)
    return np.where(denominator == 0, np.sign(numerator) * 512, quotient) + qy.zero_point


def add_ort(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a + b` as onnxruntime's QLinearAdd on x86: eq. (13). Returns float32 holding integers.

    Raw codes go through two fused multiply-adds, everything else is folded into a constant, and the zero point is added
    before rounding. Not symmetric: a is added last.
    """
    a_ratio = np.float32(qa.scale) / np.float32(qy.scale)
    b_ratio = np.float32(qb.scale) / np.float32(qy.scale)
    offset = fma(a_ratio, np.float32(qa.zero_point), b_ratio * np.float32(qb.zero_point))
    constant = np.float32(qy.zero_point) - offset
    return np.rint(fma(a.astype(np.float32), a_ratio, fma(b.astype(np.float32), b_ratio, constant)))


def mul_ort(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a * b` as onnxruntime's QLinearMul on x86: eq. (14). The zero point is added before rounding."""
    product = (a.astype(np.int32) - qa.zero_point) * (b.astype(np.int32) - qb.zero_point)
    multiplier = np.float32(qa.scale) * np.float32(qb.scale) / np.float32(qy.scale)
    return np.rint(product.astype(np.float32) * multiplier + np.float32(qy.zero_point))


def add_onnx(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a + b` in float32 between dequantize and quantize: eq. (15)."""
    return quantize(dequantize(a, *qa) + dequantize(b, *qb), *qy)


def mul_onnx(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a * b` in float32 between dequantize and quantize: eq. (15)."""
    return quantize(dequantize(a, *qa) * dequantize(b, *qb), *qy)


def sub_onnx(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a - b` in float32 between dequantize and quantize: eq. (15)."""
    return quantize(dequantize(a, *qa) - dequantize(b, *qb), *qy)


def div_onnx(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a / b` in float32 between dequantize and quantize: eq. (15)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        real = dequantize(a, *qa) / dequantize(b, *qb)
    return quantize(real, *qy)


def dequantize_fma(codes: Array, scale: Array, zero_point: Array) -> Array:
    """Codes to float32 as PyTorch's vector kernels: `fma(scale, code, -f32(scale * zero_point))`: eq. (35)."""
    offset = np.float32(scale) * np.float32(zero_point)
    return fma(np.float32(scale), codes.astype(np.float32), -offset)


def add_fbgemm(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a + b` as PyTorch's engines fbgemm, x86 and onednn, and qnnpack on int8: eq. (36)."""
    return quantize_pt2e(dequantize_fma(a, *qa) + dequantize_fma(b, *qb), *qy)


def add_fbgemm_scalar(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`add_fbgemm` where PyTorch has no vector loop, as where one operand is channels_last and one not: eq. (48)."""
    return quantize_remainder(dequantize(a, *qa) + dequantize(b, *qb), *qy)


def add_factors_qnnpack(qa: Affine, qb: Affine, qy: Affine) -> tuple[list[np.int64], int]:
    """The factors of a and of b, the greater with 22 bits, and how far their sum is shifted to the right."""
    ratios = [np.float32(q.scale) / np.float32(qy.scale) for q in (qa, qb)]
    _, exponent = np.frexp(max(ratios))
    shift = 21 - (int(exponent) - 1)
    return [np.int64(np.rint(np.float64(ratio) * 2.0**shift)) for ratio in ratios], shift


def add_qnnpack(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a + b` as PyTorch's engine qnnpack on uint8 of one shape: eq. (37). Fixed point, ties away from zero; int64."""
    factors, shift = add_factors_qnnpack(qa, qb, qy)
    total = sum(
        (codes.astype(np.int64) - q.zero_point) * factor
        for codes, q, factor in ((a, qa, factors[0]), (b, qb, factors[1]))
    )
    magnitude = (np.abs(total) + (np.int64(1) << (shift - 1))) >> shift
    return np.sign(total) * magnitude + qy.zero_point


def mul_fbgemm(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a * b` as all of PyTorch's engines: eq. (38)."""
    product = (a.astype(np.int32) - qa.zero_point) * (b.astype(np.int32) - qb.zero_point)
    multiplier = (
        np.float32(qa.scale) * np.float32(qb.scale) * (np.float32(1) / np.float32(qy.scale))
    )
    return np.rint(product.astype(np.float32) * multiplier) + np.float32(qy.zero_point)


def add_pt2e(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a + b` in float32 between PT2E's dequantize and quantize: eq. (34)."""
    return quantize_pt2e(dequantize(a, *qa) + dequantize(b, *qb), *qy)


def sub_pt2e(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a - b` in float32 between PT2E's dequantize and quantize: eq. (34)."""
    return quantize_pt2e(dequantize(a, *qa) - dequantize(b, *qb), *qy)


def mul_pt2e(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a * b` in float32 between PT2E's dequantize and quantize: eq. (34)."""
    return quantize_pt2e(dequantize(a, *qa) * dequantize(b, *qb), *qy)


def div_pt2e(a: Array, b: Array, qa: Affine, qb: Affine, qy: Affine) -> Array:
    """`a / b` in float32 between PT2E's dequantize and quantize: eq. (34)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        real = dequantize(a, *qa) / dequantize(b, *qb)
    return quantize_pt2e(real, *qy)


ADD = {
    "integer": add_integer,
    "ort": add_ort,
    "onnx": add_onnx,
    "fbgemm": add_fbgemm,
    "fbgemm-scalar": add_fbgemm_scalar,
    "qnnpack": add_qnnpack,
    "pt2e": add_pt2e,
}
SUB = {"integer": sub_integer, "onnx": sub_onnx, "pt2e": sub_pt2e}
MUL = {
    "integer": mul_integer,
    "ort": mul_ort,
    "onnx": mul_onnx,
    "fbgemm": mul_fbgemm,
    "pt2e": mul_pt2e,
}
DIV = {"integer": div_integer, "onnx": div_onnx, "pt2e": div_pt2e}


def prelu_one(qs: Affine, code_range: tuple[int, int]) -> int:
    """1 as a code of slopes, above their zero point."""
    one = np.rint(np.float32(1) / np.float32(qs.scale)) + np.float32(qs.zero_point)
    return int(np.clip(one, *code_range)) - int(qs.zero_point)


def prelu_fbgemm(x: Array, slope: Array, qx: Affine, qs: Affine, qy: Affine) -> Array:
    """`x` where positive, else `x * slope`, as PyTorch's quantized prelu: eq. (53). Not yet clamped.

    x is multiplied by 1 as a code of the slopes, which is not 1 where their scale cannot express it.

    Args:
        x: codes.
        slope: codes that broadcast to x's shape.

    Returns:
        float32 holding integers.
    """
    info = np.iinfo(slope.dtype)
    positive = prelu_one(qs, (int(info.min), int(info.max)))
    difference = x.astype(np.int32) - qx.zero_point
    factor = np.where(difference > 0, np.int32(positive), slope.astype(np.int32) - qs.zero_point)
    multiplier = (
        np.float32(qx.scale) * np.float32(qs.scale) * (np.float32(1) / np.float32(qy.scale))
    )
    acc = (difference * factor).astype(np.float32)
    return np.rint(acc * multiplier) + np.float32(qy.zero_point)


def prelu_integer(x: Array, slope: Array, qx: Affine, qs: Affine, qy: Affine) -> Array:
    """`x` where positive, else `x * slope`, in fixed point: eq. (7) of either. Returns int64, not yet clamped."""
    difference = x.astype(np.int64) - qx.zero_point
    product = difference * (slope.astype(np.int64) - qs.zero_point)
    one = np.float32(1)
    return np.where(
        difference > 0,
        requantize_integer(difference, qx.scale, one, qy.scale, qy.zero_point),
        requantize_integer(product, qx.scale, qs.scale, qy.scale, qy.zero_point),
    )


PRELU = {"integer": prelu_integer, "fbgemm": prelu_fbgemm}
