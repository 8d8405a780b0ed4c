"""The op list: printed form, validation of types and quantization, and values that cannot change."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import numpy as np
import pytest
from tiny import codes, floats, two_layers

from nprt.errors import ModelError, QuantizationError, ShapeError
from nprt.file import _field_hints
from nprt.ir import MAX_ELEMENTS, QuantParams, Tensor, TensorType, numel, symbols
from nprt.ops.dynamic_quantize import DynamicQuantize
from nprt.ops.linear import Linear
from nprt.ops.pad import Pad
from nprt.ops.slice import Slice
from nprt.ops.table import OPS

# --- printing -----------------------------------------------------------------------------------------

PRINTED = """\
input x: f32[N,2]
const w: i8[3,2]*0.125..0.5/0
const b: i32[3]*0.0625..0.25/0
q: i8[N,2]*0.5+3 = quantize x
y: i8[N,3]*0.75-3 = linear[clamp=(-3,127)] q w b
output y"""


def test_a_model_prints_as_its_op_list() -> None:
    """A line for each input, constant and op, and one for the outputs."""
    assert str(two_layers()) == PRINTED


def test_ops_print_their_fields_and_inputs() -> None:
    """Fields at their defaults are left out, an absent input is a dash."""
    assert str(Linear(inputs=("x", "w", "", "z"), outputs=("y",))) == "linear x w - z"
    assert (
        str(Linear(inputs=("x", "w"), outputs=("y",), numerics="ort")) == "linear[numerics=ort] x w"
    )
    pad = Pad(inputs=("x",), outputs=("y",), padding=((0, 0), (1, 2)), value=-1.0)
    assert str(pad) == "pad[padding=((0,0),(1,2)), value=-1.0] x"
    part = Slice(inputs=("x",), outputs=("y",), starts=(0,), stops=(None,), steps=(2,))
    assert str(part) == "slice[starts=(0), stops=(None), steps=(2)] x"


def test_types_print_short() -> None:
    """dtype, shape, and what a code stands for."""
    assert str(TensorType("uint8", ("N", 3), QuantParams.of(0.5, 0))) == "u8[N,3]*0.5+0"
    assert str(TensorType("bool", ())) == "bool[]"
    assert (
        str(TensorType("int8", (2, 1), QuantParams.of([0.5, 0.25], [0, 0], 0)))
        == "i8[2,1]*0.25..0.5/0"
    )


# --- the table of ops ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPS)
def test_each_op_is_described_by_its_class(name: str) -> None:
    """Name, values, docstring and typed fields: what the file, the printer and the documentation are made from."""
    op = OPS[name]
    assert op.name == name
    assert op.__module__ == f"nprt.ops.{name}"
    assert op.__doc__
    assert "\n    Values:\n" in op.__doc__
    assert op.INPUTS
    assert op.OUTPUTS
    hints = typing.get_type_hints(op)
    assert _field_hints(op) == {field.name: hints[field.name] for field in dataclasses.fields(op)}
    for field in op.own_fields():
        assert storable(hints[field.name]), f"{name}.{field.name} cannot be written to a file"
    for method in ("type_rule", "reference"):
        assert method in {key for base in op.__mro__[:-2] for key in vars(base)}
    assert list(OPS) == sorted(OPS)


def storable(hint: Any) -> bool:
    """Whether a field's type is a scalar, a tuple, or a union of these."""
    inner = [part for part in typing.get_args(hint) if part is not ...]
    return hint in (int, float, bool, str, type(None)) or (
        bool(inner) and all(map(storable, inner))
    )


# --- quantization parameters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "zero_point", "axis", "words"),
    [
        ((), (), None, "0 scales without an axis"),
        ((), (), 0, "0 scales along an axis"),
        ((0.5, 0.5), (0, 0), None, "2 scales without an axis"),
        ((0.5,), (0, 0), None, "1 scales but 2 zero points"),
        ((0.0,), (0,), None, "scale 0.0 is not a positive finite float32"),
        ((-0.5,), (0,), None, "scale -0.5"),
        ((float("nan"),), (0,), None, "scale nan"),
        ((float("inf"),), (0,), None, "scale inf"),
        ((0.1,), (0,), None, "scale 0.1 is not"),
        ((1e300,), (0,), None, "scale 1e\\+300"),
        ((0.5, 1e-300), (0, 0), 0, "scale 1e-300"),
    ],
)
def test_impossible_quantization(scale: Any, zero_point: Any, axis: Any, words: str) -> None:
    """Scales are positive float32 numbers, as many as zero points, and more than one only along an axis."""
    with pytest.raises(QuantizationError, match=words):
        QuantParams(scale, zero_point, axis)


def test_scales_are_rounded_to_float32() -> None:
    """`of` takes numbers and arrays; the stored numbers are what float32 holds."""
    params = QuantParams.of(0.1)
    assert params.scale == (float(np.float32(0.1)),)
    assert params.zero_point == (0,)
    assert (params.scales.dtype, params.scales.shape) == (np.float32, ())
    assert (params.zero_points.dtype, params.zero_points.shape) == (np.int32, ())
    along = QuantParams.of(np.array([0.5, 0.25]), np.array([1, -1]), 1)
    assert along == QuantParams((0.5, 0.25), (1, -1), 1)
    np.testing.assert_array_equal(along.scales, np.array([0.5, 0.25], np.float32))
    assert QuantParams.of([0.5, 0.25], 0, 0).zero_point == (0, 0)
    assert QuantParams.of(2.0**-149).scale == (2.0**-149,)


# --- types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "shape", "quant", "error", "words"),
    [
        ("int4", (), None, ModelError, "dtype 'int4' is not one of int8, uint8"),
        ("float64", (), None, ModelError, "dtype 'float64'"),
        ("int8", (-1,), None, ShapeError, "dimension -1 is negative"),
        ("int8", ("",), None, ShapeError, "dimension '' is neither an integer nor a name"),
        ("int8", ("a b",), None, ShapeError, "dimension 'a b'"),
        (
            "int8",
            (1 << 16, 1 << 15),
            None,
            ShapeError,
            "has 2147483648 elements; at most 2147483647",
        ),
        ("int8", (0, 1 << 40), None, ShapeError, "has 1099511627776 elements"),
        ("int8", (1,) * 17, None, ShapeError, "17 dimensions; at most 16"),
        ("float32", (), QuantParams.of(1), QuantizationError, "dtype float32 cannot be quantized"),
        ("bool", (), QuantParams.of(1), QuantizationError, "dtype bool cannot be quantized"),
        ("int64", (), QuantParams.of(1), QuantizationError, "dtype int64 cannot be quantized"),
        (
            "int8",
            (),
            QuantParams.of(1, 128),
            QuantizationError,
            "zero point 128 is not a code of int8",
        ),
        (
            "uint8",
            (),
            QuantParams.of(1, -1),
            QuantizationError,
            "zero point -1 is not a code of uint8",
        ),
        ("int8", (2,), QuantParams.of([1, 1], 0, 1), QuantizationError, "axis 1 is not one of 1"),
        (
            "int8",
            (3,),
            QuantParams.of([1, 1], 0, 0),
            QuantizationError,
            "2 scales on axis 0 of size 3",
        ),
        (
            "int8",
            ("N",),
            QuantParams.of([1, 1], 0, 0),
            QuantizationError,
            "2 scales on axis 0 of size N",
        ),
    ],
)
def test_impossible_types(dtype: str, shape: Any, quant: Any, error: type, words: str) -> None:
    """A type that says something impossible cannot be made."""
    with pytest.raises(error, match=words):
        TensorType(dtype, shape, quant)


def test_facts_of_a_type() -> None:
    """What the type rules ask for."""
    type = codes("N", 3)
    assert (type.rank, type.is_codes, type.is_float) == (2, True, False)
    assert type.code_range == (-128, 127)
    assert type.numpy == np.dtype(np.int8)
    assert (float(type.scale), int(type.zero_point)) == (0.5, 3)
    assert type.with_shape(("N", 3)) is type
    assert type.with_dtype("float32") == floats("N", 3)
    assert not TensorType("int32", (), QuantParams.of(1)).is_codes
    assert TensorType("int8", (MAX_ELEMENTS,)).shape == (MAX_ELEMENTS,)
    for plain in (floats(2), TensorType("uint8", ())):
        with pytest.raises(QuantizationError, match="has no scale and zero point"):
            _ = plain.scale


def test_bind_replaces_symbols() -> None:
    """A run gives each symbol its size; the result is checked like any type."""
    type = floats("N", 3, "N", "M")
    assert symbols(type.shape) == ("M", "N", "N")
    assert numel(type.shape) == 3
    assert type.bind({"N": 2, "M": 5}) == floats(2, 3, 2, 5)
    assert floats(2).bind({}) == floats(2)
    with pytest.raises(ShapeError, match="at most 2147483647"):
        type.bind({"N": 1 << 15, "M": 1})


# --- frozen -------------------------------------------------------------------------------------------


def test_nothing_can_be_changed() -> None:
    """Models, types, parameters and ops are values: to change one, make another."""
    model = two_layers()
    for value, name in (
        (model, "ops"),
        (model.ops[0], "inputs"),
        (model.ops[1], "clamp"),
        (model.types["q"], "shape"),
        (model.types["q"].quant, "scale"),
        (model.origin, "producer"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, None)
    for mapping in (model.types, model.constants):
        with pytest.raises(TypeError):
            mapping["x"] = None  # type: ignore[index]


def test_a_model_keeps_its_own_tables() -> None:
    """Changing the dicts that a model was made from does not change it."""
    types = {"x": floats(1)}
    model = dataclasses.replace(two_layers(), types=types)
    types["y"] = floats(2)
    assert list(model.types) == ["x"]


def test_equal_ops_and_types_are_equal() -> None:
    """Types and ops compare by value and can be keys."""
    assert two_layers().ops == two_layers().ops
    assert len({*two_layers().types.values(), *two_layers().types.values()}) == 5
    assert hash(two_layers().ops[1]) == hash(two_layers().ops[1])


# --- tensors ------------------------------------------------------------------------------------------


def test_tensor_in_real_numbers() -> None:
    """`centered` is code - zero point, `real` is that times the scale; both along an axis where there is one."""
    type = TensorType("uint8", (2, 2), QuantParams.of([0.5, 2], [1, 128], 1))
    tensor = Tensor(type, np.array([[0, 255], [1, 128]], np.uint8))
    np.testing.assert_array_equal(tensor.centered(), np.array([[-1, 127], [0, 0]], np.float32))
    np.testing.assert_array_equal(tensor.real(), np.array([[-0.5, 254], [0, 0]], np.float32))
    assert tensor.real().dtype == tensor.centered().dtype == np.float32
    plain = Tensor(TensorType("uint8", (1,)), np.array([7], np.uint8))
    zero_point = Tensor(TensorType("uint8", (1,)), np.array([9], np.uint8))
    np.testing.assert_array_equal(plain.centered(), np.array([7], np.float32))
    np.testing.assert_array_equal(plain.centered(zero_point), np.array([-2], np.float32))


def test_arguments_of_an_op() -> None:
    """Each input's value in order, None where one is absent; the op's own fields without its values' names."""
    op = Linear(inputs=("x", "w", "", "z"), outputs=("y",), clamp=(0, 1))
    assert op.arguments(str.upper) == ["X", "W", None, "Z"]
    assert op.used_inputs() == ("x", "w", "z")
    assert op.fields() == {"clamp": (0, 1), "numerics": "integer"}
    assert DynamicQuantize.OUTPUTS == ("y", "scale", "zero_point")
