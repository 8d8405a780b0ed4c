"""The JIT backend: plans for the shapes that come, run by one native call. Same bits as the NumPy backend."""

from __future__ import annotations

import functools
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping

from nprt.ir import Array, Model
from nprt.jit import run, simd
from nprt.jit.kernels.table import lower
from nprt.jit.plan import Plan, Segment
from nprt.reference import ReferenceBackend, single

PLANS = 8  # how many shapes of inputs a session remembers


class JitBackend:
    """Runs a checked model. Threads that call it at once take turns."""

    name = "numba"

    def __init__(self, model: Model, threads: int | None = None) -> None:
        """
        Args:
            threads: how many a run may use; None for all processors that this process may use.
        """
        self.model = model
        self.level = simd.choose()
        self.threads = threads if threads is not None else _processors()
        self.native = run.native(self.level)
        self._plans: OrderedDict[tuple[tuple[str, int], ...], Plan | None] = OrderedDict()
        self._lock = run.lock()  # of the plans
        self._reference = ReferenceBackend(model)

    def plan(self, dims: Mapping[str, int]) -> Plan | None:
        """The plan for these sizes; None where something is empty and the reference runs."""
        key = tuple(dims.items())  # always in the order of the inputs
        with self._lock:
            if key not in self._plans:
                self._plans[key] = self._make(dims)
                if len(self._plans) > PLANS:
                    self._plans.popitem(last=False)
            self._plans.move_to_end(key)
            return self._plans[key]

    def _make(self, dims: Mapping[str, int]) -> Plan | None:
        shapes = [type.bind(dims).shape for type in self.model.types.values()]
        empty = any(0 in shape for shape in shapes)
        return None if empty else Plan(self.model, dims, self.level, lower, self.threads)

    def ready(
        self, dims: Mapping[str, int], keep: tuple[str, ...]
    ) -> Callable[[Mapping[str, Array]], list[Array]]:
        """A function from feeds of these sizes to the values of `keep`; see `ReferenceBackend.run`."""
        plan = self.plan(dims)
        if plan is None:
            return self._reference.ready(dims, keep)
        return plan.caller([self._runner(segment) for segment in plan.segments], keep)

    def single(self, dims: Mapping[str, int]) -> Callable[[Array], Array]:
        """`ready` of a model with one input and one output, from array to array."""
        plan = self.plan(dims)
        if plan is not None and plan.is_simple:
            return plan.single_caller(self._runner(plan.segments[0]))
        return single(self.model, self.ready(dims, self.model.outputs))

    def _runner(self, segment: Segment | Callable[[], None]) -> Callable[[], object]:
        """What runs one segment of a plan."""
        if not isinstance(segment, Segment):
            return segment
        alone = functools.partial(self.native.alone, segment.job.ctypes.data)
        if not segment.parallel:
            return alone

        def together() -> None:
            if not run.pool(self.threads).run(self.native, segment.address, segment.total):
                alone()

        return together


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
