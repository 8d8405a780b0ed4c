"""cast: the same numbers in another dtype."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprt.errors import QuantizationError
from nprt.ir import Array, Op, Tensor, TensorType


@dataclass(frozen=True, kw_only=True)
class Cast(Op):
    """x in the dtype that y declares.

    float32 to integer cuts the fraction off; what is out of range becomes the nearest end of the dtype, and NaN 0. To
    bool, whatever is not 0 is true. Integer to float32 rounds to nearest, ties to even.

    Values:
        x, y: any dtype, not quantized: codes become numbers by `dequantize`, and numbers codes by `quantize`.
    """

    name = "cast"
    INPUTS = ("x",)

    def type_rule(self, y: TensorType, x: TensorType) -> TensorType:
        for what, type in (("x", x), ("y", y)):
            if type.quant is not None:
                raise QuantizationError(f"{what} {type} is quantized; cast works on plain numbers")
        return y.with_shape(x.shape)

    def reference(self, y: TensorType, x: Tensor) -> Array:
        if y.dtype in ("float32", "bool"):
            return x.data.astype(y.numpy)
        low, high = y.code_range
        if not x.is_float:
            return np.clip(x.data.astype(np.int64), low, high).astype(y.numpy)
        whole = np.trunc(x.data.astype(np.float64))
        with np.errstate(invalid="ignore"):
            inside = whole.astype(y.numpy)
        ends = [np.array(end, y.numpy) for end in (0, low, high)]
        return np.select([np.isnan(whole), whole <= low, whole >= high], ends, inside)
