"""The example architectures, in plain torch, and the table `ARCHITECTURES` that names them.

Images come in as (N, channels, height, width) float32; classifiers return logits (N, classes).
`resnet18`, `resnet50` and `mobilenet_v2` have torchvision's layers under torchvision's parameter
names, so that a state dict from there loads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.data import synthetic_images


class MLP(nn.Module):
    """784-128-64-10 with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(784, 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Autoencoder(nn.Module):
    """Linear, BatchNorm, ReLU between each pair of `widths`; the last layer is linear only.

    Flattens its input to (N, widths[0]); returns the reconstruction, (N, widths[-1]).
    """

    def __init__(self, widths: tuple[int, ...] = (784, 128, 128, 8, 128, 128, 784)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths[:-1]):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        layers.append(nn.Linear(widths[-2], widths[-1]))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class LeNet(nn.Module):
    """LeNet-5 for (N, 1, 28, 28), with ReLU and max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Digits(nn.Module):
    """A small residual network for (N, 1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_bn_relu(1, 16)
        self.residual = nn.Sequential(_conv_bn_relu(16, 16), *_conv_bn(16, 16))
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.top = _conv_bn_relu(16, 32)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.relu(x + self.residual(x))
        x = self.top(self.pool(x))
        return self.fc(torch.flatten(self.mean(x), 1))


class ResNet8(nn.Module):
    """The CIFAR ResNet of MLPerf Tiny: three residual blocks of 16, 32 and 64 channels.

    As there, a shortcut that changes shape is a 1x1 convolution with bias and no BatchNorm.
    """

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.stem = _conv_bn_relu(in_channels, 16)
        self.blocks = nn.Sequential(
            BasicBlock(16, 16, 1, None),
            BasicBlock(16, 32, 2, nn.Conv2d(16, 32, 1, stride=2)),
            BasicBlock(32, 64, 2, nn.Conv2d(32, 64, 1, stride=2)),
        )
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mean(self.blocks(self.stem(x)))
        return self.fc(torch.flatten(x, 1))


class DSCNN(nn.Module):
    """The keyword-spotting network of MLPerf Tiny, with ReLU6: a convolution of stride 2, then
    four blocks of depthwise 3x3 and pointwise 1x1, 64 channels all through.

    `pool` is the height and width that remain after the stem; one average pool covers them.
    """

    def __init__(
        self,
        kernel: tuple[int, int] = (3, 3),
        padding: tuple[int, int] = (1, 1),
        pool: tuple[int, int] = (14, 14),
        classes: int = 10,
    ) -> None:
        super().__init__()
        width = 64
        layers: list[nn.Module] = [
            nn.Conv2d(1, width, kernel, stride=2, padding=padding, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
        ]
        for _ in range(4):
            layers += [
                nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU6(),
                nn.Conv2d(width, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU6(),
            ]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AvgPool2d(pool)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x))
        return self.fc(torch.flatten(x, 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; `downsample` (None: identity) is the shortcut's path."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1 to four times the channels, and a shortcut."""

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    """torchvision's ImageNet ResNet: `depths` blocks in four stages of 64 to 512 channels."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, 64, 64, depths[0], 1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, depths[1], 2)
        self.layer3 = _stage(block, 128 * block.expansion, 256, depths[2], 2)
        self.layer4 = _stage(block, 256 * block.expansion, 512, depths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18() -> ResNet:
    """ResNet-18 for (N, 3, 224, 224), 1000 classes."""
    return ResNet(BasicBlock, (2, 2, 2, 2))


def resnet50() -> ResNet:
    """ResNet-50 for (N, 3, 224, 224), 1000 classes."""
    return ResNet(Bottleneck, (3, 4, 6, 3))


class InvertedResidual(nn.Module):
    """1x1 to `expand` times the channels, depthwise 3x3, linear 1x1; a shortcut if shapes agree."""

    def __init__(self, in_channels: int, channels: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = in_channels * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers.append(_conv_bn_relu6(in_channels, hidden, 1))
        layers += [
            _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """torchvision's MobileNetV2 of width 1.0."""

    # expand, channels, repeats, stride of the first
    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn_relu6(3, 32, 3, 2)]
        in_channels = 32
        for expand, channels, repeats, first_stride in self.STAGES:
            for i in range(repeats):
                stride = first_stride if i == 0 else 1
                layers.append(InvertedResidual(in_channels, channels, stride, expand))
                in_channels = channels
        layers.append(_conv_bn_relu6(in_channels, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


def mobilenet_v2() -> MobileNetV2:
    """MobileNetV2 for (N, 3, 224, 224), 1000 classes."""
    return MobileNetV2()


def _conv_bn(in_channels: int, channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    ]


def _conv_bn_relu(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*_conv_bn(in_channels, channels), nn.ReLU())


def _conv_bn_relu6(
    in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(inplace=True),
    )


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    channels: int,
    depth: int,
    stride: int,
) -> nn.Sequential:
    out_channels = channels * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    first = block(in_channels, channels, stride, downsample)
    rest = [block(out_channels, channels, 1, None) for _ in range(depth - 1)]
    return nn.Sequential(first, *rest)


@dataclass(frozen=True)
class Architecture:
    """How to build a network, the shape of one input, and the data set it is trained on.

    A `dataset` of None means that no trained weights exist: see `randomize`.
    """

    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    dataset: str | None


ARCHITECTURES = {
    "digits": Architecture(Digits, (1, 8, 8), "digits"),
    "mlp": Architecture(MLP, (1, 28, 28), "fashion_mnist"),
    "autoencoder": Architecture(
        lambda: Autoencoder((784, 64, 64, 8, 64, 64, 784)), (1, 28, 28), "fashion_mnist"
    ),
    "lenet": Architecture(LeNet, (1, 28, 28), "fashion_mnist"),
    "resnet8": Architecture(ResNet8, (1, 28, 28), "fashion_mnist"),
    "dscnn": Architecture(DSCNN, (1, 28, 28), "fashion_mnist"),
    # The input sizes of MLPerf Tiny: machine sounds and keyword spotting.
    "autoencoder_640": Architecture(
        lambda: Autoencoder((640, 128, 128, 8, 128, 640)), (640,), None
    ),
    "dscnn_49x10": Architecture(
        lambda: DSCNN((10, 4), (5, 1), (25, 5), classes=12), (1, 49, 10), None
    ),
    "resnet18": Architecture(resnet18, (3, 224, 224), None),
    "resnet50": Architecture(resnet50, (3, 224, 224), None),
    "mobilenet_v2": Architecture(mobilenet_v2, (3, 224, 224), None),
}


@torch.no_grad()
def randomize(module: nn.Module, seed: int, input_shape: tuple[int, ...] = (3, 224, 224)) -> None:
    """Give `module` seeded random weights and BatchNorm statistics, and leave it in eval mode.

    Weights are He-normal, biases and BatchNorm's affine parameters random. The running statistics
    are those of a batch of synthetic images, each disturbed by some 20 %, so that activations keep
    a standard deviation near 1 through any depth while no BatchNorm is close to the identity.
    The last Linear, which must have a bias, is scaled and shifted so that over that batch each
    output has mean 0 and, on average, standard deviation 1: the winning class differs from image
    to image.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    norms: list[nn.BatchNorm1d | nn.BatchNorm2d] = []
    module.eval()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            layer.weight.copy_(normal(layer.weight) * (2 / fan_in) ** 0.5)
            if layer.bias is not None:
                layer.bias.copy_(0.1 * normal(layer.bias))
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.weight.copy_(uniform(layer.weight, 0.5, 1.5))
            layer.bias.copy_(0.2 * normal(layer.bias))
            layer.reset_running_stats()
            layer.momentum = None  # the running statistics become those of the one batch below
            layer.train()
            norms.append(layer)

    images = torch.from_numpy(synthetic_images(16, input_shape, seed))
    module(images)
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        deviation = norm.running_var.sqrt()
        norm.running_mean += 0.2 * deviation * normal(norm.running_mean)
        norm.running_var *= uniform(norm.running_var, 0.7, 1.4)
        norm.momentum = 0.1
        norm.eval()

    outputs = module(images)
    spread = outputs.std(0).mean()
    last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    last.weight /= spread
    last.bias.sub_(outputs.mean(0)).div_(spread)
