"""Layers whose input is quantized when the model runs, and recurrent layers: `quantized.linear_dynamic`, LSTM, GRU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nprt import rounding
from nprt.converters.torch_ops.elementwise import Translate
from nprt.converters.torch_ops.importer import (
    Importer,
    arguments,
    array_of,
    packed_engine,
    quantized_array,
)
from nprt.converters.torch_ops.recording import Call, Known, Ref
from nprt.errors import ModelError
from nprt.ir import CODE_DTYPES, Array, QuantParams, TensorType
from nprt.ops.add import Add
from nprt.ops.cast import Cast
from nprt.ops.concat import Concat
from nprt.ops.dynamic_linear import DynamicLinear
from nprt.ops.dynamic_quantize import DynamicQuantize
from nprt.ops.gru import Gru
from nprt.ops.linear import Linear
from nprt.ops.lstm import Lstm
from nprt.ops.mul import Mul
from nprt.ops.rules import known
from nprt.ops.sub import Sub
from nprt.ops.transpose import Transpose
from nprt.ops.unary import Unary

# --- codes with a scale that is found at run time -----------------------------------------------------


@dataclass(frozen=True)
class FoundAtRunTime:
    """What torch.quantize_per_tensor_dynamic made. A linear layer can read its source instead, and its `fields`."""

    source: Any
    dtype: str
    reduce_range: bool

    @property
    def plain(self) -> bool:
        """Whether it is what `dynamic_linear` does."""
        return self.dtype == "uint8"

    def fields(self) -> dict[str, Any]:
        return {"numerics": "fbgemm", "reduce_range": self.reduce_range}

    def real(self, m: Importer, out: str) -> str:
        """The source quantized and dequantized again."""
        names = [f"{out}~{part}" for part in ("codes", "scale", "zero_point")]
        like = TensorType(self.dtype, ())
        fields = {"numerics": "torch", "reduce_range": self.reduce_range}
        m.emit(DynamicQuantize, m.real(self.source), out=names, like=like, **fields)
        codes, scale, zero_point = m.graph.ops[-1].outputs
        numbers = [
            m.emit(Cast, value, out=f"{value}~float", like=TensorType("float32", ()))
            for value in (codes, zero_point)
        ]
        return m.emit(Mul, m.emit(Sub, *numbers, out=f"{out}~difference"), scale, out=out)


def quantize_per_tensor_dynamic(m: Importer, call: Call) -> None:
    x, _, reduce_range = arguments(call, "self", "dtype", "reduce_range")
    if m.result(call).dtype == torch.float16:
        raise ModelError(
            "it rounds the inputs of a layer to float16, which nprt does not have; convert_fx makes float16 layers "
            "with float32 inputs"
        )
    dtype = m.type_of(m.result(call)).dtype
    if dtype not in CODE_DTYPES:
        raise ModelError(f"it quantizes to {dtype}; expected torch.quint8 or torch.qint8")
    m.traits.quantized = True
    (ref,) = call.outputs
    assert ref is not None
    m.run_time[ref] = FoundAtRunTime(x, dtype, bool(reduce_range) and m.engine != "qnnpack")
    m.later(ref, no_fixed_scale)


def no_fixed_scale() -> str:
    raise ModelError("it reads codes whose scale is found at run time; only dequantize can do so")


# --- linear -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """Unpacked weights: codes, or float32 with no engine."""

    weight: Array
    quant: QuantParams | None
    bias: Array | None
    engine: str

    def constants(self, m: Importer, base: str) -> tuple[str, str]:
        """The weights and the bias as graph constants; "" for no bias."""
        w = m.graph.constant(self.weight, f"{base}weight", self.quant)
        return w, "" if self.bias is None else m.graph.constant(self.bias, f"{base}bias")


def unpacked(packed: Any) -> Packed:
    """What LinearPackedParamsBase holds, whichever engine packed it."""
    weight, bias = packed.unpack()
    added = None if bias is None else array_of(bias)
    if not weight.is_quantized:
        return Packed(array_of(weight), None, added, "")
    codes, quant = quantized_array(weight)
    engine = packed_engine(packed)
    if engine == "onednn" and quant.axis is None:
        quant = QuantParams.of(scale_of_onednn(weight.q_scale()), quant.zero_points)
    return Packed(codes, quant, added, engine)


def scale_of_onednn(scale: float) -> Array:
    """The float32 that onednn's formulas take for what it makes of a float64 scale: eq. (44)."""
    wanted = rounding.twice_inverted_torch(np.float64(scale))
    nearest = np.float32(scale)
    candidates = [nearest, wanted, *(np.nextafter(nearest, np.float32(end)) for end in (0, 1e30))]
    for candidate in candidates:
        if rounding.twice_inverted(candidate) == wanted:
            return np.asarray(candidate)
    raise ModelError(f"no float32 stands for the weights' scale {scale!r} as onednn reads it")


def base_of(call: Call) -> str:
    """What the names of a module's constants begin with."""
    return f"{call.place.module}." if call.place.module else ""


def linear(activation: str = "") -> Translate:
    """int8 weights: `dynamic_linear` with the engine's numerics. float16 weights: a float32 layer."""

    def translate(m: Importer, call: Call) -> None:
        x, packed, reduce_range = arguments(call, "X", "W_prepack", reduce_range=False)
        m.traits.quantized = True
        out = f"{m.out(call)}~sum" if activation else m.out(call)
        y = product(m, m.real(x), unpacked(packed), base_of(call), out, reduce_range)
        if activation:
            y = m.emit(Unary, y, out=m.out(call), function=activation)
        m.bind(call, y)

    return translate


def product(
    m: Importer, x: str, packed: Packed, base: str, out: str, reduce_range: bool = False
) -> str:
    w, bias = packed.constants(m, base)
    if packed.quant is None:
        return m.emit(Linear, x, w, bias, out=out)
    return m.emit(
        DynamicLinear, x, w, bias, out=out, numerics=packed.engine, reduce_range=bool(reduce_range)
    )


def conv(m: Importer, call: Call) -> None:
    raise ModelError(
        "a dynamic convolution quantizes its result with the scale of its input, so that it saturates; quantize it "
        "statically, or leave it in float32"
    )


# --- lstm and gru -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """The weights of one layer in one direction."""

    input: Packed
    state: Packed
    reduce_range: bool = False


def cell_of(params: Any) -> Cell:
    """What rnn.CellParamsBase holds."""
    if isinstance(params, Ref | Known):
        raise ModelError("weights of recurrent layers in the format before PyTorch 1.6; save anew")
    (kind, _, _, integers, packed), _ = params.__getstate__()
    if kind not in ("quantized_dynamic", "quantized_fp16"):
        raise ModelError(f"recurrent weights of kind {kind!r} are not supported")
    w_ih, w_hh = map(unpacked, packed)
    return Cell(w_ih, w_hh, bool(integers and integers[0]))


def quantized_recurrent(cls: type[Lstm] | type[Gru]) -> Translate:
    """aten.quantized_lstm and aten.quantized_gru: all layers and directions in one operator."""

    def translate(m: Importer, call: Call) -> None:
        if call.overload != "input":
            raise ModelError(f"{PACKED_SEQUENCE} (overload {call.overload!r})")
        x, states, params, _, layers, dropout, train, bidirectional, batch_first, *_ = call.args
        if dropout and train:
            raise ModelError("dropout in training mode; call eval() on the module")
        m.traits.quantized = True
        states = states if cls is Lstm else [states]
        cells = [cell_of(item) for item in params]
        sequence(m, call, cls, x, states, cells, layers, bidirectional, batch_first)

    return translate


PACKED_SEQUENCE = (
    "a PackedSequence has samples of different lengths, which nprt does not have; "
    "run the layer on a padded tensor"
)


def packed_sequence(m: Importer, call: Call) -> None:
    raise ModelError(PACKED_SEQUENCE)


def sequence(
    m: Importer,
    call: Call,
    cls: type[Lstm] | type[Gru] | str,
    x: Any,
    states: Sequence[Any],
    cells: Sequence[Cell],
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> None:
    """Layers and directions as ops of one each; binds the sequence and the last states, (layers * directions, N, H)."""
    out, y = m.out(call), m.real(x)
    initial = [m.real(state, "state") for state in states]
    if batch_first:
        y = m.emit(Transpose, y, out=f"{out}~steps", perm=(1, 0, 2))
    directions = 2 if bidirectional else 1
    last: list[list[str]] = [[] for _ in states]
    for layer in range(layers):
        parts = []
        for direction in range(directions):
            index = layer * directions + direction
            step, *ends = recurrent(
                m,
                cls,
                y,
                [plane(m, state, index, f"{out}~state") for state in initial],
                cells[index],
                f"{base_of(call)}l{layer}{'_reverse' * direction}.",
                f"{out}~l{layer}",
                reverse=direction == 1,
            )
            parts.append(step)
            for ended, end in zip(last, ends, strict=True):
                ended.append(end)
        y = parts[0] if directions == 1 else m.emit(Concat, *parts, out=f"{out}~both", axis=2)
    if batch_first:
        y = m.emit(Transpose, y, out=out, perm=(1, 0, 2))
    m.bind(call, y, 0)
    for index, ended in enumerate(last):
        planes = [m.to_shape(e, (1, *m.graph.types[e].shape), f"{out}~end") for e in ended]
        joined = (
            planes[0] if len(planes) == 1 else m.emit(Concat, *planes, out=f"{out}~ends", axis=0)
        )
        m.bind(call, joined, 1 + index)


def recurrent(
    m: Importer,
    cls: type[Lstm] | type[Gru] | str,
    x: str,
    states: Sequence[str],
    cell: Cell,
    base: str,
    out: str,
    *,
    reverse: bool = False,
) -> tuple[str, ...]:
    """One layer in one direction: the sequence, and the last states."""
    w_ih, b_ih = cell.input.constants(m, f"{base}ih_")
    w_hh, b_hh = cell.state.constants(m, f"{base}hh_")
    if isinstance(cls, str):
        return elman(m, cls, x, states[0], (w_ih, w_hh, b_ih, b_hh), out, reverse=reverse)
    fields: dict[str, Any] = {"reverse": reverse}
    if cell.input.quant is not None:
        fields |= {"numerics": cell.input.engine, "reduce_range": cell.reduce_range}
    names = [out, *(f"{out}~{output}" for output in cls.OUTPUTS[1:])]
    m.emit(cls, x, *states, w_ih, w_hh, b_ih, b_hh, out=names, **fields)
    return m.graph.ops[-1].outputs


def elman(
    m: Importer,
    activation: str,
    x: str,
    state: str,
    weights: tuple[str, str, str, str],
    out: str,
    *,
    reverse: bool,
) -> tuple[str, str]:
    """`recurrent` of a plain layer in float32, step by step: the activation of the sum of both products."""
    w_ih, w_hh, b_ih, b_hh = weights
    gates = m.emit(Linear, x, w_ih, b_ih, out=f"{out}~input")
    length, *rest = m.graph.types[gates].shape
    order = range(known("the length of the sequence", length))
    steps = []
    for t in reversed(order) if reverse else order:
        product = m.emit(Linear, state, w_hh, b_hh, out=f"{out}~recurrent")
        total = m.emit(Add, product, plane(m, gates, t, f"{out}~step"), out=f"{out}~sum")
        state = m.emit(Unary, total, out=f"{out}~{activation}", function=activation)
        steps.append(m.to_shape(state, (1, *rest), f"{out}~step"))
    ordered = steps[::-1] if reverse else steps
    y = ordered[0] if len(ordered) == 1 else m.emit(Concat, *ordered, out=out, axis=0)
    return y, state


def plane(m: Importer, x: str, index: int, out: str) -> str:
    """x[index]"""
    shape = m.graph.types[x].shape
    part = x if shape[0] == 1 else m.sliced(x, {0: (index, index + 1, 1)}, out)
    return m.to_shape(part, shape[1:], out)


# --- cells --------------------------------------------------------------------------------------------


def cell(cls: type[Lstm] | type[Gru]) -> Translate:
    """quantized.quantized_lstm_cell_dynamic and quantized_gru_cell_dynamic.

    Their arguments b_ih and b_hh have no effect; the biases are those of the packed weights.
    """

    def translate(m: Importer, call: Call) -> None:
        x, states, w_ih, w_hh, *_ = call.args
        m.traits.quantized = True
        weights = Cell(unpacked(w_ih), unpacked(w_hh), reduce_range=True)
        one_step(m, call, cls, x, states if cls is Lstm else [states], weights)

    return translate


def one_step(
    m: Importer,
    call: Call,
    cls: type[Lstm] | type[Gru],
    x: Any,
    states: Sequence[Any],
    weights: Cell,
) -> None:
    """A cell as a sequence of one step; binds the next states."""
    out, value = m.out(call), m.real(x)
    one = m.to_shape(value, (1, *m.graph.types[value].shape), f"{out}~step")
    initial = [m.real(state, "state") for state in states]
    _, *ends = recurrent(m, cls, one, initial, weights, base_of(call), out)
    for index, end in enumerate(ends):
        m.bind(call, end, index)


def elman_cell(activation: str) -> Translate:
    """quantized.quantized_rnn_tanh_cell_dynamic and _relu_: the activation of the sum of both products."""

    def translate(m: Importer, call: Call) -> None:
        x, state, w_ih, w_hh, *_ = call.args
        m.traits.quantized = True
        out, base = m.out(call), base_of(call)
        parts = [
            product(
                m, m.real(item, "state"), unpacked(packed), f"{base}{part}_", f"{out}~{part}", True
            )
            for item, packed, part in ((state, w_hh, "hh"), (x, w_ih, "ih"))
        ]
        total = m.emit(Add, *parts, out=f"{out}~sum")
        m.bind(call, m.emit(Unary, total, out=out, function=activation))

    return translate


# --- float layers -------------------------------------------------------------------------------------


def float_layer(m: Importer, call: Call) -> None:
    """aten.mkldnn_rnn_layer: what nn.LSTM runs, one layer in one direction."""
    x, w_ih, w_hh, b_ih, b_hh, h, c, reverse, sizes, mode, _, _, _, _, _, train = call.args
    if mode != MKLDNN_LSTM or sizes or train:
        raise ModelError(PACKED_SEQUENCE if sizes else "only LSTM in eval mode is supported")
    weights = float_cell_of(m, w_ih, w_hh, b_ih, b_hh)
    states = [m.real(state, "state") for state in (h, c)]
    step, *ends = recurrent(
        m, Lstm, m.real(x), states, weights, base_of(call), m.out(call), reverse=bool(reverse)
    )
    m.bind(call, step, 0)
    for index, end in enumerate(ends, 1):
        m.bind(call, end, index)


MKLDNN_LSTM = 2


def float_recurrent(cls: type[Lstm] | type[Gru] | str) -> Translate:
    """aten.lstm and aten.gru, kept whole; aten.rnn_tanh and aten.rnn_relu by the name of their activation."""

    def translate(m: Importer, call: Call) -> None:
        if isinstance(call.args[3], list | tuple):
            raise ModelError(PACKED_SEQUENCE)
        x, states, params, has_biases, layers, dropout, train, bidirectional, batch_first = (
            call.args
        )
        if dropout and train:
            raise ModelError("dropout in training mode; call eval() on the module")
        each = 4 if has_biases else 2
        if len(params) != each * layers * (2 if bidirectional else 1):
            raise ModelError("an LSTM with projections (proj_size) is not supported")
        cells = [
            float_cell_of(m, *params[start : start + each]) for start in range(0, len(params), each)
        ]
        states = states if cls is Lstm else [states]
        sequence(m, call, cls, x, states, cells, layers, bidirectional, batch_first)

    return translate


def float_cell(cls: type[Lstm] | type[Gru]) -> Translate:
    """aten.lstm_cell and aten.gru_cell, kept whole: a sequence of one step."""

    def translate(m: Importer, call: Call) -> None:
        x, states, *params = call.args
        one_step(m, call, cls, x, states if cls is Lstm else [states], float_cell_of(m, *params))

    return translate


def float_cell_of(m: Importer, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Cell:
    return Cell(float_weights(m, w_ih, b_ih), float_weights(m, w_hh, b_hh))


def float_weights(m: Importer, weight: Any, bias: Any) -> Packed:
    if not isinstance(weight, Known):
        raise ModelError("recurrent weights must be constant")
    added = None if bias is None else m.array(bias, "a bias")
    return Packed(m.array(weight, "weights"), None, added, "")
