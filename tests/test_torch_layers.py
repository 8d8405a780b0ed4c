"""Convolutions and linear layers of torch's four engines, code by code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch_runner import ENGINES, QUIET, assert_same, converted, engine, outputs, run

import nprt
from nprt.converters import from_torch
from nprt.converters.torch_ops import faults, importer
from nprt.errors import UnsupportedOpError
from nprt.info import float_ops, float_rounding

pytestmark = [pytest.mark.filterwarnings(f) for f in QUIET]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Layer:
    """A quantized layer: `kind` is "conv", "conv_transpose" or "linear"; rank 0 is linear.

    Attributes:
        channels: input and output channels of one group.
        codes: the greatest code of the input.
        weight_zero: zero points of the weights are drawn this far around 0.
    """

    kind: str = "conv"
    rank: int = 2
    channels: tuple[int, int] = (3, 5)
    groups: int = 1
    kernel: tuple[int, ...] = (3, 3)
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    output_padding: tuple[int, ...] = (0, 0)
    sizes: tuple[int, ...] = (6, 7)
    relu: bool = False
    bias: bool = True
    per_channel: bool = True
    weight_zero: int = 0
    zero_point: int = 3
    codes: int = 127
    signed: bool = False
    float32_scales: bool = True
    seed: int = 0

    @property
    def operator(self) -> str:
        name = self.kind if self.kind == "linear" else f"{self.kind}{self.rank}d"
        return name + "_relu" * self.relu


class Quantized(torch.nn.Module):
    """One int8 operator on its packed weights."""

    def __init__(self, operator: str, packed: Any, scale: float, zero_point: int) -> None:
        super().__init__()
        self.operator = getattr(torch.ops.quantized, operator)
        self.packed, self.scale, self.zero_point = packed, scale, zero_point

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.operator(x, self.packed, self.scale, self.zero_point)


def build(layer: Layer) -> tuple[Quantized, torch.Tensor]:
    """The layer, packed for the current engine, and an input. Biases bring sums close to ties between codes."""
    rng = np.random.default_rng(layer.seed)
    transposed = layer.kind == "conv_transpose"
    (rows, columns), groups = layer.channels, layer.groups
    shape = (groups * rows, columns) if transposed else (groups * columns, rows)
    codes = rng.integers(-128, 128, (*shape, *layer.kernel)).astype(np.int8)
    batch = (2,) if layer.rank else tuple(rng.integers(1, 4, rng.integers(1, 4)))
    first = -128 if layer.signed else 0
    x = rng.integers(first, layer.codes + 1, (*batch, groups * rows, *layer.sizes))
    if not layer.rank:
        x = rng.integers(first, layer.codes + 1, (*batch, rows))

    def scale(low: float, high: float, size: Any = None) -> Any:
        drawn = np.exp(rng.uniform(np.log(low), np.log(high), size))
        return drawn if not layer.float32_scales else np.float64(np.float32(drawn))

    out_channels = groups * columns
    axis = 1 if transposed else 0
    x_scale, w_scale = float(scale(1e-3, 0.5)), scale(1e-3, 0.1, out_channels)
    w_zero = rng.integers(-layer.weight_zero, layer.weight_zero + 1, out_channels)
    if not layer.per_channel:
        w_scale, w_zero = w_scale[:1].repeat(out_channels), w_zero[:1].repeat(out_channels)
    weights = torch.from_numpy(codes)
    if layer.per_channel:
        w = torch._make_per_channel_quantized_tensor(
            weights, torch.from_numpy(w_scale), torch.from_numpy(w_zero), axis
        )
    else:
        w = torch._make_per_tensor_quantized_tensor(weights, w_scale[0], int(w_zero[0]))
    dtype = np.int8 if layer.signed else np.uint8
    quantized = torch._make_per_tensor_quantized_tensor(
        torch.from_numpy(x.astype(dtype)), x_scale, layer.zero_point
    )

    # The exact real result, (..., out_channels), from which the scale of the result and the biases are chosen.
    centered = torch.from_numpy(x.astype(np.float64) - layer.zero_point)
    along = [-1 if i == axis else 1 for i in range(codes.ndim)]
    real = codes.astype(np.float64)
    real -= w_zero[0] if transposed else w_zero.reshape(along)
    taps = torch.from_numpy(real)
    if layer.kind == "linear":
        sums = torch.nn.functional.linear(centered, taps)
    elif transposed:
        function = getattr(torch.nn.functional, f"conv_transpose{layer.rank}d")
        sums = function(
            centered,
            taps,
            None,
            layer.stride,
            layer.padding,
            layer.output_padding,
            groups,
            layer.dilation,
        )
    else:
        function = getattr(torch.nn.functional, f"conv{layer.rank}d")
        sums = function(centered, taps, None, layer.stride, layer.padding, layer.dilation, groups)
    sums = np.moveaxis(sums.numpy(), 1, -1) if layer.rank else sums.numpy()
    flat = sums.reshape(-1, out_channels) * (x_scale * w_scale)
    spread = float(np.std(flat)) or 1.0
    y_scale = float(scale(spread / 60, spread / 15))
    zero_point = int(rng.integers(0, 256)) if not layer.signed else int(rng.integers(-128, 128))
    bias = None
    if layer.bias:
        pixel = flat[rng.integers(0, len(flat), out_channels), np.arange(out_channels)]
        ties = (rng.integers(-40, 40, out_channels) + 0.5) * y_scale
        near = (ties - pixel).astype(np.float32)
        near += (np.spacing(np.abs(near)) * rng.integers(-3, 4, out_channels)).astype(np.float32)
        bias = torch.from_numpy(near)

    if layer.kind == "linear":
        packed = torch.ops.quantized.linear_prepack(w, bias)
    else:
        extra = [list(layer.output_padding)] if transposed else []
        prepack = getattr(torch.ops.quantized, f"{layer.kind}{layer.rank}d_prepack")
        packed = prepack(
            w, bias, list(layer.stride), list(layer.padding), *extra, list(layer.dilation), groups
        )
    return Quantized(layer.operator, packed, y_scale, zero_point), quantized


def check(name: str, layer: Layer) -> nprt.Model:
    with engine(name):
        module, x = build(layer)
        return assert_same(module, x)


# --- random layers ------------------------------------------------------------------------------------


def per_axis(rank: int, low: int, high: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(low, high)] * rank)


@st.composite
def layers(draw: st.DrawFn, kind: str, rank: int) -> Layer:
    grouped = draw(st.sampled_from(["one", "one", "few", "depthwise", "many"]))
    counts = {"one": (1, 1), "few": (2, 4), "depthwise": (1, 33), "many": (101, 128)}
    groups = draw(st.integers(*counts[grouped]))
    wide = 40 if groups == 1 and rank < 3 else 5
    inputs = 1 if grouped in ("depthwise", "many") else draw(st.integers(1, wide))
    channels = (inputs, draw(st.integers(1, 3 if groups > 30 else 18)))
    per_channel = draw(st.booleans())
    extra = (0,) * rank
    stride = draw(per_axis(rank, 1, 3))
    if kind == "conv_transpose":
        per_channel = False
        if draw(st.booleans()):
            extra = tuple(s - 1 for s in stride)
    return Layer(
        kind,
        rank,
        channels,
        groups,
        kernel=draw(per_axis(rank, 1, 4 if rank < 3 else 3)),
        stride=stride,
        padding=draw(per_axis(rank, 0, 3)),
        dilation=draw(per_axis(rank, 1, 2)),
        output_padding=extra,
        sizes=draw(per_axis(rank, 4, 9 if rank < 3 else 6)),
        relu=kind == "conv" and draw(st.booleans()),
        bias=draw(st.booleans()),
        per_channel=per_channel,
        weight_zero=draw(st.sampled_from([0, 0, 5])),
        zero_point=draw(st.sampled_from([0, 3, 64, 127])),
        codes=draw(st.sampled_from([127, 255])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def random_layer(name: str, layer: Layer) -> None:
    """Skips what torch refuses or computes otherwise from run to run."""
    outputs_left = all(
        size + 2 * p > d * (k - 1)
        for size, p, d, k in zip(
            layer.sizes, layer.padding, layer.dilation, layer.kernel, strict=True
        )
    )
    if layer.kind == "conv":
        assume(outputs_left)
    with engine(name):
        try:
            module, x = build(layer)
            outputs(module, x)
        except RuntimeError:
            assume(False)
        model = converted(module, x)
        notes = " ".join(model.origin.notes)
        assume("run to run" not in notes)
        assert "order of its own" not in notes
        (actual,), (expected,) = run(model, x), outputs(module, x)
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", ENGINES)
def test_convolutions(name: str, rank: int) -> None:
    if (name, rank) == ("qnnpack", 3):
        pytest.skip("qnnpack does not unpack 3D convolutions: refused below")

    @settings(deadline=None, max_examples=[60, 120, 60][rank - 1], derandomize=True)
    @given(layers("conv", rank))
    def inner(layer: Layer) -> None:
        random_layer(name, layer)

    inner()


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", ENGINES)
def test_transposed_convolutions(name: str, rank: int) -> None:
    if (name, rank) == ("qnnpack", 3):
        pytest.skip("qnnpack does not unpack 3D convolutions: refused below")

    @settings(deadline=None, max_examples=[60, 60, 40][rank - 1], derandomize=True)
    @given(layers("conv_transpose", rank))
    def inner(layer: Layer) -> None:
        random_layer(name, layer)

    inner()


@pytest.mark.parametrize("name", ENGINES)
@settings(deadline=None, max_examples=80, derandomize=True)
@given(data=st.data())
def test_linear(name: str, data: st.DataObject) -> None:
    draw = data.draw
    layer = Layer(
        "linear",
        0,
        draw(st.tuples(st.integers(1, 70), st.integers(1, 40))),
        kernel=(),
        sizes=(),
        relu=draw(st.booleans()),
        bias=draw(st.booleans()),
        per_channel=draw(st.booleans()),
        weight_zero=0 if name == "onednn" else draw(st.sampled_from([0, 5])),
        zero_point=draw(st.sampled_from([0, 3, 64, 127])),
        codes=draw(st.sampled_from([127, 255])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
    check(name, layer)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), relu=st.booleans(), per_channel=st.booleans())
def test_signed_codes_into_linear(seed: int, relu: bool, per_channel: bool) -> None:
    """Only onednn takes them."""
    layer = Layer("linear", 0, (17, 9), kernel=(), sizes=(), signed=True, zero_point=-5)
    check("onednn", replace(layer, seed=seed, relu=relu, per_channel=per_channel))


@pytest.mark.parametrize("kind", ["linear", "conv", "conv_transpose"])
@pytest.mark.parametrize("name", ENGINES)
def test_scales_that_are_no_float32(name: str, kind: str) -> None:
    """torch holds scales in float64. Where that shows it is noted, and codes differ by one at most."""
    for seed in range(40):
        layer = Layer(kind, per_channel=kind != "conv_transpose", float32_scales=False, seed=seed)
        if kind == "linear":
            layer = replace(layer, rank=0, channels=(40, 30), kernel=(), sizes=())
        with engine(name):
            module, x = build(layer)
            model = converted(module, x)
            (actual,), (expected,) = run(model, x), outputs(module, x)
        if any("no float32" in note for note in model.origin.notes):
            assert name in ("onednn", "x86")
            assert np.abs(actual.astype(int) - expected).max() <= 1
        else:
            np.testing.assert_array_equal(actual, expected)


# --- numerics integer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "conv", "conv_transpose"])
@pytest.mark.parametrize("name", ENGINES)
def test_integer_numerics_stay_within_one_code(name: str, kind: str) -> None:
    for seed in range(12):
        layer = Layer(kind, per_channel=kind != "conv_transpose", relu=kind == "conv", seed=seed)
        if kind == "linear":
            layer = replace(layer, rank=0, channels=(40, 30), kernel=(), sizes=())
        with engine(name):
            module, x = build(layer)
            model = converted(module, x, numerics="integer")
            (actual,), (expected,) = run(model, x), outputs(module, x)
        assert float_ops(model) == float_rounding(model) == []
        assert np.abs(actual.astype(int) - expected).max() <= 1


# --- which engine -------------------------------------------------------------------------------------

LAYERS = {
    "linear": Layer("linear", 0, (6, 5), kernel=(), sizes=()),
    "conv1d": Layer("conv", 1, (3, 4), 1, (5,), (2,), (2,), (1,), (0,), (11,)),
    "conv2d": Layer("conv", 2),
    "conv3d": Layer("conv", 3, (2, 3), 1, *[(n,) * 3 for n in (2, 1, 0, 2, 0)], (4, 4, 4)),
    "depthwise": Layer("conv", 2, (1, 1), 16),
    "large_kernel": Layer("conv", 2, (2, 3), kernel=(70, 1), sizes=(71, 2)),
    "conv_transpose1d": Layer(
        "conv_transpose", 1, (3, 3), 1, (3,), (2,), (1,), (1,), (0,), (6,), per_channel=False
    ),
    "conv_transpose2d": Layer("conv_transpose", 2, (3, 3), per_channel=False),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("current", ENGINES)
@pytest.mark.parametrize("packed", ENGINES)
def test_packed_weights_keep_their_engine(packed: str, current: str, kind: str) -> None:
    if (packed, kind) == ("qnnpack", "conv3d"):
        pytest.skip("qnnpack does not unpack 3D convolutions: refused below")
    with engine(packed):
        module, x = build(LAYERS[kind])
        used = importer.packed_engine(module.packed)
    with engine(current):
        model = assert_same(module, x)
    numerics = {getattr(op, "numerics", None) for op in model.ops} - {None}
    assert numerics == {used}
    assert used == packed or packed == "x86"
    assert model.origin.engine.startswith(f"torch {current}")
    if used != current:
        assert used in model.origin.engine
    mixed = packed != current and "qnnpack" in (packed, current)
    assert mixed == any("current engine" in note for note in model.origin.notes)


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_a_named_engine_must_be_that_of_the_weights(kind: str) -> None:
    for packed in ENGINES:
        with engine(packed):
            module, x = build(LAYERS[kind])
        for named in ENGINES:
            used = importer.packed_engine(module.packed)
            x86 = "onednn" if kind == "conv2d" else "fbgemm"
            if used == (x86 if named == "x86" else named):
                assert run(from_torch(module, x, engine=named), x)
                continue
            with pytest.raises(UnsupportedOpError, match=f"packed for the engine {used}"):
                from_torch(module, x, engine=named)


def test_x86_is_what_it_is_with_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AVX512-VNNI the engine x86 packs everything for fbgemm."""
    with engine("fbgemm"):
        module, x = build(LAYERS["conv2d"])
    monkeypatch.setattr(importer, "x86_has_onednn", lambda: False)
    with engine("x86"):
        model = from_torch(module, x, engine="x86")
    assert [op.numerics for op in model.ops if op.name == "conv"] == ["onednn"]


# --- where torch departs from its formulas ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
def test_qnnpack_does_not_give_back_weights_of_three_axes(kind: str) -> None:
    three = [(n,) * 3 for n in (2, 1, 0, 1, 0)]
    layer = Layer(kind, 3, (2, 2), 1, *three, (4, 4, 4), per_channel=False)
    with engine("qnnpack"):
        module, x = build(layer)
        with pytest.raises(UnsupportedOpError, match="cannot unpack its weights"):
            from_torch(module, x)


DEPTHWISE = Layer("conv", 2, (1, 1), 16, (3, 3), padding=(1, 1), zero_point=0, bias=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": 12},
        {"kernel": (3, 1), "padding": (1, 0)},
        {"padding": (0, 0)},
        {"stride": (1, 3)},
        {"dilation": (2, 2)},
        {"channels": (1, 3)},
        {"channels": (2, 1)},
    ],
)
def test_other_kernels_of_fbgemm_do_not_saturate(changes: dict[str, Any]) -> None:
    with engine("fbgemm"):
        module, x = build(replace(DEPTHWISE, codes=255, **changes))
        model = assert_same(module, x)
    assert model.origin.notes == ()
    assert {op.numerics for op in model.ops if hasattr(op, "numerics")} == {"fbgemm"}


def small_depthwise(largest: int) -> torch.nn.Module:
    """A depthwise convolution with weights of at most `largest`, behind a relu6 of which 6 is code 127."""
    codes = np.zeros((8, 1, 3, 3), np.int8)
    codes[:, :, 0, :2] = largest
    w = torch._make_per_tensor_quantized_tensor(torch.from_numpy(codes), 0.01, 0)
    packed = torch.ops.quantized.conv2d_prepack(w, None, [1, 1], [1, 1], [1, 1], 8)
    return Quantized("conv2d", packed, 0.05, 100)


def test_saturation_is_not_noted_where_it_cannot_happen() -> None:
    x = torch._make_per_tensor_quantized_tensor(
        torch.full((1, 8, 5, 5), 255, dtype=torch.uint8), 6 / 127, 0
    )
    with engine("fbgemm"):
        assert assert_same(small_depthwise(64), x).origin.notes == ()
        assert "exceed 252" in str(assert_same(small_depthwise(65), x).origin.notes)
        bounded = torch.nn.Sequential(torch.nn.ReLU6(), small_depthwise(127))
        assert assert_same(bounded, x).origin.notes == ()


def test_windows_in_the_padding_are_noted() -> None:
    """onednn leaves garbage there, for groups of one input channel and several output channels."""
    layer = Layer("conv", 2, (1, 3), 4, (2, 2), padding=(2, 2), sizes=(4, 4))
    with engine("onednn"):
        module, x = build(layer)
        assert "run to run" in str(converted(module, x).origin.notes)
        for fine in (
            replace(layer, zero_point=0),
            replace(layer, padding=(1, 1)),
            replace(layer, channels=(1, 1)),
            replace(layer, channels=(2, 3)),
            replace(layer, kernel=(1, 1)),
        ):
            module, x = build(fine)
            assert assert_same(module, x).origin.notes == ()


def test_windows_between_elements_are_seen_as_well() -> None:
    """A dilated window may jump over a short input."""
    short = Layer("conv", 2, (1, 2), 2, (2, 2), padding=(2, 2), dilation=(3, 3), sizes=(2, 2))
    with engine("onednn"):
        module, x = build(short)
        assert "run to run" in str(converted(module, x).origin.notes)


def test_other_reads_of_unwritten_memory_are_noted() -> None:
    rows = Layer("conv", 2, (1, 1), 16, (1, 3), padding=(2, 0), sizes=(4, 8))
    column = Layer("conv", 2, (1, 3), 16, (3, 4), (1, 3), (1, 0), sizes=(4, 4))
    gaps = Layer(
        "conv_transpose", 2, (17, 17), 1, (1, 5), (3, 2), (0, 2), sizes=(6, 14), per_channel=False
    )
    with engine("onednn"):
        for layer in (rows, column, gaps):
            module, x = build(layer)
            assert "run to run" in str(converted(module, x).origin.notes)
        for layer in (
            replace(rows, zero_point=0),
            replace(rows, padding=(2, 1)),
            replace(column, stride=(1, 1)),
            replace(column, channels=(1, 1)),
            replace(gaps, zero_point=0),
            replace(gaps, stride=(1, 2)),
        ):
            module, x = build(layer)
            assert assert_same(module, x).origin.notes == ()


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("channels", "wrong"), [((3, 5), True), ((4, 4), False), ((1, 5), False)])
def test_scrambled_weights_of_transposed_convolutions(
    rank: int, channels: tuple[int, int], wrong: bool
) -> None:
    one, no = (1,) * rank, (0,) * rank
    for groups in (1, 3):
        layer = Layer(
            "conv_transpose", rank, channels, groups, (2,) * rank, one, no, one, no, (4,) * rank
        )
        model = check("onednn", replace(layer, per_channel=False))
        assert wrong == any("wrong order" in note for note in model.origin.notes)
        fine = check("fbgemm", replace(layer, per_channel=False))
        assert fine.origin.notes == ()


def test_a_transposed_convolution_of_another_kind_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faults, "scrambled", lambda weight, groups: weight[::-1])
    with engine("onednn"):
        module, x = build(Layer("conv_transpose", 2, (3, 5), per_channel=False))
        with pytest.raises(UnsupportedOpError, match="in no known order"):
            from_torch(module, x)


@pytest.mark.parametrize("name", ["x86", "onednn"])
def test_general_kernels_of_onednn(name: str) -> None:
    """Their order of rounding shows in layers with biases near ties."""
    three = (2, 2, 2)
    dilated = Layer("conv", 3, (1, 1), 24, (3, 3, 3), (1, 1, 1), three, three, sizes=(9, 9, 9))
    strided = Layer(
        "conv_transpose", 2, (3, 3), 5, (3, 3), (2, 2), (0, 0), (2, 2), per_channel=False
    )
    for layer in (dilated, strided):
        for seed in range(4):
            model = check(name, replace(layer, seed=seed))
            assert [op.numerics for op in model.ops if hasattr(op, "numerics")] == [
                "onednn-general"
            ]


def test_a_bias_beyond_int32_is_cut_off() -> None:
    """As behind a layer whose results are all 0, where the scale of x is tiny."""
    w = torch._make_per_tensor_quantized_tensor(torch.ones(2, 3, dtype=torch.int8), 1e-6, 0)
    x = torch._make_per_tensor_quantized_tensor(torch.zeros(1, 3, dtype=torch.uint8), 1e-6, 0)
    with engine("qnnpack"):
        packed = torch.ops.quantized.linear_prepack(w, torch.tensor([1.0, 2.0]))
        module = Quantized("linear", packed, 1e-6, 0)
        model = converted(module, x)
        np.testing.assert_array_equal(run(model, x)[0], outputs(module, x)[0])
    assert "cut off where they cannot" in str(model.origin.notes)
