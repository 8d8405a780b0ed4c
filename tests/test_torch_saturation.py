"""Depthwise convolutions of fbgemm whose 16-bit sums saturate: nprt gives the codes that torch gives."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from test_torch_layers import Layer, build
from torch import nn
from torch.ao import quantization as tq
from torch_runner import QUIET, assert_same, converted, eager, engine, fx, outputs, run, seeded

import nprt
from nprt.info import float_rounding

pytestmark = [pytest.mark.filterwarnings(f) for f in QUIET]

NUMERICS = "fbgemm-saturating"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def numerics(model: nprt.Model) -> list[str]:
    return [op.numerics for op in model.ops if op.name == "depthwise_conv"]


def layer(
    kernel: tuple[int, ...], stride: tuple[int, ...], sizes: tuple[int, ...], **fields: Any
) -> Layer:
    rank = len(kernel)
    return Layer(
        "conv",
        rank,
        fields.pop("channels", (1, 1)),
        kernel=kernel,
        stride=stride,
        padding=tuple(size // 2 for size in kernel),
        dilation=(1,) * rank,
        output_padding=(0,) * rank,
        sizes=sizes,
        codes=255,
        **fields,
    )


@pytest.mark.parametrize("name", ["fbgemm", "x86"])
@pytest.mark.parametrize(
    "kernel", [(3, 3), (5, 5), (7, 7), (3, 3, 3), (7, 3, 3), (3, 5, 5)], ids=str
)
def test_layers(kernel: tuple[int, ...], name: str) -> None:
    """x86 leaves more than 100 groups, and weights with zero points, to fbgemm.

    Over three axes, torch's kernel writes outside its memory where an image is smaller than the kernel.
    """
    saturated = 0

    @settings(deadline=None, max_examples=20, derandomize=True)
    @given(
        stride=st.tuples(*[st.integers(1, 2)] * len(kernel)),
        sizes=st.tuples(*[st.integers(max(kernel), 9)] * len(kernel)),
        fields=st.fixed_dictionaries(
            {
                "channels": st.sampled_from([(1, 1), (1, 2)]),
                "groups": st.sampled_from([8, 16, 24, 104] if name == "fbgemm" else [104]),
                "relu": st.booleans(),
                "bias": st.booleans(),
                "per_channel": st.booleans(),
                "weight_zero": st.sampled_from([0, 7]),
                "zero_point": st.sampled_from([0, 3, 128, 255]),
                "seed": st.integers(0, 2**32 - 1),
            }
        ),
    )
    def inner(stride: tuple[int, ...], sizes: tuple[int, ...], fields: dict[str, Any]) -> None:
        nonlocal saturated
        with engine(name):
            module, x = build(layer(kernel, stride, sizes, **fields))
            saturated += numerics(assert_same(module, x)) == [NUMERICS]

    inner()
    assert saturated > 8


@pytest.mark.parametrize("kernel", [(9, 9), (1, 3, 3), (3, 9, 9), (9, 3, 3), (3, 3, 5)], ids=str)
def test_other_kernels_are_exact(kernel: tuple[int, ...]) -> None:
    ones = (1,) * len(kernel)
    with engine("fbgemm"):
        module, x = build(layer(kernel, ones, (6,) * len(kernel), groups=8))
        model = assert_same(module, x)
    assert numerics(model) == ["fbgemm"]
    assert model.origin.notes == ()


def test_it_is_told_where_codes_saturate_and_only_there() -> None:
    given = layer((3, 3), (1, 1), (9, 6), groups=16, zero_point=0, bias=False)
    with engine("fbgemm"):
        module, x = build(given)
        model = assert_same(module, x)
        (note,) = model.origin.notes
        limit = int(note.partition("exceed ")[2].partition(";")[0])
        assert 127 < limit < 255
        exact = converted(module, x, numerics="integer")
        assert float_rounding(exact) == []
        assert numerics(exact) == ["integer"]
        codes = x.int_repr().clamp(max=limit)
        below = torch._make_per_tensor_quantized_tensor(codes, x.q_scale(), x.q_zero_point())
        expected = outputs(module, x)[0].astype(int)
        assert np.abs(run(exact, x)[0] - expected).max() > 1  # exact sums are others
        assert np.abs(run(exact, below)[0] - outputs(module, below)[0].astype(int)).max() <= 1
        np.testing.assert_array_equal(run(model, below)[0], outputs(module, below)[0])


def test_the_zero_point_saturates_as_well() -> None:
    """Padding alone, behind a table whose codes are small."""

    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            codes = torch.full((8, 1, 3, 3), 127, dtype=torch.int8)
            w = torch._make_per_tensor_quantized_tensor(codes, 0.01, 0)
            self.packed = torch.ops.quantized.conv2d_prepack(w, None, [1, 1], [1, 1], [1, 1], 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.clamp(x, max=-1.2)
            return torch.ops.quantized.conv2d(x, self.packed, 0.2, 200)

    codes = torch.randint(0, 256, (2, 8, 4, 5), dtype=torch.uint8, generator=seeded(1))
    x = torch._make_per_tensor_quantized_tensor(codes, 0.01, 240)
    with engine("fbgemm"):
        assert numerics(assert_same(Bounded(), x)) == [NUMERICS]


# --- models -------------------------------------------------------------------------------------------


class Gate(nn.Module):
    """A depthwise convolution behind a sigmoid, whose codes reach 255 also where the range is reduced."""

    def __init__(self, kernel: int, stride: int, multiplier: int = 1) -> None:
        super().__init__()
        self.gate = nn.Sigmoid()
        self.conv = nn.Conv2d(8, 8 * multiplier, kernel, stride, kernel // 2, groups=8)
        nn.init.uniform_(self.conv.weight, 0.5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.gate(x))


class Stubs(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.quant, self.inner, self.dequant = tq.QuantStub(), inner, tq.DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dequant(self.inner(self.quant(x)))


@pytest.mark.parametrize("mode", ["eager", "fx"])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_depthwise_layer_behind_a_sigmoid(
    kernel: int, stride: int, multiplier: int, mode: str
) -> None:
    torch.manual_seed(0)
    x = 4 * torch.randn(2, 8, 9, 10, generator=seeded(3)) + 3
    module = Gate(kernel, stride, multiplier)
    make = fx if mode == "fx" else eager
    quantized = make(module if mode == "fx" else Stubs(module), "fbgemm", [x])
    with engine("fbgemm"):
        model = assert_same(quantized, x)
    assert numerics(model) == [NUMERICS]
    if importlib.util.find_spec("llvmlite") is not None:
        feeds = {model.inputs[0]: x.numpy()}
        (jit,) = nprt.Session(model, backend="numba").run(None, feeds)
        np.testing.assert_array_equal(jit, outputs(quantized, x)[0])
