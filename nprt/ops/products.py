"""What conv, depthwise_conv, conv_transpose, linear and matmul share: exact integer sums and the output stage.

An op of this kind comes in three forms, told apart by its types:

    8-bit codes in, 8-bit codes out     int32 sum + int32 bias, requantized, clamped
    8-bit codes in, int32 out           the int32 sum itself; the zero point of x may be known only at run time
    float32 in, float32 out             float32 throughout (a float island)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt import rounding
from nprt.errors import AccumulatorError, ModelError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules

# The sums below run through float32 matrix products (BLAS). A sum of `CHUNK` products of two 8-bit differences is an
# integer of at most CHUNK * 255 * 255 = 16,646,400 < 2**24, so every partial sum, in any order, with or without fused
# multiply-add, is exact in float32. Longer sums are cut into chunks that are added in int32.
CHUNK = 256


def integer_matmul(a: Array, b: Array) -> Array:
    """`a @ b` exactly, as int32.

    Args:
        a: (..., m, k) float32 holding integers in [-255, 255].
        b: (..., k, n) float32 holding integers in [-255, 255].

    Returns:
        (..., m, n) int32; the caller's type rule has proven that the sum fits.
    """
    acc = (a[..., :CHUNK] @ b[..., :CHUNK, :]).astype(np.int32)
    for k in range(CHUNK, a.shape[-1], CHUNK):
        acc += (a[..., k : k + CHUNK] @ b[..., k : k + CHUNK, :]).astype(np.int32)
    return acc


def matmul(a: Array, b: Array, *, integer: bool) -> Array:
    """`a @ b`: exact int32 for codes, float32 for floats."""
    return integer_matmul(a, b) if integer else a @ b


@dataclass(frozen=True, kw_only=True)
class ProductOp(Op):
    """The fields and rules that the ops of this file's kind share.

    Fields:
        clamp: the least and the greatest code of y, for a fused activation; None for the whole dtype.
        numerics: which formula turns sums into codes; see `docs/quantization.md`.
    """

    clamp: tuple[int, int] | None = None
    numerics: str = "integer"

    def check_operands(
        self,
        y: TensorType,
        x: TensorType,
        w: TensorType,
        bias: TensorType | None,
        x_zero_point: TensorType | None,
        channels: Any,
    ) -> None:
        """The part of the type rule that concerns dtypes and quantization."""
        rules.require_numerics(self.numerics)
        rules.require_clamp(self.clamp, y)
        if x.is_float or w.is_float or y.is_float:
            for what, type in (("x", x), ("w", w), ("y", y)):
                rules.require_dtype(what, type, "float32")
        elif y.dtype == "int32":
            rules.require_dtype("x", x, "int8", "uint8")
            rules.require_dtype("w", w, "int8", "uint8")
        else:
            if self.numerics not in rounding.REQUANTIZE:
                rules.reject(f"numerics {self.numerics!r} has no {self.name}")
            rules.require_codes("x", x)
            rules.require_codes("y", y)
            if not w.is_codes:
                rules.reject(f"w {w} is not an 8-bit quantized tensor")
        if bias is not None:
            rules.require_dtype("bias", bias, "float32" if x.is_float else "int32")
            if bias.shape != (channels,):
                rules.reject(f"bias {bias} does not have shape [{channels}]")
        if x_zero_point is not None:
            if (
                y.dtype != "int32"
                or x_zero_point.dtype != x.dtype
                or x_zero_point.shape not in ((), (1,))
            ):
                rules.reject(
                    f"x_zero_point {x_zero_point} needs x's dtype, one element, and int32 y"
                )
            if x.quant is not None:
                rules.reject(f"x_zero_point given, but x {x} has a zero point of its own")

    def finish(self, acc: Array, y: TensorType, x: Tensor, w: Tensor, bias: Tensor | None) -> Array:
        """The output stage: bias, requantize, clamp. `acc` has the channels last."""
        if bias is not None:
            acc += bias.data
        if y.is_float or y.dtype == "int32":
            return acc
        return to_codes(
            rounding.REQUANTIZE[self.numerics],
            acc,
            (x.type.scale, w.type.scale, y.scale, y.zero_point),
            y,
            self.clamp,
        )


# Requantization makes several passes over its array; blocks of this many bytes keep them in the cache.
BLOCK_ELEMENTS = 1 << 15


def to_codes(
    formula: Any,
    acc: Array,
    scales: tuple[Array, ...],
    y: TensorType,
    clamp: tuple[int, int] | None,
) -> Array:
    """`formula(acc, *scales)` clamped to y's codes, block by block along the leading axes."""
    low, high = clamp or y.code_range
    out = np.empty(acc.shape, y.numpy)
    channels = acc.shape[-1] if acc.ndim else 1
    rows = acc.reshape(-1, channels)
    out_rows = out.reshape(-1, channels)
    step = max(1, BLOCK_ELEMENTS // max(channels, 1))
    for start in range(0, len(rows), step):
        codes = formula(rows[start : start + step], *scales)
        out_rows[start : start + step] = np.clip(codes, low, high)
    return out


def largest_difference(
    tensor: Tensor | TensorType | None, *, unknown_zero_point: bool = False
) -> int:
    """The largest |code - zero_point| of an operand."""
    type = tensor.type if isinstance(tensor, Tensor) else tensor
    if type is None:
        return 0
    low, high = type.code_range
    if unknown_zero_point:
        return high - low
    zero_points = type.quant.zero_point if type.quant else (0,)
    return max(max(high - zero, zero - low) for zero in zero_points)


def sum_bound(
    x: TensorType | Tensor,
    w: TensorType | Tensor,
    bias: TensorType | Tensor | None,
    terms: int,
    channel_axis: int,
    *,
    unknown_zero_point: bool,
) -> int:
    """Largest |sum of terms + bias|, eq. (4): from the weights themselves where they are constant."""
    x_max = largest_difference(x, unknown_zero_point=unknown_zero_point)
    if isinstance(w, Tensor):
        others = tuple(i for i in range(w.data.ndim) if i != channel_axis)
        sums = np.abs(w.centered().astype(np.int64)).sum(axis=others) * x_max
    else:
        sums = np.array(terms * x_max * largest_difference(w), np.int64)
    if isinstance(bias, Tensor):
        sums = sums + np.abs(bias.data.astype(np.int64))
    elif bias is not None:
        raise AccumulatorError("an int32 bias must be a constant, so that the sum can be bounded")
    return int(sums.max(initial=0))


__all__ = [
    "ModelError",
    "ProductOp",
    "integer_matmul",
    "largest_difference",
    "matmul",
    "sum_bound",
    "to_codes",
]
