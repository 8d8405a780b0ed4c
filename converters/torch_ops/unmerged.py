"""Functions of torch written with other operators: most of their own forms merge the batch with other dimensions.

Each returns NotImplemented for arguments that it is not for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """`F.multi_head_attention_forward`. q (L, N, E), k and v (S, N, E); returns (L, N, E), and weights or None."""
    unusual = (bias_k, bias_v, static_k, static_v)
    if any(item is not None for item in unusual) or add_zero_attn or query.ndim != 3:
        return NotImplemented
    if (training and dropout_p) or (attn_mask is not None and attn_mask.ndim != 2):
        return NotImplemented
    if use_separate_proj_weight:
        weights: Sequence[Any] = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        assert in_proj_weight is not None
        weights = in_proj_weight.chunk(3)
    biases: Sequence[Any] = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)

    def heads(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = F.linear(x, weight, bias)
        y = y.view(y.shape[0], y.shape[1], num_heads, y.shape[2] // num_heads)
        return y.permute(1, 2, 0, 3)

    q, k, v = map(heads, (query, key, value), weights, biases)
    mask = None
    if attn_mask is not None:
        mask = added(attn_mask, q.dtype)
    if key_padding_mask is not None:
        padding = added(key_padding_mask, q.dtype)
        padding = padding.view(padding.shape[0], 1, 1, padding.shape[1])
        mask = padding if mask is None else mask + padding
    chosen = None
    if need_weights:
        scores = torch.matmul(q * math.sqrt(1 / q.shape[-1]), k.transpose(-2, -1))
        chosen = torch.softmax(scores if mask is None else scores + mask, -1)
        y = torch.matmul(chosen, v)
        chosen = chosen.mean(1) if average_attn_weights else chosen
    else:
        y = F.scaled_dot_product_attention(q, k, v, mask)
    y = y.permute(2, 0, 1, 3)
    y = y.reshape(y.shape[0], y.shape[1], num_heads * y.shape[3])
    return F.linear(y, out_proj_weight, out_proj_bias), chosen


def added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of float, or of bool that is true where attention must not look, as what is added to the scores."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """`F.instance_norm`: a group norm with one channel in each group, or a batch norm with running statistics."""
    if use_input_stats:
        return F.group_norm(input, input.shape[1], weight, bias, eps)
    return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


def aten_instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *options: Any,
) -> Any:
    use_input_stats, momentum, eps, _ = options
    statistics = running_mean, running_var
    return instance_norm(input, *statistics, weight, bias, use_input_stats, momentum, eps)


def einsum(equation: str, *operands: Any) -> Any:
    """`torch.einsum` of two operands in which each index that one of them has alone is an index of the result."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    equation = equation.replace(" ", "") if isinstance(equation, str) else ""
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) != 2 or len(operands) != 2:
        return NotImplemented
    first, second = terms
    if any(len(set(term)) != len(term) for term in (*terms, out)):
        return NotImplemented
    shared = [i for i in first if i in second and i in out]
    summed = [i for i in first if i in second and i not in out]
    alone = [
        [i for i in term if i not in other] for term, other in ((first, second), (second, first))
    ]
    if set(out) != {*shared, *alone[0], *alone[1]} or not summed:
        return NotImplemented
    a, b = operands
    sizes = dict(zip(first, a.shape, strict=True)) | dict(zip(second, b.shape, strict=True))
    if any(size == 1 for size in sizes.values()):
        return NotImplemented  # einsum lets a size of 1 stand for any other

    def size(indices: Sequence[str]) -> int:
        return math.prod(sizes[i] for i in indices)

    stack = [sizes[i] for i in shared]
    rows, columns = alone[0] or [""], alone[1]
    sizes[""] = 1
    a = a.permute([first.index(i) for i in (*shared, *alone[0], *summed)])
    a = a.reshape(*stack, *(sizes[i] for i in rows), size(summed))
    b = b.permute([second.index(i) for i in (*shared, *summed, *columns)])
    b = b.reshape(*stack, *(1,) * (len(rows) - 1), size(summed), size(columns))
    y = torch.matmul(a, b)
    order = [*shared, *alone[0], *columns]
    y = y.reshape([sizes[i] for i in order])
    return y.permute([order.index(i) for i in out])


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    """`F.pad` around: what is beyond one end comes from the other."""
    if mode != "circular":
        return NotImplemented
    y = input
    for index in range(len(pad) // 2):
        before, after = pad[2 * index : 2 * index + 2]
        axis = y.ndim - 1 - index
        size = y.shape[axis]
        if min(before, after) < 0:
            return NotImplemented
        parts = [y.narrow(axis, size - before, before)] if before else []
        parts += [y, *([y.narrow(axis, 0, after)] if after else [])]
        y = torch.cat(parts, axis)
    return y


def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """`F.max_pool1d` as one operator, not as a pool over two axes."""
    if return_indices:
        return NotImplemented
    stride = kernel_size if stride is None else stride
    return torch.max_pool1d(input, kernel_size, stride, padding, dilation, ceil_mode)


def rrelu(
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Any:
    """`F.rrelu` outside of training."""
    return NotImplemented if training else F.leaky_relu(input, (lower + upper) / 2)


REPLACED: dict[Any, Callable[..., Any]] = {
    F.multi_head_attention_forward: multi_head_attention,
    F.instance_norm: instance_norm,
    torch.ops.aten.instance_norm.default: aten_instance_norm,
    torch.einsum: einsum,
    torch.ops.aten.einsum.default: einsum,
    F.pad: pad,
    F.rrelu: rrelu,
    F.max_pool1d: max_pool1d,
    torch.ops.aten.pad.default: pad,
}
