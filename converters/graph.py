"""The graph between the front ends and the op list: a model under construction.

It is made of the same ops and types as a `Model`, but it can be changed. A front end writes float32 ops, with
`quantize` and `dequantize` around them where its source is quantized; the passes rewrite the graph; `to_model` freezes
it.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nprt.check import check, output_types
from nprt.ir import Array, Model, Op, Origin, QuantParams, TensorType
from nprt.ops.reshape import Reshape

FLOAT = TensorType("float32", ())

# Stands in a value's name between the value it was derived from and what was done, as in "conv1~nhwc".
DERIVED = "~"

# The word for values whose elements are in another order than those of the source's value; it stays in their names.
REORDERED = "reordered"


class Graph:
    """Values with types, constants, and ops in execution order."""

    def __init__(self) -> None:
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.types: dict[str, TensorType] = {}
        self.constants: dict[str, Array] = {}
        self.ops: list[Op] = []
        self.labels: dict[
            str, frozenset[str]
        ] = {}  # the names of the source nodes behind each value
        self._fresh: Counter[str] = Counter()

    # --- building -------------------------------------------------------------------------------------

    def fresh(self, base: str) -> str:
        """A value name that is not in use, `base` if possible."""
        name = base
        while name in self.types:
            self._fresh[base] += 1
            name = f"{base}{DERIVED}{self._fresh[base]}"
        return name

    def input(self, name: str, type: TensorType) -> None:
        self.inputs.append(name)
        self.types[name] = type

    def constant(self, array: Array, base: str, quant: QuantParams | None = None) -> str:
        """Add a constant; return its name."""
        name = self.fresh(base)
        self.types[name] = TensorType(array.dtype.name, tuple(array.shape), quant)
        self.constants[name] = array
        return name

    def add(
        self,
        cls: type[Op],
        *inputs: str,
        out: str | Sequence[str],
        like: TensorType = FLOAT,
        **fields: Any,
    ) -> str:
        """Append an op; return its (first) output.

        Args:
            cls: the op's class.
            inputs: value names; "" for an absent one.
            out: name of the output, or of all of them; made fresh where taken.
            like: dtype and quantization, or the shape, that the inputs leave open.
            fields: the op's fields.

        Raises:
            ModelError: the op's type rule does not accept the inputs.
        """
        op, types = make(self, cls, *inputs, out=out, like=like, **fields)
        self.ops.append(op)
        self.types.update(types)
        return op.outputs[0]

    # --- looking --------------------------------------------------------------------------------------

    def producers(self) -> dict[str, Op]:
        return {name: op for op in self.ops for name in op.outputs}

    def consumers(self) -> dict[str, list[Op]]:
        """The ops that read each value, once for each input they read it through."""
        readers: dict[str, list[Op]] = {name: [] for name in self.types}
        for op in self.ops:
            for name in op.used_inputs():
                readers[name].append(op)
        return readers

    # --- rewriting ------------------------------------------------------------------------------------

    def rewrite(self, rule: Callable[[Rewriter, Op], bool]) -> bool:
        """Rebuild the op list: `rule` either emits replacements for an op and returns True, or leaves it.

        Returns whether any op was replaced. Ops that nothing needs any more are removed.
        """
        rewriter = Rewriter(self)
        changed = False
        for op in rewriter.old_ops:
            op = rewriter.current(op)
            rewriter.label = self.labels.get(op.outputs[0], frozenset())
            if rule(rewriter, op):
                changed = True
            else:
                rewriter.emit(op)
        rewriter.finish()
        return changed

    def sweep(self) -> None:
        """Remove ops, constants and types that no output needs."""
        needed = set(self.outputs)
        kept = []
        for op in reversed(self.ops):
            if needed.intersection(op.outputs):
                needed.update(op.used_inputs())
                kept.append(op)
        self.ops = kept[::-1]
        alive = needed.union(self.inputs, *(op.outputs for op in self.ops))
        self.types = {name: type for name, type in self.types.items() if name in alive}
        self.constants = {name: a for name, a in self.constants.items() if name in alive}
        self.labels = {name: label for name, label in self.labels.items() if name in alive}

    # --- freezing -------------------------------------------------------------------------------------

    def to_model(self, origin: Origin | None = None) -> Model:
        """The checked model, with readable names. Equal constants become one."""
        self.sweep()
        names = self.final_names()
        constants: dict[str, Array] = {}
        seen: dict[tuple[TensorType, bytes], str] = {}
        for name, array in self.constants.items():
            array = np.ascontiguousarray(array).reshape(array.shape)
            names[name] = seen.setdefault((self.types[name], array.tobytes()), names[name])
            constants[names[name]] = array
        types = {names[name]: type for name, type in self.types.items()}
        ops = tuple(
            dataclasses.replace(
                op,
                inputs=tuple(name and names[name] for name in op.inputs),
                outputs=tuple(names[name] for name in op.outputs),
            )
            for op in self.ops
        )
        return check(
            Model(
                tuple(self.inputs), tuple(self.outputs), types, constants, ops, origin or Origin()
            )
        )

    def final_names(self) -> dict[str, str]:
        """What each value is called in the model: the name that the source gave it, or the value it was derived from.

        Inputs and outputs keep their names. The names of constants are made of what `check` allows for file names.
        """
        names = {name: name for name in (*self.inputs, *self.outputs)}
        taken = set(names)
        derived = [name for op in self.ops for name in op.outputs if name not in names]
        for name in (*derived, *self.constants):
            base, words = source_name(name)
            if name in self.constants:
                base = name.split(DERIVED)[0]
                base = re.sub(r"[^A-Za-z0-9_.\-]+", ".", base).strip(".-") or "constant"
            candidate, count = base, 0
            if words and (candidate in taken or REORDERED in words):
                candidate = base = f"{base}.{words[-1]}"
            while candidate in taken:
                count += 1
                candidate = f"{base}.{count}"
            taken.add(candidate)
            names[name] = candidate
        return names


def source_name(name: str) -> tuple[str, list[str]]:
    """What the source calls the value that `name` is or was derived from, and the words for what was done to it.

    A number at once behind the name tells values apart that the source calls alike: "add~1~nhwc" is "add.1".
    """
    base, *steps = name.split(DERIVED)
    if steps and steps[0].isdigit():
        base = f"{base}.{steps.pop(0)}"
    return base, [step for step in steps if not step.isdigit()]


def trimmed(inputs: tuple[str, ...]) -> tuple[str, ...]:
    """`inputs` of an op without the absent ones at the end."""
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    return inputs


def make(
    graph: Graph,
    cls: type[Op],
    *inputs: str,
    out: str | Sequence[str],
    like: TensorType = FLOAT,
    **fields: Any,
) -> tuple[Op, dict[str, TensorType]]:
    """An op and the types of its outputs; see `Graph.add`."""
    bases = [out] if isinstance(out, str) else list(out)
    names = tuple(graph.fresh(base) for base in bases)
    op = cls(inputs=trimmed(inputs), outputs=names, **fields)
    return op, dict(
        zip(names, output_types(op, (like,) * len(names), graph.types.__getitem__), strict=True)
    )


class Rewriter:
    """One forward pass over a graph's ops that emits their replacements."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.old_ops = graph.ops
        self.producers = graph.producers()
        self._readers = graph.consumers()
        self._substitute: dict[str, str] = {}
        self.label: frozenset[str] = frozenset()  # of the op that a rule is looking at
        graph.ops = []

    def current(self, op: Op) -> Op:
        """`op` reading the values that stand in for its inputs now."""
        inputs = tuple(self._substitute.get(name, name) for name in op.inputs)
        return op if inputs == op.inputs else dataclasses.replace(op, inputs=inputs)

    def emit(self, op: Op, like: TensorType | None = None) -> None:
        """Append `op`. What its inputs leave open comes from `like`, or from the types its outputs have."""
        declared = tuple(like or self.graph.types[name] for name in op.outputs)
        types = output_types(op, declared, self.graph.types.__getitem__)
        self.graph.types.update(zip(op.outputs, types, strict=True))
        self.graph.ops.append(op)
        self.graph.labels.update(dict.fromkeys(op.outputs, self.label))
        self.producers.update(dict.fromkeys(op.outputs, op))

    def add(
        self, cls: type[Op], *inputs: str, out: str, like: TensorType = FLOAT, **fields: Any
    ) -> str:
        """Emit a new op; return its output."""
        op, types = make(self.graph, cls, *inputs, out=out, like=like, **fields)
        self.graph.types.update(types)
        self.emit(op)
        return op.outputs[0]

    def rebind(
        self, op: Op, cls: type[Op], *inputs: str, like: TensorType = FLOAT, **fields: Any
    ) -> bool:
        """Emit a new op in the place of `op`, under the names of its outputs. Returns True, for rules to return."""
        self.emit(cls(inputs=trimmed(inputs), outputs=op.outputs, **fields), like)
        return True

    def replace(self, old: str, new: str) -> None:
        """Every later reader of `old` reads `new`."""
        self._substitute[old] = new
        for name, target in self._substitute.items():
            if target == old:
                self._substitute[name] = new
        self._readers.setdefault(new, []).extend(self._readers.get(old, []))

    def producer(self, name: str, *classes: type[Op]) -> Any:
        """The op that makes `name`, if it is one of `classes`; else None."""
        op = self.producers.get(name)
        return op if isinstance(op, classes) else None

    def readers(self, name: str) -> list[Op]:
        """The ops of the old list that read `name`."""
        return self._readers.get(name, [])

    def only_reader(self, name: str) -> Op | None:
        """The one op of the old list that reads `name`; None if there are more, or it is an output."""
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and name not in self.graph.outputs else None

    def is_constant(self, name: str) -> bool:
        return name in self.graph.constants

    def finish(self) -> None:
        """The outputs become the values that stand in for them, under the names that the outputs had."""
        names = list(self.graph.outputs)
        self.graph.outputs = [self._substitute.get(name, name) for name in names]
        name_outputs(self.graph, names)


def name_outputs(graph: Graph, names: Sequence[str]) -> None:
    """Rename each output value; one that is an input, a constant, or an output already gets a copy."""
    graph.sweep()
    for index, name in enumerate(names):
        value = graph.outputs[index]
        if value == name and value not in graph.constants:
            continue
        if name in graph.types:
            rename(graph, name, graph.fresh(f"{name}~inner"))
            value = graph.outputs[index]
        fixed = value in graph.inputs or value in graph.constants
        if fixed or graph.outputs.count(value) > 1:
            graph.ops.append(Reshape(inputs=(value,), outputs=(name,)))
            graph.types[name] = graph.types[value]
            graph.outputs[index] = name
        else:
            rename(graph, value, name)


def rename(graph: Graph, old: str, new: str) -> None:
    """Give the result of an op, or a constant, another name, one that is free."""

    def fixed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if name == old else name for name in names)

    graph.ops = [
        dataclasses.replace(op, inputs=fixed(op.inputs), outputs=fixed(op.outputs))
        if old in op.inputs or old in op.outputs
        else op
        for op in graph.ops
    ]
    graph.types[new] = graph.types.pop(old)
    if old in graph.constants:
        graph.constants[new] = graph.constants.pop(old)
    graph.labels[new] = graph.labels.pop(old, frozenset())
    graph.outputs = list(fixed(tuple(graph.outputs)))
