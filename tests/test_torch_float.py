"""Float torch modules: read as torch computes them, quantized by nprt's observers as ONNX models are."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models are torch's")
pytest.importorskip("onnxruntime", reason="the list of modules is that of test_exporters.py")

import torch.nn.functional as F
from test_exporters import MODULES, build, exported, fn, inputs, snr
from torch import nn
from torch_runner import QUIET

from nprt import Session
from nprt.converters import from_onnx, from_torch
from nprt.converters.from_torch import import_recording
from nprt.converters.pipeline import float_model
from nprt.converters.torch_ops.batches import record_batches
from nprt.converters.torch_ops.recorder import _named_outputs, input_names
from nprt.errors import CalibrationError, UnsupportedOpError
from nprt.info import float_ops
from nprt.ops.dynamic_linear import DynamicLinear

pytestmark = [pytest.mark.filterwarnings(f) for f in (*QUIET, "ignore::UserWarning")]

# A sum of float32 in another order; functions that torch computes to an ulp or two.
CLOSE = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def imported(module, *x):
    """The float model that quantization starts from; with the batch fixed where an operator needs that."""
    recording, _ = record_batches(module, x, {}, 0)
    try:
        importer = import_recording(recording, "module", "x86", integer=True)
    except UnsupportedOpError:
        recording, _ = record_batches(module, x, {}, None)
        importer = import_recording(recording, "module", "x86", integer=True)
    return float_model(importer.graph)


def check(module, *x, free=True):
    """The float import and torch agree, on the example and, with a free batch, on another batch."""
    module = module.eval()
    model = imported(module, *x)
    batches = [x]
    if free:
        assert all("N" in model.types[name].shape for name in model.inputs), str(model)
        batches.append(tuple(torch.cat([item, item[:1]]) for item in x))
    for batch in batches:
        with torch.no_grad():
            expected = [item.numpy() for _, item in _named_outputs(module(*batch))]
        feeds = {name: item.numpy() for name, item in zip(model.inputs, batch, strict=True)}
        actual = Session(model, backend="numpy").run(None, feeds)
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert (a.dtype, a.shape) == (e.dtype, e.shape)
            np.testing.assert_allclose(a, e, **CLOSE)
    return model


# --- modules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_float_import_equals_torch(name):
    check(build(name), torch.from_numpy(inputs(name)))


def calibration(module, name):
    x = input_names(module, (torch.from_numpy(inputs(name)),), {})[0]
    return [{x: inputs(name, 8, seed)} for seed in range(2, 6)]


@pytest.mark.parametrize("name", MODULES)
def test_static_quantization(name):
    module, options = build(name), MODULES[name][2]
    model = from_torch(
        module, torch.from_numpy(inputs(name)), calibration=calibration(module, name)
    )
    x = inputs(name, 5)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert snr(Session(model, backend="numpy")(x), expected) > options["snr"]
    if options["integer"]:
        assert not float_ops(model), str(model)


@pytest.mark.parametrize("name", MODULES)
def test_dynamic_quantization(name):
    module, wanted = build(name), MODULES[name][2]["dynamic"]
    example = torch.from_numpy(inputs(name))
    if wanted is None:
        wanted = any(isinstance(layer, nn.Linear) for layer in module.modules())
    if not wanted:
        with pytest.raises(CalibrationError, match="no linear layer"):
            from_torch(module, example)
        return
    model = from_torch(module, example)
    assert any(isinstance(op, DynamicLinear) for op in model.ops)
    x = inputs(name, 5)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert snr(Session(model, backend="numpy")(x), expected) > 25


# --- beside the ONNX path -----------------------------------------------------------------------------

ALIKE = ["conv2d_depthwise_separable", "residual_block", "linear", "conv1d", "conv3d"]
NEARLY = ["batch_norm_after_conv", "u_net", "attention", "layer_norm", "interpolate_bilinear"]


def both_ways(name):
    """The models from a module and from its export, calibrated with the same data."""
    module = build(name)
    data = [{"x": inputs(name, 8, seed)} for seed in range(2, 6)]
    one = from_torch(module, torch.from_numpy(inputs(name)), calibration=calibration(module, name))
    return one, from_onnx(exported(name, 17), calibration=data)


@pytest.mark.parametrize("name", ALIKE)
def test_the_onnx_file_gives_the_same_model(name):
    """The same ops with the same fields, and the same results."""
    one, other = both_ways(name)
    assert [(op.name, op.fields()) for op in one.ops] == [
        (op.name, op.fields()) for op in other.ops
    ]
    x = inputs(name, 7)
    np.testing.assert_array_equal(Session(one)(x), Session(other)(x))


@pytest.mark.parametrize("name", NEARLY)
def test_the_onnx_file_gives_nearly_the_same_model(name):
    """Where the exporter writes a function otherwise, scales differ in the last bits, and a code here and there."""
    one, other = both_ways(name)
    x = inputs(name, 7)
    assert snr(Session(one)(x), Session(other)(x)) > 45


# --- architectures ------------------------------------------------------------------------------------


class VisionTransformer(nn.Module):
    """Patches, a class token, nn.TransformerEncoder."""

    def __init__(self, norm_first: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 17, 16))
        layer = nn.TransformerEncoderLayer(
            16, 4, 32, activation="gelu", batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x):
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1) + self.position
        return self.head(self.norm(self.encoder(y))[:, 0])


class UNet(nn.Module):
    """Down by pooling, up by transposed convolutions, joined by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.c = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        a = self.a(x)
        return self.c(torch.cat([a, self.up(self.b(F.max_pool2d(a, 2)))], 1))


class AudioNet(nn.Module):
    """One-dimensional, with the norms that audio models use."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 8, 9, stride=4, padding=4),
            nn.GroupNorm(2, 8),
            nn.GELU(),
            nn.Conv1d(8, 16, 5, stride=2, padding=2),
            nn.InstanceNorm1d(16, affine=True),
            nn.LeakyReLU(0.2),
            nn.MaxPool1d(2),
            nn.Conv1d(16, 16, 3, groups=16),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(16, 5),
        )

    def forward(self, x):
        return self.layers(x)


class Excited(nn.Module):
    """Inverted residual with squeeze and excitation, as in MobileNetV3 and EfficientNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.expand = nn.Conv2d(8, 24, 1)
        self.depthwise = nn.Conv2d(24, 24, 5, padding=2, groups=24)
        self.down, self.up = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.project = nn.Conv2d(24, 8, 1)

    def forward(self, x):
        x = F.hardswish(self.stem(x))
        y = F.silu(self.depthwise(F.silu(self.expand(x))))
        gate = self.up(F.relu(self.down(y.mean((2, 3), keepdim=True))))
        return x + self.project(y * torch.sigmoid(gate))


class ConvNext(nn.Module):
    """Depthwise, layer norm on channels last, scaled residual."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(6, 6, 7, padding=3, groups=6)
        self.norm, self.a, self.b = nn.LayerNorm(6), nn.Linear(6, 24), nn.Linear(24, 6)
        self.scale = nn.Parameter(torch.full((6,), 0.1))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.b(F.gelu(self.a(y)))).permute(0, 3, 1, 2)


ARCHITECTURES = {
    "vit": (VisionTransformer, (3, 16, 16)),
    "vit_norm_last": (lambda: VisionTransformer(norm_first=False), (3, 16, 16)),
    "u_net": (UNet, (3, 16, 16)),
    "audio": (AudioNet, (1, 256)),
    "excited": (Excited, (3, 16, 16)),
    "convnext": (ConvNext, (6, 8, 8)),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture(name):
    factory, shape = ARCHITECTURES[name]
    module, x = factory().eval(), torch.randn(4, *shape)
    check(module, x)
    names = input_names(module, (x,), {})
    model = from_torch(module, x, calibration=[{names[0]: torch.randn(8, *shape).numpy()}])
    assert model.types[model.inputs[0]].shape[0] == "N"
    with torch.no_grad():
        expected = module(x).numpy()
    assert snr(Session(model)(x.numpy()), expected) > 20


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", pytest.param("resnet50", marks=pytest.mark.slow)]
)
def test_imagenet_architecture(name):
    """Small images, to be quick; the layers are torchvision's."""
    architectures = pytest.importorskip("models.architectures", reason="run from the repository")
    module = architectures.ARCHITECTURES[name].build().eval()
    x = torch.randn(2, 3, 64, 64)
    check(module, x)
    model = from_torch(module, x, calibration=[{"x": x.numpy()}], require_integer=True)
    with torch.no_grad():
        expected = module(x).numpy()
    assert snr(Session(model)(x.numpy()), expected) > 15


def test_exported_program_with_a_free_batch():
    module, x = UNet().eval(), torch.randn(2, 3, 16, 16)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    model = imported(program.module(), x)
    assert model.types["x"].shape == ("N", 3, 16, 16)
    y = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        np.testing.assert_allclose(Session(model)(y.numpy()), module(y).numpy(), **CLOSE)


@pytest.mark.parametrize("decomposed", [False, True])
def test_exported_transformer(decomposed):
    """The exported graph merges batch and heads, so the batch is fixed."""
    module, x = VisionTransformer().eval(), torch.randn(2, 3, 16, 16)
    program = torch.export.export(module, (x,))
    if decomposed:
        program = program.run_decompositions()
    model = imported(program.module(), x)
    with torch.no_grad():
        np.testing.assert_allclose(Session(model)(x.numpy()), module(x).numpy(), **CLOSE)


def test_traced_and_symbolically_traced():
    module, x = Excited().eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = module(x).numpy()
    for form in (torch.jit.trace(module, x), torch.fx.symbolic_trace(module)):
        np.testing.assert_allclose(Session(imported(form, x))(x.numpy()), expected, **CLOSE)


# --- operators ----------------------------------------------------------------------------------------

T = torch.linspace(-2, 2, 60).reshape(2, 5, 6)[:, :, [3, 0, 5, 1, 4, 2]]
IMAGE = torch.sin(torch.arange(2 * 3 * 8 * 8.0)).reshape(2, 3, 8, 8)
POSITIVE = T.abs() + 0.1

OPERATORS = {
    "var": (lambda s, x: x.var((1, 2)), T),
    "var_biased": (lambda s, x: x.var(1, unbiased=False, keepdim=True), T),
    "std": (lambda s, x: x.std(-1), T),
    "var_mean": (lambda s, x: torch.var_mean(x, -1), T),
    "std_mean": (lambda s, x: torch.std_mean(x, -1, keepdim=True), T),
    "cumsum": (lambda s, x: x.cumsum(1), T),
    "norm": (lambda s, x: x.norm(dim=-1), T),
    "norm_1": (lambda s, x: torch.linalg.vector_norm(x, 1, dim=-1), T),
    "norm_inf": (lambda s, x: torch.linalg.vector_norm(x, math.inf, dim=-1), T),
    "max_of_axis": (lambda s, x: x.max(1), T),
    "min_of_axis": (lambda s, x: x.min(-1, keepdim=True), T),
    "argmin": (lambda s, x: x.argmin(-1), T),
    "glu": (lambda s, x: F.glu(x, -1), T),
    "exp2": (lambda s, x: torch.exp2(x), T),
    "log2_log10": (lambda s, x: torch.log2(x) + torch.log10(x), POSITIVE),
    "logit": (lambda s, x: torch.logit(torch.sigmoid(x), eps=1e-3), T),
    "logsumexp": (lambda s, x: x.logsumexp(-1), T),
    "clamp_tensors": (lambda s, x: torch.clamp(x, torch.tensor(-0.5), x * 0 + 0.5), T),
    "cosine_similarity": (lambda s, x: F.cosine_similarity(x, x + 1, dim=1), T),
    "pairwise_distance": (lambda s, x: F.pairwise_distance(x[:, 0], x[:, 1]), T),
    "addcmul": (lambda s, x: torch.addcmul(x, x, x + 1, value=0.5), T),
    "addcdiv": (lambda s, x: torch.addcdiv(x, x, x.abs() + 1), T),
    "lerp": (lambda s, x: torch.lerp(x, x * 3, 0.3) + torch.lerp(x, -x, torch.sigmoid(x)), T),
    "zeros_like": (lambda s, x: x + torch.zeros_like(x), T),
    "full_like": (lambda s, x: torch.full_like(x, 3.0) * x, T),
    "new_ones": (lambda s, x: torch.cat([x.new_ones(x.shape[0], 1, 6), x], 1), T),
    "fill": (lambda s, x: x.clone().fill_(2.0) * x, T),
    "tril_triu": (lambda s, x: x.tril() - x.triu(1), T),
    "masks": (lambda s, x: torch.where((x > 0) & (x < 1) | ~(x > -1), x, -x), T),
    "logical": (lambda s, x: torch.logical_xor(x > 0, torch.logical_or(x, x < 1)), T),
    "any_all": (lambda s, x: (x > 1).any(-1).float() + (x > -2).all(-1).float(), T),
    "isnan": (lambda s, x: torch.nan_to_num(torch.where(x > 1, x / 0 * 0, x)).isnan(), T),
    "tensor_unfold": (lambda s, x: x.unfold(1, 3, 2), T),
    "unfold": (lambda s, x: F.unfold(x, (3, 2), padding=1, stride=2, dilation=(1, 2)), IMAGE),
    "repeat_interleave": (lambda s, x: x.repeat_interleave(2, 1).tile(1, 2, 1), T),
    "rms_norm": (lambda s, x: F.rms_norm(x, (6,), torch.linspace(0.5, 1, 6), 1e-5), T),
    "local_response_norm": (lambda s, x: F.local_response_norm(x, 3), IMAGE),
    "einsum_batched": (lambda s, x: torch.einsum("nld,nmd->nlm", x, x * 2), T),
    "einsum_weights": (lambda s, x: torch.einsum("nchw,kc->nkhw", x, torch.ones(4, 3)), IMAGE),
    "einsum_heads": (lambda s, x: torch.einsum("nhwc,nhcd->nhwd", x.mT, x), IMAGE),
    "einsum_two_summed": (lambda s, x: torch.einsum("nchw,nkhw->nck", x, x + 1), IMAGE),
    "einsum_transposed": (lambda s, x: torch.einsum("ncl->nlc", x), T),
    "matrix_and_vector": (lambda s, x: x @ torch.linspace(0, 1, 6), T),
    "pad_circular": (lambda s, x: F.pad(x, (1, 2, 0, 1), mode="circular"), IMAGE),
    "pad_circular_conv": (
        lambda s, x: s.c(x),
        IMAGE,
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    ),
    "pixel_unshuffle": (lambda s, x: F.pixel_unshuffle(x, 2), IMAGE),
    "index_pairs": (lambda s, x: x[:, torch.tensor([0, -1]), torch.tensor([1, 3])], T),
    "instance_norm_tracked": (
        lambda s, x: s.c(x),
        IMAGE,
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    ),
    "rrelu": (lambda s, x: F.rrelu(x), T),
    "weight_norm": (
        lambda s, x: s.c(x),
        IMAGE,
        torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
    ),
    "attention_weights": (
        lambda s, x: s.c(x, x, x),
        T,
        nn.MultiheadAttention(6, 2, batch_first=True),
    ),
    "attention_cross": (
        lambda s, x: s.c(x, x[:, 1:, :4], x[:, 1:], need_weights=False)[0],
        T,
        nn.MultiheadAttention(6, 2, kdim=4, bias=False, batch_first=True),
    ),
    "attention_grouped": (
        lambda s, x: F.scaled_dot_product_attention(x, x[:, :1], x[:, :1], enable_gqa=True),
        IMAGE,
    ),
    "attention_causal": (
        lambda s, x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
        IMAGE,
    ),
    "transformer": (
        lambda s, x: s.c(x, x * 2),
        T,
        nn.Transformer(6, 2, 1, 1, 12, batch_first=True),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name):
    function, x, *layers = OPERATORS[name]
    check(fn(function, **dict(zip("c", layers, strict=False))), x)


def test_attention_mask_as_an_input():
    module = fn(None, c=nn.MultiheadAttention(6, 2, batch_first=True))
    module.forward = lambda x, mask: module.c(x, x, x, key_padding_mask=mask)[0]
    check(module, T, torch.tensor([[False] * 4 + [True], [False] * 5]))


def test_embedding():
    check(nn.Embedding(5, 4, padding_idx=0), torch.tensor([[1, 2], [0, 3]]))


REFUSED = {
    "scatter": lambda s, x: x.scatter(1, torch.zeros(2, 1, 6, dtype=torch.long), x),
    "index_put": lambda s, x: torch.index_put(x, (torch.tensor([0]),), torch.tensor(1.0)),
    "topk": lambda s, x: x.topk(2, -1)[0],
    "sort": lambda s, x: x.sort(-1)[0],
    "grid_sampler_2d": lambda s, x: F.grid_sample(x[None], x.new_zeros(1, 2, 2, 2)),
    "remainder": lambda s, x: x % 1.5,
    "bernoulli": lambda s, x: torch.bernoulli(torch.sigmoid(x)),
    "_fft_r2c": lambda s, x: torch.fft.rfft(x).abs(),
    "_to_copy": lambda s, x: x.half().float(),
    "linalg_vector_norm": lambda s, x: torch.linalg.vector_norm(x, 3, dim=-1),
    "max_pool2d_with_indices": lambda s, x: F.max_pool2d(x[None], 2, return_indices=True)[1],
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    with pytest.raises(UnsupportedOpError) as caught:
        from_torch(fn(REFUSED[name]), T)
    message = str(caught.value)
    assert f"aten.{name}" in message
    assert "test_torch_float.py:" in message
