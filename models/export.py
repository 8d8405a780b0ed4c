"""Write a torch model as an ONNX file: `python -m models.export resnet18 -o resnet18.onnx`.

The command line gives an architecture seeded random weights. They classify nothing, yet have the
sizes and the ranges of trained ones: enough to convert, compare backends, and measure speed.
"""

# ruff: noqa: T201 - a command that prints its progress

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from models.architectures import ARCHITECTURES, randomize
from models.data import synthetic_images

# torch's two exporters write different graphs for the same model, and users send both.
# "torchscript-unfolded" keeps each BatchNorm as a node and each constant as the model has it.
Exporter = Literal["torchscript", "torchscript-unfolded", "dynamo"]
EXPORTERS: tuple[Exporter, ...] = ("torchscript", "torchscript-unfolded", "dynamo")
OPSETS: dict[Exporter, int] = {"torchscript": 17, "torchscript-unfolded": 17, "dynamo": 18}


def export_onnx(
    module: nn.Module,
    path: Path,
    input_shape: tuple[int, ...],
    exporter: Exporter = "torchscript",
    opset: int | None = None,
) -> None:
    """Write `module`, in eval mode, with input "input" (N, *input_shape) and output "output".

    One file, weights inside, no trace of the machine that wrote it. `opset` None: that of OPSETS.
    Raises ValueError for an opset below 18 with dynamo, which would write 18 all the same.
    """
    opset = opset or OPSETS[exporter]
    if exporter == "dynamo" and opset < 18:
        raise ValueError(f"opset {opset}: torch's dynamo exporter writes 18 or later")
    module.eval()
    example = torch.from_numpy(synthetic_images(2, input_shape, seed=0))
    options: dict[str, Any] = {
        "input_names": ["input"],
        "output_names": ["output"],
        "opset_version": opset,
        "dynamo": exporter == "dynamo",
    }
    if exporter == "dynamo":
        options["dynamic_shapes"] = ({0: torch.export.Dim("N")},)
        options["external_data"] = False
        options["verbose"] = False
    else:
        unfolded = exporter == "torchscript-unfolded"
        mode = torch.onnx.TrainingMode
        options["training"] = mode.PRESERVE if unfolded else mode.EVAL
        options["do_constant_folding"] = not unfolded
        options["dynamic_axes"] = {"input": {0: "N"}, "output": {0: "N"}}
    torch.onnx.export(module, (example,), path, **options)
    _strip(path)


def verify_onnx(module: nn.Module, path: Path, input_shape: tuple[int, ...]) -> float:
    """The largest difference between torch and onnxruntime, relative to the largest output.

    Runs batches of one and of three. Raises ValueError when it is not float32 rounding.
    """
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (1, 3):
        images = synthetic_images(batch, input_shape, seed=batch)
        with torch.no_grad():
            expected = module.eval()(torch.from_numpy(images)).numpy()
        (actual,) = session.run(None, {"input": images})
        difference = np.abs(actual - expected).max() / np.abs(expected).max()
        worst = max(worst, float(difference))
    if not worst < 1e-3:
        raise ValueError(f"{path}: onnxruntime differs from torch by {worst:.1e} of the output")
    return worst


def _strip(path: Path) -> None:
    """Remove doc strings and metadata: torch puts stack traces with local paths there."""
    model = onnx.load(path)
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for tensor in graph.initializer:
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")
    onnx.save(model, path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.export", description=__doc__)
    parser.add_argument("name", choices=ARCHITECTURES)
    parser.add_argument("-o", "--output", type=Path, help="default: <name>.onnx")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exporter", choices=EXPORTERS, default="torchscript")
    parser.add_argument("--opset", type=int, help="default: 17, or 18 for the dynamo exporter")
    options = parser.parse_args(arguments)

    architecture = ARCHITECTURES[options.name]
    module = architecture.build()
    randomize(module, options.seed, architecture.input_shape)
    path = options.output or Path(f"{options.name}.onnx")
    export_onnx(module, path, architecture.input_shape, options.exporter, options.opset)
    difference = verify_onnx(module, path, architecture.input_shape)
    print(f"{path}: {path.stat().st_size} bytes, onnxruntime within {difference:.1e} of torch")


if __name__ == "__main__":
    main()
