"""What lstm and gru share: one layer in one direction over a whole sequence, as in PyTorch's dynamic layers.

The functions of a gate follow PyTorch 2.13 on x86-64: the sigmoid to the bit, tanh within 1 ulp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np

from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType, numel
from nprt.ops import rules
from nprt.ops.dynamic import check_product, product, product_bound
from nprt.rounding import fma

# From the gates of the input, the gates of the state, and the states, to the next states, the first of them h.
Step = Callable[..., tuple[Array, ...]]

NUMERICS = ("fbgemm", "onednn", "qnnpack")


@dataclass(frozen=True, kw_only=True)
class RecurrentOp(Op):
    """The fields and rules that lstm and gru share.

    The input product is one `dynamic_linear` over the whole sequence, so that one scale serves all of x, unless each
    row has one; the product with the state is one for each step. With float32 weights both are float32 products.

    Fields:
        per_row: as in `dynamic_linear`.
        reverse: the sequence runs from its end to its beginning; y stays in the order of x.
        numerics: as in `dynamic_linear`, but not `ort`; without effect on float32 weights.
        reduce_range: as in `dynamic_linear`.
    """

    GATES: ClassVar[int]

    reverse: bool = False
    per_row: bool = False
    numerics: str = "fbgemm"
    reduce_range: bool = False

    def check_operands(
        self,
        x: TensorType,
        states: dict[str, TensorType],
        weights: dict[str, TensorType],
        biases: dict[str, TensorType | None],
    ) -> tuple[TensorType, TensorType]:
        """The types of y and of each state."""
        rules.require_numerics(self.numerics, NUMERICS)
        rules.require_rank("x", x, (3,))
        length, batch, _ = x.shape
        rules.require_rank("w_hh", weights["w_hh"], (2,))
        hidden = rules.known("the hidden size", weights["w_hh"].shape[1])
        state = TensorType("float32", (batch, hidden))
        for what, type in states.items():
            if type != state:
                rules.reject(f"{what} {type} is not {state}")
        in_floats = weights["w_ih"].is_float
        for (what, w), bias, source in zip(
            weights.items(), biases.values(), (x, state), strict=True
        ):
            if in_floats:
                rules.require_dtype("x", source, "float32")
                rules.require_dtype(what, w, "float32")
                if bias is not None and (bias.dtype, bias.shape) != ("float32", w.shape[:1]):
                    rules.reject(f"the bias {bias} of {what} is not float32 of shape {w.shape[:1]}")
            else:
                check_product(source, w, bias, self.numerics, self.reduce_range)
            if w.shape != (self.GATES * hidden, source.shape[-1]):
                raise ShapeError(
                    f"{what} {w} does not have shape [{self.GATES * hidden}, {source.shape[-1]}], "
                    f"{self.GATES} gates of {hidden}"
                )
        rules.require_room("the product of x and w_ih", (length, batch, self.GATES * hidden))
        if not in_floats:
            rules.require_room("x as codes", x.shape)
        return TensorType("float32", (length, batch, hidden)), state

    def run(
        self,
        step: Step,
        x: Tensor,
        states: tuple[Tensor, ...],
        weights: tuple[Tensor, Tensor],
        biases: tuple[Tensor | None, Tensor | None],
    ) -> tuple[Array, ...]:
        """y (length, batch, hidden), then the states after the last step."""
        w_ih, w_hh = weights
        b_ih, b_hh = (None if bias is None else bias.data for bias in biases)
        multiply = partial(
            product,
            numerics=self.numerics,
            axis=-1 if self.per_row else None,
            reduce_range=self.reduce_range,
        )
        gates = multiply(x.data, w_ih, b_ih)
        current = tuple(state.data for state in states)
        y = np.empty((*x.data.shape[:2], w_hh.data.shape[1]), np.float32)
        length = len(x.data)
        for t in reversed(range(length)) if self.reverse else range(length):
            current = step(gates[t], multiply(current[0], w_hh, b_hh), *current)
            y[t] = current[0]
        return (y, *current)

    def bound(self, w_ih: Any, w_hh: Any) -> int | None:
        if (w_ih.type if isinstance(w_ih, Tensor) else w_ih).is_float:
            return None
        return max(map(product_bound, (w_ih, w_hh)))

    def products(self, x: TensorType, w_ih: TensorType, w_hh: TensorType) -> int:
        """Multiply-accumulates for batch 1."""
        return numel(x.shape[:-1]) * (numel(w_ih.shape) + numel(w_hh.shape))


# --- the functions of a gate --------------------------------------------------------------------------

# PyTorch computes so many columns of a gate at a time with AVX512; what is left over, one by one.
LANES = 32

# exp on a reduced argument in [-ln 2 / 2, ln 2 / 2], the coefficients of its 7th to 2nd power.
EXP_COEFFICIENTS = (
    1.9852761761285365e-04,
    1.3930435253525415e-03,
    8.333360776305199e-03,
    4.166648536920547e-02,
    1.6666667163372040e-01,
    0.5,
)
LOG2_E = np.float32(1.4426950408889634)
# ln 2 in two parts, so that a multiple of it can be taken off without losing bits.
LN2_HIGH, LN2_LOW = np.float32(0.693145751953125), np.float32(1.428606765330187e-06)

# 2**(r/32) - 1 to the third power of r / 32, divided by that.
EXP2_COEFFICIENTS = tuple(
    map(float.fromhex, ("0x1.c6af84b912394p-5", "0x1.ebfce50fac4f3p-3", "0x1.62e42ff0c52d6p-1"))
)


def sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))` in float32: eq. (45).

    Args:
        x: (..., hidden) float32. The first columns, whole groups of `LANES`, have another exp than the rest.
    """
    body = x.shape[-1] // LANES * LANES
    with np.errstate(all="ignore"):
        e = np.concatenate([_exp_lanes(-x[..., :body]), _exp_scalar(-x[..., body:])], axis=-1)
        return np.float32(1) / (np.float32(1) + e)


def tanh(x: Array) -> Array:
    """In float64, rounded to float32 once."""
    return np.tanh(x.astype(np.float64)).astype(np.float32)


def _exp_lanes(x: Array) -> Array:
    """exp as PyTorch's vector kernels: float32 throughout, within 1 ulp."""
    power = np.rint(x * LOG2_E)
    r = fma(power, -LN2_LOW, fma(power, -LN2_HIGH, x))
    u = np.full_like(x, EXP_COEFFICIENTS[0])
    for coefficient in EXP_COEFFICIENTS[1:]:
        u = fma(u, r, np.float32(coefficient))
    e = np.ldexp(np.float32(1) + fma(r * r, u, r), np.clip(power, -300, 300).astype(np.int32))
    return np.where(x < -104, np.float32(0), np.where(x > 100, np.float32(np.inf), e))


def _exp_scalar(x: Array) -> Array:
    """exp as the C library of Linux: 2**(k/32) from a table, times a polynomial, in float64; rounded once."""
    z = np.clip(x.astype(np.float64), -200, 200) * (32 / math.log(2))
    whole = np.rint(z)
    r, k = z - whole, whole.astype(np.int64)
    cubic, square, linear = EXP2_COEFFICIENTS
    p = (cubic / 32**3 * r + square / 32**2) * (r * r) + (linear / 32 * r + 1)
    table = _exp2_table()
    return np.ldexp(p * table[k % 32], (k // 32).astype(np.int32)).astype(np.float32)


@cache
def _exp2_table() -> Array:
    """2**(k/32) for k = 0 .. 31, correctly rounded to float64."""
    precise = Context(prec=40)
    return np.array([float(precise.power(2, Decimal(k) / 32)) for k in range(32)], np.float64)
