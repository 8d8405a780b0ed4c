"""The passes that settle the layout: which transposes cancel, which are left, and that no number changes."""

from __future__ import annotations

import numpy as np
import pytest

from nprt import Session
from nprt.converters.graph import Graph
from nprt.converters.passes.fold import fold_affine, fold_constants
from nprt.converters.passes.layout import (
    flatten_into_linear,
    reshape_trivial_transposes,
    sink_transposes,
)
from nprt.ir import TensorType
from nprt.ops.add import Add
from nprt.ops.argmax import Argmax
from nprt.ops.concat import Concat
from nprt.ops.conv import Conv
from nprt.ops.global_average_pool import GlobalAveragePool
from nprt.ops.linear import Linear
from nprt.ops.max_pool import MaxPool
from nprt.ops.mul import Mul
from nprt.ops.pad import Pad
from nprt.ops.reduce_mean import ReduceMean
from nprt.ops.reshape import Reshape
from nprt.ops.slice import Slice
from nprt.ops.softmax import Softmax
from nprt.ops.transpose import Transpose
from nprt.ops.unary import Unary

RNG = np.random.default_rng(0)
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def weights(*shape):
    return RNG.normal(size=shape).astype(np.float32)


class Net:
    """A float graph as a front end writes it: channels first, with transposes around each layer."""

    def __init__(self, channels=4, size=6):
        self.graph = Graph()
        self.graph.input("x", TensorType("float32", ("N", channels, size, size)))

    def add(self, cls, *inputs, **fields):
        return self.graph.add(cls, *inputs, out=cls.name, **fields)

    def constant(self, *shape):
        return self.graph.constant(weights(*shape), "constant")

    def last(self, x):
        return self.add(Transpose, x, perm=LAST)

    def first(self, x):
        return self.add(Transpose, x, perm=FIRST)

    def conv(self, x, out=4, kernel=1, padding=0):
        w = self.constant(out, kernel, kernel, self.graph.types[x].shape[1])
        window = {"stride": (1, 1), "dilation": (1, 1), "padding": ((padding, padding),) * 2}
        return self.first(self.add(Conv, self.last(x), w, self.constant(out), groups=1, **window))

    def max_pool(self, x):
        window = {"kernel": (2, 2), "stride": (2, 2), "dilation": (1, 1), "padding": ((0, 0),) * 2}
        return self.first(self.add(MaxPool, self.last(x), **window))

    def relu(self, x):
        return self.add(Unary, x, function="relu", parameters=())

    def reshape(self, x, *shape):
        return self.add(Reshape, x, like=TensorType("float32", shape))

    def linear(self, x, out=3):
        return self.add(Linear, x, self.constant(out, self.graph.types[x].shape[-1]))


def result(graph):
    shape = [2 if dim == "N" else dim for dim in graph.types["x"].shape]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return Session(graph.to_model(), backend="numpy").run(None, {"x": x})[0]


def settled(net, y, *passes):
    """The names of the ops that the passes leave; the result must not change."""
    graph = net.graph
    graph.outputs = [y]
    before = result(graph)
    for step in passes or (sink_transposes,):
        step(graph)
    np.testing.assert_allclose(result(graph), before, rtol=1e-4, atol=1e-5)
    graph.sweep()
    return [op.name for op in graph.ops]


def inner_transposes(names):
    """How many transposes stand between the first op and the last."""
    return names[1:-1].count("transpose")


# --- transposes cancel --------------------------------------------------------------------------------


def test_between_layers():
    net = Net()
    y = net.conv(net.relu(net.conv("x")))
    assert settled(net, y) == ["transpose", "conv", "unary", "conv", "transpose"]


def test_in_a_residual_network():
    net = Net()
    y = net.relu(net.conv("x"))
    for _ in range(2):
        y = net.relu(net.add(Add, net.conv(net.relu(net.conv(y, kernel=3, padding=1))), y))
    assert not inner_transposes(settled(net, net.conv(y)))


def test_in_a_squeeze_excite_block():
    net = Net()
    y = net.conv("x")
    scale = net.first(net.add(GlobalAveragePool, net.last(y)))
    scale = net.add(
        Unary, net.conv(net.relu(net.conv(scale, 2))), function="sigmoid", parameters=()
    )
    assert not inner_transposes(settled(net, net.conv(net.add(Mul, y, scale))))


def test_in_a_network_with_skips():
    net = Net()
    a = net.conv("x")
    b = net.conv(net.max_pool(a))
    c = net.add(Concat, net.max_pool(a), b, axis=1)
    assert not inner_transposes(settled(net, net.conv(c)))


def test_the_head_of_a_classifier():
    net = Net()
    y = net.first(net.add(GlobalAveragePool, net.last(net.conv("x"))))
    names = settled(
        net, net.linear(net.reshape(y, "N", 4)), sink_transposes, reshape_trivial_transposes
    )
    assert names == ["transpose", "conv", "global_average_pool", "reshape", "linear"]


# --- each op that lets a transpose pass ---------------------------------------------------------------

AFTER = {
    "unary": lambda net, y: net.relu(y),
    "add a constant": lambda net, y: net.add(Add, y, net.constant(4, 1, 1)),
    "add a number": lambda net, y: net.add(Add, net.constant(), y),
    "add a matrix": lambda net, y: net.add(Add, y, net.constant(6, 6)),
    "concat": lambda net, y: net.add(Concat, y, y, axis=2),
    "slice": lambda net, y: net.add(
        Slice, y, starts=(0, 1, 0, 2), stops=(None, 3, None, 5), steps=(1, 1, 2, 1)
    ),
    "pad": lambda net, y: net.add(Pad, y, padding=((0, 0), (1, 0), (0, 2), (3, 0))),
    "softmax": lambda net, y: net.add(Softmax, y, axis=1),
    "argmax": lambda net, y: net.add(Argmax, y, axis=1, keepdims=True),
    "mean with its axes": lambda net, y: net.add(ReduceMean, y, axes=(2, 3), keepdims=True),
    "mean without": lambda net, y: net.add(ReduceMean, y, axes=(1,), keepdims=False),
}


@pytest.mark.parametrize("name", AFTER)
def test_a_transpose_passes(name):
    net = Net()
    names = settled(net, AFTER[name](net, net.conv("x")))
    assert names[:2] == ["transpose", "conv"]
    assert names[2] != "transpose"


def test_a_mean_over_all_axes_that_moved_needs_no_transpose():
    net = Net()
    y = net.add(ReduceMean, net.conv("x"), axes=(2, 3), keepdims=False)
    assert settled(net, net.linear(y)) == ["transpose", "conv", "reduce_mean", "linear"]


def test_a_reshape_that_mixes_axes_keeps_its_transpose():
    net = Net()
    y = net.reshape(net.conv("x"), "N", 2, 72)
    assert settled(net, y) == ["transpose", "conv", "transpose", "reshape"]


def test_operands_with_different_orders_keep_theirs():
    net = Net()
    y = net.add(Add, net.conv("x"), "x")
    assert settled(net, y) == ["transpose", "conv", "transpose", "add"]


# --- what is left -------------------------------------------------------------------------------------


def test_flatten_goes_into_the_linear_layer():
    net = Net()
    y = net.linear(net.reshape(net.conv("x", kernel=3), "N", 64))
    names = settled(net, y, sink_transposes, flatten_into_linear)
    assert names == ["transpose", "conv", "reshape", "linear"]


def test_flatten_is_left_alone_where_it_has_other_readers():
    net = Net()
    flat = net.reshape(net.conv("x"), "N", 144)
    y = net.add(Concat, net.linear(flat), flat, axis=1)
    assert "transpose" in settled(net, y, sink_transposes, flatten_into_linear)[2:]


def test_a_transpose_of_ones_is_a_reshape():
    net = Net(channels=1)
    assert settled(net, net.last("x"), reshape_trivial_transposes) == ["reshape"]
    net = Net(channels=2)
    assert settled(net, net.last("x"), reshape_trivial_transposes) == ["transpose"]


# --- constants ----------------------------------------------------------------------------------------


def test_ops_on_constants_are_computed():
    net = Net()
    factor = net.add(Unary, net.constant(4, 1, 1), function="exp", parameters=())
    assert settled(net, net.add(Mul, "x", factor), fold_constants) == ["mul"]


def test_a_constant_that_is_an_output_is_kept():
    net = Net()
    y = net.add(Unary, net.constant(4), function="exp", parameters=())
    settled(net, y, fold_constants)


@pytest.mark.parametrize("order", [0, 1])
def test_batch_norm_goes_into_the_layer_before(order):
    net = Net()
    y, scale, shift = net.conv("x"), net.constant(4, 1, 1), net.constant(4, 1, 1)
    y = net.add(Mul, *((y, scale), (scale, y))[order])
    y = net.add(Add, *((y, shift), (shift, y))[order])
    assert settled(net, y, sink_transposes, fold_affine) == ["transpose", "conv", "transpose"]


def test_batch_norm_after_a_layer_that_is_read_elsewhere_stays():
    net = Net()
    y = net.conv("x")
    z = net.add(Add, net.add(Mul, y, net.constant(4, 1, 1)), y)
    assert settled(net, z, sink_transposes, fold_affine) == [
        "transpose",
        "conv",
        "mul",
        "add",
        "transpose",
    ]


def test_a_factor_for_each_position_stays():
    net = Net(size=4)
    y = net.add(
        Mul, net.conv("x"), net.constant(4)
    )  # along the width, which is as large as the channels
    assert "mul" in settled(net, y, sink_transposes, fold_affine)
