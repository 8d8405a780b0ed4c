"""The quantize and dequantize of PT2E graphs: operators of their own on plain tensors, with float32 in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nprt.converters.building.builder import Builder
from nprt.converters.building.composites import function, reduce
from nprt.converters.graph import source_name
from nprt.converters.torch_ops.importer import DTYPES, Importer, arguments
from nprt.converters.torch_ops.recording import Call, Known, Ref
from nprt.errors import ModelError, QuantizationError
from nprt.ir import QuantParams, TensorType
from nprt.ops.add import Add
from nprt.ops.dequantize import Dequantize
from nprt.ops.div import Div
from nprt.ops.maximum import Maximum
from nprt.ops.minimum import Minimum
from nprt.ops.mul import Mul
from nprt.ops.quantize import Quantize
from nprt.ops.sub import Sub
from nprt.ops.unary import Unary
from nprt.rounding import LEAST_SCALE_PT2E

CODES = {torch.int8: "int8", torch.uint8: "uint8"}


def quantize(m: Importer, call: Call) -> None:
    """`clip(rint(x * (1 / scale)) + zero_point, quant_min, quant_max)`: eq. (34)."""
    x, scale, zero_point, low, high, dtype = arguments(
        call, "input", "scale", "zero_point", "quant_min", "quant_max", "dtype"
    )
    low, high = int(number(m, low, "quant_min")), int(number(m, high, "quant_max"))
    if dtype not in CODES:
        raise ModelError(f"it quantizes to {dtype}; expected torch.int8 or torch.uint8")
    if isinstance(scale, Ref):
        return quantize_at_run_time(m, call, x, scale, zero_point, (low, high))
    m.traits.quantized = True
    exact = number(m, scale, "scale")
    if np.float32(1 / exact) != np.float32(1) / np.float32(exact):
        m.note(
            call, f"torch inverts the scale {exact!r} in float64; nprt has {np.float32(exact)!r}"
        )
    quant = QuantParams.of(exact, int(number(m, zero_point, "zero point")))
    like = TensorType(CODES[dtype], (), quant)
    real = m.real(x)
    out = f"{source_name(real)[0]}.codes"
    if (low, high) != like.code_range:
        least, greatest = (
            float(np.float32((q - quant.zero_point[0]) * exact)) for q in (low, high)
        )
        bounds = (least, greatest)
        clip = f"{source_name(real)[0]}~clip"
        real = m.emit(Unary, real, out=clip, function="clip", parameters=bounds)
    return m.bind(call, m.emit(Quantize, real, out=out, like=like, numerics="pt2e"))


def dequantize(m: Importer, call: Call) -> None:
    """`scale * (code - zero_point)`, of what a quantize gave."""
    x, scale, zero_point = call.args[:3]
    chosen = chosen_for(m, x)
    if isinstance(scale, Ref):
        if chosen is None or chosen_for(m, scale) is not chosen:
            raise ModelError("the scale is found at run time, but not by the quantize of its codes")
        found = chosen
        m.run_time[output(call)] = found
        return m.later(output(call), lambda: found.real(m, f"{m.out(call)}~real"))
    if chosen is not None:
        raise ModelError("codes whose scale is found at run time are read with a fixed scale")
    numbers = number(m, scale, "scale"), int(number(m, zero_point, "zero point"))
    return dequantize_as(m, call, x, QuantParams.of(*numbers))


def dequantize_per_channel(m: Importer, call: Call) -> None:
    x, scales, zero_points, axis = call.args[:4]
    zeros = 0 if zero_points is None else m.array(zero_points, "the zero points")
    dequantize_as(m, call, x, QuantParams.of(m.array(scales, "the scales"), zeros, axis))


def dequantize_as(m: Importer, call: Call, x: Any, quant: QuantParams) -> None:
    """dequantize, with the parameters that only the reader of the codes knows."""
    m.traits.quantized = True
    codes = m.with_quant(x, quant)
    m.bind(call, m.emit(Dequantize, codes, out=f"{codes}~real"))


def number(m: Importer, item: Any, what: str) -> float:
    return float(m.array(item, what).reshape(())) if isinstance(item, Known | Ref) else float(item)


def output(call: Call, index: int = 0) -> Ref:
    ref = call.outputs[index]
    assert ref is not None
    return ref


# --- scales that are found at run time ----------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """A range that becomes a scale and a zero point when the model runs.

    Attributes:
        source: what has the range.
        low, high: the codes to use.
        least: no scale is below this.
        symmetric: the range is made symmetric, and the zero point is `middle`.
    """

    source: Ref
    low: int
    high: int
    least: float
    symmetric: bool
    middle: int

    @property
    def plain(self) -> bool:
        """Whether it is what `dynamic_linear` has as `pt2e`: the least code moves codes and zero point alike."""
        steps = self.high - self.low
        return not self.symmetric and steps in (255, 127) and self.least == LEAST_SCALE_PT2E

    def fields(self) -> dict[str, Any]:
        """Of a dynamic_linear that reads it."""
        return {"numerics": "pt2e", "reduce_range": self.high - self.low == 127}

    def real(self, m: Builder, out: str) -> str:
        """The source quantized and dequantized again, step by step in float32."""
        assert isinstance(m, Importer)
        x = m.real(self.source)
        shape = m.graph.types[x].shape
        axes = tuple(range(len(shape)))

        def step(cls: Any, a: str, b: str | float) -> str:
            b = m.number(b, out) if isinstance(b, float) else b
            return m.emit(cls, a, b, out=f"{out}~step", like=TensorType("float32", ()))

        low = step(Minimum, reduce(m, x, "Min", axes, False, out), 0.0)
        high = step(Maximum, reduce(m, x, "Max", axes, False, out), 0.0)
        steps = float(self.high - self.low)
        if self.symmetric:
            range_ = step(Maximum, high, function(m, low, "neg", out))
            scale = step(Maximum, step(Div, range_, steps / 2), float(self.least))
            zero = m.number(float(self.middle), out)
        else:
            scale = step(Maximum, step(Div, step(Sub, high, low), steps), float(self.least))
            below = function(m, step(Div, low, scale), "round", out)
            zero = step(Sub, m.number(float(self.low), out), below)
            zero = self.clipped(m, zero, out)
        inverse = step(Div, m.number(1.0, out), scale)
        codes = step(Add, function(m, step(Mul, x, inverse), "round", out), zero)
        return step(Mul, step(Sub, self.clipped(m, codes, out), zero), scale)

    def clipped(self, m: Builder, x: str, out: str) -> str:
        bounds = (float(self.low), float(self.high))
        return m.emit(Unary, x, out=f"{out}~codes", function="clip", parameters=bounds)


def chosen_for(m: Importer, item: Any) -> Chosen | None:
    """What an argument was chosen for, or quantized with, at run time."""
    found = m.run_time.get(item) if isinstance(item, Ref) else None
    return found if isinstance(found, Chosen) else None


def choose(symmetric: bool) -> Callable[[Importer, Call], None]:
    """choose_qparams: a scale and a zero point for the range of a tensor."""

    def translate(m: Importer, call: Call) -> None:
        x, low, high, least, dtype = arguments(
            call, "input", "quant_min", "quant_max", "eps", "dtype"
        )
        if dtype not in CODES:
            raise ModelError(f"it quantizes to {dtype}; expected torch.int8 or torch.uint8")
        middle = 128 if dtype == torch.uint8 else 0
        chosen = Chosen(x, int(low), int(high), float(np.float32(least)), symmetric, middle)
        for index in range(2):
            m.run_time[output(call, index)] = chosen

    return translate


def quantize_at_run_time(
    m: Importer, call: Call, x: Any, scale: Ref, zero_point: Any, codes: tuple[int, int]
) -> None:
    chosen = chosen_for(m, scale)
    if chosen is None or chosen_for(m, zero_point) is not chosen:
        raise ModelError("its scale depends on the inputs, but not by a choose_qparams")
    if (chosen.source, chosen.low, chosen.high) != (x, *codes):
        raise QuantizationError("its scale is chosen for another tensor, or for other codes")
    m.traits.quantized = True
    m.run_time[output(call)] = chosen


def convert_element_type(m: Importer, call: Call) -> None:
    """To float32 what is float32; nothing else."""
    x, dtype = call.args[:2]
    if DTYPES.get(dtype) != "float32" or m.graph.types[m.real(x)].dtype != "float32":
        raise ModelError(f"it converts to {dtype}; keep the model in float32")
    m.bind(call, m.real(x))


def refuse(advice: str) -> Callable[[Importer, Call], None]:
    """An operator that has no place in a model that is to be converted."""

    def translate(m: Importer, call: Call) -> None:
        raise ModelError(advice)

    return translate
