"""PT2E models: every code that torch's graph quantizes to, static and QAT; layers with scales found at run time."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models come from torch")
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
pytest.importorskip("torchao", reason="torchao has the quantizers")

import torch.nn.functional as F
from torch import nn
from torch_pt2e import (
    compared_codes,
    prepare_pt2e,
    prepare_qat_pt2e,
    quantized,
    x86,
    xnnpack,
)
from torch_runner import QUIET

from nprt import Session
from nprt.converters import from_torch
from nprt.errors import ModelError, UnsupportedOpError
from nprt.info import float_ops
from nprt.ops.dynamic_linear import DynamicLinear

pytestmark = [pytest.mark.filterwarnings(f) for f in (*QUIET, "ignore::UserWarning")]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class Residual(nn.Module):
    """Convolutions with batch norm, a residual, pooling, a depthwise layer, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.first(x))), 2)
        x = F.relu(x + self.point(F.relu(self.depthwise(x))))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Branches(nn.Module):
    """Concatenation, products, clips, a grouped and a dilated layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.b = nn.Conv2d(4, 8, 3, stride=2, padding=2, dilation=2, groups=2)
        self.c = nn.Conv2d(16, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([F.hardtanh(self.a(x), -0.5, 0.5), F.relu6(self.b(x))], 1)
        y = self.c(y)
        return y * y[:, :1]


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Audio(nn.Module):
    """One-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 12, 5, padding=2), nn.Conv1d(12, 12, 3, groups=12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(F.relu(self.a(x))).mean(-1)


class Gates(nn.Module):
    """Functions that become tables."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.hardswish(self.a(x))
        return y * torch.sigmoid(self.b(y))


SHAPES: dict[type[nn.Module], tuple[int, ...]] = {
    Residual: (3, 16, 16),
    Branches: (4, 12, 12),
    Perceptron: (64,),
    Audio: (4, 40),
    Gates: (3, 9, 9),
}

STATIC: dict[str, Callable[[], object]] = {
    "xnnpack_channels": lambda: xnnpack(is_per_channel=True),
    "xnnpack_tensors": lambda: xnnpack(is_per_channel=False),
    "x86": x86,
    "x86_reduced": lambda: x86(reduce_range=True),
}

QAT: dict[str, Callable[[], object]] = {
    "xnnpack": lambda: xnnpack(is_per_channel=True, is_qat=True),
    "x86": lambda: x86(is_qat=True),
}


def batches(cls: type[nn.Module], count: int = 3, size: int = 2) -> list[torch.Tensor]:
    return [torch.randn(size, *SHAPES[cls]) for _ in range(count)]


@pytest.mark.parametrize(
    ("cls", "quantizer"),
    [
        (cls, name)
        for cls in SHAPES
        for name in STATIC
        if cls is not Audio or "x86" not in name  # which leaves Conv1d in float32
    ],
)
def test_static(cls, quantizer):
    module = quantized(cls(), batches(cls), STATIC[quantizer]())
    x = torch.randn(16, *SHAPES[cls])
    model, counts = compared_codes(module, x, functions=cls is Gates)
    assert sum(counts.compared.values()) >= x.numel()
    assert sum(counts.differing.values()) <= 1e-4 * sum(counts.compared.values())
    assert model.types["x"].shape[0] == "N"


# torchao takes half a minute to look for batch norms behind convolutions.
@pytest.mark.parametrize(
    ("cls", "quantizer"),
    [
        (Perceptron, "xnnpack"),
        (Perceptron, "x86"),
        pytest.param(Residual, "xnnpack", marks=pytest.mark.slow),
        pytest.param(Residual, "x86", marks=pytest.mark.slow),
    ],
)
def test_qat(cls, quantizer):
    module = quantized(cls(), batches(cls), QAT[quantizer](), qat=True)
    _, counts = compared_codes(module, torch.randn(16, *SHAPES[cls]))
    assert sum(counts.differing.values()) <= 1e-4 * sum(counts.compared.values())


def test_batch_of_the_export_stays_fixed():
    module = quantized(Perceptron(), batches(Perceptron), x86(), free=False)
    model, _ = compared_codes(module, *batches(Perceptron, 1))
    assert model.types["x"].shape == (2, 64)
    assert any("the batch is fixed at 2" in note for note in model.origin.notes)


def test_weights_that_are_quantized_in_the_graph():
    """With fold_quantize=False the weights stay float32, and their quantize nodes work on constants."""
    module = quantized(Residual(), batches(Residual), xnnpack(is_per_channel=True), fold=False)
    _, counts = compared_codes(module, torch.randn(4, *SHAPES[Residual]))
    assert {"conv", "linear"} <= set(counts.compared)


def test_values_are_named_after_modules_and_nodes():
    module = quantized(Residual(), batches(Residual), xnnpack(is_per_channel=True))
    model = from_torch(module, batches(Residual, 1)[0])
    for name in ("x.codes", "max_pool2d", "head.codes", "first.weight", "head.bias"):
        assert name in model.types, str(model)


def test_saved_program(tmp_path):
    """A quantized graph exported once more, and read from a file, gives the same model."""
    module = quantized(Residual(), batches(Residual), xnnpack(is_per_channel=True))
    x = torch.randn(5, *SHAPES[Residual])
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, tmp_path / "model.pt2")
    results = [
        Session(from_torch(source, x))(x.numpy())
        for source in (module, program, tmp_path / "model.pt2", str(tmp_path / "model.pt2"))
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_numerics_integer():
    module = quantized(Residual(), batches(Residual), xnnpack(is_per_channel=True))
    x = torch.randn(8, *SHAPES[Residual])
    model = from_torch(module, x, numerics="integer", require_integer=True)
    assert not float_ops(model)
    with torch.no_grad():
        expected = module(x).numpy()
    noise = np.square(Session(model)(x.numpy()) - expected).mean()
    assert np.square(expected).mean() > 1000 * noise


# --- scales that are found at run time ----------------------------------------------------------------

DYNAMIC = {
    "xnnpack": lambda: xnnpack(is_per_channel=True, is_dynamic=True),
    "x86": lambda: x86(is_dynamic=True),
    "x86_reduced": lambda: x86(is_dynamic=True, reduce_range=True),
}


@pytest.mark.parametrize("quantizer", DYNAMIC)
def test_dynamic_linear(quantizer):
    """float32 results: the codes are torch's, the sums are exact instead of float32."""
    module = quantized(Perceptron(), batches(Perceptron), DYNAMIC[quantizer]())
    x = torch.randn(8, 64)
    model = from_torch(module, x)
    layers = [op for op in model.ops if isinstance(op, DynamicLinear)]
    assert [layer.numerics for layer in layers] == ["pt2e"] * 3
    assert all(layer.reduce_range is (quantizer == "x86_reduced") for layer in layers)
    assert model.types["x"].shape == ("N", 64)
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(Session(model)(x.numpy()), expected, rtol=1e-4, atol=1e-5)


def test_dynamic_codes():
    """The first layer alone, whose codes only its own range decides: equal but for the order of the sums."""
    module = quantized(nn.Linear(40, 30), [torch.randn(2, 40)], DYNAMIC["xnnpack"]())
    model = from_torch(module, torch.randn(3, 40))
    for scale in (1e-6, 1e-4, 1.0, 300.0):  # the first two have the least scale
        x = torch.randn(9, 40) * scale
        with torch.no_grad():
            expected = module(x).numpy()
        actual = Session(model)(x.numpy())
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6 * max(scale, 0.1))


def test_dynamic_convolution():
    """It has no int8 op: float32, step by step, with the batch of the example."""
    module = quantized(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
        [torch.randn(2, 3, 6, 6)],
        x86(is_dynamic=True),
    )
    x = torch.randn(2, 3, 6, 6)
    model = from_torch(module, x)
    assert model.types[model.inputs[0]].shape == (2, 3, 6, 6)
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(Session(model)(x.numpy()), expected, rtol=1e-4, atol=1e-5)


# --- by hand ------------------------------------------------------------------------------------------

ops = torch.ops.quantized_decomposed


class Graph(nn.Module):
    """Calls of quantized_decomposed operators, as an older export wrote them."""

    def __init__(self, function: Callable[..., torch.Tensor], **buffers: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        return self.function(self, *x)


def to_uint8(x, scale, zero_point, low=0, high=255):
    return ops.quantize_per_tensor(x, scale, zero_point, low, high, torch.uint8)


def from_uint8(q, scale, zero_point, low=0, high=255):
    return ops.dequantize_per_tensor(q, scale, zero_point, low, high, torch.uint8)


def test_parameters_as_tensors():
    """quantize_per_tensor.tensor and .tensor2, and ties: 0.5, 1.5 and 2.5 steps."""

    def forward(s, x):
        q = ops.quantize_per_tensor.tensor(x, s.scale, s.zero, 0, 255, torch.uint8)
        y = ops.dequantize_per_tensor.tensor(q, s.scale, s.zero, 0, 255, torch.uint8)
        ends = (s.low, s.high)
        p = ops.quantize_per_tensor.tensor2(y * 2, s.scale, s.zero, *ends, torch.uint8)
        return ops.dequantize_per_tensor.tensor2(p, s.scale, s.zero, *ends, torch.uint8)

    buffers = dict(
        scale=torch.tensor([0.1]),
        zero=torch.tensor([7]),
        low=torch.tensor([0]),
        high=torch.tensor([255]),
    )
    module = Graph(forward, **buffers)
    x = torch.arange(-40, 300, dtype=torch.float32).reshape(2, 170) * 0.05
    np.testing.assert_array_equal(Session(from_torch(module, x))(x.numpy()), module(x).numpy())


@pytest.mark.parametrize(("low", "high"), [(0, 127), (3, 200), (0, 255)])
def test_codes_in_a_narrower_range(low, high):
    def forward(s, x):
        q = to_uint8(torch.relu(x) + 0.03, 0.02, 3, low, high)
        return from_uint8(q, 0.02, 3, low, high)

    module = Graph(forward)
    x = torch.linspace(-3, 6, 400).reshape(4, 100)
    model = from_torch(module, x)
    np.testing.assert_array_equal(Session(model)(x.numpy()), module(x).numpy())


def test_edges_in_codes():
    """A graph whose input and output are codes."""

    def forward(s, q):
        return to_uint8(torch.tanh(from_uint8(q, 0.05, 100)), 1 / 128, 128)

    module = Graph(forward)
    q = torch.arange(256, dtype=torch.uint8).reshape(2, 128)
    model = from_torch(module, q)
    actual = Session(model)(q.numpy())
    assert actual.dtype == np.uint8
    np.testing.assert_array_equal(actual, module(q).numpy())


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (
            lambda s, x: ops.dequantize_per_channel(
                ops.quantize_per_channel(x, s.scales, s.zeros, 1, 0, 255, torch.uint8),
                s.scales,
                s.zeros,
                1,
                0,
                255,
                torch.uint8,
            ),
            "one scale for each channel",
        ),
        (
            lambda s, x: ops.dequantize_per_tensor(
                ops.quantize_per_tensor(x, 0.1, 0, -32768, 32767, torch.int16),
                0.1,
                0,
                -32768,
                32767,
                torch.int16,
            ),
            "torch.int16",
        ),
        (lambda s, x: from_uint8(to_uint8(x, 0.1, 3), 0.2, 3), "was quantized with"),
        (
            lambda s, x: to_uint8(x, 0.1, 3) + 1,
            "has dtype uint8",
        ),
    ],
)
def test_refused(forward, message):
    module = Graph(forward, scales=torch.full((4,), 0.1), zeros=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(UnsupportedOpError, match=message):
        from_torch(module, torch.randn(2, 4))


def test_unconverted_models_are_refused():
    """prepare without convert: observers and fake quantization are in the way."""
    x = torch.randn(2, 64)
    for prepare, quantizer in (
        (prepare_pt2e, x86()),
        (prepare_qat_pt2e, xnnpack(is_per_channel=True, is_qat=True)),
    ):
        prepared = prepare(torch.export.export(Perceptron(), (x,)).module(), quantizer)
        prepared(x)
        with pytest.raises(
            ModelError, match="observers or fake quantizers run in it, as activation"
        ):
            from_torch(prepared, x)
