"""Whole models on the JIT backend: fusions, layouts, memory, threads, processes."""

import ctypes
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from nprt.check import check
from nprt.ir import Model, QuantParams, TensorType
from nprt.jit import cache, simd
from nprt.jit import plan as planning
from nprt.jit.plan import root
from nprt.ops.add import Add
from nprt.ops.conv import Conv
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.dequantize import Dequantize
from nprt.ops.global_average_pool import GlobalAveragePool
from nprt.ops.linear import Linear
from nprt.ops.lookup import Lookup
from nprt.ops.max_pool import MaxPool
from nprt.ops.quantize import Quantize
from nprt.ops.reshape import Reshape
from nprt.ops.transpose import Transpose
from nprt.session import Session

LEVELS = [level.name for level in simd.available()]
NUMERICS = ("integer", "ort", "fbgemm", "qnnpack", "pt2e")


def network(dtype="int8", numerics="integer", channels=20, first=3):
    """Images, channels first, through everything that is fused or laid out in a special way."""
    rng = np.random.default_rng(7)
    types, constants, ops = {}, {}, []
    zero = 128 if dtype == "uint8" else 0
    real = numerics in ("fbgemm", "pt2e")
    edge = {"ort": "onnx", "fbgemm": "torch"}.get(numerics, "onnx")

    def codes(name, shape, scale, zero_point=3):
        types[name] = TensorType(dtype, shape, QuantParams.of(scale, zero + zero_point))
        return name

    def weights(name, shape, axis, x_scale):
        count = shape[axis]
        scales = rng.uniform(0.004, 0.009, count)
        types[name] = TensorType("int8", shape, QuantParams.of(scales, 0, axis))
        constants[name] = rng.integers(-128, 128, shape).astype(np.int8)
        bias = f"{name}_bias"
        if real:
            types[bias] = TensorType("float32", (count,))
            constants[bias] = rng.normal(size=count).astype(np.float32)
        else:
            scale = np.float32(x_scale) * scales.astype(np.float32)
            types[bias] = TensorType("int32", (count,), QuantParams.of(scale, 0, 0))
            constants[bias] = rng.integers(-5000, 5000, count).astype(np.int32)
        return name, bias

    def conv(x, y, out, kernel=3, stride=1, clamp=None):
        shape, x_scale = types[x].shape, types[x].quant.scale[0]
        w = weights(f"{y}_w", (out, kernel, kernel, shape[-1]), 0, x_scale)
        pad = kernel // 2
        op = Conv(
            inputs=(x, *w),
            outputs=(y,),
            stride=(stride,) * 2,
            dilation=(1, 1),
            padding=((pad, pad),) * 2,
            clamp=clamp,
            numerics=numerics,
        )
        size = [(n + 2 * pad - kernel) // stride + 1 for n in shape[1:3]]
        codes(y, (shape[0], *size, out), 0.11, -4)
        ops.append(op)
        return y

    types["x"] = TensorType("float32", ("N", first, 19, 13))
    codes("q", ("N", first, 19, 13), 0.02)
    codes("image", ("N", 19, 13, first), 0.02)
    ops.append(Quantize(inputs=("x",), outputs=("q",), numerics=edge))
    ops.append(Transpose(inputs=("q",), outputs=("image",), perm=(0, 2, 3, 1)))
    conv("image", "a", channels)
    codes("pooled", ("N", 10, 7, channels), 0.11, -4)
    ops.append(
        MaxPool(
            inputs=("a",),
            outputs=("pooled",),
            kernel=(3, 3),
            stride=(2, 2),
            dilation=(1, 1),
            padding=((1, 1), (1, 1)),
        )
    )
    conv("pooled", "b", channels, clamp=(zero - 4, zero + 100))
    conv("b", "c", channels, kernel=1)
    codes("sum", ("N", 10, 7, channels), 0.17, 6)
    ops.append(Add(inputs=("c", "pooled"), outputs=("sum",), numerics=numerics))
    w = weights("d_w", (3, 3, channels), 2, 0.17)
    codes("d", ("N", 10, 7, channels), 0.09, 1)
    ops.append(
        DepthwiseConv(
            inputs=("sum", *w),
            outputs=("d",),
            stride=(1, 1),
            dilation=(1, 1),
            padding=((1, 1), (1, 1)),
            numerics=numerics,
        )
    )
    types["table"] = TensorType(dtype, (256,))
    constants["table"] = rng.integers(0, 256, 256).astype(np.uint8).view(dtype)
    codes("looked", ("N", 10, 7, channels), 0.1, 0)
    ops.append(Lookup(inputs=("d", "table"), outputs=("looked",)))
    conv("looked", "e", channels + 1, stride=2)
    conv("e", "f", channels + 1)
    codes("again", ("N", 5, 4, channels + 1), 0.2, 2)
    ops.append(Add(inputs=("e", "f"), outputs=("again",), numerics=numerics))
    codes("mean", ("N", 1, 1, channels + 1), 0.1, 0)
    ops.append(GlobalAveragePool(inputs=("again",), outputs=("mean",)))
    codes("flat", ("N", channels + 1), 0.1, 0)
    ops.append(Reshape(inputs=("mean",), outputs=("flat",)))
    last, _ = weights("l_w", (10, channels + 1), 0, 0.1)
    sums = np.float32(0.1) * types[last].quant.scales
    types["s"] = TensorType("int32", ("N", 10), QuantParams.of(sums, 0, 1))
    types["y"] = TensorType("float32", ("N", 10))
    bias = "l_w_bias"
    types[bias] = TensorType("int32", (10,), QuantParams.of(sums, 0, 0))
    constants[bias] = rng.integers(-5000, 5000, 10).astype(np.int32)
    ops.append(Linear(inputs=("flat", last, bias), outputs=("s",)))
    ops.append(Dequantize(inputs=("s",), outputs=("y",)))
    return check(Model(("x",), ("y", "again"), types, constants, tuple(ops)))


def images(batch, first=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1.3, (batch, first, 19, 13)).astype(np.float32)


def assert_equal(session, model, x):
    wanted = Session(model, backend="numpy").run(None, {"x": x})
    for actual, expected in zip(session.run(None, {"x": x}), wanted, strict=True):
        np.testing.assert_array_equal(actual, expected, strict=True)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_network_equals_the_reference(dtype, numerics, level, monkeypatch):
    monkeypatch.setenv("NPRT_CPU", level)
    model = network(dtype, numerics)
    session = Session(model, backend="numba", threads=1)
    for batch in (1, 3, 1):
        assert_equal(session, model, images(batch))


@pytest.mark.parametrize(("channels", "first"), [(1, 1), (16, 2), (33, 4), (70, 5), (128, 3)])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_sizes_and_threads(channels, first, threads, monkeypatch):
    monkeypatch.setattr(planning, "GRAIN", 0)
    model = network(channels=channels, first=first)
    session = Session(model, backend="numba", threads=threads)
    for batch in (2, 1):
        assert_equal(session, model, images(batch, first))


@pytest.mark.parametrize("most", [0, 300, 800, 1500, 6000])
def test_what_is_too_large_goes_to_the_reference(most, monkeypatch):
    """Also where a kernel would have done several ops."""
    monkeypatch.setattr(planning, "MOST_BYTES", most)
    model = network()
    session = Session(model, backend="numba", threads=1)
    assert_equal(session, model, images(1))
    kernels = [step["kernel"] for step in session.plan(N=1)]
    assert "reference" in kernels
    assert most == 0 or set(kernels) > {"reference"}


def test_fusions_happen():
    steps = Session(network(), backend="numba", threads=1).plan(N=1)
    kernels = [step["kernel"] for step in steps]
    assert not {"reference", "add integer", "dequantize"} & set(kernels)
    assert sum(" add " in kernel for kernel in kernels) == 2
    assert any(kernel.startswith("quantize_planes") for kernel in kernels)
    assert kernels[-1].endswith(" real")


def test_live_buffers_do_not_share_memory():
    session = Session(network(), backend="numba", threads=1)
    plan = session._backend.plan({"N": 2})
    buffers = plan.buffers
    assert plan.arena_bytes < sum(buffer.bytes for buffer in buffers)
    for one in buffers:
        assert one.offset + one.bytes <= plan.arena_bytes
        for other in buffers:
            if one is not other and one.first <= other.last and other.first <= one.last:
                assert (
                    one.offset + one.bytes <= other.offset
                    or other.offset + other.bytes <= one.offset
                )
    assert all(root(b) is b for b in buffers)


def test_empty_batch_and_many_shapes():
    model = network()
    session = Session(model, backend="numba")
    assert_equal(session, model, images(0))
    for batch in range(1, 12):
        assert_equal(session, model, images(batch))
    assert len(session._backend._plans) <= 8


def test_a_call_keeps_its_plan():
    """The session has forgotten it, but would run it for the next array like the last one."""
    rng = np.random.default_rng(2)
    quant, weight = QuantParams.of(0.1, 128), QuantParams.of(0.01, 0)
    types = {name: TensorType("uint8", ("N", 8), quant) for name in ("x", "y")}
    types["w"] = TensorType("int8", (8, 8), weight)
    constants = {"w": rng.integers(-128, 128, (8, 8)).astype(np.int8)}
    linear = Linear(inputs=("x", "w"), outputs=("y",))
    session = Session(check(Model(("x",), ("y",), types, constants, (linear,))), backend="numba")
    session(np.zeros((1, 8), np.uint8))
    plan = weakref.ref(session._backend.plan({"N": 1}))
    for batch in range(2, 12):
        session.run(None, {"x": np.zeros((batch, 8), np.uint8)})
    assert (("N", 1),) not in session._backend._plans
    assert plan() is not None


@pytest.mark.parametrize("threads", [1, 2])
def test_many_python_threads(threads, monkeypatch):
    monkeypatch.setattr(planning, "GRAIN", 0)
    model = network()
    reference = Session(model, backend="numpy")
    sessions = [Session(model, backend="numba", threads=threads) for _ in range(2)]
    xs = [images(1 + i % 2, seed=i) for i in range(8)]
    wanted = [reference.run(["y"], {"x": x})[0] for x in xs]

    def call(i):
        y = sessions[i % 2].run(["y"], {"x": xs[i % 8]})[0]
        np.testing.assert_array_equal(y, wanted[i % 8])

    with ThreadPoolExecutor(6) as executor:
        list(executor.map(call, range(300)))


def test_more_threads_than_processors(monkeypatch):
    monkeypatch.setattr(planning, "GRAIN", 0)
    model = network()
    session = Session(model, backend="numba", threads=9)
    for _ in range(20):
        assert_equal(session, model, images(1))


def _in_child(queue):
    model = network()
    y = Session(model, backend="numba", threads=2).run(["y"], {"x": images(1)})[0]
    queue.put(y)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork(monkeypatch):
    """A child has none of its parent's workers, and runs all the same."""
    monkeypatch.setattr(planning, "GRAIN", 0)
    model = network()
    session = Session(model, backend="numba", threads=2)
    wanted = session.run(["y"], {"x": images(1)})[0]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    np.testing.assert_array_equal(queue.get(timeout=60), wanted)
    child.join(60)
    assert child.exitcode == 0
    np.testing.assert_array_equal(session.run(["y"], {"x": images(1)})[0], wanted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_while_another_thread_runs():
    """The child has none of the locks that were held."""
    session, feeds = Session(network(), backend="numba", threads=1), {"x": images(1)}
    wanted = session.run(["y"], feeds)[0]
    plan = session._backend.plan({"N": 1})
    with plan.lock, session._backend._lock, cache._lock:
        child = os.fork()
        if not child:
            signal.alarm(60)
            os._exit(0 if np.array_equal(session.run(["y"], feeds)[0], wanted) else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(session.run(["y"], feeds)[0], wanted)


SCRIPT = """
import sys, threading
import numpy as np
from nprt.jit import plan
plan.GRAIN = 0
sys.path.insert(0, {tests!r})
from test_jit_models import images, network
from nprt.session import Session
session = Session(network(), backend="numba", threads=3)
session.run(None, {{"x": images(1)}})
assert "numba" not in sys.modules
print(threading.active_count(), session.backend)
"""


def test_a_process_ends_and_never_imports_numba():
    code = SCRIPT.format(tests=os.path.dirname(__file__))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["3", "numba"]


def test_workers_are_shared_by_sessions(monkeypatch):
    monkeypatch.setattr(planning, "GRAIN", 0)
    model = network()
    for _ in range(5):
        Session(model, backend="numba", threads=2).run(None, {"x": images(1)})
    names = [t.name for t in threading.enumerate()]
    assert sum(name == "nprt-1" for name in names) <= len({2, 3, 4, 9})


def entrance(width=67, channels=3):
    """Float images, channels first, to codes, channels last."""
    types = {"x": TensorType("float32", ("N", channels, 40, width))}
    quant = QuantParams.of(0.02, 3)
    types["q"] = TensorType("int8", ("N", channels, 40, width), quant)
    types["y"] = TensorType("int8", ("N", 40, width, channels), quant)
    ops = (
        Quantize(inputs=("x",), outputs=("q",), numerics="onnx"),
        Transpose(inputs=("q",), outputs=("y",), perm=(0, 2, 3, 1)),
    )
    return check(Model(types=types, inputs=("x",), outputs=("y",), constants={}, ops=ops))


def guarded(array):
    """A copy that ends where the memory of the process ends: who reads on, crashes."""
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    whole = np.frombuffer(memory, np.uint8)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert libc.mprotect(whole.ctypes.data + size, page, 0) == 0  # PROT_NONE
    copy = whole[size - array.nbytes : size].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", [64, 67, 127, 200])
def test_large_inputs_are_read_where_they_are(level, width, monkeypatch):
    monkeypatch.setenv("NPRT_CPU", level)
    model = entrance(width)
    session = Session(model, backend="numba", threads=1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3, 40, width)).astype(np.float32)
    wanted = Session(model, backend="numpy").run(None, {"x": x})[0]
    for given in (x, x[::-1][::-1], np.asfortranarray(x), x.copy()):
        for _ in range(2):
            np.testing.assert_array_equal(session.run(None, {"x": given})[0], wanted)
    plan = session._backend.plan({"N": 4})
    assert list(plan.foreign) == ["x"]
    base = plan.address(plan.inputs["x"])
    assert all(slot[0] == base for slots in plan.foreign.values() for slot in slots)


def reshaped_entrance():
    """The same, where the images come flat."""
    model = entrance(67)
    types = {**model.types, "flat": TensorType("float32", ("N", 3 * 40 * 67))}
    ops = (Reshape(inputs=("flat",), outputs=("x",)), *model.ops)
    return check(Model(types=types, inputs=("flat",), outputs=("y",), constants={}, ops=ops))


def test_a_large_input_is_read_under_another_shape():
    model = reshaped_entrance()
    x = np.random.default_rng(0).normal(size=(4, 8040)).astype(np.float32)
    session = Session(model, backend="numba", threads=1)
    wanted = Session(model, backend="numpy").run(None, {"flat": x})[0]
    for _ in range(2):
        np.testing.assert_array_equal(session.run(None, {"flat": x})[0], wanted)
    assert all(session._backend.plan({"N": 4}).foreign.values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")
@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_read_beyond_an_input(level, monkeypatch):
    monkeypatch.setenv("NPRT_CPU", level)
    model, real = entrance(67), np.random.default_rng(0).normal(size=(4, 3, 40, 67))
    x = guarded(real.astype(np.float32))
    session = Session(model, backend="numba", threads=1)
    wanted = Session(model, backend="numpy").run(None, {"x": x})[0]
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], wanted)
    assert session._backend.plan({"N": 4}).foreign


def test_a_planned_model_allocates_its_outputs_only():
    """Of NumPy's memory, and nothing that grows with the number of runs."""
    session = Session(network(), backend="numba", threads=1)
    feeds = {"x": images(2)}
    outputs = sum(y.nbytes for y in session.run(None, feeds))
    tracemalloc.start()
    try:
        session.run(None, feeds)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        session.run(None, feeds)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before <= outputs + 2000  # an array object has some 100 bytes of its own
    assert after - before < 500


def beside_padding():
    """Images that a padded convolution reads, and an add behind a linear: as blocks of ConvNeXt have them."""
    rng = np.random.default_rng(3)
    quant, weight = QuantParams.of(0.1, 3), QuantParams.of(0.01, 0)
    shape = ("N", 6, 5, 20)
    types = {name: TensorType("int8", shape, quant) for name in ("x", "a", "d", "l", "y")}
    constants = {}
    for name, w_shape in (("w", (20, 3, 3, 20)), ("dw", (3, 3, 20)), ("lw", (20, 20))):
        types[name] = TensorType("int8", w_shape, weight)
        constants[name] = rng.integers(-128, 128, w_shape).astype(np.int8)
    window = {"stride": (1, 1), "dilation": (1, 1), "padding": ((1, 1), (1, 1))}
    ops = (
        Conv(inputs=("x", "w"), outputs=("a",), **window),
        DepthwiseConv(inputs=("a", "dw"), outputs=("d",), **window),
        Linear(inputs=("d", "lw"), outputs=("l",)),
        Add(inputs=("l", "a"), outputs=("y",)),
    )
    return check(Model(types=types, inputs=("x",), outputs=("y",), constants=constants, ops=ops))


@pytest.mark.parametrize("level", LEVELS)
def test_an_add_behind_a_linear_reads_images_with_padding(level, monkeypatch):
    monkeypatch.setenv("NPRT_CPU", level)
    model = beside_padding()
    x = np.random.default_rng(0).integers(-128, 128, (2, 6, 5, 20)).astype(np.int8)
    session = Session(model, backend="numba", threads=1)
    wanted = Session(model, backend="numpy").run(None, {"x": x})[0]
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], wanted)
    assert any(" add " in step["kernel"] for step in session.plan(N=2))


def test_no_work_is_lost_however_finely_it_is_cut(monkeypatch):
    monkeypatch.setattr(planning, "GRAIN", 0)
    plan = Session(network(), backend="numba", threads=3)._backend.plan({"N": 1})
    assert all(plan._chunks(step) >= 1 for step in plan.steps if step.run is None)
    tiny = planning.Step(None, "tiny", (), ())
    assert plan._chunks(tiny) == 1


def test_padding_of_small_images_is_written_once(monkeypatch):
    feeds = {"x": images(1)}
    once = Session(network(), backend="numba", threads=1)
    assert "fill" not in [step["kernel"] for step in once.plan(N=1)]
    monkeypatch.setattr(planning, "LASTING_BYTES", 0)
    each_time = Session(network(), backend="numba", threads=1)
    assert "fill" in [step["kernel"] for step in each_time.plan(N=1)]
    for _ in range(2):
        for a, b in zip(once.run(None, feeds), each_time.run(None, feeds), strict=True):
            np.testing.assert_array_equal(a, b)
