"""unary, where the function is arithmetic alone. Same result as `ops.unary`: float64, rounded to float32 once.

Also cast from int32 to float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nprt.jit.emit import F32, F64, Kernel, Value, mangle
from nprt.jit.kernels import rows
from nprt.jit.simd import Level

RECORD = rows.record(1, "first", "second")  # parameters, the bits of float64
Formula = Callable[..., Value]


def emit(name: str, level: Level, function: str) -> Any:
    k = Kernel(name, RECORD)
    half = level.lanes // 2
    parameters = [k.arg(name).bits(F64).splat(half) for name in ("first", "second")]

    def real(x: Value) -> Value:
        parts = [x.lanes(i * half, half).to_float(F64) for i in range(2)]
        return k.join([FORMULAS[function](part, *parameters).to_float(F32) for part in parts])

    return rows.emit(k, level, ["float"], "float", lambda k, loaded: [real(x) for x in loaded[0]])


def emit_cast(name: str, level: Level) -> Any:
    k = Kernel(name, RECORD)
    return rows.emit(
        k, level, ["int"], "float", lambda k, loaded: [x.to_float() for x in loaded[0]]
    )


def _where(condition: Value, yes: Any, no: Any) -> Value:
    return condition.k.select(condition, yes, no)


def _clip(x: Value, low: Any, high: Any) -> Value:
    """NaN stays, and so does a zero that equals a bound."""
    x = _where(x < low, _like(x, low), x)
    return _where(x > high, _like(x, high), x)


def _like(x: Value, number: Any) -> Value:
    return number if isinstance(number, Value) else x.k.const(x.type, number)


def _size(x: Value) -> Value:
    return _where(x > 0.0, x, 0.0 - x)


def _sqrt(x: Value) -> Value:
    return x.k.call(f"llvm.sqrt.{mangle(x.type)}", x.type, x)


def _inverse(x: Value) -> Value:
    return _like(x, 1.0) / x


# Of float64 x and the function's parameters, of which there are two in any case.
FORMULAS: dict[str, Formula] = {
    "abs": lambda x, a, b: _size(x),
    "clip": _clip,
    "hardshrink": lambda x, bound, _: _where(_size(x) <= bound, 0.0, x),
    "hardsigmoid": lambda x, alpha, beta: _clip(alpha * x + beta, 0.0, 1.0),
    "hardswish": lambda x, a, b: x * _clip(x + 3.0, 0.0, 6.0) / 6.0,
    "leaky_relu": lambda x, alpha, _: _where(x < 0.0, alpha * x, x),
    "nan_to_zero": lambda x, a, b: _where(x.equals(x), x, 0.0),
    "neg": lambda x, a, b: x * -1.0,
    "reciprocal": lambda x, a, b: _inverse(x),
    "relu": lambda x, a, b: _where(x <= 0.0, 0.0, x),
    "rsqrt": lambda x, a, b: _inverse(_sqrt(x)),
    "softsign": lambda x, a, b: x / (_size(x) + 1.0),
    "sqrt": lambda x, a, b: _sqrt(x),
    "threshold": lambda x, bound, value: _where(x > bound, x, value),
}


def lower(p: Any, op: Any) -> bool:
    if op.function not in FORMULAS:
        return False
    level = p.level
    first, second = (np.float64(n).view(np.int64) for n in (*op.parameters, 0, 0)[:2])
    return _add_step(
        p,
        op,
        f"unary {op.function}",
        lambda name: emit(name, level, op.function),
        {"first": first, "second": second},
    )


def lower_cast(p: Any, op: Any) -> bool:
    types = p.type(op.inputs[0]).dtype, p.type(op.outputs[0]).dtype
    level = p.level
    return types == ("int32", "float32") and _add_step(
        p, op, "cast int float", lambda name: emit_cast(name, level), {}
    )


def _add_step(p: Any, op: Any, key: str, build: Formula, scalars: dict[str, Any]) -> bool:
    source, target = p.read(op.inputs[0]), p.write(op.outputs[0])
    args = {**rows.arguments(target, source), **scalars}
    p.step(op, key, build, RECORD, args, reads=[source], writes=[target])
    return True
