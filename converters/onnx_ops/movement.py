"""Operators that move data, and shape arithmetic on values that are known while converting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nprt.converters.onnx_ops.importer import Importer, Node, resolve_shape
from nprt.errors import ModelError, ShapeError
from nprt.ir import Array, Dim, numel, symbols
from nprt.ops.argmax import Argmax
from nprt.ops.concat import Concat
from nprt.ops.expand import Expand
from nprt.ops.gather import Gather
from nprt.ops.pad import Pad
from nprt.ops.reduce_mean import ReduceMean
from nprt.ops.reshape import Reshape
from nprt.ops.rules import known
from nprt.ops.slice import Slice
from nprt.ops.transpose import Transpose

Translate = Callable[[Importer, Node], None]


# --- shape arithmetic ---------------------------------------------------------------------------------


# Shape arithmetic and small tables; a file that asks for more than this asks for the host's memory.
MAX_KNOWN_ELEMENTS = 1 << 24


def bounded(shape: Any) -> tuple[int, ...]:
    """`shape` as integers, if an array of that shape may be made while converting."""
    sizes = tuple(int(size) for size in shape)
    if min(sizes, default=0) < 0 or math.prod(sizes) > MAX_KNOWN_ELEMENTS:
        raise ShapeError(
            f"a constant of shape {list(sizes)} is not made; at most {MAX_KNOWN_ELEMENTS} elements"
        )
    return sizes


def foldable(
    evaluate: Callable[[Importer, Node, list[Array]], Array], otherwise: Translate | None = None
) -> Translate:
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


def arithmetic(
    function: Callable[[Any, Any], Any],
) -> Callable[[Importer, Node, list[Array]], Array]:
    """A binary operation on known values, where a symbol may meet 0, 1 or itself as long as a symbol comes out."""

    def symbolic(a: Any, b: Any) -> Any:
        if not isinstance(a, str) and not isinstance(b, str):
            return int(function(np.int64(a), np.int64(b)))
        name = function.__name__
        if name in ("multiply", "divide") and b == 1:
            return a
        if name == "multiply" and a == 1:
            return b
        if name in ("add", "subtract") and b == 0:
            return a
        if name == "add" and a == 0:
            return b
        raise ShapeError(f"{name}({a}, {b}) is not a dimension; fix it with input_shapes")

    def evaluate(m: Importer, node: Node, inputs: list[Array]) -> Array:
        a, b = inputs
        bounded(np.broadcast_shapes(a.shape, b.shape))
        if a.dtype != object and b.dtype != object:
            return np.asarray(function(a, b))
        return np.asarray(np.frompyfunc(symbolic, 2, 1)(a, b), object)

    return evaluate


def divide(a: Array, b: Array) -> Array:
    """ONNX's Div: integers are truncated towards zero."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    return np.asarray(np.trunc(a / b)).astype(a.dtype)


def shape(m: Importer, node: Node) -> None:
    name = node.input(0)
    dims: tuple[Dim, ...] = m.known[name].shape if name in m.known else m.type(name).shape
    start, end = node.attr("start", 0), node.attr("end", len(dims))
    m.known[node.output] = dims_array(dims[slice(start, end)])


def dims_array(dims: Any) -> Array:
    """Dimensions as an int64 array, or as an object array if any is a symbol."""
    symbolic = any(isinstance(dim, str) for dim in dims)
    array = np.empty(len(dims), object if symbolic else np.int64)
    array[:] = dims
    return array


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
    shape = bounded(m.ints(node.input(0), "the shape"))
    m.known[node.output] = np.full(shape, fill.reshape(()), fill.dtype)


def evaluate_range(m: Importer, node: Node, inputs: list[Array]) -> Array:
    start, stop, step = (array.reshape(()) for array in inputs)
    bounded((max(0, math.ceil((stop - start) / step)),))
    return np.arange(start, stop, step, dtype=start.dtype)


def evaluate_where(m: Importer, node: Node, inputs: list[Array]) -> Array:
    bounded(np.broadcast_shapes(*(array.shape for array in inputs)))
    return np.where(*inputs)  # type: ignore[call-overload, no-any-return]


def evaluate_reduce_prod(m: Importer, node: Node, inputs: list[Array]) -> Array:
    axes = node.attr("axes", None)
    keep = bool(node.attr("keepdims", 1))
    return np.asarray(inputs[0].prod(axis=None if axes is None else tuple(axes), keepdims=keep))


def elementwise(function: Callable[..., Any]) -> Callable[[Importer, Node, list[Array]], Array]:
    def evaluate(m: Importer, node: Node, inputs: list[Array]) -> Array:
        bounded(np.broadcast_shapes(*(array.shape for array in inputs)))
        return np.asarray(function(*inputs))

    return evaluate


# --- movement -----------------------------------------------------------------------------------------


def identity(m: Importer, node: Node) -> None:
    """Identity, and Dropout when a model is not trained."""
    node.ignore("ratio", "seed")
    if any(node.outputs[1:]):
        raise ModelError("the mask of Dropout is not supported")
    if node.input(0) in m.known:
        m.known[node.output] = m.known[node.input(0)]
    else:
        m.bind(node.output, m.value(node.input(0)))


def to_shape(m: Importer, x: str, shape: tuple[Dim, ...], out: str) -> str:
    """A reshape of a graph value."""
    type = m.graph.types[x]
    if type.shape == shape:
        return x
    return m.emit(Reshape, x, out=out, like=type.with_shape(shape))


def reshape(m: Importer, node: Node) -> None:
    target = m.const(node.input(1), "the shape")
    x, allow_zero = node.input(0), bool(node.attr("allowzero", 0))
    if x in m.known:
        dims = resolve_shape(m.known[x].shape, target.tolist(), allow_zero)
        m.known[node.output] = m.known[x].reshape([known("a dimension", d) for d in dims])
        return
    dims = resolve_shape(m.type(x).shape, target.tolist(), allow_zero)
    m.bind(node.output, to_shape(m, m.value(x), dims, node.output))


def flatten(m: Importer, node: Node) -> None:
    x = m.value(node.input(0))
    dims = m.graph.types[x].shape
    axis = node.attr("axis", 1)
    axis = axis + len(dims) if axis < 0 else axis
    sides: list[Dim] = []
    for side in (dims[:axis], dims[axis:]):
        free = symbols(side)
        if free and (len(free) > 1 or numel(side) != 1):
            raise ShapeError(
                f"flattening {list(side)} gives no simple dimension; fix it with input_shapes"
            )
        sides.append(free[0] if free else numel(side))
    m.bind(node.output, to_shape(m, x, tuple(sides), node.output))


def transpose(m: Importer, node: Node) -> None:
    name = node.input(0)
    rank = m.known[name].ndim if name in m.known else m.type(name).rank
    perm = tuple(node.attr("perm", range(rank)[::-1]))
    if name in m.known:
        m.known[node.output] = m.known[name].transpose(perm)
    else:
        m.bind(node.output, m.emit(Transpose, m.value(name), out=node.output, perm=perm))


def squeeze(m: Importer, node: Node) -> None:
    axes = m.optional_ints(node, "axes", 1, since=13)
    name = node.input(0)
    dims = m.known[name].shape if name in m.known else m.type(name).shape
    drop = (
        {i for i, d in enumerate(dims) if d == 1} if axes is None else {a % len(dims) for a in axes}
    )
    if any(dims[axis] != 1 for axis in drop):
        raise ShapeError(f"axes {sorted(drop)} of {list(dims)} are not all of size 1")
    kept = tuple(dim for axis, dim in enumerate(dims) if axis not in drop)
    _reshaped(m, node, kept)


def unsqueeze(m: Importer, node: Node) -> None:
    axes = m.optional_ints(node, "axes", 1, since=13) or []
    name = node.input(0)
    dims = list(m.known[name].shape if name in m.known else m.type(name).shape)
    rank = len(dims) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        dims.insert(axis, 1)
    _reshaped(m, node, tuple(dims))


def _reshaped(m: Importer, node: Node, dims: tuple[Dim, ...]) -> None:
    name = node.input(0)
    if name in m.known:
        m.known[node.output] = m.known[name].reshape([known("a dimension", d) for d in dims])
    else:
        m.bind(node.output, to_shape(m, m.value(name), dims, node.output))


def evaluate_concat(m: Importer, node: Node, inputs: list[Array]) -> Array:
    if any(array.dtype == object for array in inputs):
        inputs = [array.astype(object) for array in inputs]
    return np.concatenate(inputs, axis=node.attr("axis"))


def concat(m: Importer, node: Node) -> None:
    parts = [m.value(name) for name in node.inputs]
    first = m.graph.types[parts[0]]
    axis = node.attr("axis") % first.rank
    m.bind(node.output, m.emit(Concat, *parts, out=node.output, like=first, axis=axis))


def split(m: Importer, node: Node) -> None:
    x = m.value(node.input(0))
    type = m.graph.types[x]
    axis = node.attr("axis", 0) % type.rank
    size = known("the split dimension", type.shape[axis])
    sizes = m.optional_ints(node, "split", 1, since=13)
    count = len(node.outputs)
    node.ignore("num_outputs")
    if sizes is None:
        chunk = -(-size // count)
        sizes = [chunk] * (count - 1) + [size - chunk * (count - 1)]
    if sum(sizes) != size or len(sizes) != count or min(sizes) < 0:
        raise ShapeError(f"split {sizes} does not cut {size} into {count} parts")
    start = 0
    for name, length in zip(node.outputs, sizes, strict=True):
        if name:
            m.bind(name, sliced(m, x, {axis: (start, start + length, 1)}, name))
        start += length


def sliced(m: Importer, x: str, ranges: dict[int, tuple[int, int | None, int]], out: str) -> str:
    """x cut along some axes to (start, stop, step)."""
    rank = m.graph.types[x].rank
    bounds = [ranges.get(axis, (0, None, 1)) for axis in range(rank)]
    starts, stops, steps = zip(*bounds, strict=True)
    return m.emit(Slice, x, out=out, like=m.graph.types[x], starts=starts, stops=stops, steps=steps)


def slice_(m: Importer, node: Node) -> None:
    """Slice with its bounds as inputs (opset 10 on)."""
    name = node.input(0)
    dims = m.known[name].shape if name in m.known else m.type(name).shape
    starts, ends = m.ints(node.input(1), "starts"), m.ints(node.input(2), "ends")
    axes = m.ints(node.input(3), "axes") if node.input(3) else list(range(len(starts)))
    steps = m.ints(node.input(4), "steps") if node.input(4) else [1] * len(starts)
    ranges: dict[int, tuple[int, int | None, int]] = {}
    for axis, start, end, step in zip(
        (a % len(dims) for a in axes), starts, ends, steps, strict=True
    ):
        size = dims[axis]
        if isinstance(size, str):
            whole = step == 1 and start == 0 and end >= 2**31 - 1
            reverse = step == -1 and start in (-1, 2**31 - 1, 2**63 - 1) and end <= -(2**31)
            if not whole and not reverse:
                raise ShapeError(
                    f"axis {axis} is the symbol {size} and cannot be cut; fix it with input_shapes"
                )
            ranges[axis] = (0, None, 1) if whole else (-1, None, -1)
        else:
            first, stop, step = (
                slice(start, end, step).indices(size)
                if step > 0
                else _backward(start, end, step, size)
            )
            ranges[axis] = (first, None if step < 0 and stop < 0 else stop, step)
    if name in m.known:
        index = tuple(slice(*ranges.get(axis, (0, None, 1))) for axis in range(len(dims)))
        m.known[node.output] = m.known[name][index]
    else:
        m.bind(node.output, sliced(m, m.value(name), ranges, node.output))


def _backward(start: int, end: int, step: int, size: int) -> tuple[int, int, int]:
    """ONNX's clamping for negative steps: an end far below zero means through the first element."""
    start = start + size if start < 0 else start
    end = end + size if -size <= end < 0 else end
    return min(max(start, 0), size - 1), max(end, -1), step


def pad(m: Importer, node: Node) -> None:
    x = m.value(node.input(0))
    rank = m.graph.types[x].rank
    mode = node.attr("mode", "constant")
    pads = m.optional_ints(node, "pads", 1, since=11)
    if pads is None:
        raise ModelError("pads are missing")
    value = 0.0
    if m.opset < 11:
        value = node.attr("value", 0.0)
    elif node.input(2):
        value = float(m.const(node.input(2), "the value").reshape(()))
    axes = m.ints(node.input(3), "axes") if node.input(3) else list(range(rank))
    if mode not in ("constant", "reflect", "edge"):
        raise ModelError(f"mode {mode!r} is not supported")
    if len(pads) != 2 * len(axes) or min(pads, default=0) < 0:
        raise ModelError(f"pads {pads} are not {2 * len(axes)} integers of at least 0")
    padding = [(0, 0)] * rank
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        padding[axis % rank] = (before, after)
    y = m.emit(
        Pad,
        x,
        out=node.output,
        like=m.graph.types[x],
        padding=tuple(padding),
        mode=mode,
        value=value,
    )
    m.bind(node.output, y)


def evaluate_gather(m: Importer, node: Node, inputs: list[Array]) -> Array:
    axis = node.attr("axis", 0)
    bounded((inputs[1].size, inputs[0].size // max(1, inputs[0].shape[axis])))
    return np.take(inputs[0], inputs[1].astype(np.int64), axis=axis)


def gather(m: Importer, node: Node) -> None:
    x = m.value(node.input(0))
    axis = node.attr("axis", 0) % m.graph.types[x].rank
    size = m.graph.types[x].shape[axis]
    if node.input(1) in m.known:
        indices = m.known[node.input(1)]
        if isinstance(size, int) and (
            indices.size and not -size <= indices.min() <= indices.max() < size
        ):
            raise ModelError(
                f"indices {indices.min()}..{indices.max()} leave axis {axis} of {m.graph.types[x]}"
            )
        if indices.ndim == 0 and isinstance(size, int):
            at = int(indices) % size
            y = sliced(m, x, {axis: (at, at + 1, 1)}, f"{node.output}~slice")
            dims = m.graph.types[y].shape
            m.bind(node.output, to_shape(m, y, dims[:axis] + dims[axis + 1 :], node.output))
            return
    y = m.emit(Gather, x, m.value(node.input(1)), out=node.output, like=m.graph.types[x], axis=axis)
    m.bind(node.output, y)


def evaluate_expand(m: Importer, node: Node, inputs: list[Array]) -> Array:
    target = tuple(int(d) for d in inputs[1])
    return np.broadcast_to(inputs[0], bounded(np.broadcast_shapes(inputs[0].shape, target)))


def expand(m: Importer, node: Node) -> None:
    from nprt.ops.rules import broadcast

    x = m.value(node.input(0))
    type = m.graph.types[x]
    target = tuple(
        d if isinstance(d, str) else int(d) for d in m.const(node.input(1), "the shape").tolist()
    )
    shape = broadcast(type.shape, target)
    m.bind(
        node.output,
        m.emit(Expand, x, out=node.output, like=type.with_shape(shape))
        if shape != type.shape
        else x,
    )


def tile(m: Importer, node: Node) -> None:
    """Along each axis: put an axis of size 1 before it, repeat that, and merge the two."""
    y = m.value(node.input(0))
    for axis, count in enumerate(m.ints(node.input(1), "repeats")):
        if count == 1:
            continue
        type = m.graph.types[y]
        before, size, after = (
            type.shape[:axis],
            known("a repeated dimension", type.shape[axis]),
            type.shape[axis + 1 :],
        )
        y = to_shape(m, y, (*before, 1, size, *after), f"{node.output}~split")
        repeated = type.with_shape((*before, count, size, *after))
        y = m.emit(Expand, y, out=f"{node.output}~repeated", like=repeated)
        y = to_shape(m, y, (*before, count * size, *after), f"{node.output}~{axis}")
    m.bind(node.output, y)


def depth_to_space(m: Importer, node: Node) -> None:
    x = m.value(node.input(0))
    dims = m.graph.types[x].shape
    n, (c, h, w) = dims[0], (known("a dimension", d) for d in dims[1:])
    block = node.attr("blocksize")
    crd = node.attr("mode", "DCR") == "CRD"
    split = (c // block**2, block, block) if crd else (block, block, c // block**2)
    y = to_shape(m, x, (n, *split, h, w), f"{node.output}~split")
    perm = (0, 1, 4, 2, 5, 3) if crd else (0, 3, 4, 1, 5, 2)
    y = m.emit(Transpose, y, out=f"{node.output}~swap", perm=perm)
    m.bind(node.output, to_shape(m, y, (n, c // block**2, h * block, w * block), node.output))


def argmax(m: Importer, node: Node) -> None:
    if node.attr("select_last_index", 0):
        raise ModelError("select_last_index=1 is not supported")
    x = m.value(node.input(0))
    axis = node.attr("axis", 0) % m.graph.types[x].rank
    keep = bool(node.attr("keepdims", 1))
    m.bind(node.output, m.emit(Argmax, x, out=node.output, axis=axis, keepdims=keep))


def reduce_mean(m: Importer, node: Node) -> None:
    x = m.value(node.input(0))
    rank = m.graph.types[x].rank
    axes = m.optional_ints(node, "axes", 1, since=18)
    keepdims = bool(node.attr("keepdims", 1))
    if node.attr("noop_with_empty_axes", 0) and not axes:
        m.bind(node.output, x)
        return
    chosen = tuple(sorted(axis % rank for axis in axes)) if axes else tuple(range(rank))
    m.bind(node.output, m.emit(ReduceMean, x, out=node.output, axes=chosen, keepdims=keepdims))
