"""From a front end's graph to a Model: which passes run, in which order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from nprt.converters.engines import ort
from nprt.converters.graph import Graph, source_name
from nprt.converters.passes.dynamic import fuse_dynamic
from nprt.converters.passes.edges import drop_edges
from nprt.converters.passes.fold import fold_affine, fold_constants
from nprt.converters.passes.layout import (
    flatten_into_linear,
    reshape_trivial_transposes,
    sink_transposes,
)
from nprt.converters.passes.qdq import fuse, settle_quantize
from nprt.converters.quantize import QuantizationConfig, quantize_dynamic, quantize_static
from nprt.errors import ModelError
from nprt.info import float_ops, float_rounding
from nprt.ir import Model, Origin

log = logging.getLogger("nprt")

NUMERICS = ("auto", "integer", "ort", "ort-int8", "torch")

ENGINES = {"ort": "onnxruntime", "torch": "PyTorch"}


class Traits(Protocol):
    """What a front end found out about its source.

    Attributes:
        quantized: it has int8 operators, or quantize and dequantize; nprt keeps its integers.
        engine: the numerics of a quantized source, "ort" or "torch".
        qoperator: its engine has decided already which operators run on codes.
    """

    quantized: bool
    engine: str
    qoperator: bool


def convert(
    graph: Graph,
    name: str,
    origin: Origin,
    traits: Traits,
    *,
    calibration: Any,
    numerics: str,
    config: QuantizationConfig,
    require_integer: bool,
    progress: bool,
    notes: Sequence[str] = (),
) -> Model:
    """Quantize if need be, fuse, and freeze. See `from_onnx` for the arguments and errors."""
    if numerics not in NUMERICS:
        raise ValueError(f"numerics {numerics!r} is not one of {', '.join(NUMERICS)}")
    if calibration is not None and traits.quantized:
        raise ValueError(
            f"{name} is quantized already; calibration data have no use, leave out calibration (--calibration)"
        )
    if not isinstance(config, QuantizationConfig):
        raise TypeError(f"config is a {type(config).__name__}; expected a QuantizationConfig")
    if traits.quantized and config != QuantizationConfig(float_edges=config.float_edges):
        log.warning(
            "%s is quantized already; of the configuration only float_edges has an effect", name
        )
    if numerics == "auto":
        numerics = traits.engine if traits.quantized else "integer"
    int8 = numerics == "ort-int8"
    follows_ort = numerics in ("ort", "ort-int8")
    if traits.quantized and follows_ort:
        ort.follow(graph, qoperator=traits.qoperator, int8=int8)
    settle_layout(graph, integer=numerics == "integer")
    notes = list(notes)
    if not traits.quantized and calibration is not None:
        notes += quantize_static(graph, config, calibration, progress)
    elif not traits.quantized:
        left = quantize_dynamic(graph, config)
        if left:
            notes.append(
                f"without calibration data {len(left)} layers stay in float32, the others are int8 only inside: "
                f"{', '.join(left[:8])}{', ...' if len(left) > 8 else ''}"
            )
            log.warning("%s: %s", name, notes[-1])
    if not traits.quantized and follows_ort:
        ort.decide(graph, int8=int8)
    settle_quantize(graph)
    nearest = fuse(graph, numerics)
    if nearest:
        named = ", ".join(source_name(name)[0] for name in nearest[:8])
        notes.append(
            f"{len(nearest)} products are integer that {ENGINES[traits.engine]} computes in float32, where it may "
            f"round a code otherwise: {named}{', ...' if len(nearest) > 8 else ''}"
        )
    fuse_dynamic(graph)
    finish_layout(graph)
    if not config.float_edges:
        drop_edges(graph)
    model = graph.to_model(replace(origin, notes=tuple(notes)))
    if require_integer:
        _require_integer(model, name, calibrated=traits.quantized or calibration is not None)
    return model


def float_model(graph: Graph) -> Model:
    """The model that a front end read, in float32: what quantization starts from."""
    settle_layout(graph, integer=True)
    finish_layout(graph)
    return graph.to_model()


def settle_layout(graph: Graph, *, integer: bool) -> None:
    """Constants folded, transposes cancelled, batch norm in the layers; with `integer` in quantized ones too."""
    fold_constants(graph)
    sink_transposes(graph)
    fold_affine(graph, quantized=integer)
    fold_constants(graph)


def finish_layout(graph: Graph) -> None:
    """What is left of the transposes, on codes now, goes into weights or becomes a reshape."""
    sink_transposes(graph, past_dequantize=False)
    flatten_into_linear(graph)
    reshape_trivial_transposes(graph)
    fold_constants(graph)


def _require_integer(model: Model, name: str, *, calibrated: bool) -> None:
    found = float_ops(model)
    if found:
        listing = "\n".join(f"  {op.outputs[0]} = {op}" for op in found)
        advice = (
            "" if calibrated else "; give calibration data, so that its layers can be quantized"
        )
        raise ModelError(f"{name}: {len(found)} ops work on float32{advice}:\n{listing}")
    rounding = float_rounding(model)
    if rounding:
        raise ModelError(
            f"{name}: {len(rounding)} ops on codes round in float32, with numerics {rounding[0].numerics}; "  # type: ignore[attr-defined]
            "convert with numerics integer"
        )
