"""Inputs and outputs as codes: the first `quantize` and the last `dequantize` are dropped."""

from __future__ import annotations

from nprt.converters.graph import Graph, Rewriter, name_outputs
from nprt.errors import ModelError
from nprt.ir import Op
from nprt.ops.dequantize import Dequantize
from nprt.ops.quantize import Quantize


def drop_edges(graph: Graph) -> None:
    """Every float32 input and output becomes the codes that it is quantized to, under its own name.

    Raises:
        ModelError: naming those that something reads, or makes, as float32.
    """
    graph.sweep()
    readers, producers = graph.consumers(), graph.producers()
    problems = []
    codes: dict[str, str] = {}
    for name in graph.inputs:
        if not graph.types[name].is_float:
            continue
        others = [op for op in readers[name] if not isinstance(op, Quantize)]
        types = {graph.types[op.outputs[0]] for op in readers[name]}
        if others or len(types) > 1 or name in graph.outputs:
            used = ", ".join(sorted({op.name for op in others})) or "several quantizations"
            problems.append(f"input {name!r} is used in float32 by {used}")
        elif types:
            graph.types[name] = types.pop()
            codes |= {op.outputs[0]: name for op in readers[name]}
    inner = list(graph.outputs)
    for index, name in enumerate(graph.outputs):
        if not graph.types[name].is_float:
            continue
        op = producers.get(name)
        if isinstance(op, Dequantize) and graph.types[op.inputs[0]].is_codes:
            inner[index] = codes.get(op.inputs[0], op.inputs[0])
        else:
            problems.append(f"output {name!r} is made in float32 by {op.name if op else 'no op'}")
    if problems:
        raise ModelError(f"inputs and outputs cannot be codes: {'; '.join(problems)}")

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if not isinstance(op, Quantize) or op.outputs[0] not in codes:
            return False
        rewriter.replace(op.outputs[0], codes[op.outputs[0]])
        return True

    names, graph.outputs = list(graph.outputs), inner
    graph.rewrite(rule)
    name_outputs(graph, names)
