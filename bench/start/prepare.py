"""Write the files that the programs load: `python -m bench.start.prepare MODEL FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime

from bench.peers import run_executorch, run_torch
from bench.peers.prepare import prepare


def main() -> None:
    name, folder = sys.argv[1:]
    forms = prepare(name, Path(folder))
    np.save(forms.folder / "image.npy", forms.images(1))
    run_torch.script(forms, 1, "x86").save(forms.folder / "x86.pt")
    (forms.folder / "xnnpack.pte").write_bytes(run_executorch.int8_file(forms, 1))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(forms.folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(forms.qdq_onnx, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
