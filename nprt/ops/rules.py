"""Checks that the type rules of several ops share. Each raises the error that names what was found and expected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NoReturn

import numpy as np

from nprt.errors import ModelError, QuantizationError, ShapeError
from nprt.ir import MAX_COMPUTED, Array, Dim, Shape, TensorType, numel
from nprt.rounding import NUMERICS

# A window moves by at most this much, which keeps every offset in bytes within 64 bits.
MAX_STEP = 2**20
# A kernel has at most this many taps: the references loop over them in Python.
MAX_TAPS = 2**20
# The factor between a sum and the codes made of it stays below this, so that fixed point and float32 can express it.
MAX_MULTIPLIER = 2.0**30
# A scale, or product of scales, stays below this, so that no float32 sum on the way overflows.
MAX_SCALE = 2.0**80


def reject(message: str) -> NoReturn:
    raise ModelError(message)


def require_rank(what: str, type: TensorType, ranks: Sequence[int]) -> None:
    if type.rank not in ranks:
        expected = " or ".join(map(str, ranks))
        raise ShapeError(f"{what} {type} has {type.rank} dimensions; expected {expected}")


def require_dtype(what: str, type: TensorType, *dtypes: str) -> None:
    if type.dtype not in dtypes:
        raise ModelError(f"{what} {type} has dtype {type.dtype}; expected {' or '.join(dtypes)}")


def require_codes(what: str, type: TensorType) -> None:
    """An 8-bit tensor with one scale and zero point."""
    if not type.is_codes:
        raise QuantizationError(f"{what} {type} is not an 8-bit quantized tensor")
    if type.quant is not None and type.quant.axis is not None:
        raise QuantizationError(f"{what} {type} is quantized per channel; expected per tensor")


def require_numerics(numerics: str, known: Iterable[str] = NUMERICS) -> None:
    """One of those that the op has a formula for."""
    if numerics not in known:
        raise ModelError(f"numerics {numerics!r} is not one of {', '.join(known)}")


def require_clamp(clamp: tuple[int, int] | None, y: TensorType) -> None:
    """`clamp` is None, or two codes of y in order."""
    if clamp is None:
        return
    if not y.is_codes:
        raise ModelError(f"clamp={clamp} needs a quantized result, not {y}")
    low, high = y.code_range
    if not low <= clamp[0] <= clamp[1] <= high:
        raise ModelError(f"clamp={clamp} is not an ordered pair of {y.dtype} codes [{low}, {high}]")


def require_positive(what: str, values: Sequence[int], count: int) -> None:
    if len(values) != count or any(value < 1 for value in values):
        raise ShapeError(f"{what}={tuple(values)} is not {count} integers of at least 1")


def require_padding(padding: Sequence[Sequence[int]], count: int) -> None:
    if len(padding) != count or any(len(pair) != 2 or min(pair) < 0 for pair in padding):
        raise ShapeError(f"padding={padding} is not {count} pairs (before, after) of at least 0")


def require_steps(what: str, values: Sequence[int], count: int) -> None:
    """A stride or a dilation."""
    require_positive(what, values, count)
    if max(values, default=1) > MAX_STEP:
        raise ShapeError(f"{what}={tuple(values)} is more than {MAX_STEP}")


def require_room(what: str, shape: Shape) -> None:
    """An array of this shape may be made while the model runs. An empty one counts by its other dimensions."""
    elements = numel(tuple(dim or 1 for dim in shape))
    if elements > MAX_COMPUTED:
        raise ShapeError(f"{what} takes {elements} elements, {list(shape)}; at most {MAX_COMPUTED}")


def require_taps(kernel: Sequence[int]) -> None:
    if numel(tuple(kernel)) > MAX_TAPS:
        raise ShapeError(f"a kernel of {tuple(kernel)} has more than {MAX_TAPS} taps")


def require_multiplier(over: Sequence[Array], under: Sequence[Array]) -> None:
    """The product of the scales `over` by that of the scales `under` is a factor that every numerics can express."""
    top, bottom = (
        reduce(np.multiply, (np.asarray(scale, np.float64) for scale in part))
        for part in (over, under)
    )
    largest, factor = float(np.max(top)), float(np.max(top / bottom))
    if largest >= MAX_SCALE or factor >= MAX_MULTIPLIER:
        raise QuantizationError(
            f"the scales of inputs and output are too far apart: {largest:.3g} over the output's gives a factor of "
            f"{factor:.3g}; expected below {MAX_SCALE:.3g} and {MAX_MULTIPLIER:.3g}"
        )


def known(what: str, dim: Dim) -> int:
    """An integer dimension."""
    if isinstance(dim, str):
        raise ShapeError(
            f"{what} is the symbol {dim}; it must be known when the model is converted"
        )
    return dim


def normalized_axis(axis: int, rank: int) -> int:
    if not 0 <= axis < rank:
        raise ShapeError(f"axis {axis} is not in [0, {rank})")
    return axis


def broadcast(a: Shape, b: Shape) -> Shape:
    """NumPy's broadcasting rule, with symbols: a symbol meets itself or 1."""
    length = max(len(a), len(b))
    padded_a = (1,) * (length - len(a)) + a
    padded_b = (1,) * (length - len(b)) + b
    for p, q in zip(padded_a, padded_b, strict=True):
        if p != q and p != 1 and q != 1:
            raise ShapeError(f"shapes {list(a)} and {list(b)} do not broadcast")
    return tuple(q if p == 1 else p for p, q in zip(padded_a, padded_b, strict=True))


def require_per_tensor(what: str, type: TensorType) -> None:
    """Any dtype; if quantized, with one scale and zero point."""
    if type.quant is not None and type.quant.axis is not None:
        raise QuantizationError(f"{what} {type} is quantized per channel; expected per tensor")


def require_weight_axis(w: TensorType, axis: int) -> None:
    """Weights are quantized per tensor or along their output channels, if at all."""
    if w.quant is not None and w.quant.axis not in (None, axis):
        raise ModelError(f"w {w} is quantized along axis {w.quant.axis}; expected {axis}")


def require_real(what: str, type: TensorType) -> None:
    """float32, or 8-bit codes with one scale and zero point."""
    if not type.is_float:
        require_codes(what, type)


def require_alike(what: str, type: TensorType, other_what: str, other: TensorType) -> None:
    """The same dtype and the same quantization."""
    if (type.dtype, type.quant) != (other.dtype, other.quant):
        raise QuantizationError(
            f"{what} {type} and {other_what} {other} differ in dtype or quantization"
        )


def require_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ModelError(f"{what}={value!r} is not one of {', '.join(choices)}")


def broadcast_alike(a: TensorType, b: TensorType) -> TensorType:
    """The type of an elementwise result that keeps the dtype and quantization its two operands have in common."""
    require_per_tensor("a", a)
    require_alike("a", a, "b", b)
    return a.with_shape(broadcast(a.shape, b.shape))
