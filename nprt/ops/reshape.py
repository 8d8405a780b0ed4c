"""reshape: the same elements in the same order, in another shape."""

from __future__ import annotations

from dataclasses import dataclass

from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType, numel, symbols
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Reshape(Op):
    """The elements of x in row-major order, in the shape that y declares.

    Values:
        x: any dtype; if quantized, per tensor.
        y: as x, with as many elements; a symbol of x's shape is a symbol of y's.
    """

    name = "reshape"
    INPUTS = ("x",)

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_per_tensor("x", x)
        if numel(x.shape) != numel(y.shape) or symbols(x.shape) != symbols(y.shape):
            raise ShapeError(f"x {x} does not have as many elements as shape {list(y.shape)}")
        return x.with_shape(y.shape)

    def reference(self, y: TensorType, x: Tensor) -> Array:
        return x.data.reshape(y.shape)
