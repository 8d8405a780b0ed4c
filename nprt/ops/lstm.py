"""lstm: long short-term memory, one layer in one direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt.ir import Array, Tensor, TensorType
from nprt.ops.recurrent import RecurrentOp, sigmoid, tanh


@dataclass(frozen=True, kw_only=True)
class Lstm(RecurrentOp):
    """Each step adds gates of the input and of the state, i, f, n and o, and has c' and h' by eq. (46).

    Values:
        x: (length, batch, in_features) float32, finite.
        h0, c0: (batch, hidden) float32.
        w_ih: (4 * hidden, in_features), rows in the order i, f, n, o: codes per tensor or along axis 0, or float32.
        w_hh: (4 * hidden, hidden), likewise.
        b_ih, b_hh: (4 * hidden,) float32.
        y: (length, batch, hidden) float32, h' of each step.
        h, c: (batch, hidden) float32, after the last step.

    Fields:
        reverse: the sequence runs from its end to its beginning; y stays in the order of x.
        per_row: as in `dynamic_linear`.
        numerics: as in `dynamic_linear`, but not `ort`; without effect on float32 weights.
        reduce_range: as in `dynamic_linear`.
    """

    name = "lstm"
    INPUTS = ("x", "h0", "c0", "w_ih", "w_hh", "b_ih?", "b_hh?")
    OUTPUTS = ("y", "h", "c")
    GATES = 4

    def type_rule(
        self,
        y: TensorType,
        h: TensorType,
        c: TensorType,
        x: TensorType,
        h0: TensorType,
        c0: TensorType,
        w_ih: TensorType,
        w_hh: TensorType,
        b_ih: TensorType | None = None,
        b_hh: TensorType | None = None,
    ) -> tuple[TensorType, TensorType, TensorType]:
        weights, biases = {"w_ih": w_ih, "w_hh": w_hh}, {"b_ih": b_ih, "b_hh": b_hh}
        sequence, state = self.check_operands(x, {"h0": h0, "c0": c0}, weights, biases)
        return sequence, state, state

    def reference(
        self,
        y: TensorType,
        h: TensorType,
        c: TensorType,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> tuple[Array, ...]:
        return self.run(step, x, (h0, c0), (w_ih, w_hh), (b_ih, b_hh))

    def accumulator_bound(self, y: Any, h: Any, c: Any, *operands: Any) -> int | None:
        return self.bound(*operands[3:5])

    def macs(self, y: TensorType, h: TensorType, c: TensorType, *operands: Any) -> int:
        return self.products(operands[0], *operands[3:5])


def step(gates: Array, recurrent: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """eq. (46); each operation is rounded to float32."""
    i, f, n, o = np.split(recurrent + gates, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(n)
    return sigmoid(o) * tanh(c), c
