"""The threads of the executor, see `executor.py`, and its functions as Python calls them.

Workers are Python threads inside one long native call (without the GIL). They spin a while for the next job, then sleep
on a condition. Waiting threads spin, then yield.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import threading
import weakref
from typing import Any

import numpy as np

from nprt.ir import Array
from nprt.jit import cache
from nprt.jit.layout import SHARED, SPINS_BEFORE_YIELD, SPINS_FOR_JOB
from nprt.jit.simd import Level


class Native:
    """The executor's functions: `alone(job)`, `run(shared, table, total, job)` and `work(shared)`."""

    def __init__(self, level: Level) -> None:
        def function(name: str, arguments: int) -> Any:
            def build(symbol: str) -> Any:
                from nprt.jit import executor

                return executor.FUNCTIONS[name](symbol)

            key = f"executor {SPINS_BEFORE_YIELD} {SPINS_FOR_JOB} {name}"
            kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arguments)
            return kind(cache.address(level, key, build))

        self.alone = function("alone", 1)
        self.run = function("run", 4)
        self.work = function("work", 1)


@functools.cache
def native(level: Level) -> Native:
    return Native(level)


# --- the pool -----------------------------------------------------------------------------------------


class Pool:
    """Workers that all sessions of the process share. One job runs at a time."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.lock = threading.Lock()
        self.wake = threading.Condition()
        self.memory = np.zeros(SHARED.itemsize + 64, np.uint8)
        start = -self.memory.ctypes.data % 64
        self.shared = self.memory[start : start + SHARED.itemsize].view(SHARED)
        self.shared["ticket"] = -1
        self.address = self.memory.ctypes.data + start
        self.workers: list[threading.Thread] = []
        self.job = 0
        self.asleep = 0
        self.stopping = False
        try:
            yield_ = ctypes.CDLL(None).sched_yield
            self.shared["yield"] = ctypes.cast(yield_, ctypes.c_void_p).value or 0
        except (OSError, AttributeError, TypeError):
            pass  # then waiting threads only spin

    def run(self, native: Native, table: int, total: int) -> bool:
        """Run a table of `total` chunks; False if another thread's job is running."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            while len(self.workers) < self.threads - 1:
                self._start(native)
            self.job = (self.job + 1) % (1 << 30)
            if self.asleep:
                with self.wake:
                    self.wake.notify_all()
            native.run(self.address, table, total, self.job)
        finally:
            self.lock.release()
        return True

    def _start(self, native: Native) -> None:
        worker = threading.Thread(
            target=self._work, args=(native,), name=f"nprt-{len(self.workers) + 1}", daemon=True
        )
        self.workers.append(worker)
        worker.start()

    def _work(self, native: Native) -> None:
        while not self.stopping:
            native.work(self.address)
            with self.wake:
                seen = self.job
                self.asleep += 1
                while self.job == seen and not self.stopping:
                    self.wake.wait()
                self.asleep -= 1

    def stop(self) -> None:
        """End the workers."""
        self.stopping = True
        self.shared["stop"] = 1
        with self.wake:
            self.wake.notify_all()
        for worker in self.workers:
            worker.join()


_pools: dict[int, Pool] = {}
_pools_lock = threading.Lock()
_tables: list[Array] = []


def pool(threads: int) -> Pool:
    """The workers for runs on so many threads."""
    with _pools_lock:
        if threads not in _pools:
            _pools[threads] = Pool(threads)
        return _pools[threads]


def keep(table: Array) -> None:
    """A worker may look at the table of a job that has just ended, so tables stay until the process ends."""
    _tables.append(table)


_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def lock() -> Any:
    """A lock that is open in a child after a fork: the thread that held it did not come along."""
    made = threading.Lock()
    _locks.add(made)
    return made


def _forget() -> None:
    """In a child after a fork: its threads did not come along."""
    global _pools, _pools_lock
    _pools, _pools_lock = {}, threading.Lock()
    for each in _locks:
        if each.locked():
            each.release()
    cache.forget_lock()


def _end() -> None:
    for each in _pools.values():
        each.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_end)
