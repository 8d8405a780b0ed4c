"""The peers by name."""

from __future__ import annotations

from collections.abc import Callable

from bench.peers.forms import Images

Run = Callable[[Images], Images]  # one call of a network, as every runner makes it

OURS, INTEGER = (
    "nprt",
    "nprt integer",
)  # with float32 factors as onnxruntime has them, and with integers alone
RUNTIMES = (
    "onnxruntime",
    "openvino",
    "torch",
    "executorch",
)  # a peer's name begins with its runtime's

# name: the module and its function (forms, batch, threads) -> Run
PEERS = {
    OURS: ("run_nprt", "ort"),
    INTEGER: ("run_nprt", "integer"),
    "onnxruntime int8": ("run_onnxruntime", "int8"),
    "onnxruntime float32": ("run_onnxruntime", "float32"),
    "openvino int8": ("run_openvino", "int8"),
    "openvino float32": ("run_openvino", "float32"),
    "openvino bfloat16": ("run_openvino", "bfloat16"),
    "torch fbgemm": ("run_torch", "fbgemm"),
    "torch x86": ("run_torch", "x86"),
    "torch onednn": ("run_torch", "onednn"),
    "torch int8 compiled": ("run_torch", "int8_compiled"),
    "torch float32": ("run_torch", "float32"),
    "torch float32 script": ("run_torch", "float32_script"),
    "torch float32 compiled": ("run_torch", "float32_compiled"),
    "executorch int8": ("run_executorch", "int8"),
    "executorch float32": ("run_executorch", "float32"),
}
