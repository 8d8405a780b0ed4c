"""Checks that the type rules of several ops share. Each raises the error that names what was found and expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from nprt.errors import ModelError, QuantizationError, ShapeError
from nprt.ir import Dim, Shape, TensorType
from nprt.rounding import NUMERICS


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


def require_numerics(numerics: str) -> None:
    if numerics not in NUMERICS:
        raise ModelError(f"numerics {numerics!r} is not one of {', '.join(NUMERICS)}")


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
