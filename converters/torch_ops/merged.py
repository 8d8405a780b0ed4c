"""Dimensions that merge the batch with others, as (N * heads, length, width), taken apart.

A recording for any batch has them as "N*4". Each value that has one gets a shape in which the batch is a dimension of
its own, and the operators from there on are rewritten, until a view parts the batch again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nprt.converters.torch_ops.recording import BATCH, Call, Differs, Known, Recording, Ref, Value
from nprt.ir import Dim

# For each axis that torch has, the axes that stand for it.
Groups = tuple[tuple[int, ...], ...]


def taken_apart(recording: Recording) -> Recording:
    """The same program without merged dimensions.

    Raises:
        Differs: an operator on a merged dimension is not one of this file.
    """
    if not any(map(_is_merged, recording.values)):
        return recording
    program = _Program(recording)
    calls = [program.rewritten(call) for call in recording.calls]
    for item in recording.outputs.values():
        program.require_parted(item, "an output")
    return replace(recording, values=program.values, calls=calls)


def _is_merged(value: Value) -> bool:
    return any(factor(dim) > 1 for dim in value.shape)


def factor(dim: Dim) -> int:
    """How many there are for each sample of a dimension with the batch in it; 0 for one without."""
    if isinstance(dim, int):
        return 0
    return int(dim.partition("*")[2] or 1)


class _Program:
    def __init__(self, recording: Recording) -> None:
        self.recorded = recording.values
        self.values = list(recording.values)
        self.groups: dict[Ref, Groups] = {}

    # --- values ---------------------------------------------------------------------------------------

    def was(self, ref: Ref) -> tuple[Dim, ...]:
        """The shape that torch has."""
        return self.recorded[ref.index].shape

    def shape(self, ref: Ref) -> tuple[Dim, ...]:
        return self.values[ref.index].shape

    def axes(self, ref: Ref) -> Groups:
        if ref in self.groups:
            return self.groups[ref]
        return tuple((axis,) for axis in range(len(self.was(ref))))

    def bind(self, ref: Ref | None, shape: Sequence[Dim], axes: Groups) -> None:
        if ref is None:
            return
        value = self.recorded[ref.index]
        if any(len(group) != 1 for group in axes):
            self.groups[ref] = axes
            value = replace(value, channels_last=False)
        self.values[ref.index] = replace(value, shape=tuple(shape))

    def require_parted(self, item: Any, what: str) -> None:
        if isinstance(item, Ref) and (item in self.groups or _is_merged(self.values[item.index])):
            shape = ", ".join(map(str, self.was(item)))
            raise Differs(
                f"{what} has shape [{shape}], which merges the batch with other dimensions"
            )

    # --- calls ----------------------------------------------------------------------------------------

    def rewritten(self, call: Call) -> Call:
        refs = [item for item in _flat((call.args, call.kwargs)) if isinstance(item, Ref)]
        outputs = [ref for ref in call.outputs if ref is not None]
        if not any(ref in self.groups or _is_merged(self.values[ref.index]) for ref in refs) and (
            not any(_is_merged(self.values[ref.index]) for ref in outputs)
        ):
            return call
        namespace, _, name = call.op.partition(".")
        rewrite = REWRITES.get(f"{namespace}.{name.rstrip('_')}")
        for ref in refs:
            if rewrite is None or (ref not in self.groups and _is_merged(self.values[ref.index])):
                self.require_parted(ref, f"{call.place}: what {call.op} reads")
        if rewrite is None:
            raise Differs(f"{call.place}: {call.op} merges the batch with other dimensions")
        return rewrite(self, call)


def _flat(item: Any) -> list[Any]:
    if isinstance(item, tuple | list):
        return [leaf for part in item for leaf in _flat(part)]
    if isinstance(item, dict):
        return [leaf for part in item.values() for leaf in _flat(part)]
    return [item]


def _refuse(call: Call) -> Differs:
    return Differs(f"{call.place}: {call.op} on a dimension that merges the batch with others")


def _single(program: _Program, call: Call, ref: Ref, axis: int) -> int:
    """The axis that stands for one that is not merged."""
    groups = program.axes(ref)
    (*found,) = groups[axis % len(groups)]
    if len(found) != 1:
        raise _refuse(call)
    return found[0]


def view(program: _Program, call: Call) -> Call:
    """The elements before the batch, in each sample, and behind it are as many as they were."""
    (source, (target,)) = (call.args[0], call.outputs)
    assert target is not None
    shape: list[Dim] = []
    groups: list[tuple[int, ...]] = []
    before = math.prod(_numbers(_until_batch(program.shape(source))))
    ahead = 1
    for dim in program.was(target):
        parts: list[Dim] = [dim]
        if count := factor(dim):
            if before % ahead or count % (before // ahead):
                raise _refuse(call)
            first = before // ahead
            parts = [n for n in (first, BATCH, count // first) if n != 1]
        else:
            ahead *= int(dim)
        groups.append(tuple(range(len(shape), len(shape) + len(parts))))
        shape += parts
    if math.prod(_numbers(_until_batch(shape))) != before:
        raise _refuse(call)
    program.bind(target, shape, tuple(groups))
    return call


def _until_batch(shape: Sequence[Dim]) -> Sequence[Dim]:
    return shape[: shape.index(BATCH)] if BATCH in shape else shape


def _numbers(shape: Sequence[Dim]) -> list[int]:
    return [dim for dim in shape if isinstance(dim, int)]


def permute(program: _Program, call: Call) -> Call:
    """permute, transpose and t, as a permutation of all axes."""
    source, *rest = call.args
    rank = len(program.was(source))
    order = list(range(rank))
    if call.op == "aten.permute":
        order = [axis % rank for axis in rest[0]]
    else:
        a, b = (axis % rank for axis in (rest or (rank - 2, rank - 1)))
        order[a], order[b] = order[b], order[a]
    groups = [program.axes(source)[axis] for axis in order]
    perm = [axis for group in groups for axis in group]
    axes = tuple(tuple(map(perm.index, group)) for group in groups)
    shape = program.shape(source)
    program.bind(call.outputs[0], [shape[axis] for axis in perm], axes)
    return replace(call, op="aten.permute", overload="default", args=(source, perm), kwargs={})


def elementwise(program: _Program, call: Call) -> Call:
    """Operands of the result's shape, or that repeat along everything up to the last merged axis."""
    (target,) = call.outputs
    assert target is not None
    items = [*call.args, *call.kwargs.values()]
    refs = [item for item in items if isinstance(item, Ref)]
    whole = next(
        (r for r in refs if r in program.groups and program.was(r) == program.was(target)), None
    )
    if whole is None:
        raise _refuse(call)
    groups, shape = program.axes(whole), program.shape(whole)
    last = max(axis for axis, group in enumerate(groups) if len(group) > 1)
    behind = len(groups) - 1 - last
    for item in items:
        if isinstance(item, Ref) and item in program.groups:
            alike = (program.axes(item), program.shape(item)) == (groups, shape)
        elif isinstance(item, Ref | Known):
            own = program.was(item) if isinstance(item, Ref) else tuple(item.tensor.shape)
            alike = all(dim == 1 for dim in own[: max(0, len(own) - behind)])
            alike = alike and getattr(item, "repeats", None) is None
        else:
            continue
        if not alike:
            raise _refuse(call)
    program.bind(target, shape, groups)
    return call


def product(program: _Program, call: Call) -> Call:
    """bmm and matmul, with the merged axes in front."""
    a, b = call.args[:2]
    (target,) = call.outputs
    if not all(isinstance(item, Ref) for item in (a, b)):
        raise _refuse(call)
    first, second = ((program.axes(ref), program.shape(ref)) for ref in (a, b))
    lead = sum(len(group) for group in first[0][:-2])
    alike = first[0][:-2] == second[0][:-2] and first[1][:lead] == second[1][:lead]
    plain = all(len(group) == 1 for groups in (first[0], second[0]) for group in groups[-2:])
    if not alike or not plain:
        raise _refuse(call)
    program.bind(target, (*first[1][:-1], second[1][-1]), first[0])
    return replace(call, op="aten.matmul", overload="default")


def last_axes(count: Callable[[Call], int]) -> Callable[[_Program, Call], Call]:
    """Layers that work along the last `count` axes alone: linear, layer_norm."""

    def rewrite(program: _Program, call: Call) -> Call:
        source, target = call.args[0], call.outputs[0]
        if not isinstance(source, Ref) or target is None:
            raise _refuse(call)
        axes = count(call)
        groups, shape = program.axes(source), program.shape(source)
        if any(len(group) != 1 for group in groups[len(groups) - axes :]):
            raise _refuse(call)
        program.bind(target, (*shape[:-axes], *program.was(target)[-axes:]), groups)
        return call

    return rewrite


def along(position: int, default: int | None = None, *, drops: bool = False) -> Any:
    """Operators along one axis that is not merged, which the result has, maybe with another size, or drops.

    Args:
        position: of the axis among the arguments.
    """

    def rewrite(program: _Program, call: Call) -> Call:
        args = list(call.args)
        source = args[0]
        given = args[position] if len(args) > position else call.kwargs.get("dim", default)
        if not isinstance(given, int):
            raise _refuse(call)
        axis = _single(program, call, source, given)
        groups, shape = program.axes(source), program.shape(source)
        rank = len(groups)
        for target in call.outputs:
            if target is None:
                continue
            if drops:
                kept = tuple(
                    tuple(a - (a > axis) for a in group) for group in groups if group != (axis,)
                )
                program.bind(target, (*shape[:axis], *shape[axis + 1 :]), kept)
            else:
                size = program.was(target)[given % rank]
                program.bind(target, (*shape[:axis], size, *shape[axis + 1 :]), groups)
        if len(args) > position:
            return replace(call, args=(*args[:position], axis, *args[position + 1 :]))
        return replace(call, kwargs={**call.kwargs, "dim": axis})

    return rewrite


VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze")
EACH_ELEMENT = (
    *("clone", "contiguous", "detach", "alias", "lift_fresh", "_to_copy"),
    *("add", "sub", "rsub", "mul", "div", "pow", "maximum", "minimum", "masked_fill", "where"),
    *("relu", "relu6", "clamp", "clamp_min", "clamp_max", "hardtanh", "hardswish", "hardsigmoid"),
    *("sigmoid", "tanh", "elu", "leaky_relu", "gelu", "silu", "exp", "sqrt", "rsqrt", "neg", "abs"),
    *("dequantize", "quantize_per_tensor", "logical_not"),
)
EACH_CODE = (
    *("add", "add_relu", "mul", "mul_relu", "add_scalar", "add_scalar_relu", "mul_scalar"),
    *("mul_scalar_relu", "hardswish", "sigmoid", "leaky_relu", "elu", "relu6", "clamp"),
)

REWRITES: dict[str, Callable[[_Program, Call], Call]] = {
    **{f"aten.{name}": view for name in VIEWS},
    **{f"aten.{name}": permute for name in ("permute", "transpose", "t")},
    **{f"aten.{name}": elementwise for name in EACH_ELEMENT},
    **{f"quantized.{name}": elementwise for name in EACH_CODE},
    "quantized_decomposed.quantize_per_tensor": elementwise,
    "quantized_decomposed.dequantize_per_tensor": elementwise,
    "aten.bmm": product,
    "aten.matmul": product,
    "aten.linear": last_axes(lambda call: 1),
    "quantized.linear": last_axes(lambda call: 1),
    "quantized.linear_relu": last_axes(lambda call: 1),
    "aten.native_layer_norm": last_axes(lambda call: len(call.args[1])),
    "quantized.layer_norm": last_axes(lambda call: len(call.args[1])),
    "aten._softmax": along(1),
    "aten._log_softmax": along(1),
    "aten.slice": along(1, 0),
    "aten.select": along(1, drops=True),
    "aten.split": along(2, 0),
    "aten.split_with_sizes": along(2, 0),
    "aten.unbind": along(1, 0, drops=True),
}
