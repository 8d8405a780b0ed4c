"""What conv, depthwise_conv, conv_transpose, linear and matmul share: exact integer sums and the output stage.

An op of this kind comes in three forms, told apart by its types:

    8-bit codes in, 8-bit codes out     int32 sum + int32 bias, requantized, clamped; with the numerics of
                                        `rounding.FLOAT_BIAS` the bias is float32 and part of the requantization
    8-bit codes in, int32 out           the int32 sum itself; the zero point of x may be known only at run time
    float32 in, float32 out             float32 throughout (a float island)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np

from nprt import rounding
from nprt.errors import AccumulatorError
from nprt.ir import Array, Op, Tensor, TensorType, numel
from nprt.ops import rules
from nprt.ops.blocks import BLOCK_ELEMENTS, blocks, evenly

Product: TypeAlias = Callable[[Array, Array], Array]

# float32 holds every integer up to this magnitude.
EXACT_FLOAT32 = 2**24


def exact_terms(x: Tensor | TensorType, w: Tensor | TensorType, *, run_time: bool = False) -> int:
    """How many products of a difference of x and one of w can be summed in float32, exactly.

    Each partial sum is an integer of at most 2**24, so it is exact in any order, with or without fused multiply-add.
    258 terms at least, 514 if w is int8 with zero point 0.

    Args:
        run_time: the zero points are known only at run time.
    """
    x_max = largest_difference(x, unknown_zero_point=run_time)
    w_max = largest_difference(w, unknown_zero_point=run_time)
    return EXACT_FLOAT32 // (x_max * w_max)


def integer_matmul(a: Array, b: Array, terms: int) -> Array:
    """`a @ b` exactly, through float32 matrix products (BLAS).

    Args:
        a: (..., m, k) float32 holding integers.
        b: (..., k, n) float32 holding integers.
        terms: how many products may be summed in float32; longer sums are cut into chunks that are added in int32.

    Returns:
        (..., m, n) integers: float32 from a single chunk, else int32; the caller's type rule has proven that they fit.
    """
    if a.shape[-1] <= terms:
        return a @ b
    step = evenly(a.shape[-1], terms)
    acc = (a[..., :step] @ b[..., :step, :]).astype(np.int32)
    for k in range(step, a.shape[-1], step):
        acc += (a[..., k : k + step] @ b[..., k : k + step, :]).astype(np.int32)
    return acc


@dataclass(frozen=True, kw_only=True)
class ProductOp(Op):
    """The fields and rules that the ops of this file's kind share.

    Fields:
        clamp: the least and the greatest code of y, for a fused activation; None for the whole dtype.
        numerics: which formula turns sums into codes; see `docs/quantization.md`.
    """

    REQUANTIZE: ClassVar[dict[str, Callable[..., Array]]] = rounding.REQUANTIZE

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
            if self.numerics not in self.REQUANTIZE:
                rules.reject(f"numerics {self.numerics!r} has no {self.name}")
            rules.require_codes("x", x)
            rules.require_codes("y", y)
            if not w.is_codes:
                rules.reject(f"w {w} is not an 8-bit quantized tensor")
            rules.require_multiplier([x.scale, w.scale], [y.scale])
        if bias is not None:
            real = x.is_float or (y.is_codes and self.numerics in rounding.FLOAT_BIAS)
            rules.require_dtype("bias", bias, "float32" if real else "int32")
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

    def multiply(self, y: TensorType, x: Tensor, w: Tensor, run_time: bool) -> Product:
        """The product of two matrices: exact integers for codes, float32 for floats."""
        if y.is_float:
            return np.matmul
        return partial(integer_matmul, terms=exact_terms(x, w, run_time=run_time))

    def output_stage(
        self, y: TensorType, x: Tensor, w: Tensor, bias: Tensor | None
    ) -> Callable[[Array], Array]:
        """The end of every product: bias, requantize, clamp.

        Returns:
            A function from sums (rows, channels), which it may overwrite, to rows of y.
        """
        added = None if bias is None else bias.data
        if y.is_float:
            return lambda acc: acc if added is None else np.add(acc, added, out=acc)
        if y.dtype == "int32":
            return lambda acc: with_bias(acc, added)
        scales = (x.type.scale, w.type.scale, y.scale, y.zero_point)
        clamp = self.clamp or y.code_range
        if self.numerics == "integer":
            rows, channels = numel(y.shape[:-1]), int(y.shape[-1])
            return rounding.RequantizeInteger(added, scales, rows, channels, clamp, y.numpy)
        formula = self.REQUANTIZE[self.numerics]
        if self.numerics in rounding.FLOAT_BIAS:
            return lambda acc: to_codes(formula, with_bias(acc, None), (*scales, added), y, clamp)
        return lambda acc: to_codes(formula, with_bias(acc, added), scales, y, clamp)


def with_bias(acc: Array, bias: Array | None) -> Array:
    """int32 sums of `acc`, integers in float32 or int32, and `bias`."""
    acc = acc.astype(np.int32, copy=False)
    return acc if bias is None else np.add(acc, bias, out=acc)


def to_codes(
    formula: Callable[..., Array],
    acc: Array,
    scales: tuple[Array | None, ...],
    y: TensorType,
    clamp: tuple[int, int],
) -> Array:
    """`formula(acc, *scales)` clamped to codes of y, block by block. `acc` is (rows, channels)."""
    out = np.empty(acc.shape, y.numpy)
    for block in blocks(len(acc), max(1, BLOCK_ELEMENTS // max(1, acc.shape[1]))):
        out[block] = np.clip(formula(acc[block], *scales), *clamp)
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
    if type.quant is None:
        return max(high, -low)
    zero_points = type.quant.zero_points
    return max(high - int(zero_points.min()), int(zero_points.max()) - low)


def sum_bound(
    x: TensorType | Tensor,
    w: TensorType | Tensor,
    bias: TensorType | Tensor | None,
    terms: int,
    channel_axis: int,
    *,
    unknown_zero_point: bool,
) -> int:
    """An upper bound of |sum of terms + bias|, eq. (4).

    From the types where that is below 2**31, as it is for all but the longest sums; else from the weights themselves.
    """
    x_max = largest_difference(x, unknown_zero_point=unknown_zero_point)
    added = np.zeros((), np.int64)
    if bias is not None and bias.is_float:
        pass  # it is added to the finished sum, in float32
    elif isinstance(bias, Tensor):
        added = np.abs(bias.data.astype(np.int64))
    elif bias is not None:
        raise AccumulatorError("an int32 bias must be a constant, so that the sum can be bounded")
    bound = terms * x_max * largest_difference(w) + int(added.max(initial=0))
    if bound < 2**31 or not isinstance(w, Tensor):
        return bound
    others = tuple(i for i in range(w.data.ndim) if i != channel_axis)
    sums = np.abs(w.centered()).sum(axis=others, dtype=np.int64) * x_max
    return int((sums + added).max(initial=0))
