"""What a recording of a torch module is: values, operators, and where in the source they stand."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from nprt.ir import Dim

BATCH = "N"


@dataclass(frozen=True)
class Ref:
    """A value that depends on the inputs."""

    index: int


@dataclass(frozen=True, eq=False)
class Codes:
    """8-bit codes, or int32, with one scale and zero point, or one of each for every index along `axis`."""

    tensor: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor
    axis: int | None = None


@dataclass(frozen=True, eq=False)
class Known:
    """A tensor that does not depend on the inputs.

    Attributes:
        name: that of the parameter or buffer it is or was made from; "" if none.
        repeats: the axis along which it repeats its first index, once for each sample; None for none.
        codes: what it was dequantized from, if it was.
    """

    tensor: torch.Tensor
    name: str = ""
    repeats: int | None = None
    codes: Codes | None = None


@dataclass(frozen=True)
class Place:
    """Where in the source an operator stands.

    Attributes:
        module: qualified name of the innermost module; "" for the root.
        kind: the class of that module.
        line: `file:line`, or "" where it is not known.
        leaf: whether that module has no modules of its own.
        node: the name of the operator's node, where it is from a graph.
    """

    module: str = ""
    kind: str = ""
    line: str = ""
    leaf: bool = False
    node: str = ""

    def __str__(self) -> str:
        where = self.module or (f"node {self.node}" if self.node else "the root module")
        parts = [where, f"({self.kind})" if self.kind else ""]
        return " ".join(filter(None, parts)) + (f" at {self.line}" if self.line else "")


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of a value: torch's dtype, and the parameters of a quantized tensor.

    Attributes:
        contiguous, channels_last: the memory formats that it has; torch picks kernels by them. Both may hold.
        strides: in elements.
        data: the tensor itself, where the recording keeps it.
    """

    shape: tuple[Dim, ...]
    dtype: torch.dtype
    scale: float | None = None
    zero_point: int | None = None
    contiguous: bool = True
    channels_last: bool = False
    strides: tuple[int, ...] = ()
    data: torch.Tensor | None = None

    def is_written_otherwise(self, result: tuple[Dim, ...]) -> bool:
        """Whether torch runs its channels-last kernel on this value, but hands it a contiguous result to write into.

        torch picks the kernel by `channels_last`, which does not look at the strides of axes of size 1, and the format
        of the result by all strides: from the channels over the last axis to the batch, none may be less than the
        extent, stride times size, of the one before.

        Args:
            result: the shape of the result; where channels or positions are 1 the two formats are the same.
        """
        if not self.channels_last or self.shape[1] == 1 or all(dim == 1 for dim in result[2:]):
            return False
        extent = 0
        for axis in (1, *range(len(self.shape) - 1, 1, -1), 0):
            stride, dim = self.strides[axis], self.shape[axis]
            if stride < extent:
                return True
            extent = stride * dim if isinstance(dim, int) and dim > 1 else stride
        return False


@dataclass(frozen=True, eq=False)
class Call:
    """One operator: `op` is its name without the overload, as "aten.convolution"; arguments hold Ref and Known."""

    op: str
    overload: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Ref | None, ...]
    place: Place


@dataclass
class Recording:
    inputs: dict[str, Ref] = field(default_factory=dict)
    outputs: dict[str, Ref | Known] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    results: dict[str, torch.Tensor] = field(default_factory=dict)  # the outputs themselves


def leaves(item: Any) -> Iterator[Any]:
    if isinstance(item, tuple | list):
        for part in item:
            yield from leaves(part)
    elif isinstance(item, Mapping):
        for part in item.values():
            yield from leaves(part)
    else:
        yield item


def tensors_of(item: Any) -> list[torch.Tensor]:
    return [leaf for leaf in leaves(item) if isinstance(leaf, torch.Tensor)]


def mapped(function: Callable[[Any], Any], item: Any) -> Any:
    if isinstance(item, tuple | list):
        return (
            type(item)([mapped(function, part) for part in item])
            if type(item) in (tuple, list)
            else [mapped(function, part) for part in item]
        )
    if isinstance(item, dict):
        return {key: mapped(function, part) for key, part in item.items()}
    return function(item)


def needed(recording: Recording) -> tuple[list[Call], set[Ref]]:
    """The calls that the outputs need, and every value that they need."""
    found: set[Ref] = {item for item in recording.outputs.values() if isinstance(item, Ref)}
    calls = []
    for call in reversed(recording.calls):
        if found.intersection(call.outputs):
            calls.append(call)
            arguments = leaves([call.args, call.kwargs])
            found.update(item for item in arguments if isinstance(item, Ref))
    return calls[::-1], found


class Differs(Exception):
    """Two recordings are not of one program with two batch sizes."""


class DependsOnData(Differs):
    """Two recordings differ in what should not depend on the inputs."""


def one_line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()[0]
