"""Int8 kernels that treat each element by itself: functions of one code as tables, add, mul, cat, prelu.

PyTorch's vector loops take 64 elements at a time and leave the rest to scalar loops, which round otherwise on ties.
Which elements that are depends on the batch and on the number of threads, so nprt rounds all as the vector loops do,
and a model has a note where the difference can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nprt import rounding
from nprt.converters.torch_ops.elementwise import Translate
from nprt.converters.torch_ops.importer import Importer, arguments, quantized_array
from nprt.converters.torch_ops.recording import Call, Known, Ref, Value
from nprt.errors import ModelError
from nprt.ir import Dim, Op, TensorType
from nprt.ops.add import Add
from nprt.ops.concat import Concat
from nprt.ops.dequantize import Dequantize
from nprt.ops.expand import Expand
from nprt.ops.lookup import Lookup
from nprt.ops.prelu import Prelu
from nprt.ops.rules import known
from nprt.ops.unary import Unary

# Elements that a vector loop takes at once: of a tensor, and of the channels of one pixel in cat.
BLOCK, CAT_BLOCK = 64, 8

REMAINDER = (
    "torch may give codes that differ by one, on ties, to the last elements of a tensor or row, those beyond a "
    f"multiple of {BLOCK}"
)


# --- functions of one code ----------------------------------------------------------------------------


def table(m: Importer, call: Call) -> None:
    """Any operator on each code by itself: torch itself computes all 256 entries."""
    require_new_result(call)
    refs = [item for item in call.args if isinstance(item, Ref) and m.is_quantized(item)]
    if len(refs) != 1 or any(isinstance(item, Ref) for item in (*call.kwargs.values(),)):
        raise ModelError("one quantized tensor and numbers are expected here")
    (ref,) = refs
    value = m.recording.values[ref.index]
    codes = every_code(value)
    entries = evaluate(m, call, codes, ref)
    alone = torch.cat([evaluate(m, call, part, ref) for part in torch.split(codes, BLOCK // 2)])
    loop = loop_over(value, m.result(call))
    if loop == "scalar":
        entries = alone
    elif loop == "both" and not torch.equal(alone.int_repr(), entries.int_repr()):
        m.note(call, REMAINDER)
    function = call.op.rpartition(".")[2].strip("_")
    x = m.value(ref)
    if is_mixed_up(m, call, value):
        x = mixed_up(m, call, x)
    m.bind(call, looked_up(m, x, entries, m.out(call), function))


def loop_over(x: Value, y: Value) -> str:
    """Which loops torch's kernel runs from a tensor x to y: "vector", "scalar", or "both"."""
    if (x.contiguous and y.contiguous) or (x.channels_last and y.channels_last):
        size = math.prod(dim for dim in x.shape if isinstance(dim, int))
        return "both" if size % BLOCK else "vector"
    return "scalar" if x.contiguous or x.channels_last else "both"


def every_code(value: Value) -> torch.Tensor:
    """All codes of a quantized tensor's dtype, in order, with its scale and zero point."""
    assert value.scale is not None
    assert value.zero_point is not None
    signed = value.dtype == torch.qint8
    codes = (
        torch.arange(-128, 128, dtype=torch.int8)
        if signed
        else torch.arange(256, dtype=torch.uint8)
    )
    return torch._make_per_tensor_quantized_tensor(codes, value.scale, value.zero_point)


def evaluate(m: Importer, call: Call, x: torch.Tensor, ref: Ref) -> torch.Tensor:
    """The operator of `call` with `x` in the place of `ref`."""

    def given(item: Any) -> Any:
        if item == ref:
            return x
        if isinstance(item, Ref):
            raise ModelError("an argument depends on the inputs; it must be constant")
        return item.tensor if isinstance(item, Known) else item

    namespace, name = call.op.split(".", 1)
    function = getattr(getattr(getattr(torch.ops, namespace), name), call.overload)
    keywords = {key: given(item) for key, item in call.kwargs.items()}
    with using(m.engine):
        result: torch.Tensor = function(*map(given, call.args), **keywords)
    return result


class using:
    """torch's int8 engine for the time being."""

    def __init__(self, engine: str) -> None:
        self.engine = engine

    def __enter__(self) -> None:
        self.before = torch.backends.quantized.engine
        if self.engine != self.before:
            torch.backends.quantized.engine = self.engine

    def __exit__(self, *error: Any) -> None:
        if self.engine != self.before:
            torch.backends.quantized.engine = self.before


def looked_up(m: Importer, x: str, entries: torch.Tensor, out: str, function: str) -> str:
    """Codes x through a table; x itself where that changes nothing."""
    array, quant = quantized_array(entries)
    like = TensorType(array.dtype.name, (), quant)
    type = m.graph.types[x]
    least, greatest = type.code_range
    unchanged = np.array_equal(array, np.arange(least, greatest + 1))
    if unchanged and (type.dtype, type.quant) == (like.dtype, like.quant):
        return x
    name = m.graph.constant(array, f"{out}~table")
    return m.emit(Lookup, x, name, out=out, like=like, function=function)


def on_codes(otherwise: Translate) -> Translate:
    """A table where the first argument is quantized; `otherwise` in float32."""

    def translate(m: Importer, call: Call) -> None:
        if m.is_quantized(call.args[0]):
            return table(m, call)
        return otherwise(m, call)

    return translate


def require_new_result(call: Call) -> None:
    if call.overload.endswith("out"):
        raise ModelError("it writes into a tensor that it is given; use the form that returns one")


def is_mixed_up(m: Importer, call: Call, value: Value) -> bool:
    """Whether qnnpack's clamp mixes up the elements: it reads a channels-last tensor and writes a contiguous one."""
    clamps = call.op.rpartition(".")[2].strip("_") in ("clamp", "hardtanh", "relu6")
    mixed = value.channels_last and not value.contiguous and value.dtype == torch.quint8
    return clamps and mixed and m.engine == "qnnpack"


def mixed_up(m: Importer, call: Call, x: str) -> str:
    """The elements of x in the order of channels last, taken for the order of channels first."""
    m.note(
        call,
        "torch's engine qnnpack mixes up the elements of a channels_last tensor here, and nprt follows; call "
        "contiguous() before it, or fuse it into the layer before",
    )
    shape = m.graph.types[x].shape
    y = m.channels_last(x)
    return m.to_shape(y, shape, f"{m.out(call)}~mixed")


# --- two operands -------------------------------------------------------------------------------------


def binary(cls: type[Op], activation: str = "") -> Translate:
    """add and mul of two quantized tensors, or of one and a number."""

    def translate(m: Importer, call: Call) -> None:
        require_new_result(call)
        a, b = call.args[:2]
        if not all(isinstance(item, Ref | Known) for item in (a, b)):
            return table(m, call)
        numerics = m.add_engine(a, b) if cls is Add else "fbgemm"
        operands = m.real(a), m.real(b)
        if cls is Add and numerics == "fbgemm":
            numerics = add_loop(m, call, a, b, activation)
        y = m.emit(cls, *operands, out=f"{m.out(call)}~real", numerics=m.numerics(numerics))
        if activation:
            y = m.emit(Unary, y, out=f"{m.out(call)}~{activation}", function=activation)
        return m.quantize(call, y)

    return translate


def add_loop(m: Importer, call: Call, a: Any, b: Any, activation: str) -> str:
    """The numerics of an add that is not qnnpack's; with a note where torch may round some elements otherwise."""
    operands = [memory(m, item) for item in (a, b)]
    run = inner_run(operands, m.result(call).shape)
    if run is None and all(
        value.shape == m.result(call).shape and (value.contiguous or value.channels_last)
        for value in operands
    ):
        return "fbgemm-scalar"
    size = math.prod(dim for dim in run or (1,) if isinstance(dim, int))
    if size % BLOCK and loops_differ(m, call, operands, activation):
        m.note(call, REMAINDER)
    return "fbgemm"


def loops_differ(m: Importer, call: Call, operands: Sequence[Value], activation: str) -> bool:
    """Whether the scalar loop of add gives another code than the vector loop for any two codes."""
    types = [m.type_of(value) for value in (*operands, m.result(call))]
    qa, qb, qy = (rounding.Affine(type.scale, type.zero_point) for type in types)
    low, high = types[0].code_range
    right = np.arange(low, high + 1)
    left = right[:, np.newaxis]
    low = int(qy.zero_point) if activation == "relu" else low
    scalar, vector = (
        np.clip(formula(left, right, qa, qb, qy), low, high)
        for formula in (rounding.add_fbgemm_scalar, rounding.add_fbgemm)
    )
    return not np.array_equal(scalar, vector)


def memory(m: Importer, item: Any) -> Value:
    """What is recorded of an argument, or the same of a known one."""
    if isinstance(item, Ref):
        return m.recording.values[item.index]
    tensor: torch.Tensor = item.tensor
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim)
    return Value(
        m.shape(item),
        tensor.dtype,
        tensor.q_scale() if tensor.is_quantized else None,
        tensor.q_zero_point() if tensor.is_quantized else None,
        tensor.is_contiguous(),
        last is not None and tensor.is_contiguous(memory_format=last),
    )


def inner_run(operands: Sequence[Value], shape: tuple[Dim, ...]) -> tuple[Dim, ...] | None:
    """The dimensions that torch's loop runs over at once: the innermost ones along which the same operands repeat.

    None where the operands do not lie alike in memory, so that there is no vector loop.
    """
    rank = len(shape)
    if all(value.contiguous for value in operands):
        order = list(range(rank))
    elif all(value.channels_last for value in operands):
        order = [0, *range(2, rank), 1]
    else:
        return None
    shapes = [(1,) * (rank - len(value.shape)) + value.shape for value in operands]
    run: list[Dim] = []
    first: tuple[bool, ...] | None = None
    for axis in reversed(order):
        if shape[axis] == 1:
            continue
        repeats = tuple(each[axis] != shape[axis] for each in shapes)
        first = repeats if first is None else first
        if repeats != first:
            break
        run.append(shape[axis])
    return tuple(run)


# --- cat ----------------------------------------------------------------------------------------------


def cat(relu: bool) -> Translate:
    def translate(m: Importer, call: Call) -> None:
        require_new_result(call)
        parts, axis, *_ = call.args
        join(m, call, parts, axis, relu=relu)

    return translate


def cat_codes(otherwise: Translate) -> Translate:
    """aten's cat: what is quantized takes the scale of its first part."""

    def translate(m: Importer, call: Call) -> None:
        if not m.is_quantized(call.outputs[0]):
            return otherwise(m, call)
        parts, axis = arguments(call, "tensors", dim=0)
        return join(m, call, [part for part in parts if m.shape(part) != (0,)], axis)

    return translate


def stack_codes(otherwise: Translate) -> Translate:
    """aten's stack: parts with an axis more, joined."""

    def translate(m: Importer, call: Call) -> None:
        if not m.is_quantized(call.outputs[0]):
            return otherwise(m, call)
        parts, axis = arguments(call, "tensors", dim=0)
        axis %= len(m.result(call).shape)
        return join(m, call, [unsqueezed(m, call, part, axis) for part in parts], axis)

    return translate


def unsqueezed(m: Importer, call: Call, part: Any, axis: int) -> Any:
    """A part with a new axis of size 1."""
    if isinstance(part, Known):
        if part.repeats is not None:
            raise ModelError("stacking a constant that repeats with the batch is not supported")
        return Known(part.tensor.unsqueeze(axis), part.name)
    value = m.recording.values[part.index]
    shape = (*value.shape[:axis], 1, *value.shape[axis:])
    ref = Ref(len(m.recording.values))
    plain = (
        value.contiguous and len(shape) == 4 and axis == 1
    )  # channels_last, too, with one channel
    m.recording.values.append(replace(value, shape=shape, channels_last=plain))
    m.values[ref] = m.to_shape(m.value(part), shape, f"{m.out(call)}~part")
    return ref


def join(m: Importer, call: Call, parts: list[Any], axis: int, *, relu: bool = False) -> None:
    """Each part goes through a table to the scale of the result. channels_last parts have a kernel of their own."""
    result = m.result(call)
    rank = len(result.shape)
    fast = axis == 1 and all(
        len(m.shape(part)) == 4 and memory(m, part).channels_last for part in parts
    )
    values = [rescaled(m, call, part, axis % rank, fast, relu) for part in parts]
    like = m.type_of(result).with_shape(())
    m.bind(call, m.emit(Concat, *values, out=m.out(call), like=like, axis=axis % rank))


def rescaled(m: Importer, call: Call, part: Any, axis: int, fast: bool, relu: bool) -> str:
    """One part as codes of the result."""
    result, out = m.result(call), f"{m.out(call)}~part"
    operator = torch.ops.quantized.cat_relu if relu else torch.ops.quantized.cat

    def alone(x: torch.Tensor, dim: int) -> torch.Tensor:
        with using(m.engine):
            y: torch.Tensor = operator([x], dim, result.scale, result.zero_point)
        return y

    if isinstance(part, Known):
        dim = 1 if fast else axis - part.tensor.ndim
        array, quant = quantized_array(alone(part.tensor, dim))
        constant = m.graph.constant(array, part.name or out, quant)
        if part.repeats is None:
            return constant
        like = m.graph.types[constant].with_shape(m.shape(part))
        return m.emit(Expand, constant, out=f"{out}~batch", like=like)
    x, codes = m.value(part), every_code(m.recording.values[part.index])
    if not fast:
        return looked_up(m, x, alone(codes, 0), out, "rescale")
    # Along the channels of each pixel whole blocks are rounded as one, the rest as the other.
    blocks = alone(codes.reshape(1, 256, 1, 1), 1).reshape(-1)
    rest = alone(codes.reshape(1, 1, 16, 16), 1).reshape(-1)
    channels = known("channels", m.graph.types[x].shape[1])
    whole = channels // CAT_BLOCK * CAT_BLOCK
    if whole == channels or torch.equal(blocks.int_repr(), rest.int_repr()):
        return looked_up(m, x, blocks, out, "rescale")
    if not whole:
        return looked_up(m, x, rest, out, "rescale")
    pieces = [
        looked_up(m, m.sliced(x, {1: (start, stop, 1)}, f"{out}~channels"), entries, out, "rescale")
        for entries, start, stop in ((blocks, 0, whole), (rest, whole, channels))
    ]
    return m.emit(Concat, *pieces, out=out, like=m.graph.types[pieces[0]].with_shape(()), axis=1)


# --- prelu --------------------------------------------------------------------------------------------


def prelu(m: Importer, call: Call) -> None:
    """One slope, or one for each channel, quantized."""
    x, slope, _, _ = arguments(call, "qx", "weight", "output_scale", "output_zero_point")
    if not isinstance(slope, Known) or not slope.tensor.is_quantized:
        raise ModelError("the slopes of a quantized prelu must be constant")
    scale, zero_point = slope.tensor.q_scale(), slope.tensor.q_zero_point()
    codes, _ = quantized_array(slope.tensor)
    info = np.iinfo(codes.dtype)
    one = np.clip(np.rint(1 / np.float32(scale)) + zero_point, info.min, info.max) - zero_point
    if abs(one * scale - 1) > scale / 2:
        m.note(
            call,
            f"torch multiplies what is positive by {one * scale:.3g} in place of 1, which the scale of the slopes "
            "cannot express",
        )
    if codes.size == 1:
        return table(m, call)
    slopes, out = slope.tensor.reshape(-1), m.out(call)
    if m.integer:
        value = scaled_positive(m, x, int(one), one * scale, out)
        if one:  # the slopes times the scaled x are what they were
            slopes = torch._make_per_tensor_quantized_tensor(slopes.int_repr(), 1 / one, zero_point)
    else:
        value = m.real(x)
    weight = m.real(Known(slopes, slope.name), "slope")
    numerics = m.numerics("fbgemm")
    if m.graph.types[value].rank == 2:
        y = m.emit(Prelu, value, weight, out=f"{out}~real", numerics=numerics)
    else:
        y = m.emit(Prelu, m.channels_last(value), weight, out=f"{out}~nhwc", numerics=numerics)
        y = m.channels_first(y, f"{out}~real")
    return m.quantize(call, y)


def scaled_positive(m: Importer, x: Any, one: int, factor: float, out: str) -> str:
    """Real values x * factor, the factor of what is positive in torch's prelu; x without what is positive if it is 0.

    Fixed point multiplies by 1 there. The codes stay the same.

    Args:
        one: the factor as a code of the slopes, without their zero point.
    """
    value = m.recording.values[x.index]
    entries = every_code(value)
    scale, codes = entries.q_scale() * factor, entries.int_repr()
    if not one:
        scale, codes = entries.q_scale(), codes.clamp(max=entries.q_zero_point())
    entries = torch._make_per_tensor_quantized_tensor(codes, scale, entries.q_zero_point())
    scaled = looked_up(m, m.value(x), entries, f"{out}~scaled", "rescale")
    return m.emit(Dequantize, scaled, out=f"{out}~positive")


def prelu_kernel(otherwise: Translate) -> Translate:
    """aten's prelu, which computes in float32 on quantized tensors."""

    def translate(m: Importer, call: Call) -> None:
        x, slope = call.args
        if not m.is_quantized(x):
            return otherwise(m, call)
        if isinstance(slope, Known) and slope.tensor.numel() == 1:
            return table(m, call)
        raise ModelError(
            "prelu of a quantized tensor with several slopes; use torch.ao.nn.quantized.PReLU"
        )

    return translate
