"""The state of an import: which ONNX value is which graph value, and what is known of it.

Values are of two kinds. *Graph values* are computed when the model runs. *Known values* are arrays whose content is
known now: initializers, and the results of shape arithmetic, whose entries may be symbols (the batch dimension). A
known value enters the graph as a constant when an op needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nprt.converters.building.builder import Builder, identifier, require_numbers
from nprt.converters.graph import name_outputs
from nprt.errors import ModelError, ShapeError
from nprt.ir import DTYPES, Array, Dim, QuantParams, Shape, Tensor, TensorType, symbols
from nprt.ops.dequantize import Dequantize
from nprt.ops.gather import Gather
from nprt.ops.max_pool import MaxPool
from nprt.ops.quantize import Quantize
from nprt.ops.reshape import Reshape
from nprt.ops.slice import Slice
from nprt.ops.transpose import Transpose

if TYPE_CHECKING:
    import onnx

# Ops whose result has the codes of their first input.
MOVERS = (Gather, MaxPool, Reshape, Slice, Transpose)

Quant = tuple[str, str, str]  # names of a quantized value, its scale and its zero point

_UNSET: Any = object()


class Node:
    """An ONNX node, whose attributes are counted as they are read, so that none is dropped in silence."""

    def __init__(self, proto: onnx.NodeProto) -> None:
        from onnx.helper import get_attribute_value

        self.op_type: str = proto.op_type
        self.domain: str = proto.domain
        self.inputs: list[str] = list(proto.input)
        self.outputs: list[str] = list(proto.output)
        self.name: str = proto.name or (self.outputs[0] if self.outputs else "")
        self._attributes = {a.name: get_attribute_value(a) for a in proto.attribute}
        self._read: set[str] = set()

    @property
    def qualified_name(self) -> str:
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type

    def attr(self, name: str, default: Any = _UNSET) -> Any:
        """An attribute's value; bytes as str."""
        self._read.add(name)
        value = self._attributes.get(name, default)
        if value is _UNSET:
            raise ModelError(f"attribute {name} is missing")
        return value.decode() if isinstance(value, bytes) else value

    def ignore(self, *names: str) -> None:
        """Attributes that have no effect on the result here."""
        self._read.update(names)

    def unread_attributes(self) -> list[str]:
        return sorted(set(self._attributes) - self._read)

    def input(self, index: int) -> str:
        """The name of an input; "" if it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""

    @property
    def output(self) -> str:
        return self.outputs[0]


@dataclass
class Traits:
    """What an import found out about its source."""

    quantized: bool = False  # has QuantizeLinear, QLinear or integer operators
    engine: str = "ort"
    qoperator: bool = False  # has QLinear operators


class Importer(Builder):
    """Builds a Graph node by node."""

    def __init__(self, opset: int) -> None:
        super().__init__()
        self.opset = opset
        self.traits = Traits()
        self.known: dict[str, Array] = {}
        self.values: dict[str, str] = {}
        # ONNX values that merge a free dimension with others, as (N * heads, length, width): the graph value, which
        # does not, and for each ONNX axis the graph axes that it stands for.
        self.merged: dict[str, tuple[str, tuple[tuple[int, ...], ...]]] = {}
        self._blocked: set[str] = set()
        self._declared: dict[str, str] = {}

    # --- reading the file -----------------------------------------------------------------------------

    def read_initializers(self, graph: onnx.GraphProto) -> None:
        from onnx.numpy_helper import to_array

        for tensor in graph.initializer:
            self.known[tensor.name] = to_array(tensor)
        if graph.sparse_initializer:
            raise ModelError(
                "sparse initializers are not supported; store the weights as dense tensors"
            )

    def read_inputs(self, graph: onnx.GraphProto, shapes: Mapping[str, tuple[Dim, ...]]) -> None:
        from onnx.helper import tensor_dtype_to_np_dtype

        names = [value.name for value in graph.input if value.name not in self.known]
        unknown = sorted(set(shapes) - set(names))
        if unknown:
            raise ShapeError(f"shapes are given for {unknown}; the model's inputs are {names}")
        for value in graph.input:
            if value.name in self.known:
                continue
            tensor = value.type.tensor_type
            dtype = tensor_dtype_to_np_dtype(tensor.elem_type).name if tensor.elem_type else "?"
            if dtype not in DTYPES:
                raise ModelError(
                    f"input {value.name!r} has dtype {dtype}; expected one of {', '.join(DTYPES)}"
                )
            shape = shapes.get(value.name)
            if shape is None:
                if not tensor.HasField("shape"):
                    raise ShapeError(f"input {value.name!r} declares no shape; give it one")
                shape = tuple(_dims(value.name, tensor.shape.dim))
            self.graph.input(value.name, TensorType(dtype, tuple(shape)))
            self.values[value.name] = value.name

    def bind_outputs(self, graph: onnx.GraphProto) -> None:
        """Make the graph's outputs the values that the ONNX outputs name, under those names."""
        for value in graph.output:
            self.graph.outputs.append(self.value(value.name))
        name_outputs(self.graph, [value.name for value in graph.output])

    # --- problems -------------------------------------------------------------------------------------

    def report(self, node: Node, what: str) -> None:
        """Note that a node cannot be translated, and go on to find the others."""
        shapes = ", ".join(f"{name}: {self.describe(name)}" for name in node.inputs if name)
        self.problems.append(f"{node.name} ({node.qualified_name}; {shapes}): {what}")
        self.block(node)

    def block(self, node: Node) -> None:
        self._blocked.update(filter(None, node.outputs))

    def is_blocked(self, node: Node) -> bool:
        return not self._blocked.isdisjoint(filter(None, node.inputs))

    def describe(self, name: str) -> str:
        """The type of a value, for messages."""
        if name in self.values:
            return str(self.graph.types[self.values[name]])
        if name in self.known:
            return f"constant {self.known[name].dtype}{list(self.known[name].shape)}"
        return "unknown"

    # --- values ---------------------------------------------------------------------------------------

    def value(self, name: str) -> str:
        """The graph value of an ONNX value; a known one becomes a constant. "" stays ""."""
        if not name:
            return ""
        if name not in self.values:
            if name in self.merged:
                shape = list(self.graph.types[self.merged[name][0]].shape)
                free = ", ".join(symbols(tuple(shape)))
                raise ShapeError(f"{name!r} is {shape} with {free} merged into another dimension")
            if name not in self.known:
                raise ModelError(f"value {name!r} is not defined before it is used")
            self.values[name] = self.constant(self.known[name], name)
        return self.values[name]

    def know(self, name: str, array: Array) -> None:
        """The ONNX value `name` is `array`."""
        self.known[name] = array
        self.values.pop(name, None)

    def shape(self, name: str) -> Shape:
        """The shape of an ONNX value, known or not."""
        return (
            self.known[name].shape
            if name in self.known
            else self.graph.types[self.value(name)].shape
        )

    def const(self, name: str, what: str) -> Array:
        """The content of an input that must be known now."""
        if name in self.known:
            return self.known[name]
        source = self.graph.producers().get(self.values.get(name, ""))
        if isinstance(source, Dequantize) and source.inputs[0] in self.graph.constants:
            codes = source.inputs[0]
            return Tensor(self.graph.types[codes], self.graph.constants[codes]).real()
        raise ModelError(f"{what} {name!r} must be a constant")

    def ints(self, name: str, what: str) -> list[int]:
        """A known input as integers."""
        array = require_numbers(self.const(name, what), what)
        return [int(item) for item in array.reshape(-1)]

    def optional_ints(self, node: Node, attribute: str, index: int, since: int) -> list[int] | None:
        """Integers that are an attribute before opset `since`, and an input from then on."""
        if self.opset < since or node.domain not in ("", "ai.onnx"):
            value = node.attr(attribute, None)
            return None if value is None else [int(item) for item in value]
        name = node.input(index)
        return self.ints(name, attribute) if name else None

    def bind(self, name: str, value: str) -> None:
        """The ONNX value `name` is the graph value `value`; where that is a constant, it is known."""
        self.values[name] = value
        if value in self.graph.constants and self.graph.types[value].quant is None:
            self.known[name] = self.graph.constants[value]

    # --- quantization ---------------------------------------------------------------------------------

    def quant_params(
        self, scale: str, zero_point: str, axis: int, rank: int
    ) -> tuple[QuantParams, str | None]:
        """Quantization from known scale and zero point; the dtype of the zero point, if it is there."""
        self.traits.quantized = True
        scales = self.const(scale, "scale")
        zeros = self.const(zero_point, "zero point") if zero_point else np.zeros((), np.int64)
        if scales.dtype != np.float32:
            raise ModelError(f"scale {scale!r} is {scales.dtype}; expected float32")
        if scales.ndim > 1:
            raise ModelError(
                f"scale {scale!r} has shape {list(scales.shape)}: blocked quantization is not supported"
            )
        per_axis = scales.size > 1 or zeros.size > 1
        quant = QuantParams.of(
            np.broadcast_to(scales.reshape(-1), (max(scales.size, zeros.size),)),
            zeros.reshape(-1),
            (axis % rank) if per_axis else None,
        )
        return quant, zeros.dtype.name if zero_point else None

    def dequantized(self, quantized: Quant, axis: int = 1, out: str = "") -> str:
        """float32 for a quantized value: a `dequantize`, of a constant or of codes."""
        name, scale, zero_point = quantized
        if name in self.known:
            array = self.known[name]
            quant, _ = self.quant_params(scale, zero_point, axis, array.ndim)
            source = self.constant(array, name, quant)
        else:
            source = self.value(name)
            type = self.graph.types[source]
            quant, _ = self.quant_params(scale, zero_point, axis, type.rank)
            if type.quant is None:
                self._set_quant(source, quant)
            elif type.quant != quant:
                raise ModelError(
                    f"{name!r} was quantized with {type.quant} and is read as {quant}; they must be the same"
                )
        return self.emit(Dequantize, source, out=out or f"{name}~real")

    def _set_quant(self, name: str, quant: QuantParams) -> None:
        """Give codes, and the codes that they were moved from, the parameters that only their reader knows."""
        producers = self.graph.producers()
        while self.graph.types[name].quant is None:
            self.graph.types[name] = replace(self.graph.types[name], quant=quant)
            op = producers.get(name)
            if not isinstance(op, MOVERS):
                break
            name = op.inputs[0]

    def quantized(
        self, x: str, scale: str, zero_point: str, out: str, dtype: str | None = None
    ) -> str:
        """Codes for a float32 value."""
        type = self.graph.types[x]
        quant, zero_dtype = self.quant_params(scale, zero_point, 1, type.rank)
        like = TensorType(zero_dtype or dtype or "uint8", (), quant) if quant.axis is None else None
        if like is None or not like.is_codes:
            raise ModelError("only int8 and uint8 activations with one scale are supported")
        return self.emit(Quantize, x, out=out, like=like)


def _dims(name: str, dims: Sequence[Any]) -> Iterator[Dim]:
    """The dimensions of a declared shape: integers, and identifiers for what is free."""
    for index, dim in enumerate(dims):
        if dim.HasField("dim_value"):
            yield dim.dim_value
        else:
            given = re.sub(r"\W", "_", dim.dim_param)
            yield (
                given
                if given.isidentifier()
                else ("N" if index == 0 else f"{identifier(name)}_{index}")
            )


def resolve_shape(source: Shape, target: Sequence[Any], allow_zero: bool = False) -> Shape:
    """The target of an ONNX Reshape: 0 copies a dimension (unless allow_zero), -1 takes what is left."""
    dims: list[Any] = [
        source[i] if dim == 0 and not allow_zero and not isinstance(dim, str) else dim
        for i, dim in enumerate(target)
    ]
    left = list(source)
    for dim in dims:
        if isinstance(dim, str):
            if dim not in left:
                raise ShapeError(f"cannot reshape {list(source)} to {list(target)}")
            left.remove(dim)
    if -1 in [dim for dim in dims if not isinstance(dim, str)]:
        count = int(np.prod([dim for dim in left if not isinstance(dim, str)], dtype=np.int64))
        others = int(
            np.prod([d for d in dims if not isinstance(d, str) and d != -1], dtype=np.int64)
        )
        free = [dim for dim in left if isinstance(dim, str)]
        index = dims.index(-1)
        if free and count == others and len(free) == 1:
            dims[index] = free[0]
        elif free or others == 0 or count % others:
            raise ShapeError(
                f"cannot reshape {list(source)} to {list(target)}"
                + (f" while {', '.join(free)} is free" if free else "")
            )
        else:
            dims[index] = count // others
    return tuple(dim if isinstance(dim, str) else int(dim) for dim in dims)
