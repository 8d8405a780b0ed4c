"""gru: a gated recurrent unit, one layer in one direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt.ir import Array, Tensor, TensorType
from nprt.ops.recurrent import RecurrentOp, sigmoid, tanh


@dataclass(frozen=True, kw_only=True)
class Gru(RecurrentOp):
    """Each step has gates of the input and of the state, r, z and n, and h' by eq. (47).

    Values:
        x: (length, batch, in_features) float32, finite.
        h0: (batch, hidden) float32.
        w_ih: (3 * hidden, in_features), rows in the order r, z, n: codes per tensor or along axis 0, or float32.
        w_hh: (3 * hidden, hidden), likewise.
        b_ih, b_hh: (3 * hidden,) float32.
        y: (length, batch, hidden) float32, h' of each step.
        h: (batch, hidden) float32, after the last step.

    Fields:
        reverse: the sequence runs from its end to its beginning; y stays in the order of x.
        per_row: as in `dynamic_linear`.
        numerics: as in `dynamic_linear`, but not `ort`; without effect on float32 weights.
        reduce_range: as in `dynamic_linear`.
    """

    name = "gru"
    INPUTS = ("x", "h0", "w_ih", "w_hh", "b_ih?", "b_hh?")
    OUTPUTS = ("y", "h")
    GATES = 3

    def type_rule(
        self,
        y: TensorType,
        h: TensorType,
        x: TensorType,
        h0: TensorType,
        w_ih: TensorType,
        w_hh: TensorType,
        b_ih: TensorType | None = None,
        b_hh: TensorType | None = None,
    ) -> tuple[TensorType, TensorType]:
        weights, biases = {"w_ih": w_ih, "w_hh": w_hh}, {"b_ih": b_ih, "b_hh": b_hh}
        return self.check_operands(x, {"h0": h0}, weights, biases)

    def reference(
        self,
        y: TensorType,
        h: TensorType,
        x: Tensor,
        h0: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> tuple[Array, ...]:
        return self.run(step, x, (h0,), (w_ih, w_hh), (b_ih, b_hh))

    def accumulator_bound(self, y: Any, h: Any, *operands: Any) -> int | None:
        return self.bound(*operands[2:4])

    def macs(self, y: TensorType, h: TensorType, *operands: Any) -> int:
        return self.products(operands[0], *operands[2:4])


def step(gates: Array, recurrent: Array, h: Array) -> tuple[Array]:
    """eq. (47); each operation is rounded to float32."""
    r_x, z_x, n_x = np.split(gates, 3, axis=-1)
    r_h, z_h, n_h = np.split(recurrent, 3, axis=-1)
    r, z = sigmoid(r_h + r_x), sigmoid(z_h + z_x)
    n = tanh(n_x + r * n_h)
    return ((h - n) * z + n,)
