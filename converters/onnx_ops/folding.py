"""Values that are known while converting: constants, and the shape arithmetic that exporters leave in a graph.

A known array may hold symbols, as in the shape ["N", 3, 8, 8]; it has dtype object then.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nprt.converters.building.builder import require_numbers
from nprt.converters.onnx_ops.importer import Importer, Node
from nprt.converters.passes.fold import MAX_FOLDED_ELEMENTS
from nprt.errors import ModelError, ShapeError
from nprt.ir import Array, Dim
from nprt.ops.div import Div
from nprt.ops.expand import Expand

Translate = Callable[[Importer, Node], None]
Evaluate = Callable[[Importer, Node, list[Array]], Array]


def bounded(shape: Any) -> tuple[int, ...]:
    """`shape` as integers, if an array of that shape may be made while converting."""
    sizes = tuple(int(size) for size in shape)
    if min(sizes, default=0) < 0 or math.prod(sizes) > MAX_FOLDED_ELEMENTS:
        raise ShapeError(
            f"a constant of shape {list(sizes)} is not made; at most {MAX_FOLDED_ELEMENTS} elements"
        )
    return sizes


def foldable(evaluate: Evaluate, otherwise: Translate | None = None) -> Translate:
    """Evaluate a node whose inputs are all known; translate it with `otherwise` if they are not."""

    def translate(m: Importer, node: Node) -> None:
        if all(name in m.known for name in node.inputs if name):
            m.known[node.output] = evaluate(
                m, node, [m.known[name] for name in node.inputs if name]
            )
        elif otherwise is None:
            raise ModelError("supported only where its inputs are constants")
        else:
            otherwise(m, node)

    return translate


# --- arithmetic ---------------------------------------------------------------------------------------


def elementwise(
    function: Callable[..., Any], symbolic: Callable[..., Any] | None = None
) -> Evaluate:
    """A function of known arrays; `symbolic` is the same for two single elements of which one is a symbol."""

    def each(*items: Any) -> Any:
        if not any(isinstance(item, str) for item in items):
            return function(*map(np.int64, items))
        result = symbolic(*items) if symbolic is not None else None
        if result is None:
            name = getattr(function, "__name__", "this")
            raise ShapeError(
                f"{name} of {' and '.join(map(str, items))} is not known while converting"
            )
        return result

    def evaluate(m: Importer, node: Node, inputs: list[Array]) -> Array:
        bounded(np.broadcast_shapes(*(array.shape for array in inputs)))
        if not any(array.dtype == object for array in inputs):
            with np.errstate(all="ignore"):
                return np.asarray(function(*inputs))
        result = np.asarray(np.frompyfunc(each, len(inputs), 1)(*inputs), object)
        return result.astype(bool) if function is np.equal else without_symbols(result)

    return evaluate


def _add(a: Any, b: Any) -> Any:
    return a if b == 0 else b if a == 0 else None


def _subtract(a: Any, b: Any) -> Any:
    return a if b == 0 else 0 if a == b else None


def _multiply(a: Any, b: Any) -> Any:
    return a if b == 1 else b if a == 1 else 0 if 0 in (a, b) else None


def _divide(a: Any, b: Any) -> Any:
    return a if b == 1 else 1 if a == b else None


def _equal(a: Any, b: Any) -> Any:
    """A symbol is a size: it equals itself, and no negative number."""
    if a == b:
        return True
    number = b if isinstance(a, str) else a
    return False if not isinstance(number, str) and number < 0 else None


add = elementwise(np.add, _add)
subtract = elementwise(np.subtract, _subtract)
multiply = elementwise(np.multiply, _multiply)
divide = elementwise(Div.real, _divide)
equal = elementwise(np.equal, _equal)


def evaluate_mod(m: Importer, node: Node, inputs: list[Array]) -> Array:
    return elementwise(np.fmod if node.attr("fmod", 0) else np.mod)(m, node, inputs)


# --- making -------------------------------------------------------------------------------------------


def constant(m: Importer, node: Node) -> None:
    from onnx.numpy_helper import to_array

    for name, convert in (
        ("value", to_array),
        ("value_float", np.float32),
        ("value_int", np.int64),
        ("value_floats", lambda v: np.array(v, np.float32)),
        ("value_ints", lambda v: np.array(v, np.int64)),
    ):
        value = node.attr(name, None)
        if value is not None:
            m.known[node.output] = np.asarray(convert(value))
            return
    raise ModelError("this kind of constant is not supported; use a dense tensor")


def constant_of_shape(m: Importer, node: Node) -> None:
    from onnx.numpy_helper import to_array

    value = node.attr("value", None)
    fill = to_array(value) if value is not None else np.zeros(1, np.float32)
    shape = m.const(node.input(0), "the shape")
    if shape.dtype != object:
        m.known[node.output] = np.full(bounded(shape), fill.reshape(()), fill.dtype)
        return
    number = m.constant(fill.reshape(()), f"{node.output}~fill")
    like = m.graph.types[number].with_shape(dims_of(shape))
    m.bind(node.output, m.emit(Expand, number, out=node.output, like=like))


def evaluate_range(m: Importer, node: Node, inputs: list[Array]) -> Array:
    start, stop, step = (require_numbers(array, "the range").reshape(()) for array in inputs)
    bounded((max(0, math.ceil((stop - start) / step)),))
    made: Array = np.arange(float(start), float(stop), float(step))
    return made.astype(start.dtype)


# --- shapes -------------------------------------------------------------------------------------------


def shape(m: Importer, node: Node) -> None:
    dims = m.shape(node.input(0))
    start, end = node.attr("start", 0), node.attr("end", len(dims))
    m.known[node.output] = dims_array(dims[slice(start, end)])


def size(m: Importer, node: Node) -> None:
    dims = dims_array(m.shape(node.input(0)))
    m.known[node.output] = np.asarray(require_numbers(dims, "the size").prod(dtype=np.int64))


def dims_array(dims: Any) -> Array:
    """Dimensions as an int64 array, or as an object array if any is a symbol."""
    symbolic = any(isinstance(dim, str) for dim in dims)
    array = np.empty(len(dims), object if symbolic else np.int64)
    array[:] = dims
    return array


def dims_of(array: Array) -> tuple[Dim, ...]:
    """The way back."""
    return tuple(dim if isinstance(dim, str) else int(dim) for dim in array.reshape(-1).tolist())


# --- choosing -----------------------------------------------------------------------------------------


def evaluate_where(m: Importer, node: Node, inputs: list[Array]) -> Array:
    bounded(np.broadcast_shapes(*(array.shape for array in inputs)))
    condition, a, b = inputs
    return without_symbols(np.where(require_numbers(condition, "the condition"), a, b))


def evaluate_concat(m: Importer, node: Node, inputs: list[Array]) -> Array:
    if any(array.dtype == object for array in inputs):
        inputs = [array.astype(object) for array in inputs]
    return np.concatenate(inputs, axis=node.attr("axis"))


def without_symbols(array: Array) -> Array:
    """An object array that holds numbers only, as int64; any other as it is."""
    if array.dtype == object and not any(isinstance(item, str) for item in array.flat):
        return array.astype(np.int64)
    return np.asarray(array)


def evaluate_trilu(m: Importer, node: Node, inputs: list[Array]) -> Array:
    diagonal = int(inputs[1].reshape(())) if len(inputs) > 1 else 0
    keep = np.triu if node.attr("upper", 1) else np.tril
    return np.asarray(keep(inputs[0], diagonal))


def evaluate_reduce_prod(m: Importer, node: Node, inputs: list[Array]) -> Array:
    """The axes are an attribute before opset 18, an input from then on."""
    array = require_numbers(inputs[0], "the product")
    axes = inputs[1].tolist() if len(inputs) > 1 else node.attr("axes", None)
    keep = bool(node.attr("keepdims", 1))
    if node.attr("noop_with_empty_axes", 0) and not axes:
        return array
    chosen = tuple(axes) if axes else None
    return np.asarray(array.prod(axis=chosen, keepdims=keep, dtype=array.dtype))
