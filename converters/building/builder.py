"""What every front end does to build a graph: constants, ops, layouts, and problems that are reported together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from nprt.converters.graph import FLOAT, Graph, make
from nprt.converters.passes.fold import folded
from nprt.errors import ModelError, ShapeError
from nprt.ir import DTYPES, Array, Op, QuantParams, Shape, TensorType, numel, symbols
from nprt.ops.dequantize import Dequantize
from nprt.ops.reshape import Reshape
from nprt.ops.slice import Slice
from nprt.ops.transpose import Transpose


class Builder:
    """Builds a Graph op by op."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.problems: list[str] = []

    # --- problems -------------------------------------------------------------------------------------

    def explain(self, error: Exception) -> str:
        """What an error says; and what to do, where a free dimension is the cause."""
        text = str(error)
        words = set(re.findall(r"\w+", text))
        for name in self.graph.inputs:
            shape = self.graph.types[name].shape
            if isinstance(error, ShapeError) and words.intersection(symbols(shape)):
                return f"{text}. Fix the shape {list(shape)} of input {name!r} with input_shapes (--shape)"
        return text

    def label(self, first: int, name: str) -> None:
        """Remember that the ops from `first` on came from the source's node `name`."""
        for op in self.graph.ops[first:]:
            self.graph.labels.update(dict.fromkeys(op.outputs, frozenset({name})))

    # --- values ---------------------------------------------------------------------------------------

    def constant(self, array: Array, base: str, quant: QuantParams | None = None) -> str:
        """A graph constant. Other floats become float32; symbols cannot become numbers."""
        require_numbers(array, repr(base))
        if array.dtype.name in ("float64", "float16", "bfloat16"):
            array = array.astype(np.float32)
        if array.dtype.name not in DTYPES:
            raise ModelError(f"constant {base} has dtype {array.dtype}, which nprt does not have")
        return self.graph.constant(array, base, quant)

    def emit(
        self,
        cls: type[Op],
        *inputs: str,
        out: str | Sequence[str],
        like: TensorType = FLOAT,
        **fields: Any,
    ) -> str:
        """Append an op, or compute it now if it works on constants; return its (first) output."""
        op, types = make(self.graph, cls, *inputs, out=out, like=like, **fields)
        self.graph.types.update(types)
        value = folded(self.graph, op, types[op.outputs[0]])
        if value is None:
            self.graph.ops.append(op)
        else:
            self.graph.constants[op.outputs[0]] = value
        return op.outputs[0]

    # --- layout ---------------------------------------------------------------------------------------

    def channels_last(self, x: str) -> str:
        """A transpose from (batch, channels, *spatial) to (batch, *spatial, channels)."""
        rank = self.graph.types[x].rank
        return self.emit(Transpose, x, out=f"{x}~nhwc", perm=(0, *range(2, rank), 1))

    def channels_first(self, x: str, out: str) -> str:
        """The way back."""
        rank = self.graph.types[x].rank
        return self.emit(Transpose, x, out=out, perm=(0, rank - 1, *range(1, rank - 1)))

    def rearranged(self, w: str, perm: tuple[int, ...], shape: Shape | None = None) -> str:
        """Weights transposed by `perm`, then reshaped. Constants, dequantized or not, are rearranged here and now."""
        producer = self.graph.producers().get(w)
        source = producer.inputs[0] if isinstance(producer, Dequantize) else w
        if source not in self.graph.constants:
            y = self.emit(Transpose, w, out=f"{w}~rearranged", perm=perm)
            if shape is not None:
                y = self.emit(Reshape, y, out=f"{w}~reshaped", like=FLOAT.with_shape(shape))
            return y
        array, quant = self.graph.constants[source].transpose(perm), self.graph.types[source].quant
        axis = None if quant is None or quant.axis is None else perm.index(quant.axis)
        if shape is not None:
            axis = None if axis is None else _axis_after_reshape(array.shape, axis, shape)
            array = array.reshape([int(dim) for dim in shape])
        if quant is not None:
            quant = QuantParams(quant.scale, quant.zero_point, axis)
        moved = self.graph.constant(array, source, quant)
        return moved if source == w else self.emit(Dequantize, moved, out=f"{w}~rearranged")

    def to_shape(self, x: str, shape: Shape, out: str) -> str:
        """A reshape of a graph value; x itself where it has that shape."""
        type = self.graph.types[x]
        if type.shape == shape:
            return x
        return self.emit(Reshape, x, out=out, like=type.with_shape(shape))

    def sliced(self, x: str, ranges: dict[int, tuple[int, int | None, int]], out: str) -> str:
        """x cut along some axes to (start, stop, step)."""
        rank = self.graph.types[x].rank
        bounds = [ranges.get(axis, (0, None, 1)) for axis in range(rank)]
        starts, stops, steps = zip(*bounds, strict=True)
        like = self.graph.types[x]
        return self.emit(Slice, x, out=out, like=like, starts=starts, stops=stops, steps=steps)

    def number(self, value: float, out: str) -> str:
        """A float32 constant of shape (), named after the value it helps to make."""
        return self.constant(np.asarray(value, np.float32), f"{out}~number")


def require_numbers(array: Array, what: str) -> Array:
    """A known value without symbols."""
    if array.dtype == object:
        free = sorted({str(item) for item in array.flat if isinstance(item, str)})
        raise ShapeError(f"{what} depends on the free dimension {', '.join(free)}")
    return array


def _axis_after_reshape(old: Shape, axis: int, new: Shape) -> int:
    """Where `axis` is after a reshape that leaves it whole."""
    before = numel(old[:axis])
    for candidate, size in enumerate(new):
        if numel(new[:candidate]) == before and size == old[axis]:
            return candidate
    raise ModelError(
        f"weights quantized along axis {axis} of {list(old)} cannot be reshaped to {list(new)}"
    )


def identifier(name: str) -> str:
    clean = re.sub(r"\W", "_", name)
    return clean if clean.isidentifier() else f"_{clean}"
