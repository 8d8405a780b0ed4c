"""The programs that are started: each loads a network, runs it once and prints the class it found.

`folder` holds what `prepare` writes, `cache` is a folder that the program may keep things in.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Template

FRAME = Template("""
import numpy as np
image = np.load("$folder/image.npy")
$program
print(output.argmax(), flush=True)
""")

NPRT = """
import nprt
(output,) = nprt.Session("$folder/model.nprt", backend="%s").run(None, {"input": image})
"""

ONNXRUNTIME = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
%s
session = onnxruntime.InferenceSession("$folder/%s.onnx", options)
(output,) = session.run(None, {"input": image})
"""

OPENVINO = """
import openvino
core = openvino.Core()
%s
compiled = core.compile_model("$folder/qdq.onnx", "CPU", {"PERFORMANCE_HINT": "LATENCY"})
output = compiled(image)[0]
"""

TORCH = """
import torch
with torch.inference_mode():
    output = torch.jit.load("$folder/x86.pt")(torch.from_numpy(image)).numpy()
"""

EXECUTORCH = """
import torch
from executorch.extension.pybindings import portable_lib
program = portable_lib._load_for_executorch("$folder/xnnpack.pte")
output = program.run_method("forward", (torch.from_numpy(image),))[0].numpy()
"""


@dataclass(frozen=True)
class Program:
    """Source code, what has to be installed for it, and whether its cache is empty each time."""

    code: str
    distributions: tuple[str, ...]
    empty_cache: bool = False

    def source(self, folder: str, cache: str) -> str:
        program = Template(self.code).substitute(folder=folder, cache=cache)
        return FRAME.substitute(folder=folder, program=program)


PROGRAMS = {
    "numpy alone": Program("output = image", ("numpy",)),
    "nprt": Program(NPRT % "numba", ("nprt", "numpy", "llvmlite")),
    "nprt, empty cache": Program(NPRT % "numba", ("nprt", "numpy", "llvmlite"), empty_cache=True),
    "nprt on NumPy": Program(NPRT % "numpy", ("nprt", "numpy")),
    "onnxruntime": Program(ONNXRUNTIME % ("", "qdq"), ("onnxruntime",)),
    "onnxruntime, optimized file": Program(
        ONNXRUNTIME
        % (
            "options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL",
            "optimized",
        ),
        ("onnxruntime",),
    ),
    "openvino": Program(OPENVINO % "", ("openvino",)),
    "openvino, model cache": Program(
        OPENVINO % 'core.set_property({"CACHE_DIR": "$cache"})', ("openvino",)
    ),
    "torch x86": Program(TORCH, ("torch", "numpy")),
    "executorch": Program(EXECUTORCH, ("executorch", "torch", "torchao")),
}
