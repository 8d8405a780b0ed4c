"""What `check` accepts can be run: ops with random types and fields, many of them absurd, fail by named errors only."""

from __future__ import annotations

import random
import typing
import warnings
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest

from nprt import rounding
from nprt.check import check, output_types
from nprt.errors import NprtError
from nprt.ir import Array, Dim, Model, QuantParams, Shape, TensorType
from nprt.ops.compare import RELATIONS
from nprt.ops.resize import COORDINATES, NEAREST
from nprt.ops.table import OPS
from nprt.ops.unary import FUNCTIONS
from nprt.session import Session

CASES = 250  # for each op
ABSURD = [0, -1, -2, 2**20, 2**20 + 1, 2**29, 10**9, 2**31, 10**18, 2**63 - 1, -(2**63)]
CHOICES = {
    "mode": ["constant", "edge", "reflect", "nearest", "linear"],
    "coordinates": list(COORDINATES),
    "nearest": list(NEAREST),
    "numerics": ["integer", "integer", "integer", "torch", *rounding.NUMERICS],
    "relation": list(RELATIONS),
    "function": list(FUNCTIONS),
}
SPATIAL = {
    *("conv", "conv_transpose", "depthwise_conv"),
    *("adaptive_average_pool", "average_pool", "max_pool", "resize"),
}


class Maker:
    """Random values for one case. Most are plausible, so that many cases pass the type rules."""

    def __init__(self, name: str, seed: int) -> None:
        self.random = random.Random(f"{name} {seed}")
        self.numpy = np.random.default_rng(self.random.randrange(2**32))
        self.spatial = name in SPATIAL
        self.gates = {"gru": 3, "lstm": 4}.get(name, 0)
        self.bags = name == "embedding_bag"
        self.rank = self.random.choice(
            [3]
            if self.gates
            else [2]
            if name == "embedding_bag"
            else [3, 4, 4, 5]
            if self.spatial
            else [0, 1, 2, 3, 4]
        )
        self.batch = self.random.choice([0, 1, 2])

    def sometimes(self, probability: float) -> bool:
        return self.random.random() < probability

    def dim(self) -> Dim:
        if self.sometimes(0.01):
            return self.random.choice([2**20, 2**28, 2**29, 2**31 - 1])
        return self.random.choice([1, 1, 2, 3, 4] if self.spatial else [0, 1, 1, 2, 3, 4, "N"])

    def shape(self, rank: int) -> Shape:
        sizes = tuple(self.dim() for _ in range(rank))
        return ("N", *sizes[1:]) if sizes and self.sometimes(0.3) else sizes

    def field(self, name: str, hint: Any) -> Any:
        """A value of the type that `hint` names."""
        args = typing.get_args(hint)
        if hint is int:
            return self.random.choice(ABSURD if self.sometimes(0.02) else [1, 1, 1, 1, 2, 3, 0])
        if hint is bool:
            return self.sometimes(0.5)
        if hint is float:
            return self.random.choice([0.0, 1.0, -1.0, 0.5, 6.0, 1e-30, -1e300, 5e-324])
        if hint is str:
            return self.random.choice(CHOICES[name])
        if hint is type(None):
            return None
        if typing.get_origin(hint) is not tuple:
            return self.field(name, self.random.choice(args))
        if name == "perm":
            return tuple(self.random.sample(range(self.rank), self.rank))
        if args[-1] is not ...:
            return tuple(self.field(name, part) for part in args)
        length = self.rank - 2 if self.spatial else self.rank
        if name in ("axes", "parameters"):
            length = self.random.choice([1, 2])
        return tuple(self.field(name, args[0]) for _ in range(max(length, 0)))

    def type(self, shape: Shape, kind: str) -> TensorType:
        """`kind` is a dtype, or "codes", "codes per axis" or "plain codes"."""
        if not kind.endswith("codes") and kind != "codes per axis":
            quant = (
                QuantParams.of(0.5, self.random.choice([0, 2**31 - 1])) if kind == "int32" else None
            )
            return TensorType(kind, shape, quant if self.sometimes(0.3) else None)
        dtype, zeros = self.random.choice([("int8", [0, 0, 127, -128]), ("uint8", [0, 128, 255])])
        if kind == "plain codes":
            return TensorType(dtype, shape)
        axis = (
            self.random.choice([0, len(shape) - 1]) if kind == "codes per axis" and shape else None
        )
        count = 1 if axis is None else shape[axis]
        if not isinstance(count, int) or not 1 <= count < 9:
            axis, count = None, 1
        scales = [
            self.random.choice(
                [1e-45, 1e-30, 1e30, 3e38] if self.sometimes(0.03) else [0.02, 0.1, 1, 1 / 256]
            )
            for _ in range(count)
        ]
        return TensorType(dtype, shape, QuantParams.of(scales, self.random.choice(zeros), axis))

    def array(self, type: TensorType) -> Array:
        """Elements of any size that the dtype has, small integers for indices."""
        shape = tuple(self.batch if isinstance(dim, str) else dim for dim in type.shape)
        if type.is_float:
            return self.numpy.normal(0, self.random.choice([1, 100, 1e37]), shape).astype(
                np.float32
            )
        if type.dtype == "bool":
            return self.numpy.random(shape) < 0.5
        low, high = (-2, 3) if type.dtype in ("int32", "int64") else type.code_range
        if shape == (256,) and type.dtype == "int32":
            return rounding.exp_table(np.float32(0.1))
        return self.numpy.integers(low, high, shape, endpoint=True).astype(type.numpy)


def operand(maker: Maker, name: str, first: TensorType | None) -> TensorType:
    """A type for the input `name`, which mostly goes with the first one's."""
    codes = ["codes", "codes", "codes per axis"]
    if first is None:
        if maker.gates or maker.bags:
            kinds = ["float32", "plain codes"] if maker.bags else ["float32"]
            return maker.type(maker.shape(maker.rank), maker.random.choice(kinds))
        return maker.type(
            maker.shape(maker.rank),
            maker.random.choice([*codes, "codes", "float32", "float32", "bool", "int64"]),
        )
    channels = first.shape[-1] if first.shape else 1
    kinds = ["float32", "float32", "codes"] if first.is_float else codes
    if maker.gates:
        return recurrent_operand(maker, name, first)
    if maker.bags:
        return bag_operand(maker, name, first)
    if name == "w":
        kernel = [maker.random.choice([1, 1, 2, 3]) for _ in range(first.rank - 2)]
        shapes = [(2, *kernel, channels), (*kernel, channels), (channels, 2), (4, channels)]
        return maker.type(maker.random.choice(shapes), maker.random.choice(kinds))
    if name == "bias":
        return maker.type(
            (maker.random.choice([channels, 2, 4]),), "float32" if first.is_float else "int32"
        )
    if name == "table":
        return maker.type((256,), maker.random.choice(["codes", "int32", "float32"]))
    if name == "indices":
        return maker.type(maker.shape(maker.random.choice([0, 1, 2])), "int64")
    if name.endswith("zero_point"):
        return maker.type((), "plain codes")
    shape = maker.random.choice([first.shape, first.shape[-1:], ()])
    return (
        replace(first, shape=shape)
        if maker.sometimes(0.7) and not per_axis(first)
        else maker.type(shape, kinds[0])
    )


def recurrent_operand(maker: Maker, name: str, x: TensorType) -> TensorType:
    """A state, weights or a bias for two hidden units."""
    if name in ("h0", "c0"):
        return maker.type((*x.shape[1:2], 2), "float32")
    rows = maker.gates * maker.random.choice([2, 2, 2, 2, 3])
    if name.startswith("b"):
        return maker.type((rows,), "float32")
    kind = maker.random.choice(["codes", "codes per axis", "float32"])
    return maker.type((rows, x.shape[-1] if name == "w_ih" else 2), kind)


def bag_operand(maker: Maker, name: str, table: TensorType) -> TensorType:
    """Indices, where bags begin, factors, or what the codes of the table stand for."""
    if name in ("scale", "bias"):
        return maker.type(table.shape[:1], "float32")
    shapes: list[Shape] = [(0,), (1,), (1,), (2,), ("N", 1)]
    return maker.type(maker.random.choice(shapes), "float32" if name == "weights" else "int64")


def per_axis(type: TensorType) -> bool:
    return type.quant is not None and type.quant.axis is not None


def case(name: str, maker: Maker) -> Model:
    """A model of one op, checked. Raises NprtError where the dice fell badly."""
    cls = OPS[name]
    hints = typing.get_type_hints(cls)
    fields = {field.name: maker.field(field.name, hints[field.name]) for field in cls.own_fields()}
    if maker.sometimes(0.8):
        for key, usual in {"groups": 1, "clamp": None, "dilation": (1,) * (maker.rank - 2)}.items():
            if key in fields:
                fields[key] = usual
        if maker.gates:
            fields["numerics"] = "fbgemm"
        if maker.bags:
            fields["mode"] = maker.random.choice(["sum", "sum", "mean", "max"])
    types: dict[str, TensorType] = {}
    for value in (
        part.rstrip("*?") for part in cls.INPUTS if not part.endswith("?") or maker.sometimes(0.5)
    ):
        types[value] = operand(maker, value, next(iter(types.values()), None))
    inputs = [part.rstrip("*?") if part.rstrip("*?") in types else "" for part in cls.INPUTS]
    while not inputs[-1]:
        inputs.pop()
    first = types[inputs[0]]
    outputs = tuple(f"y{index}" for index in range(len(cls.OUTPUTS)))
    shape = maker.random.choice(
        [
            first.shape,
            maker.shape(maker.rank),
            (*first.shape[:1], *maker.shape(first.rank - 2), *first.shape[-1:]),
        ]
    )
    like = (
        replace(first, shape=shape)
        if maker.sometimes(0.4) and not per_axis(first)
        else maker.type(shape, maker.random.choice(["float32", "codes"]))
    )
    op = cls(inputs=tuple(inputs), outputs=outputs, **fields)
    found = output_types(op, (like,) * len(outputs), types.__getitem__)
    constants = {}
    for value, type in types.items():
        small = (
            all(isinstance(dim, int) for dim in type.shape) and prod(map(int, type.shape)) < 1000
        )
        if value != inputs[0] and small and maker.sometimes(0.8):
            constants[value] = maker.array(type)
    given = tuple(value for value in types if value not in constants)
    return check(
        Model(given, outputs, {**types, **dict(zip(outputs, found, strict=True))}, constants, (op,))
    )


def size(model: Model) -> int:
    return max(
        prod(max(int(d), 1) for d in t.shape if isinstance(d, int)) for t in model.types.values()
    )


@pytest.mark.parametrize("name", OPS)
def test_what_check_accepts_runs(name: str) -> None:
    """A result of the declared dtype and shape, or an InputError; nothing else, and no undefined conversions."""
    ran = 0
    for seed in range(CASES):
        maker = Maker(name, seed)
        try:
            model = case(name, maker)
        except NprtError:
            continue
        if size(model) > 100_000 or "1048576" in str(model):
            continue
        feeds = {value: maker.array(model.types[value]) for value in model.inputs}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=RuntimeWarning)
            warnings.filterwarnings("error", message="invalid value encountered in cast")
            try:
                results = Session(model).run(None, feeds)
            except NprtError:
                continue
            except Exception as error:
                raise AssertionError(f"{type(error).__name__}: {error}, in\n{model}") from error
        ran += 1
        for output, result in zip(model.outputs, results, strict=True):
            expected = model.types[output].bind({"N": maker.batch})
            assert (result.dtype, result.shape) == (expected.numpy, expected.shape), str(model)
    assert ran > 0, "the dice never gave a model that passes"
