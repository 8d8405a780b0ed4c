"""Modules that merge the batch with other dimensions: it stays free where nprt can take it apart again."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch_runner import QUIET, outputs, run

from nprt.converters.from_torch import import_recording
from nprt.converters.pipeline import float_model
from nprt.converters.torch_ops.batches import record_batches

pytestmark = [pytest.mark.filterwarnings(text) for text in QUIET]


class Attention(nn.Module):
    """As code from before `scaled_dot_product_attention` has it: (length, batch * heads, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.register_buffer("mask", torch.triu(torch.full((5, 5), -math.inf), 1)[None])

    def forward(self, x: Any) -> Any:
        length, batch, width = x.shape
        q, k, v = (
            layer(x).contiguous().view(length, batch * 4, width // 4).transpose(0, 1)
            for layer in self.layers[:3]
        )
        weights = torch.bmm(q * 0.5, k.transpose(1, 2)) + self.mask
        weights = weights.view(batch, 4, length, length).softmax(-1)
        y = torch.bmm(weights.view(batch * 4, length, length), v)
        return self.layers[3](y.transpose(0, 1).reshape(length, batch, width))


class Windows(nn.Module):
    """Attention within windows of an image, which stand in the batch: (batch * windows, places, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.randn(1, 2, 4, 4))
        self.mask = nn.Buffer(torch.randn(9, 4, 4))

    def forward(self, x: Any) -> Any:
        batch, height, width, channels = x.shape
        x = torch.roll(x, (-1, -1), (1, 2))
        y = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
        y = self.norm(y.reshape(-1, 4, channels))
        qkv = self.qkv(y).reshape(y.shape[0], 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = q @ k.transpose(-2, -1) + self.bias
        weights = weights.view(batch, 9, 2, 4, 4) + self.mask[:, None]
        weights = torch.softmax(weights.view(-1, 2, 4, 4), -1)
        y = self.out((weights @ v).transpose(1, 2).reshape(-1, 4, channels))
        y = y.view(batch, height // 2, width // 2, 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(batch, height, width, channels)


class Frames(nn.Module):
    """Layers on each frame of a video, with an axis in front of and behind the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: Any) -> Any:
        batch, frames, places, channels = x.shape
        y = torch.relu(self.layer(x.reshape(batch * frames * places, channels)))
        y = y.chunk(2, -1)[0].reshape(batch, frames, places, 3).permute(1, 0, 2, 3)
        y = y.reshape(frames * batch * places, 3).unsqueeze(1).squeeze(1)
        return y.view(frames, batch, places, 3).sigmoid().transpose(0, 1)


class Images(nn.Module):
    """A convolution of each frame: nprt has one batch dimension, so the batch is fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: Any) -> Any:
        batch, frames = x.shape[:2]
        y = self.layer(x.flatten(0, 1))
        return y.view(batch, frames, *y.shape[1:])


def imported(module: Any, x: Any, axis: int) -> Any:
    recording, notes = record_batches(module.eval(), (x,), {}, axis)
    return float_model(import_recording(recording, "test", "x86", integer=False).graph), notes


@pytest.mark.parametrize(
    ("module", "shape", "axis"),
    [
        (Attention, (5, 3, 16), 1),
        (Windows, (2, 6, 6, 8), 0),
        (Frames, (2, 5, 3, 4), 0),
        (Frames, (1, 5, 3, 4), 0),
    ],
)
def test_the_batch_stays_free(module, shape, axis):
    torch.manual_seed(0)
    module = module()
    model, notes = imported(module, torch.randn(shape), axis)
    assert not notes
    assert model.types["x"].shape == (*shape[:axis], "N", *shape[axis + 1 :])
    for size in (1, 2, 7):
        x = torch.randn(*shape[:axis], size, *shape[axis + 1 :])
        (actual,), (expected,) = run(model, x), outputs(module, x)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Images(), r"convolution reads has shape \[N\*3, 3, 8, 8\]"),
        (Function(lambda x: x.flatten(0, 1)), "an output has shape"),
        (Function(lambda x: x.flatten(0, 1).softmax(0).view(x.shape)), "_softmax on a dimension"),
        (Function(lambda x: x.flatten(0, 1).flip(0).view(x.shape)), "flip"),
        (Function(lambda x: x.flatten(0, 1).cumsum(0).view(x.shape)), "cumsum"),
    ],
)
def test_else_it_is_fixed_and_a_note_says_why(module, reason):
    x = torch.randn(2, 3, 3, 8, 8)
    model, (note,) = imported(module, x, 0)
    assert note.startswith("the batch is fixed at 2: ")
    assert re.search(reason, note), note
    np.testing.assert_allclose(run(model, x)[0], outputs(module, x)[0], rtol=1e-5, atol=1e-5)
