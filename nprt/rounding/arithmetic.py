"""Arithmetic that several formulas share: fixed-point multipliers, fused multiply-add, what codes stand for."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


def quantize_multiplier(real: Array) -> tuple[Array, Array]:
    """Write `real` as `multiplier * 2**-shift`: eq. (5).

    Args:
        real: float64, finite, >= 0.

    Returns:
        multiplier int64 in {0} or [2**30, 2**31), and shift int64 in [1, 62]. A `real` below 2**-32 becomes 0,
        as in TFLite's `QuantizeMultiplier`.

    Raises:
        OverflowError: a `real` of 2**30 or more, which no layer with sane scales has.
    """
    fraction, exponent = np.frexp(np.asarray(real, np.float64))  # fraction in [0.5, 1), or 0
    multiplier = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    carried = multiplier == 2**31
    multiplier = np.where(carried, 2**30, multiplier)
    exponent = exponent.astype(np.int64) + carried
    multiplier = np.where(exponent < -31, 0, multiplier)
    exponent = np.maximum(exponent, -31)
    if np.any(exponent > 30):
        raise OverflowError(f"multiplier {np.max(real):g} is not below 2**30")
    return multiplier, 31 - exponent


def multiply_by_quantized_multiplier(acc: Array, multiplier: Array, shift: Array) -> Array:
    """`acc * multiplier * 2**-shift`, rounded once, ties up: eq. (6).

    Args:
        acc: int64, |acc| <= 2**31.
        multiplier: int64 in [0, 2**31).
        shift: int64 in [1, 62].

    Returns:
        int64. The product stays below 2**62 and the rounding term below 2**61, so int64 holds it.
    """
    return (acc * multiplier + (1 << (shift - 1))) >> shift


def fma(a: Array, b: Array, c: Array) -> Array:
    """`a * b + c` of float32 rounded once to float32, as a fused multiply-add instruction does.

    The product is exact in float64. The sum is rounded to float64 towards odd (its error decides the last bit), after
    which rounding to float32 is as if the exact sum had been rounded.
    """
    product = np.float64(a) * np.float64(b)
    addend = np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = total.view(np.int64)
    inexact_even = (error != 0) & (bits & 1 == 0) & np.isfinite(total)
    towards = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(inexact_even, bits + towards, bits).view(np.float64).astype(np.float32)


class Affine(NamedTuple):
    """real = scale * (code - zero_point); scale float32, zero_point int32, both of shape ()."""

    scale: Array
    zero_point: Array


def rescale(acc: Array, real: Array) -> Array:
    return multiply_by_quantized_multiplier(acc, *quantize_multiplier(real))
