"""The executor: one native call runs many kernels on all threads.

A *table* has one entry for each kernel: its address, the address of its arguments, and whether a barrier follows. All
threads walk the same table; each kernel takes its share by (thread, threads). The caller is thread 0. Workers are Python
threads inside one long native call (without the GIL): they spin for a while for the next job, then go to sleep on a
condition. In a barrier threads spin, then yield, for there may be more threads than processors.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import threading
from typing import Any

import numpy as np
from llvmlite import ir

from nprt.ir import Array
from nprt.jit import cache
from nprt.jit.emit import I32, I64, POINTER
from nprt.jit.simd import Level

ENTRY = np.dtype([("kernel", "i8"), ("args", "i8"), ("barrier", "i8")])

# One cache line for each variable that threads write to.
SHARED = np.dtype(
    {
        "names": ["arrived", "round", "job", "table", "first", "last", "threads", "stop", "yield"],
        "formats": ["i8"] * 9,
        "offsets": [0, 64, 128, 192, 200, 208, 216, 256, 320],
        "itemsize": 384,
    }
)
SPINS_IN_BARRIER = 2000
SPINS_FOR_JOB = 20_000  # about 0.2 ms to 1 ms, by what a pause takes


class Native:
    """The three functions: `run(table, first, last, thread, threads, shared)`, `publish` and `work`."""

    def __init__(self, level: Level) -> None:
        long = ctypes.c_int64
        key = f"executor {SPINS_IN_BARRIER} {SPINS_FOR_JOB}"

        def function(suffix: str, result: Any, count: int) -> Any:
            build = {"run": _emit_run, "publish": _emit_publish, "work": _emit_work}[suffix]
            address = cache.address(level, f"{key} {suffix}", build)
            return ctypes.CFUNCTYPE(result, *[long] * count)(address)

        self.run = function("run", None, 6)
        self.publish = function("publish", None, 5)
        self.work = function("work", long, 3)


def _fields(b: Any, shared: Any) -> dict[str, Any]:
    fields: Any = SHARED.fields
    return {
        name: b.inttoptr(b.add(shared, I64(offset)), ir.PointerType(I64))
        for name, (_, offset) in fields.items()
    }


def _pause(module: Any, b: Any) -> None:
    if str(cache.binding.get_process_triple()).startswith("x86_64"):
        name = "llvm.x86.sse2.pause"
        pause = module.globals.get(name) or ir.Function(
            module, ir.FunctionType(ir.VoidType(), []), name
        )
        b.call(pause, [])


def _yield(b: Any, at: Any) -> None:
    """Call `sched_yield`, whose address is in `shared`, if it is there."""
    address = b.load(at["yield"], typ=I64, align=8)
    with b.if_then(b.icmp_unsigned("!=", address, I64(0))):
        kind = ir.FunctionType(I32, [])
        _call_address(b, address, kind, [])


def _call_address(b: Any, address: Any, kind: Any, operands: list[Any]) -> None:
    b.call(b.inttoptr(address, ir.PointerType(kind)), operands)


def _emit_barrier(module: Any, b: Any, at: dict[str, Any], threads: Any) -> None:
    """All threads arrive before one goes on."""
    now = b.load_atomic(at["round"], "acquire", 8, typ=I64)
    arrived = b.atomic_rmw("add", at["arrived"], I64(1), "acq_rel")
    with b.if_else(b.icmp_signed("==", arrived, b.sub(threads, I64(1)))) as (last, other):
        with last:
            b.store_atomic(I64(0), at["arrived"], "monotonic", 8)
            b.store_atomic(b.add(now, I64(1)), at["round"], "release", 8)
        with other:
            spin, after = b.append_basic_block("spin"), b.append_basic_block("after")
            before = b.block
            b.branch(spin)
            b.position_at_end(spin)
            count = b.phi(I64)
            count.add_incoming(I64(0), before)
            _pause(module, b)
            with b.if_then(b.icmp_signed(">", count, I64(SPINS_IN_BARRIER))):
                _yield(b, at)
            count.add_incoming(b.add(count, I64(1)), b.block)
            same = b.icmp_signed("==", b.load_atomic(at["round"], "acquire", 8, typ=I64), now)
            b.cbranch(same, spin, after)
            b.position_at_end(after)


def _emit_walk(
    module: Any, b: Any, table: Any, first: Any, last: Any, thread: Any, threads: Any, shared: Any
) -> None:
    """Call the kernels of the table in turn."""
    at = _fields(b, shared)
    head, inside, after = (b.append_basic_block(n) for n in ("head", "inside", "after"))
    before = b.block
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(I64)
    i.add_incoming(first, before)
    b.cbranch(b.icmp_signed("<", i, last), inside, after)
    b.position_at_end(inside)
    entry = b.add(table, b.mul(i, I64(ENTRY.itemsize)))
    kernel, args, barrier = (
        b.load(b.inttoptr(b.add(entry, I64(8 * n)), POINTER), typ=I64, align=8) for n in range(3)
    )
    kind = ir.FunctionType(ir.VoidType(), [I64, I64, I64])
    _call_address(b, kernel, kind, [args, thread, threads])
    many = b.icmp_signed(">", threads, I64(1))
    with b.if_then(b.and_(many, b.icmp_signed("!=", barrier, I64(0)))):
        _emit_barrier(module, b, at, threads)
    i.add_incoming(b.add(i, I64(1)), b.block)
    b.branch(head)
    b.position_at_end(after)


def _function(name: str, result: Any, count: int) -> tuple[Any, Any, list[Any]]:
    module = ir.Module(name)
    function = ir.Function(module, ir.FunctionType(result, [I64] * count), name)
    return module, ir.IRBuilder(function.append_basic_block("entry")), list(function.args)


def _emit_run(name: str) -> Any:
    module, b, operands = _function(name, ir.VoidType(), 6)
    _emit_walk(module, b, *operands)
    b.ret_void()
    return module


def _emit_publish(name: str) -> Any:
    """`publish(shared, table, first, last, threads)`: a job for the workers."""
    module, b, (shared, *values) = _function(name, ir.VoidType(), 5)
    at = _fields(b, shared)
    for field, value in zip(("table", "first", "last", "threads"), values, strict=True):
        b.store(value, at[field], align=8)
    b.atomic_rmw("add", at["job"], I64(1), "seq_cst")
    b.ret_void()
    return module


def _emit_work(name: str) -> Any:
    """`work(shared, thread, seen)`: do jobs until there is none for a while; returns the number of the last one."""
    module, b, (shared, thread, seen) = _function(name, I64, 3)
    at = _fields(b, shared)
    wait, job, idle, out = (b.append_basic_block(n) for n in ("wait", "job", "idle", "out"))
    before = b.block
    b.branch(wait)
    b.position_at_end(wait)
    count, done = b.phi(I64), b.phi(I64)
    count.add_incoming(I64(0), before)
    done.add_incoming(seen, before)
    now = b.load_atomic(at["job"], "acquire", 8, typ=I64)
    b.cbranch(b.icmp_signed("!=", now, done), job, idle)

    b.position_at_end(job)
    table, first, last, threads = (
        b.load(at[field], typ=I64, align=8) for field in ("table", "first", "last", "threads")
    )
    with b.if_then(b.icmp_signed("<", thread, threads)):
        _emit_walk(module, b, table, first, last, thread, threads, shared)
    count.add_incoming(I64(0), b.block)
    done.add_incoming(now, b.block)
    b.branch(wait)

    b.position_at_end(idle)
    _pause(module, b)
    stop = b.load_atomic(at["stop"], "acquire", 8, typ=I64)
    over = b.or_(b.icmp_signed(">", count, I64(SPINS_FOR_JOB)), b.icmp_signed("!=", stop, I64(0)))
    count.add_incoming(b.add(count, I64(1)), b.block)
    done.add_incoming(done, b.block)
    b.cbranch(over, out, wait)
    b.position_at_end(out)
    b.ret(done)
    return module


@functools.cache
def native(level: Level) -> Native:
    return Native(level)


# --- the pool -----------------------------------------------------------------------------------------


class Pool:
    """Workers that all sessions of the process share. One job runs at a time, on all of them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.lock = threading.Lock()
        self.wake = threading.Condition()
        self.memory = np.zeros(SHARED.itemsize + 64, np.uint8)
        start = -self.memory.ctypes.data % 64
        self.shared = self.memory[start : start + SHARED.itemsize].view(SHARED)
        self.address = self.memory.ctypes.data + start
        self.workers: list[threading.Thread] = []
        self.asleep = 0
        self.stopping = False
        try:
            libc = ctypes.CDLL(None)
            self.shared["yield"] = ctypes.cast(libc.sched_yield, ctypes.c_void_p).value or 0
        except (OSError, AttributeError, TypeError):
            pass  # then a barrier only spins

    def run(self, native: Native, table: int, first: int, last: int) -> None:
        """Run entries first..last of a table on all threads, and return when all are through."""
        with self.lock:
            while len(self.workers) < self.threads - 1:
                self._start(native, len(self.workers) + 1)
            with self.wake:
                native.publish(self.address, table, first, last, self.threads)
                if self.asleep:
                    self.wake.notify_all()
            native.run(table, first, last, 0, self.threads, self.address)

    def _start(self, native: Native, thread: int) -> None:
        worker = threading.Thread(
            target=self._work,
            args=(native, thread, int(self.shared["job"][0])),
            name=f"nprt-{thread}",
            daemon=True,
        )
        self.workers.append(worker)
        worker.start()

    def _work(self, native: Native, thread: int, seen: int) -> None:
        while not self.stopping:
            seen = native.work(self.address, thread, seen)
            with self.wake:
                self.asleep += 1
                while int(self.shared["job"][0]) == seen and not self.stopping:
                    self.wake.wait()
                self.asleep -= 1

    def stop(self) -> None:
        """End the workers; the next run starts others."""
        self.stopping = True
        self.shared["stop"] = 1
        with self.wake:
            self.wake.notify_all()
        for worker in self.workers:
            worker.join()


_pools: dict[int, Pool] = {}
_pools_lock = threading.Lock()


def pool(threads: int) -> Pool:
    """The workers for runs on so many threads."""
    with _pools_lock:
        if threads not in _pools:
            _pools[threads] = Pool(threads)
        return _pools[threads]


def _forget() -> None:
    """In a child after a fork: its threads did not come along."""
    global _pools, _pools_lock
    _pools, _pools_lock = {}, threading.Lock()


def _end() -> None:
    for each in _pools.values():
        each.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_end)
