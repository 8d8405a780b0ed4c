"""torch on the CPU: float32, its int8 engines, and its compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

from bench.peers.forms import Forms, Images
from bench.peers.table import Run
from models.architectures import ARCHITECTURES


def float32(forms: Forms, batch: int, threads: int) -> Run:
    """Eager mode, channels last where there are channels."""
    torch.set_num_threads(threads)
    return _run(module(forms))


def float32_script(forms: Forms, batch: int, threads: int) -> Run:
    torch.set_num_threads(threads)
    example = torch.from_numpy(forms.images(batch))
    return _run(torch.jit.optimize_for_inference(_script(module(forms), example)))


def float32_compiled(forms: Forms, batch: int, threads: int) -> Run:
    torch.set_num_threads(threads)
    return _run(_compiled(module(forms)))


def fbgemm(forms: Forms, batch: int, threads: int) -> Run:
    return _engine(forms, batch, threads, "fbgemm")


def x86(forms: Forms, batch: int, threads: int) -> Run:
    return _engine(forms, batch, threads, "x86")


def onednn(forms: Forms, batch: int, threads: int) -> Run:
    return _engine(forms, batch, threads, "onednn")


def int8_compiled(forms: Forms, batch: int, threads: int) -> Run:
    """PT2E with the quantizer that torch's compiler has kernels for."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86_inductor

    torch.set_num_threads(threads)
    example = (torch.from_numpy(forms.images(batch)),)
    quantizer = x86_inductor.X86InductorQuantizer()
    quantizer.set_global(x86_inductor.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        exported = torch.export.export(_separate(module(forms)), example).module()
        observed = prepare_pt2e(exported, quantizer)
        calibrate(observed, forms, batch)
        return _run(_compiled(convert_pt2e(observed)))


def script(forms: Forms, batch: int, engine: str) -> Any:
    """FX graph mode on one of torch's int8 engines, traced and frozen: less Python between the kernels."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = engine
    example = torch.from_numpy(forms.images(batch))
    mapping = get_default_qconfig_mapping(engine)
    observed = prepare_fx(module(forms), mapping, (example,))
    calibrate(observed, forms, 1)
    return _script(convert_fx(observed), example)


def _engine(forms: Forms, batch: int, threads: int, engine: str) -> Run:
    torch.set_num_threads(threads)
    return _run(script(forms, batch, engine))


def _separate(module: fx.GraphModule) -> fx.GraphModule:
    """A ReLU of its own for each call: the quantizer refuses graphs in which calls share one."""
    for number, node in enumerate(module.graph.nodes):
        node.meta.clear()  # it names the shared one
        if node.op == "call_module" and isinstance(module.get_submodule(node.target), nn.ReLU):
            node.target = f"relu_{number}"
            module.add_module(node.target, nn.ReLU())
    module.recompile()
    return module


def module(forms: Forms, channels_last: bool = True) -> fx.GraphModule:
    """The float32 network, its BatchNorms folded."""
    architecture = ARCHITECTURES[forms.name]
    module = architecture.build().eval()
    module.load_state_dict(torch.load(forms.weights))
    fused: Any = fuse(module)
    if channels_last and len(architecture.input_shape) == 3:
        fused.to(memory_format=torch.channels_last)
    return fused


@torch.no_grad()
def calibrate(observed: nn.Module, forms: Forms, batch: int) -> None:
    """Show `observed` the calibration images, in batches of the size it was made for."""
    images = forms.calibration
    for i in range(0, len(images), batch):
        observed(torch.from_numpy(np.resize(images[i : i + batch], (batch, *images.shape[1:]))))


@torch.no_grad()
def _script(module: nn.Module, example: torch.Tensor) -> Any:
    return torch.jit.freeze(torch.jit.trace(module, example))


def _compiled(module: nn.Module) -> Any:
    import torch._inductor.config

    torch._inductor.config.freezing = True
    return torch.compile(module)


def _run(module: Any) -> Run:
    def run(images: Images) -> Images:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return run
