"""Models as torch's exporters write them: float as in onnxruntime; static int8 near it, integer-only; dynamic int8."""

from __future__ import annotations

import io
import logging
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the models come from torch's exporters")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="the results are compared with onnxruntime's"
)

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from nprt import Session  # noqa: E402
from nprt.converters import from_onnx  # noqa: E402
from nprt.converters.from_onnx import import_graph, read_proto  # noqa: E402
from nprt.converters.pipeline import float_model  # noqa: E402
from nprt.errors import CalibrationError  # noqa: E402
from nprt.info import float_ops  # noqa: E402
from nprt.ops.dynamic_linear import DynamicLinear  # noqa: E402

# torch.onnx writes graphs of two kinds: by tracing (to opset 17 or so), and from torch.export (from opset 18 on).
TRACED, EXPORTED = (11, 13, 17), (18,)

# torch.export takes its time, so of the modules with nothing new to it only the traced form is tested.
ALSO_EXPORTED = {
    "addmm", "average_pool_ceil", "batch_norm_after_conv", "batched_matmul", "channel_shuffle", "conv1d", "conv2d_same",
    "conv_transpose2d", "expand_and_repeat", "group_norm", "index_select", "interpolate_bilinear",
    "interpolate_like_another", "layer_norm", "pad_reflect", "reshape_view_flatten", "slices", "split_and_chunk",
    "squeeze_excite", "sum_and_greatest", "transformer_encoder_block", "vision_transformer_stem",
}  # fmt: skip

MODULES = {}


def module(*shape, integer=True, snr=20.0, dynamic=None, opsets=None, free=True):
    """Register a module for the tests.

    Args:
        shape: of its input, batch first.
        integer: whether its static int8 form has no float op between the edges.
        snr: the least signal-to-noise ratio of its static int8 form, in dB.
        dynamic: whether it has linear layers to quantize dynamically; None for whether nn.Linear is in it.
        opsets: with which it is exported; None for the usual ones.
        free: whether the batch is a free dimension.
    """

    def register(factory):
        usual = (*TRACED, *EXPORTED) if factory.__name__ in ALSO_EXPORTED else TRACED
        options = dict(integer=integer, snr=snr, dynamic=dynamic, opsets=opsets or usual, free=free)
        MODULES[factory.__name__] = (factory, shape, options)
        return factory

    return register


class Fn(nn.Module):
    """A function, and the layers that it uses, as a module."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def fn(function, **layers):
    return Fn(function, **layers)


def conv(i=3, o=8, k=3, **kw):
    return nn.Conv2d(i, o, k, **kw)


def norm(channels, cls=nn.BatchNorm2d):
    """A batch norm with statistics that do something."""
    layer = cls(channels)
    for value, low, high in (
        (layer.running_mean, -0.5, 0.5),
        (layer.running_var, 0.3, 2),
        (layer.weight, 0.5, 1.5),
        (layer.bias, -1, 1),
    ):
        value.data.uniform_(low, high)
    return layer


# --- layers -------------------------------------------------------------------------------------------


@module(2, 3, 8, 8)
def conv2d():
    return conv(stride=2, padding=1)


@module(2, 3, 9, 7)
def conv2d_dilated():
    return conv(dilation=2, padding=(2, 1))


@module(2, 3, 8, 8)
def conv2d_asymmetric_padding():
    return nn.Sequential(nn.ZeroPad2d((1, 0, 2, 1)), conv(), nn.ReLU())


@module(2, 4, 8, 8)
def conv2d_same():
    return nn.Conv2d(4, 6, (3, 4), padding="same")


@module(2, 4, 8, 8)
def conv2d_groups():
    return nn.Conv2d(4, 8, 3, groups=2, bias=False)


@module(2, 4, 8, 8)
def conv2d_depthwise_separable():
    return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.ReLU6(), nn.Conv2d(8, 6, 1))


@module(2, 4, 20)
def conv1d():
    return nn.Sequential(
        nn.Conv1d(4, 8, 5, stride=2, padding=2, dilation=2), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=8)
    )


@module(1, 2, 5, 6, 4)
def conv3d():
    return nn.Conv3d(2, 4, 3, padding=1)


@module(2, 4, 5, 5)
def conv_transpose2d():
    return nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1)


@module(2, 4, 5, 5)
def conv_transpose2d_groups():
    return nn.Sequential(
        nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2), nn.ReLU()
    )


@module(2, 4, 9)
def conv_transpose1d():
    return nn.ConvTranspose1d(4, 3, 4, stride=2, padding=1)


@module(4, 16, opsets=(11, 13, 17, 18, 21))
def linear():
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4, bias=False))


@module(2, 5, 16)
def linear_on_three_axes():
    return nn.Linear(16, 8)


@module(2, 5, 16, dynamic=True)
def matmul_with_a_constant():
    layer = nn.Module()
    layer.w = nn.Parameter(torch.randn(16, 8))
    return fn(lambda s, x: torch.matmul(x, s.inner.w), inner=layer)


@module(2, 4, 5, 6)
def matmul_of_activations():
    return fn(lambda s, x: x @ x.transpose(-1, -2))


@module(2, 5, 6)
def batched_matmul():
    return fn(lambda s, x: torch.bmm(x.transpose(1, 2), x) * 0.5)


@module(3, 6, dynamic=True)
def addmm():
    layer = nn.Module()
    layer.w, layer.b = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4))
    return fn(lambda s, x: torch.addmm(s.inner.b, x, s.inner.w, beta=0.5, alpha=2.0), inner=layer)


# --- batch norm ---------------------------------------------------------------------------------------


@module(2, 3, 8, 8)
def batch_norm_after_conv():
    return nn.Sequential(conv(bias=False), norm(8), nn.ReLU())


@module(2, 4, 5, 5)
def batch_norm_after_conv_transpose():
    return nn.Sequential(nn.ConvTranspose2d(4, 6, 3), norm(6))


@module(4, 12)
def batch_norm_after_linear():
    return nn.Sequential(nn.Linear(12, 8), norm(8, nn.BatchNorm1d), nn.ReLU(), nn.Linear(8, 3))


@module(2, 3, 8, 8)
def batch_norm_before_conv():
    return nn.Sequential(norm(3), nn.ReLU(), conv())


@module(2, 3, 8, 8)
def batch_norm_of_a_shared_conv():
    return fn(lambda s, x: (lambda y: s.norm(y) + y)(s.conv(x)), conv=conv(), norm=norm(8))


# --- arithmetic ---------------------------------------------------------------------------------------


@module(2, 3, 6, 6)
def add_sub_with_broadcasting():
    return fn(
        lambda s, x: (s.a(x) + s.b(x).mean((2, 3), keepdim=True)) - s.a(x)[:, :1],
        a=conv(),
        b=conv(),
    )


@module(2, 3, 6, 6)
def mul_div_with_broadcasting():
    return fn(
        lambda s, x: (
            s.a(x) * torch.sigmoid(s.b(x)) / (1 + torch.sigmoid(x.mean((1, 2, 3), keepdim=True)))
        ),
        a=conv(),
        b=conv(),
    )


@module(2, 3, 6, 6)
def arithmetic_with_numbers():
    return fn(lambda s, x: 1.0 - (s.a(x) * 2 + 0.5) / 3, a=conv())


@module(2, 3, 6, 6)
def arithmetic_with_constants():
    layer = nn.Module()
    layer.c = nn.Parameter(torch.rand(1, 3, 1, 1) + 0.5)
    return fn(lambda s, x: (x - s.inner.c) / s.inner.c, inner=layer)


# --- activations --------------------------------------------------------------------------------------

ACTIVATIONS = {
    "relu": nn.ReLU(), "relu6": nn.ReLU6(), "clip": nn.Hardtanh(-0.7, 1.3), "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh(),
    "hardsigmoid": nn.Hardsigmoid(), "hardswish": nn.Hardswish(), "silu": nn.SiLU(), "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"), "elu": nn.ELU(), "leaky_relu": nn.LeakyReLU(0.1), "prelu": nn.PReLU(),
    "selu": nn.SELU(), "celu": nn.CELU(0.5), "mish": nn.Mish(), "softplus": nn.Softplus(), "softsign": nn.Softsign(),
    "logsigmoid": nn.LogSigmoid(), "tanhshrink": nn.Tanhshrink(),
}  # fmt: skip

UNARY = {
    "exp": torch.exp, "log": lambda x: torch.log(torch.sigmoid(x) + 0.1), "sqrt": lambda x: torch.sqrt(torch.relu(x)),
    "reciprocal": lambda x: torch.reciprocal(torch.sigmoid(x) + 0.2), "abs": torch.abs, "neg": torch.neg,
    "square": lambda x: x**2, "cube": lambda x: x**3, "rsqrt": lambda x: torch.rsqrt(torch.sigmoid(x) + 0.1),
    "clamp_min": lambda x: torch.clamp(x, min=0.2), "clamp_max": lambda x: torch.clamp(x, max=0.3), "erf": torch.erf,
    "minimum": lambda x: torch.clamp(x, -0.1, 0.4) * 2,
}  # fmt: skip


def activation(name):
    act = ACTIVATIONS.get(name) or Fn(lambda s, x: UNARY[name](x))
    return lambda: nn.Sequential(conv(), act)


for _name in (*ACTIVATIONS, *UNARY):
    _factory = activation(_name)
    _factory.__name__ = f"activation_{_name}"
    module(2, 3, 6, 6, opsets=(13, 17) if _name == "celu" else None)(_factory)


@module(2, 3, 6, 6, opsets=EXPORTED)
def activations():
    """All in one graph: an export takes its time."""

    def forward(s, x):
        y = s.conv(x)
        return torch.cat(
            [*(act(y) for act in s.acts), *(function(y) for function in UNARY.values())], 1
        )

    acts = [layer for name, layer in ACTIVATIONS.items() if name != "softplus"]
    return fn(forward, conv=conv(), acts=nn.ModuleList(acts))


@module(2, 3, 6, 6, integer=False, opsets=EXPORTED)
def softplus_with_its_threshold():
    """torch.export writes where(x > 20, x, softplus(x))."""
    return nn.Sequential(conv(), nn.Softplus())


@module(2, 3, 6, 6, integer=False)
def prelu_with_a_slope_for_each_channel():
    layer = nn.PReLU(8)
    layer.weight.data.uniform_(-0.5, 0.5)
    return nn.Sequential(conv(), layer)


@module(2, 3, 6, 6)
def activation_read_twice():
    return fn(lambda s, x: (lambda y: s.b(F.silu(y)) + s.b(y))(s.a(x)), a=conv(3, 4), b=conv(4, 4))


# --- pooling ------------------------------------------------------------------------------------------


@module(2, 3, 9, 9)
def max_pool_ceil():
    return nn.Sequential(conv(padding=1), nn.MaxPool2d(3, 2, ceil_mode=True))


@module(2, 3, 9, 9)
def max_pool_dilated():
    return nn.Sequential(conv(padding=1), nn.MaxPool2d(3, 2, padding=1, dilation=2))


@module(2, 3, 10)
def max_pool1d():
    return nn.Sequential(nn.Conv1d(3, 4, 3), nn.MaxPool1d(2))


@module(2, 3, 9, 9)
def average_pool():
    return nn.Sequential(conv(padding=1), nn.AvgPool2d(2))


@module(2, 3, 9, 9)
def average_pool_without_padding_in_the_count():
    return nn.Sequential(conv(), nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), nn.ReLU())


@module(2, 3, 9, 9)
def average_pool_with_padding_in_the_count():
    return nn.Sequential(conv(), nn.AvgPool2d(3, 2, padding=1))


@module(2, 3, 10, 10)
def average_pool_ceil():
    return nn.Sequential(conv(), nn.AvgPool2d(3, 2, ceil_mode=True))


@module(2, 3, 8, 8)
def adaptive_average_pool_to_one():
    return nn.Sequential(conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@module(2, 3, 10, 10)
def adaptive_average_pool():
    return nn.Sequential(conv(), nn.AdaptiveAvgPool2d((4, 2)))


@module(2, 3, 10, 10)
def adaptive_max_pool():
    return nn.Sequential(conv(), nn.AdaptiveMaxPool2d((4, 2)))


@module(2, 3, 8, 8)
def global_max_pool():
    return nn.Sequential(conv(), nn.MaxPool2d(6))


@module(2, 3, 8, 8)
def mean_of_axes():
    return nn.Sequential(conv(), Fn(lambda s, x: x.mean((2, 3))), nn.Linear(8, 4))


@module(2, 3, 8, 8)
def mean_of_one_axis():
    return nn.Sequential(conv(), Fn(lambda s, x: x.mean(1, keepdim=True)))


@module(2, 3, 8, 8)
def sum_and_greatest():
    return nn.Sequential(conv(), Fn(lambda s, x: torch.cat([x.sum(1), x.amax(1), x.amin(3)], 1)))


# --- movement -----------------------------------------------------------------------------------------


@module(2, 3, 8, 8)
def cat():
    return fn(
        lambda s, x: s.c(torch.cat([s.a(x), torch.relu(s.b(x)), x[:, :, 1:-1, 1:-1]], 1)),
        a=conv(),
        b=conv(),
        c=nn.Conv2d(19, 4, 1),
    )


@module(2, 3, 8, 8)
def split_and_chunk():
    def forward(s, x):
        a, b = s.a(x).chunk(2, 1)
        c, d, e = torch.split(x, [1, 1, 1], 1)
        return torch.cat([a * torch.sigmoid(b), (c + d - e)[:, :, :6, :6]], 1)

    return fn(forward, a=conv())


@module(2, 3, 8, 8)
def slices():
    return fn(lambda s, x: s.a(x)[:, 1:7:2, 1:, :-1].narrow(3, 1, 3), a=conv())


@module(2, 3, 8, 8)
def flips():
    return fn(lambda s, x: torch.flip(s.a(x), [2]), a=conv())


@module(2, 3, 8, 8)
def select_and_stack():
    return fn(lambda s, x: (lambda y: torch.stack([y[:, 0], y[:, 3]], 1))(s.a(x)), a=conv())


@module(2, 3, 8, 8)
def index_select():
    return fn(lambda s, x: torch.index_select(s.a(x), 1, torch.tensor([3, 0, 5])), a=conv())


def padding(**options):
    return lambda: fn(lambda s, x: F.pad(s.a(x), (1, 2, 0, 1), **options), a=conv())


for _name, _options in {
    "zeros": {},
    "number": {"value": 0.5},
    "reflect": {"mode": "reflect"},
    "edge": {"mode": "replicate"},
}.items():
    _factory = padding(**_options)
    _factory.__name__ = f"pad_{_name}"
    module(2, 3, 8, 8, integer=_name != "number")(_factory)


@module(2, 3, 8, 8)
def reshape_view_flatten():
    def forward(s, x):
        y = s.a(x)
        y = y.view(y.size(0), 4, 2, -1).permute(0, 2, 1, 3).reshape(y.size(0), 8, 6, 6)
        return s.b(torch.flatten(y, 1)).unsqueeze(1).squeeze(1)

    return fn(forward, a=conv(), b=nn.Linear(288, 5))


@module(2, 12, opsets=(13, 17))
def unflatten_to_an_image():
    return nn.Sequential(
        nn.Linear(12, 48), nn.Unflatten(1, (3, 4, 4)), nn.ReLU(), nn.Conv2d(3, 2, 3)
    )


@module(2, 8, 4, 4)
def channel_shuffle():
    def forward(s, x):
        n, c, h, w = x.shape
        return s.b(s.a(x).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))

    return fn(forward, a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 4, 3, groups=2))


@module(2, 8, 4, 4)
def pixel_shuffle():
    return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.PixelShuffle(2), nn.ReLU())


@module(2, 3, 8, 8)
def pixel_unshuffle():
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 1))


@module(2, 3, 4, 4)
def expand_and_repeat():
    return fn(
        lambda s, x: (
            s.a(x).mean((2, 3), keepdim=True).expand(-1, -1, 4, 4) + s.a(x).repeat(1, 1, 2, 2)
        ),
        a=conv(),
    )


@module(2, 3, 5, 6)
def interpolate_nearest():
    return nn.Sequential(conv(padding=1), nn.Upsample(scale_factor=2), nn.ReLU(), conv(8, 4))


@module(2, 3, 5, 6)
def interpolate_bilinear():
    return nn.Sequential(conv(padding=1), nn.Upsample(scale_factor=2, mode="bilinear"), conv(8, 4))


@module(2, 3, 5, 6)
def interpolate_to_a_size():
    return nn.Sequential(conv(padding=1), nn.Upsample((7, 9), mode="bilinear", align_corners=True))


@module(2, 3, 5, 6)
def interpolate_like_another():
    return fn(
        lambda s, x: F.interpolate(s.a(x), size=x.shape[2:], mode="nearest") + s.b(x),
        a=conv(stride=2),
        b=conv(padding=1),
    )


# --- softmax and normalization ------------------------------------------------------------------------


@module(4, 10)
def softmax():
    return nn.Sequential(nn.Linear(10, 6), nn.Softmax(-1))


@module(2, 3, 6, 6)
def softmax_of_channels():
    return nn.Sequential(conv(), nn.Softmax(1))


@module(4, 10, integer=False)
def log_softmax():
    return nn.Sequential(nn.Linear(10, 6), nn.LogSoftmax(-1))


@module(2, 5, 16)
def layer_norm():
    return nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 8))


@module(2, 4, 6, 6)
def group_norm():
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.ReLU())


@module(2, 4, 6, 6)
def instance_norm():
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.ReLU())


@module(2, 5, 16, opsets=(17,))
def normalize():
    return nn.Sequential(nn.Linear(16, 16), Fn(lambda s, x: F.normalize(x, dim=-1)))


# --- blocks -------------------------------------------------------------------------------------------


@module(2, 3, 8, 8)
def squeeze_excite():
    def forward(s, x):
        y = s.conv(x)
        return y * torch.sigmoid(s.up(F.relu(s.down(F.adaptive_avg_pool2d(y, 1)))))

    return fn(forward, conv=conv(), down=nn.Conv2d(8, 2, 1), up=nn.Conv2d(2, 8, 1))


@module(2, 3, 8, 8)
def squeeze_excite_with_linear():
    def forward(s, x):
        y = F.hardswish(s.conv(x))
        z = F.hardsigmoid(s.up(F.relu(s.down(y.mean((2, 3))))))
        return y * z.view(z.size(0), 8, 1, 1)

    return fn(forward, conv=conv(), down=nn.Linear(8, 4), up=nn.Linear(4, 8))


@module(2, 8, 8, 8)
def residual_block():
    def forward(s, x):
        return F.relu(x + s.body(x))

    return fn(
        forward,
        body=nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1),
            norm(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            norm(8),
        ),
    )


@module(2, 3, 8, 8)
def u_net():
    def forward(s, x):
        a = F.relu(s.a(x))
        b = F.relu(s.b(F.max_pool2d(a, 2)))
        return s.c(torch.cat([a, F.interpolate(b, scale_factor=2)], 1))

    return fn(forward, a=conv(padding=1), b=nn.Conv2d(8, 8, 3, padding=1), c=nn.Conv2d(16, 2, 1))


class Attention(nn.Module):
    """Multi-head self-attention written out, as transformer libraries do."""

    def __init__(self, width=16, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, length, width = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5, -1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, length, width))


@module(2, 6, 16, opsets=(11, 13, 17, 18, 21))
def attention():
    return Attention()


@module(2, 6, 16)
def transformer_encoder_block():
    def forward(s, x):
        x = x + s.attention(s.norm1(x))
        return x + s.mlp(s.norm2(x))

    mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    return fn(
        forward, attention=Attention(), norm1=nn.LayerNorm(16), norm2=nn.LayerNorm(16), mlp=mlp
    )


@module(2, 6, 16, integer=False, opsets=(17, 18, 21))
def scaled_dot_product_attention():
    def forward(s, x):
        q = s.q(x).view(x.size(0), 6, 4, 4).transpose(1, 2)
        k = s.k(x).view(x.size(0), 6, 4, 4).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, k, attn_mask=torch.ones(6, 6).tril().bool())
        return y.transpose(1, 2).flatten(2)

    return fn(forward, q=nn.Linear(16, 16), k=nn.Linear(16, 16))


@module(2, 6, 16, opsets=(18,), free=False)
def torch_transformer_encoder_layer():
    """nn.MultiheadAttention merges batch and heads into one axis, so the batch must be fixed."""
    return nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)


@module(2, 3, 8, 8)
def vision_transformer_stem():
    """A class token, repeated along the free batch, and a position embedding."""
    layer = nn.Module()
    layer.token, layer.position = (
        nn.Parameter(torch.randn(1, 1, 8)),
        nn.Parameter(torch.randn(1, 17, 8)),
    )

    def forward(s, x):
        y = s.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([s.inner.token.expand(y.size(0), -1, -1), y], 1) + s.inner.position
        return s.head(s.norm(y)[:, 0])

    return fn(
        forward,
        inner=layer,
        patches=nn.Conv2d(3, 8, 2, stride=2),
        norm=nn.LayerNorm(8),
        head=nn.Linear(8, 3),
    )


# --- export and compare -------------------------------------------------------------------------------


def build(name):
    torch.manual_seed(0)
    return MODULES[name][0]().eval()


_files = {}


def exported(name, opset):
    """The ONNX file as bytes."""
    if (name, opset) not in _files:
        _, shape, options = MODULES[name]
        _files[name, opset] = export(build(name), torch.randn(shape), opset, options["free"])
    return _files[name, opset]


def export(layer, example, opset, free=True):
    file = io.BytesIO()
    names = dict(input_names=["x"], output_names=["y"], opset_version=opset)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of deprecated exporters, and of shapes that are traced
            if opset in TRACED:
                axes = {"x": {0: "N"}, "y": {0: "N"}} if free else None
                torch.onnx.export(layer, (example,), file, dynamo=False, dynamic_axes=axes, **names)
            else:
                shapes = ({0: torch.export.Dim("N")},) if free else None
                program = torch.onnx.export(
                    layer, (example,), dynamo=True, verbose=False, dynamic_shapes=shapes, **names
                )
                file.write(program.model_proto.SerializeToString())
    finally:
        logging.disable(logging.NOTSET)
    return file.getvalue()


def inputs(name, count=None, seed=1):
    _, shape, options = MODULES[name]
    batch = (count,) if count is not None and options["free"] else shape[:1]
    return np.random.default_rng(seed).normal(size=(*batch, *shape[1:])).astype(np.float32)


def run_onnxruntime(file, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def snr(actual, expected):
    """Signal-to-noise ratio in dB."""
    noise = float(np.square(actual - expected).mean())
    return np.inf if noise == 0 else 10 * np.log10(float(np.square(expected).mean()) / noise)


CASES = [(name, opset) for name, (_, _, options) in MODULES.items() for opset in options["opsets"]]
# The static and dynamic forms differ only by what the import made of the file, so two opsets are enough for them.
FORMS = [(name, opset) for name, opset in CASES if opset in (17, 18)]


@pytest.mark.parametrize(("name", "opset"), CASES)
def test_float_import_equals_onnxruntime(name, opset):
    file = exported(name, opset)
    session = Session(float_model(import_graph(*read_proto(file), {})[0]), backend="numpy")
    for batch in (1, 5):
        x = inputs(name, batch)
        expected = run_onnxruntime(file, x)
        np.testing.assert_allclose(session(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "opset"), FORMS)
def test_static_quantization(name, opset):
    file, options = exported(name, opset), MODULES[name][2]
    model = from_onnx(file, calibration=[{"x": inputs(name, 8, seed)} for seed in range(2, 6)])
    for batch in (1, 5):
        x = inputs(name, batch)
        assert snr(Session(model, backend="numpy")(x), run_onnxruntime(file, x)) > options["snr"]
    assert (not float_ops(model)) is options["integer"], str(model)


@pytest.mark.parametrize(("name", "opset"), FORMS)
def test_dynamic_quantization(name, opset):
    file = exported(name, opset)
    wanted = MODULES[name][2]["dynamic"]
    if wanted is None:
        wanted = any(isinstance(layer, nn.Linear) for layer in build(name).modules())
    if not wanted:
        with pytest.raises(CalibrationError, match="no linear layer"):
            from_onnx(file)
        return
    model = from_onnx(file)
    assert any(isinstance(op, DynamicLinear) for op in model.ops)
    x = inputs(name, 5)
    assert snr(Session(model, backend="numpy")(x), run_onnxruntime(file, x)) > 25
