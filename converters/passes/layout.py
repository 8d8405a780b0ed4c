"""Move transposes towards the outputs, past every op that does not care for the order of axes, until they cancel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from nprt.converters.graph import DERIVED, REORDERED, Graph, Rewriter
from nprt.ir import Op, TensorType
from nprt.ops.add import Add
from nprt.ops.argmax import Argmax
from nprt.ops.cast import Cast
from nprt.ops.concat import Concat
from nprt.ops.dequantize import Dequantize
from nprt.ops.div import Div
from nprt.ops.linear import Linear
from nprt.ops.lookup import Lookup
from nprt.ops.mul import Mul
from nprt.ops.pad import Pad
from nprt.ops.quantize import Quantize
from nprt.ops.reduce_mean import ReduceMean
from nprt.ops.reshape import Reshape
from nprt.ops.slice import Slice
from nprt.ops.softmax import Softmax
from nprt.ops.sub import Sub
from nprt.ops.transpose import Transpose
from nprt.ops.unary import Unary

Perm = tuple[int, ...]


def sink_transposes(graph: Graph, *, past_dequantize: bool = True) -> None:
    """For `op(transpose(x))`, write `transpose(op'(x))` where op' exists; merge and drop transposes.

    Args:
        graph: any.
        past_dequantize: whether a transpose of codes may become one of float32.
    """

    def rule(rewriter: Rewriter, op: Op) -> bool:
        sink = SINKS.get(type(op))
        if sink is None or (isinstance(op, Dequantize) and not past_dequantize):
            return False
        return sink(rewriter, op)

    graph.rewrite(rule)


def _source(rewriter: Rewriter, name: str) -> Any:
    """The transpose that makes `name`, or None."""
    return rewriter.producer(name, Transpose)


def _restore(rewriter: Rewriter, op: Op, inner: str, perm: Perm) -> bool:
    """Bind op's output to the transposed result of its rewritten form; a transpose that moves no axis is none."""
    if perm == tuple(range(len(perm))):
        rewriter.replace(op.outputs[0], inner)
        return True
    return rewriter.rebind(op, Transpose, inner, perm=perm)


def _merge(rewriter: Rewriter, op: Op) -> bool:
    """Two transposes are one."""
    assert isinstance(op, Transpose)
    inner = _source(rewriter, op.inputs[0])
    if inner is None:
        return _restore(rewriter, op, op.inputs[0], op.perm)
    return _restore(rewriter, op, inner.inputs[0], tuple(inner.perm[axis] for axis in op.perm))


def _same_shape(rewriter: Rewriter, op: Op) -> bool:
    """Ops on each element by itself, with one value that is not constant."""
    t = _source(rewriter, op.inputs[0])
    if t is None:
        return False
    like = rewriter.graph.types[op.outputs[0]]
    if like.quant is not None and like.quant.axis is not None:
        return False
    y = rewriter.add(
        type(op),
        t.inputs[0],
        *op.inputs[1:],
        out=f"{op.outputs[0]}~nhwc",
        like=_scalar(like),
        **op.fields(),
    )
    return _restore(rewriter, op, y, t.perm)


def _scalar(type: TensorType) -> TensorType:
    return type.with_shape(())


def _binary(rewriter: Rewriter, op: Op) -> bool:
    """Operands are transposed alike, or are constants, which are transposed here, or have a single element."""
    graph = rewriter.graph
    sources = [_source(rewriter, name) for name in op.inputs]
    perms = {t.perm for t in sources if t is not None}
    if len(perms) != 1:
        return False
    perm = perms.pop()
    if graph.types[op.outputs[0]].rank != len(perm):
        return False
    inputs = []
    for name, t in zip(op.inputs, sources, strict=True):
        operand = graph.types[name]
        if t is not None:
            inputs.append(t.inputs[0])
        elif all(dim == 1 for dim in operand.shape) and operand.rank <= len(perm):
            inputs.append(name)
        elif rewriter.is_constant(name) and operand.quant is None and operand.rank <= len(perm):
            array = graph.constants[name]
            array = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
            inputs.append(graph.constant(array.transpose(np.argsort(perm)), name))
        else:
            return False
    like = _scalar(graph.types[op.outputs[0]])
    y = rewriter.add(type(op), *inputs, out=f"{op.outputs[0]}~nhwc", like=like, **op.fields())
    return _restore(rewriter, op, y, perm)


def _concat(rewriter: Rewriter, op: Op) -> bool:
    sources = [_source(rewriter, name) for name in op.inputs]
    if any(t is None or t.perm != sources[0].perm for t in sources):
        return False
    perm = sources[0].perm
    assert isinstance(op, Concat)
    like = _scalar(rewriter.graph.types[op.outputs[0]])
    y = rewriter.add(
        Concat,
        *(t.inputs[0] for t in sources),
        out=f"{op.outputs[0]}~nhwc",
        like=like,
        axis=perm[op.axis],
    )
    return _restore(rewriter, op, y, perm)


def _per_axis(*names: str) -> Callable[[Rewriter, Op], bool]:
    """Ops with fields that hold one entry for each axis."""

    def sink(rewriter: Rewriter, op: Op) -> bool:
        t = _source(rewriter, op.inputs[0])
        if t is None:
            return False
        inverse = np.argsort(t.perm).tolist()
        fields = op.fields() | {
            name: tuple(getattr(op, name)[axis] for axis in inverse) for name in names
        }
        like = _scalar(rewriter.graph.types[op.outputs[0]])
        y = rewriter.add(type(op), t.inputs[0], out=f"{op.outputs[0]}~nhwc", like=like, **fields)
        return _restore(rewriter, op, y, t.perm)

    return sink


def _one_axis(rewriter: Rewriter, op: Op) -> bool:
    """Ops with a field `axis` that keep the number of axes."""
    t = _source(rewriter, op.inputs[0])
    if t is None or not getattr(op, "keepdims", True):
        return False
    fields = op.fields() | {"axis": t.perm[op.axis]}  # type: ignore[attr-defined]
    like = _scalar(rewriter.graph.types[op.outputs[0]])
    y = rewriter.add(
        type(op), t.inputs[0], *op.inputs[1:], out=f"{op.outputs[0]}~nhwc", like=like, **fields
    )
    return _restore(rewriter, op, y, t.perm)


def _reduce(rewriter: Rewriter, op: Op) -> bool:
    assert isinstance(op, ReduceMean)
    t = _source(rewriter, op.inputs[0])
    if t is None:
        return False
    moved = [t.perm[axis] for axis in op.axes]
    axes = tuple(sorted(moved))
    # the axes of x that remain, in the order of y's axes
    left = [axis for axis in t.perm if axis not in axes]
    if op.numerics == "torch-nhwc" and (moved, left) != (sorted(moved), sorted(left)):
        return False  # its sums depend on the order of axes
    like = _scalar(rewriter.graph.types[op.outputs[0]])
    fields = op.fields() | {"axes": axes}
    if op.keepdims:
        y = rewriter.add(ReduceMean, t.inputs[0], out=f"{op.outputs[0]}~nhwc", like=like, **fields)
        return _restore(rewriter, op, y, t.perm)
    order = tuple(sorted(left).index(axis) for axis in left)
    y = rewriter.add(ReduceMean, t.inputs[0], out=f"{op.outputs[0]}~nhwc", like=like, **fields)
    return _restore(rewriter, op, y, order)


def _moves_only_ones(graph: Graph, op: Transpose) -> bool:
    """Whether a transpose leaves the elements in their order, because the axes it moves have size 1."""
    shape = graph.types[op.inputs[0]].shape
    moved = [axis for axis in op.perm if shape[axis] != 1]
    return moved == sorted(moved)


def _reshape(rewriter: Rewriter, op: Op) -> bool:
    """A transpose that only moves axes of size 1 does not change the order of elements, so a reshape ignores it."""
    t = _source(rewriter, op.inputs[0])
    if t is None:
        return False
    if not _moves_only_ones(rewriter.graph, t):
        return False
    return rewriter.rebind(op, Reshape, t.inputs[0], like=rewriter.graph.types[op.outputs[0]])


SINKS: dict[type[Op], Callable[[Rewriter, Op], bool]] = {
    Transpose: _merge,
    Unary: _same_shape,
    Quantize: _same_shape,
    Dequantize: _same_shape,
    Lookup: _same_shape,
    Cast: _same_shape,
    Add: _binary,
    Sub: _binary,
    Mul: _binary,
    Div: _binary,
    Concat: _concat,
    Slice: _per_axis("starts", "stops", "steps"),
    Pad: _per_axis("padding"),
    Softmax: _one_axis,
    Argmax: _one_axis,
    ReduceMean: _reduce,
    Reshape: _reshape,
}


def flatten_into_linear(graph: Graph) -> None:
    """`linear(reshape(transpose(x)))`: permute the columns of the constant weights instead of x."""

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if not isinstance(op, Linear) or not rewriter.is_constant(op.inputs[1]):
            return False
        reshape = rewriter.producer(op.inputs[0], Reshape)
        t = reshape and _source(rewriter, reshape.inputs[0])
        if not t or t.perm[0] != 0:
            return False
        types = graph.types
        source = types[t.inputs[0]].shape
        columns = types[op.inputs[1]].shape[1]
        flat = types[reshape.outputs[0]].shape
        if len(flat) != 2 or any(isinstance(dim, str) for dim in source[1:]):
            return False
        transposed = [int(source[axis]) for axis in t.perm[1:]]
        if int(np.prod(transposed)) != columns:
            return False
        # order[j] is the column, as it was, of element j of x.
        order = np.arange(columns).reshape(transposed).transpose(np.argsort(t.perm[1:])).reshape(-1)
        weights = graph.constant(
            graph.constants[op.inputs[1]][:, order], op.inputs[1], types[op.inputs[1]].quant
        )
        x = rewriter.add(
            Reshape,
            t.inputs[0],
            out=f"{reshape.outputs[0]}{DERIVED}{REORDERED}",
            like=types[reshape.outputs[0]],
        )
        rewriter.emit(dataclasses.replace(op, inputs=(x, weights, *op.inputs[2:])))
        return True

    graph.rewrite(rule)


def reshape_trivial_transposes(graph: Graph) -> None:
    """A transpose that only moves axes of size 1 is written as the reshape that it is, which costs nothing."""

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if not isinstance(op, Transpose):
            return False
        if not _moves_only_ones(graph, op):
            return False
        return rewriter.rebind(op, Reshape, op.inputs[0], like=graph.types[op.outputs[0]])

    graph.rewrite(rule)
