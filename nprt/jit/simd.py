"""The vector operations that kernels are made of, for each level of CPU. The only file that names instructions.

A level has vectors of `lanes` int32, that is of 4 * lanes bytes. Each operation has its meaning in plain NumPy under
the same name in `Plain`; a test holds one against the other on random and extreme inputs. To add a level: one class,
one line in LEVELS.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from nprt.errors import BackendUnavailableError
from nprt.jit.emit import F32, I1, I8, I16, I32, I64, VOID, Kernel, Type, Value, mangle, vector

Array = Any

# Linux tells a process so which instructions an AArch64 CPU has.
AT_HWCAP, HWCAP_ASIMDDP = 16, 1 << 20


class Rescale(NamedTuple):
    """Fixed-point factors `multiplier * 2**-shift` of a vector of int32: int64 each, even lanes and odd lanes.

    rounding is `1 << (shift - 1)`.
    """

    multiplier: tuple[Value, Value]
    rounding: tuple[Value, Value]

    def products(self, acc: Value) -> tuple[Value, Value]:
        """`acc * multiplier + rounding` of the even lanes and of the odd ones."""
        both = acc.bits(self.multiplier[0].type)
        even = ((both << 32) >> 32) * ((self.multiplier[0] << 32) >> 32)
        odd = (both >> 32) * ((self.multiplier[1] << 32) >> 32)
        return even + self.rounding[0], odd + self.rounding[1]


class Plain:
    """What the operations mean. Vectors are arrays; a vector of bytes holds 4 for each lane of int32."""

    @staticmethod
    def dot4(acc: Array, x: Array, w: Array) -> Array:
        """int32 plus four products of u8 and s8 each, wrapping around at 2**32, not saturating."""
        return acc + (x.astype(np.int32) * w.astype(np.int32)).reshape(-1, 4).sum(1, dtype=np.int32)

    @staticmethod
    def pack_u8(*vectors: Array, offset: int = 0) -> Array:
        """int32 plus an offset within 0 and 255, to bytes, saturating, one vector after the other."""
        codes = np.concatenate(vectors).astype(np.int64) + offset
        return np.clip(codes, 0, 255).astype(np.uint8)

    @staticmethod
    def lookup(table: Array, x: Array) -> Array:
        """For each byte of x the entry of a table of 256 bytes."""
        return table[x]

    @staticmethod
    def round_to_int(v: Array) -> Array:
        """float32 to int32, ties to even. Beyond +-2**21 any integer beyond +-2**21; NaN gives any."""
        return np.clip(np.rint(v), -(2.0**21), 2.0**21).astype(np.int32)

    @staticmethod
    def round_near(v: Array) -> Array:
        """float32 within +-2**30 to int32, ties to even. Beyond +-2**21 any integer beyond +-2**21."""
        return Plain.round_to_int(v)

    @staticmethod
    def rescale(acc: Array, multiplier: Array, shift: Array) -> Array:
        """`acc * multiplier * 2**-shift`, ties up, clipped to +-2**30 so that a zero point may be added: eq. (6)."""
        value = (acc.astype(np.int64) * multiplier + (1 << (shift - 1))) >> shift
        return np.clip(value, -(2**30), 2**30).astype(np.int32)

    @staticmethod
    def interleave4(*bytes: Array) -> list[Array]:
        """Four vectors of bytes, to four whose lanes hold a byte of each, in the order of `Level.channel_order`."""
        blocks = np.stack(bytes, 1).reshape(-1, 4, 4, 4)  # 16-byte block, vector, channel, source
        return [blocks[:, j].reshape(-1) for j in range(4)]

    @staticmethod
    def pack_interleaved(*vectors: Array, offset: int = 0) -> Array:
        """`pack_u8` of four vectors in the order of `interleave4`: bytes in plain order."""
        blocks = np.stack([v.reshape(-1, 4) for v in vectors], 1)
        return Plain.pack_u8(blocks.reshape(-1), offset=offset)


class Level:
    """Plain LLVM vectors of 128 bits: right everywhere. Other levels replace what their instructions do better."""

    name: ClassVar[str] = "generic"
    lanes: ClassVar[int] = 4
    # Of a GEMM tile: for each number of vectors side by side the most rows, so that accumulators stay in registers.
    tiles: ClassVar[Mapping[int, int]] = {1: 4, 2: 2}
    # The same for tiles that overlap: two of them must find room in the registers.
    overlapping_tiles: ClassVar[Mapping[int, int]] = {}
    # The letter of vector registers in assembly, where there are 32 of them; see `Kernel.in_order`.
    register: ClassVar[str] = ""
    dots_per_cycle: ClassVar[float] = 0.25
    pixels: ClassVar[int] = 1  # that a depthwise convolution does together, at most
    # `dot4` sees x - shift, as signed bytes, where there is no product of unsigned and signed bytes.
    shift: ClassVar[int] = 0
    architectures: ClassVar[tuple[str, ...]] = ()  # none: all
    # CPU features by LLVM's names: all that its code for `cpu` may use.
    needs: ClassVar[tuple[str, ...]] = ()
    # What LLVM compiles for, never the CPU at hand: code from the cache runs on every CPU that has the level.
    cpu: ClassVar[str] = ""
    features: ClassVar[str] = ""

    @property
    def bytes(self) -> int:
        return 4 * self.lanes

    @property
    def i32(self) -> Any:
        return vector(I32, self.lanes)

    @property
    def f32(self) -> Any:
        return vector(F32, self.lanes)

    @property
    def i8(self) -> Any:
        return vector(I8, self.bytes)

    @property
    def channel_order(self) -> Array:
        """(4, lanes): the byte that lane i of vector j of `interleave4` comes from."""
        lane = np.arange(self.lanes)
        return 16 * (lane // 4) + 4 * np.arange(4)[:, np.newaxis] + lane % 4

    # --- bytes

    def broadcast4(self, k: Kernel, address: Value, offset: Any = 0) -> Value:
        """Four bytes from memory in every lane, ready for `dot4`."""
        return k.load(address, I32, offset).splat(self.lanes).bits(self.i8)

    def dot4(self, k: Kernel, acc: Value, x: Value, w: Value) -> Value:
        xs, ws = x.bits(self.i32), w.bits(self.i32)
        for j in range(4):
            acc = acc + (xs.shift_right_unsigned(8 * j) & 255) * ((ws << (24 - 8 * j)) >> 24)
        return acc

    def pack_u8(self, k: Kernel, vectors: Sequence[Value], offset: Value | None = None) -> Value:
        """`offset` is one int32; the vectors are within +-2**30 where there is one."""
        if offset is not None:
            vectors = [v + offset.splat(self.lanes) for v in vectors]
        narrow = [v.maximum(0).minimum(255).truncated(I8) for v in vectors]
        return k.join(narrow)

    def interleave4(self, k: Kernel, a: Value, b: Value, c: Value, d: Value) -> list[Value]:
        pairs = vector(I16, 2 * self.lanes)

        def unpack(p: Value, q: Value, high: bool, size: int) -> Value:
            """The lower or the upper halves of each 16 bytes of p and q, element by element in turn."""
            count, block = p.type.count, 16 // size
            order = [
                lane * block + high * (block // 2) + i // 2 + (i % 2) * count
                for lane in range(count // block)
                for i in range(block)
            ]
            return k.shuffle(p, q, order)

        low_ab, high_ab, low_cd, high_cd = (
            unpack(p, q, high, 1).bits(pairs) for p, q in ((a, b), (c, d)) for high in (False, True)
        )
        return [
            unpack(p, q, high, 2).bits(self.i8)
            for p, q in ((low_ab, low_cd), (high_ab, high_cd))
            for high in (False, True)
        ]

    def pack_interleaved(
        self, k: Kernel, vectors: Sequence[Value], offset: Value | None = None
    ) -> Value:
        plain = self.pack_u8(k, vectors, offset)
        order = np.argsort(self.channel_order.reshape(-1))
        return k.shuffle(plain, None, order.tolist())

    def lookup(self, k: Kernel, table: Value, x: Value) -> Value | None:
        """Bytes of a table at an address; None where the level is no faster at this than a loop over the bytes."""
        return None

    def store_first(self, k: Kernel, value: Value, address: Value, count: Value) -> None:
        """Store the first `count` bytes of a vector of bytes."""
        slot = k.scratch(value.type)
        k.store(value, slot)
        with k.range(0, count) as i:
            k.store(k.load(slot, I8, i), address, i)

    def store_run(
        self, k: Kernel, address: Value, size: Value, bytes: Callable[[Value], Value]
    ) -> None:
        """Store `size` adjacent bytes, of which `bytes(at)` are a vector of those from `at` on."""
        whole = size // self.bytes * self.bytes
        with k.range(0, whole, self.bytes) as at:
            k.store(bytes(at), address, at)
        with k.when(whole < size):
            self.store_first(k, bytes(whole), address + whole, size - whole)

    def store_part(self, k: Kernel, value: Value, address: Value, count: Value) -> None:
        """`store_first` where `count` is nearly always all."""
        with k.when_else(count.equals(value.type.count)) as (whole, part):
            with whole:
                k.store(value, address)
            with part:
                self.store_first(k, value, address, count)

    # --- numbers

    def round_to_int(self, k: Kernel, v: Value) -> Value:
        v = v.maximum(-(2.0**21)).minimum(2.0**21)
        return (v + 1.5 * 2.0**23 - 1.5 * 2.0**23).to_int(I32)

    def round_near(self, k: Kernel, v: Value) -> Value:
        """`round_to_int` of what is within +-2**30."""
        return self.round_to_int(k, v)

    def rescale_tall(self, k: Kernel, acc: Value, by: Rescale, rest: Value) -> Value:
        """`Plain.rescale` for shifts of at least 32, whose result is within +-2**30.

        The floor of the whole is the floor of what its upper half says: `(a >> 32) >> rest`.

        Args:
            rest: int32, shift - 32 of each lane.
        """
        even, odd = by.products(acc)
        upper = [i + 1 if i % 2 == 0 else i + self.lanes for i in range(self.lanes)]
        return k.shuffle(even.bits(self.i32), odd.bits(self.i32), upper) >> rest

    def rescale(self, k: Kernel, acc: Value, by: Rescale, shift: tuple[Value, Value]) -> Value:
        """`Plain.rescale`. shift is int64, of the even lanes and of the odd ones."""
        even, odd = (
            (product >> s).maximum(-(2**30)).minimum(2**30)
            for product, s in zip(by.products(acc), shift, strict=True)
        )
        order = [i if i % 2 == 0 else i + self.lanes for i in range(self.lanes)]
        return k.shuffle(even.bits(self.i32), (odd << 32).bits(self.i32), order)


class Avx2(Level):
    """256 bits. Bytes are widened to 16 bits before they are multiplied: `vpmaddubsw` saturates (255 * 127 * 2)."""

    name = "avx2"
    lanes = 8
    tiles: ClassVar = {1: 6, 2: 6, 4: 1}
    dots_per_cycle = 0.5
    architectures = ("x86_64",)
    needs: ClassVar[tuple[str, ...]] = ("avx2", "bmi", "bmi2", "fma", "lzcnt", "movbe")
    cpu = "haswell"

    def dot4(self, k: Kernel, acc: Value, x: Value, w: Value) -> Value:
        words = vector(I16, 2 * self.lanes)
        xs, ws = x.bits(words), w.bits(words)
        even = (xs & 255, (ws << 8) >> 8)
        odd = (xs.shift_right_unsigned(8), ws >> 8)
        for p, q in (even, odd):
            acc = acc + k.call("llvm.x86.avx2.pmadd.wd", self.i32, p, q)
        return acc

    def pack_u8(self, k: Kernel, vectors: Sequence[Value], offset: Value | None = None) -> Value:
        if len(vectors) != 4:
            return super().pack_u8(k, vectors, offset)
        quads = self.pack_interleaved(k, vectors, offset).bits(self.i32)
        order = [4 * i + j for j in range(4) for i in range(self.lanes // 4)]
        return k.shuffle(quads, None, order).bits(self.i8)

    def pack_interleaved(
        self, k: Kernel, vectors: Sequence[Value], offset: Value | None = None
    ) -> Value:
        a, b, c, d = vectors
        words = vector(I16, 2 * self.lanes)
        halves = [
            k.call(f"llvm.x86.{self._pack}packssdw{self._suffix}", words, p, q)
            for p, q in ((a, b), (c, d))
        ]
        if offset is not None:  # saturated already, so that the sum may saturate too
            added = offset.truncated(I16).splat(2 * self.lanes)
            halves = [k.call(f"llvm.sadd.sat.{mangle(words)}", words, h, added) for h in halves]
        return k.call(f"llvm.x86.{self._pack}packuswb{self._suffix}", self.i8, *halves)

    _pack: ClassVar[str] = "avx2."
    _suffix: ClassVar[str] = ""

    def round_to_int(self, k: Kernel, v: Value) -> Value:
        # Numbers beyond int32 become its least; those above are cut off first.
        return self.round_near(k, v.minimum(2.0**30))

    def round_near(self, k: Kernel, v: Value) -> Value:
        return k.call("llvm.x86.avx.cvt.ps2dq.256", self.i32, v)


class AvxVnni(Avx2):
    """256 bits with `vpdpbusd`."""

    name = "avxvnni"
    tiles: ClassVar = {1: 8, 2: 6, 3: 4, 4: 1}
    dots_per_cycle = 2
    needs = (*Avx2.needs, "avxvnni", "gfni")
    cpu = "alderlake"

    def dot4(self, k: Kernel, acc: Value, x: Value, w: Value) -> Value:
        return k.call("llvm.x86.avx512.vpdpbusd.256", self.i32, acc, x, w)


class Avx512Vnni(Avx2):
    """512 bits with `vpdpbusd`."""

    name = "avx512vnni"
    lanes = 16
    tiles: ClassVar = {1: 8, 2: 8, 3: 8, 4: 6, 8: 1}
    overlapping_tiles: ClassVar = {4: 3, 3: 4, 2: 6}
    register = "v"
    dots_per_cycle = 2
    pixels = 8
    needs = (
        *Avx2.needs,
        *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vnni"),
    )
    cpu = "cascadelake"
    _pack = "avx512."
    _suffix = ".512"

    def dot4(self, k: Kernel, acc: Value, x: Value, w: Value) -> Value:
        return k.call("llvm.x86.avx512.vpdpbusd.512", self.i32, acc, x, w)

    def round_near(self, k: Kernel, v: Value) -> Value:
        name = "llvm.x86.avx512.mask.cvtps2dq.512"
        every, current = k.const(I16, -1), k.const(I32, 4)
        return k.call(name, self.i32, v, k.const(self.i32, 0), every, current)

    def store_first(self, k: Kernel, value: Value, address: Value, count: Value) -> None:
        size = value.type.count
        ones = k.const(I64, -1).shift_right_unsigned(64 - count)
        mask = k.select(count.equals(0), 0, ones)
        if size < 64:
            mask = mask.truncated(Type("int", size))
        bits = mask.bits(vector(I1, size))
        name = f"llvm.masked.store.{mangle(value.type)}.p0"
        k.call(name, VOID, value, k.pointer(address), k.const(I32, 1), bits)


class Avx512Vbmi(Avx512Vnni):
    """512 bits with `vpdpbusd`, and `vpermi2b` for tables of bytes."""

    name = "avx512vbmi"
    needs = (
        *Avx512Vnni.needs,
        *("avx512bitalg", "avx512ifma", "avx512vbmi", "avx512vbmi2", "avx512vpopcntdq", "gfni"),
    )
    cpu = "icelake-server"

    def lookup(self, k: Kernel, table: Value, x: Value) -> Value | None:
        quarters = [k.load(table, self.i8, 64 * i) for i in range(4)]
        name = (
            "llvm.x86.avx512.vpermi2var.qi.512"  # the lower seven bits of x choose from two vectors
        )
        lower = k.call(name, self.i8, quarters[0], x, quarters[1])
        upper = k.call(name, self.i8, quarters[2], x, quarters[3])
        return k.select(x.less_signed(0), upper, lower)

    def store_part(self, k: Kernel, value: Value, address: Value, count: Value) -> None:
        self.store_first(k, value, address, count)  # without a branch


class NeonDot(Level):
    """AArch64 with `sdot`: signed by signed bytes, so x is seen with 128 taken off."""

    name = "neon-dotprod"
    tiles: ClassVar = {1: 8, 2: 8, 4: 4, 8: 1}
    dots_per_cycle = 2
    shift = 128
    architectures = ("aarch64", "arm64")
    needs = ("dotprod",)
    cpu = "generic"
    features = "+neon,+dotprod"

    def broadcast4(self, k: Kernel, address: Value, offset: Any = 0) -> Value:
        return super().broadcast4(k, address, offset) ^ -128

    def dot4(self, k: Kernel, acc: Value, x: Value, w: Value) -> Value:
        return k.call("llvm.aarch64.neon.sdot.v4i32.v16i8", self.i32, acc, x, w)


# The best first.
LEVELS: dict[str, Level] = {
    level.name: level
    for level in (Avx512Vbmi(), Avx512Vnni(), AvxVnni(), NeonDot(), Avx2(), Level())
}


@cache
def host() -> tuple[str, frozenset[str]]:
    """The architecture and the CPU's features, by LLVM's names. On Linux, LLVM need not be loaded to know them."""
    if sys.platform == "linux" and sys.maxsize > 2**32:
        architecture = os.uname().machine
        features = _FEATURES.get(architecture, frozenset)()
        if features:
            return architecture, features
    from llvmlite import binding

    found = binding.get_host_cpu_features()
    return binding.get_process_triple().split("-")[0], frozenset(f for f in found if found[f])


def _x86_features() -> frozenset[str]:
    """What the system says that processes may use; empty where it does not say."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("flags"):
                flags = line.replace("_", "").split()
                return frozenset(_LLVM_NAMES.get(flag, flag) for flag in flags)
    return frozenset()


def _aarch64_features() -> frozenset[str]:
    """LLVM would read /proc/cpuinfo, which shows another machine under emulation."""
    capabilities = ctypes.CDLL(None).getauxval(AT_HWCAP)
    return frozenset({"neon", "dotprod"} if capabilities & HWCAP_ASIMDDP else {"neon"})


_FEATURES = {"x86_64": _x86_features, "aarch64": _aarch64_features}
_LLVM_NAMES = {"bmi1": "bmi", "abm": "lzcnt"}  # where they differ by more than underscores


def available() -> list[Level]:
    """The levels that this machine can run, the best first."""
    architecture, features = host()
    return [
        level
        for level in LEVELS.values()
        if (not level.architectures or architecture in level.architectures)
        and features.issuperset(level.needs)
    ]


def choose() -> Level:
    """The best level, or the one that the environment variable NPRT_CPU names."""
    name = os.environ.get("NPRT_CPU", "")
    levels = available()
    if not name:
        return levels[0]
    for level in levels:
        if level.name == name:
            return level
    raise BackendUnavailableError(
        f"NPRT_CPU={name!r} is not a level of this machine; it has "
        f"{', '.join(level.name for level in levels)}"
    )
