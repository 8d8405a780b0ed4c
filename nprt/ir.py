"""The op list: what a model is.

    model ::= inputs, outputs, constants, op ...
    op    ::= value, ... = name[field=..., ...] value ...
    value ::= name: type
    type  ::= dtype[dim, ...] quant?
    dim   ::= integer | symbol                  a symbol, such as N, is bound when the model runs
    quant ::= *scale+zero_point                 real = scale * (code - zero_point)
            | *scale/axis                       one scale and zero point for each index along an axis

Ops stand in execution order. Each value is bound once: by the model's inputs, by a constant, or by an op.
Every value has a type in `Model.types`, and each op's type rule says which types go together. The file format,
the printer, the checker and `docs/ops.md` are all derived from the dataclasses below.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nprt.errors import ModelError, QuantizationError, ShapeError
from nprt.rounding import dequantize

Array = NDArray[Any]
Dim = int | str
Shape = tuple[Dim, ...]

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name) for name in ("int8", "uint8", "int16", "int32", "int64", "float32", "bool")
}
CODE_DTYPES = ("int8", "uint8")
CODE_RANGES = {
    name: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    for name, dtype in DTYPES.items()
    if dtype.kind in "iu"
}

# A value this large is a damaged file, not a model. Within these limits offsets and sizes in bytes fit in 64 bits, and
# every version of NumPy can make the array.
MAX_ELEMENTS = 2**31 - 1
MAX_RANK = 16
# What an op may make out of less, for a few bytes must not ask for all memory: a 4K image times 64 channels.
MAX_COMPUTED = 2**29


# --- types --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuantParams:
    """How codes stand for real numbers: `real = scale * (code - zero_point)`.

    Attributes:
        scale: float32 values, each > 0 and finite; one, or one for each index along `axis`.
        zero_point: as many integers, each a code of the tensor's dtype.
        axis: None for one scale for the whole tensor.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.zero_point):
            raise QuantizationError(
                f"{len(self.scale)} scales but {len(self.zero_point)} zero points; need one of each"
            )
        if not self.scale or (self.axis is None and len(self.scale) != 1):
            raise QuantizationError(
                f"{len(self.scale)} scales {'without' if self.axis is None else 'along'} an axis; "
                "need one, or one for each index along an axis"
            )
        scales = np.array(self.scale, np.float64)
        with np.errstate(over="ignore"):
            wrong = ~(np.isfinite(scales) & (scales > 0) & (scales.astype(np.float32) == scales))
        if wrong.any():
            raise QuantizationError(
                f"scale {self.scale[wrong.argmax()]!r} is not a positive finite float32"
            )

    @classmethod
    def of(cls, scale: Any, zero_point: Any = 0, axis: int | None = None) -> QuantParams:
        """From numbers or arrays; scales are rounded to float32."""
        scales = np.atleast_1d(np.asarray(scale, np.float32))
        zero_points = np.broadcast_to(np.asarray(zero_point, np.int64), scales.shape)
        return cls(tuple(scales.tolist()), tuple(zero_points.tolist()), axis)

    @cached_property
    def scales(self) -> Array:
        """float32: shape () when per tensor, (channels,) when per axis."""
        values = np.array(self.scale, np.float32)
        return values if self.axis is not None else values[0]

    @cached_property
    def zero_points(self) -> Array:
        """int32: shape () when per tensor, (channels,) when per axis."""
        values = np.array(self.zero_point, np.int32)
        return values if self.axis is not None else values[0]

    def __str__(self) -> str:
        if self.axis is None:
            return f"*{self.scale[0]:.6g}{self.zero_point[0]:+d}"
        low, high = min(self.scale), max(self.scale)
        return f"*{low:.3g}..{high:.3g}/{self.axis}"


@dataclass(frozen=True)
class TensorType:
    """The dtype, the shape and, for quantized tensors, the quantization of a value."""

    dtype: str
    shape: Shape
    quant: QuantParams | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ModelError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if len(self.shape) > MAX_RANK:
            raise ShapeError(f"{len(self.shape)} dimensions; at most {MAX_RANK}")
        known = 1
        for dim in self.shape:
            if isinstance(dim, str):
                if not dim.isidentifier():
                    raise ShapeError(f"dimension {dim!r} is neither an integer nor a name")
            elif dim < 0:
                raise ShapeError(f"dimension {dim} is negative")
            else:
                known *= max(dim, 1)  # NumPy counts an empty array's other dimensions, too
        if known > MAX_ELEMENTS:
            raise ShapeError(
                f"shape {list(self.shape)} has {known} elements; at most {MAX_ELEMENTS}"
            )
        if self.quant is not None:
            self._check_quant(self.quant)

    def _check_quant(self, quant: QuantParams) -> None:
        if self.dtype not in ("int8", "uint8", "int16", "int32"):
            raise QuantizationError(f"dtype {self.dtype} cannot be quantized")
        if quant.axis is not None:
            if not 0 <= quant.axis < len(self.shape):
                raise QuantizationError(
                    f"axis {quant.axis} is not one of {len(self.shape)} dimensions"
                )
            if self.shape[quant.axis] != len(quant.scale):
                raise QuantizationError(
                    f"{len(quant.scale)} scales on axis {quant.axis} of size {self.shape[quant.axis]}"
                )
        low, high = self.code_range
        for zero_point in (min(quant.zero_point), max(quant.zero_point)):
            if not low <= zero_point <= high:
                raise QuantizationError(
                    f"zero point {zero_point} is not a code of {self.dtype} [{low}, {high}]"
                )

    @property
    def numpy(self) -> np.dtype[Any]:
        return DTYPES[self.dtype]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype == "float32"

    @property
    def is_codes(self) -> bool:
        """Whether this is an 8-bit quantized tensor."""
        return self.quant is not None and self.dtype in CODE_DTYPES

    @property
    def code_range(self) -> tuple[int, int]:
        """The least and the greatest integer of the dtype."""
        return CODE_RANGES[self.dtype]

    @property
    def scale(self) -> Array:
        """float32 of shape () or (channels,). Raises QuantizationError if not quantized."""
        return self._quantized().scales

    @property
    def zero_point(self) -> Array:
        """int32 of shape () or (channels,). Raises QuantizationError if not quantized."""
        return self._quantized().zero_points

    def _quantized(self) -> QuantParams:
        if self.quant is None:
            raise QuantizationError(f"{self} has no scale and zero point")
        return self.quant

    def along_axis(self, values: Array) -> Array:
        """Scales or zero points shaped to broadcast against data of this type."""
        axis = self.quant.axis if self.quant else None
        if axis is None:
            return values
        return values.reshape([-1 if i == axis else 1 for i in range(self.rank)])

    def with_shape(self, shape: Shape) -> TensorType:
        return self if shape == self.shape else TensorType(self.dtype, shape, self.quant)

    def with_dtype(self, dtype: str) -> TensorType:
        """The same shape in another dtype, not quantized."""
        return TensorType(dtype, self.shape)

    def bind(self, dims: Mapping[str, int]) -> TensorType:
        """Replace symbols by the integers they stand for."""
        return self.with_shape(tuple(dims[d] if isinstance(d, str) else d for d in self.shape))

    def __str__(self) -> str:
        short = self.dtype.replace("uint", "u").replace("int", "i").replace("float", "f")
        return f"{short}[{','.join(map(str, self.shape))}]{self.quant or ''}"


def numel(shape: Shape) -> int:
    """Number of elements, a symbol counting as one."""
    return math.prod(dim for dim in shape if isinstance(dim, int))


def symbols(shape: Shape) -> tuple[str, ...]:
    return tuple(sorted(dim for dim in shape if isinstance(dim, str)))


# --- ops ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Tensor:
    """An array with its type: what a reference works on. `data.shape` has no symbols."""

    type: TensorType
    data: Array

    @property
    def is_float(self) -> bool:
        return self.type.is_float

    def zero(self, run_time_zero_point: Tensor | None = None) -> Array:
        """What stands for the real number 0, shaped to broadcast against `data`: zero points, or 0.

        Args:
            run_time_zero_point: for codes whose type has none.
        """
        if run_time_zero_point is not None:
            return run_time_zero_point.data.reshape(())
        if self.type.quant is None:
            return np.zeros((), self.data.dtype)
        return self.type.along_axis(self.type.zero_point)

    def centered(self, run_time_zero_point: Tensor | None = None) -> Array:
        """float32 holding `code - zero_point` exactly; float data as they are."""
        return difference(self.data, self.zero(run_time_zero_point))

    def real(self) -> Array:
        """float32: the real numbers that the codes stand for; float data as they are."""
        if self.is_float:
            return self.data
        scale, zero_point = map(self.type.along_axis, (self.type.scale, self.type.zero_point))
        return dequantize(self.data, scale, zero_point)


def difference(data: Array, zero: Array) -> Array:
    """float32 holding `data - zero` exactly, of 8-bit codes and a zero point; float32 data (zero is 0) as they are."""
    if data.dtype == np.float32:
        return data
    if not zero.any():
        return data.astype(np.float32)
    return np.subtract(data, zero.astype(np.float32), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Op:
    """One line of a model: `outputs = name[fields] inputs`.

    A subclass is one op. Its dataclass fields are the op's fields; `INPUTS` and `OUTPUTS` name its values, with a
    trailing `?` on an input that may be absent (written "" in `inputs`) and `*` on a last one that may repeat.
    """

    name: ClassVar[str]
    INPUTS: ClassVar[tuple[str, ...]]
    OUTPUTS: ClassVar[tuple[str, ...]] = ("y",)

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def type_rule(self, *args: Any) -> Any:
        """The types that the outputs must have, from the declared output types and the input types.

        Called as `type_rule(y, x, ...)` with TensorType arguments, None for an absent input. What the inputs do not
        determine (dtype and quantization of a requantized result, the target of a reshape) is taken from the declared
        type. Returns a TensorType, or a tuple of them for several outputs. Raises ModelError.
        """
        raise NotImplementedError

    def reference(self, *args: Any) -> Any:
        """The definition: `reference(y, x, ...)` with the output types (no symbols) and input Tensors.

        Returns the output array, or a tuple of them.
        """
        raise NotImplementedError

    def accumulator_bound(self, *args: Any) -> int | None:
        """The largest magnitude an int32 sum in this op can take; None for an op that sums nothing.

        Called like `type_rule`, but an input that is a constant comes as a Tensor.
        """
        return None

    def check_constants(self, *args: Any) -> None:
        """Raise ModelError for what only the elements of constants show; called like `accumulator_bound`."""

    def macs(self, *args: Any) -> int:
        """Multiply-accumulates for batch 1, from the same arguments as `type_rule`."""
        return 0

    def used_inputs(self) -> tuple[str, ...]:
        return tuple(name for name in self.inputs if name)

    def fields(self) -> dict[str, Any]:
        """The op's own fields, without inputs and outputs."""
        return {f.name: getattr(self, f.name) for f in self.own_fields()}

    @classmethod
    def own_fields(cls) -> tuple[dataclasses.Field[Any], ...]:
        return tuple(f for f in dataclasses.fields(cls) if f.name not in ("inputs", "outputs"))

    def arguments(self, lookup: Callable[[str], Any]) -> list[Any]:
        """The arguments of `type_rule` and `reference` for this op's inputs; None where one is absent."""
        return [lookup(name) if name else None for name in self.inputs]

    def __str__(self) -> str:
        shown = [
            f"{f.name}={_short(getattr(self, f.name))}"
            for f in self.own_fields()
            if f.default is dataclasses.MISSING or getattr(self, f.name) != f.default
        ]
        fields = f"[{', '.join(shown)}]" if shown else ""
        return f"{self.name}{fields} {' '.join(name or '-' for name in self.inputs)}"


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ",".join(map(_short, value)) + ")"
    return str(value)


# --- models -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """Where a model came from; recorded in the file, without effect on the result."""

    producer: str = ""
    framework: str = ""
    engine: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Model:
    """A checked op list with its constants. Build one with a converter or `nprt.load`."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: Mapping[str, TensorType]
    constants: Mapping[str, Array]
    ops: tuple[Op, ...]
    origin: Origin = field(default_factory=Origin)

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", MappingProxyType(dict(self.types)))
        object.__setattr__(self, "constants", MappingProxyType(dict(self.constants)))

    def tensor(self, name: str) -> Tensor:
        """A constant with its type."""
        return Tensor(self.types[name], self.constants[name])

    def save(self, path: Any) -> None:
        """Write the model to `path`, replacing the file in one step. See `docs/format.md`."""
        from nprt.file import save

        save(self, path)

    def __str__(self) -> str:
        return "\n".join(lines(self))

    def __repr__(self) -> str:
        return f"<nprt.Model: {len(self.ops)} ops, {', '.join(self.inputs)} -> {', '.join(self.outputs)}>"


def lines(model: Model) -> Iterator[str]:
    """The printed form of a model, a line for each input, constant, op and the outputs, and for each note."""
    for name in model.inputs:
        yield f"input {name}: {model.types[name]}"
    for name in model.constants:
        yield f"const {name}: {model.types[name]}"
    for op in model.ops:
        yield f"{', '.join(f'{name}: {model.types[name]}' for name in op.outputs)} = {op}"
    yield f"output {' '.join(model.outputs)}"
    for note in model.origin.notes:
        yield f"note {note}"
