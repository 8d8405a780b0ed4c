"""A torch module -> graph -> Model. The operators are in `torch_ops`, one table from name to a function."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nprt.converters import sniff
from nprt.converters.pipeline import convert
from nprt.converters.quantize import QuantizationConfig
from nprt.converters.verify import moved
from nprt.errors import (
    BackendUnavailableError,
    ModelError,
    ModelFormatError,
    NprtError,
    ShapeError,
    UnsupportedOpError,
)
from nprt.ir import Array, Model, Origin
from nprt.ops.quantize import Quantize
from nprt.version import __version__

if TYPE_CHECKING:
    from nprt.converters.graph import Graph
    from nprt.converters.torch_ops.importer import Importer
    from nprt.converters.torch_ops.recording import Recording

log = logging.getLogger("nprt")

UNCALIBRATED = (
    "all activations have scale 1 and zero point 0: was this model calibrated, or is its state_dict not "
    "loaded?"
)

ENGINES = ("fbgemm", "x86", "onednn", "qnnpack")


def from_torch(
    module: Any,
    example_inputs: Any,
    *,
    calibration: Iterable[Mapping[str, Array]] | Mapping[str, Array] | None = None,
    numerics: str = "auto",
    config: QuantizationConfig | None = None,
    engine: str | None = None,
    batch_axis: int | None = 0,
    require_integer: bool = False,
    progress: bool = False,
) -> Model:
    """Convert a torch module to int8.

    Args:
        module: an `nn.Module` in float, or quantized by eager mode, FX or PT2E; an ExportedProgram; a TorchScript
            module; or the path of a `.pt2` file that `torch.export.save` wrote. Modules run in eval mode.
        example_inputs: a tensor or array, a tuple of them, or a dict of keyword arguments. The module runs on them.
        calibration: for a float module, as in `from_onnx`; the names are those of `forward`'s parameters.
        numerics: "torch", as the engine computes; "integer", fixed point; "auto": "torch" for a quantized module,
            "integer" for a float one.
        config: how a float module is quantized; see `QuantizationConfig`.
        engine: "fbgemm", "x86", "onednn" or "qnnpack", for which the int8 modules were made; it is an error if they
            were made for another. By default what their packed weights say, and for operators without weights torch's
            current one, `torch.backends.quantized.engine`.
        batch_axis: the axis of every input along which the samples lie. It stays free if the module works with any
            number of samples; None, or a module that does not, fixes the shapes.
        require_integer: refuse a model that keeps float ops between its first quantize and its last dequantize.
        progress: show a progress bar while calibrating.

    Returns:
        A checked Model.

    Raises:
        UnsupportedOpError: lists every operator that cannot be converted, with the module and the line it is from.
        BackendUnavailableError: torch is not installed.
        InputError: the module fails on the example inputs, or is not something to convert.
        ModelFormatError: a file that is neither an exported program nor TorchScript.
        ModelError: the model breaks a rule of the op list.
    """
    if isinstance(module, str | os.PathLike):
        _refuse_file(os.fspath(module))
    torch = _torch()
    from nprt.converters.torch_ops import source
    from nprt.converters.torch_ops.batches import record_batches

    if numerics not in ("auto", "torch", "integer"):
        raise ValueError(f"numerics {numerics!r} is not one of auto, torch, integer")
    required, engine = engine is not None, engine or torch.backends.quantized.engine
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
    module, name = source.load(module)
    args, kwargs = source.call_of(example_inputs)
    recording, notes = record_batches(module, args, kwargs, batch_axis)
    integer = numerics == "integer"
    try:
        importer = import_recording(recording, name, engine, integer=integer, required=required)
    except UnsupportedOpError:
        if not _has_free(recording):
            raise
        recording, _ = record_batches(module, args, kwargs, None)
        importer = import_recording(recording, name, engine, integer=integer, required=required)
        notes = ["the batch is fixed to that of the example inputs: an operator needs to know it"]
        log.warning("%s: %s", name, notes[0])
    if importer.traits.quantized and _uncalibrated(importer.graph):
        notes.append(UNCALIBRATED)
        log.warning("%s: %s", name, UNCALIBRATED)
    if numerics == "torch" and not importer.traits.quantized:
        raise ValueError(
            f"{name} is not quantized, so torch has no int8 numerics for it; use integer"
        )
    origin = Origin(
        producer=f"nprt {__version__}",
        framework=f"torch {torch.__version__}",
        engine=f"torch {importer.engines_used()}" if importer.traits.quantized else "",
    )
    try:
        model = convert(
            importer.graph,
            name,
            origin,
            importer.traits,
            calibration=calibration,
            numerics=numerics,
            config=config or QuantizationConfig(),
            require_integer=require_integer,
            progress=progress,
            notes=[*notes, *importer.notes],
        )
    except ShapeError as error:
        if not _has_free(recording):
            raise
        raise ShapeError(
            f"{name}: {error}. The batch is free here; with batch_axis=None (--fixed-batch) it is the example's"
        ) from error
    expected = {name: source.plain(tensor) for name, tensor in recording.results.items()}
    feeds = source.feeds_of(module, args, kwargs)
    found = tuple(
        moved(model, feeds, expected, "torch" if importer.traits.quantized else "float32")
    )
    for sentence in found if importer.traits.quantized and not integer else ():
        log.warning("%s: %s", name, sentence)
    return replace(model, origin=replace(model.origin, notes=(*model.origin.notes, *found)))


def _has_free(recording: Recording) -> bool:
    return any(isinstance(dim, str) for value in recording.values for dim in value.shape)


def _refuse_file(path: str) -> None:
    """Raises ModelFormatError for a file that is known to be something else than torch's, before torch sees it."""
    if os.path.isfile(path) and sniff.kind(path) in ("nprt", "onnx"):
        raise ModelFormatError(f"{path}: {sniff.advice(path)}")


def _uncalibrated(graph: Graph) -> bool:
    """Whether everything that is quantized, but for functions of a fixed range, has what observers begin with."""
    found = [graph.types[op.outputs[0]] for op in graph.ops if isinstance(op, Quantize)]
    params = [type.quant for type in found if type.quant is not None]
    free = [quant for quant in params if quant.scale not in ((1 / 256,), (1 / 128,))]
    return bool(free) and all(quant.scale == (1.0,) and quant.zero_point == (0,) for quant in free)


@dataclass(frozen=True)
class TorchSource:
    """A torch model as a command names it.

    Attributes:
        example: the arguments that come with it; None if none do.
    """

    module: Any
    example: Any

    def read(self, path: str, error: type[NprtError]) -> dict[str, Array]:
        """The arrays of an `.npz` or `.npy` file, for the inputs of the module if these are known."""
        from nprt.arrays import read_arrays
        from nprt.converters.torch_ops import source

        module, _ = source.load(self.module)
        if self.example is None:
            return read_arrays(path, dict.fromkeys(source.required_inputs(module)), error)
        args, kwargs = source.call_of(self.example)
        feeds = source.feeds_of(module, args, kwargs)
        return read_arrays(path, {name: array.dtype for name, array in feeds.items()}, error)

    def arguments(self, arrays: Mapping[str, Array]) -> Any:
        """The module's arguments, with these arrays in the order of its inputs."""
        from nprt.converters.torch_ops import source

        return source.arguments_from(self.example, arrays)

    def weight_bytes(self) -> int:
        """Bytes of its parameters and buffers."""
        from nprt.converters.torch_ops import source

        module, _ = source.load(self.module)
        return source.weight_bytes(module)


def open_torch(spec: str) -> TorchSource:
    """The torch model that `package.module:factory`, or the path of a `.pt2` or `.pt` file, names."""
    _refuse_file(spec)
    _torch()
    from nprt.converters.torch_ops import source

    return TorchSource(*source.resolve(spec))


def torch_values(module: Any, example_inputs: Any, engine: str | None = None) -> dict[str, Array]:
    """Every value that torch computes, by the name that it has in the converted model; codes of quantized tensors.

    What `nprt.compare` compares a model with. The module must be the one that the model was converted from.
    """
    torch = _torch()
    from nprt.converters.graph import source_name
    from nprt.converters.torch_ops import recorder, source

    module, name = source.load(module)
    args, kwargs = source.call_of(example_inputs)
    recording = recorder.record(module, args, kwargs, keep_data=True)
    engine = engine or torch.backends.quantized.engine
    importer = import_recording(recording, name, engine, integer=False)
    values: dict[str, Array] = {}
    for ref, value in importer.values.items():
        data = recording.values[ref.index].data
        base, words = source_name(value)
        if data is not None and not words:
            values.setdefault(base, source.plain(data))
    return values | {name: source.plain(data) for name, data in recording.results.items()}


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailableError(
            "converting torch modules needs torch: pip install 'nprt[torch]'"
        ) from error
    return torch


def import_recording(
    recording: Recording, name: str, engine: str, *, integer: bool, required: bool = False
) -> Importer:
    """Translate every call. Raises UnsupportedOpError with all that could not be."""
    from nprt.converters.torch_ops.importer import Importer
    from nprt.converters.torch_ops.recording import needed
    from nprt.converters.torch_ops.table import TRANSLATIONS

    importer = Importer(recording, engine, integer=integer, required=required)
    importer.problems += dict.fromkeys(recording.problems)
    calls, values = needed(recording)
    for call in calls:
        namespace, _, operator = call.op.partition(".")
        plain = operator if operator.startswith("__") else operator.rstrip("_")
        translate = TRANSLATIONS.get(f"{namespace}.{plain}")
        if translate is None:
            importer.report(
                call, "this operator is not supported; replace it, or cut the model before it"
            )
            continue
        if importer.is_blocked(call):
            importer.block(call)  # what it reads could not be translated, which is already reported
            continue
        before = len(importer.graph.ops)
        try:
            translate(importer, call)
            importer.label(before, call.place.module or importer.out(call))
            importer.require_bound(call, values)
        except (ModelError, NotImplementedError) as error:
            importer.report(call, importer.explain(error))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            importer.report(
                call, f"its arguments are not understood ({type(error).__name__}: {error})"
            )
    if importer.problems:
        raise UnsupportedOpError(name, importer.problems)
    importer.bind_outputs()
    return importer
