"""Embeddings and bags of torch, in nprt: the same float32 bits, for tables of 8, 4 and 2 bits and of float32."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch
from torch import nn
from torch_runner import ENGINES, QUIET, assert_same, converted, engine, outputs, run, seeded, tq

import nprt
from nprt.converters import from_torch
from nprt.errors import InputError, ShapeError, UnsupportedOpError
from nprt.ops.embedding_bag import EmbeddingBag

pytestmark = [pytest.mark.filterwarnings(f) for f in QUIET]

EIGHT, FOUR = tq.float_qparams_weight_only_qconfig, tq.float_qparams_weight_only_qconfig_4bit
Q = torch.ops.quantized


class Bag(nn.Module):
    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 6, **fields)

    def forward(self, x: Any, offsets: Any = None, weights: Any = None) -> torch.Tensor:
        return self.bag(x, offsets, weights)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.words(x)


class Behind(nn.Module):
    """A module in float32, and a quantized layer whose result nothing depends on: nprt leaves the module as it is."""

    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.module = module
        self.other = tq.quantize_dynamic(nn.Sequential(nn.Linear(width, 2)), {nn.Linear})

    def forward(self, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.module(*inputs)
        return y, self.other(y)


def quantized(module: nn.Module, qconfig: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.eval().qconfig = qconfig
        return tq.convert(tq.prepare(module))


class Packed(nn.Module):
    """An operator on a packed table, as torch's modules call it."""

    def __init__(self, weight: torch.Tensor, bits: int, *, bag: bool, **options: Any) -> None:
        super().__init__()
        observer = (EIGHT if bits == 8 else FOUR).weight()
        observer(weight)
        scale, zero_point = observer.calculate_qparams()
        dtype = torch.quint8 if bits == 8 else torch.quint4x2
        codes = torch.quantize_per_channel(weight, scale, zero_point, 0, dtype)
        self.table, self.options = Q.embedding_bag_prepack(codes), options
        name = f"embedding{'_bag' if bag else ''}_{'byte' if bits == 8 else '4bit'}"
        self.op = getattr(Q, name)

    def forward(self, x: Any, offsets: Any = None, weights: Any = None) -> torch.Tensor:
        if offsets is None:
            return self.op(self.table, x)
        return self.op(self.table, x, offsets, per_sample_weights=weights, **self.options)


def indices(*shape: int, seed: int = 0, rows: int = 20) -> torch.Tensor:
    return torch.randint(0, rows, shape, generator=seeded(seed))


OFFSETS = torch.tensor([0, 3, 3, 7])


# --- embeddings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("shape", [(9,), (4, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_quantized_embedding(name, shape, dtype):
    with engine(name):
        model = assert_same(quantized(Words(), EIGHT), indices(*shape).to(dtype))
    assert [op.name for op in model.ops] == ["reshape", "embedding_bag"]
    assert model.types[model.inputs[0]].shape[0] == "N"
    assert model.constants["words.weight"].dtype == np.uint8


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    bits=st.sampled_from([4, 8]),
    rows=st.integers(1, 30),
    width=st.sampled_from([1, 2, 7, 16, 33, 64]),
    seed=st.integers(0, 2**16),
    size=st.sampled_from([1.0, 1e-4, 1e4]),
    kind=st.sampled_from(["normal", "positive", "alike"]),
)
def test_packed_embedding(bits, rows, width, seed, size, kind):
    weight = torch.randn(rows, width, generator=seeded(seed)) * size
    weight = {"normal": weight, "positive": weight.abs() + size}.get(
        kind, torch.full_like(weight, size)
    )
    module = Packed(weight, bits, bag=False)
    assert_same(module, indices(3, 4, rows=rows))


def test_float_embedding():
    model = assert_same(Behind(nn.Embedding(20, 6, padding_idx=2), 6), indices(4, 5))
    assert model.ops[0].name == "gather"


@pytest.mark.parametrize("qconfig", [None, EIGHT], ids=["float", "8 bits"])
@pytest.mark.parametrize("bag", [False, True])
def test_an_index_out_of_range(qconfig, bag):
    module: nn.Module = Bag(mode="sum") if bag else Words()
    module = Behind(module, 6) if qconfig is None else quantized(module, qconfig)
    model = from_torch(module, indices(4, 5))
    for wrong in (20, 2**31 - 1, 2**62, -21):
        x = indices(4, 5)
        x[2, 3] = wrong
        with pytest.raises(InputError, match=r"index -?\d+ is not in \["):
            run(model, x)


# --- bags ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qconfig", [EIGHT, FOUR], ids=["8 bits", "4 bits"])
@pytest.mark.parametrize("name", ["fbgemm", "qnnpack"])
def test_quantized_bag(name, qconfig):
    with engine(name):
        module = quantized(Bag(mode="sum"), qconfig)
        model = assert_same(module, indices(4, 5))
        assert model.types[model.inputs[0]].shape == ("N", 5)
        for weights in ((), (torch.randn(9, generator=seeded(1)),)):
            for dtype in (torch.int32, torch.int64):
                assert_same(module, indices(9).to(dtype), OFFSETS.to(dtype), *weights)
        last = quantized(Bag(mode="sum", include_last_offset=True), qconfig)
        assert_same(last, indices(7), OFFSETS)


@st.composite
def bags(draw) -> dict[str, Any]:
    count = draw(st.integers(0, 12))
    cuts = draw(st.lists(st.integers(0, count), max_size=5))
    return {
        "count": count,
        "offsets": torch.tensor([0, *sorted(cuts)]),
        "width": draw(st.sampled_from([1, 3, 16, 33, 70])),
        "seed": draw(st.integers(0, 2**16)),
        "weighted": draw(st.booleans()),
        "last": draw(st.booleans()),
    }


@settings(deadline=None, max_examples=80, derandomize=True)
@given(bits=st.sampled_from([4, 8]), bag=bags())
def test_packed_bag(bits, bag):
    generator = seeded(bag["seed"])
    width = bag["width"] + bag["width"] % 2
    weight = torch.randn(20, width, generator=generator) * 3
    module = Packed(weight, bits, bag=True, include_last_offset=bag["last"])
    offsets = bag["offsets"]
    if bag["last"]:
        offsets = torch.cat([offsets, torch.tensor([bag["count"]])])
    weights = (torch.randn(bag["count"], generator=generator),) if bag["weighted"] else ()
    x = indices(bag["count"], seed=bag["seed"])
    assert_same(module, x, offsets, *weights, batch_axis=None)


@settings(deadline=None, max_examples=120, derandomize=True)
@given(
    mode=st.sampled_from(["sum", "mean", "max"]),
    padded=st.booleans(),
    bag=bags(),
)
def test_float_bag(mode, padded, bag):
    torch.manual_seed(bag["seed"])
    fields = {"padding_idx": 7} if padded else {}
    module = Bag(mode=mode, include_last_offset=bag["last"], **fields)
    offsets = bag["offsets"]
    if bag["last"]:
        offsets = torch.cat([offsets, torch.tensor([bag["count"]])])
    given_weights = bag["weighted"] and mode == "sum"
    weights = (torch.randn(bag["count"]),) if given_weights else ()
    x = indices(bag["count"], seed=bag["seed"], rows=10)
    assert_same(Behind(module, 6), x, offsets, *weights, batch_axis=None)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 7, -13])
def test_float_bag_of_rows(mode, padding_idx):
    """Indices in two dimensions: the batch stays free."""
    module = Behind(Bag(mode=mode, padding_idx=padding_idx), 6)
    model = assert_same(module, indices(4, 5, rows=10))
    assert model.types[model.inputs[0]].shape == ("N", 5)
    x = indices(11, 5, seed=3, rows=10)
    for actual, expected in zip(run(model, x), outputs(module, x), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_free_number_of_indices():
    model = converted(Packed(torch.randn(20, 6), 4, bag=True), indices(9), OFFSETS)
    assert model.types[model.inputs[0]].shape == ("N",)
    assert run(model, indices(30), OFFSETS)[0].shape == (4, 6)


@pytest.mark.parametrize("kind", ["byte", "4bit", "2bit"])
def test_tables_packed_into_tensors(kind):
    """What models of recommendation use: scale and bias stand in the bytes of each row."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weight = torch.randn(20, 8, generator=seeded(0))
            self.register_buffer("table", getattr(Q, f"embedding_bag_{kind}_prepack")(weight))

        def forward(self, x: Any, offsets: Any = None, weights: Any = None) -> torch.Tensor:
            op = getattr(Q, f"embedding_bag_{kind}_rowwise_offsets")
            return op(self.table, x, offsets, per_sample_weights=weights)

    model = assert_same(Rows(), indices(4, 5))
    assert model.types["weight"].shape == (20, 8)
    assert_same(Rows(), indices(9), OFFSETS)
    assert_same(Rows(), indices(9), OFFSETS, torch.randn(9))


def test_a_mean_of_quantized_rows_is_a_sum_and_says_so():
    model = assert_same(
        Packed(torch.randn(20, 6), 8, bag=True, mode=1), indices(9), OFFSETS, batch_axis=None
    )
    assert any("torch sums bags" in note for note in model.origin.notes)


# --- saved modules, and what is refused ---------------------------------------------------------------


def test_a_state_dict_that_was_saved():
    saved = io.BytesIO()
    original = quantized(Words(), EIGHT)
    torch.save(original.state_dict(), saved)
    saved.seek(0)
    module = quantized(Words(), EIGHT)
    module.load_state_dict(torch.load(saved, weights_only=False))
    model = assert_same(module, indices(4, 5))
    np.testing.assert_array_equal(run(model, indices(4, 5))[0], outputs(original, indices(4, 5))[0])


def test_saved_in_a_file(tmp_path):
    model = converted(quantized(Bag(mode="sum"), FOUR), indices(4, 5))
    model.save(tmp_path / "bag.nprt")
    loaded = nprt.load(tmp_path / "bag.nprt")
    np.testing.assert_array_equal(run(loaded, indices(4, 5))[0], run(model, indices(4, 5))[0])


@pytest.mark.parametrize("offsets", [[1, 3], [0, 5, 3], [0, 10], [0, -1]], ids=str)
def test_bad_offsets(offsets):
    model = converted(Packed(torch.randn(20, 6), 8, bag=True), indices(9), torch.tensor([0, 4]))
    if len(offsets) != 2:
        with pytest.raises(ShapeError, match="offsets"):
            EmbeddingBag(inputs=("t", "i", "o"), outputs=("y",)).check_constants(
                None,
                model.tensor("weight"),
                nprt.ir.TensorType("int64", (9,)),
                nprt.ir.Tensor(nprt.ir.TensorType("int64", (3,)), np.array(offsets)),
            )
        return
    with pytest.raises(InputError, match="offsets"):
        run(model, indices(9), torch.tensor(offsets))


def test_pruned_tables_are_refused():
    class Pruned(Packed):
        def forward(self, x: Any, *rest: Any) -> torch.Tensor:
            mapping = torch.arange(20, dtype=torch.int32)
            return Q.embedding_bag_byte(
                self.table, x, OFFSETS, pruned_weights=True, compressed_indices_mapping=mapping
            )

    with pytest.raises(UnsupportedOpError, match="pruned"):
        from_torch(Pruned(torch.randn(20, 6), 8, bag=True), indices(9), batch_axis=None)


def test_max_norm_is_refused():
    module = Behind(Bag(mode="sum", max_norm=1.0), 6)
    with pytest.raises(UnsupportedOpError, match="max_norm"):
        from_torch(module, indices(4, 5))
