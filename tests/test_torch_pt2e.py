"""PT2E models: every code that torch's graph quantizes to, static and QAT; layers with scales found at run time."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models come from torch")
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
pytest.importorskip("torchao", reason="torchao has the quantizers")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from nprt import Session  # noqa: E402
from nprt.converters import from_torch  # noqa: E402
from nprt.errors import UnsupportedOpError  # noqa: E402
from nprt.info import float_ops  # noqa: E402
from nprt.ops.dynamic_linear import DynamicLinear  # noqa: E402
from torch_pt2e import compared_codes, quantized, x86, xnnpack  # noqa: E402
from torch_runner import QUIET  # noqa: E402

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
