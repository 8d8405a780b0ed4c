"""Embeddings and bags of torch, in nprt: the same float32 bits, for tables of 8, 4 and 2 bits and of float32."""

from __future__ import annotations

import importlib.util
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
from nprt.ir import Model, TensorType
from nprt.ops.embedding_bag import EmbeddingBag
from nprt.ops.gather import Gather

pytestmark = [pytest.mark.filterwarnings(f) for f in QUIET]

EIGHT, FOUR = tq.float_qparams_weight_only_qconfig, tq.float_qparams_weight_only_qconfig_4bit
Q = torch.ops.quantized
BACKENDS = ["numpy", *(["numba"] if importlib.util.find_spec("numba") else [])]


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


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("constant", [False, True], ids=["run time", "constant"])
@pytest.mark.parametrize("last", [False, True])
def test_bad_offsets(dtype, constant, last):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    hostile = [
        *([1, 3, 4], [0, 5, 3], [0, 2, 10], [0, 0, -1], [-1, 0, 1], [0, high, low], [0, high, -1]),
        *([0, low, high], [0, low, 0], [low, low, 0], [0, 0, high], [low, 0, 9], [high, low, 0]),
    ]
    op = EmbeddingBag(inputs=("t", "i", "o"), outputs=("y",), include_last_offset=last)
    table, index = np.ones((20, 6), np.float32), np.zeros(9, np.int64)
    offset = TensorType(np.dtype(dtype).name, (3,))
    types = {
        "t": TensorType("float32", (20, 6)),
        "i": TensorType("int64", (9,)),
        "o": offset,
        "y": TensorType("float32", (2 if last else 3, 6)),
    }

    def session(offsets, backend):
        known = {"t": table} | ({"o": np.array(offsets, dtype)} if constant else {})
        inputs = ("i",) if constant else ("i", "o")
        return nprt.Session(Model(inputs, ("y",), types, known, (op,)), backend=backend)

    for backend in BACKENDS:
        for offsets in hostile:
            if constant:
                with pytest.raises(ShapeError, match="offsets"):
                    session(offsets, backend)
                continue
            with pytest.raises(InputError, match="offsets"):
                session(offsets, backend).run(None, {"i": index, "o": np.array(offsets, dtype)})


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("cls", [Gather, EmbeddingBag])
@pytest.mark.parametrize("backend", BACKENDS)
def test_indices_at_the_ends_of_their_dtype(dtype, cls, backend):
    op = cls(inputs=("t", "i"), outputs=("y",))
    shape = (2, 6) if cls is EmbeddingBag else (2, 1, 6)
    types = {
        "t": TensorType("float32", (20, 6)),
        "i": TensorType(np.dtype(dtype).name, (2, 1)),
        "y": TensorType("float32", shape),
    }
    table = np.ones((20, 6), np.float32)
    session = nprt.Session(Model(("i",), ("y",), types, {"t": table}, (op,)), backend=backend)
    for wrong in (20, -21, np.iinfo(dtype).min, np.iinfo(dtype).max):
        index = np.array([[3], [wrong]], dtype)
        with pytest.raises(InputError, match="index"):
            session.run(None, {"i": index})
        with pytest.raises(ShapeError, match="index"):
            nprt.Session(Model((), ("y",), types, {"t": table, "i": index}, (op,)), backend=backend)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_without_indices(mode):
    op = EmbeddingBag(inputs=("t", "i"), outputs=("y",), mode=mode)
    types = {
        "t": TensorType("float32", (20, 6)),
        "i": TensorType("int64", (3, 0)),
        "y": TensorType("float32", (3, 6)),
    }
    table = np.ones((20, 6), np.float32)
    session = nprt.Session(Model(("i",), ("y",), types, {"t": table}, (op,)))
    (actual,) = session.run(None, {"i": np.zeros((3, 0), np.int64)})
    np.testing.assert_array_equal(actual, np.zeros((3, 6)))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_one_long_bag_among_many(mode):
    """Takes time by the number of indices: bags times the longest bag would be 400 million rows."""
    lengths = np.ones(20_000, np.int64)
    lengths[7] = 20_000
    offsets = np.append(0, np.cumsum(lengths)[:-1])
    index = np.random.default_rng(0).integers(0, 20, lengths.sum())
    table = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    op = EmbeddingBag(inputs=("t", "i", "o"), outputs=("y",), mode=mode)
    types = {
        "t": TensorType("float32", table.shape),
        "i": TensorType("int64", index.shape),
        "o": TensorType("int64", offsets.shape),
        "y": TensorType("float32", (len(offsets), 6)),
    }
    session = nprt.Session(Model(("i", "o"), ("y",), types, {"t": table}, (op,)))
    expected = nn.functional.embedding_bag(
        *map(torch.from_numpy, (index, table, offsets)), mode=mode
    )
    (actual,) = session.run(None, {"i": index, "o": offsets})
    np.testing.assert_array_equal(actual, expected.numpy())


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
