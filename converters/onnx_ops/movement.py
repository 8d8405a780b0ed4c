"""Operators that move data."""

from __future__ import annotations

import numpy as np

from nprt.converters.onnx_ops.folding import Translate, dims_of, without_symbols
from nprt.converters.onnx_ops.importer import Importer, Node, resolve_shape
from nprt.errors import ModelError, ShapeError
from nprt.ir import Dim, numel, symbols
from nprt.ops.concat import Concat
from nprt.ops.expand import Expand
from nprt.ops.gather import Gather
from nprt.ops.pad import Pad
from nprt.ops.rules import broadcast, known
from nprt.ops.transpose import Transpose


def positions_of_symbols(translate: Translate) -> Translate:
    """For a node that only moves elements of its first input: where that is known and holds symbols, it moves these.

    The node is translated for the positions 0, 1, ... in place of the elements, which folds to known positions.
    """

    def moved(m: Importer, node: Node) -> None:
        name = node.input(0)
        array = m.known.get(name)
        if array is None or array.dtype != object:
            return translate(m, node)
        m.know(name, np.arange(array.size).reshape(array.shape))
        try:
            translate(m, node)
        finally:
            m.know(name, array)
        for output in filter(None, node.outputs):
            moved = np.asarray(array.reshape(-1)[m.known[output]], object)
            m.know(output, without_symbols(moved))

    return moved


def identity(m: Importer, node: Node) -> None:
    m.bind(node.output, m.value(node.input(0)))


def dropout(m: Importer, node: Node) -> None:
    """Dropout does nothing, except while a model is trained."""
    node.ignore("ratio", "seed")
    if any(node.outputs[1:]):
        raise ModelError("the mask of Dropout is not supported")
    if node.input(2) and m.const(node.input(2), "training_mode"):
        raise ModelError("Dropout in training mode; export the model in eval mode")
    identity(m, node)


def reshape(m: Importer, node: Node) -> None:
    target = m.const(node.input(1), "the shape").tolist()
    name, allow_zero = node.input(0), bool(node.attr("allowzero", 0))
    x = m.merged[name][0] if name in m.merged and 0 not in target else m.value(name)
    dims = m.graph.types[x].shape
    lead = len(dims) - len(target) + 1
    front = dims[: max(lead, 0)]
    if target[:1] == [-1] and symbols(front) and numel(front) > 1 and [*dims[lead:]] == target[1:]:
        m.merged[node.output] = (
            x,
            (tuple(range(lead)), *((axis,) for axis in range(lead, len(dims)))),
        )
        return
    dims = resolve_shape(dims, target, allow_zero)
    m.bind(node.output, m.to_shape(x, dims, node.output))


def flatten(m: Importer, node: Node) -> None:
    x = m.value(node.input(0))
    dims = m.graph.types[x].shape
    axis = node.attr("axis", 1)
    axis = axis + len(dims) if axis < 0 else axis
    sides: list[Dim] = []
    for side in (dims[:axis], dims[axis:]):
        free = symbols(side)
        if free and (len(free) > 1 or numel(side) != 1):
            raise ShapeError(f"flattening {list(side)} gives no dimension that has a name")
        sides.append(free[0] if free else numel(side))
    m.bind(node.output, m.to_shape(x, tuple(sides), node.output))


def transpose(m: Importer, node: Node) -> None:
    name = node.input(0)
    if name in m.merged:
        x, axes = m.merged[name]
        axes = tuple(axes[axis] for axis in node.attr("perm", range(len(axes))[::-1]))
        perm = tuple(axis for group in axes for axis in group)
        y = m.emit(Transpose, x, out=node.output, perm=perm)
        m.merged[node.output] = y, tuple(tuple(map(perm.index, group)) for group in axes)
        return
    x = m.value(name)
    perm = tuple(node.attr("perm", range(m.graph.types[x].rank)[::-1]))
    m.bind(node.output, m.emit(Transpose, x, out=node.output, perm=perm))


def squeeze(m: Importer, node: Node) -> None:
    axes = m.optional_ints(node, "axes", 1, since=13)
    x = m.value(node.input(0))
    dims = m.graph.types[x].shape
    drop = (
        {i for i, d in enumerate(dims) if d == 1} if axes is None else {a % len(dims) for a in axes}
    )
    if any(dims[axis] != 1 for axis in drop):
        raise ShapeError(f"axes {sorted(drop)} of {list(dims)} are not all of size 1")
    kept = tuple(dim for axis, dim in enumerate(dims) if axis not in drop)
    m.bind(node.output, m.to_shape(x, kept, node.output))


def unsqueeze(m: Importer, node: Node) -> None:
    axes = m.optional_ints(node, "axes", 1, since=13) or []
    x = m.value(node.input(0))
    dims = list(m.graph.types[x].shape)
    rank = len(dims) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        dims.insert(axis, 1)
    m.bind(node.output, m.to_shape(x, tuple(dims), node.output))


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
            m.bind(name, m.sliced(x, {axis: (start, start + length, 1)}, name))
        start += length


def slice_(m: Importer, node: Node) -> None:
    """Slice with its bounds as inputs (opset 10 on)."""
    x = m.value(node.input(0))
    dims = m.graph.types[x].shape
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
                raise ShapeError(f"axis {axis} is the free dimension {size} and cannot be cut")
            ranges[axis] = (0, None, 1) if whole else (-1, None, -1)
        else:
            first, stop, step = (
                slice(start, end, step).indices(size)
                if step > 0
                else _backward(start, end, step, size)
            )
            ranges[axis] = (first, None if step < 0 and stop < 0 else stop, step)
    m.bind(node.output, m.sliced(x, ranges, node.output))


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
            y = m.sliced(x, {axis: (at, at + 1, 1)}, f"{node.output}~slice")
            dims = m.graph.types[y].shape
            m.bind(node.output, m.to_shape(y, dims[:axis] + dims[axis + 1 :], node.output))
            return
    y = m.emit(Gather, x, m.value(node.input(1)), out=node.output, like=m.graph.types[x], axis=axis)
    m.bind(node.output, y)


def expand(m: Importer, node: Node) -> None:
    x = m.value(node.input(0))
    type = m.graph.types[x]
    shape = broadcast(type.shape, dims_of(m.const(node.input(1), "the shape")))
    if shape != type.shape:
        x = m.emit(Expand, x, out=node.output, like=type.with_shape(shape))
    m.bind(node.output, x)


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
        y = m.to_shape(y, (*before, 1, size, *after), f"{node.output}~split")
        repeated = type.with_shape((*before, count, size, *after))
        y = m.emit(Expand, y, out=f"{node.output}~repeated", like=repeated)
        y = m.to_shape(y, (*before, count * size, *after), f"{node.output}~{axis}")
    m.bind(node.output, y)


def depth_to_space(m: Importer, node: Node) -> None:
    x = m.value(node.input(0))
    dims = m.graph.types[x].shape
    n, (c, h, w) = dims[0], (known("a dimension", d) for d in dims[1:])
    block = node.attr("blocksize")
    crd = node.attr("mode", "DCR") == "CRD"
    split = (c // block**2, block, block) if crd else (block, block, c // block**2)
    y = m.to_shape(x, (n, *split, h, w), f"{node.output}~split")
    perm = (0, 1, 4, 2, 5, 3) if crd else (0, 3, 4, 1, 5, 2)
    y = m.emit(Transpose, y, out=f"{node.output}~swap", perm=perm)
    m.bind(node.output, m.to_shape(y, (n, c // block**2, h * block, w * block), node.output))


def space_to_depth(m: Importer, node: Node) -> None:
    x = m.value(node.input(0))
    dims = m.graph.types[x].shape
    n, (c, h, w) = dims[0], (known("a dimension", d) for d in dims[1:])
    block = node.attr("blocksize")
    crd = node.attr("mode", "DCR") == "CRD"
    if block < 1 or h % block or w % block:
        raise ShapeError(f"{h} x {w} is not made of blocks of {block}")
    y = m.to_shape(x, (n, c, h // block, block, w // block, block), f"{node.output}~split")
    perm = (0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4)
    y = m.emit(Transpose, y, out=f"{node.output}~swap", perm=perm)
    m.bind(node.output, m.to_shape(y, (n, c * block**2, h // block, w // block), node.output))
