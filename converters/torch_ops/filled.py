"""Operators whose result depends on the shape of their input, or on where an element stands."""

from __future__ import annotations

from typing import Any

import numpy as np

from nprt.converters.torch_ops.elementwise import Translate
from nprt.converters.torch_ops.importer import DTYPES, Importer, arguments
from nprt.converters.torch_ops.recording import Call, Known, Ref
from nprt.errors import ModelError
from nprt.ops.expand import Expand
from nprt.ops.rules import known
from nprt.ops.where import Where


def filled(m: Importer, call: Call, value: Any) -> None:
    """The result is `value` everywhere."""
    if isinstance(value, Ref):
        raise ModelError("filling with a value that depends on the inputs is not supported")
    number = value.tensor.item() if isinstance(value, Known) else value
    result = m.result(call)
    dtype = DTYPES.get(result.dtype)
    if dtype is None or result.scale is not None:
        raise ModelError(f"a tensor of {result.dtype} cannot be filled")
    one = m.constant(np.full((1,) * len(result.shape), number, dtype), f"{m.out(call)}~value")
    like = m.graph.types[one].with_shape(result.shape)
    m.bind(call, m.emit(Expand, one, out=m.out(call), like=like))


def number(value: Any) -> Translate:
    """zeros_like, new_zeros and their kin."""
    return lambda m, call: filled(m, call, value)


def given(position: int, keyword: str) -> Translate:
    """full_like, new_full, fill: the value is an argument."""

    def translate(m: Importer, call: Call) -> None:
        value = call.args[position] if len(call.args) > position else call.kwargs[keyword]
        filled(m, call, value)

    return translate


def triangle(lower: bool) -> Translate:
    """tril and triu: zero on the other side of a diagonal."""

    def translate(m: Importer, call: Call) -> None:
        x, diagonal = arguments(call, "self", diagonal=0)
        value, out = m.value(x), m.out(call)
        type = m.graph.types[value]
        rows, columns = (known("a dimension of the matrix", dim) for dim in type.shape[-2:])
        all_true = np.ones((rows, columns), np.bool_)
        keep = np.tril(all_true, diagonal) if lower else np.triu(all_true, diagonal)
        zero = m.constant(np.zeros((), type.numpy), f"{out}~zero")
        mask = m.constant(keep, f"{out}~mask")
        m.bind(call, m.emit(Where, mask, value, zero, out=out, like=type))

    return translate
