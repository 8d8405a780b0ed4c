"""add, sub, mul and prelu of two values. Same result as the ops so named, on codes.

Each numerics is its formula of `nprt.rounding`, on vectors. Codes of int8 are bytes minus 128; where a formula only
uses differences from the zero point, that is folded into the zero point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nprt import rounding
from nprt.jit.emit import I8, I32, Kernel, Value
from nprt.jit.kernels import rows
from nprt.jit.kernels.stage import to_bytes
from nprt.jit.simd import Level, Rescale

SCALARS = (
    *("offset", "low", "high", "a_zero", "b_zero"),
    *("a_scale", "b_scale", "y_scale", "constant"),  # float32
    *(f"{which}_{part}" for which in "aby" for part in ("multiplier", "low", "rounding", "shift")),
)
RECORD = rows.record(2, *SCALARS)
OPS = ("add", "sub", "mul", "prelu")
NEAR = "N"
LOW_BITS = 11  # of a multiplier that is cut in two


class Terms:
    """The two operands as vectors, and the scalars, for one use of a formula.

    kinds: three letters for factors, see `raised` and `rescale`; then "a" or "b" for an operand whose zero is byte 0,
    and "N" where numbers are near zero before they are rounded, within +-2**30.
    """

    def __init__(self, k: Kernel, level: Level, kinds: str) -> None:
        self.k, self.level, self.kinds = k, level, kinds

    def f(self, name: str) -> Value:
        return rows.float_arg(self.k, self.level, name)

    def i(self, name: str) -> Value:
        return rows.int_arg(self.k, self.level, name)

    def from_zero(self, which: str, value: Value) -> Value:
        return value if which in self.kinds[3:] else value - self.i(f"{which}_zero")

    def round(self, value: Value) -> Value:
        near = NEAR in self.kinds[3:]
        return (self.level.round_near if near else self.level.round_to_int)(self.k, value)

    def raised(self, which: str, value: Value) -> Value:
        """`value * 2**20` of a or b times a factor.

        kinds, for a and b: "h" a factor of one half; "n" narrow, all in int32; else as for `rescale`.
        """
        kind = self.kinds["aby".index(which)]
        if kind == "h":
            return value << (rounding.ADD_SHIFT - 1)
        if kind == "n":
            # The multiplier is high * 2**11 + low; the floor of the whole is the floor of the floor of a part.
            high, low = value * self.i(f"{which}_multiplier"), value * self.i(f"{which}_low")
            return (high + ((low + self.i(f"{which}_rounding")) >> LOW_BITS)) >> self.i(
                f"{which}_shift"
            )
        return self.rescale(which, value << rounding.ADD_SHIFT)

    def rescale(self, which: str, value: Value) -> Value:
        """`value` in fixed point times a factor.

        kinds: "t" tall, "o" tall with the offset of y in the rounding; "s" any other.
        """
        half = self.level.lanes // 2
        multiplier, rounding_, shift = (
            self.k.arg(f"{which}_{part}") for part in ("multiplier", "rounding", "shift")
        )
        by = Rescale((multiplier.splat(half),) * 2, (rounding_.splat(half),) * 2)
        if self.kinds["aby".index(which)] in "to":
            rest = (shift - 32).truncated(I32).splat(self.level.lanes)
            return self.level.rescale_tall(self.k, value, by, rest)
        return self.level.rescale(self.k, value, by, (shift.splat(half),) * 2)


def _integer(t: Terms, name: str, a: Value, b: Value) -> Value:
    a, b = t.from_zero("a", a), t.from_zero("b", b)
    if name == "mul":
        return t.rescale("y", a * b)
    if name == "prelu":
        return _above_zero(t, a, t.rescale("a", a), t.rescale("y", a * b))
    a, b = t.raised("a", a), t.raised("b", b)
    return t.rescale("y", a + b if name == "add" else a - b)  # eq. (11)


def _above_zero(t: Terms, x: Value, yes: Value, no: Value) -> Value:
    return t.k.select(t.k.const(x.type, 0).less_signed(x), yes, no)


def _ort(t: Terms, name: str, a: Value, b: Value) -> Value:
    if name == "mul":
        product = (t.from_zero("a", a) * t.from_zero("b", b)).to_float()
        return t.round(product * t.f("a_scale") + t.f("constant"))  # eq. (14)
    a, b = t.from_zero("a", a).to_float(), t.from_zero("b", b).to_float()
    inner = t.k.fma(b, t.f("b_scale"), t.f("constant"))
    return t.round(t.k.fma(a, t.f("a_scale"), inner))  # eq. (13)


def _combine(name: str, a: Value, b: Value) -> Value:
    return {"add": a + b, "sub": a - b}[name] if name != "mul" else a * b


def _real(t: Terms, name: str, a: Value, b: Value) -> Value:
    a = t.from_zero("a", a).to_float() * t.f("a_scale")
    b = t.from_zero("b", b).to_float() * t.f("b_scale")
    return _combine(name, a, b)


def _onnx(t: Terms, name: str, a: Value, b: Value) -> Value:
    return t.round(_real(t, name, a, b) / t.f("y_scale"))  # eq. (15)


def _pt2e(t: Terms, name: str, a: Value, b: Value) -> Value:
    return t.round(_real(t, name, a, b) * t.f("y_scale"))  # eq. (34)


def _fbgemm(t: Terms, name: str, a: Value, b: Value) -> Value:
    if name in ("mul", "prelu"):
        a, b = t.from_zero("a", a), t.from_zero("b", b)
        factor = b if name == "mul" else _above_zero(t, a, t.i("b_multiplier"), b)  # eq. (53)
        product = (a * factor).to_float()
        return t.round(product * t.f("a_scale"))  # eq. (38)
    # a_zero and b_zero are what makes codes of bytes here, y_multiplier holds b's constant
    a, b = t.from_zero("a", a).to_float(), t.from_zero("b", b).to_float()
    a = t.k.fma(t.f("a_scale"), a, t.f("constant"))
    b = t.k.fma(t.f("b_scale"), b, t.f("b_multiplier"))
    return t.round((a + b) * t.f("y_scale"))  # eq. (36)


def _fbgemm_scalar(t: Terms, name: str, a: Value, b: Value) -> Value:
    value = _real(t, name, a, b) * t.f("y_scale")
    return t.round(value + t.f("constant"))  # eq. (48)


def _qnnpack(t: Terms, name: str, a: Value, b: Value) -> Value:
    a, b = t.from_zero("a", a), t.from_zero("b", b)
    total = a * t.i("a_multiplier") + b * t.i("b_multiplier")  # below 2**31
    size = total.maximum(0 - total) + t.i("y_rounding")  # below 2**32
    magnitude = size.shift_right_unsigned(t.i("y_shift"))
    return t.k.select(total.less_signed(0), 0 - magnitude, magnitude)  # eq. (37)


FORMULAS = {
    "integer": _integer,
    "ort": _ort,
    "onnx": _onnx,
    "pt2e": _pt2e,
    "fbgemm": _fbgemm,
    "fbgemm-scalar": _fbgemm_scalar,
    "qnnpack": _qnnpack,
}


def apply(
    k: Kernel, level: Level, name: str, numerics: str, kinds: str, a: Value, b: Value
) -> Value:
    """int32 bytes of y, not saturated, from int32 bytes of a and b."""
    terms = Terms(k, level, kinds)
    code = FORMULAS[numerics](terms, name, a, b)
    return code if kinds[2] == "o" else code + terms.i("offset")


def emit(name: str, level: Level, op: str, numerics: str, kinds: str) -> Any:
    k = Kernel(name, RECORD)
    low, high = k.arg("low").truncated(I8), k.arg("high").truncated(I8)

    def body(k: Kernel, loaded: list[list[Value]]) -> list[Value]:
        pairs = zip(*loaded, strict=True)
        return [
            to_bytes(
                k, level, [apply(k, level, op, numerics, kinds, a, b) for a, b in pairs], low, high
            )
        ]

    return rows.emit(k, level, ["byte", "byte"], "byte", body)


def _factor(
    which: str, real: float, multiplier: int, shift: int, offset: int
) -> tuple[str, dict[str, int]]:
    """The kind of a factor, see `Terms`, and its scalars."""
    kind, fields = _plain_factor(multiplier, shift)
    if which != "y" and real == 0.5:
        return "h", fields
    if which != "y" and 32 <= shift <= 51:
        # value * 2**20 * multiplier * 2**-shift: |value| < 2**8, so the parts stay below 2**28 and 2**31
        rest = shift - rounding.ADD_SHIFT
        return "n", {
            "multiplier": multiplier >> LOW_BITS,
            "low": multiplier & ((1 << LOW_BITS) - 1),
            "rounding": 1 << (rest - 1),
            "shift": rest - LOW_BITS,
        }
    if which == "y" and 32 <= shift <= 54:
        return "o", {**fields, "rounding": fields["rounding"] + (offset << shift)}
    return kind, fields


def _plain_factor(multiplier: int, shift: int) -> tuple[str, dict[str, int]]:
    fields = {"multiplier": multiplier, "rounding": 1 << (shift - 1), "shift": shift}
    return ("t" if shift >= 32 else "s"), fields


def scalars(op: Any, a: Any, b: Any, y: Any) -> tuple[str, dict[str, int]] | None:
    """The kinds of `Terms` and the scalar arguments; None where the kernel does not do it."""
    if not y.is_codes or op.numerics not in FORMULAS:
        return None
    shift_a, shift_b, shift_y = (128 if t.dtype == "int8" else 0 for t in (a, b, y))
    qa, qb, qy = (rounding.Affine(t.scale, t.zero_point) for t in (a, b, y))
    largest = max(float(qa.scale), float(qb.scale), 1.0) * 256
    if largest * max(float(qa.scale), float(qb.scale), 1.0) * 256 > 1e38:
        return None  # float32 might overflow to something that is not a number
    low, high = getattr(op, "clamp", None) or y.code_range
    args = {
        "offset": int(qy.zero_point) + shift_y,
        "low": low + shift_y,
        "high": high + shift_y,
        "a_zero": int(qa.zero_point) + shift_a,
        "b_zero": int(qb.zero_point) + shift_b,
    }
    bits = rows.float_bits
    kinds = "sss"
    f32 = np.float32
    if op.numerics == "integer":
        factors: dict[str, Any]
        if op.name == "prelu":
            one = np.float64(qa.scale) / np.float64(qy.scale)
            factors = {"a": one, "y": np.float64(qa.scale) * np.float64(qb.scale) / qy.scale}
        elif op.name == "mul":
            factors = {"y": np.float64(qa.scale) * np.float64(qb.scale) / np.float64(qy.scale)}
        else:
            twice = 2.0 * np.float64(max(qa.scale, qb.scale))
            factors = {
                "a": qa.scale / twice,
                "b": qb.scale / twice,
                "y": twice / (2.0**rounding.ADD_SHIFT * np.float64(qy.scale)),
            }
        found = dict.fromkeys("aby", "s")
        for which, real in factors.items():
            multiplier, shift = map(int, rounding.quantize_multiplier(real))
            found[which], fields = (
                _plain_factor(multiplier, shift)
                if op.name == "prelu"
                else _factor(which, float(real), multiplier, shift, args["offset"])
            )
            args |= {f"{which}_{part}": value for part, value in fields.items()}
        kinds = "".join(found.values())
    elif op.numerics == "ort" and op.name == "mul":
        args |= {
            "a_scale": bits(f32(qa.scale) * f32(qb.scale) / f32(qy.scale)),
            "constant": bits(qy.zero_point),
            "offset": shift_y,
        }
    elif op.numerics == "ort":
        a_ratio, b_ratio = f32(qa.scale) / f32(qy.scale), f32(qb.scale) / f32(qy.scale)
        inner = rounding.fma(a_ratio, f32(qa.zero_point), b_ratio * f32(qb.zero_point))
        args |= {
            "a_scale": bits(a_ratio),
            "b_scale": bits(b_ratio),
            "constant": bits(f32(qy.zero_point) - f32(inner)),
            "offset": shift_y,
            "a_zero": shift_a,
            "b_zero": shift_b,
        }
    elif op.numerics == "qnnpack":
        (a_factor, b_factor), shift = rounding.add_factors_qnnpack(qa, qb, qy)
        if not 1 <= shift <= 31:
            return None
        args |= {"a_multiplier": int(a_factor), "b_multiplier": int(b_factor)}
        args |= {"y_rounding": 1 << (shift - 1), "y_shift": shift}
    elif op.numerics == "fbgemm" and op.name in ("mul", "prelu"):
        factor = f32(qa.scale) * f32(qb.scale) * (f32(1) / f32(qy.scale))
        args |= {"a_scale": bits(factor)}
        if op.name == "prelu":
            args["b_multiplier"] = rounding.prelu_one(qb, b.code_range)
    else:
        inverse = op.numerics != "onnx"
        args |= {
            "a_scale": bits(qa.scale),
            "b_scale": bits(qb.scale),
            "y_scale": bits(f32(1) / f32(qy.scale) if inverse else qy.scale),
        }
        if op.numerics == "fbgemm-scalar":
            args |= {"constant": bits(qy.zero_point), "offset": shift_y}
        if op.numerics == "fbgemm":
            args |= {
                "constant": bits(-(f32(qa.scale) * f32(qa.zero_point))),
                "b_multiplier": bits(-(f32(qb.scale) * f32(qb.zero_point))),
                "a_zero": shift_a,
                "b_zero": shift_b,
            }
    return kinds + _easy(op, args, qa, qb, qy), args


def _easy(op: Any, args: Mapping[str, int], a: Any, b: Any, y: Any) -> str:
    """What a formula may leave out; see `Terms`."""
    sums = op.name in ("add", "sub")
    largest = float(a.scale + b.scale) if sums else 255 * float(a.scale) * float(b.scale)
    near = 1.01 * 255 * largest / float(y.scale) + 512 < 2.0**30
    zeros = "".join(which for which in "ab" if args[f"{which}_zero"] == 0)
    floats = op.name != "prelu" and op.numerics not in ("integer", "qnnpack")
    return zeros + NEAR * (near and floats)
