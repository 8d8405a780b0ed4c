"""What people ask about speed: the plan of a model, how long it and each of its ops takes, the machine's peak."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nprt.ir import Array, Model, TensorType
from nprt.jit import cache, simd
from nprt.jit.backend import JitBackend
from nprt.jit.emit import Kernel, Value
from nprt.jit.plan import Plan, Segment
from nprt.jit.simd import Level

LEAST_SECONDS = 0.2  # to measure something for
RECORD = np.dtype([("bytes", "i8"), ("turns", "i8")])
SUMS, UNROLLED = 12, 8


def sizes(model: Model, batch: int) -> dict[str, int]:
    """Every free dimension of the inputs is `batch`."""
    shapes = [model.types[name].shape for name in model.inputs]
    return {dim: batch for shape in shapes for dim in shape if isinstance(dim, str)}


def example(model: Model, batch: int) -> dict[str, Array]:
    """Inputs to time a model with, the same each time."""
    rng = np.random.default_rng(0)
    return {name: _draw(rng, model.types[name].bind(sizes(model, batch))) for name in model.inputs}


def _draw(rng: np.random.Generator, type: TensorType) -> Array:
    shape = tuple(map(int, type.shape))
    if type.is_float:
        return rng.standard_normal(shape, np.float32)
    if type.dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    low, high = type.code_range if type.dtype in ("int8", "uint8") else (0, 1)
    return rng.integers(low, high, shape, endpoint=True).astype(type.numpy)


def measure(run: Callable[[], object], seconds: float = 1.0) -> dict[str, float]:
    """Median, least and 90th percentile of many calls, in seconds."""
    for _ in range(3):
        run()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 10 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return {
        "median": statistics.median(times),
        "min": min(times),
        "p90": float(np.quantile(times, 0.9)),
        "runs": len(times),
    }


def plan_rows(plan: Plan) -> list[tuple[str, ...]]:
    """The plan as a table, its first row the heads."""
    rows: list[tuple[str, ...]] = [("kernel", "op", "value", "shape", "bytes", "at")]
    for step in plan.describe():
        for written in step["writes"]:
            shape = "x".join(map(str, written["shape"]))
            if written["halo"]:
                shape += " + halo"
            rows.append(
                (
                    step["kernel"],
                    step["op"],
                    written["value"],
                    shape,
                    str(written["bytes"]),
                    str(written["offset"]),
                )
            )
    return rows


def time_steps(backend: JitBackend, plan: Plan, seconds: float = 1.0) -> list[dict[str, Any]]:
    """The least time of each kernel by itself, on one thread. Call after a run: the arena holds its values."""
    jobs = [
        segment.part(index, index + 1)
        for segment in plan.segments
        if isinstance(segment, Segment)
        for index in range(segment.count)
    ]
    addresses = [job.ctypes.data for job in jobs]
    best = [float("inf")] * len(jobs)
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for number, address in enumerate(addresses):
            start = time.perf_counter()
            backend.native.alone(address)
            best[number] = min(best[number], time.perf_counter() - start)
    steps = [step for step in plan.steps if step.run is None]
    described = [d for d, step in zip(plan.describe(), plan.steps, strict=True) if step.run is None]
    return [
        {**d, "seconds": seconds, "macs": step.macs}
        for d, step, seconds in zip(described, steps, best, strict=True)
    ]


def _emit_peak(name: str, level: Level) -> Any:
    """Dot products on registers, nothing else."""
    k = Kernel(name, RECORD)
    x = k.load(k.arg("bytes"), level.i8)
    start = [k.const(level.i32, i) for i in range(SUMS)]

    def turn(_: Value, sums: list[Value]) -> list[Value]:
        for _turn in range(UNROLLED):
            sums = [level.dot4(k, s, x, x) for s in sums]
        return sums

    sums = k.loop(0, k.arg("turns"), 1, start, turn)
    total = sums[0]
    for s in sums[1:]:
        total = total ^ s
    k.store(total, k.arg("bytes"))
    return k.finish()


def peak(level: Level | None = None) -> float:
    """Multiply-accumulates per second of one thread that does nothing else: the most a kernel could reach."""
    level = level or simd.choose()
    address = cache.address(level, "peak", lambda name: _emit_peak(name, level))
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(address)
    memory = np.zeros(level.bytes, np.uint8)
    record = np.array([(memory.ctypes.data, 5000)], RECORD)
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < LEAST_SECONDS:
        start = time.perf_counter()
        kernel(record.ctypes.data, 0, 1)
        best = min(best, time.perf_counter() - start)
    return 5000 * SUMS * UNROLLED * level.bytes / best


def warm_up(model: Model, dims: Mapping[str, int]) -> tuple[int, int]:
    """Compile what a model needs for these sizes and keep it.

    Returns:
        How many kernels the model needs, and how many of them were compiled now.
    """
    before = cache.compiled()
    plans = [JitBackend(model, threads).plan(dims) for threads in (2, 1)]
    steps = [step for plan in plans if plan is not None for step in plan.steps]
    kernels = {step.kernel for step in steps if step.run is None}
    return len(kernels), cache.compiled() - before
