"""Converters: models of other frameworks in, `nprt.Model` out. Needs the extra `nprt[onnx]`."""

from __future__ import annotations

import logging

from nprt.converters.from_onnx import from_onnx
from nprt.converters.from_torch import from_torch
from nprt.converters.quantize import LayerConfig, QuantizationConfig

# Warnings go to whoever listens; `nprt` itself has none, and does not import logging.
logging.getLogger("nprt").addHandler(logging.NullHandler())

__all__ = ["LayerConfig", "QuantizationConfig", "from_onnx", "from_torch"]
