"""What layer_norm, group_norm and batch_norm share."""

from __future__ import annotations

import numpy as np

from nprt.ir import Array, Dim, TensorType
from nprt.ops import rules


def require_epsilon(epsilon: float) -> None:
    if not 0 < epsilon < np.inf:
        rules.reject(f"epsilon={epsilon} is not a number above 0")


def require_vector(what: str, type: TensorType | None, size: Dim) -> None:
    """float32, one number for each channel; or absent."""
    if type is None:
        return
    rules.require_dtype(what, type, "float32")
    if type.shape != (size,):
        rules.reject(f"{what} {type} does not have shape [{size}]")


def normalized_type(y: TensorType, x: TensorType, numerics: str) -> TensorType:
    """The type of the result: x's if that is float32, else codes as declared, by the one numerics that there is."""
    if x.is_float:
        return x
    rules.require_codes("y", y)
    rules.require_numerics(numerics, ("fbgemm",))
    rules.require_multiplier([x.scale], [y.scale])
    return y.with_shape(x.shape)


def standardized(x: Array, epsilon: float) -> Array:
    """`(x - mean) / sqrt(variance + epsilon)` along the last axis, float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        centered = x.astype(np.float64)
        centered = centered - centered.mean(axis=-1, keepdims=True)
        variance = (centered * centered).mean(axis=-1, keepdims=True)
        return np.asarray(centered / np.sqrt(variance + epsilon))


def finish(codes: Array, y: TensorType, clamp: tuple[int, int] | None = None) -> Array:
    """Codes as they come out of a formula, clamped; what is no number becomes the least code."""
    low, high = clamp or y.code_range
    return np.clip(np.nan_to_num(codes, nan=low), low, high).astype(y.numpy)
