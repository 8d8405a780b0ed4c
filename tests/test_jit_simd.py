"""Each vector operation of each level equals its plain meaning, on random and extreme inputs."""

import ctypes
import platform

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from nprt.jit import cache, simd
from nprt.jit.emit import F32, I32, I64, Kernel, vector
from nprt.jit.simd import Plain, Rescale

LEVELS = simd.available()
RECORD = np.dtype([(name, "i8") for name in ("a", "b", "c", "d", "y", "n")])
ENDS32 = np.array([0, 1, -1, 2**31 - 1, -(2**31) + 1, 2**24, -(2**24), 255, 256, -128], np.int64)


@pytest.fixture(params=LEVELS, ids=lambda level: level.name)
def level(request):
    return request.param


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """What these tests compile is theirs alone: no key names their source."""
    monkeypatch.setenv("NPRT_CACHE_DIR", str(tmp_path))


def execute(level, key, body, size, *arrays, n=0):
    """Run `body(kernel, addresses)` as a kernel on copies of the arrays; it stores `size` bytes."""

    def build(name):
        k = Kernel(name, RECORD)
        body(k, {field: k.arg(field) for field in RECORD.names})
        return k.finish()

    address = cache.address(level, f"test {key}", build)
    out = np.full(size + 64, 0xA5, np.uint8)
    kept = [np.ascontiguousarray(a).copy() for a in arrays]
    addresses = [a.ctypes.data for a in kept] + [0] * (4 - len(kept))
    record = np.array([(*addresses, out.ctypes.data, n)], RECORD)
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(address)(record.ctypes.data, 0, 1)
    assert (out[size:] == 0xA5).all(), "written beyond the end"
    return out[:size]


def numbers(rng, count):
    """int32 with the ends and every power of two among them."""
    powers = 2 ** np.arange(31, dtype=np.int64)
    special = np.concatenate([ENDS32, powers, -powers, powers + 1])
    values = np.concatenate([special, rng.integers(-(2**31) + 1, 2**31, count)])
    return rng.permutation(values)[:count].astype(np.int32)


@pytest.mark.parametrize("seed", range(8))
def test_dot4(level, seed):
    rng = np.random.default_rng(seed)
    x = rng.choice([0, 255, *rng.integers(0, 256, 8)], 4 * level.lanes).astype(np.uint8)
    w = rng.choice([-128, 127, *rng.integers(-128, 128, 8)], 4 * level.lanes).astype(np.int8)
    if seed == 0:
        x[:], w[:] = 255, 127  # beyond what 16 bits hold
    acc = numbers(rng, level.lanes)

    def body(k, at):
        x = k.load(at["b"], level.i8)
        if level.shift:
            x = x ^ -128
        k.store(level.dot4(k, k.load(at["a"], level.i32), x, k.load(at["c"], level.i8)), at["y"])

    out = execute(level, "dot4", body, level.bytes, acc, x, w).view(np.int32)
    with np.errstate(over="ignore"):
        expected = Plain.dot4(acc, x.astype(np.int32) - level.shift, w)
    np.testing.assert_array_equal(out, expected)


def test_broadcast4(level):
    four = np.array([7, 200, 0, 255], np.uint8)

    def body(k, at):
        k.store(level.broadcast4(k, at["a"]), at["y"])

    out = execute(level, "broadcast4", body, level.bytes, four)
    expected = (four.astype(np.int32) - level.shift).astype(np.uint8)
    np.testing.assert_array_equal(out, np.tile(expected, level.lanes))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_pack_u8(level, count):
    rng = np.random.default_rng(count)
    for values in (numbers(rng, count * level.lanes), rng.integers(-300, 600, count * level.lanes)):
        vectors = values.astype(np.int32).reshape(count, level.lanes)

        def body(k, at):
            loaded = [k.load(at["a"], level.i32, i * level.bytes) for i in range(count)]
            k.store(level.pack_u8(k, loaded), at["y"])

        out = execute(level, f"pack_u8 {count}", body, count * level.lanes, vectors)
        np.testing.assert_array_equal(out, Plain.pack_u8(*vectors))


@pytest.mark.parametrize("offset", [0, 1, 128, 255])
@pytest.mark.parametrize("interleaved", [False, True])
def test_pack_with_an_offset(level, offset, interleaved):
    rng = np.random.default_rng(offset)
    name = "pack_interleaved" if interleaved else "pack_u8"
    ends = np.array([-(2**30), 2**30, -32769, -32768, 32767, 32768, 32767 - offset, -offset])
    for values in (rng.integers(-600, 600, 4 * level.lanes), np.resize(ends, 4 * level.lanes)):
        vectors = values.astype(np.int32).reshape(4, level.lanes)

        def body(k, at):
            loaded = [k.load(at["a"], level.i32, i * level.bytes) for i in range(4)]
            k.store(getattr(level, name)(k, loaded, k.const(I32, offset)), at["y"])

        out = execute(level, f"{name} plus {offset}", body, level.bytes, vectors)
        np.testing.assert_array_equal(out, getattr(Plain, name)(*vectors, offset=offset))


def test_interleave_and_pack_interleaved(level):
    rng = np.random.default_rng(0)
    bytes = rng.integers(0, 256, (4, level.bytes)).astype(np.uint8)

    def interleave(k, at):
        loaded = [k.load(at["a"], level.i8, i * level.bytes) for i in range(4)]
        for i, v in enumerate(level.interleave4(k, *loaded)):
            k.store(v, at["y"], i * level.bytes)

    out = execute(level, "interleave4", interleave, 4 * level.bytes, bytes)
    expected = Plain.interleave4(*bytes)
    np.testing.assert_array_equal(out, np.concatenate(expected))
    order = level.channel_order
    for j in range(4):
        np.testing.assert_array_equal(expected[j].reshape(-1, 4), bytes[:, order[j]].T)

    values = rng.integers(-300, 600, (4, level.lanes)).astype(np.int32)

    def pack(k, at):
        loaded = [k.load(at["a"], level.i32, i * level.bytes) for i in range(4)]
        k.store(level.pack_interleaved(k, loaded), at["y"])

    out = execute(level, "pack_interleaved", pack, level.bytes, values)
    np.testing.assert_array_equal(out, Plain.pack_interleaved(*values))
    np.testing.assert_array_equal(out[order], np.clip(values, 0, 255))


def test_lookup(level):
    rng = np.random.default_rng(0)
    table = rng.permutation(256).astype(np.uint8)
    x = rng.integers(0, 256, level.bytes).astype(np.uint8)
    answered = []

    def body(k, at):
        found = level.lookup(k, at["a"], k.load(at["b"], level.i8))
        answered.append(found is not None)
        if found is not None:
            k.store(found, at["y"])

    out = execute(level, "lookup", body, level.bytes, table, x)
    assert answered
    if answered[0]:
        np.testing.assert_array_equal(out, Plain.lookup(table, x))


@pytest.mark.parametrize("near", [False, True])
def test_rounding(level, near):
    rng = np.random.default_rng(0)
    halves = np.arange(-300, 300, 0.5, np.float32)
    ends = np.array([2.0**21, -(2.0**21), 2.0**31, -(2.0**31), 3e38, -3e38, np.inf, -np.inf])
    beside = np.nextafter(halves, np.float32(np.inf))
    if near:
        ends = np.array([2.0**21, -(2.0**21), 2.0**30, -(2.0**30)])
    values = np.concatenate([halves, ends, beside, rng.normal(0, 1e4, 500)]).astype(np.float32)
    values = np.resize(values, -(-len(values) // level.lanes) * level.lanes)

    def body(k, at):
        with k.range(0, at["n"], level.bytes) as i:
            v = k.load(at["a"], level.f32, i)
            k.store((level.round_near if near else level.round_to_int)(k, v), at["y"], i)

    out = execute(level, f"round {near}", body, values.nbytes, values, n=values.nbytes).view(
        np.int32
    )
    np.testing.assert_array_equal(np.clip(out, -(2**21), 2**21), Plain.round_to_int(values))


@pytest.mark.parametrize("tall", [False, True])
def test_rescale(level, tall):
    rng = np.random.default_rng(tall)
    for turn in range(60):
        acc = numbers(rng, level.lanes)
        multiplier = rng.integers(2**30, 2**31, level.lanes)
        multiplier[0], multiplier[-1] = 2**31 - 1, 0
        shift = rng.integers(32 if tall else 1, 63, level.lanes)
        if turn % 2:
            acc = rng.integers(-4000, 4000, level.lanes).astype(np.int32)  # ties
            multiplier[:] = 2**30
            shift = rng.integers(32 if tall else 28, 40, level.lanes)
        rounding = np.int64(1) << (shift - 1)
        split = [np.concatenate([v[0::2], v[1::2]]) for v in (multiplier, rounding, shift)]
        if tall:
            split[2] = (shift - 32).astype(np.int32)

        def body(k, at):
            half = level.lanes // 2
            pairs = [
                tuple(k.load(at[f], vector(I64, half), i * 8 * half) for i in range(2))
                for f in "bcd"
            ]
            acc, by = k.load(at["a"], level.i32), Rescale(*pairs[:2])
            if tall:
                k.store(level.rescale_tall(k, acc, by, k.load(at["d"], level.i32)), at["y"])
            else:
                k.store(level.rescale(k, acc, by, pairs[2]), at["y"])

        out = execute(level, f"rescale {tall}", body, level.bytes, acc, *split).view(np.int32)
        np.testing.assert_array_equal(out, Plain.rescale(acc, multiplier, shift))


def test_store_first(level):
    data = np.arange(level.bytes, dtype=np.uint8)

    def body(k, at):
        level.store_first(k, k.load(at["a"], level.i8), at["y"], at["n"])

    for count in range(level.bytes + 1):
        out = execute(level, "store_first", body, level.bytes, data, n=count)
        np.testing.assert_array_equal(out[:count], data[:count])
        assert (out[count:] == 0xA5).all()


def test_float_arithmetic_is_not_contracted(level):
    """A product and a sum are two roundings; `fma` is one."""
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=64 * level.lanes).astype(np.float32) for _ in range(3))

    def body(fused):
        def emit(k, at):
            with k.range(0, at["n"], level.bytes) as i:
                x, y, z = (k.load(at[f], vector(F32, level.lanes), i) for f in "abc")
                k.store(k.fma(x, y, z) if fused else x * y + z, at["y"], i)

        return emit

    plain = execute(level, "plain", body(False), a.nbytes, a, b, c, n=a.nbytes).view(np.float32)
    np.testing.assert_array_equal(plain, a * b + c)
    fused = execute(level, "fused", body(True), a.nbytes, a, b, c, n=a.nbytes).view(np.float32)
    assert (fused != plain).any()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="LLVM asks an x86 CPU itself")
def test_features_are_those_that_llvm_finds(monkeypatch):
    from llvmlite import binding

    found = binding.get_host_cpu_features()
    wanted = {need for level in simd.LEVELS.values() for need in level.needs} - {"dotprod"}
    architecture, features = simd.host.__wrapped__()
    assert architecture == "x86_64"
    assert features & wanted == {need for need in wanted if found[need]}
    monkeypatch.setitem(simd._FEATURES, "x86_64", frozenset)
    architecture, features = simd.host.__wrapped__()
    assert architecture == "x86_64"
    assert features & wanted == {need for need in wanted if found[need]}


def test_a_level_can_be_forced(monkeypatch):
    from nprt.errors import BackendUnavailableError

    for level in LEVELS:
        monkeypatch.setenv("NPRT_CPU", level.name)
        assert simd.choose() is level
    monkeypatch.setenv("NPRT_CPU", "z80")
    with pytest.raises(BackendUnavailableError, match="NPRT_CPU='z80' is not a level"):
        simd.choose()
    monkeypatch.delenv("NPRT_CPU")
    assert simd.choose() is LEVELS[0]
    assert LEVELS[-1].name == "generic"
