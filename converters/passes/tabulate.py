"""Any function of one 8-bit value, however many ops it is written with, becomes one table of 256 entries."""

from __future__ import annotations

import numpy as np

from nprt.converters.graph import Rewriter
from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops.add import Add
from nprt.ops.dequantize import Dequantize
from nprt.ops.div import Div
from nprt.ops.lookup import Lookup
from nprt.ops.mul import Mul
from nprt.ops.sub import Sub
from nprt.ops.unary import Unary

ELEMENTWISE = (Unary, Add, Sub, Mul, Div)

# A function spelled out in ops (gelu, say) takes about ten; deeper ones are not looked for.
MAX_OPS = 32


def tabulate(rewriter: Rewriter, root: Op) -> bool:
    """Replace `quantize(f(dequantize(x)))` by a lookup, where f works element by element with constant numbers.

    The table is f itself, run on all 256 codes by the reference, so the result has the same bits.
    """
    cone = _cone(rewriter, root.inputs[0])
    if cone is None:
        return False
    source, ops = cone
    graph = rewriter.graph
    x, y = graph.types[source], graph.types[root.outputs[0]]
    low, high = x.code_range
    codes = Tensor(TensorType(x.dtype, (256,), x.quant), np.arange(low, high + 1).astype(x.numpy))
    values: dict[str, Array] = {}

    def operand(name: str) -> Tensor:
        if rewriter.is_constant(name):
            return Tensor(graph.types[name], graph.constants[name].reshape(()))
        return Tensor(TensorType("float32", (256,)), values[name])

    for op in ops:
        if isinstance(op, Dequantize):
            values[op.outputs[0]] = codes.real()
        else:
            result = op.reference(TensorType("float32", (256,)), *op.arguments(operand))
            values[op.outputs[0]] = result.astype(np.float32)
    real = Tensor(TensorType("float32", (256,)), values[root.inputs[0]])
    entries = root.reference(y.with_shape((256,)), real)
    if (x.dtype, x.quant) == (y.dtype, y.quant) and np.array_equal(entries, codes.data):
        rewriter.replace(root.outputs[0], source)
        return True
    table = graph.constant(entries, f"{root.outputs[0]}~table")
    function = " ".join(describe(op) for op in ops if not isinstance(op, Dequantize)) or "rescale"
    return rewriter.rebind(root, Lookup, source, table, like=y, function=function)


def describe(op: Op) -> str:
    return op.function if isinstance(op, Unary) else op.name


def _cone(rewriter: Rewriter, name: str) -> tuple[str, list[Op]] | None:
    """The codes that `name` is a function of, and the ops from there on in execution order; None if it is not one."""
    graph = rewriter.graph
    shape = graph.types[name].shape
    found: dict[str, Op] = {}
    sources: set[str] = set()

    def visit(value: str) -> bool:
        if value in found:
            return True
        if rewriter.is_constant(value):
            return graph.constants[value].size == 1 and graph.types[value].is_float
        op = rewriter.producer(value, *ELEMENTWISE, Dequantize)
        if op is None or graph.types[value].shape != shape or len(found) >= MAX_OPS:
            return False
        if getattr(op, "numerics", "integer") != "integer":
            return False  # an engine runs this on codes, and rounds in its own way
        if isinstance(op, Dequantize):
            type = graph.types[op.inputs[0]]
            if not type.is_codes or type.quant is None or type.quant.axis is not None:
                return False
            sources.add(op.inputs[0])
        elif not all(map(visit, op.inputs)):
            return False
        found[value] = op
        return True

    if rewriter.is_constant(name) or not visit(name) or len(sources) != 1:
        return None
    source = sources.pop()
    if rewriter.is_constant(source):
        return None
    return source, list(found.values())
