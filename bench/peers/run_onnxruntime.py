"""onnxruntime's CPU provider, which fuses QDQ into its int8 kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from bench.peers.forms import Forms, Images
from bench.peers.table import Run


def int8(forms: Forms, batch: int, threads: int) -> Run:
    return _run(forms, forms.qdq_onnx, batch, threads)


def float32(forms: Forms, batch: int, threads: int) -> Run:
    return _run(forms, forms.float_onnx, batch, threads)


def _run(forms: Forms, path: Path, batch: int, threads: int) -> Run:
    """Inputs and outputs are bound once, which is faster than `session.run`."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.add_free_dimension_override_by_name("N", batch)
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = forms.images(batch)
    (output,) = session.run(None, {"input": images})
    bound_input = onnxruntime.OrtValue.ortvalue_from_numpy(images)
    bound_output = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(output))
    binding = session.io_binding()
    binding.bind_ortvalue_input("input", bound_input)
    binding.bind_ortvalue_output("output", bound_output)

    def run(images: Images) -> Images:
        bound_input.update_inplace(images)
        session.run_with_iobinding(binding)
        return bound_output.numpy()

    return run
