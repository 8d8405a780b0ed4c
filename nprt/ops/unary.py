"""unary: a function of each float32 element."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


def erf(x: Array) -> Array:
    """The error function, to within 2e-15: a Taylor polynomial around the nearest multiple of 1/16.

    Args:
        x: float64.
    """
    center = np.rint(np.clip(np.nan_to_num(x), -6, 6) * 16) / 16
    h = np.clip(x, -6, 6) - center  # |erf(6)| is 1 in float64; NaN stays
    # Taylor coefficients of the derivative g(x) = 2 / sqrt(pi) * exp(-x**2): (k + 1) g[k + 1] = -2 x g[k] - 2 g[k - 1]
    before, coefficient = np.zeros_like(center), 2 / math.sqrt(math.pi) * np.exp(-(center**2))
    total, power = _erf_at_sixteenths()[(center * 16).astype(np.int64) + 96], h
    for k in range(12):
        total = total + coefficient * power / (k + 1)
        before, coefficient = coefficient, -2 * (center * coefficient + before) / (k + 1)
        power = power * h
    return total


@cache
def _erf_at_sixteenths() -> Array:
    """erf(-6), erf(-6 + 1/16), ..., erf(6)."""
    return np.array([math.erf(i / 16) for i in range(-96, 97)], np.float64)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softplus(x: Array, beta: float) -> Array:
    return np.logaddexp(0, beta * x) / beta


def elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(x))


def threshold(x: Array, bound: float, value: float) -> Array:
    return np.where(x > bound, x, value)


def gelu_tanh(x: Array) -> Array:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@dataclass(frozen=True)
class Function:
    """`formula(x, *parameters)` on float64 x."""

    formula: Callable[..., Array]
    parameters: tuple[str, ...] = ()


FUNCTIONS: dict[str, Function] = {
    "abs": Function(np.abs),
    "acos": Function(np.arccos),
    "acosh": Function(np.arccosh),
    "asin": Function(np.arcsin),
    "asinh": Function(np.arcsinh),
    "atan": Function(np.arctan),
    "atanh": Function(np.arctanh),
    "ceil": Function(np.ceil),
    "celu": Function(lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x / alpha)), ("alpha",)),
    "clip": Function(np.clip, ("min", "max")),
    "cos": Function(np.cos),
    "cosh": Function(np.cosh),
    "elu": Function(elu, ("alpha",)),
    "erf": Function(erf),
    "exp": Function(np.exp),
    "expm1": Function(np.expm1),
    "floor": Function(np.floor),
    "gelu": Function(lambda x: x / 2 * (1 + erf(x / math.sqrt(2)))),
    "gelu_tanh": Function(gelu_tanh),
    "hardshrink": Function(lambda x, bound: np.where(np.abs(x) <= bound, 0, x), ("bound",)),
    "hardsigmoid": Function(
        lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), ("alpha", "beta")
    ),
    "hardswish": Function(lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "leaky_relu": Function(lambda x, alpha: np.where(x >= 0, x, alpha * x), ("alpha",)),
    "log": Function(np.log),
    "log1p": Function(np.log1p),
    "logsigmoid": Function(lambda x: -np.logaddexp(0, -x)),
    "mish": Function(lambda x: x * np.tanh(softplus(x, 1))),
    "nan_to_zero": Function(lambda x: np.where(np.isnan(x), 0, x)),
    "neg": Function(np.negative),
    "pow": Function(np.power, ("exponent",)),
    "quick_gelu": Function(lambda x, alpha: x * sigmoid(alpha * x), ("alpha",)),
    "reciprocal": Function(lambda x: 1 / x),
    "relu": Function(lambda x: np.maximum(x, 0)),
    "round": Function(np.rint),
    "rsqrt": Function(lambda x: 1 / np.sqrt(x)),
    "selu": Function(lambda x, alpha, gamma: gamma * elu(x, alpha), ("alpha", "gamma")),
    "sigmoid": Function(sigmoid),
    "sign": Function(np.sign),
    "silu": Function(lambda x: x * sigmoid(x)),
    "sin": Function(np.sin),
    "sinh": Function(np.sinh),
    "softplus": Function(softplus, ("beta",)),
    "softshrink": Function(
        lambda x, bound: np.sign(x) * np.maximum(np.abs(x) - bound, 0), ("bound",)
    ),
    "softsign": Function(lambda x: x / (1 + np.abs(x))),
    "sqrt": Function(np.sqrt),
    "tan": Function(np.tan),
    "tanh": Function(np.tanh),
    "threshold": Function(threshold, ("bound", "value")),
    "trunc": Function(np.trunc),
}


@dataclass(frozen=True, kw_only=True)
class Unary(Op):
    """`y = function(x, *parameters)`, element by element, computed in float64 and rounded to float32 once.

    Values:
        x: float32.
        y: float32 of x's shape.

    Fields:
        function: a name in FUNCTIONS. "round" takes ties to even; "thresholded_relu" is "threshold" with value 0.
        parameters: the function's, in the order of FUNCTIONS.
    """

    name = "unary"
    INPUTS = ("x",)

    function: str
    parameters: tuple[float, ...] = ()

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_dtype("x", x, "float32")
        rules.require_choice("function", self.function, tuple(FUNCTIONS))
        expected = FUNCTIONS[self.function].parameters
        if len(self.parameters) != len(expected):
            rules.reject(
                f"{self.function} has parameters={self.parameters}; expected ({', '.join(expected)})"
            )
        return x

    def reference(self, y: TensorType, x: Tensor) -> Array:
        return apply(self.function, self.parameters, x.data)


def apply(function: str, parameters: tuple[float, ...], x: Array) -> Array:
    """float32 to float32. Also what 8-bit tables are made from."""
    with np.errstate(all="ignore"):
        return np.asarray(
            FUNCTIONS[function].formula(x.astype(np.float64), *parameters), np.float32
        )
