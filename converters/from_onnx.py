"""ONNX file -> graph -> Model. The ONNX operators are in `onnx_ops`, one table from op_type to a function."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nprt.converters import sniff
from nprt.converters.graph import Graph
from nprt.converters.onnx_ops.importer import Importer, Node
from nprt.converters.onnx_ops.table import IMPORTERS
from nprt.converters.pipeline import convert
from nprt.converters.quantize import QuantizationConfig
from nprt.errors import BackendUnavailableError, ModelError, ModelFormatError, UnsupportedOpError
from nprt.ir import Array, Dim, Model, Origin
from nprt.version import __version__

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET, NEWEST_OPSET = 10, 28

# What translating a node runs into when its attributes have wrong types or its inputs are too few or too many.
MALFORMED = (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError)


def from_onnx(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    calibration: Iterable[Mapping[str, Array]] | Mapping[str, Array] | None = None,
    numerics: str = "auto",
    config: QuantizationConfig | None = None,
    input_shapes: Mapping[str, tuple[Dim, ...]] | None = None,
    require_integer: bool = False,
    progress: bool = False,
) -> Model:
    """Convert an ONNX model to int8.

    Args:
        source: path or bytes of an ONNX file, or a ModelProto. It may be float (opset 10 to 28), quantized with
            QuantizeLinear and DequantizeLinear, with QLinear operators, or with integer operators (opset 10 to 28).
        calibration: for a float model: an iterable of feeds `{input name: array}`, or one such mapping whose arrays
            are cut along the first axis; a feed may be an array itself if there is one input. Without it, linear layers
            quantize their input at run time.
        numerics: "integer", "ort", or "auto": "integer" for a float model, "ort" for a quantized one. "ort-int8" is
            "ort" with onnxruntime's session option `session.qdqisint8allowed`, for models with int8 activations.
        config: how a float model is quantized; see `QuantizationConfig`.
        input_shapes: shapes that replace the declared ones, by input name; a name stands for a free dimension.
        require_integer: refuse a model that keeps float ops between its first quantize and its last dequantize.
        progress: show a progress bar while calibrating.

    Returns:
        A checked Model. `str(model)` prints its op list.

    Raises:
        UnsupportedOpError: lists every node that cannot be converted.
        ModelFormatError: not an ONNX file, or an opset outside 10 to 28.
        CalibrationError: the calibration data are empty, misnamed or not finite.
        ModelError: the model breaks a rule of the op list.
    """
    proto, name = read_proto(source)
    graph, traits = import_graph(proto, name, input_shapes or {})
    origin = Origin(
        producer=f"nprt {__version__}",
        framework=f"onnx opset {opset_of(proto, name)}"
        + (
            f", {proto.producer_name} {proto.producer_version}".rstrip()
            if proto.producer_name
            else ""
        ),
        engine="onnxruntime x86" if traits.quantized else "",
    )
    return convert(
        graph,
        name,
        origin,
        traits,
        calibration=calibration,
        numerics=numerics,
        config=config or QuantizationConfig(),
        require_integer=require_integer,
        progress=progress,
    )


def read_proto(source: Any) -> tuple[onnx.ModelProto, str]:
    """The ModelProto of a path, bytes or a ModelProto, and a name for messages."""
    try:
        import onnx
    except ImportError as error:
        raise BackendUnavailableError(
            "reading ONNX files needs the onnx package: pip install 'nprt[onnx]'"
        ) from error
    if isinstance(source, onnx.ModelProto):
        return source, source.graph.name or "<ModelProto>"
    name = "<bytes>" if isinstance(source, bytes) else os.fspath(source)
    try:
        if isinstance(source, bytes):
            return onnx.load_model_from_string(source), name
        return onnx.load_model(os.fspath(source)), name
    except OSError:
        raise
    except Exception as error:  # protobuf's DecodeError, without depending on protobuf
        what = "" if isinstance(source, bytes) or name.endswith(".onnx") else sniff.advice(name)
        what = what or f"not an ONNX model ({type(error).__name__}: {error})"
        raise ModelFormatError(f"{name}: {what}") from error


def opset_of(proto: onnx.ModelProto, name: str) -> int:
    versions = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    if not versions or not OLDEST_OPSET <= versions[0] <= NEWEST_OPSET:
        raise ModelFormatError(
            f"{name}: opset {versions[0] if versions else 'missing'}; nprt reads {OLDEST_OPSET} to {NEWEST_OPSET}. "
            "Convert it with onnx.version_converter, or export it again"
        )
    return versions[0]


def import_graph(
    proto: onnx.ModelProto, name: str, input_shapes: Mapping[str, tuple[Dim, ...]]
) -> tuple[Graph, Any]:
    """Translate every node. Raises UnsupportedOpError with all that could not be."""
    importer = Importer(opset_of(proto, name))
    try:
        importer.read_initializers(proto.graph)
        importer.read_inputs(proto.graph, input_shapes)
        nodes = [Node(node) for node in proto.graph.node]
    except MALFORMED as error:
        if isinstance(error, ModelError):
            raise type(error)(f"{name}: {error}") from error
        raise ModelFormatError(f"{name}: not a sound ONNX model ({error})") from error
    for node in nodes:
        translate = IMPORTERS.get(
            node.op_type if node.domain in ("", "ai.onnx") else node.qualified_name
        )
        if importer.is_blocked(node):
            importer.block(node)  # what it reads could not be translated, which is already reported
            continue
        if translate is None:
            importer.report(
                node,
                "this operator is not supported; replace it in the source model by supported ones, "
                "or cut the model before it",
            )
            continue
        before = len(importer.graph.ops)
        try:
            translate(importer, node)
            importer.label(before, node.name)
            unread = node.unread_attributes()
            if unread:
                importer.report(node, f"attributes {unread} are not supported")
        except (ModelError, NotImplementedError) as error:
            importer.report(node, importer.explain(error))
        except MALFORMED as error:
            importer.report(node, f"the node is malformed ({type(error).__name__}: {error})")
    if importer.problems:
        raise UnsupportedOpError(name, importer.problems)
    importer.bind_outputs(proto.graph)
    return importer.graph, importer.traits
