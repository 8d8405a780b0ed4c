"""Whole models that torch quantized, in eager and FX mode: every code that torch gives, under all four engines."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.ao import quantization as tq
from torch.ao.quantization import quantize_fx
from torch_runner import (
    ENGINES,
    QUIET,
    assert_same,
    converted,
    eager,
    engine,
    fx,
    outputs,
    run,
    seeded,
)

import nprt
from models.architectures import (
    ARCHITECTURES,
    BasicBlock,
    InvertedResidual,
    randomize,
)
from nprt.compare import compare
from nprt.converters.from_torch import torch_values
from nprt.errors import ModelError, UnsupportedOpError
from nprt.info import float_ops, float_rounding
from nprt.ops.products import ProductOp

pytestmark = [pytest.mark.filterwarnings(f) for f in QUIET]


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


# --- networks -----------------------------------------------------------------------------------------


class Stubs(nn.Module):
    """A float module between QuantStub and DeQuantStub."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.quant, self.inner, self.dequant = tq.QuantStub(), inner, tq.DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dequant(self.inner(self.quant(x)))


class Added(nn.Module):
    """An InvertedResidual whose shortcut is added as eager mode needs it."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        self.conv, self.shortcut, self.added = (
            block.conv,
            block.shortcut,
            nn.quantized.FloatFunctional(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.added.add(x, self.conv(x)) if self.shortcut else self.conv(x)


class AddedReLU(nn.Module):
    """A BasicBlock, likewise."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = block.conv1, block.bn1, nn.ReLU()
        self.conv2, self.bn2, self.downsample = block.conv2, block.bn2, block.downsample
        self.added = nn.quantized.FloatFunctional()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.added.add_relu(y, shortcut)


def for_eager(module: nn.Module) -> nn.Module:
    """The float module with stubs, additions as modules, and layers fused with what follows them."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, InvertedResidual):
                setattr(parent, name, Added(child))
            elif isinstance(child, BasicBlock):
                setattr(parent, name, AddedReLU(child))
            elif isinstance(child, nn.ReLU6):
                setattr(parent, name, nn.ReLU())
    module.eval()
    return tq.fuse_modules(Stubs(module), fusable(Stubs(module)))


def fusable(module: nn.Module) -> list[list[str]]:
    """Chains of convolution or linear, batch norm and relu that stand one behind another."""
    named = [(name, m) for name, m in module.named_modules() if not list(m.children())]
    groups: list[list[str]] = []
    index = 0
    while index < len(named):
        name, layer = named[index]
        index += 1
        if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            continue
        group = [name]
        for kind in ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), (nn.ReLU,)):
            following = named[index] if index < len(named) else ("", None)
            beside = following[0].rpartition(".")[0] == name.rpartition(".")[0]
            linear = isinstance(layer, nn.Linear) and len(group) > 1  # torch has no such fusion
            if isinstance(following[1], kind) and beside and not linear:
                group.append(following[0])
                index += 1
        if len(group) > 1:
            groups.append(group)
    return groups


SMALL = ("digits", "mlp", "autoencoder", "lenet", "resnet8", "dscnn", "dscnn_49x10")
LARGE = ("resnet18", "mobilenet_v2")


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    architecture = ARCHITECTURES[name]
    shape = (3, 64, 64) if name in LARGE else architecture.input_shape
    module = architecture.build()
    randomize(module, 0, shape)
    return module, shape


@pytest.mark.parametrize("mode", ["eager", "fx"])
@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_networks(name: str, mode: str) -> None:
    """Also numerics integer: without float ops, each op within one code, and a note says how far the results are."""
    if (name, mode) == ("digits", "eager"):
        pytest.skip("it adds with +, which eager mode does not quantize")
    for kernels in ENGINES:
        module, shape = network(name)
        calibration = [images(4, *shape, seed=seed) for seed in range(2)]
        x = images(3, *shape, seed=7)
        if mode == "eager":
            quantized = eager(for_eager(module), kernels, calibration)
        else:
            quantized = fx(module, kernels, calibration)
        with engine(kernels):
            model = assert_same(quantized, x)
            assert run(model, x[:1])[0].shape[0] == 1
            integer = converted(quantized, x, numerics="integer")
            (near,), (expected,) = run(integer, x), outputs(quantized, x)
            values = torch_values(quantized, (x,))
        assert float_ops(integer) == float_rounding(integer) == []
        # Values that qnnpack's clamp mixes up have another layout in the model than their shape says.
        if not any("mixes" in note for note in integer.origin.notes):
            rows = compare(integer, {integer.inputs[0]: x.numpy()}, values, isolate=True)
            assert len(rows.rows) >= sum(isinstance(op, ProductOp) for op in integer.ops)
            assert rows.first_beyond(codes=1) is None, rows.first_beyond(codes=1)
        count = np.count_nonzero(near != expected)
        notes = [note for note in integer.origin.notes if "against torch" in note]
        said = f"{count:,} of {near.size:,} codes of {integer.outputs[0]} differ"
        assert [said in note for note in notes] == [True] * bool(count)


# --- fused modules ------------------------------------------------------------------------------------


class Fusions(nn.Module):
    """Every layer that eager mode and FX fuse, along one or two or three axes."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        conv = getattr(nn, f"Conv{rank}d")
        norm = getattr(nn, f"BatchNorm{rank}d")
        self.axes = tuple(range(2, rank + 2))
        self.plain = conv(3, 8, 3, padding=1)
        self.relu_conv, self.relu_1 = conv(8, 8, 3, 2, groups=2), nn.ReLU()
        self.bn_conv, self.bn_1 = conv(8, 6, 1, bias=False), norm(6)
        self.bn_relu_conv, self.bn_2, self.relu_2 = conv(6, 6, 2), norm(6), nn.ReLU()
        self.linear_bn, self.bn_3 = nn.Linear(6, 9), nn.BatchNorm1d(9)
        self.linear_relu, self.relu_3 = nn.Linear(9, 5), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu_1(self.relu_conv(self.plain(x)))
        x = self.relu_2(self.bn_2(self.bn_relu_conv(self.bn_1(self.bn_conv(x)))))
        x = x.mean(self.axes)
        return self.relu_3(self.linear_relu(self.bn_3(self.linear_bn(x))))


FUSED = [
    ["relu_conv", "relu_1"],
    ["bn_conv", "bn_1"],
    ["bn_relu_conv", "bn_2", "relu_2"],
    ["linear_bn", "bn_3"],
    ["linear_relu", "relu_3"],
]


def with_statistics(module: nn.Module) -> nn.Module:
    """Batch norms that do something."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return module.eval()


@pytest.mark.parametrize("mode", ["eager", "fx"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kernels", ENGINES)
def test_fused_modules(kernels: str, rank: int, mode: str) -> None:
    module = with_statistics(Fusions(rank))
    x = images(2, 3, *(9,) * rank)
    if mode == "eager":
        groups = [[f"inner.{name}" for name in group] for group in FUSED]
        quantized = eager(Stubs(module), kernels, [x], fuse=groups)
    else:
        quantized = fx(module, kernels, [x])
    with engine(kernels):
        if (kernels, rank) == ("qnnpack", 3):
            with pytest.raises(UnsupportedOpError, match="cannot unpack its weights"):
                converted(quantized, x)
            return
        assert_same(quantized, x)


class Normalized(nn.Module):
    """Batch norms that follow no convolution, with and without relu."""

    def __init__(self) -> None:
        super().__init__()
        self.bn_1, self.bn_2, self.relu = nn.BatchNorm2d(5), nn.BatchNorm2d(5), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn_2(self.bn_1(x)))


@pytest.mark.parametrize("mode", ["eager", "fx"])
@pytest.mark.parametrize("kernels", ENGINES)
def test_batch_norm_by_itself(kernels: str, mode: str) -> None:
    module, x = with_statistics(Normalized()), images(3, 5, 6, 7)
    if mode == "eager":
        fused = [["inner.bn_2", "inner.relu"]]
        quantized = eager(Stubs(module), kernels, [x], fuse=fused)
    else:
        quantized = fx(module, kernels, [x])
    with engine(kernels):
        assert_same(quantized, x)


class WithOnednn(nn.Module):
    """What the backend config of onednn fuses."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.linear, self.leaky = nn.Linear(4, 5), nn.LeakyReLU(0.1)
        self.last, self.tanh = nn.Linear(5, 3), nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.a(x) + self.b(x)).mean((2, 3))
        return self.tanh(self.last(self.leaky(self.linear(y))))


def test_fusions_of_the_onednn_backend_config_are_refused() -> None:
    from torch.ao.quantization.backend_config import get_onednn_backend_config

    x, config = images(2, 3, 6, 6), get_onednn_backend_config()
    with engine("onednn"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = tq.QConfigMapping().set_global(tq.get_default_qconfig("onednn"))
        prepared = quantize_fx.prepare_fx(WithOnednn().eval(), mapping, (x,), backend_config=config)
        prepared(x)
        quantized = quantize_fx.convert_fx(prepared, backend_config=config)
        with pytest.raises(UnsupportedOpError, match="default backend_config") as refused:
            converted(quantized, x)
        assert "ConvAddReLU2d" in str(refused.value)
        assert_same(fx(WithOnednn(), "onednn", [x]), x)


# --- quantization-aware training ----------------------------------------------------------------------


class Trainable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.deep = nn.Conv2d(8, 8, 3, groups=8)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.deep(self.relu(self.bn(self.conv(x))))
        return self.linear(x.mean((2, 3)))


def train(module: nn.Module) -> None:
    """Some steps; observers and batch norms settle before the end, as is usual."""
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    for step in range(6):
        if step == 4:
            module.apply(tq.disable_observer)
            module.apply(torch.ao.nn.intrinsic.qat.freeze_bn_stats)
        x = images(8, 3, 8, 8, seed=step)
        loss = nn.functional.cross_entropy(module(x), torch.arange(8) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("mode", ["eager", "fx"])
@pytest.mark.parametrize("kernels", ENGINES)
def test_quantization_aware_training(kernels: str, mode: str) -> None:
    x = images(3, 3, 8, 8, seed=9)
    with engine(kernels), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if mode == "eager":
            module = Stubs(Trainable()).train()
            module.qconfig = tq.get_default_qat_qconfig(kernels)
            groups = [["inner.conv", "inner.bn", "inner.relu"]]
            module = tq.prepare_qat(tq.fuse_modules_qat(module, groups))
            train(module)
            quantized = tq.convert(module.eval())
        else:
            mapping = tq.get_default_qat_qconfig_mapping(kernels)
            module = quantize_fx.prepare_qat_fx(Trainable().train(), mapping, (x,))
            train(module)
            quantized = quantize_fx.convert_fx(module.eval())
        model = assert_same(quantized, x)
    assert not [op for op in float_ops(model) if op.name in ("conv", "linear")]


# --- float islands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", ENGINES)
def test_layers_that_stay_in_float(kernels: str) -> None:
    """They agree within float32 rounding; the layers around them are int8."""
    with engine(kernels):
        mapping = tq.get_default_qconfig_mapping(kernels)
    for name in ("conv", "deep", "linear"):
        some = copy.deepcopy(mapping).set_module_name(name, None)
        x = images(3, 3, 8, 8)
        quantized = fx(with_statistics(Trainable()), kernels, [x], mapping=some)
        with engine(kernels):
            model = converted(quantized, x)
            values = torch_values(quantized, x)
        assert {op.name for op in float_ops(model)} & {"conv", "depthwise_conv", "linear"}
        feeds = dict(zip(model.inputs, [x.numpy()], strict=True))
        for row in compare(model, feeds, values, isolate=True).rows:
            # Behind a layer in float32, one rounding of its sum may move a quantize over a tie.
            assert not row.exceeds(row.op == "quantize", 1e-5), row
            assert row.unit == "ratio" or row.differing <= row.compared // 1000, row
        with pytest.raises(ModelError, match="work on float32"), engine(kernels):
            converted(quantized, x, numerics="integer", require_integer=True)


# --- models of tutorials ------------------------------------------------------------------------------


def test_pointwise_convolution_and_linear_under_qnnpack() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
            self.conv, self.fc, self.relu = (
                nn.Conv2d(1, 1, 1),
                nn.Linear(2, 2, bias=False),
                nn.ReLU(),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.dequant(self.relu(self.fc(self.conv(self.quant(x)))))

    x = torch.tensor([[[[-1, -2, -3], [1, 2, 3]]], [[[-5.5, 2, 0.1], [0.25, 1, 7]]]])[..., :2]
    for fuse in ((), [["fc", "relu"]]):
        quantized = eager(Small(), "qnnpack", [x], fuse=fuse)
        with engine("qnnpack"):
            assert_same(quantized, x)


@pytest.mark.parametrize("mode", ["eager", "fx"])
def test_two_convolutions_under_fbgemm(mode: str) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 64, 3), nn.ReLU(), nn.Conv2d(64, 128, 3), nn.ReLU())

    x = images(5, 2, 12, 12)
    if mode == "eager":
        stubs = nn.Sequential(tq.QuantStub(), *build(), tq.DeQuantStub())
        quantized = eager(stubs, "fbgemm", [x], fuse=[["1", "2"], ["3", "4"]])
    else:
        quantized = fx(build(), "fbgemm", [x])
    with engine("fbgemm"):
        assert_same(quantized, x)


class Decoder(nn.Module):
    """A large linear layer whose result is viewed as ten images for each sample."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.fc1 = nn.Linear(3 * side * side, 10 * 10 * side * side)
        self.conv, self.bn, self.relu = nn.Conv2d(10, 1, 3, 1, 1), nn.BatchNorm2d(1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x).view(-1, 10, self.side, self.side)
        return self.relu(self.bn(self.conv(x)))


@pytest.mark.parametrize("side", [8, pytest.param(32, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "way", ["x86", "qnnpack", "dynamic", "fx", "fx_qnnpack", "qat", "pt2e_x86", "pt2e_xnnpack"]
)
def test_large_linear_and_convolution(way: str, side: int) -> None:
    """With side 32 the linear layer has 102,400 outputs and 300 million weights."""
    if side == 32 and way.startswith(("qat", "pt2e")):
        pytest.skip(
            "gradients and exported copies of 1.3 GB of weights; side 8 is the same program"
        )
    x = images(2, 3 * side * side)
    kernels = "qnnpack" if "qnnpack" in way else "x86"
    fused = [["inner.conv", "inner.bn", "inner.relu"]]
    with engine(kernels), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = Decoder(side).eval()
        if way.startswith("pt2e"):
            pytest.importorskip("torchao")
            import torch_pt2e

            # x86 leaves the convolution's result in float32.
            int8 = way == "pt2e_xnnpack"
            quantizer = torch_pt2e.xnnpack(is_per_channel=True) if int8 else torch_pt2e.x86()
            exported = torch_pt2e.quantized(module, [x], quantizer, free=False)
            model, counts = torch_pt2e.compared_codes(exported, x)
            assert counts.compared["quantize"] == x.numel()
            assert counts.compared.get("conv", 0) == 20 * side * side * int8
            (actual,), (expected,) = run(model, x), outputs(exported, x)
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
            assert model.types[model.outputs[0]].shape == (20, 1, side, side)
            return
        if way == "dynamic":
            quantized = tq.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
            model = converted(quantized, x)
            (actual,), (expected,) = run(model, x), outputs(quantized, x)
            # The convolution is in float32: its sums are in another order.
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
        else:
            if way.startswith("fx"):
                quantized = fx(module, kernels, [x])
            elif way == "qat":
                inner = tq.fuse_modules_qat(Stubs(module.train()), fused)
                inner.qconfig = tq.get_default_qat_qconfig(kernels)
                prepared = tq.prepare_qat(inner)
                for _ in range(2):
                    prepared(x).square().mean().backward()
                quantized = tq.convert(prepared.eval())
            else:
                quantized = eager(Stubs(module), kernels, [x], fuse=fused)
            model = assert_same(quantized, x)
    assert model.types[model.outputs[0]].shape == (20, 1, side, side)
    (note,) = (note for note in model.origin.notes if "batch" in note)
    assert note.startswith("the batch is fixed at 2: ")
    assert f"[N*10, 10, {side}, {side}], which merges the batch" in note


# --- ways to keep a model -----------------------------------------------------------------------------


def calibrated(kernels: str) -> tuple[nn.Module, torch.Tensor]:
    x = images(3, 3, 8, 8)
    groups = [["inner.conv", "inner.bn", "inner.relu"]]
    return eager(Stubs(with_statistics(Trainable())), kernels, [x], fuse=groups), x


def same_models(a: nprt.Model, b: nprt.Model, *inputs: torch.Tensor) -> None:
    assert [op.fields() for op in a.ops] == [op.fields() for op in b.ops]
    assert [op.name for op in a.ops] == [op.name for op in b.ops]
    for p, q in zip(run(a, *inputs), run(b, *inputs), strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("way", ["trace", "script"])
@pytest.mark.parametrize("kernels", ENGINES)
def test_torchscript(kernels: str, way: str, tmp_path: Path) -> None:
    module, x = calibrated(kernels)
    with engine(kernels), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(module, x) if way == "trace" else torch.jit.script(module)
        scripted.save(str(tmp_path / "model.pt"))
        loaded = torch.jit.load(str(tmp_path / "model.pt"))
        model = assert_same(loaded, x)
        same_models(model, converted(module, x), x)


@pytest.mark.parametrize("kernels", ENGINES)
def test_a_state_dict_into_a_fresh_module(kernels: str) -> None:
    module, x = calibrated(kernels)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    fresh = eager(
        Stubs(Trainable().eval()), kernels, [x / 2], fuse=[["inner.conv", "inner.bn", "inner.relu"]]
    )
    with engine(kernels):
        before = run(converted(fresh, x), x)[0]
        fresh.load_state_dict(torch.load(file, weights_only=False))
        model = assert_same(fresh, x)
        same_models(model, converted(module, x), x)
    assert not np.array_equal(before, run(model, x)[0])


ALONE = """
import sys
sys.modules["torch"] = None
sys.modules["onnx"] = None
import numpy as np
import nprt
model = nprt.load(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], nprt.Session(model).run(None, {model.inputs[0]: x})[0])
assert sys.modules["torch"] is None
"""


@pytest.mark.parametrize("kernels", ENGINES)
def test_a_saved_model_runs_without_torch(kernels: str, tmp_path: Path) -> None:
    module, x = calibrated(kernels)
    paths = [str(tmp_path / name) for name in ("model.nprt", "x.npy", "y.npy")]
    with engine(kernels):
        converted(module, x).save(paths[0])
        (expected,) = outputs(module, x)
    np.save(paths[1], x.numpy())
    subprocess.run([sys.executable, "-c", ALONE, *paths], check=True)
    np.testing.assert_array_equal(np.load(paths[2]), expected)
