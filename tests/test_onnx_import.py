"""Reading ONNX: what is refused and how, shapes that fold, and operators that the exporters' tests do not cover."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the models are made with the onnx package")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="the results are compared with onnxruntime's"
)

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from nprt import Session  # noqa: E402
from nprt.converters import from_onnx  # noqa: E402
from nprt.converters.from_onnx import import_graph  # noqa: E402
from nprt.converters.pipeline import float_model  # noqa: E402
from nprt.errors import ModelError, ModelFormatError, UnsupportedOpError  # noqa: E402

RNG = np.random.default_rng(0)


def model(nodes, inputs, outputs=("y",), constants=None, opset=17, dtype=TensorProto.FLOAT):
    """A ModelProto; `inputs` maps names to shapes, `constants` names to arrays."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def node(op_type, inputs, output="y", **attributes):
    return helper.make_node(
        op_type, inputs.split(), [output], name=f"/{output}/{op_type}", **attributes
    )


def weights(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def imported(proto, shapes=None):
    return float_model(import_graph(proto, "test", shapes or {})[0])


def assert_like_onnxruntime(proto, *batches, **feeds):
    """Both give the same float32 numbers."""
    reference = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    session = Session(imported(proto), backend="numpy")
    for actual, expected in zip(session.run(None, feeds), reference.run(None, feeds), strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


# --- what is refused ----------------------------------------------------------------------------------


def test_all_unsupported_nodes_are_reported_at_once():
    proto = model(
        [
            node("Conv", "x w", "a"),
            node("Det", "a", "b"),
            node("Relu", "b", "never_reported"),
            node("LRN", "a", "c", size=3),
            node("GridSample", "a grid", "d"),
            node("Add", "c d", "y"),
        ],
        {"x": ("N", 3, 8, 8), "grid": ("N", 4, 4, 2)},
        constants={"w": weights(4, 3, 1, 1)},
    )
    with pytest.raises(UnsupportedOpError) as caught:
        from_onnx(proto)
    problems = caught.value.problems
    assert len(problems) == 3
    for problem, name, op_type in zip(problems, "bcd", ("Det", "LRN", "GridSample"), strict=True):
        assert f"/{name}/{op_type} ({op_type}; a: f32[N,4,8,8]" in problem
        assert "not supported" in problem
    assert "3 nodes cannot be converted" in str(caught.value)


def test_absent_names_do_not_hide_an_unsupported_node():
    nodes = [
        helper.make_node("LSTM", ["x", "w", "w"], ["", "h"], name="first"),
        helper.make_node("Det", ["x", "", "q"], ["y"], name="second"),
    ]
    constants = {"w": weights(4, 8), "q": weights(4)}
    proto = model(nodes, {"x": (1, 8)}, outputs=("h", "y"), constants=constants)
    with pytest.raises(UnsupportedOpError, match="replace it in the source model") as caught:
        from_onnx(proto)
    assert [problem.split()[0] for problem in caught.value.problems] == ["first", "second"]


def test_an_attribute_is_never_dropped():
    proto = model([node("Relu", "x", fancy=1)], {"x": (1, 4)})
    with pytest.raises(UnsupportedOpError, match=r"attributes \['fancy'\] are not supported"):
        from_onnx(proto)


def test_a_free_spatial_dimension_says_how_to_fix_it():
    nodes = [node("Conv", "x w", "a"), node("Relu", "a")]
    proto = model(nodes, {"x": ("N", 3, "height", "width")}, constants={"w": weights(4, 3, 3, 3)})
    with pytest.raises(
        UnsupportedOpError, match=r"height.*input 'x' with input_shapes \(--shape\)"
    ):
        from_onnx(proto)
    session = Session(imported(proto, {"x": ("N", 3, 8, 8)}), backend="numpy")
    assert session.outputs[0].shape == ("N", 4, 6, 6)


def test_arithmetic_on_a_free_batch_says_how_to_fix_it():
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Mul", "n two", "m"),
        node("Concat", "m rest", "t", axis=0), node("Reshape", "x t"),
    ]  # fmt: skip
    constants = {"zero": np.array([0]), "two": np.array([2]), "rest": np.array([4])}
    proto = model(nodes, {"x": ("N", 8)}, constants=constants)
    with pytest.raises(UnsupportedOpError, match=r"multiply of N and 2.*input_shapes"):
        from_onnx(proto)
    session = Session(imported(proto, {"x": (3, 8)}), backend="numpy")
    assert session(weights(3, 8)).shape == (6, 4)


def test_shapes_for_unknown_inputs_are_refused():
    proto = model([node("Relu", "x")], {"x": ("N", 4)})
    with pytest.raises(
        ModelError, match="shapes are given for \\['z'\\]; the model's inputs are \\['x'\\]"
    ):
        from_onnx(proto, input_shapes={"z": (1, 4)})


@pytest.mark.parametrize("opset", [9, 99])
def test_opsets_that_are_not_read(opset):
    proto = model([node("Relu", "x")], {"x": (1, 4)})
    proto.opset_import[0].version = opset
    with pytest.raises(ModelFormatError, match=f"opset {opset}; nprt reads 10 to"):
        from_onnx(proto)


@pytest.mark.parametrize(
    ("nodes", "shape", "message"),
    [
        (
            [node("MaxPool", "x", kernel_shape=[2, 2], storage_order=1)],
            (1, 2, 4, 4),
            "storage_order=1",
        ),
        ([node("Pad", "x pads", mode="wrap")], (1, 2), "mode 'wrap'"),
        ([node("Pad", "x pads")], (1, 2), "integers of at least 0"),
        ([node("Cast", "x", to=TensorProto.FLOAT16)], (1, 2), "float16"),
        ([node("Concat", "x x", axis=0)], ("N", 2), "N"),
        ([node("Slice", "x zero one zero")], ("N", 2), "axis 0 is the free dimension N"),
        ([node("ReduceMax", "x", axes=[5])], (1, 2), "are not distinct axes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_with_a_reason(nodes, shape, message):
    constants = {"pads": np.array([0, 0, 0, -1]), "zero": np.array([0]), "one": np.array([1])}
    with pytest.raises(UnsupportedOpError, match=message):
        imported(model(nodes, {"x": shape}, constants=constants))


# --- against onnxruntime ------------------------------------------------------------------------------


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(("size", "stride"), [(7, 1), (8, 2), (7, 2), (11, 3)])
def test_auto_pad(auto_pad, size, stride):
    options = {"auto_pad": auto_pad, "strides": [stride, 1]}
    conv = node("Conv", "x w", "a", **options)
    pool = node("MaxPool", "a", "b", kernel_shape=[2, 3], **options)
    mean = node("AveragePool", "b", kernel_shape=[1, 2], auto_pad=auto_pad)
    proto = model(
        [conv, pool, mean], {"x": (2, 3, size, size)}, constants={"w": weights(4, 3, 3, 2)}
    )
    assert_like_onnxruntime(proto, x=weights(2, 3, size, size))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad_of_conv_transpose(auto_pad):
    conv = node("ConvTranspose", "x w", strides=[2, 3], auto_pad=auto_pad)
    proto = model([conv], {"x": (2, 3, 4, 5)}, constants={"w": weights(3, 4, 3, 3)})
    assert_like_onnxruntime(proto, x=weights(2, 3, 4, 5))


@pytest.mark.parametrize("slope", [(1,), (3, 1, 1), (4,), (1, 4, 1), (3, 4, 4)])
def test_prelu_broadcasts_its_slope(slope):
    """A slope of one axis goes along the last one, also where there are as many channels."""
    proto = model([node("PRelu", "x s")], {"x": (2, 3, 4, 4)}, constants={"s": weights(*slope)})
    assert_like_onnxruntime(proto, x=weights(2, 3, 4, 4))


@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("bias", [(4,), (1, 4), (3, 1), ()])
def test_gemm(transposed, bias):
    trans_a, trans_b = transposed
    x, w = ((6, 3) if trans_a else (3, 6)), ((4, 6) if trans_b else (6, 4))
    gemm = node("Gemm", "x w b", alpha=0.7, beta=1.5, transA=trans_a, transB=trans_b)
    proto = model([gemm], {"x": x}, constants={"w": weights(*w), "b": weights(*bias)})
    assert_like_onnxruntime(proto, x=weights(*x))


@pytest.mark.parametrize(
    "shapes",
    [((5,), (5, 3)), ((2, 5), (5,)), ((5,), (5,)), ((4, 2, 5), (4, 5, 3)), ((2, 5), (4, 5, 3))],
)
def test_matmul_with_vectors_and_batches(shapes):
    x, w = shapes
    proto = model([node("MatMul", "x w")], {"x": x}, constants={"w": weights(*w)})
    assert_like_onnxruntime(proto, x=weights(*x))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_changed_its_meaning_in_opset_13(axis, opset):
    proto = model([node("Softmax", "x", axis=axis)], {"x": (2, 3, 4)}, opset=opset)
    assert_like_onnxruntime(proto, x=weights(2, 3, 4))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("opset", [11, 13])
def test_log_softmax_of_large_logits_is_finite(axis, opset):
    proto = model([node("LogSoftmax", "x", axis=axis)], {"x": (2, 3, 4)}, opset=opset)
    assert_like_onnxruntime(proto, x=400 * weights(2, 3, 4))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resized_dimensions_are_rounded_to_float32(mode):
    """10 times 0.7 is 7 in float32, and less with the same factor in float64."""
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode)]
    proto = model(nodes, {"x": (1, 2, 10, 10)}, constants={"scales": np.float32([1, 1, 0.7, 0.7])})
    assert imported(proto).types["y"].shape == (1, 2, 7, 7)
    assert_like_onnxruntime(proto, x=weights(1, 2, 10, 10))


def test_integers_are_divided_towards_zero():
    proto = model(
        [node("Div", "x d")], {"x": (6,)}, constants={"d": np.array(4)}, dtype=TensorProto.INT64
    )
    assert_like_onnxruntime(proto, x=np.array([-9, -8, -1, 1, 8, 9]))


def test_an_embedding_is_gathered_by_an_input():
    nodes = [node("Gather", "table x", "a"), node("MatMul", "a w")]
    constants = {"table": weights(10, 8), "w": weights(8, 3)}
    proto = model(nodes, {"x": ("N", 5)}, constants=constants, dtype=TensorProto.INT64)
    assert_like_onnxruntime(proto, x=RNG.integers(0, 10, (2, 5)))


def test_outputs_that_are_inputs_constants_or_repeated():
    nodes = [
        node("Relu", "x", "y"),
        node("Identity", "x", "same"),
        node("Identity", "y", "again"),
        node("Shape", "x", "shape"),
    ]
    outputs = ("y", "same", "again", "shape", "c")
    proto = model(nodes, {"x": (2, 3)}, outputs, constants={"c": weights(2)})
    assert_like_onnxruntime(proto, x=weights(2, 3))


# --- shape arithmetic ---------------------------------------------------------------------------------


def run_with_free_batch(nodes, constants, shape=("N", 4, 6)):
    proto = model(nodes, {"x": shape}, constants=constants)
    for batch in (1, 5):
        assert_like_onnxruntime(proto, x=weights(batch, *shape[1:]))
    return imported(proto)


def test_a_chain_of_shape_arithmetic_leaves_one_reshape():
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s zero", "n0"), node("Unsqueeze", "n0 axis", "n"),
        node("Slice", "s one far axis", "tail"), node("ReduceProd", "tail", "count", keepdims=1),
        node("Cast", "count", "as_float", to=TensorProto.FLOAT), node("Floor", "as_float", "floor"),
        node("Cast", "floor", "back", to=TensorProto.INT64), node("Div", "back two", "half"),
        node("Concat", "n two half", "target", axis=0), node("Reshape", "x target"),
    ]  # fmt: skip
    constants = {
        "zero": np.array(0),
        "axis": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "far": np.array([9]),
    }
    made = run_with_free_batch(nodes, constants)
    assert [op.name for op in made.ops] == ["reshape"]
    assert made.types["y"].shape == ("N", 2, 12)


def test_the_expand_that_torch_writes():
    """Where(Equal(shape, -1), ones, shape): -1 keeps a dimension; a symbol is never -1."""
    one = numpy_helper.from_array(np.array([1]))
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Concat", "n minus rest", "wanted", axis=0),
        node("Shape", "wanted", "r"), node("ConstantOfShape", "r", "ones", value=one),
        node("Equal", "wanted minus", "test"), node("Where", "test ones wanted", "target"),
        node("Expand", "token target", "tokens"), node("Concat", "tokens x", axis=1),
    ]  # fmt: skip
    constants = {
        "zero": np.array([0]),
        "minus": np.array([-1]),
        "rest": np.array([6]),
        "token": weights(1, 1, 6),
    }
    run_with_free_batch(nodes, constants)


def test_zeros_along_the_free_batch():
    nodes = [
        node("Shape", "x", "s"),
        node("ConstantOfShape", "s", "zeros"),
        node("Concat", "x zeros", axis=2),
    ]
    run_with_free_batch(nodes, {})


def test_batch_and_heads_merged_and_parted_again():
    nodes = [
        node("Reshape", "x merge", "a"), node("Transpose", "a", "b", perm=[0, 2, 1]),
        node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Concat", "n rest", "part", axis=0),
        node("Reshape", "b part"),
    ]  # fmt: skip
    constants = {"merge": np.array([-1, 6, 5]), "zero": np.array([0]), "rest": np.array([4, 5, 6])}
    run_with_free_batch(nodes, constants, ("N", 4, 6, 5))


def test_a_merged_batch_that_is_used_otherwise_is_refused():
    nodes = [node("Reshape", "x merge", "a"), node("Relu", "a")]
    proto = model(nodes, {"x": ("N", 4, 6)}, constants={"merge": np.array([-1, 6])})
    with pytest.raises(UnsupportedOpError, match=r"N merged into another dimension.*input_shapes"):
        imported(proto)


def test_a_linear_layer_on_a_merged_batch():
    nodes = [node("Reshape", "x merge", "a"), node("Gemm", "a w b", "g"), node("Reshape", "g part")]
    constants = {
        "merge": np.array([-1, 6]),
        "part": np.array([-1, 4, 3]),
        "w": weights(6, 3),
        "b": weights(3),
    }
    run_with_free_batch(nodes, constants)
