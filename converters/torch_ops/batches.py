"""The batch of a recording: a module runs with one sample more, and what then differs by one is the batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from nprt.converters.torch_ops import merged
from nprt.converters.torch_ops.recorder import input_names, reason, record
from nprt.converters.torch_ops.recording import (
    BATCH,
    DependsOnData,
    Differs,
    Known,
    Recording,
    mapped,
    one_line,
    tensors_of,
)

log = logging.getLogger("nprt")

# A batch of at least this size shows whether the program stays the same.
FAR = 11


def record_batches(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], batch_axis: int | None
) -> tuple[Recording, list[str]]:
    """The module's operators, for any batch if that is possible; and a note that says why, if not."""
    first = record(module, args, kwargs)
    tensors = tensors_of((args, kwargs))
    if batch_axis is None or not tensors or tensors[0].ndim <= batch_axis:
        check_data(module, args, kwargs, first)
        return first, []
    size = tensors[0].shape[batch_axis]

    def grown(item: Any, count: int) -> Any:
        if (
            isinstance(item, torch.Tensor)
            and item.ndim > batch_axis
            and item.shape[batch_axis] == size
        ):
            for _ in range(count - size):
                item = with_one_more(item, batch_axis)
        return item

    def run(count: int) -> Recording:
        return record(module, *changed(partial(grown, count=count), args, kwargs))

    try:
        return merged.taken_apart(_free(first, size, run)), []
    except DependsOnData:
        check_data(module, args, kwargs, first)
        if first.problems:
            return first, []
        why = "a constant in it depends on the number of samples"
    except Differs as difference:
        why = str(difference)
        check_data(module, args, kwargs, first)
    except Exception as error:  # whatever the module raises where it is not made for another batch
        why = reason(error, dict(zip(input_names(module, args, kwargs), tensors, strict=False)))
        check_data(module, args, kwargs, first)
    note = f"the batch is fixed at {size}: {why}"
    log.warning("%s", note)
    return first, [note]


def _free(first: Recording, size: int, run: Callable[[int], Recording]) -> Recording:
    """`first` with its batch of `size` free, if one more sample and some more samples run the same program.

    What a module does only beyond so many samples stays unseen.
    """
    far = max(size + 5, FAR)
    second = run(size + 1)
    try:
        free = free_batch(first, second, (size, size + 1))
    except DependsOnData:
        raise
    except Differs:
        if size != 1:
            raise
        # Views of a single sample need no copies, so that it runs other operators than several do.
        free = free_batch(second, run(3), (2, 3))
        free.results = first.results
        free_batch(second, run(far), (2, far))
        return free
    free_batch(first, run(far), (size, far))
    return free


def changed(
    change: Callable[[Any], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Any]:
    """The arguments with `change` done to each tensor, and other values, so that data cannot pass for constants."""

    def other(item: Any) -> Any:
        return change(rolled(item) if hasattr(item, "ndim") else item)

    return mapped(other, args), mapped(other, kwargs)


def check_data(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], first: Recording
) -> None:
    """Add to the problems of a recording what differs with other values of the same shapes."""
    try:
        second = record(module, *changed(lambda item: item, args, kwargs))
        free_batch(first, second, (-1, -1))
    except Differs as difference:
        first.problems += [] if first.problems else [str(difference)]
    except Exception as error:  # whatever the module raises for values that it is not made for
        log.debug("no second run with other values: %s", one_line(error))


# --- two recordings as one ------------------------------------------------------------------------------


def free_batch(first: Recording, second: Recording, sizes: tuple[int, int]) -> Recording:
    """One recording for any batch, from two with batches of `sizes`.

    A dimension that merges the batch with others is "N*4"; see `merged`.

    Raises:
        Differs: saying where they are not alike.
    """
    if len(first.calls) != len(second.calls) or first.inputs != second.inputs:
        raise Differs(
            f"{len(first.calls)} operators with one batch size, {len(second.calls)} with another"
        )

    def dim(a: Any, b: Any, what: str) -> Any:
        if a == b:
            return a
        count, rest = divmod(a, sizes[0])
        if not rest and b == count * sizes[1]:
            return BATCH if count == 1 else f"{BATCH}*{count}"
        raise Differs(f"{what}: {a} becomes {b} when the batch goes from {sizes[0]} to {sizes[1]}")

    def unify(a: Any, b: Any, what: str) -> Any:
        if isinstance(a, Known):
            return _same_known(a, b, sizes, what)
        if isinstance(a, tuple | list):
            if not isinstance(b, tuple | list) or len(a) != len(b):
                raise Differs(f"{what}: {a} and {b}")
            return type(a)(unify(p, q, what) for p, q in zip(a, b, strict=True))
        if isinstance(a, dict):
            return {key: unify(a[key], b.get(key), what) for key in a}
        if isinstance(a, bool) or not isinstance(a, int):
            if isinstance(a, torch.ScriptObject | torch.Tensor):
                return a
            if a != b and not (a != a and b != b):
                raise Differs(f"{what}: {a} and {b}")
            return a
        return dim(a, b, what)

    values = []
    for p, q in zip(first.values, second.values, strict=True):
        if len(p.shape) != len(q.shape) or p.dtype != q.dtype:
            raise Differs(f"shapes {list(p.shape)} and {list(q.shape)}")
        shape = tuple(
            dim(a, b, f"shape {list(p.shape)}") for a, b in zip(p.shape, q.shape, strict=True)
        )
        # A single sample can have memory formats that several have not.
        values.append(
            replace(p, shape=shape, contiguous=q.contiguous, channels_last=q.channels_last)
        )
    calls = []
    for c, d in zip(first.calls, second.calls, strict=True):
        if (c.op, c.overload, c.outputs) != (d.op, d.overload, d.outputs):
            raise Differs(f"{c.place}: {c.op} and {d.op}")
        what = f"{c.place}: {c.op}"
        calls.append(
            replace(
                c,
                args=unify(c.args, d.args, what),
                kwargs=unify(dict(c.kwargs), dict(d.kwargs), what),
            )
        )
    outputs = {
        name: unify(item, second.outputs.get(name), name) for name, item in first.outputs.items()
    }
    return Recording(first.inputs, outputs, values, calls, first.problems, first.results)


def _same_known(a: Known, b: Any, sizes: tuple[int, int], what: str) -> Known:
    """One known tensor for two that are equal, or that repeat the same along one axis for each sample."""
    if (
        not isinstance(b, Known)
        or a.tensor.dtype != b.tensor.dtype
        or a.tensor.ndim != b.tensor.ndim
    ):
        raise Differs(f"{what}: a known tensor differs")
    if a.tensor.shape == b.tensor.shape:
        if _equal(a.tensor, b.tensor):
            return a
        raise DependsOnData(
            f"{what}: it reads a tensor that was made outside of torch's operators, or at random; what is in it "
            "changes with the inputs or from run to run"
        )
    axes = [
        i
        for i, pair in enumerate(zip(a.tensor.shape, b.tensor.shape, strict=True))
        if pair[0] != pair[1]
    ]
    if len(axes) == 1 and (a.tensor.shape[axes[0]], b.tensor.shape[axes[0]]) == sizes:
        one = a.tensor.narrow(axes[0], 0, 1)
        if all(torch.equal(one.expand_as(item.tensor), item.tensor) for item in (a, b)):
            return Known(one, a.name, axes[0])
    raise Differs(
        f"{what}: a known tensor is {list(a.tensor.shape)} and then {list(b.tensor.shape)}"
    )


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors of one dtype and shape are the same, NaN being equal to NaN."""
    if a.is_quantized:
        return bool(torch.equal(a, b))
    return bool(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))


def rolled(tensor: torch.Tensor) -> torch.Tensor:
    """The elements of `tensor` in another order, in the same memory format."""
    if tensor.is_quantized or tensor.numel() < 2:
        return tensor
    other = torch.empty_like(tensor)
    return other.copy_(tensor.reshape(-1).roll(1).reshape(tensor.shape))


def with_one_more(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """`tensor` with its first index along `axis` once more at the end."""
    return torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
