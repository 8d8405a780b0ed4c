"""The state of a torch import: which recorded value is which graph value.

A quantized tensor is a graph value of codes. An operator on codes is written as everywhere in the converters: float32
between `dequantize` and `quantize`, with the engine's numerics in its op, for the passes to fuse.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from nprt.converters.building.builder import Builder
from nprt.converters.graph import DERIVED, name_outputs
from nprt.converters.torch_ops.recording import BATCH, Call, Known, Recording, Ref, Value
from nprt.errors import ModelError, QuantizationError, ShapeError
from nprt.ir import Array, Dim, QuantParams, Shape, TensorType
from nprt.ops.dequantize import Dequantize
from nprt.ops.expand import Expand
from nprt.ops.quantize import Quantize

DTYPES = {
    torch.float32: "float32",
    torch.quint8: "uint8",
    torch.qint8: "int8",
    torch.qint32: "int32",
    torch.uint8: "uint8",
    torch.int8: "int8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.bool: "bool",
}


@dataclass
class Traits:
    """What an import found out about its source."""

    quantized: bool = False  # has int8 kernels, or quantize and dequantize
    engine: str = "torch"
    qoperator: bool = True  # each op has the numerics of the kernel that ran


class Importer(Builder):
    """Builds a Graph call by call."""

    def __init__(
        self, recording: Recording, engine: str, *, integer: bool, required: bool = False
    ) -> None:
        """
        Args:
            engine: of torch's, for what does not say itself which one it is for.
            integer: ops on codes shall be fixed point, whatever the engine does.
            required: packed weights that are for another engine are an error.
        """
        super().__init__()
        self.required = required
        self.engines: set[str] = set()  # that weights are packed for
        self.recording = recording
        self.engine = engine
        self.integer = integer
        self.traits = Traits(quantized=any(v.scale is not None for v in recording.values))
        self.values: dict[Ref, str] = {}
        self.run_time: dict[Ref, Any] = {}  # what has a scale that is found at run time
        self._later: dict[Ref, Callable[[], str]] = {}
        self._real: dict[str, str] = {}
        self._constants: dict[int, str] = {}
        self._keep: list[Any] = []
        self._blocked: set[Ref] = set()
        self.notes: list[str] = []
        self._noted: dict[str, list[str]] = {}
        for name, ref in recording.inputs.items():
            value = recording.values[ref.index]
            self.graph.input(name, self.type_of(value))
            self.values[ref] = name

    # --- types ----------------------------------------------------------------------------------------

    def type_of(self, value: Value) -> TensorType:
        """The graph type of a recorded value."""
        dtype = DTYPES.get(value.dtype)
        if dtype is None:
            raise ModelError(
                f"dtype {value.dtype} is not supported; use one of {', '.join(map(str, DTYPES))}"
            )
        quant = None if value.scale is None else QuantParams.of(value.scale, value.zero_point)
        return TensorType(dtype, value.shape, quant)

    def result(self, call: Call, index: int = 0) -> Value:
        """What was recorded of an output."""
        ref = call.outputs[index]
        assert ref is not None
        return self.recording.values[ref.index]

    def shape(self, item: Any) -> Shape:
        """The shape of an argument."""
        if isinstance(item, Ref):
            return self.recording.values[item.index].shape
        if isinstance(item, Known):
            shape: list[Dim] = list(item.tensor.shape)
            if item.repeats is not None:
                shape[item.repeats] = BATCH
            return tuple(shape)
        return ()

    def dtype(self, item: Ref | Known) -> torch.dtype:
        return (
            self.recording.values[item.index].dtype if isinstance(item, Ref) else item.tensor.dtype
        )

    def is_quantized(self, item: Any) -> bool:
        return isinstance(item, Ref) and self.recording.values[item.index].scale is not None

    # --- arguments ------------------------------------------------------------------------------------

    def value(self, item: Any, name: str = "") -> str:
        """The graph value of an argument: codes for a quantized tensor. "" for None."""
        if item is None:
            return ""
        if isinstance(item, Ref):
            if item not in self.values and item in self._later:
                self.values[item] = self._later[item]()
            return self.values[item]
        if isinstance(item, Known):
            key = id(item.tensor)
            if key not in self._constants:
                self._keep.append(item)
                base = item.name or name or "constant"
                constant = self._constant_of(item, base)
                if item.repeats is not None:
                    like = self.graph.types[constant].with_shape(self.shape(item))
                    constant = self.emit(Expand, constant, out=f"{base}~batch", like=like)
                self._constants[key] = constant
            return self._constants[key]
        if isinstance(item, bool | int | float):
            return self.constant(np.asarray(item, np.float32), name or "constant")
        raise ModelError(f"an argument is {type(item).__name__}; expected a tensor or a number")

    def _constant_of(self, item: Known, base: str) -> str:
        if item.codes is not None:
            kept = item.codes
            codes = array_of(kept.tensor)
            scale, zero_point = array_of(kept.scale), array_of(kept.zero_point)
            quant = QuantParams.of(scale, zero_point, kept.axis)
        elif item.tensor.is_quantized:
            codes, quant = quantized_array(item.tensor)
        else:
            return self.constant(array_of(item.tensor), base)
        return self.emit(Dequantize, self.graph.constant(codes, base, quant), out=f"{base}~real")

    def is_constant(self, value: str) -> bool:
        """Whether a graph value is a constant, or constant codes dequantized."""
        return value in self.graph.constants or bool(self.constant_codes(value))

    def constant_codes(self, value: str) -> str:
        """The constant codes that a graph value dequantizes; "" if it does not."""
        made = self.graph.producers().get(value)
        found = isinstance(made, Dequantize) and made.inputs[0] in self.graph.constants
        return made.inputs[0] if made is not None and found else ""

    def real(self, item: Any, name: str = "") -> str:
        """The float32 graph value of an argument; dequantized where it is codes."""
        value = self.value(item, name)
        type = self.graph.types.get(value)
        if type is None or type.quant is None:
            return value
        if value not in self._real:
            self._real[value] = self.emit(Dequantize, value, out=f"{value}~real")
        return self._real[value]

    def array(self, item: Any, what: str) -> Array:
        """An argument that must be known, as an array."""
        if isinstance(item, Known) and item.repeats is None:
            return array_of(item.tensor)
        raise ModelError(f"{what} must be constant; here it depends on the inputs")

    def with_quant(self, item: Any, quant: QuantParams) -> str:
        """The codes of an argument that is a plain integer tensor, of which only their reader knows the scale."""
        if isinstance(item, Known):
            return self.graph.constant(array_of(item.tensor), item.name or "codes", quant)
        value = self.value(item)
        type = self.graph.types[value]
        if type.quant is None:
            self.graph.types[value] = replace(type, quant=quant)
        elif type.quant != quant:
            raise QuantizationError(
                f"{value!r} was quantized with {type.quant} and is read with {quant}"
            )
        return value

    # --- results --------------------------------------------------------------------------------------

    def bind(self, call: Call, value: str, index: int = 0) -> None:
        """The output of a call is the graph value `value`."""
        ref = call.outputs[index]
        assert ref is not None
        found, expected = self.graph.types[value], self.type_of(self.recording.values[ref.index])
        if expected.quant is None and found.is_codes:  # PT2E's codes are plain integers to torch
            expected = replace(expected, quant=found.quant)
        if found != expected:
            raise ShapeError(f"it was recorded as {expected}, but is built as {found}")
        self.values[ref] = value

    def require_bound(self, call: Call, needed: set[Ref]) -> None:
        """Raises ModelError for a result of a call that is needed and has no value."""
        for index, ref in enumerate(call.outputs):
            if ref in needed and not any(
                ref in known for known in (self.values, self.run_time, self._later, self._blocked)
            ):
                raise ModelError(f"its result number {index} is not supported")

    def later(self, ref: Ref, make: Callable[[], str]) -> None:
        """`make` gives the graph value of `ref`, if anything reads it as one."""
        self._later[ref] = make

    def out(self, call: Call) -> str:
        """A name for what a call makes: its module's, or its module's and its own."""
        place = call.place
        short = place.node or call.op.rpartition(".")[2].strip("_")
        short = {"unsafe_view": "view", "reshape_alias": "view"}.get(short, short)
        base = place.module if place.leaf else ".".join(filter(None, (place.module, short)))
        return (base or short).replace(DERIVED, "_")

    def quantize(self, call: Call, real: str, numerics: str = "torch") -> None:
        """The output of a call is `real` as codes."""
        self.traits.quantized = True
        like = self.type_of(self.result(call)).with_shape(())
        self.bind(call, self.emit(Quantize, real, out=self.out(call), like=like, numerics=numerics))

    def numerics(self, engine: str) -> str:
        """The numerics of an op that `engine` runs on codes."""
        return "integer" if self.integer else engine

    def bind_outputs(self) -> None:
        for item in self.recording.outputs.values():
            self.graph.outputs.append(self.value(item))
        name_outputs(self.graph, list(self.recording.outputs))

    # --- engines --------------------------------------------------------------------------------------

    def layer_engine(self, packed: Any, x86: str = "fbgemm") -> str:
        """The engine that packed weights are for, "fbgemm", "onednn" or "qnnpack", whatever the current one is.

        Args:
            x86: the one of the two that the engine x86 picks for this layer on a CPU with AVX512-VNNI.

        Raises:
            ModelError: the user named another engine.
        """
        engine = packed_engine(packed)
        expected = x86 if self.engine == "x86" else self.engine
        if (self.engine, engine, x86) == ("x86", "fbgemm", "onednn") and not x86_has_onednn():
            engine = "onednn"
        self.engines.add(engine)
        if engine == expected:
            return engine
        if self.required:
            raise ModelError(
                f"its weights are packed for the engine {engine}, and {self.engine} computes with {expected}; leave "
                f"out engine, or load the module while torch.backends.quantized.engine is {self.engine!r}"
            )
        if "qnnpack" in (engine, self.engine):
            text = (
                f"layers are packed for the engine {engine}; what has no packed weights, as add and pooling, follows "
                f"torch's current engine {self.engine}"
            )
            if text not in self.notes:
                self.notes.append(text)
        return engine

    def engines_used(self) -> str:
        """For the model's origin: the engine, and those that layers are packed for where these are others."""
        if self.engines <= {self.engine}:
            return self.engine
        return f"{self.engine}, layers by {' and '.join(sorted(self.engines))}"

    def conv_engine(self, packed: Any, weight: torch.Tensor) -> str:
        """The engine that runs a packed convolution."""
        fits = packed.groups() <= 100 and is_symmetric(weight)
        fits = fits and not any(packed.output_padding())
        return self.layer_engine(packed, "onednn" if fits else "fbgemm")

    def linear_engine(self) -> str:
        return "fbgemm" if self.engine == "x86" else self.engine

    def add_engine(self, a: Any, b: Any) -> str:
        """qnnpack adds uint8 tensors of one shape in fixed point; everything else is one kernel."""
        signed = self.dtype(a) == torch.qint8
        alike = self.shape(a) == self.shape(b)
        return "qnnpack" if self.engine == "qnnpack" and alike and not signed else "fbgemm"

    def note(self, call: Call, what: str) -> None:
        """Something that a user should know of a call; the model has one note for all calls of which it is true."""
        names = self._noted.setdefault(what, [])
        before, name = noted(names, what), self.out(call)
        if name in names:
            return
        names.append(name)
        if before in self.notes:
            self.notes[self.notes.index(before)] = noted(names, what)
        else:
            self.notes.append(noted(names, what))

    # --- problems -------------------------------------------------------------------------------------

    def report(self, call: Call, what: str) -> None:
        shapes = ", ".join(
            str(self.type_of(self.recording.values[item.index]))
            for item in (*call.args, *call.kwargs.values())
            if isinstance(item, Ref) and self.recording.values[item.index].dtype in DTYPES
        )
        self.problems.append(f"{call.place}: {call.op}.{call.overload}({shapes}): {what}")
        self.block(call)

    def block(self, call: Call) -> None:
        self._blocked.update(ref for ref in call.outputs if ref is not None)

    def is_blocked(self, call: Call) -> bool:
        def reads(item: Any) -> bool:
            if isinstance(item, tuple | list):
                return any(map(reads, item))
            return isinstance(item, Ref) and item in self._blocked

        return reads(call.args) or reads(tuple(call.kwargs.values()))


def noted(names: Sequence[str], what: str) -> str:
    """A note on some layers: "conv1: ...", or "3 layers (conv1, conv2, conv3): ..."."""
    if len(names) < 2:
        return f"{''.join(names)}: {what}"
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{len(names)} layers ({shown}): {what}"


# --- tensors as arrays --------------------------------------------------------------------------------


def array_of(tensor: torch.Tensor) -> Array:
    """A plain tensor as an array; float64 and 16-bit floats become float32."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()
    array: Array = tensor.numpy()
    return np.ascontiguousarray(array).reshape(array.shape)


def quantized_array(tensor: torch.Tensor) -> tuple[Array, QuantParams]:
    """The codes of a quantized tensor, and what they stand for."""
    codes = array_of(tensor.int_repr())
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return codes, QuantParams.of(tensor.q_scale(), tensor.q_zero_point())
    if tensor.qscheme() == torch.per_channel_affine_float_qparams:
        raise ModelError("weights with float zero points are supported for embeddings only")
    scales = array_of(tensor.q_per_channel_scales())
    zeros = array_of(tensor.q_per_channel_zero_points())
    return codes, QuantParams.of(scales, zeros, tensor.q_per_channel_axis())


def is_symmetric(weight: torch.Tensor) -> bool:
    """Whether all zero points of quantized weights are 0."""
    if weight.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return weight.q_zero_point() == 0
    return not bool(weight.q_per_channel_zero_points().any())


def arguments(call: Call, *names: str, **defaults: Any) -> list[Any]:
    """The arguments of a call by position or by name; those of `defaults` may be left out.

    Raises:
        ModelError: there are more arguments than these.
    """
    order = [*names, *defaults]
    given = dict(zip(order, call.args, strict=False)) | dict(call.kwargs)
    extra = [*map(str, call.args[len(order) :]), *(set(given) - set(order))]
    if extra:
        raise ModelError(f"arguments {extra} are not supported")
    missing = [name for name in names if name not in given]
    if missing:
        raise ModelError(f"arguments {missing} are missing")
    return [given[name] if name in given else defaults[name] for name in order]


def spatial(item: Any, rank: int) -> tuple[int, ...]:
    """An integer or a list of them as one for each spatial axis."""
    items: Sequence[Any] = item if isinstance(item, tuple | list) else [item]
    return tuple(int(n) for n in (items if len(items) == rank else [*items] * rank))


def require_written_in_order(value: Value, result: Value) -> None:
    """Raises ModelError where torch writes the result of a kernel on `value` in the wrong order."""
    if value.is_written_otherwise(result.shape):
        last = "torch.channels_last" if len(value.shape) == 4 else "torch.channels_last_3d"
        raise ModelError(
            f"torch computes {list(value.shape)} to {list(result.shape)} in the wrong order where the strides are "
            f"{list(value.strides)}; call .clone(memory_format={last}) before"
        )


def packed_engine(packed: Any) -> str:
    """Which kernels packed weights are for: "fbgemm", "onednn" or "qnnpack".

    The packed object does not say. It is offered signed codes, which only onednn's linear takes; the others refuse them
    before they look at anything else, with an error that names the engine.
    """
    if hasattr(packed, "stride"):
        rank = len(packed.stride())
        name = f"conv{'_transpose' if packed.transpose() else ''}{rank}d"
        size = (1, 1, *(1,) * rank)
    else:
        name, size = "linear", (1, packed.unpack()[0].shape[1])
    x = torch._empty_affine_quantized(size, scale=1.0, zero_point=0, dtype=torch.qint8)
    try:
        getattr(torch.ops.quantized, name)(x, packed, 1.0, 0)
    except RuntimeError as error:
        text = str(error).lower()
        return next((engine for engine in ("onednn", "qnnpack") if engine in text), "fbgemm")
    return "onednn"


def x86_has_onednn() -> bool:
    """Whether the engine x86 of this machine packs convolutions for onednn."""
    return sys.platform == "linux" and torch.cpu._is_vnni_supported()
