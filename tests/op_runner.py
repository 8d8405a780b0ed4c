"""Run one op: by its reference in nprt, and as a model of one node in onnxruntime."""

import numpy as np

from nprt.ir import QuantParams, Tensor, TensorType


def tensor(data, scale=None, zero_point=0, axis=None):
    data = np.asarray(data)
    quant = None if scale is None else QuantParams.of(scale, zero_point, axis)
    return Tensor(TensorType(str(data.dtype), data.shape, quant), data)


def type_of(dtype, shape=(), scale=None, zero_point=0, axis=None):
    quant = None if scale is None else QuantParams.of(scale, zero_point, axis)
    return TensorType(dtype, tuple(shape), quant)


def make(cls, inputs, **fields):
    return cls(inputs=tuple(f"x{i}" for i in range(inputs)), outputs=("y",), **fields)


def rule(cls, y, *types, **fields):
    return make(cls, len(types), **fields).type_rule(y, *types)


def run(cls, y, *tensors, **fields):
    """The reference's result, after a look at its dtype and shape. `y` gives what the type rule leaves open."""
    op = make(cls, len(tensors), **fields)
    declared = op.type_rule(y, *[t and t.type for t in tensors])
    assert op.type_rule(declared, *[t and t.type for t in tensors]) == declared
    op.check_constants(declared, *tensors)
    op.accumulator_bound(declared, *tensors)
    before = [t and t.data.copy() for t in tensors]
    result = op.reference(declared, *tensors)
    assert (str(result.dtype), result.shape) == (declared.dtype, declared.shape)
    for t, data in zip(tensors, before, strict=True):
        if t is not None:
            np.testing.assert_array_equal(t.data, data, err_msg="the reference wrote to its input")
    return result


def run_onnx(op_type, inputs, *, domain="", version=19, outputs=1, **attributes):
    """One node in onnxruntime, without graph optimizations. An input of None is absent."""
    import onnx
    import onnxruntime
    from onnx import helper

    names = ["" if data is None else f"x{i}" for i, data in enumerate(inputs)]
    feeds = {n: np.asarray(data) for n, data in zip(names, inputs, strict=True) if n}
    node = helper.make_node(
        op_type, names, [f"y{i}" for i in range(outputs)], domain=domain, **attributes
    )
    graph = helper.make_graph(
        [node],
        "one_node",
        [
            helper.make_tensor_value_info(
                n, helper.np_dtype_to_tensor_dtype(data.dtype), data.shape
            )
            for n, data in feeds.items()
        ],
        [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)],
    )
    opsets = [helper.make_opsetid("", version)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


def channels_first(x):
    return np.moveaxis(x, -1, 1)


def channels_last(x):
    return np.moveaxis(x, 1, -1)
