"""Products with constant 8-bit weights whose float32 input is quantized at run time."""

from __future__ import annotations

import numpy as np

from nprt import rounding
from nprt.ir import Array, Tensor, TensorType, numel
from nprt.ops import rules
from nprt.ops.products import exact_terms, integer_matmul, sum_bound

# `dynamic_quantize` makes these of x.
CODES = TensorType("uint8", ())


def product(
    x: Array,
    w: Tensor,
    bias: Array | None,
    numerics: str,
    *,
    axis: int | None = None,
    reduce_range: bool = False,
) -> Array:
    """`x @ w.T + bias` through an exact integer product, by the formulas of `rounding.DYNAMIC[numerics]`.

    Args:
        x: (..., in_features) float32.
        w: (out_features, in_features) codes, per tensor or along axis 0; or float32, and then nothing is quantized.
        bias: (out_features,) float32, or None.
        axis: None for one scale for all of x; -1 for one for each row.
        reduce_range: x gets half as many codes; only with the numerics of PyTorch.

    Returns:
        (..., out_features) float32.
    """
    if w.is_float:
        real = np.matmul(x, w.data.T)
        return real if bias is None else real + bias
    formulas = rounding.DYNAMIC[numerics]
    options = {} if numerics == "ort" else {"reduce_range": reduce_range}
    codes, scale, zero_point = formulas.quantize(x, axis, **options)
    centered = codes.astype(np.float32) - zero_point.astype(np.float32)
    acc = integer_matmul(centered, w.centered().T, exact_terms(CODES, w, run_time=True))
    return formulas.scale_back(acc, scale, w.type.scale, bias)


def check_product(
    x: TensorType, w: TensorType, bias: TensorType | None, numerics: str, reduce_range: bool
) -> None:
    """The type rule of `product`, but for a float32 w. Names them x, w and bias."""
    rules.require_numerics(numerics, rounding.DYNAMIC)
    if reduce_range and numerics == "ort":
        rules.reject("reduce_range is of PyTorch; numerics 'ort' has none")
    rules.require_dtype("x", x, "float32")
    rules.require_rank("w", w, (2,))
    if not w.is_codes:
        rules.reject(f"w {w} is not an 8-bit quantized tensor")
    rules.require_weight_axis(w, 0)
    if x.rank < 1 or x.shape[-1] != w.shape[1]:
        rules.reject(f"the last axis of x {x} is not the {w.shape[1]} in_features of w {w}")
    if bias is not None and (bias.dtype, bias.shape) != ("float32", (w.shape[0],)):
        rules.reject(f"bias {bias} is not float32 of shape [{w.shape[0]}]")


def product_bound(w: Tensor | TensorType) -> int:
    """An upper bound of the integer sum of `product`, eq. (4)."""
    shape = (w.type if isinstance(w, Tensor) else w).shape
    return sum_bound(CODES, w, None, numel(shape[1:]), 0, unknown_zero_point=True)
