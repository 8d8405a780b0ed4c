"""softmax: a distribution along one axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt import rounding
from nprt.errors import QuantizationError, ShapeError
from nprt.ir import Array, Op, QuantParams, Tensor, TensorType
from nprt.ops import rules

# Which dtype the table has; "" for none.
TABLE_DTYPES = {"integer": "int32", "ort": "float32", "qnnpack": "int32", "torch": ""}


@dataclass(frozen=True, kw_only=True)
class Softmax(Op):
    """`y = exp(x) / sum(exp(x))`, the sum running along `axis`; with `log`, the logarithm of that.

    Values:
        x: codes quantized per tensor, or float32.
        table: for codes, a constant (256,): entry d stands for exp(-x_scale * d), where d is how far a code is below
            the greatest along `axis`. `rounding.exp_table` (int32) with numerics `integer`, `rounding.exp_table_ort`
            (float32) with `ort`, `rounding.exp_table_qnnpack` (int32) with `qnnpack`, none with `torch`.
        y: of x's shape. With float32 x, float32. With codes, codes quantized per tensor; with numerics `integer` and
            `qnnpack`, of scale 1/256 and the least code as zero point, so that code `least + k` is k/256 and 1 becomes
            255/256.

    Fields:
        axis: in [0, rank).
        numerics: which formula gives the codes: `integer` is eq. (25), `ort` eq. (27), `torch`
            eq. (54), `qnnpack` eq. (56).
        log: y is the logarithm; float32 only.
    """

    name = "softmax"
    INPUTS = ("x", "table?")

    axis: int
    numerics: str = "integer"
    log: bool = False

    def type_rule(
        self, y: TensorType, x: TensorType, table: TensorType | None = None
    ) -> TensorType:
        rules.require_numerics(self.numerics, TABLE_DTYPES)
        rules.require_real("x", x)
        axis = rules.normalized_axis(self.axis, x.rank)
        if x.shape[axis] == 0:
            raise ShapeError(f"x {x} has nothing along axis {axis}")
        if x.is_float:
            if table is not None:
                rules.reject(f"table {table} given, but x {x} is not codes")
            return x
        if self.log:
            rules.reject(f"log, but x {x} is not float32")
        rules.require_codes("y", y)
        dtype = TABLE_DTYPES[self.numerics]
        if not dtype and table is not None:
            rules.reject(f"table {table} given, but numerics {self.numerics!r} has none")
        if dtype and (table is None or (table.dtype, table.shape) != (dtype, (256,))):
            rules.reject(f"table {table} is not {dtype} of shape [256]")
        least, _ = y.code_range
        rules.require_multiplier([np.float64(1)], [y.scale])
        if self.numerics in ("integer", "qnnpack") and y.quant != QuantParams.of(1 / 256, least):
            raise QuantizationError(f"y {y} does not have scale 1/256 and zero point {least}")
        return y.with_shape(x.shape)

    def reference(self, y: TensorType, x: Tensor, table: Tensor | None = None) -> Array:
        if y.is_float:
            function = log_softmax if self.log else softmax
            return function(x.data.astype(np.float64), self.axis).astype(np.float32)
        if table is None:
            rows = np.moveaxis(x.data, self.axis, -1)
            quant = (x.type.scale, x.type.zero_point, y.scale, y.zero_point)
            out = np.moveaxis(rounding.softmax_torch(rows, *quant), -1, self.axis)
            return np.clip(out, *y.code_range).astype(y.numpy)
        least, _ = x.type.code_range
        codes = x.data.astype(np.int16)
        greatest = codes.max(axis=self.axis, keepdims=True, initial=least)
        e = np.take(table.data, greatest - codes)
        if self.numerics == "ort":
            out = rounding.softmax_ort(e, self.axis, y.scale, y.zero_point, y.dtype == "int8")
        elif self.numerics == "qnnpack":
            out = rounding.softmax_qnnpack(e, self.axis) + y.zero_point
        else:
            out = rounding.softmax_integer(e, self.axis) + y.zero_point
        return np.clip(out, *y.code_range).astype(y.numpy)

    def check_constants(self, y: Any, x: Any, table: Any = None) -> None:
        """A table must not lead to a division by zero, nor its sum out of float32."""
        if table is None:
            return
        if not isinstance(table, Tensor):
            rules.reject(f"table {table} is not a constant")
        e = table.data
        top = 2**rounding.EXP_BITS if self.numerics == "integer" else e[0]
        if not (e[0] == top > 0 and np.all((e >= 0) & (e <= top))):
            rules.reject("table does not fall from its first entry, exp(0), towards 0")
        terms = y.shape[self.axis]
        if isinstance(terms, int) and not float(top) * terms <= np.finfo(np.float32).max:
            rules.reject(f"a sum of {terms} entries of up to {top:g} leaves float32")


def softmax(x: Array, axis: int) -> Array:
    """On real numbers. Subtracting the greatest keeps exp from overflowing and changes nothing else."""
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axis, keepdims=True)


def log_softmax(x: Array, axis: int) -> Array:
    """The logarithm of `softmax`, finite also where that is 0."""
    shifted = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
