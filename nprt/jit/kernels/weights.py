"""Constant weights and biases, as kernels of products take them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nprt.ir import Array


def constants(p: Any, op: Any) -> tuple[Array, Array | None] | None:
    """The second operand as int8 without zero points, and the third, a bias or None.

    None where either is known only at run time, or a zero point of weights is not in the middle of their dtype.
    """
    w, weights = p.type(op.inputs[1]), p.constant(op.inputs[1])
    given = len(op.inputs) > 2 and bool(op.inputs[2])
    bias = p.constant(op.inputs[2]) if given else None
    middle = 128 if w.dtype == "uint8" else 0
    if weights is None or given != (bias is not None) or w.is_float:
        return None
    if np.any((w.quant.zero_points if w.quant else 0) != middle):
        return None
    return (weights ^ np.uint8(128)).view(np.int8) if middle else weights, bias
