"""Facts about a model that can be read off its op list, without running it."""

from __future__ import annotations

import math
from typing import Any

from nprt.ir import Model, Op, numel
from nprt.ops.dequantize import Dequantize
from nprt.ops.quantize import Quantize


def float_ops(model: Model) -> list[Op]:
    """The ops that work on float32 anywhere but at the edges of the model.

    At the edges are a `quantize` of an input and a `dequantize` whose result is an output and goes nowhere else. A
    model with neither these nor `float_rounding` ops is integer-only.
    """
    read = {name for op in model.ops for name in op.used_inputs()}

    def at_edge(op: Op) -> bool:
        if isinstance(op, Quantize):
            return op.inputs[0] in model.inputs
        return (
            isinstance(op, Dequantize)
            and op.outputs[0] in model.outputs
            and op.outputs[0] not in read
        )

    return [
        op
        for op in model.ops
        if not at_edge(op)
        and any(
            model.types[name].is_float
            for name in (*op.used_inputs(), *op.outputs)
            if name not in model.constants
        )
    ]


def float_rounding(model: Model) -> list[Op]:
    """The ops on codes whose numerics multiplies in float32 on the way from sums to codes."""
    return [
        op
        for op in model.ops
        if model.types[op.outputs[0]].is_codes
        and not isinstance(op, Quantize)
        and getattr(op, "numerics", "integer") != "integer"
    ]


def weight_bytes(model: Model) -> int:
    """Bytes of all constants."""
    return sum(array.nbytes for array in model.constants.values())


def macs(model: Model) -> int:
    """Multiply-accumulates of one run with every free dimension 1."""
    types = model.types
    return sum(
        op.macs(*(types[name] for name in op.outputs), *op.arguments(types.__getitem__))
        for op in model.ops
    )


def peak_activation_bytes(model: Model) -> int:
    """The most bytes that inputs, outputs and intermediate values take at one time, with every free dimension 1.

    A value lives from the op that makes it to the last that reads it; inputs from the beginning, outputs to the end.
    """
    size = {name: numel(t.shape) * t.numpy.itemsize for name, t in model.types.items()}
    last = {name: index for index, op in enumerate(model.ops) for name in op.used_inputs()}
    last |= dict.fromkeys(model.outputs, len(model.ops))
    live = {name for name in model.inputs if name in last}
    peak = sum(size[name] for name in live)
    for index, op in enumerate(model.ops):
        live.update(op.outputs)
        peak = max(peak, sum(size[name] for name in live))
        live = {name for name in live if last.get(name, -1) > index}
    return peak


def summary(model: Model) -> dict[str, Any]:
    """All of it, ready for JSON."""
    islands = float_ops(model)
    counts: dict[str, int] = {}
    numerics: dict[str, int] = {}
    for op in model.ops:
        counts[op.name] = counts.get(op.name, 0) + 1
        rule = None if isinstance(op, Quantize) else getattr(op, "numerics", None)
        values = [model.types[name] for name in (*op.used_inputs(), *op.outputs)]
        if rule is not None and not all(type.is_float for type in values):
            numerics[rule] = numerics.get(rule, 0) + 1
    return {
        "inputs": [{"name": n, **_describe(model, n)} for n in model.inputs],
        "outputs": [{"name": n, **_describe(model, n)} for n in model.outputs],
        "ops": dict(sorted(counts.items())),
        "numerics": dict(sorted(numerics.items())),
        "integer_only": not islands and not float_rounding(model),
        "float_ops": [{"output": op.outputs[0], "op": str(op)} for op in islands],
        "float_rounding": [
            {"output": op.outputs[0], "op": str(op)} for op in float_rounding(model)
        ],
        "weight_bytes": weight_bytes(model),
        "parameters": sum(math.prod(a.shape) for a in model.constants.values()),
        "macs": macs(model),
        "peak_activation_bytes": peak_activation_bytes(model),
        "origin": {
            "producer": model.origin.producer,
            "framework": model.origin.framework,
            "engine": model.origin.engine,
            "notes": list(model.origin.notes),
        },
    }


def _describe(model: Model, name: str) -> dict[str, Any]:
    type = model.types[name]
    described: dict[str, Any] = {"dtype": type.dtype, "shape": list(type.shape)}
    if type.quant is not None:
        described |= {"scale": list(type.quant.scale), "zero_point": list(type.quant.zero_point)}
    return described
