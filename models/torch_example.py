"""A small network quantized by PyTorch's eager mode, for `nprt convert --torch models.torch_example:quantized`."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from models.data import digits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.ao import quantization as tq
    from torch.ao.nn.quantized import FloatFunctional


class Net(nn.Module):
    """Two convolutions, the second with a shortcut around it, and a linear layer, for 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.shortcut = FloatFunctional()
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(16 * 4 * 4, 10)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.conv1(self.quant(input)))
        x = self.pool(self.shortcut.add_relu(x, self.conv2(x)))
        return self.dequant(self.fc(x.flatten(1)))


def quantized(engine: str = "fbgemm") -> tuple[nn.Module, torch.Tensor]:
    """The network with random weights, calibrated on handwritten digits; and two of them as example inputs."""
    images = torch.from_numpy(digits().calibration_images)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            net = Net().eval()
            net.qconfig = tq.get_default_qconfig(engine)
            net = tq.prepare(tq.fuse_modules(net, [["conv1", "relu"]]))
            net(images)
            return tq.convert(net), images[:2]
    finally:
        torch.backends.quantized.engine = before
