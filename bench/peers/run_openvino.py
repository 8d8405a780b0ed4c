"""OpenVINO's CPU plugin, from the ONNX files."""

from __future__ import annotations

from pathlib import Path

import openvino

from bench.peers.forms import Forms, Images
from bench.peers.table import Run


def int8(forms: Forms, batch: int, threads: int) -> Run:
    return _run(forms.qdq_onnx, batch, threads)


def float32(forms: Forms, batch: int, threads: int) -> Run:
    return _run(forms.float_onnx, batch, threads, "f32")


def bfloat16(forms: Forms, batch: int, threads: int) -> Run:
    """What OpenVINO makes of a float32 model by itself where the CPU multiplies bfloat16."""
    return _run(forms.float_onnx, batch, threads, "bf16")


def _run(path: Path, batch: int, threads: int, precision: str | None = None) -> Run:
    """The images are copied into the input tensor that OpenVINO made, which is faster than to share theirs.

    Threads are not bound to processors: beside anything else that runs, bound ones are several times slower.
    """
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([batch, *model.inputs[0].partial_shape[1:]])
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": "NO",
    }
    if precision:
        config["INFERENCE_PRECISION_HINT"] = precision
    request = core.compile_model(model, "CPU", config).create_infer_request()
    bound_input, bound_output = request.get_input_tensor().data, request.get_output_tensor().data

    def run(images: Images) -> Images:
        bound_input[...] = images
        request.infer()
        return bound_output

    return run
