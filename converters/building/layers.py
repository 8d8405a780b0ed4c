"""Layers of a source whose layout is channels first, on channels last: transposes go around them."""

from __future__ import annotations

from typing import Any

from nprt.converters.building.builder import Builder
from nprt.converters.graph import FLOAT
from nprt.errors import ModelError
from nprt.ir import Op, TensorType
from nprt.ops.conv import Conv
from nprt.ops.conv_transpose import ConvTranspose
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.rules import known


def _spatial_rank(x: TensorType, w: TensorType) -> int:
    if x.rank not in (3, 4, 5) or w.rank != x.rank:
        raise ModelError(f"x {x} and w {w} are not a convolution of 1 to 3 spatial axes")
    return x.rank - 2


def convolution(
    m: Builder,
    x: str,
    w: str,
    bias: str = "",
    x_zero_point: str = "",
    *,
    out: str,
    groups: int,
    like: TensorType = FLOAT,
    **geometry: Any,
) -> str:
    """x (batch, channels, *spatial) * w (out_channels, channels / groups, *kernel) + bias.

    Args:
        like: what the inputs leave open, as for int32 sums.
        geometry: stride, dilation and padding of `conv`.

    Returns:
        (batch, out_channels, *out).
    """
    x_type, w_type = m.graph.types[x], m.graph.types[w]
    rank = _spatial_rank(x_type, w_type)
    channels, out_channels = known("channels", x_type.shape[1]), known("channels", w_type.shape[0])
    if groups == channels and groups > 1 and w_type.shape[1] == 1:
        w = m.rearranged(w, (*range(2, rank + 2), 1, 0), (*w_type.shape[2:], out_channels))
        cls: type[Op] = DepthwiseConv
    else:
        w = m.rearranged(w, (0, *range(2, rank + 2), 1))
        cls = Conv
        geometry["groups"] = groups
    inputs = (m.channels_last(x), w, bias, x_zero_point)
    y = m.emit(cls, *inputs, out=f"{out}~nhwc", like=like, **geometry)
    return m.channels_first(y, out)


def transposed_convolution(
    m: Builder, x: str, w: str, bias: str = "", *, out: str, groups: int, **geometry: Any
) -> str:
    """The transpose of `convolution`: w is (channels, out_channels / groups, *kernel).

    Args:
        geometry: stride, dilation, padding and output_padding of `conv_transpose`.
    """
    w_type = m.graph.types[w]
    rank = _spatial_rank(m.graph.types[x], w_type)
    if groups > 1:
        in_group, out_group = (
            known("channels", w_type.shape[0]) // groups,
            known("channels", w_type.shape[1]),
        )
        w = m.rearranged(
            w, tuple(range(rank + 2)), (groups, in_group, out_group, *w_type.shape[2:])
        )
        out_first = (0, 2, *range(3, rank + 3), 1)
        w = m.rearranged(w, out_first, (groups * out_group, *w_type.shape[2:], in_group))
    else:
        w = m.rearranged(w, (1, *range(2, rank + 2), 0))
    inputs = (m.channels_last(x), w, bias)
    y = m.emit(ConvTranspose, *inputs, out=f"{out}~nhwc", groups=groups, **geometry)
    return m.channels_first(y, out)
