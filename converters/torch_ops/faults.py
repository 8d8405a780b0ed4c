"""Where the int8 convolutions of torch 2.13 depart from their engine's formula: when, and what nprt does then.

Measured on x86-64 with AVX512-VNNI; docs/torch.md lists the same conditions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nprt import rounding
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

    def axes(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Size, kernel, stride, padding and dilation of each axis."""
        yield from zip(
            self.sizes, self.kernel, self.stride, self.padding, self.dilation, strict=True
        )

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels of one group."""
        first, second = self.weight.shape[:2]
        return (first // self.groups, second) if self.transposed else (second, first // self.groups)


def faults(conv: Convolution) -> Iterator[str]:
    """What a user has to know of this layer: torch may give other codes than nprt."""
    if saturates(conv):
        yield (
            "torch's depthwise kernel cuts sums of two products to 16 bits, which happens here where codes of the "
            f"input exceed {saturation_limit(conv)}; nprt follows, but sums exactly with numerics integer"
        )
    if conv.engine == "onednn" and any(rule(conv) for rule in UNWRITTEN):
        yield (
            "onednn reads memory here that it did not write: some of torch's codes are wrong, and may change from run "
            "to run; nprt's are those of its formula"
        )


def saturates(conv: Convolution) -> bool:
    """Whether the layer is one of eq. (73), of which any input reaches the end of int16."""
    reached = max(conv.greatest, conv.zero_point)  # padding has the code of the zero point
    return conv.engine == "fbgemm" and not conv.transposed and reached > saturation_limit(conv)


def saturation_limit(conv: Convolution) -> int:
    """The greatest code of x with which fbgemm's depthwise kernel is exact; 255 for every other kernel.

    The kernel multiplies raw codes, adds the products of taps 2 i and 2 i + 1, in row-major order, and saturates the
    sum to int16. Only depthwise convolutions of some shapes take it.
    """
    kernel = conv.kernel
    taken = (
        len(kernel) in (2, 3)
        and conv.channels in ((1, 1), (1, 2))
        and conv.groups % 8 == 0
        and set(kernel) <= {3, 5, 7}
        and kernel[-1] == kernel[-2]
        and set(conv.stride) <= {1, 2}
        and conv.padding == tuple(size // 2 for size in kernel)
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


def has_empty_windows(conv: Convolution) -> bool:
    """Windows without any element of the input, where one channel becomes several."""
    inputs, outputs = conv.channels
    if conv.transposed or not conv.zero_point or inputs > 1 or outputs == 1:
        return False
    return any(
        kernel > 1 and _outside(*axis)
        for kernel, axis in zip(conv.kernel, conv.axes(), strict=True)
    )


def pads_rows_of_one(conv: Convolution) -> bool:
    """Depthwise windows along the last axis alone, with padding along others alone."""
    *pads, last_pad = conv.padding
    lines = set(conv.kernel[:-1]) == {1} and any(pads) and not last_pad
    depthwise = conv.groups > 1 and conv.channels == (1, 1) and conv.groups % 16 == 0
    return not conv.transposed and bool(conv.zero_point) and depthwise and lines


def gives_one_column(conv: Convolution) -> bool:
    """Groups of one channel that become several, in a single column although the stride is greater than 1."""
    inputs, outputs = conv.channels
    if conv.transposed or len(conv.sizes) == 1 or conv.groups == 1 or inputs > 1 or outputs == 1:
        return False
    size, kernel, stride, padding, dilation = list(conv.axes())[-1]
    reach = size + 2 * padding - dilation * (kernel - 1) - 1
    return kernel >= stride > 1 and 0 <= reach < stride


def leaves_gaps(conv: Convolution) -> bool:
    """Transposed windows that do not touch each other."""
    steps = zip(conv.kernel, conv.stride, strict=True)
    return conv.transposed and bool(conv.zero_point) and any(s > k for k, s in steps)


UNWRITTEN = (has_empty_windows, pads_rows_of_one, gives_one_column, leaves_gaps)


def _outside(size: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether a window of `kernel` taps along one axis touches no element."""
    count = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    starts = np.arange(count)[:, None] * stride - padding
    taps = starts + np.arange(kernel) * dilation
    return bool(np.any(np.all((taps < 0) | (taps >= size), axis=1)))


def is_general(conv: Convolution) -> bool:
    """Whether onednn takes its general kernel for a convolution that is not transposed: eq. (61)."""
    depthwise = conv.groups > 1 and conv.channels == (1, 1)
    return conv.engine == "onednn" and depthwise and len(conv.sizes) == 3 and max(conv.dilation) > 1


# --- transposed convolutions of onednn ----------------------------------------------------------------

SCRAMBLED = (
    "torch's transposed convolution uses its weights in a wrong order, as it does where input and output channels "
    "differ in number; nprt follows, so the result is as wrong as torch's"
)


@dataclass(frozen=True)
class Transposed:
    """A packed transposed convolution of the engine onednn, which is asked how it computes.

    Attributes:
        bias: float32, or None.
        w_scale: of all weights; onednn refuses others.
    """

    packed: Any
    conv: Convolution
    bias: Array | None
    w_scale: float

    def weights(self) -> Array:
        """The weights that the kernel uses: its own, or `scrambled`.

        Raises:
            ModelError: neither.
        """
        given, groups = self.conv.weight, self.conv.groups
        other = scrambled(given, groups)
        if np.array_equal(other, given):
            return given
        rows, _ = self.conv.channels
        channels = sorted({0, 1, rows // 2, rows - 1, len(given) - 1})
        seen = self._observed(channels)
        for weight in (given, other):
            if np.array_equal(seen, weight[channels]):
                return weight
        raise ModelError(
            "torch's transposed convolution computes with other weights than those it was given, and in no known "
            "order; quantize with the engine fbgemm"
        )

    def numerics(self, weight: Array, x_scale: float) -> str | None:
        """ "onednn" or "onednn-general", as one sample of the recorded size shows; None if it shows neither.

        Args:
            weight: that of `weights`.
        """
        rng = np.random.default_rng(0)
        conv = self.conv
        codes = rng.integers(0, 128, (1, len(weight), *conv.sizes)).astype(np.uint8)
        function = getattr(torch.nn.functional, f"conv_transpose{len(conv.sizes)}d")
        acc = function(
            torch.from_numpy(codes.astype(np.float64) - conv.zero_point),
            torch.from_numpy(weight.astype(np.float64)),
            None,
            conv.stride,
            conv.padding,
            0,
            conv.groups,
            conv.dilation,
        )
        acc = np.moveaxis(acc.numpy(), 1, -1)
        scales = np.float32(x_scale), np.float32(self.w_scale)
        real = acc.astype(np.float32) * rounding.twice_inverted(scales[0]) * scales[1]
        real = real if self.bias is None else real + self.bias
        positive = np.flatnonzero(real > 0)
        if not positive.size:
            return "onednn"
        votes = set()
        for at in rng.choice(positive, VOTES):
            where = np.unravel_index(at, real.shape)
            sample = acc[where], *scales, self.bias if self.bias is None else self.bias[where[-1]]
            found = telling_scale(sample, float(real[where]), rng)
            if found is None:
                continue
            y_scale, answers = found
            y = np.moveaxis(self._run(codes, x_scale, y_scale, conv.zero_point, 0), 1, -1)
            votes.add(answers.get(int(y[where])))
        return votes.pop() if len(votes) == 1 else None if votes else "onednn"

    def _run(
        self, codes: Array, x_scale: float, y_scale: float, x_zero_point: int, y_zero_point: int
    ) -> Array:
        """Codes of the result for codes (batch, channels, *spatial)."""
        rank = len(self.packed.stride())
        flat = codes.ndim - 2 < rank  # one-dimensional weights are packed with an axis more
        x = torch.from_numpy(codes[:, :, None] if flat else codes)
        x = torch._make_per_tensor_quantized_tensor(x, x_scale, x_zero_point)
        function = getattr(torch.ops.quantized, f"conv_transpose{rank}d")
        y: Array = function(x, self.packed, y_scale, y_zero_point).int_repr().numpy()
        return y[:, :, 0] if flat else y

    def _observed(self, channels: Sequence[int]) -> Array:
        """Rows of the weights, one for each input channel of `channels`, as the kernel shows them.

        Each sample is 1 in one channel of its middle pixel and 0 elsewhere. The scale of x is so large that the bias
        does not count, and that of y such that codes of the result are codes of the weights + 128.
        """
        conv = self.conv
        bias = 0.0 if self.bias is None else float(np.abs(self.bias).max(initial=0.0))
        x_scale = float(2.0 ** np.ceil(np.log2(max(bias, 1e-6) / self.w_scale) + 4))
        middle = [-(-p // s) for p, s in zip(conv.padding, conv.stride, strict=True)]
        sizes = [2 * m + 1 for m in middle]
        codes = np.zeros((len(channels), len(conv.weight), *sizes), np.uint8)
        for sample, channel in enumerate(channels):
            tap = (sample, channel, *middle)
            codes[tap] = 1
        y = self._run(codes, x_scale, x_scale * self.w_scale, 0, 128).astype(np.int16) - 128
        first = [m * s - p for m, s, p in zip(middle, conv.stride, conv.padding, strict=True)]
        window = [
            slice(f, f + d * (k - 1) + 1, d)
            for f, k, d in zip(first, conv.kernel, conv.dilation, strict=True)
        ]
        rows, columns = conv.channels
        found = []
        for sample, channel in enumerate(channels):
            outputs = slice(channel // rows * columns, (channel // rows + 1) * columns)
            at: tuple[Any, ...] = (sample, outputs, *window)
            found.append(y[at])
        return np.stack(found)


VOTES = 5
TRIES = 200


def telling_scale(
    sample: tuple[Any, ...], real: float, rng: np.random.Generator
) -> tuple[float, dict[int, str]] | None:
    """A scale of y, near a tie between codes, for which eq. (33) and eq. (62) give different codes, and which ones.

    None if there is none among many.

    Args:
        sample: a sum, the scales of x and of the weights, and a bias or None, of which `real` is the value.
    """
    acc, x_scale, w_scale, bias = sample
    zero = np.float32(0)
    for _ in range(TRIES):
        near = np.float32(real / (rng.integers(20, 100) + 0.5))
        scale = near + np.spacing(near) * np.float32(rng.integers(-3, 4))
        values = (np.asarray(acc), x_scale, w_scale, scale, zero, bias)
        answers = {
            int(rounding.requantize_onednn(*values)): "onednn",
            int(rounding.requantize_onednn_quotient(*values)): "onednn-general",
        }
        if len(answers) == 2:
            return float(scale), answers
    return None


def scrambled(weight: Array, groups: int) -> Array:
    """The weights (in, out / groups, *kernel) that onednn's transposed convolution uses in place of `weight`.

    In each group the weights of one tap, a matrix of (in, out), are read as if it were one of (out, in), and its
    transpose again as if it were not: the same matrix where it is square or has a single row or column.
    """
    _, columns, *kernel = weight.shape
    rows = len(weight) // groups
    read = weight.reshape(groups, columns, rows, *kernel).swapaxes(1, 2)
    return read.reshape(groups, columns, rows, *kernel).swapaxes(1, 2).reshape(weight.shape)
