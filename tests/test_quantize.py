"""Quantizing float models: what the configuration and the calibration data do to the codes, and what is refused."""

from __future__ import annotations

import functools
import tracemalloc

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the models are made with the onnx package")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from nprt import Session  # noqa: E402
from nprt.converters import LayerConfig, QuantizationConfig, from_onnx  # noqa: E402
from nprt.converters.from_onnx import import_graph  # noqa: E402
from nprt.converters.observers import OBSERVERS, MinMax, Percentile  # noqa: E402
from nprt.converters.pipeline import float_model  # noqa: E402
from nprt.errors import CalibrationError, ModelError  # noqa: E402
from nprt.info import float_ops  # noqa: E402
from nprt.ir import Tensor  # noqa: E402
from nprt.ops.quantize import to_codes  # noqa: E402

RNG = np.random.default_rng(0)


def network(nodes, constants, inputs=None, outputs=("y",)):
    """A ModelProto from lines "name: OpType in ..." with attributes."""
    made = []
    for text, attributes in nodes:
        name, _, rest = text.partition(": ")
        op_type, *operands = rest.split()
        made.append(helper.make_node(op_type, operands, [name], name=f"/{name}", **attributes))
    graph = helper.make_graph(
        made,
        "test",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (inputs or {"x": ("N", 3, 8, 8)}).items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def weights(*shape, scale=0.3):
    return (RNG.normal(size=shape) * scale).astype(np.float32)


def cnn(**changed):
    """conv-bn-relu, max pool, a branch that is concatenated, conv, mean, linear."""
    constants = {
        "w1": weights(8, 3, 3, 3), "b1": weights(8), "w2": weights(8, 8, 1, 1), "w3": weights(6, 16, 3, 3),
        "b3": weights(6),
        "gamma": weights(8) + 1, "beta": weights(8), "mean": weights(8), "var": weights(8) ** 2 + 0.5,
        "w4": weights(6, 5), "b4": weights(5),
    } | changed  # fmt: skip
    nodes = [
        ("c1: Conv x w1 b1", {}), ("n1: BatchNormalization c1 gamma beta mean var", {}), ("r1: Relu n1", {}),
        ("p1: MaxPool r1", {"kernel_shape": [2, 2], "strides": [2, 2]}), ("c2: Conv p1 w2", {}),
        ("cat: Concat p1 c2", {"axis": 1}), ("c3: Conv cat w3 b3", {}), ("r3: Relu c3", {}),
        ("g: GlobalAveragePool r3", {}), ("f: Flatten g", {}), ("y: Gemm f w4 b4", {}),
    ]  # fmt: skip
    return network(nodes, constants)


CNN = cnn()


def images(count=8, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)


def feeds(count=4):
    return [{"x": images(seed=seed)} for seed in range(2, 2 + count)]


def quantized(proto=None, calibration=None, **config):
    return from_onnx(
        CNN if proto is None else proto,
        calibration=feeds() if calibration is None else calibration,
        config=QuantizationConfig(**config),
    )


def snr(proto, model, x=None):
    x = images() if x is None else x
    exact = Session(float_model(import_graph(proto, "test", {})[0]), backend="numpy")(x)
    noise = np.square(Session(model, backend="numpy")(x) - exact).mean()
    return np.inf if noise == 0 else 10 * np.log10(np.square(exact).mean() / noise)


def op_of(model, output):
    """The op that makes a value."""
    (op,) = (op for op in model.ops if op.outputs[0] == output)
    return op


def type_of(model, output):
    return model.types[op_of(model, output).outputs[0]]


# --- configuration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_kinds_of_codes(dtype, symmetric, per_channel):
    proto = cnn()
    model = quantized(proto, dtype=dtype, symmetric=symmetric, per_channel=per_channel)
    assert snr(proto, model) > 20
    assert not float_ops(model)
    for op in model.ops:
        y = model.types[op.outputs[0]]
        if y.is_codes:
            assert y.dtype == dtype
            assert not symmetric or y.zero_point == (0 if dtype == "int8" else 128)
        if op.name in ("conv", "linear"):
            w = model.tensor(op.inputs[1])
            assert (w.type.quant.axis == 0) == per_channel
            assert set(w.type.quant.zero_point) == {0}
            assert w.data.min() >= -127


@pytest.mark.parametrize(
    "observer", [*OBSERVERS, functools.partial(Percentile, percentile=99.0), MinMax]
)
def test_every_observer_end_to_end(observer):
    proto = cnn()
    model = quantized(proto, observer=observer)
    assert snr(proto, model) > (8 if isinstance(observer, functools.partial) else 18)


def test_observers_choose_other_ranges():
    scales = {
        name: type_of(quantized(observer=name), "r3").scale
        for name in ("minmax", "entropy", "percentile")
    }
    assert len(set(map(float, scales.values()))) > 1


@pytest.mark.parametrize("pattern", ["/c3", "c3", "/c[34]"])
def test_skip_by_name_and_pattern(pattern):
    model = quantized(layers={pattern: LayerConfig(skip=True)})
    floats = [
        op.outputs[0]
        for op in model.ops
        if op.name == "conv" and model.types[op.outputs[0]].is_float
    ]
    assert floats == ["c3"]
    assert float_ops(model)


@pytest.mark.parametrize("pattern", ["/c1", "/r1", "r1", "/n1", "/p1"])
def test_dtype_by_name_of_any_fused_node(pattern):
    """conv, batch norm and relu are one op; the max pool shares its scale. Each of their names will do."""
    model = quantized(layers={pattern: LayerConfig(dtype="uint8")})
    assert type_of(model, "p1").dtype == "uint8"
    assert type_of(model, "r3").dtype == "int8"


def test_observer_by_name():
    proto = cnn()
    everywhere, here = (
        quantized(proto, observer="minmax"),
        quantized(
            proto,
            observer="minmax",
            layers={"/c3": LayerConfig(observer=functools.partial(Percentile, percentile=90.0))},
        ),
    )
    scales = [[float(type_of(m, n).scale) for n in ("c2", "r3")] for m in (everywhere, here)]
    assert scales[0][0] == scales[1][0]
    assert scales[0][1] > 1.2 * scales[1][1]


def test_the_first_pattern_that_matches_counts():
    layers = {"/c3": LayerConfig(), "/c*": LayerConfig(skip=True)}
    model = quantized(layers=layers)
    floats = [
        op.outputs[0]
        for op in model.ops
        if op.name == "conv" and model.types[op.outputs[0]].is_float
    ]
    assert floats == ["n1", "c2"]


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"'/conv9' matches no layer; there are, for example"):
        quantized(layers={"/conv9": LayerConfig(skip=True)})


def test_impossible_settings_are_errors():
    with pytest.raises(ValueError, match="int16"):
        QuantizationConfig(dtype="int16")
    with pytest.raises(ValueError, match="no observer named 'best'"):
        quantized(observer="best")


# --- what the plan does -------------------------------------------------------------------------------


def test_one_scale_where_data_only_moves():
    nodes = [
        ("a: Conv x w", {}), ("p: MaxPool a", {"kernel_shape": [2, 2]}), ("t: Transpose p", {"perm": [0, 2, 3, 1]}),
        ("r: Reshape t shape", {}), ("s: Slice r from to axis", {}), ("y: Concat s s", {"axis": 1}),
    ]  # fmt: skip
    constants = {
        "w": weights(4, 3, 1, 1), "shape": np.array([0, -1]), "from": np.array([3]), "to": np.array([50]),
        "axis": np.array([1]),
    }  # fmt: skip
    model = quantized(network(nodes, constants))
    quants = {t.quant for n, t in model.types.items() if t.is_codes and n not in model.constants}
    assert len(quants) == 2  # the input's and the conv's
    assert "lookup" not in {op.name for op in model.ops}


def test_the_inputs_of_a_concat_share_its_scale():
    model = quantized()
    assert type_of(model, "p1").quant == type_of(model, "c2").quant == type_of(model, "cat").quant


def test_a_concat_with_a_fixed_range_spans_both():
    """A sigmoid keeps its own scale, so the concat must look at the range of what it holds."""
    nodes = [
        ("a: Conv x w", {}),
        ("b: Sigmoid a", {}),
        ("c: Conv x w2", {}),
        ("y: Concat c b", {"axis": 1}),
    ]
    proto = network(nodes, {"w": weights(4, 3, 1, 1), "w2": weights(4, 3, 1, 1, scale=1e-3)})
    model = quantized(proto)
    assert not float_ops(model)
    assert snr(proto, model) > 25


def test_batch_norm_and_relu_are_folded_before_ranges_are_taken():
    model = quantized(observer="minmax")
    assert [op.name for op in model.ops].count("conv") == 3
    assert not {"mul", "add", "unary", "lookup"}.intersection(op.name for op in model.ops)
    convs = [model.types[op.outputs[0]] for op in model.ops if op.name == "conv"]
    assert convs[2].zero_point == -128, "a relu's result starts at 0, so all codes are above it"


def test_a_bias_that_would_not_fit_raises_the_weight_scale():
    """Tiny weights beside a large bias: at the weights' own scale the bias would leave int32."""
    w = weights(6, 16, 3, 3)
    w[2] *= 1e-9
    b = weights(6)
    b[2] = 1000.0
    proto = cnn(w3=w, b3=b)
    model = quantized(proto)  # the checker proves that every sum fits
    bias = model.constants[op_of(model, "r3").inputs[2]]
    assert 2**29 < np.abs(bias.astype(np.int64)).max() <= 2**30
    assert snr(proto, model) > 20
    model = quantized(proto, per_channel=False)
    assert np.abs(model.constants[op_of(model, "r3").inputs[2]].astype(np.int64)).max() <= 2**30


def test_all_zero_channels_and_layers():
    w = weights(6, 16, 3, 3)
    w[1] = 0
    for proto in (
        cnn(w3=w),
        cnn(w3=np.zeros_like(w)),
        cnn(w3=np.zeros_like(w), b3=np.zeros(6, np.float32)),
    ):
        for per_channel in (True, False):
            model = quantized(proto, per_channel=per_channel)
            assert np.isfinite(Session(model, backend="numpy")(images())).all()
            assert snr(proto, model) > 15


@pytest.mark.parametrize("value", [0.0, 1.5, -2.0, 1e-30, 1e20])
def test_constant_activations(value):
    proto = network([("y: Add x b", {})], {"b": weights(3, 1, 1)}, {"x": ("N", 3, 2, 2)})
    x = np.full((4, 3, 2, 2), value, np.float32)
    model = quantized(proto, [{"x": x}])
    result = Session(model, backend="numpy")(x)
    exact = Session(float_model(import_graph(proto, "test", {})[0]), backend="numpy")(x)
    np.testing.assert_allclose(result, exact, atol=max(1.0, abs(value)) / 100)


def test_scores_with_a_mask_stay_float_and_nothing_else_does():
    mask = np.triu(np.full((5, 5), -np.inf, np.float32), 1)
    nodes = [
        ("s: MatMul x xt", {}),
        ("m: Add s mask", {}),
        ("p: Softmax m", {"axis": -1}),
        ("y: MatMul p x", {}),
    ]
    nodes.insert(0, ("xt: Transpose x", {"perm": [0, 2, 1]}))
    for low in (-np.inf, -1e9, float(np.finfo(np.float32).min)):
        proto = network(nodes, {"mask": np.where(mask < 0, np.float32(low), 0)}, {"x": ("N", 5, 4)})
        x = RNG.normal(size=(8, 5, 4)).astype(np.float32)
        model = quantized(proto, [{"x": x}])
        assert snr(proto, model, x) > 20
        integer = [op.name for op in model.ops if model.types[op.outputs[0]].is_codes]
        assert integer.count("matmul") == 2


def test_an_embedding_is_stored_as_codes():
    nodes = [("e: Gather table x", {}), ("y: MatMul e w", {})]
    proto = network(nodes, {"table": weights(10, 8), "w": weights(8, 3)}, {"x": ("N", 5)})
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    model = from_onnx(proto, calibration=[{"x": RNG.integers(0, 10, (16, 5))}])
    assert not float_ops(model)
    assert all(array.dtype != np.float32 for array in model.constants.values())


# --- calibration data ---------------------------------------------------------------------------------


def test_one_mapping_is_cut_into_feeds():
    x = np.concatenate([feed["x"] for feed in feeds()])
    assert str(quantized(calibration={"x": x}, observer="minmax")) == str(
        quantized(observer="minmax")
    )


def test_every_sample_counts_whatever_the_batch_of_the_model():
    """With a fixed batch of 4, the last 3 of 7 samples come in a batch that is filled up."""
    proto = cnn_of_batch(4)
    x = images(7)
    x[6, 0, 0, 0] = 50.0
    model = quantized(proto, calibration={"x": x}, observer="minmax")
    assert type_of(model, "x.codes").quant.scale[0] > 50 / 255


def cnn_of_batch(batch):
    proto = onnx.ModelProto()
    proto.CopyFrom(CNN)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return proto


def test_an_array_for_calibration_is_a_named_error():
    with pytest.raises(CalibrationError, match="expected a mapping"):
        quantized(calibration=images())
    with pytest.raises(CalibrationError, match="expected a mapping"):
        quantized(calibration=[[images()]])


def test_calibration_with_one_constant_image_warns(caplog):
    """Images that were read wrongly, say all zero, should not go unnoticed."""
    quantized(calibration={"x": np.zeros((4, 3, 8, 8), np.float32)})
    assert "input x never changes" in caplog.text


def test_a_constant_part_of_a_concat():
    """A constant among the inputs of a concat gets the codes of its result."""
    nodes = [("z: Gemm x w", {}), ("k: Concat z c", {"axis": 1}), ("y: Gemm k v", {})]
    constants = {"w": weights(4, 4), "c": np.full((2, 1), 3, np.float32), "v": weights(5, 3)}
    proto = network(nodes, constants, {"x": (2, 4)})
    x = RNG.normal(size=(8, 4)).astype(np.float32)
    model = quantized(proto, calibration={"x": x})
    assert not float_ops(model)
    assert snr(proto, model, x[:2]) > 25


def test_an_iterator_of_feeds_is_read_once():
    assert str(quantized(calibration=iter(feeds()))) == str(quantized())


def test_memory_is_bounded():
    def many(count):
        for index in range(count):
            yield {"x": images(16, seed=index)}

    proto, peaks = cnn(), []
    for count in (8, 64):
        tracemalloc.start()
        quantized(proto, many(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_a_fixed_batch_takes_whole_batches():
    proto = cnn()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model = quantized(proto, {"x": images(11)})  # two batches; three samples are left over
    assert Session(model, backend="numpy")(images(4)).shape == (4, 5)
    with pytest.raises(CalibrationError, match=r"no complete batch.*batch size 4"):
        quantized(proto, {"x": images(3)})


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "no complete batch"),
        ([{"z": images()}], r"feed 0: missing inputs \['x'\], unknown inputs \['z'\]"),
        ([{"x": images()}, {"x": images().astype(np.float64)}], "feed 1: input 'x' is float64"),
        ([{"x": images()[:, :2]}], r"feed 0: input 'x' has shape \[8, 2, 8, 8\]"),
        ([{"x": np.full((2, 3, 8, 8), np.nan, np.float32)}], "calibrating 'x': .*NaN"),
        ([{"x": np.full((2, 3, 8, 8), 3e38, np.float32)}], "calibrating '.*infinite"),
        ({"x": images(4), "z": images(3)}, "different numbers of samples"),
        ({"x": images(0)}, "no complete batch"),
    ],
    ids=["empty", "misnamed", "dtype", "shape", "nan", "overflow", "lengths", "no-samples"],
)
def test_bad_calibration_data(calibration, message):
    with pytest.raises(CalibrationError, match=message):
        from_onnx(cnn(), calibration=calibration)


def test_no_calibration_data_and_nothing_to_quantize_without():
    proto = network([("y: Conv x w", {})], {"w": weights(4, 3, 3, 3)})
    with pytest.raises(CalibrationError, match="pass calibration data"):
        from_onnx(proto)


def test_calibrating_a_quantized_model_is_an_error():
    nodes = [("q: QuantizeLinear x s z", {}), ("d: DequantizeLinear q s z", {}), ("y: Relu d", {})]
    proto = network(nodes, {"s": np.float32(0.1), "z": np.int8(0)})
    with pytest.raises(ValueError, match="is quantized already"):
        from_onnx(proto, calibration=feeds())


def test_progress_bar(capsys):
    from_onnx(cnn(), calibration=feeds(), progress=True)
    assert "calibrating" in capsys.readouterr().err
    from_onnx(cnn(), calibration=feeds())
    assert not capsys.readouterr().err


# --- the edges ----------------------------------------------------------------------------------------


def test_integer_edges():
    with_floats, model = quantized(CNN), quantized(CNN, float_edges=False)
    session, x = Session(model, backend="numpy"), with_floats.ops[0].outputs[0]
    assert [info.dtype for info in (*session.inputs, *session.outputs)] == [np.int8, np.int8]
    assert (session.inputs[0].name, session.outputs[0].name) == ("x", "y")
    assert session.outputs[0].quantization["scales"] == model.types["y"].quant.scale
    assert not [op for op in model.ops if op.name in ("quantize", "dequantize")]
    assert model.types["x"].quant == with_floats.types[x].quant
    result = Tensor(model.types["y"], session(to_codes(images(), model.types["x"]))).real()
    step = 1.01 * model.types["y"].quant.scale[0]
    np.testing.assert_allclose(result, Session(with_floats, backend="numpy")(images()), atol=step)


def test_integer_edges_keep_the_order_of_axes():
    proto = network([("a: Conv x w", {}), ("y: Relu a", {})], {"w": weights(4, 3, 1, 1)})
    model = quantized(proto, float_edges=False, dtype="uint8")
    assert model.types["x"].shape == ("N", 3, 8, 8)
    assert model.types["y"].shape == ("N", 4, 8, 8)
    assert model.types["y"].dtype == "uint8"


def test_integer_edges_of_an_input_that_is_read_twice_and_of_two_outputs():
    nodes = [("a: Conv x w", {}), ("b: Add a x", {}), ("y: MaxPool b", {"kernel_shape": [2, 2]})]
    proto = network(nodes, {"w": weights(3, 3, 1, 1)}, outputs=("b", "y"))
    model = quantized(proto, float_edges=False)
    assert [model.types[name].dtype for name in ("x", "b", "y")] == ["int8"] * 3


def test_edges_that_must_stay_float_are_named():
    with pytest.raises(ModelError, match="input 'x' is used in float32 by"):
        quantized(float_edges=False, layers={"/c1": LayerConfig(skip=True)})
    with pytest.raises(ModelError, match="output 'y' is made in float32 by linear"):
        quantized(float_edges=False, layers={"/y": LayerConfig(skip=True)})


# --- functions and constants of a wide range ----------------------------------------------------------


def test_log_softmax_stays_float_on_a_quantized_layer():
    proto = network(
        [("a: Gemm x w b", {}), ("y: LogSoftmax a", {"axis": -1})],
        {"w": weights(10, 6, scale=50), "b": weights(6)},
        inputs={"x": ("N", 10)},
    )
    x = weights(64, 10, scale=1)
    model = quantized(proto, [{"x": x}])
    assert [op.name for op in float_ops(model)] == ["dequantize", "softmax"]
    assert snr(proto, model, x) > 30


@pytest.mark.parametrize(
    ("nodes", "bias"),
    [
        (["d: Div x far", "a: Gemm d w b", "y: Relu a"], 0),
        (["a: Gemm x w b", "r: Relu a", "y: Gemm r v"], 20000),
    ],
)
def test_large_divisors_and_biases_are_no_masks(nodes, bias, caplog):
    b = weights(6)
    b[0] += bias
    far = np.array(32768, np.float32)
    constants = {"w": weights(10, 6), "v": weights(6, 4), "b": b, "far": far}
    proto = network([(text, {}) for text in nodes], constants, inputs={"x": ("N", 10)})
    x = weights(64, 10, scale=1000)
    model = quantized(proto, [{"x": x}])
    assert float_ops(model) == []
    assert "mask" not in caplog.text
    assert snr(proto, model, x) > 20


def test_what_a_mask_leaves_in_float32_is_named(caplog):
    mask = np.triu(np.full((6, 6), -1e9, np.float32), 1)
    proto = network(
        [("a: Gemm x w", {}), ("m: Add a mask", {}), ("s: Softmax m", {}), ("y: Gemm s w", {})],
        {"w": weights(6, 6), "mask": mask},
        inputs={"x": (6, 6)},
    )
    model = quantized(proto, [{"x": weights(6, 6, scale=1)} for _ in range(4)])
    assert [op.name for op in float_ops(model)] == ["dequantize", "add", "softmax", "quantize"]
    assert "in float32 stay: /m, /s" in caplog.text


def test_a_mask_that_is_made_at_run_time_stays_float():
    """(1 - mask) * -10000, added to scores, as BERT writes it: the scores keep their precision."""
    nodes = [
        ("free: Sub one m", {}),
        ("penalty: Mul free large", {}),
        ("scores: Gemm x w", {}),
        ("masked: Add scores penalty", {}),
        ("p: Softmax masked", {"axis": -1}),
        ("y: Gemm p v", {}),
    ]
    constants = {
        "one": np.float32([1]), "large": np.float32([-1e4]), "w": weights(4, 6), "v": weights(6, 3),
    }  # fmt: skip
    proto = network(nodes, constants, {"x": ("N", 4), "m": ("N", 6)})
    x = RNG.normal(size=(16, 4)).astype(np.float32)
    m = (RNG.random((16, 6)) < 0.7).astype(np.float32)
    model = quantized(proto, calibration={"x": x, "m": m})
    exact = Session(float_model(import_graph(proto, "test", {})[0])).run(None, {"x": x, "m": m})[0]
    (result,) = Session(model).run(None, {"x": x, "m": m})
    assert 10 * np.log10((exact**2).mean() / ((exact - result) ** 2).mean()) > 25
