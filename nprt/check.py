"""Is this op list a model? Names are bound once, types agree, sums fit in int32.

Run on every model that is built, converted or loaded. Kernels do not check bounds, so what passes here must be safe to
run: every shape is proven, and every constant has the dtype and shape of its type.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from nprt.errors import AccumulatorError, ModelError, ShapeError
from nprt.ir import Model, Op, Tensor, TensorType, symbols
from nprt.ops.rules import require_room

# A constant's name is also a file name in the archive, so it is kept to what every file system takes.
CONSTANT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


def check(model: Model) -> Model:
    """Return `model` if it is sound.

    Raises:
        ModelError: naming the op or the value, what was found and what was expected.
    """
    bound = _check_sources(model)
    for index, op in enumerate(model.ops):
        try:
            _check_op(model, op, bound)
        except ModelError as error:
            where = f"op {index}, {op.name} -> {', '.join(op.outputs)}"
            raise type(error)(f"{where}: {error}") from error
        bound.update(op.outputs)
    for name in model.outputs:
        if name not in bound:
            raise ModelError(f"output {name!r} is not the result of any op")
        if model.outputs.count(name) > 1:
            raise ModelError(f"output {name!r} is listed twice")
    unbound = sorted(set(model.types) - bound)
    if unbound:
        raise ModelError(f"types are declared for values that nothing binds: {', '.join(unbound)}")
    return model


def _check_sources(model: Model) -> set[str]:
    """Check inputs and constants; return their names."""
    if not model.outputs:
        raise ModelError("the model has no outputs")
    bound: set[str] = set()
    for name in (*model.inputs, *model.constants):
        if name in bound or not name:
            raise ModelError(f"value {name!r} is bound twice" if name else "a value has no name")
        if name not in model.types:
            raise ModelError(f"value {name!r} has no type")
        bound.add(name)
    known = {symbol for name in model.inputs for symbol in symbols(model.types[name].shape)}
    for name, type in model.types.items():
        free = set(symbols(type.shape)) - known
        if free:
            raise ShapeError(
                f"value {name!r}: {type} uses {sorted(free)}, which no input's shape names"
            )
    for name, array in model.constants.items():
        type = model.types[name]
        if not CONSTANT_NAME.fullmatch(name):
            raise ModelError(
                f"constant {name!r} must be named by letters, digits, '_', '.' and '-'"
            )
        if array.dtype != type.numpy or array.shape != type.shape:
            raise ModelError(
                f"constant {name!r} is {array.dtype}{list(array.shape)}, declared {type}"
            )
    return bound


def _check_op(model: Model, op: Op, bound: set[str]) -> None:
    _check_arity(op)
    for name in op.used_inputs():
        if name not in bound:
            raise ModelError(f"input {name!r} is not bound before this op")
    for name in op.outputs:
        if not name or name in bound or op.outputs.count(name) > 1:
            raise ModelError(f"output {name!r} is bound twice" if name else "an output has no name")
        if name not in model.types:
            raise ModelError(f"output {name!r} has no type")
        require_room(f"output {name!r}", model.types[name].shape)
    declared = tuple(model.types[name] for name in op.outputs)
    for name, actual, expected in zip(
        op.outputs, declared, output_types(op, declared, model.types.__getitem__), strict=True
    ):
        if actual != expected:
            raise ModelError(f"{name!r} is declared {actual}, but the op gives {expected}")

    def operand(name: str) -> Tensor | TensorType:
        return model.tensor(name) if name in model.constants else model.types[name]

    operands = op.arguments(operand)
    op.check_constants(*declared, *operands)
    bound_on_sum = op.accumulator_bound(*declared, *operands)
    if bound_on_sum is not None and bound_on_sum >= 2**31:
        raise AccumulatorError(
            f"a sum can reach {bound_on_sum}, which int32 does not hold (limit 2147483647); "
            "use fewer summed terms or smaller weights"
        )


def output_types(
    op: Op, declared: tuple[TensorType, ...], type_of: Callable[[str], TensorType]
) -> tuple[TensorType, ...]:
    """The types that `op` gives its outputs, where `declared` settles what its inputs leave open."""
    result: Any = op.type_rule(*declared, *op.arguments(type_of))
    return result if isinstance(result, tuple) else (result,)


def _check_arity(op: Op) -> None:
    names = op.INPUTS
    variadic = bool(names) and names[-1].endswith("*")
    required = sum(not name.endswith(("?", "*")) for name in names)
    count = len(op.inputs)
    if count < required or (count > len(names) and not variadic) or "" in op.inputs[:required]:
        raise ModelError(f"has inputs {op.inputs}; expected {' '.join(names)}")
    if variadic and (count < len(names) or "" in op.inputs):
        raise ModelError(
            f"has inputs {op.inputs}; expected at least one of each of {' '.join(names)}"
        )
    if len(op.outputs) != len(op.OUTPUTS):
        raise ModelError(f"has outputs {op.outputs}; expected {' '.join(op.OUTPUTS)}")
