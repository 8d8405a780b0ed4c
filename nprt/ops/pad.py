"""pad: more elements before and after, along any axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nprt.errors import ShapeError
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules
from nprt.ops.windows import Padding

MODES = ("constant", "edge", "reflect")


@dataclass(frozen=True, kw_only=True)
class Pad(Op):
    """x with elements put before and after it.

    Values:
        x: any dtype; if quantized, per tensor.
        y: as x, with its dimensions enlarged.

    Fields:
        padding: (before, after) for every axis of x; (0, 0) for one whose size is a symbol.
        mode: "constant" puts `value`, "edge" repeats the first and the last element, "reflect" mirrors x without
            repeating them (so it needs less padding than there are elements).
        value: in units of the stored data: a code for codes. Rounded to float32 for float32.
    """

    name = "pad"
    INPUTS = ("x",)

    padding: Padding
    mode: str = "constant"
    value: float = 0.0

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        rules.require_per_tensor("x", x)
        rules.require_choice("mode", self.mode, MODES)
        rules.require_padding(self.padding, x.rank)
        self._require_value(x)
        shape = list(x.shape)
        for axis, pair in enumerate(self.padding):
            if not any(pair):
                continue
            size = rules.known(f"padded axis {axis}", x.shape[axis])
            limit = {"constant": math.inf, "edge": math.inf if size else 0, "reflect": size - 1}
            if max(pair) > limit[self.mode]:
                raise ShapeError(f"padding {pair} of axis {axis} is too much to {self.mode} x {x}")
            shape[axis] = size + sum(pair)
        return x.with_shape(tuple(shape))

    def _require_value(self, x: TensorType) -> None:
        if x.is_float:
            fits = abs(self.value) <= float(np.finfo(np.float32).max)
        else:
            low, high = (0, 1) if x.dtype == "bool" else x.code_range
            fits = float(self.value).is_integer() and low <= self.value <= high
        if not fits:
            rules.reject(f"value={self.value} is not a value of {x.dtype}")

    def reference(self, y: TensorType, x: Tensor) -> Array:
        if not any(map(any, self.padding)):
            return x.data
        if self.mode == "edge":
            return np.pad(x.data, self.padding, "edge")
        if self.mode == "reflect":
            return np.pad(x.data, self.padding, "reflect")
        return np.pad(x.data, self.padding, constant_values=y.numpy.type(self.value))
