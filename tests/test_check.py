"""What `check` refuses, each rule with the shortest model that breaks it; and that what it accepts can be run."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from tiny import codes, floats, model, one_op, two_layers

from nprt.check import check
from nprt.errors import (
    AccumulatorError,
    InputError,
    ModelError,
    NprtError,
    QuantizationError,
    ShapeError,
)
from nprt.ir import MAX_COMPUTED, Array, Model, Op, QuantParams, TensorType
from nprt.ops.add import Add
from nprt.ops.argmax import Argmax
from nprt.ops.average_pool import AveragePool
from nprt.ops.concat import Concat
from nprt.ops.conv import Conv
from nprt.ops.conv_transpose import ConvTranspose
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.dequantize import Dequantize
from nprt.ops.div import Div
from nprt.ops.dynamic_quantize import DynamicQuantize
from nprt.ops.expand import Expand
from nprt.ops.gather import Gather
from nprt.ops.global_average_pool import GlobalAveragePool
from nprt.ops.gru import Gru
from nprt.ops.linear import Linear
from nprt.ops.lstm import Lstm
from nprt.ops.matmul import Matmul
from nprt.ops.max_pool import MaxPool
from nprt.ops.mul import Mul
from nprt.ops.pad import Pad
from nprt.ops.pooling import windows_meet
from nprt.ops.reduce_mean import ReduceMean
from nprt.ops.reshape import Reshape
from nprt.ops.resize import Resize
from nprt.ops.slice import Slice
from nprt.ops.softmax import Softmax
from nprt.ops.transpose import Transpose
from nprt.ops.unary import Unary
from nprt.session import Session


def relu(x: str = "x", y: str = "y") -> Op:
    return Unary(inputs=(x,), outputs=(y,), function="relu")


def refused(bad: Model, error: type[Exception], *words: str) -> None:
    with pytest.raises(error) as caught:
        check(bad)
    assert type(caught.value) is error, caught.value
    for word in words:
        assert word in str(caught.value)


FLOATS = {"x": floats(2), "y": floats(2)}


def test_a_sound_model_is_returned() -> None:
    """The same object, so that building and checking can be one expression."""
    good = two_layers()
    assert check(good) is good


# --- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (model([], {}, {}, (), ()), "the model has no outputs"),
        (model([relu()], FLOATS, {}, ("x", "x")), "value 'x' is bound twice"),
        (model([relu()], FLOATS, {"x": np.zeros(2, np.float32)}), "value 'x' is bound twice"),
        (model([relu()], {**FLOATS, "": floats(2)}, {}, ("x", "")), "a value has no name"),
        (model([relu()], {"y": floats(2)}), "value 'x' has no type"),
        (model([relu()], {"x": floats(2)}), "op 0, unary -> y: output 'y' has no type"),
        (model([relu(y="x")], FLOATS), "op 0, unary -> x: output 'x' is bound twice"),
        (model([relu(y="")], FLOATS), "op 0, unary -> : an output has no name"),
        (model([relu(), relu()], FLOATS), "op 1, unary -> y: output 'y' is bound twice"),
        (
            model([relu("z", "y"), relu("x", "z")], {**FLOATS, "z": floats(2)}),
            "op 0, unary -> y: input 'z' is not bound before this op",
        ),
        (model([relu()], FLOATS, outputs=("z",)), "output 'z' is not the result of any op"),
        (model([relu()], FLOATS, outputs=("y", "y")), "output 'y' is listed twice"),
        (
            model([relu()], {**FLOATS, "b": floats(), "a": floats()}),
            "types are declared for values that nothing binds: a, b",
        ),
    ],
)
def test_names(bad: Model, words: str) -> None:
    """Each value is bound once, before it is read, and has a type."""
    refused(bad, ModelError, words)


@pytest.mark.parametrize("name", ["a/b", "..", ".a", "-a", "a b", "ä", "a\n", "C:"])
def test_names_of_constants_are_file_names(name: str) -> None:
    """Letters, digits, '_', '.' and '-', the first one of the former three."""
    bad = model([relu()], {**FLOATS, name: floats()}, {name: np.zeros((), np.float32)})
    refused(bad, ModelError, f"constant {name!r} must be named by letters")


def test_one_output_name_twice_in_an_op() -> None:
    op = DynamicQuantize(inputs=("x",), outputs=("y", "s", "s"))
    types = {"x": floats(2), "y": TensorType("uint8", (2,)), "s": floats()}
    refused(
        model([op], types),
        ModelError,
        "op 0, dynamic_quantize -> y, s, s: output 's' is bound twice",
    )


# --- inputs and outputs of ops ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (Unary(inputs=(), outputs=("y",), function="relu"), "has inputs (); expected x"),
        (Unary(inputs=("x", "x"), outputs=("y",), function="relu"), "expected x"),
        (Unary(inputs=("",), outputs=("y",), function="relu"), "has inputs ('',); expected x"),
        (Add(inputs=("x",), outputs=("y",)), "has inputs ('x',); expected a b"),
        (Linear(inputs=("x", ""), outputs=("y",)), "expected x w bias? x_zero_point?"),
        (Linear(inputs=("x",) * 5, outputs=("y",)), "expected x w bias? x_zero_point?"),
        (Concat(inputs=(), outputs=("y",), axis=0), "expected at least one of each of x*"),
        (Concat(inputs=("x", ""), outputs=("y",), axis=0), "expected at least one of each of x*"),
        (Unary(inputs=("x",), outputs=(), function="relu"), "has outputs (); expected y"),
        (
            Unary(inputs=("x",), outputs=("y", "z"), function="relu"),
            "has outputs ('y', 'z'); expected y",
        ),
        (DynamicQuantize(inputs=("x",), outputs=("y",)), "expected y scale zero_point"),
    ],
)
def test_arity(op: Op, words: str) -> None:
    """As many values as the op has, absent ones only where they are optional."""
    refused(model([op], FLOATS), ModelError, f"op 0, {op.name} -> ", words)


# --- types --------------------------------------------------------------------------------------------


def test_a_declared_type_that_the_op_does_not_give() -> None:
    """Found and expected, both printed."""
    refused(
        one_op(relu(), floats(3), floats(2)),
        ModelError,
        "op 0, unary -> y: 'y' is declared f32[3], but the op gives f32[2]",
    )
    refused(
        one_op(Dequantize(inputs=("x",), outputs=("y",)), codes(2), codes(2)),
        ModelError,
        "'y' is declared i8[2]*0.5+3, but the op gives f32[2]",
    )


def test_a_type_rule_names_op_and_operand() -> None:
    """The error of a rule keeps its class and gets the op in front."""
    refused(
        one_op(relu(), floats(2), codes(2)),
        ModelError,
        "op 0, unary -> y: x i8[2]*0.5+3 has dtype int8; expected float32",
    )
    refused(
        one_op(Add(inputs=("x", "z"), outputs=("y",)), floats(2), floats(2), floats(3)),
        ShapeError,
        "op 0, add -> y: shapes [2] and [3] do not broadcast",
    )


def test_symbols_come_from_inputs() -> None:
    """A dimension that no input names could not be known when the model runs."""
    bad = one_op(Expand(inputs=("x",), outputs=("y",)), floats("M", 2), floats(1, 2))
    refused(bad, ShapeError, "value 'y': f32[M,2] uses ['M'], which no input's shape names")


@pytest.mark.parametrize(
    ("declared", "array", "words"),
    [
        (floats(2), np.zeros(3, np.float32), "constant 'w' is float32[3], declared f32[2]"),
        (floats(2), np.zeros(2), "constant 'w' is float64[2], declared f32[2]"),
        (floats("N"), np.zeros(2, np.float32), "constant 'w' is float32[2], declared f32[N]"),
        (floats(), np.zeros(1, np.float32), "constant 'w' is float32[1], declared f32[]"),
    ],
)
def test_constants_are_what_their_types_say(declared: TensorType, array: Array, words: str) -> None:
    op = Add(inputs=("x", "w"), outputs=("y",))
    refused(one_op(op, floats("N"), floats("N"), (declared, array)), ModelError, words)


# --- accumulators -------------------------------------------------------------------------------------


def with_weights(weights: Array, bias: int | None) -> Model:
    """linear with int32 result; |x - zero point| is at most 255."""
    x = TensorType("uint8", ("N", weights.size), QuantParams.of(1, 0))
    w = (TensorType("int8", (1, weights.size), QuantParams.of(1, 0, None)), weights[np.newaxis])
    operands: list[Any] = [x, w]
    if bias is not None:
        operands.append((TensorType("int32", (1,)), np.array([bias], np.int32)))
    names = ("x", "w", "b")[: len(operands)]
    return one_op(Linear(inputs=names, outputs=("y",)), TensorType("int32", ("N", 1)), *operands)


def weights_of(total: int) -> Array:
    """int8 weights whose magnitudes sum to `total`, of both signs, more than the types alone allow."""
    count, rest = divmod(total, 100)
    weights = np.full(count + 1, 100, np.int8)
    weights[-1] = rest
    weights[::2] *= -1
    return weights


def test_sums_that_just_fit() -> None:
    """255 * 8,421,504 + 127 is 2**31 - 1: accepted, and one more refused, from weights or from the bias."""
    fits = weights_of(8_421_504)
    check(with_weights(fits, None))
    check(with_weights(fits, 127))
    check(with_weights(fits, -127))
    words = "op 0, linear -> y: a sum can reach 2147483648, which int32 does not hold (limit 2147483647)"
    refused(with_weights(fits, 128), AccumulatorError, words)
    refused(with_weights(fits, -128), AccumulatorError, words)
    refused(
        with_weights(weights_of(8_421_505), None), AccumulatorError, "a sum can reach 2147483775"
    )
    refused(with_weights(np.ones(1, np.int8), -(2**31)), AccumulatorError, "can reach 2147483903")


def test_the_greatest_sum_is_exact() -> None:
    """The model at the limit computes the sum at the limit, without wrapping."""
    weights = np.abs(weights_of(8_421_504))
    session = Session(with_weights(weights, 127))
    result = session(np.full((1, weights.size), 255, np.uint8))
    np.testing.assert_array_equal(result, np.array([[2**31 - 1]], np.int32))


def test_sums_without_constant_weights_are_bounded_by_types() -> None:
    """Two computed operands are as large as their codes can be."""
    for terms, fits in ((33_025, True), (33_026, False)):
        x = TensorType("uint8", ("N", terms), QuantParams.of(1, 0))
        w = TensorType("uint8", (terms, 1), QuantParams.of(1, 0))
        bad = one_op(Matmul(inputs=("x", "w"), outputs=("y",)), TensorType("int32", ("N", 1)), x, w)
        if fits:
            check(bad)
        else:
            refused(bad, AccumulatorError, f"a sum can reach {33_026 * 255 * 255}")


def test_an_int32_bias_must_be_constant() -> None:
    """Otherwise the sum has no bound."""
    w = (TensorType("int8", (1, 1), QuantParams.of(1)), np.ones((1, 1), np.int8))
    bad = one_op(
        Linear(inputs=("x", "w", "b"), outputs=("y",)),
        TensorType("int32", ("N", 1)),
        codes("N", 1),
        w,
        TensorType("int32", (1,)),
    )
    refused(bad, AccumulatorError, "an int32 bias must be a constant")


def test_means_are_sums_too() -> None:
    """|code - zero point| is at most 131 here: 16,393,004 elements fit, one more does not."""
    for size, fits in ((16_393_004, True), (16_393_005, False)):
        bad = one_op(
            GlobalAveragePool(inputs=("x",), outputs=("y",)), codes(1, 1, 1), codes(1, size, 1)
        )
        if fits:
            check(bad)
        else:
            refused(bad, AccumulatorError, "a sum can reach 2147483655")


# --- hostile but well formed --------------------------------------------------------------------------

HUGE = 10**18
IMAGE = codes("N", 8, 8, 2)
WEIGHTS = (
    TensorType("int8", (2, 3, 3, 2), QuantParams.of(0.5)),
    np.ones((2, 3, 3, 2), np.int8),
)
TAPS = (TensorType("int8", (3, 3, 2), QuantParams.of(0.5)), np.ones((3, 3, 2), np.int8))
ONE = {"stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0))}
FAR_AND_WIDE = {"stride": (2**20, 1), "padding": ((2**40, 2**40), (1, 1))}


def product(cls: type[Op], **fields: Any) -> Model:
    weights = TAPS if cls is DepthwiseConv else WEIGHTS
    return one_op(
        cls(inputs=("x", "w"), outputs=("y",), **{**ONE, **fields}), IMAGE, IMAGE, weights
    )


def pool(cls: type[Op], **fields: Any) -> Model:
    fields = {"kernel": (3, 3), **ONE, **fields}
    return one_op(cls(inputs=("x",), outputs=("y",), **fields), IMAGE, IMAGE)


def move(cls: type[Op], x: TensorType = IMAGE, y: TensorType = IMAGE, **fields: Any) -> Model:
    return one_op(cls(inputs=("x",), outputs=("y",), **fields), y, x)


def gather(axis: int, *indices: int) -> Model:
    constant = (TensorType("int64", (len(indices),)), np.array(indices, np.int64))
    y = codes("N", 8, len(indices), 2)
    return one_op(Gather(inputs=("x", "i"), outputs=("y",), axis=axis), y, IMAGE, constant)


def scaled(cls: type[Op], numerics: str, x: float, w: float, y: float) -> Model:
    """An op on two codes with these scales."""
    types = [codes("N", 1, scale=s, zero_point=0) for s in (x, w, y)]
    op = cls(inputs=("a", "b"), outputs=("y",), numerics=numerics)
    return one_op(op, types[2], types[0], types[1])


HOSTILE = {
    "conv stride": (product(Conv, stride=(HUGE, 1)), ShapeError, "stride"),
    "conv stride zero": (product(Conv, stride=(0, 1)), ShapeError, "stride=(0, 1)"),
    "conv stride negative": (product(Conv, stride=(-1, 1)), ShapeError, "stride=(-1, 1)"),
    "conv stride missing": (product(Conv, stride=(1,)), ShapeError, "stride=(1,)"),
    "conv dilation": (product(Conv, dilation=(HUGE, 1)), ShapeError, "dilation"),
    "conv padding": (product(Conv, padding=((HUGE, HUGE), (0, 0))), ShapeError, "padding"),
    "conv padding, small result": (product(Conv, **FAR_AND_WIDE), ShapeError, "padding"),
    "conv padding negative": (product(Conv, padding=((-1, 0), (0, 0))), ShapeError, "padding"),
    "conv kernel beyond x": (product(Conv, dilation=(9, 1)), ShapeError, "does not fit"),
    "conv groups": (product(Conv, groups=HUGE), ModelError, "groups"),
    "conv groups zero": (product(Conv, groups=0), ModelError, "groups=0"),
    "conv groups negative": (product(Conv, groups=-1), ModelError, "groups=-1"),
    "conv clamp": (product(Conv, clamp=(0, 128)), ModelError, "clamp=(0, 128)"),
    "conv clamp order": (product(Conv, clamp=(1, 0)), ModelError, "clamp=(1, 0)"),
    "conv numerics": (product(Conv, numerics="tflite"), ModelError, "numerics 'tflite'"),
    "depthwise padding": (product(DepthwiseConv, **FAR_AND_WIDE), ShapeError, "padding"),
    "depthwise stride": (product(DepthwiseConv, stride=(1, HUGE)), ShapeError, "stride"),
    "deconvolution stride": (
        product(ConvTranspose, output_padding=(0, 0), stride=(HUGE, 1)),
        ShapeError,
        "stride",
    ),
    "deconvolution, small result": (
        product(
            ConvTranspose,
            output_padding=(2**40, 0),
            padding=((2**40 + 1, 1), (1, 1)),
        ),
        ShapeError,
        "before its padding",
    ),
    "deconvolution of nothing": (
        product(ConvTranspose, output_padding=(0, 0), padding=((5, 5), (0, 0))),
        ShapeError,
        "leaves nothing",
    ),
    "deconvolution output padding": (
        product(ConvTranspose, output_padding=(-1, 0)),
        ModelError,
        "output_padding=(-1, 0)",
    ),
    "pool kernel": (pool(MaxPool, kernel=(HUGE, 1)), ShapeError, "taps"),
    "pool kernel beyond x": (pool(MaxPool, kernel=(9, 1)), ShapeError, "does not fit"),
    "pool kernel zero": (pool(MaxPool, kernel=(0, 1)), ShapeError, "kernel=(0, 1)"),
    "pool kernel and padding": (
        pool(MaxPool, kernel=(2**20, 1), padding=((HUGE, HUGE), (0, 0))),
        ShapeError,
        "padding",
    ),
    "pool of padding": (
        pool(MaxPool, padding=((3, 0), (0, 0))),
        ShapeError,
        "nothing but padding",
    ),
    "pool dilation": (pool(AveragePool, dilation=(HUGE, 1)), ShapeError, "dilation"),
    "pool work": (
        one_op(
            AveragePool(
                inputs=("x",),
                outputs=("y",),
                kernel=(2**10, 2**10),
                stride=(1, 1),
                dilation=(1, 1),
                padding=((0, 0), (0, 0)),
            ),
            floats(1, 1, 1, 1),
            floats(1, 2**14, 2**14, 1),
        ),
        ShapeError,
        "looks at more than",
    ),
    "pool numerics": (pool(AveragePool, numerics="onnx"), ModelError, "numerics 'onnx'"),
    "mean numerics": (move(ReduceMean, axes=(1,), numerics="onnx"), ModelError, "numerics"),
    "mean axis": (move(ReduceMean, axes=(4,)), ShapeError, "axis 4 is not in [0, 4)"),
    "mean axis negative": (move(ReduceMean, axes=(-1,)), ShapeError, "axis -1"),
    "mean axis twice": (move(ReduceMean, axes=(1, 1)), ShapeError, "ascending"),
    "mean of nothing": (
        move(ReduceMean, codes("N", 0), codes("N"), axes=(1,)),
        ShapeError,
        "axis 1",
    ),
    "argmax axis": (move(Argmax, axis=HUGE), ShapeError, "axis 1000000000000000000"),
    "argmax of nothing": (move(Argmax, floats("N", 0), axis=1), ShapeError, "nothing along axis 1"),
    "softmax axis": (move(Softmax, floats("N", 2), axis=-1), ShapeError, "axis -1"),
    "transpose": (move(Transpose, perm=(0, 1, 2, 2)), ShapeError, "perm=(0, 1, 2, 2)"),
    "transpose negative": (move(Transpose, perm=(0, -1, 2, 1)), ShapeError, "perm"),
    "reshape": (move(Reshape, floats(2), floats(2**20, 4)), ShapeError, "as many elements"),
    "reshape of nothing": (move(Reshape, floats(0), floats(2)), ShapeError, "as many elements"),
    "expand": (move(Expand, floats(1), floats(2**30)), ShapeError, "1073741824 elements"),
    "pad": (
        move(Pad, padding=((0, 0), (HUGE, 0), (0, 0), (0, 0))),
        ShapeError,
        "at most 2147483647",
    ),
    "pad negative": (move(Pad, padding=((0, 0), (-1, 0), (0, 0), (0, 0))), ShapeError, "padding"),
    "pad reflect": (
        move(Pad, padding=((0, 0), (8, 0), (0, 0), (0, 0)), mode="reflect"),
        ShapeError,
        "too much to reflect",
    ),
    "pad value": (move(Pad, padding=((0, 0),) * 4, value=1e300), ModelError, "value=1e+300"),
    "pad value code": (move(Pad, padding=((0, 0),) * 4, value=0.5), ModelError, "value=0.5"),
    "slice step": (
        move(Slice, floats(4), floats(4), starts=(0,), stops=(None,), steps=(0,)),
        ShapeError,
        "step of 0",
    ),
    "slice rank": (
        move(Slice, floats(4), floats(4), starts=(), stops=(), steps=()),
        ShapeError,
        "not one for",
    ),
    "slice of a symbol": (
        move(Slice, floats("N"), starts=(1,), stops=(None,), steps=(1,)),
        ShapeError,
        "unknown size N",
    ),
    "resize": (
        move(Resize, y=codes("N", 10**9, 1, 2), mode="nearest"),
        ShapeError,
        "elements",
    ),
    "resize one axis": (
        move(Resize, floats("N", 8, 8, 1), floats("N", 10**8, 8, 1), mode="nearest"),
        ShapeError,
        "elements",
    ),
    "resize, small result": (
        move(Resize, floats("N", 1, 2**20, 1), floats("N", 2**20, 1, 1), mode="linear"),
        ShapeError,
        "x resized in part",
    ),
    "resize scales": (
        move(Resize, mode="nearest", scales=(0.0, 1.0)),
        ShapeError,
        "scales=(0.0, 1.0)",
    ),
    "resize from nothing": (
        move(Resize, floats("N", 0, 8, 1), floats("N", 8, 8, 1), mode="nearest"),
        ShapeError,
        "spatial dimensions of x",
    ),
    "resize mode": (move(Resize, mode="cubic"), ModelError, "mode='cubic'"),
    "gather index": (gather(2, 0, 8), ShapeError, "index 8 is not in [-8, 8)"),
    "gather index negative": (gather(2, -9), ShapeError, "index -9"),
    "gather index least": (gather(2, -(2**63)), ShapeError, "index -9223372036854775808"),
    "gather axis": (gather(4, 0), ShapeError, "axis 4"),
    "broadcast": (
        one_op(
            Add(inputs=("a", "b"), outputs=("y",)),
            floats(2**15, 2**15),
            floats(2**15, 1),
            floats(1, 2**15),
        ),
        ShapeError,
        "1073741824 elements",
    ),
    "matrix product": (
        one_op(
            Matmul(inputs=("a", "b"), outputs=("y",)),
            floats(2**15, 2**15),
            floats(2**15, 1),
            floats(1, 2**15),
        ),
        ShapeError,
        "1073741824 elements",
    ),
    "scales of a product": (
        one_op(
            Linear(inputs=("x", "w"), outputs=("y",)),
            codes("N", 1, scale=1.0),
            codes("N", 1, scale=2.0**20),
            (TensorType("int8", (1, 1), QuantParams.of(2.0**10)), np.ones((1, 1), np.int8)),
        ),
        QuantizationError,
        "factor of 1.07e+09",
    ),
    "scales of a sum": (scaled(Add, "integer", 2.0**31, 1.0, 2.0), QuantizationError, "factor"),
    "scales of an ort sum": (
        scaled(Add, "ort", 2.0**127, 1.0, 2.0**-149),
        QuantizationError,
        "factor",
    ),
    "scales of a multiplication": (
        scaled(Mul, "integer", 2.0**20, 2.0**20, 2.0),
        QuantizationError,
        "factor",
    ),
    "scales beyond float32": (
        scaled(Mul, "ort", 2.0**80, 2.0**80, 2.0**127),
        QuantizationError,
        "factor",
    ),
    "scales of a quotient": (
        scaled(Div, "integer", 1.0, 2.0**-60, 1.0),
        QuantizationError,
        "factor",
    ),
    "zero point of int32": (
        move(Dequantize, TensorType("int32", (), QuantParams.of(1, 2**31 - 1)), floats()),
        ModelError,
        "expected 0 for int32",
    ),
    "parameters": (
        one_op(
            Unary(inputs=("x",), outputs=("y",), function="clip", parameters=(1.0,)),
            floats(2),
            floats(2),
        ),
        ModelError,
        "expected (min, max)",
    ),
    "function": (
        one_op(Unary(inputs=("x",), outputs=("y",), function="eval"), floats(2), floats(2)),
        ModelError,
        "function='eval'",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_fields(name: str) -> None:
    """Refused at once and without memory, by an error that says what is wrong."""
    bad, error, words = HOSTILE[name]
    tracemalloc.start()
    try:
        refused(bad, error, "op 0, ", words)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_windows_that_hold_nothing_but_padding() -> None:
    """The rule's shortcut says what a look at every tap of every window says."""
    numbers = (range(5), range(1, 5), range(1, 4), range(1, 4), range(1, 5), range(7))
    for size, count, kernel, stride, dilation, before in itertools.product(*numbers):
        expected = all(
            any(0 <= i * stride - before + t * dilation < size for t in range(kernel))
            for i in range(count)
        )
        assert windows_meet(size, count, kernel, stride, dilation, before) == expected


def test_the_largest_result() -> None:
    """An op may make 2**29 elements of one, and no more; symbols count as one."""
    check(move(Expand, floats("N", 1), floats("N", MAX_COMPUTED)))
    refused(
        move(Expand, floats("N", 1), floats("N", MAX_COMPUTED + 1)),
        ShapeError,
        "output 'y' takes 536870913 elements",
    )


@pytest.mark.parametrize(("cls", "gates"), [(Lstm, 4), (Gru, 3)])
@pytest.mark.parametrize("is_float", [False, True], ids=["codes", "float32"])
def test_the_gates_of_a_long_sequence(cls: type[Op], gates: int, is_float: bool) -> None:
    """They are several times y, which by itself has room."""

    def layer(length: int, features: int, hidden: int) -> Model:
        weights = TensorType(
            "float32" if is_float else "int8", (), None if is_float else QuantParams.of(0.01)
        )
        shapes = [(gates * hidden, features), (gates * hidden, hidden)]
        w_ih, w_hh = (weights.with_shape(shape) for shape in shapes)
        states = ("h0", "c0") if cls is Lstm else ("h0",)
        results = ("h", "c") if cls is Lstm else ("h",)
        types = {
            "x": floats(length, 1, features),
            **dict.fromkeys((*states, *results), floats(1, hidden)),
            "w_ih": w_ih,
            "w_hh": w_hh,
            "y": floats(length, 1, hidden),
        }
        op = cls(inputs=("x", *states, "w_ih", "w_hh"), outputs=("y", *results))
        known = {
            name: np.broadcast_to(np.zeros((), types[name].numpy), types[name].shape)
            for name in ("w_ih", "w_hh")
        }
        return model([op], types, known, ("x", *states))

    longest = MAX_COMPUTED // (gates * 8)
    check(layer(longest, 1, 8))
    refused(layer(longest + 1, 1, 8), ShapeError, "the product of x and w_ih takes")
    if not is_float:
        refused(layer(2**10, 2**19 + 1, 1), ShapeError, "x as codes takes")


def test_a_batch_that_makes_too_much_is_refused_before_it_is_allocated() -> None:
    """What symbols stand for is known only when the model runs."""
    session = Session(move(Expand, floats("N", 1), floats("N", MAX_COMPUTED)))
    with pytest.raises(NprtError, match="at most 2147483647"):
        session(np.zeros((5, 1), np.float32))


def test_what_depends_on_data_is_an_input_error() -> None:
    """An index that the values hold, and an axis that a run leaves empty."""
    types = {"x": floats(2), "i": TensorType("int64", (1,)), "y": floats(1)}
    session = Session(model([Gather(inputs=("x", "i"), outputs=("y",))], types, {}, ("x", "i")))
    with pytest.raises(InputError, match=r"index 2 is not in \[-2, 2\)"):
        session.run(None, {"x": np.zeros(2, np.float32), "i": np.array([2])})
    argmax = Session(move(Argmax, floats("N"), TensorType("int64", ()), axis=0))
    with pytest.raises(InputError, match="nothing along axis 0"):
        argmax(np.zeros(0, np.float32))


@pytest.mark.parametrize(
    ("op", "y", "x"),
    [
        (Slice, floats(0), {"starts": (10**18,), "stops": (-(10**18),), "steps": (10**18,)}),
        (Slice, floats(4), {"starts": (10**18,), "stops": (None,), "steps": (-1,)}),
        (Expand, floats(0, 4), {}),
        (Reshape, floats(2, 2, 1), {}),
    ],
)
def test_odd_but_sound_fields_run(op: type[Op], y: TensorType, x: dict[str, Any]) -> None:
    """What has a meaning in NumPy has it here."""
    result = Session(move(op, floats(4), y, **x))(np.arange(4, dtype=np.float32))
    assert result.shape == y.shape


def test_empty_batches_run() -> None:
    """A batch of none gives results of none, for every op of a small network."""
    for name, bad in {
        "conv": product(Conv, padding=((1, 1), (1, 1))),
        "depthwise": product(DepthwiseConv, padding=((1, 1), (1, 1))),
        "deconvolution": product(ConvTranspose, output_padding=(0, 0), padding=((1, 1), (1, 1))),
        "max_pool": pool(MaxPool, padding=((1, 1), (1, 1))),
        "average_pool": pool(AveragePool, padding=((1, 1), (1, 1))),
        "two layers": two_layers(),
    }.items():
        session = Session(bad)
        shape = tuple(0 if dim == "N" else dim for dim in session.inputs[0].shape)
        result = session(np.zeros(shape, session.inputs[0].dtype))
        assert len(result) == 0, name
