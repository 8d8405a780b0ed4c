"""Writing LLVM IR so that it reads like the algorithm: values with operators, loops, and loads from addresses.

A kernel is a function `void kernel(void *args, i64 thread, i64 threads)`. `args` points to one record of a NumPy
structured dtype; its fields are int64 (numbers and addresses). Addresses are plain i64 values. Loops carry values
explicitly, so that accumulators stay in registers: no variable ever lives in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np

# What `Kernel.in_order` takes at most: some registers must be left.
ORDERED_VECTORS, ORDERED_SCALARS = 24, 6
Operand = Any  # a Value, or a Python number that stands for a constant of the other operand's type


class Type(NamedTuple):
    """An LLVM type: an integer or a float of some bits, a pointer or nothing; a vector where `count` is not 0."""

    kind: str
    bits: int = 0
    count: int = 0  # type: ignore[assignment] # not the method of tuples

    @property
    def element(self) -> Type:
        return self._replace(count=0)


I1, I8, I16, I32, I64 = (Type("int", bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = Type("float", 32), Type("float", 64)
POINTER, VOID = Type("pointer"), Type("void")


@cache
def _ir() -> Any:
    """llvmlite's IR, imported when the first kernel is written: not at all where all of them are in the cache."""
    from llvmlite import ir

    return ir


@cache
def _llvm(type: Type) -> Any:
    ir = _ir()
    if type.count:
        return ir.VectorType(_llvm(type.element), type.count)
    if type.kind == "int":
        return ir.IntType(type.bits)
    if type.kind == "float":
        return ir.FloatType() if type == F32 else ir.DoubleType()
    return ir.PointerType() if type == POINTER else ir.VoidType()


def _type_of(type: Any) -> Type:
    """What `_llvm` makes `type` of."""
    ir = _ir()
    if isinstance(type, ir.VectorType):
        return vector(_type_of(type.element), type.count)
    if isinstance(type, ir.IntType):
        return Type("int", type.width)
    kinds = {ir.FloatType: F32, ir.DoubleType: F64, ir.PointerType: POINTER, ir.VoidType: VOID}
    return next(ours for theirs, ours in kinds.items() if isinstance(type, theirs))


def vector(element: Type, count: int) -> Type:
    return element._replace(count=count)


def is_float(type: Type) -> bool:
    return type.kind == "float"


def constant(type: Type, number: Any) -> Any:
    """A constant; of a vector type, one number for all lanes or a sequence of one for each."""
    ir, llvm = _ir(), _llvm(type)
    if type.count:
        numbers = number if isinstance(number, Sequence) else [number] * type.count
        return ir.Constant(llvm, [ir.Constant(llvm.element, n) for n in numbers])
    return ir.Constant(llvm, number)


def _undefined(type: Type) -> Any:
    return _ir().Constant(_llvm(type), _ir().Undefined)


class Value:
    """An SSA value. `+ - * & | ^ << >>` work lane by lane; `>>` keeps the sign; `//` and `<` take unsigned integers."""

    def __init__(self, k: Kernel, value: Any) -> None:
        self.k, self.ir, self.type = k, value, _type_of(value.type)

    def _binary(self, other: Operand, integer: str, float_: str = "", swap: bool = False) -> Value:
        pair = (self.ir, self.k.operand(other, self.type))
        name = float_ if is_float(self.type) else integer
        return Value(self.k, getattr(self.k.b, name)(*(pair[::-1] if swap else pair)))

    def __add__(self, other: Operand) -> Value:
        return self._binary(other, "add", "fadd")

    def __sub__(self, other: Operand) -> Value:
        return self._binary(other, "sub", "fsub")

    def __rsub__(self, other: Operand) -> Value:
        return self._binary(other, "sub", "fsub", swap=True)

    def __mul__(self, other: Operand) -> Value:
        return self._binary(other, "mul", "fmul")

    def __truediv__(self, other: Operand) -> Value:
        return self._binary(other, "", "fdiv")

    def __floordiv__(self, other: Operand) -> Value:
        return self._binary(other, "udiv")

    def __mod__(self, other: Operand) -> Value:
        return self._binary(other, "urem")

    def __and__(self, other: Operand) -> Value:
        return self._binary(other, "and_")

    def __or__(self, other: Operand) -> Value:
        return self._binary(other, "or_")

    def __xor__(self, other: Operand) -> Value:
        return self._binary(other, "xor")

    def __lshift__(self, other: Operand) -> Value:
        return self._binary(other, "shl")

    def __rshift__(self, other: Operand) -> Value:
        return self._binary(other, "ashr")

    __radd__, __rmul__ = __add__, __mul__

    def shift_right_unsigned(self, other: Operand) -> Value:
        return self._binary(other, "lshr")

    def _compare(self, relation: str, other: Operand, signed: bool = False) -> Value:
        right = self.k.operand(other, self.type)
        if is_float(self.type):
            return Value(self.k, self.k.b.fcmp_ordered(relation, self.ir, right))
        compare = self.k.b.icmp_signed if signed else self.k.b.icmp_unsigned
        return Value(self.k, compare(relation, self.ir, right))

    def __lt__(self, other: Operand) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Operand) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Operand) -> Value:
        return self._compare(">", other)

    def equals(self, other: Operand) -> Value:
        return self._compare("==", other)

    def less_signed(self, other: Operand) -> Value:
        return self._compare("<", other, signed=True)

    # NaN: `minimum` and `maximum` of floats give the bound.
    def minimum(self, bound: Operand) -> Value:
        return self._pick("smin", "<", bound)

    def maximum(self, bound: Operand) -> Value:
        return self._pick("smax", ">", bound)

    def minimum_unsigned(self, bound: Operand) -> Value:
        return self._pick("umin", "<", bound)

    def maximum_unsigned(self, bound: Operand) -> Value:
        return self._pick("umax", ">", bound)

    def _pick(self, name: str, relation: str, bound: Operand) -> Value:
        right = Value(self.k, self.k.operand(bound, self.type))
        if is_float(self.type):
            return self.k.select(self._compare(relation, right), self, right)
        return self.k.call(f"llvm.{name}.{mangle(self.type)}", self.type, self, right)

    # --- other types

    def _cast(self, name: str, type: Type) -> Value:
        if type == self.type:
            return self
        return Value(self.k, getattr(self.k.b, name)(self.ir, _llvm(type)))

    def _like(self, element_type: Type) -> Type:
        """`element_type`, as a vector where this value is one."""
        return vector(element_type, self.type.count)

    def signed(self, element_type: Type) -> Value:
        return self._cast("sext", self._like(element_type))

    def unsigned(self, element_type: Type) -> Value:
        return self._cast("zext", self._like(element_type))

    def truncated(self, element_type: Type) -> Value:
        return self._cast("trunc", self._like(element_type))

    def to_float(self, element_type: Type = F32) -> Value:
        """From signed integers, rounded to nearest, ties to even; or from the other float type."""
        if is_float(self.type):
            name = "fpext" if element_type == F64 else "fptrunc"
            return self._cast(name, self._like(element_type))
        return self._cast("sitofp", self._like(element_type))

    def to_int(self, element_type: Type = I32) -> Value:
        """Cut towards zero; the number must fit."""
        return self._cast("fptosi", self._like(element_type))

    def bits(self, type: Type) -> Value:
        """The same bits as another type."""
        return self._cast("bitcast", type)

    def splat(self, count: int) -> Value:
        """A vector of `count` copies."""
        first = self.k.b.insert_element(
            _undefined(vector(self.type, count)), self.ir, constant(I32, 0)
        )
        return self.k.shuffle(Value(self.k, first), None, [0] * count)

    def lanes(self, start: int, count: int) -> Value:
        return self.k.shuffle(self, None, range(start, start + count))


class Kernel:
    """One function under construction."""

    def __init__(self, name: str, record: np.dtype[Any]) -> None:
        ir = _ir()
        self.module = ir.Module(name)
        self.record = record
        kind = ir.FunctionType(_llvm(VOID), [_llvm(t) for t in (POINTER, I64, I64)])
        self.function = ir.Function(self.module, kind, name)
        self.function.attributes.add("nounwind")
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self._args, self.thread, self.threads = (Value(self, a) for a in self.function.args)
        self._callees: dict[str, Any] = {}

    # --- values

    def operand(self, value: Operand, type: Type) -> Any:
        return value.ir if isinstance(value, Value) else constant(type, value)

    def const(self, type: Type, number: Any) -> Value:
        return Value(self, constant(type, number))

    def i64(self, number: int) -> Value:
        return self.const(I64, number)

    def arg(self, name: str) -> Value:
        """A field of the argument record."""
        offset = self.record.fields[name][1]  # type: ignore[index]
        at = self.b.gep(self._args.ir, [constant(I64, offset)], source_etype=_llvm(I8))
        return Value(self, self.b.load(at, typ=_llvm(I64), align=8))

    def load(self, address: Value, type: Type, offset: Operand = 0) -> Value:
        return Value(self, self.b.load(self._pointer(address, offset), typ=_llvm(type), align=1))

    def store(self, value: Value, address: Value, offset: Operand = 0) -> None:
        self.b.store(value.ir, self._pointer(address, offset), align=1)

    def _pointer(self, address: Value, offset: Operand = 0) -> Any:
        if isinstance(offset, int) and offset == 0:
            return self.b.inttoptr(address.ir, _llvm(POINTER))
        return self.b.inttoptr((address + offset).ir, _llvm(POINTER))

    def pointer(self, address: Value) -> Value:
        return Value(self, self._pointer(address))

    def select(self, condition: Value, yes: Operand, no: Operand) -> Value:
        type = yes.type if isinstance(yes, Value) else no.type
        return Value(
            self, self.b.select(condition.ir, self.operand(yes, type), self.operand(no, type))
        )

    def shuffle(self, a: Value, b: Value | None, order: Sequence[int] | range) -> Value:
        """Lanes of a, numbered from 0, and of b, numbered on."""
        other = _undefined(a.type) if b is None else b.ir
        mask = constant(vector(I32, len(order)), list(order))
        return Value(self, self.b.shuffle_vector(a.ir, other, mask))

    def join(self, parts: Sequence[Value]) -> Value:
        """Vectors of one type, one after the other; their number is a power of two."""
        while len(parts) > 1:
            count = parts[0].type.count
            parts = [
                self.shuffle(a, b, range(2 * count))
                for a, b in zip(parts[::2], parts[1::2], strict=True)
            ]
        return parts[0]

    def call(self, name: str, result: Type, *operands: Value) -> Value:
        """Call an intrinsic."""
        if name not in self._callees:
            kind = _ir().FunctionType(_llvm(result), [o.ir.type for o in operands])
            self._callees[name] = _ir().Function(self.module, kind, name)
        return Value(self, self.b.call(self._callees[name], [o.ir for o in operands]))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """`a * b + c`, rounded once."""
        return self.call(f"llvm.fma.{mangle(a.type)}", a.type, a, b, c)

    def in_order(self, values: Sequence[Value], register: str) -> list[Value]:
        """The same values, through no instruction at all that the compiler does not look into.

        What makes them stays before it and what uses them after: the compiler would put the products first and the rest
        behind them, which leaves most units of the CPU idle for as long as either lasts. `register` is the letter of
        vector registers in assembly constraints. More values than registers would be an error of the compiler that ends
        the process; they stay in whatever order.
        """
        vectors = sum(v.type.count > 0 for v in values)
        if vectors > ORDERED_VECTORS or len(values) - vectors > ORDERED_SCALARS:
            return list(values)
        ir, types = _ir(), [v.ir.type for v in values]
        kind = ir.FunctionType(ir.LiteralStructType(types), types)
        outputs = [f"={register if v.type.count else 'r'}" for v in values]
        inputs = map(str, range(len(values)))
        nothing = ir.InlineAsm(kind, "", ",".join((*outputs, *inputs)), side_effect=False)
        through = self.b.call(nothing, [v.ir for v in values])
        return [Value(self, self.b.extract_value(through, i)) for i in range(len(values))]

    def prefetch(self, address: Value, *, write: bool = False) -> None:
        """Ask for a cache line that is needed soon."""
        flags = [self.const(I32, n) for n in (int(write), 3, 1)]
        self.call("llvm.prefetch.p0", VOID, self.pointer(address), *flags)

    def scratch(self, type: Type) -> Value:
        """The address of memory on the stack."""
        with self.b.goto_entry_block():
            slot = self.b.alloca(_llvm(type))
            slot.align = 64
            return Value(self, self.b.ptrtoint(slot, _llvm(I64)))

    # --- control

    @contextmanager
    def range(self, start: Operand, stop: Operand, step: Operand = 1) -> Iterator[Value]:
        """`for i in range(start, stop, step)`, signed."""
        with self._loop(start, stop, step, []) as (i, _, _next):
            yield i

    def loop(
        self,
        start: Operand,
        stop: Operand,
        step: Operand,
        carried: Sequence[Value],
        body: Callable[[Value, list[Value]], Sequence[Value]],
    ) -> list[Value]:
        """`for i in range(start, stop, step): carried = body(i, carried)`; returns `carried`."""
        with self._loop(start, stop, step, carried) as (i, inside, following):
            following.extend(body(i, inside))
        return inside

    @contextmanager
    def _loop(
        self, start: Operand, stop: Operand, step: Operand, carried: Sequence[Value]
    ) -> Iterator[tuple[Value, list[Value], list[Value]]]:
        first = self.operand(start, I64)
        before = self.b.block
        head, inside, after = (
            self.function.append_basic_block(n) for n in ("head", "inside", "after")
        )
        self.b.branch(head)
        self.b.position_at_end(head)
        phis = [self.b.phi(_llvm(t)) for t in (I64, *(c.type for c in carried))]
        for phi, value in zip(phis, (first, *(c.ir for c in carried)), strict=True):
            phi.add_incoming(value, before)
        self.b.cbranch(self.b.icmp_signed("<", phis[0], self.operand(stop, I64)), inside, after)
        self.b.position_at_end(inside)
        following: list[Value] = []
        yield Value(self, phis[0]), [Value(self, phi) for phi in phis[1:]], following
        ends = [self.b.add(phis[0], self.operand(step, I64)), *(v.ir for v in following)]
        for phi, value in zip(phis, ends, strict=True):
            phi.add_incoming(value, self.b.block)
        self.b.branch(head)
        self.b.position_at_end(after)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        with self.b.if_then(condition.ir):
            yield

    @contextmanager
    def when_else(self, condition: Value) -> Iterator[tuple[Any, Any]]:
        """`with k.when_else(c) as (yes, no):` and inside `with yes: ...`, `with no: ...`."""
        with self.b.if_else(condition.ir) as branches:
            yield branches

    def share(self, count: Value) -> tuple[Value, Value]:
        """The part of `range(count)` that falls to this thread."""
        return count * self.thread // self.threads, count * (self.thread + 1) // self.threads

    def finish(self) -> Any:
        """The LLVM module."""
        self.b.ret_void()
        return self.module


def mangle(type: Type) -> str:
    """How intrinsics name a type: v16f32."""
    return (f"v{type.count}" if type.count else "") + f"{type.kind[0]}{type.bits}"
