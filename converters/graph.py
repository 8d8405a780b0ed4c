"""The graph between the front ends and the op list: a model under construction.

It is made of the same ops and types as a `Model`, but it can be changed. A front end writes float32 ops, with `quantize` and
`dequantize` around them where its source is quantized; the passes rewrite the graph; `to_model` freezes it.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nprt.check import check, output_types
from nprt.ir import Array, Model, Op, Origin, QuantParams, TensorType
from nprt.ops.reshape import Reshape

FLOAT = TensorType("float32", ())


class Graph:
    """Values with types, constants, and ops in execution order."""

    def __init__(self) -> None:
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.types: dict[str, TensorType] = {}
        self.constants: dict[str, Array] = {}
        self.ops: list[Op] = []
        self._fresh: Counter[str] = Counter()

    # --- building -------------------------------------------------------------------------------------

    def fresh(self, base: str) -> str:
        """A value name that is not in use, `base` if possible."""
        name = base
        while name in self.types:
            self._fresh[base] += 1
            name = f"{base}.{self._fresh[base]}"
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
            if rule(rewriter, op):
                changed = True
            else:
                rewriter.emit(op)
        rewriter.finish()
        self.sweep()
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

    # --- freezing -------------------------------------------------------------------------------------

    def to_model(self, origin: Origin | None = None) -> Model:
        """The checked model. Constants get names that can be file names; equal constants become one."""
        self.sweep()
        renamed: dict[str, str] = {}
        constants: dict[str, Array] = {}
        seen: dict[tuple[TensorType, bytes], str] = {}
        for name, array in self.constants.items():
            array = np.ascontiguousarray(array).reshape(array.shape)
            key = (self.types[name], array.tobytes())
            if key not in seen:
                seen[key] = _file_name(name, {*constants, *self.types} - {name})
                constants[seen[key]] = array
            renamed[name] = seen[key]
        types = {renamed.get(name, name): type for name, type in self.types.items()}
        ops = tuple(
            dataclasses.replace(op, inputs=tuple(renamed.get(n, n) for n in op.inputs)) for op in self.ops
        )
        return check(
            Model(tuple(self.inputs), tuple(self.outputs), types, constants, ops, origin or Origin())
        )


def _file_name(name: str, taken: Iterable[str]) -> str:
    clean = re.sub(r"[^A-Za-z0-9_.\-]+", ".", name).strip(".-") or "constant"
    base, count, taken = clean, 0, set(taken)
    while clean in taken:
        count += 1
        clean = f"{base}.{count}"
    return clean


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
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    op = cls(inputs=inputs, outputs=names, **fields)
    return op, dict(zip(names, output_types(op, (like,) * len(names), graph.types.__getitem__), strict=True))


class Rewriter:
    """One forward pass over a graph's ops that emits their replacements."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.old_ops = graph.ops
        self.producers = graph.producers()
        self._readers = graph.consumers()
        self._substitute: dict[str, str] = {}
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
        self.producers.update(dict.fromkeys(op.outputs, op))

    def add(self, cls: type[Op], *inputs: str, out: str, like: TensorType = FLOAT, **fields: Any) -> str:
        """Emit a new op; return its output."""
        op, types = make(self.graph, cls, *inputs, out=out, like=like, **fields)
        self.graph.types.update(types)
        self.emit(op)
        return op.outputs[0]

    def rebind(self, op: Op, cls: type[Op], *inputs: str, like: TensorType = FLOAT, **fields: Any) -> bool:
        """Emit a new op in the place of `op`, under the names of its outputs. Returns True, for rules to return."""
        self.emit(cls(inputs=inputs, outputs=op.outputs, **fields), like)
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
        """Outputs keep their names: an output that was replaced takes its name to the value that stands in for it."""
        graph = self.graph
        for index, name in enumerate(graph.outputs):
            target = self._substitute.get(name)
            if target is None:
                continue
            if target in graph.inputs or target in graph.constants or target in graph.outputs:
                graph.outputs[index] = self._keep_apart(target, name)
            else:
                rename(graph, {target: name})
                self._substitute = {
                    old: name if new == target else new for old, new in self._substitute.items()
                }

    def _keep_apart(self, target: str, name: str) -> str:
        """A copy of `target` under the output's own name."""
        self.emit(Reshape(inputs=(target,), outputs=(name,)), self.graph.types[target])
        return name


def rename(graph: Graph, names: Mapping[str, str]) -> None:
    """Give values other names. A name that was in use must be dead."""

    def new(name: str) -> str:
        return names.get(name, name)

    graph.ops = [
        dataclasses.replace(op, inputs=tuple(map(new, op.inputs)), outputs=tuple(map(new, op.outputs)))
        for op in graph.ops
        if not set(op.outputs) & set(names.values())
    ]
    graph.types = {
        new(name): type for name, type in graph.types.items() if name not in names.values()
    }
    graph.outputs = list(map(new, graph.outputs))
