"""One network in every form that a peer reads, in a folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import nprt
from models.data import synthetic_images
from nprt.info import macs

Images = NDArray[np.float32]

CALIBRATION_IMAGES = 16


@dataclass(frozen=True)
class Forms:
    """The network `name` in its forms, which `prepare` writes into `folder`."""

    name: str
    folder: Path

    @property
    def weights(self) -> Path:
        """torch's state dict, before BatchNorms are folded."""
        return self.folder / "weights.pt"

    @property
    def float_onnx(self) -> Path:
        return self.folder / "float.onnx"

    @property
    def qdq_onnx(self) -> Path:
        return self.folder / "qdq.onnx"

    @property
    def nprt(self) -> Path:
        return self.folder / "model.nprt"

    @cached_property
    def calibration(self) -> Images:
        images: Images = np.load(self.folder / "calibration.npy")
        return images

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return macs(nprt.load(self.nprt))

    def images(self, batch: int) -> Images:
        """What every peer is timed with."""
        return synthetic_images(batch, self.calibration.shape[1:], seed=2)

    def expected(self, batch: int) -> Images:
        """What the float32 network makes of `images`."""
        from onnxruntime import InferenceSession

        session = InferenceSession(self.float_onnx, providers=["CPUExecutionProvider"])
        outputs: Images = session.run(None, {"input": self.images(batch)})[0]
        return outputs


def prepare(name: str, folder: Path) -> Forms:
    """The architecture `name` with seeded random weights, its BatchNorms folded, in every form."""
    import torch
    from torch.fx.experimental.optimization import fuse

    from models.architectures import ARCHITECTURES, randomize
    from models.export import export_onnx
    from nprt.converters import from_onnx

    forms = Forms(name, folder)
    folder.mkdir(parents=True)
    architecture = ARCHITECTURES[name]
    module = architecture.build().eval()
    randomize(module, 0, architecture.input_shape)
    torch.save(module.state_dict(), forms.weights)
    images = synthetic_images(CALIBRATION_IMAGES, architecture.input_shape, seed=1)
    np.save(folder / "calibration.npy", images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its exporter to ONNX deprecated
        export_onnx(fuse(module), forms.float_onnx, architecture.input_shape)
    _quantize_onnx(forms)
    from_onnx(forms.float_onnx, calibration={"input": images}).save(forms.nprt)
    return forms


def _quantize_onnx(forms: Forms) -> None:
    """onnxruntime's static quantization: uint8 activations, int8 weights for each channel."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, images: Images) -> None:
            self._images: Iterator[Images] = iter(images)

        def get_next(self) -> dict[str, Images] | None:
            image = next(self._images, None)
            return None if image is None else {"input": image[np.newaxis]}

    clean = forms.folder / "clean.onnx"
    quant_pre_process(str(forms.float_onnx), str(clean), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(clean),
        str(forms.qdq_onnx),
        Reader(forms.calibration),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
