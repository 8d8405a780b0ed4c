"""Whole files: what onnxruntime's default session gives for a quantized model, nprt gives bit for bit.

Where it cannot, the layers that keep it from being so are counted: they are products that onnxruntime itself computes
in float32 (see docs/decisions/0004-ort-fusion.md).
"""

import warnings

import numpy as np
import pytest
from ort_models import DYNAMIC, QDQ, QOPERATOR, SMALL, STATIC, Files, input_of, onnx
from ort_runner import ort_session

from nprt import Session
from nprt.converters import from_onnx
from nprt.info import float_ops

LARGE = ("mobilenet_v2", "resnet18")


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("quantized"))


@pytest.fixture(scope="session")
def large(files):
    """The large architectures with random weights, for images of 64x64."""
    return add_large(files, 64)


def add_large(files, size):
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    for name in LARGE:
        export(files, f"{name}-{size}", name, (3, size, size))
    return files


def export(files, as_name, architecture, shape, opset=None):
    """Write an architecture with random weights as ONNX."""
    from models.architectures import ARCHITECTURES, randomize
    from models.export import export_onnx

    module = ARCHITECTURES[architecture].build()
    randomize(module, 0, ARCHITECTURES[architecture].input_shape)
    path = files.folder / f"{as_name}.float.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_onnx(module, path, shape, opset=opset)
    files.add(as_name, onnx.load(path))


def results(files, name, recipe, *, int8=False, numerics=None, count=64):
    """(nprt's model, its outputs, onnxruntime's outputs)."""
    source = files.quantized(name, recipe)
    images = files.test_images(name, count)
    feeds = {input_of(files.source(name))[0]: images}
    expected = ort_session(source, int8=int8).run(None, feeds)
    model = from_onnx(source, numerics=numerics or ("ort-int8" if int8 else "auto"))
    return model, Session(model).run(None, feeds), expected


def assert_identical(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_array_equal(a, e)


def float_products(source, tmp_path):
    """How many products onnxruntime computes in float32, by the graph that its optimizer leaves."""
    path = tmp_path / "optimized.onnx"
    ort_session(source, optimized=path)
    kinds = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul")
    return sum(node.op_type in kinds for node in onnx.load(path).graph.node)


def nearest_products(model):
    """How many products nprt says it computes in integers although onnxruntime does not."""
    return sum(int(note.split()[0]) for note in model.origin.notes if "products" in note)


# What onnxruntime computes in float32 between dequantize and quantize, and nprt with numerics `ort` as well.
FLOAT_OPS = {
    "autoencoder": {"dequantize", "mul", "add", "unary", "quantize"},  # batch norm behind Gemm
    "resnet8": {"dequantize", "reduce_mean", "quantize"},
}


# --- the same bits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [r for r in STATIC if not r.startswith("qdq-s8")])
@pytest.mark.parametrize("name", SMALL)
def test_static(files, name, recipe):
    model, actual, expected = results(files, name, recipe)
    assert_identical(actual, expected)
    assert not model.origin.notes
    assert {op.name for op in float_ops(model)} <= FLOAT_OPS.get(name, set())


@pytest.mark.parametrize("recipe", ["qdq-s8", "qdq-s8-symmetric"])
@pytest.mark.parametrize("name", SMALL)
def test_static_int8_allowed(files, name, recipe):
    model, actual, expected = results(files, name, recipe, int8=True)
    assert_identical(actual, expected)
    assert not model.origin.notes


@pytest.mark.parametrize("recipe", DYNAMIC)
@pytest.mark.parametrize("name", SMALL)
def test_dynamic(files, name, recipe):
    """The float32 results have the same bits, too."""
    model, actual, expected = results(files, name, recipe)
    if name == "resnet8":  # ReduceMean: the order of its float32 sum depends on memory addresses
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5, atol=1e-5)
    else:
        assert_identical(actual, expected)
    if name == "mlp":
        assert {op.name for op in model.ops} == {"dynamic_linear", "reshape", "unary"}


@pytest.mark.parametrize("recipe", [*(r for r in STATIC if not r.startswith("qdq-s8")), *DYNAMIC])
@pytest.mark.parametrize("name", [f"{name}-64" for name in LARGE])
def test_large(large, name, recipe):
    model, actual, expected = results(large, name, recipe, count=8)
    assert_identical(actual, expected)
    assert recipe in DYNAMIC or not float_ops(model)


@pytest.mark.parametrize("recipe", ["qdq-s8", "qdq-s8-symmetric"])
@pytest.mark.parametrize("name", [f"{name}-64" for name in LARGE])
def test_large_int8_allowed(large, name, recipe):
    _, actual, expected = results(large, name, recipe, int8=True, count=8)
    assert_identical(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["qdq-u8", "qop-u8", "dynamic"])
@pytest.mark.parametrize("name", [f"{name}-224" for name in LARGE])
def test_full_size(files, name, recipe):
    if name not in files:
        add_large(files, 224)
    _, actual, expected = results(files, name, recipe, count=4)
    assert_identical(actual, expected)


@pytest.mark.parametrize("opset", [11, 13, 15, 19, 20])
@pytest.mark.parametrize("recipe", ["qdq-u8-tensor", "qdq-u8", "qop-u8"])
@pytest.mark.parametrize("name", ["dscnn", "resnet8"])
def test_opsets(files, name, recipe, opset):
    pytest.importorskip("torch")
    if opset < 13 and recipe == "qdq-u8":
        pytest.skip("DequantizeLinear has an axis from opset 13 on")
    versioned = f"{name}-opset{opset}"
    if versioned not in files:
        export(files, versioned, name, input_of(files.source(name))[1], opset)
    _, actual, expected = results(files, versioned, recipe)
    assert_identical(actual, expected)


@pytest.mark.parametrize("name", ["lenet", "mlp"])
def test_opset_21(files, name):
    """The exporters stop at 20; onnx itself goes on."""
    versioned = f"{name}-opset21"
    files.add(versioned, onnx.version_converter.convert_version(files.source(name), 21))
    _, actual, expected = results(files, versioned, "qdq-u8")
    assert_identical(actual, expected)


# --- int8 activations in the default session --------------------------------------------------------------

# How many layers onnxruntime computes in float32, because it made uint8 of some int8 activations and not of others.
# With "symmetric", a relu no longer ends at the least code, so it is not part of the quantize behind it.
FLOAT_PRODUCTS = {
    "qdq-s8": {"digits": 2, "resnet8": 6, "mobilenet_v2-64": 15, "resnet18-64": 11},
    "qdq-s8-symmetric": {"digits": 1, "resnet8": 5, "mobilenet_v2-64": 15, "resnet18-64": 11},
}


@pytest.mark.parametrize("recipe", ["qdq-s8", "qdq-s8-symmetric"])
@pytest.mark.parametrize("name", [*SMALL, *(f"{name}-64" for name in LARGE)])
def test_static_int8(files, name, recipe, tmp_path, request):
    if name not in SMALL:
        request.getfixturevalue("large")
    model, (actual,), (expected,) = results(files, name, recipe)
    products = float_products(files.quantized(name, recipe), tmp_path)
    assert nearest_products(model) == products == FLOAT_PRODUCTS[recipe].get(name, 0)
    if products == 0:
        assert_identical([actual], [expected])
    else:  # a code that moves in an early layer of random weights moves many in the last
        agreement = np.mean(actual.argmax(1) == expected.argmax(1))
        assert agreement >= (0.99 if name in SMALL else 0.9)


# --- integer only -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", STATIC)
@pytest.mark.parametrize("name", SMALL)
def test_integer(files, name, recipe):
    """The same file without any float: how many codes move, and that the answers stay."""
    model, (actual,), (expected,) = results(files, name, recipe, numerics="integer")
    assert float_ops(model) == []
    if name != "autoencoder":
        assert np.mean(actual.argmax(1) == expected.argmax(1)) >= 0.99


@pytest.mark.parametrize("recipe", [*QDQ, *QOPERATOR])
@pytest.mark.parametrize("name", [f"{name}-64" for name in LARGE])
def test_integer_large(large, name, recipe):
    model = from_onnx(large.quantized(name, recipe), numerics="integer")
    assert float_ops(model) == []
