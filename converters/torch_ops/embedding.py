"""Embeddings and bags of them: tables of 8 and 4 bits with a scale for each row, and of float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nprt.converters.torch_ops.elementwise import Translate
from nprt.converters.torch_ops.importer import Importer, arguments, array_of
from nprt.converters.torch_ops.recording import Call, Known
from nprt.errors import ModelError
from nprt.ir import Array
from nprt.ops.embedding_bag import MODES, EmbeddingBag


@dataclass(frozen=True)
class Rows:
    """A table of codes: uint8 (rows, width), and what they stand for, float32 (rows,)."""

    codes: Array
    scale: Array
    bias: Array

    def constants(self, m: Importer, base: str) -> tuple[str, str, str]:
        return (
            m.graph.constant(self.codes, f"{base}weight"),
            m.graph.constant(self.scale, f"{base}scale"),
            m.graph.constant(self.bias, f"{base}bias"),
        )


def packed_rows(packed: torch.ScriptObject) -> Rows:
    """What EmbeddingPackedParamsBase holds. Tables of 4 bits keep scale and bias in float16."""
    weight = torch.ops.quantized.embedding_bag_unpack(packed)
    scale = array_of(weight.q_per_channel_scales())
    bias = -scale * array_of(weight.q_per_channel_zero_points())
    codes = array_of(weight.int_repr())
    if weight.dtype == torch.quint8:
        return Rows(codes, scale, bias)
    if weight.dtype != torch.quint4x2:
        raise ModelError(f"embeddings of dtype {weight.dtype} are not supported")
    rows, width = weight.shape
    pairs = codes.reshape(-1)[: (rows * width + 1) // 2]
    codes = separate(pairs[np.newaxis], 4)[0, : rows * width].reshape(rows, width)
    halves = (part.astype(np.float16).astype(np.float32) for part in (scale, bias))
    return Rows(codes, *halves)


def separate(packed: Array, bits: int) -> Array:
    """Codes of `bits` bits each, the first in the lowest bits: uint8 (rows, bytes) to (rows, bytes * 8 / bits)."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (packed[..., np.newaxis] >> shifts) & np.uint8(2**bits - 1)
    return np.asarray(parts.reshape(len(packed), -1), np.uint8)


def rows_of(table: Array, bits: int) -> Rows:
    """What `quantized.embedding_bag_*_prepack` made: codes, then scale and bias, in the bytes of each row."""
    kind = np.dtype(np.float32 if bits == 8 else np.float16)
    tail = 2 * kind.itemsize
    factors = np.ascontiguousarray(table[:, -tail:]).view(kind).astype(np.float32)
    return Rows(separate(table[:, :-tail], bits), factors[:, 0].copy(), factors[:, 1].copy())


def base_of(call: Call) -> str:
    return f"{call.place.module}." if call.place.module else ""


def quantized_embedding(m: Importer, call: Call) -> None:
    """quantized.embedding_byte and embedding_4bit: each index is a bag of its own."""
    packed, indices, pruned = arguments(call, "weight", "indices", pruned_weights=False)
    refuse_pruned(pruned)
    m.traits.quantized = True
    table, scale, bias = packed_rows(packed).constants(m, base_of(call))
    index = m.value(indices)
    one = m.to_shape(index, (*m.graph.types[index].shape, 1), f"{m.out(call)}~bags")
    m.bind(call, m.emit(EmbeddingBag, table, one, "", "", scale, bias, out=m.out(call)))


def quantized_bag(bits: int | None = None) -> Translate:
    """quantized.embedding_bag_byte and _4bit; with `bits`, those that take a tensor of packed rows."""

    def translate(m: Importer, call: Call) -> None:
        packed, indices, offsets, _, mode, pruned, weights, mapping, last = arguments(
            call,
            "weight",
            "indices",
            offsets=None,
            scale_grad_by_freq=False,
            mode=0,
            pruned_weights=False,
            per_sample_weights=None,
            compressed_indices_mapping=None,
            include_last_offset=False,
        )
        refuse_pruned(pruned or mapping is not None)
        if last and offsets is None:
            raise ModelError(
                "torch drops the last bag of such indices; leave include_last_offset out"
            )
        if mode != 0:
            m.note(call, f"torch sums bags of quantized rows, though the mode is {MODES[mode]!r}")
        m.traits.quantized = True
        rows = packed_rows(packed) if bits is None else rows_of(m.array(packed, "the table"), bits)
        table, scale, bias = rows.constants(m, base_of(call))
        y = m.emit(
            EmbeddingBag,
            table,
            m.value(indices),
            m.value(offsets),
            m.value(weights),
            scale,
            bias,
            out=m.out(call),
            include_last_offset=bool(last) and offsets is not None,
        )
        m.bind(call, y)

    return translate


def refuse_pruned(pruned: bool) -> None:
    if pruned:
        raise ModelError("pruned embeddings with compressed indices are not supported")


def bag(m: Importer, call: Call) -> None:
    """aten._embedding_bag in float32."""
    table, indices, offsets, _, mode, _, weights, last, padding = arguments(
        call,
        "weight",
        "indices",
        "offsets",
        scale_grad_by_freq=False,
        mode=0,
        sparse=False,
        per_sample_weights=None,
        include_last_offset=False,
        padding_idx=-1,
    )
    float_bag(m, call, table, indices, offsets, MODES[mode], weights, last, padding)


def functional_bag(m: Importer, call: Call) -> None:
    """torch.nn.functional.embedding_bag, kept whole."""
    indices, table, offsets, limit, _, _, mode, _, weights, last, padding = arguments(
        call,
        "input",
        "weight",
        offsets=None,
        max_norm=None,
        norm_type=2,
        scale_grad_by_freq=False,
        mode="mean",
        sparse=False,
        per_sample_weights=None,
        include_last_offset=False,
        padding_idx=None,
    )
    if limit is not None:
        raise ModelError("max_norm changes the weights while the model runs; set it to None")
    padding = -1 if padding is None else padding % m.shape(table)[0]
    float_bag(m, call, table, indices, offsets, mode, weights, last, padding)


def float_bag(
    m: Importer,
    call: Call,
    table: Any,
    indices: Any,
    offsets: Any,
    mode: str,
    weights: Any,
    last: bool,
    padding: int,
) -> None:
    if not isinstance(table, Known):
        raise ModelError("embeddings need a constant table")
    y = m.emit(
        EmbeddingBag,
        m.real(table, "weight"),
        m.value(indices),
        m.value(offsets),
        m.value(weights),
        out=m.out(call),
        mode=mode,
        include_last_offset=bool(last) and offsets is not None,
        padding_idx=None if padding < 0 else int(padding),
    )
    m.bind(call, y)
