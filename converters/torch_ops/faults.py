"""Where the int8 convolutions of torch 2.13 depart from their own formulas: when it happens, and what nprt does then.

Measured on x86-64 with AVX512-VNNI; docs/torch.md lists the same conditions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nprt.errors import ModelError
from nprt.ir import Array

INT16 = 32767


@dataclass(frozen=True)
class Convolution:
    """A packed convolution, with what its input is known to be.

    Attributes:
        engine: "fbgemm", "onednn" or "qnnpack".
        weight: codes, as torch has them: (out, in / groups, *kernel), or (in, out / groups, *kernel) if transposed.
        sizes: the spatial dimensions of the input.
        zero_point, greatest: of the input: its zero point, and the greatest code that it can hold.
    """

    engine: str
    weight: Array
    groups: int
    transposed: bool
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    sizes: tuple[int, ...]
    zero_point: int
    greatest: int

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[2:])

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels of one group."""
        first, second = self.weight.shape[:2]
        return (first // self.groups, second) if self.transposed else (second, first // self.groups)


def faults(conv: Convolution) -> Iterator[str]:
    """What a user has to know of this layer: torch may give other codes than nprt."""
    if conv.transposed:
        return
    limit = saturation_limit(conv)
    if conv.engine == "fbgemm" and conv.greatest > limit:
        yield (
            "torch's depthwise kernel cuts sums of two products to 16 bits, which happens here where codes of the "
            f"input exceed {limit}; nprt sums exactly"
        )
    if conv.engine != "onednn":
        return
    if conv.zero_point and sees_only_padding(conv):
        yield (
            "some windows lie in the padding altogether; torch's results for them change from run to run, and nprt's "
            "are those of a zero input"
        )
    if len(conv.sizes) == 3 and conv.groups > 1 and max(conv.dilation) > 1:
        yield (
            "torch computes this grouped and dilated 3D convolution in an order of its own; very few codes may differ "
            "by one"
        )


def saturation_limit(conv: Convolution) -> int:
    """The greatest code of x with which fbgemm's depthwise kernel is exact; 255 for every other kernel.

    The kernel multiplies raw codes, adds the products of taps 2 i and 2 i + 1, in row-major order, and saturates the
    sum to int16. Only depthwise convolutions of some shapes take it.
    """
    kernel, first = conv.kernel, conv.kernel[0]
    taken = (
        len(kernel) in (2, 3)
        and conv.channels in ((1, 1), (1, 2))
        and conv.groups % 8 == 0
        and first % 2 == 1
        and first > 1
        and set(kernel) == {first}
        and conv.stride in ((1,) * len(kernel), (2,) * len(kernel))
        and set(conv.padding) == {first // 2}
        and set(conv.dilation) == {1}
    )
    if not taken:
        return 255
    taps = conv.weight.reshape(len(conv.weight), -1).astype(np.int64)
    taps = np.pad(taps, ((0, 0), (0, taps.shape[1] % 2)))
    pairs = taps.reshape(len(taps), -1, 2)
    highest = int(np.maximum(pairs, 0).sum(-1).max())
    lowest = int(-np.minimum(pairs, 0).sum(-1).min())
    return min(255, INT16 // max(highest, 1), (INT16 + 1) // max(lowest, 1))


def sees_only_padding(conv: Convolution) -> bool:
    """Whether onednn's kernel for several output channels of one input channel has a window without any input."""
    per_group = conv.channels
    if conv.groups == 1 or per_group[0] != 1 or per_group[1] == 1:
        return False
    axes = (conv.sizes, conv.kernel, conv.stride, conv.padding, conv.dilation)
    return any(_outside(*axis) for axis in zip(*axes, strict=True))


def _outside(size: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether a window of `kernel` > 1 taps along one axis touches no element."""
    if kernel == 1:
        return False
    count = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    starts = np.arange(count)[:, None] * stride - padding
    taps = starts + np.arange(kernel) * dilation
    return bool(np.any(np.all((taps < 0) | (taps >= size), axis=1)))


# --- transposed convolutions of onednn ----------------------------------------------------------------


SCRAMBLED = (
    "torch's transposed convolution scrambles its weights, as numbers of input and output channels differ; nprt follows"
)


def scrambled(weight: Array, groups: int) -> Array:
    """The weights (in, out / groups, *kernel) that onednn's transposed convolution uses in place of `weight`.

    In each group the weights of one tap, a matrix of (in, out), are read as if it were one of (out, in), and its
    transpose again as if it were not: the same matrix where it is square or has a single row or column.
    """
    _, columns, *kernel = weight.shape
    parts = weight.reshape(groups, -1, columns, *kernel)
    rows = parts.shape[1]
    read = parts.reshape(groups, columns, rows, *kernel).swapaxes(1, 2)
    return read.reshape(groups, columns, rows, *kernel).swapaxes(1, 2).reshape(weight.shape)


def weights_in_use(packed: torch.ScriptObject, conv: Convolution, bias: Array | None) -> Array:
    """The weights with which a packed transposed convolution computes, as this torch does it: its own, or `scrambled`.

    Raises:
        ModelError: neither.
    """
    other = scrambled(conv.weight, conv.groups)
    if conv.engine != "onednn" or np.array_equal(other, conv.weight):
        return conv.weight
    rows, columns = conv.channels
    channels = sorted({0, 1, rows - 1, rows // 2, len(conv.weight) - 1, len(conv.weight) - rows})
    seen = _observed(packed, conv, bias, channels)
    for weight in (conv.weight, other):
        if np.array_equal(seen, weight[channels]):
            return weight
    raise ModelError(
        "torch's transposed convolution computes with other weights than those it was given, and in no known order; "
        "quantize with the engine fbgemm"
    )


def _observed(
    packed: torch.ScriptObject, conv: Convolution, bias: Array | None, channels: Sequence[int]
) -> Array:
    """Rows of the weights, one for each input channel of `channels`, as the kernel shows them.

    Each sample is 1 in one channel of its middle pixel and 0 elsewhere. Scales are such that codes of the result are
    codes of the weights + 128: that of x is so large that the bias does not count.
    """
    weight, _ = packed.unpack()
    per_channel = weight.qscheme() == torch.per_channel_affine
    scale = 1.0 if per_channel else weight.q_scale()
    assert not per_channel, "onednn refuses these when it packs a transposed convolution"
    largest = 1.0 if bias is None else float(np.abs(bias).max(initial=0.0))
    x_scale = 2.0 ** np.ceil(np.log2(max(largest, 1e-6) / scale) + 4)
    middle = [-(-p // s) for p, s in zip(conv.padding, conv.stride, strict=True)]
    codes = np.zeros((len(channels), len(conv.weight), *(2 * m + 1 for m in middle)), np.uint8)
    for sample, channel in enumerate(channels):
        codes[(sample, channel, *middle)] = 1
    rank = packed_rank(weight)
    wide = codes.reshape(*codes.shape[:2], *(1,) * (rank - len(middle)), *codes.shape[2:])
    x = torch._make_per_tensor_quantized_tensor(torch.from_numpy(wide), float(x_scale), 0)
    run = getattr(torch.ops.quantized, f"conv_transpose{rank}d")
    y = run(x, packed, float(x_scale) * scale, 128).int_repr().numpy().astype(np.int16) - 128
    y = y.reshape(*y.shape[:2], *y.shape[2 + rank - len(middle) :])
    first = [m * s - p for m, s, p in zip(middle, conv.stride, conv.padding, strict=True)]
    window = tuple(
        slice(f, f + d * (k - 1) + 1, d)
        for f, k, d in zip(first, conv.kernel, conv.dilation, strict=True)
    )
    rows, columns = conv.channels
    found = []
    for sample, channel in enumerate(channels):
        group = channel // rows
        outputs = slice(group * columns, (group + 1) * columns)
        found.append(y[(sample, outputs, *window)])
    return np.stack(found)


def packed_rank(weight: torch.Tensor) -> int:
    """The spatial axes of weights as they are packed; one-dimensional ones have two."""
    return weight.ndim - 2
