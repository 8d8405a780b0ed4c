"""ExecuTorch with the XNNPACK delegate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from executorch.extension.pybindings import portable_lib
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from bench.peers import run_torch
from bench.peers.forms import Forms, Images
from bench.peers.table import Run


def int8(forms: Forms, batch: int, threads: int) -> Run:
    return _run(_kept(forms, f"int8-{batch}.pte", lambda: int8_file(forms, batch)), threads)


def float32(forms: Forms, batch: int, threads: int) -> Run:
    example = torch.from_numpy(forms.images(batch))
    module = run_torch.module(forms, channels_last=False)
    return _run(_kept(forms, f"float32-{batch}.pte", lambda: _file(module, example)), threads)


def int8_file(forms: Forms, batch: int) -> bytes:
    """A .pte file, by PT2E with XNNPACK's quantizer: int8 activations, int8 weights for each channel."""
    quantizer = XNNPACKQuantizer()
    quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
    example = torch.from_numpy(forms.images(batch))
    module = run_torch.module(forms, channels_last=False)
    with torch.no_grad():
        observed = prepare_pt2e(torch.export.export(module, (example,)).module(), quantizer)
        run_torch.calibrate(observed, forms, batch)
        return _file(convert_pt2e(observed), example)


def _kept(forms: Forms, name: str, make: Callable[[], bytes]) -> bytes:
    """What `make` returns, which takes long, kept for other numbers of threads."""
    path = forms.folder / name
    if not path.exists():
        path.write_bytes(make())
    return path.read_bytes()


def _file(module: Any, example: torch.Tensor) -> bytes:
    exported = torch.export.export(module, (example,))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    return lowered.to_executorch().buffer


def _run(file: bytes, threads: int) -> Run:
    portable_lib._unsafe_reset_threadpool(threads)  # before loading, which keeps a pointer to it
    program = portable_lib._load_for_executorch_from_buffer(file)

    def run(images: Images) -> Images:
        assert file  # has to live as long as the program, which does not hold it
        return program.run_method("forward", (torch.from_numpy(images),))[0].numpy()

    return run
