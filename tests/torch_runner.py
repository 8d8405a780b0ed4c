"""Running torch's own quantization, and comparing nprt with it. Import after `pytest.importorskip("torch")`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import nprt
from nprt.converters import from_torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from torch.ao import quantization as tq
    from torch.ao.quantization import quantize_fx

ENGINES = ("fbgemm", "x86", "onednn", "qnnpack")

# What torch says about its own deprecated quantization; put it into `pytestmark` of a test file.
QUIET = (
    "ignore:.*deprecat.*",
    "ignore:.*reduce_range.*",
    "ignore:.*TypedStorage.*",
    "ignore:.*must run observer.*",
    "ignore:.*torch.jit.*",
)


@contextmanager
def engine(name: str) -> Iterator[None]:
    """torch's int8 engine for the time being."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


class Function(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def eager(
    module: torch.nn.Module,
    name: str,
    calibration: Sequence[Any],
    *,
    fuse: Sequence[Sequence[str]] = (),
    qconfig: Any = None,
) -> torch.nn.Module:
    """Static post-training quantization in eager mode. `module` has its QuantStub and DeQuantStub."""
    with engine(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.eval()
        module.qconfig = qconfig or tq.get_default_qconfig(name)
        if fuse:
            module = tq.fuse_modules(module, [list(group) for group in fuse])
        tq.prepare(module, inplace=True)
        for x in calibration:
            module(*x) if isinstance(x, tuple) else module(x)
        return tq.convert(module, inplace=True)


def fx(
    module: torch.nn.Module,
    name: str,
    calibration: Sequence[Any],
    *,
    mapping: Any = None,
) -> torch.nn.Module:
    """Static post-training quantization by FX graph mode."""
    with engine(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = mapping or tq.get_default_qconfig_mapping(name)
        first = calibration[0]
        example = first if isinstance(first, tuple) else (first,)
        prepared = quantize_fx.prepare_fx(module.eval(), mapping, example)
        for x in calibration:
            prepared(*x) if isinstance(x, tuple) else prepared(x)
        return quantize_fx.convert_fx(prepared)


def outputs(module: Callable[..., Any], *inputs: torch.Tensor) -> list[np.ndarray]:
    """torch's results as arrays, codes for quantized tensors."""
    with torch.no_grad():
        result = module(*inputs)
    items = result if isinstance(result, tuple | list) else [result]
    return [(item.int_repr() if item.is_quantized else item).numpy() for item in items]


def converted(module: Any, *inputs: torch.Tensor, **options: Any) -> nprt.Model:
    return from_torch(module, inputs, **options)


def run(model: nprt.Model, *inputs: torch.Tensor) -> list[np.ndarray]:
    """nprt's results for the same inputs."""
    feeds = {
        name: (x.int_repr() if x.is_quantized else x).numpy()
        for name, x in zip(model.inputs, inputs, strict=True)
    }
    return nprt.Session(model).run(None, feeds)


def assert_same(module: Any, *inputs: torch.Tensor, **options: Any) -> nprt.Model:
    """Convert, run both on `inputs`, and compare every output exactly, dtype included."""
    model = converted(module, *inputs, **options)
    for actual, expected in zip(run(model, *inputs), outputs(module, *inputs), strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)
    return model
