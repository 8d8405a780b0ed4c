"""compare: how two values relate, element by element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nprt.ir import Array, Op, Tensor, TensorType
from nprt.ops import rules

RELATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
}


@dataclass(frozen=True, kw_only=True)
class Compare(Op):
    """Whether a stands in `relation` to b, broadcast as in NumPy.

    Values:
        a, b: any dtype, alike in dtype and quantization (per tensor).
        y: bool.

    Fields:
        relation: "equal", "not_equal", "less", "less_equal", "greater" or "greater_equal".
    """

    name = "compare"
    INPUTS = ("a", "b")

    relation: str

    def type_rule(self, y: TensorType, a: TensorType, b: TensorType) -> TensorType:
        rules.require_choice("relation", self.relation, tuple(RELATIONS))
        return TensorType("bool", rules.broadcast_alike(a, b).shape)

    def reference(self, y: TensorType, a: Tensor, b: Tensor) -> Array:
        return np.asarray(RELATIONS[self.relation](a.data, b.data))
