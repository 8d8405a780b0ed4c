"""Quantized ONNX files, made with onnxruntime's own tools from the models of this repository."""

import logging
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from models.data import digits, synthetic_images

onnx = pytest.importorskip("onnx")
quantization = pytest.importorskip("onnxruntime.quantization")
shape_inference = pytest.importorskip("onnxruntime.quantization.shape_inference")
QuantFormat, QuantType = quantization.QuantFormat, quantization.QuantType

MODELS = Path(__file__).resolve().parents[1] / "models"
SMALL = ("autoencoder", "digits", "dscnn", "lenet", "mlp", "resnet8")


def recipe(form, activations, weights=QuantType.QInt8, *, per_channel=True, symmetric=False):
    return {
        "quant_format": form,
        "activation_type": activations,
        "weight_type": weights,
        "per_channel": per_channel,
        "extra_options": {"ActivationSymmetric": symmetric},
    }


U8, S8 = QuantType.QUInt8, QuantType.QInt8
QDQ = {
    "qdq-u8": recipe(QuantFormat.QDQ, U8),
    "qdq-u8-tensor": recipe(QuantFormat.QDQ, U8, per_channel=False),
    "qdq-u8u8": recipe(QuantFormat.QDQ, U8, U8, per_channel=False),
    "qdq-s8": recipe(QuantFormat.QDQ, S8),
    "qdq-s8-symmetric": recipe(QuantFormat.QDQ, S8, symmetric=True),
}
QOPERATOR = {
    "qop-u8": recipe(QuantFormat.QOperator, U8),
    "qop-u8-tensor": recipe(QuantFormat.QOperator, U8, per_channel=False),
    "qop-u8u8": recipe(QuantFormat.QOperator, U8, U8, per_channel=False),
    "qop-s8": recipe(QuantFormat.QOperator, S8),
}
STATIC = QDQ | QOPERATOR
DYNAMIC = {"dynamic": {}, "dynamic-channel": {"per_channel": True, "weight_type": S8}}


class Feeds(quantization.CalibrationDataReader):
    def __init__(self, name, images):
        self._batches = iter([{name: images[at : at + 8]} for at in range(0, len(images) - 7, 8)])

    def get_next(self):
        return next(self._batches, None)


def input_of(model):
    """Name and shape, without the batch, of the one input."""
    value = model.graph.input[0]
    return value.name, tuple(d.dim_value for d in value.type.tensor_type.shape.dim)[1:]


@cache
def images_of(name, shape, count, seed):
    """Images for a model: held-out digits where it was trained on them, else synthetic ones."""
    if name == "digits":
        data = digits()
        return (data.calibration_images if seed == 0 else data.test_images)[:count]
    return synthetic_images(count, shape, seed)


class Files:
    """Quantized files by model and recipe, each made once."""

    def __init__(self, folder):
        self.folder = folder
        self._sources = {}
        for name in SMALL:
            self.add(name, onnx.load(MODELS / f"{name}.onnx"))

    def add(self, name, model):
        """A float model. What exporters say of the shapes of weights is dropped: quantize_dynamic contradicts it."""
        del model.graph.value_info[:]
        self._sources[name] = model

    def __contains__(self, name):
        return name in self._sources

    def source(self, name):
        return self._sources[name]

    def test_images(self, name, count=64):
        return images_of(name, input_of(self.source(name))[1], count, seed=9)

    def quantized(self, name, recipe):
        """The bytes of a quantized model."""
        path = self.folder / f"{name}.{recipe}.onnx"
        if not path.exists():
            self._quantize(name, recipe, path)
        return path.read_bytes()

    def _quantize(self, name, recipe, path):
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            source = self.folder / f"{name}.onnx"
            onnx.save(self.source(name), source)
            if recipe in DYNAMIC:
                quantization.quantize_dynamic(source, path, **DYNAMIC[recipe])
                return
            prepared = self.folder / f"{name}.prepared.onnx"
            if not prepared.exists():
                shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
            input_name, shape = input_of(self.source(name))
            count = 64 if np.prod(shape) < 5000 else 8
            feeds = Feeds(input_name, images_of(name, shape, count, seed=0))
            quantization.quantize_static(prepared, path, feeds, **STATIC[recipe])
        finally:
            logging.disable(disabled)
