"""Build small ONNX models, and run them in onnxruntime as users do and in nprt."""

import numpy as np
import pytest

from nprt import Session
from nprt.converters import from_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime", "1.31", reason="older ones give other codes")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

MICROSOFT = "com.microsoft"


class Builder:
    """An ONNX model under construction. Arrays given to `node` become initializers."""

    def __init__(self, opset=17):
        self.opset = opset
        self.nodes, self.inputs, self.outputs, self.constants = [], [], [], []
        self.feeds = {}

    def input(self, array, shape=None):
        """A graph input fed with `array`."""
        name = f"x{len(self.inputs)}"
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape or array.shape))
        self.feeds[name] = array
        return name

    def constant(self, array):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op_type, *inputs, outputs=1, domain="", **attributes):
        """The name of the node's output, or of all of them."""
        names = ["" if x is None else x if isinstance(x, str) else self.constant(x) for x in inputs]
        out = [f"y{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, names, out, domain=domain, **attributes))
        return out[0] if outputs == 1 else out

    def microsoft(self, op_type, *inputs, **attributes):
        return self.node(op_type, *inputs, domain=MICROSOFT, **attributes)

    def quantize(self, x, quant):
        return self.node("QuantizeLinear", x, *quant)

    def dequantize(self, x, quant, **attributes):
        return self.node("DequantizeLinear", x, *quant, **attributes)

    def qdq(self, x, quant):
        return self.dequantize(self.quantize(x, quant), quant)

    def model(self, *outputs):
        """The nodes that the outputs need, as a model."""
        needed, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        graph = helper.make_graph(
            nodes[::-1],
            "graph",
            self.inputs,
            [onnx.ValueInfoProto(name=name) for name in outputs],
            self.constants,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def ort_session(model, *, int8=False, optimized=None):
    """A default session on the CPU; `int8` sets session.qdqisint8allowed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if int8:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    source = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def assert_same(builder, *outputs, int8=False):
    """Every output of onnxruntime and of nprt has the same dtype, shape and bits."""
    model = builder.model(*outputs)
    expected = ort_session(model, int8=int8).run(None, builder.feeds)
    converted = from_onnx(model, numerics="ort-int8" if int8 else "auto")
    actual = Session(converted).run(None, builder.feeds)
    for name, a, e in zip(outputs, actual, expected, strict=True):
        assert (a.dtype, a.shape) == (e.dtype, e.shape), name
        np.testing.assert_array_equal(a, e, err_msg=f"{name}\n{converted}")
    return converted
