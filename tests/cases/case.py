"""One op with its types and the values of its inputs: what tests and benchmarks run.

    case("stride_2", Conv, "i8[N,9,9,3]*0.02+3", "const i8[5,3,3,3]*0.004..0.009/0", y="i8*0.07-11", stride=(2, 2), ...)

Inputs stand in the op's order, "" for one that is absent. Types are written as a model prints them:

    input  ::= "const "? type values?
    type   ::= dtype shape? quant?               i8 u8 i16 i32 i64 f32 bool
    shape  ::= [dim, ...]                        N is the batch; other symbols are small sizes that do not change
    quant  ::= *scale+zero_point
             | *least..greatest/axis spread?     scales drawn between the two, zero points in the middle of the dtype
    spread ::= ~integer                          zero points drawn that far around the middle
    values ::= in low..high                      both ends, then random between them
             | ends                              the least code along one index, the greatest along the next
             | step size                         float32 multiples of `size`: ties, where it is half a scale
             | wild                              float32 with NaN, infinities, the largest and the least numbers

Without `values`: the ends of the dtype, the zero point, every power of two, each +-1 and +-2, then random; for float32
zeros of both signs, powers of two and their neighbours, then a normal distribution of spread 3.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from nprt.ir import DTYPES, Array, Model, Op, QuantParams, TensorType

SHORT = {"i8": "int8", "u8": "uint8", "i16": "int16", "i32": "int32", "i64": "int64"}
SHORT |= {"f32": "float32", "bool": "bool"}

NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
INPUT = re.compile(
    r"(?P<const>const )?(?P<dtype>\w+)(\[(?P<shape>[\w,]*)\])?(?P<quant>\*\S+)?( (?P<values>.+))?"
)
PER_TENSOR = re.compile(rf"\*(?P<scale>{NUMBER})(?P<zero_point>[+-]\d+)")
PER_AXIS = re.compile(
    rf"\*(?P<least>{NUMBER})\.\.(?P<greatest>{NUMBER})/(?P<axis>\d+)(~(?P<spread>\d+))?"
)
VALUES = re.compile(
    rf"in (?P<low>{NUMBER})\.\.(?P<high>{NUMBER})|step (?P<step>{NUMBER})|(?P<word>ends|wild|usual)"
)


@dataclass(frozen=True, eq=False)
class Case:
    """A named use of one op.

    Attributes:
        name: unique among the cases of the op.
        op: with inputs and outputs named as the op's class names them; a repeated input is x0, x1, ...
        types: of all inputs and outputs.
        recipes: for each input, how its values are drawn, or the array itself.
        constant_names: the inputs that are constants of the model.
        bench: whether this is a layer of a real network, worth timing.
    """

    name: str
    op: Op
    types: Mapping[str, TensorType]
    recipes: Mapping[str, str | Array]
    constant_names: tuple[str, ...]
    bench: bool = False

    @property
    def id(self) -> str:
        return f"{self.op.name}-{self.name}"

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs that are fed when the model runs."""
        return tuple(n for n in self.op.used_inputs() if n not in self.constant_names)

    @cached_property
    def constants(self) -> dict[str, Array]:
        """The same arrays each time, read-only."""
        rng = _generator(self.id)
        arrays = {n: _draw(rng, self.types[n], self.recipes[n]) for n in self.constant_names}
        for array in arrays.values():
            array.setflags(write=False)
        return arrays

    def model(self) -> Model:
        """The op alone in a model."""
        return Model(
            inputs=self.input_names,
            outputs=self.op.outputs,
            types=self.types,
            constants=self.constants,
            ops=(self.op,),
        )

    def dims(self, batch: int) -> dict[str, int]:
        """What the symbols of the inputs stand for."""
        symbols = {d for n in self.input_names for d in self.types[n].shape if isinstance(d, str)}
        others = sorted(symbols - {"N"})
        return {"N": batch, **{symbol: 3 + i for i, symbol in enumerate(others)}}

    def feeds(self, seed: int = 0, batch: int = 1) -> dict[str, Array]:
        """Arrays for the model's inputs: the same for the same seed and batch."""
        rng = _generator(self.id, seed, batch)
        dims = self.dims(batch)
        return {
            n: _draw(rng, self.types[n].bind(dims), self.recipes[n], start=seed)
            for n in self.input_names
        }

    def output_types(self, batch: int) -> tuple[TensorType, ...]:
        return tuple(self.types[n].bind(self.dims(batch)) for n in self.op.outputs)


def case(
    name: str,
    op: type[Op],
    /,
    *inputs: str | tuple[str, Array],
    y: str = "",
    bench: bool = False,
    **fields: Any,
) -> Case:
    """A case from the grammar above.

    Args:
        inputs: the type and the values of each input; a pair where the values are an array.
        y: the declared type of the output, its shape only where the op takes it from there; left out where the inputs
            settle it.
        fields: the op's own.
    """
    names = _input_names(op, len(inputs))
    types: dict[str, TensorType] = {}
    recipes: dict[str, str | Array] = {}
    constants = []
    for input_name, given in zip(names, inputs, strict=True):
        text, array = given if isinstance(given, tuple) else (given, None)
        if not text:
            continue
        types[input_name], values, constant = parse(text, f"{op.name}-{name}-{input_name}")
        recipes[input_name] = values if array is None else np.array(array)
        if constant:
            constants.append(input_name)
    used = tuple(n if n in types else "" for n in names)
    node = op(inputs=used, outputs=op.OUTPUTS, **fields)
    declared = parse(y, f"{op.name}-{name}-y")[0] if y else types[names[0]]
    result = node.type_rule(*[declared] * len(op.OUTPUTS), *node.arguments(types.__getitem__))
    results = result if isinstance(result, tuple) else (result,)
    types |= dict(zip(op.OUTPUTS, results, strict=True))
    return Case(name, node, types, recipes, tuple(constants), bench)


def parse(text: str, seed: str) -> tuple[TensorType, str, bool]:
    """The type, how to draw values, and whether it is a constant. `seed` settles what the text leaves to chance."""
    match = INPUT.fullmatch(text)
    if match is None or match["dtype"] not in SHORT:
        raise ValueError(f"{text!r} is not a type; see {__name__}")
    values = match["values"] or "usual"
    if not VALUES.fullmatch(values):
        raise ValueError(f"{values!r} in {text!r} does not say how to draw values")
    dtype = SHORT[match["dtype"]]
    dims = filter(None, (match["shape"] or "").split(","))
    shape = tuple(int(d) if d.isdigit() else d for d in dims)
    quant = _parse_quant(match["quant"], dtype, shape, seed) if match["quant"] else None
    return TensorType(dtype, shape, quant), values, match["const"] is not None


def _parse_quant(text: str, dtype: str, shape: tuple[int | str, ...], seed: str) -> QuantParams:
    if match := PER_TENSOR.fullmatch(text):
        return QuantParams.of(float(match["scale"]), int(match["zero_point"]))
    match = PER_AXIS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantization; see {__name__}")
    rng = _generator(seed)
    axis, spread = int(match["axis"]), int(match["spread"] or 0)
    least, greatest, count = float(match["least"]), float(match["greatest"]), shape[axis]
    scales = rng.uniform(least, greatest, count)
    scales[-1:], scales[:1] = greatest, least
    middle = 128 if dtype == "uint8" else 0
    return QuantParams.of(scales, middle + rng.integers(-spread, spread + 1, count), axis)


def _input_names(op: type[Op], count: int) -> tuple[str, ...]:
    names = tuple(n.rstrip("?*") for n in op.INPUTS)
    if op.INPUTS[-1].endswith("*"):
        return names[:-1] + tuple(f"{names[-1]}{i}" for i in range(count - len(names) + 1))
    return names[:count]


# --- values -------------------------------------------------------------------------------------------


def _generator(text: str, *more: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(text.encode()), *more])


def _draw(rng: np.random.Generator, type: TensorType, recipe: str | Array, start: int = 0) -> Array:
    """An array of `type`, which has no symbols. `start` moves the pattern of `ends`."""
    dtype, shape = DTYPES[type.dtype], tuple(map(int, type.shape))
    if not isinstance(recipe, str):
        return np.array(recipe, dtype).reshape(shape)
    match = VALUES.fullmatch(recipe)
    assert match is not None
    if type.dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if match["word"] == "ends":
        axis = (type.quant.axis if type.quant else None) or 0
        index = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        ends = np.array(type.code_range, dtype)
        return np.broadcast_to(ends[(index + start) % 2], shape).copy()
    if match["low"]:
        low, high = float(match["low"]), float(match["high"])
        if type.is_float:
            data, special = rng.uniform(low, high, shape).astype(dtype), [low, high]
        else:
            data = rng.integers(int(low), int(high), shape, dtype, endpoint=True)
            special = [int(low), int(high)]
    elif match["step"]:
        data, special = rng.integers(-700, 701, shape) * np.float32(match["step"]), [0.0]
    elif type.is_float:
        data = (rng.normal(size=shape) * 3).astype(np.float32)
        special = _special_floats(match["word"] == "wild")
    else:
        low, high = type.code_range
        data = rng.integers(low, high, shape, dtype, endpoint=True)
        special = _special_integers(low, high, *(type.quant.zero_point[:1] if type.quant else ()))
    # At most half of the elements are special ones; which of them, if there is no room for all, is random.
    count = min((data.size + 1) // 2, len(special))
    places = rng.permutation(data.size)[:count]
    data = np.array(data, dtype)
    data.flat[places] = rng.permutation(np.array(special, dtype))[:count]
    return data


@cache
def _special_integers(low: int, high: int, *zero_points: int) -> list[int]:
    centers = {0, low, high, *zero_points, *(s * 2**i for i in range(63) for s in (1, -1))}
    near = {center + step for center in centers for step in (-2, -1, 0, 1, 2)}
    return sorted(value for value in near if low <= value <= high)


def _special_floats(wild: bool) -> list[float]:
    one = np.float32(1)
    near_one = [1.0, float(np.nextafter(one, 2 * one)), float(np.nextafter(one, 0 * one))]
    special = [0.0, -0.0, 0.5, 1.5, 2.5]
    special += [sign * 2.0**i * x for i in (-4, 0, 3) for x in near_one for sign in (1, -1)]
    if wild:
        limits = np.finfo(np.float32)
        tiny = float(limits.smallest_subnormal)
        huge = [float(limits.max), float(limits.tiny), tiny, np.inf, 2.0**24 + 2, 2.0**31, 2.0**63]
        special += [sign * x for x in huge for sign in (1, -1)] + [np.nan]
    return special


# --- products -----------------------------------------------------------------------------------------

# What turns their sums into codes: numerics, dtype of the bias, whether each channel has a scale of its own.
FORMULAS = (
    ("integer", "i32", True),
    ("ort", "i32", True),
    ("qnnpack", "i32", True),
    ("fbgemm", "f32", True),
    ("fbgemm", "f32", False),
    ("onednn", "f32", True),
    ("pt2e", "f32", True),
)
# Scales of x, of w for each channel and for all, and of y; the bias. Before rounding, int32 holds all numbers or few;
# few because of the bias alone, which only real numbers can be.
SIZES = {
    "near": (0.0217, "0.004..0.009", 0.0073, 0.09, 900),
    "far": (1.7, "0.4..0.9", 0.73, 1e-6, 900),
    "far_bias": (0.01, "0.0007..0.001", 0.001, 0.01, 10**8),
}


def ends_of_products(op: type[Op], x: str, w: str, *, axis: int = 0, **fields: Any) -> list[Case]:
    """Cases of every formula, with numbers of each size, with a clamp and without.

    Args:
        x, w: the shapes, x without the batch.
        axis: of the channels of w.
    """
    channels = w.split(",")[axis]
    found = []
    for numerics, dtype, per_channel in FORMULAS:
        for size, (x_scale, each, all, y_scale, bias) in SIZES.items():
            if size == "far_bias" and dtype != "f32":
                continue
            scales = f"{each}/{axis}" if per_channel else f"{all}+0"
            found += [
                case(
                    f"{x}_{numerics}{'' if per_channel else '_tensor'}_{size}{'_clamped' * bool(clamp)}",
                    op,
                    f"u8[N,{x}]*{x_scale}+117",
                    f"const i8[{w}]*{scales}",
                    f"const {dtype}[{channels}] in -{bias}..{bias}",
                    y=f"u8*{y_scale}+117",
                    clamp=clamp,
                    numerics=numerics,
                    **fields,
                )
                for clamp in (None, (117, 200))
            ]
    return found


# --- fields -------------------------------------------------------------------------------------------


def sliding(
    rank: int, *, stride: Any = 1, dilation: Any = 1, padding: Any = 0, **more: Any
) -> dict[str, Any]:
    """The fields of an op on windows: an integer stands for all axes, and in `padding` for both sides of each."""

    def every(value: Any) -> tuple[Any, ...]:
        return value if isinstance(value, tuple) else (value,) * rank

    pairs = tuple(p if isinstance(p, tuple) else (p, p) for p in every(padding))
    more = {name: every(value) if name == "kernel" else value for name, value in more.items()}
    return {"stride": every(stride), "dilation": every(dilation), "padding": pairs, **more}
