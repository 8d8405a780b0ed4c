"""Where one network is, in every form that a peer reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import nprt
from models.data import synthetic_images
from nprt.info import macs

Images = NDArray[np.float32]


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
    def nprt_integer(self) -> Path:
        """With integer arithmetic alone."""
        return self.folder / "integer.nprt"

    @property
    def nprt(self) -> Path:
        """With onnxruntime's factors, which are float32."""
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
