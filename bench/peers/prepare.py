"""One network with random weights, written in every form that a peer reads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn
from torch.fx.experimental.optimization import fuse

from bench.peers.forms import Forms, Images
from models.architectures import ARCHITECTURES, randomize
from models.data import synthetic_images
from models.export import export_onnx
from nprt.converters import from_onnx

CALIBRATION_IMAGES = 16


def prepare(name: str, folder: Path) -> Forms:
    """The architecture `name` with seeded random weights, its BatchNorms folded, in every form."""
    forms = Forms(name, folder)
    folder.mkdir(parents=True)
    architecture = ARCHITECTURES[name]
    images = synthetic_images(CALIBRATION_IMAGES, architecture.input_shape, seed=1)
    module = architecture.build().eval()
    randomize(module, 0, architecture.input_shape)
    _temper(module, images)
    torch.save(module.state_dict(), forms.weights)
    np.save(folder / "calibration.npy", images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its exporter to ONNX deprecated
        export_onnx(fuse(module), forms.float_onnx, architecture.input_shape)
    _quantize_onnx(forms)
    for numerics, path in (("ort", forms.nprt), ("integer", forms.nprt_integer)):
        from_onnx(forms.float_onnx, calibration={"input": images}, numerics=numerics).save(path)
    return forms


def _temper(module: nn.Module, images: Images) -> None:
    """Make a random network robust to small errors, as trained ones are: few sums are on the flat side of a ReLU.

    BatchNorms get a higher bias, and statistics of `images`; the last layer is made to suit them. Without this, in deep
    networks, outputs of int8 have little in common with those of float32, for all runtimes alike.
    """
    with torch.no_grad():
        norms = [
            layer
            for layer in module.modules()
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
        ]
        for norm in norms:
            norm.bias.add_(1)
            norm.reset_running_stats()
            norm.momentum = None  # the statistics become those of the one batch below
            norm.train()
        module(torch.from_numpy(images))
        module.eval()
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        outputs = module(torch.from_numpy(images))
        spread = outputs.std(0).mean()
        last.weight /= spread
        last.bias.sub_(outputs.mean(0)).div_(spread)


def _quantize_onnx(forms: Forms) -> None:
    """onnxruntime's static quantization: uint8 activations, int8 weights for each channel."""
    clean = forms.folder / "clean.onnx"
    quant_pre_process(str(forms.float_onnx), str(clean), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(clean),
        str(forms.qdq_onnx),
        _Reader(forms.calibration),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


class _Reader(quantization.CalibrationDataReader):
    """Calibration images for onnxruntime, one by one."""

    def __init__(self, images: Images) -> None:
        self._images: Iterator[Images] = iter(images)

    def get_next(self) -> dict[str, Images] | None:
        image = next(self._images, None)
        return None if image is None else {"input": image[np.newaxis]}
