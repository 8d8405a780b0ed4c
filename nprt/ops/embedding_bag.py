"""embedding_bag: rows of a table, picked by index and reduced to one for each bag of indices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt.errors import InputError, NprtError, ShapeError
from nprt.ir import Array, Op, Tensor, TensorType, numel
from nprt.ops import rules
from nprt.rounding import fma

MODES = ("sum", "mean", "max")


@dataclass(frozen=True, kw_only=True)
class EmbeddingBag(Op):
    """Each bag is the sum, the mean or the maximum of its rows, one after the other in float32; 0 for an empty bag.

    A bag of one row is an embedding. Sums follow PyTorch: eq. (59) for 8-bit rows, eq. (60) for float32 with weights;
    a mean is the sum divided by the number of rows.

    Values:
        table: (rows, width) float32; or int8 or uint8, whose row i stands for `scale[i] * code + bias[i]`.
        indices: int32 or int64. With offsets (m,); without them (..., n), where each n along the last axis are a bag.
            An index that the table does not have is an error: of the model where the indices are constant, else an
            InputError when the model runs.
        offsets: (bags,) int32 or int64, where each bag begins in indices: from 0 up to m at most, never falling. With
            include_last_offset there is one more, where the last bag ends; otherwise it ends with indices.
        weights: float32 of indices' shape, a factor for each row; only with mode "sum".
        scale, bias: (rows,) float32; for a table of codes and only there.
        y: (..., width), or with offsets (bags, width), float32.

    Fields:
        mode: "sum", "mean" or "max". A table of codes has sums only.
        include_last_offset: whether offsets have the end of the last bag.
        padding_idx: an index whose rows are left out, and not counted; None for none. Only with a float32 table.
    """

    name = "embedding_bag"
    INPUTS = ("table", "indices", "offsets?", "weights?", "scale?", "bias?")

    mode: str = "sum"
    include_last_offset: bool = False
    padding_idx: int | None = None

    def type_rule(
        self,
        y: TensorType,
        table: TensorType,
        indices: TensorType,
        offsets: TensorType | None = None,
        weights: TensorType | None = None,
        scale: TensorType | None = None,
        bias: TensorType | None = None,
    ) -> TensorType:
        rules.require_choice("mode", self.mode, MODES)
        rules.require_rank("table", table, (2,))
        rules.require_dtype("table", table, "float32", "int8", "uint8")
        rules.require_dtype("indices", indices, "int32", "int64")
        self._check_rows(table, scale, bias)
        if weights is not None and (self.mode != "sum" or weights != indices.with_dtype("float32")):
            rules.reject(
                f"weights {weights} with mode {self.mode!r} and indices {indices}; expected float32 of the same shape, "
                "and mode 'sum'"
            )
        if offsets is None:
            if self.include_last_offset:
                rules.reject("include_last_offset, but there are no offsets")
            if indices.rank < 1:
                raise ShapeError(f"indices {indices} have no last axis to be bags")
            return TensorType("float32", (*indices.shape[:-1], table.shape[1]))
        rules.require_rank("indices", indices, (1,))
        rules.require_rank("offsets", offsets, (1,))
        rules.require_dtype("offsets", offsets, "int32", "int64")
        bags = offsets.shape[0]
        if self.include_last_offset:
            bags = rules.known("the number of offsets", bags) - 1
            if bags < 0:
                raise ShapeError(f"offsets {offsets} do not have the end of the last bag")
        return TensorType("float32", (bags, table.shape[1]))

    def _check_rows(
        self, table: TensorType, scale: TensorType | None, bias: TensorType | None
    ) -> None:
        if table.quant is not None:
            rules.reject(f"table {table} has a scale in its type; expected one for each row")
        if table.is_float:
            if scale is not None or bias is not None:
                rules.reject(f"scale and bias are for a table of codes, not for {table}")
            return
        rows = TensorType("float32", table.shape[:1])
        if scale != rows or bias != rows:
            rules.reject(f"a table {table} needs scale and bias {rows}, not {scale} and {bias}")
        if self.mode != "sum" or self.padding_idx is not None:
            rules.reject(
                f"mode {self.mode!r} and padding_idx {self.padding_idx} with a table of codes; expected sums"
            )

    def check_constants(
        self, y: Any, table: Any, indices: Any, offsets: Any = None, *rest: Any
    ) -> None:
        """Constant indices and offsets are proven here; others when the model runs."""
        rows = (table.type if isinstance(table, Tensor) else table).shape[0]
        count = (indices.type if isinstance(indices, Tensor) else indices).shape[-1]
        if isinstance(indices, Tensor) and isinstance(rows, int):
            require_rows(indices.data, rows, ShapeError)
        if isinstance(offsets, Tensor) and isinstance(count, int):
            require_offsets(offsets.data, count, ShapeError)

    def reference(
        self,
        y: TensorType,
        table: Tensor,
        indices: Tensor,
        offsets: Tensor | None = None,
        weights: Tensor | None = None,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Array:
        require_rows(indices.data, len(table.data), InputError)
        index = indices.data.reshape(-1)
        factor = None if weights is None else weights.data.reshape(-1)
        if offsets is None:
            *bags, size = indices.data.shape
            edges = np.arange(numel(tuple(bags)) + 1, dtype=np.int64) * size
        else:
            require_offsets(offsets.data, index.size, InputError)
            edges = offsets.data.astype(np.int64)
            if not self.include_last_offset:
                edges = np.append(edges, index.size)
        if self.padding_idx is not None:
            kept = index != self.padding_idx
            edges = np.append(0, np.cumsum(kept))[edges]
            index, factor = index[kept], None if factor is None else factor[kept]
        add = self._adder(table, factor, scale, bias)
        first, length = edges[:-1], np.diff(edges)
        total = np.zeros((numel(y.shape[:-1]), table.data.shape[1]), np.float32)
        longest_first = np.argsort(-length, kind="stable")
        longer = np.cumsum(np.bincount(length)[::-1])[::-1][1:]  # bags with more than k rows
        for k, count in enumerate(longer):
            bag = longest_first[:count]
            at = first[bag] + k
            total[bag] = add(total[bag], index[at], at, k == 0)
        if self.mode == "mean":
            total /= np.maximum(length, 1).astype(np.float32)[:, np.newaxis]
        return total.reshape(y.shape)

    def _adder(
        self, table: Tensor, factor: Array | None, scale: Tensor | None, bias: Tensor | None
    ) -> Callable[[Array, Array, Array, bool], Array]:
        """`add(total, rows, at, is_first)` -> the totals with one row more each; `at` are positions in indices."""
        data = table.data
        if scale is not None and bias is not None:
            slope, offset = scale.data[:, np.newaxis], bias.data[:, np.newaxis]

            def add_codes(total: Array, rows: Array, at: Array, is_first: bool) -> Array:
                a, b = slope[rows], offset[rows]
                if factor is not None:
                    a, b = factor[at][:, np.newaxis] * a, factor[at][:, np.newaxis] * b
                return fma(data[rows].astype(np.float32), a, total + b)  # eq. (59)

            return add_codes

        def add_floats(total: Array, rows: Array, at: Array, is_first: bool) -> Array:
            if self.mode == "max":
                return data[rows] if is_first else np.maximum(total, data[rows])
            if factor is None:
                return total + data[rows]
            weight = factor[at][:, np.newaxis]
            if self.padding_idx is not None:
                return total + data[rows] * weight
            return fma(data[rows], weight, total)  # eq. (60)

        return add_floats


def require_rows(indices: Array, rows: int, error: type[NprtError]) -> None:
    wrong = (indices < 0) | (indices >= rows)
    if wrong.any():
        raise error(
            f"index {indices[wrong].flat[0]} is not in [0, {rows}), the rows of the table of embeddings"
        )


def require_offsets(offsets: Array, count: int, error: type[NprtError]) -> None:
    if not offsets.size:
        return
    falls = (offsets[1:] < offsets[:-1]).any()
    if offsets[0] != 0 or falls or offsets.min() < 0 or offsets.max() > count:
        raise error(
            f"offsets {offsets[:8].tolist()}{'...' if offsets.size > 8 else ''} do not begin with 0, fall, or pass the "
            f"{count} indices"
        )
