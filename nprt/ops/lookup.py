"""lookup: any function of one 8-bit code, as a table of 256 entries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules


@dataclass(frozen=True, kw_only=True)
class Lookup(Op):
    """`y = table[x - least code]`: sigmoid, tanh, hardswish, a change of scale, or any other function of one code.

    Values:
        x: 8-bit codes, quantized per tensor.
        table: (256,) of y's dtype; entry 0 is for the least code of x (0 for uint8, -128 for int8).
        y: of x's shape; codes quantized per tensor, or float32.

    Fields:
        function: what the table computes, for people; no effect on the result.
    """

    name = "lookup"
    INPUTS = ("x", "table")

    function: str = ""

    def type_rule(self, y: TensorType, x: TensorType, table: TensorType) -> TensorType:
        rules.require_codes("x", x)
        if not y.is_float:
            rules.require_codes("y", y)
        if (table.dtype, table.shape) != (y.dtype, (256,)):
            rules.reject(f"table {table} is not {y.dtype} of shape [256]")
        return y.with_shape(x.shape)

    def reference(self, y: TensorType, x: Tensor, table: Tensor) -> Array:
        low, _ = x.type.code_range
        return np.take(table.data, x.data.astype(np.int16) - low)
