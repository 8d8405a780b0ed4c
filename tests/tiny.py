"""The smallest models that the tests of the file, the checker and the session share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nprt.ir import Array, Model, Op, Origin, QuantParams, TensorType
from nprt.ops.linear import Linear
from nprt.ops.quantize import Quantize


def codes(*shape: int | str, scale: float = 0.5, zero_point: int = 3) -> TensorType:
    """int8 quantized per tensor."""
    return TensorType("int8", shape, QuantParams.of(scale, zero_point))


def floats(*shape: int | str) -> TensorType:
    return TensorType("float32", shape)


def model(
    ops: Sequence[Op],
    types: dict[str, TensorType],
    constants: dict[str, Array] | None = None,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
) -> Model:
    """A model that nobody has checked."""
    return Model(tuple(inputs), tuple(outputs), types, constants or {}, tuple(ops), Origin("tests"))


def one_op(op: Op, y: TensorType, *operands: TensorType | tuple[TensorType, Array]) -> Model:
    """A model of one op. A tuple is a constant."""
    types, constants = {"y": y}, {}
    for name, operand in zip(op.inputs, operands, strict=True):
        types[name] = operand[0] if isinstance(operand, tuple) else operand
        if isinstance(operand, tuple):
            constants[name] = operand[1]
    inputs = [name for name in op.inputs if name not in constants]
    return model([op], types, constants, inputs)


def two_layers() -> Model:
    """float32 [N, 2] -> quantize -> linear with weights, bias and a fused relu -> codes [N, 3]."""
    weights = np.array([[1, -2], [3, 4], [-128, 127]], np.int8)
    bias = np.array([-100, 0, 70000], np.int32)
    return model(
        [
            Quantize(inputs=("x",), outputs=("q",)),
            Linear(inputs=("q", "w", "b"), outputs=("y",), clamp=(-3, 127)),
        ],
        {
            "x": floats("N", 2),
            "q": codes("N", 2),
            "w": TensorType("int8", (3, 2), QuantParams.of([0.25, 0.5, 0.125], 0, 0)),
            "b": TensorType("int32", (3,), QuantParams.of([0.125, 0.25, 0.0625], 0, 0)),
            "y": codes("N", 3, scale=0.75, zero_point=-3),
        },
        {"w": weights, "b": bias},
    )
