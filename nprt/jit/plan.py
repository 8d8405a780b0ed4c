"""From a model and the sizes of its free dimensions to a table of kernel calls.

A *buffer* is a place for a value: in the arena, or a constant. 8-bit values are bytes: codes of uint8, or codes of
int8 plus 128. A buffer may hold its image with a *halo*, space around each image filled with the zero point, so that
a convolution reads its padding from memory. A *step* is one kernel call with its arguments, or a call of the
reference for an op that has no kernel. All buffers lie in one arena; those that never live at the same time share
their memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from nprt.ir import Array, Model, Op, Tensor, TensorType
from nprt.jit import cache
from nprt.jit.kernels import copy, fill
from nprt.jit.layout import ENTRY, JOB
from nprt.jit.run import keep, lock
from nprt.jit.simd import Level

ALIGNMENT = 64
FLIP = np.uint8(128)  # between int8 codes and bytes
# A guess at how long a step takes, to cut it into chunks of at least GRAIN seconds.
MACS_PER_SECOND, BYTES_PER_SECOND, GRAIN = 4e11, 3e10, 3e-6
LASTING_BYTES = 1 << 18  # of images whose padding is better written once than in each run
FOREIGN_BYTES = 1 << 16  # of an input that is better read where the caller has it than copied
MOST_BYTES = 2**32 - 1  # of a buffer: kernels hold offsets in uint32
SLACK = 256  # bytes after a buffer that may be read, or after a value that may be written by whole vectors
Halo = tuple[tuple[int, int], ...]


class Buffer:
    """Where a value lies."""

    def __init__(
        self, name: str, shape: Sequence[int], item: int, halo: Halo = (), data: Array | None = None
    ) -> None:
        self.name, self.shape, self.item, self.data = name, tuple(shape), item, data
        self.halo: Halo = halo if any(map(any, halo)) else tuple((0, 0) for _ in self.shape[1:-1])
        self.offset = 0
        self.first, self.last = math.inf, -1.0  # the steps between which it is needed

    @property
    def dense(self) -> bool:
        return not any(map(any, self.halo))

    @property
    def channels(self) -> int:
        """Bytes of one pixel."""
        return self.shape[-1] * self.item if self.shape else self.item

    pixel = channels

    @property
    def padded(self) -> tuple[int, ...]:
        """The shape with the halo."""
        spatial = self.shape[1:-1]
        sizes = [n + sum(h) for n, h in zip(spatial, self.halo, strict=True)]
        return (*self.shape[:1], *sizes, *self.shape[1:][-1:])

    @property
    def steps(self) -> tuple[int, ...]:
        """Bytes from one element to the next along each axis."""
        steps, step = [], self.item
        for size in reversed(self.padded):
            steps.append(step)
            step *= size
        return tuple(reversed(steps))

    @property
    def start(self) -> int:
        """Bytes from the beginning to the first element."""
        return sum(
            before * step for (before, _), step in zip(self.halo, self.steps[1:-1], strict=True)
        )

    @property
    def bytes(self) -> int:
        return math.prod(self.padded) * self.item

    def offsets(self, starts: Sequence[Array]) -> Array:
        """Bytes from the beginning to the pixels at all combinations of positions along the axes before the last."""
        total = np.zeros((), np.int64)
        for positions, step in zip(starts, self.steps[:-1], strict=True):
            total = np.add.outer(total, np.asarray(positions, np.int64) * step)
        return total.reshape(-1)

    def pixels(self) -> Array:
        """Of every pixel."""
        spatial = zip(self.shape[1:-1], self.halo, strict=True)
        return self.offsets(
            [np.arange(self.shape[0]), *(np.arange(n) + before for n, (before, _) in spatial)]
        )

    def windows(self, out: Sequence[Any], stride: Sequence[int], padding: Halo) -> Array:
        """Of the first tap of the window of every output pixel. The halo covers the padding."""
        axes = zip(out[1:-1], stride, padding, self.halo, strict=True)
        positions = [
            np.arange(n) * step - before + halo for n, step, (before, _), (halo, _) in axes
        ]
        return self.offsets([np.arange(out[0]), *positions])

    def taps(self, kernel: Sequence[int], dilation: Sequence[int]) -> Array:
        """From the first tap of a window to each."""
        positions = [np.arange(n) * step for n, step in zip(kernel, dilation, strict=True)]
        return self.offsets([np.zeros(1, np.int64), *positions])

    def halo_spans(self) -> Array:
        """(count, 2): start and size of what lies around the images."""
        inside = np.zeros(self.padded[:-1], bool)
        spatial = zip(self.shape[1:-1], self.halo, strict=True)
        image = (slice(None), *(slice(b, b + n) for n, (b, _) in spatial))
        inside[image] = True
        edges = np.flatnonzero(np.diff(inside.reshape(-1), prepend=True, append=True))
        pixels = edges.reshape(-1, 2)  # outside begins, outside ends
        return np.stack([pixels[:, 0], pixels[:, 1] - pixels[:, 0]], 1) * self.channels


@dataclass(eq=False)
class Step:
    """One entry of a plan.

    Attributes:
        op: the op it belongs to.
        kernel: the kernel's key, or "reference".
        args: of a kernel: numbers, buffers (or buffer and offset), arrays.
        run: of the reference: what to call with the plan's arena.
        in_place: whether it reads no byte beyond what it is told to read.
    """

    op: Op | None
    kernel: str
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    build: Callable[[str], Any] | None = None
    record: np.dtype[Any] | None = None
    args: dict[str, Any] = field(default_factory=dict)
    run: Callable[[], None] | None = None
    barrier: bool = True
    macs: int = 0
    note: str = ""
    in_place: bool = False


class Planner:
    """What kernels' `lower` functions work with: types, constants, buffers, and a list of steps that grows."""

    def __init__(self, model: Model, dims: Mapping[str, int], level: Level) -> None:
        self.model, self.dims, self.level = model, dims, level
        self.types = {name: type.bind(dims) for name, type in model.types.items()}
        self.steps: list[Step] = []
        self.places: dict[str, list[Buffer]] = {}  # of each value: the same in several layouts
        self.readers: dict[str, list[Op]] = {}
        for op in model.ops:
            for name in op.used_inputs():
                self.readers.setdefault(name, []).append(op)
        self.halos = self._wanted_halos()
        self.done: set[str] = set()  # outputs of ops that another op's kernel computes as well

    # --- what lower functions ask

    def type(self, name: str) -> TensorType:
        return self.types[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(map(int, self.type(name).shape))

    def constant(self, name: str) -> Array | None:
        return self.model.constants.get(name)

    def sole_reader(self, name: str) -> Op | None:
        """The op that is the only one to read a value, once, if the value is not an output."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.model.outputs else None

    def known(self, name: str) -> bool:
        """Whether a value is there before the next step."""
        return name in self.places or name in self.model.constants

    def read(self, name: str, halo: Halo | None = None, *, fill_with: int | None = None) -> Buffer:
        """A buffer that holds a value: dense, or with at least a halo.

        Args:
            fill_with: the byte in the halo; the zero point if it is not given.
        """
        if name not in self.places:
            self.places[name] = [self._constant_buffer(name)]
        zero = self.zero_byte(name)
        wanted = zero if fill_with is None else fill_with
        for place in self.places[name]:
            if (halo is None and place.dense) or (
                halo is not None
                and covers(place.halo, halo)
                and (wanted == zero or not any(map(any, halo)))
            ):
                return place
        source = self.places[name][0]
        target = Buffer(name, source.shape, source.item, halo or ())
        if not target.dense:
            fill.add_step(self, None, target, target.halo_spans(), wanted)
        copied = copy.add_step(
            self,
            None,
            source,
            target,
            source.shape,
            source.steps,
            target.steps,
            source.item,
            source.start,
            target.start,
            what=f"copy of {name}",
        )
        assert copied, "at most three spatial axes"
        if wanted == zero:
            self.places[name].append(target)
        return target

    def any_layout(self, name: str) -> Buffer:
        """A buffer that holds a value, with whatever halo."""
        return self.places[name][0] if name in self.places else self.read(name)

    def write(self, name: str, *, halo: bool = False) -> Buffer:
        """A new buffer for a value that a step is about to make, with the halo that its readers want if `halo`."""
        type = self.type(name)
        wanted = self.halos.get(name, ()) if halo else ()
        buffer = Buffer(name, self.shape(name), type.numpy.itemsize, wanted)
        if not buffer.dense:
            fill.add_step(self, None, buffer, buffer.halo_spans(), self.zero_byte(name))
        self.places[name] = [buffer]
        return buffer

    def alias(self, name: str, buffer: Buffer) -> None:
        """A value whose bytes are those of a dense buffer."""
        shape = self.shape(name)
        view = View(name, buffer, shape)
        self.places[name] = [view]

    def zero_byte(self, name: str) -> int:
        """What stands for 0 among bytes."""
        type = self.type(name)
        per_tensor = type.is_codes and type.quant is not None and type.quant.axis is None
        zero_point = int(type.zero_point) if per_tensor else 0
        return zero_point + (128 if type.dtype == "int8" else 0)

    def step(
        self,
        op: Op | None,
        kernel: str,
        build: Callable[[str], Any],
        record: np.dtype[Any],
        args: dict[str, Any],
        *,
        reads: Sequence[Buffer],
        writes: Sequence[Buffer],
        barrier: bool = True,
        macs: int = 0,
        note: str = "",
        in_place: bool = False,
    ) -> None:
        self.steps.append(
            Step(
                op,
                kernel,
                tuple(reads),
                tuple(writes),
                build,
                record,
                args,
                barrier=barrier,
                macs=macs,
                note=note,
                in_place=in_place,
            )
        )

    # --- inside

    def too_large(self, count: int) -> bool:
        """Whether a step after the first `count` has a buffer that offsets of 32 bits do not reach."""
        steps = self.steps[count:]
        return any(b.bytes > MOST_BYTES for step in steps for b in (*step.reads, *step.writes))

    def forget(self, count: int) -> None:
        """Take back all steps but the first `count`, and the buffers that they would have written."""
        for step in self.steps[count:]:
            for buffer in step.writes:
                kept = [b for b in self.places.get(buffer.name, []) if b is not buffer]
                self.places.pop(buffer.name, None)
                if kept:
                    self.places[buffer.name] = kept
                self.done.discard(buffer.name)
        del self.steps[count:]

    def _wanted_halos(self) -> dict[str, Halo]:
        """For each value that is only read by ops that read through a halo, the padding that windows want."""
        wanted: dict[str, Halo] = {}
        dense: set[str] = set(self.model.outputs)
        for op in self.model.ops:
            for name in op.used_inputs():
                pool = op.name == "max_pool" and self.zero_byte(name) == 0
                if pool or (op.name in ("conv", "depthwise_conv") and name == op.inputs[0]):
                    padding: Halo = op.padding  # type: ignore[attr-defined]
                    old = wanted.get(name, tuple((0, 0) for _ in padding))
                    wanted[name] = tuple(
                        (max(a, c), max(b, d)) for (a, b), (c, d) in zip(old, padding, strict=True)
                    )
                elif op.name not in ("add", "mul"):
                    dense.add(name)
        return {name: halo for name, halo in wanted.items() if name not in dense}

    def _constant_buffer(self, name: str) -> Buffer:
        data = as_bytes(np.ascontiguousarray(self.model.constants[name]))
        whole = np.zeros(data.nbytes + SLACK, np.uint8)
        whole[: data.nbytes] = data.reshape(-1).view(np.uint8)
        return Buffer(name, data.shape, data.itemsize, data=whole)


class View(Buffer):
    """A dense buffer under another name and shape."""

    def __init__(self, name: str, base: Buffer, shape: Sequence[int]) -> None:
        super().__init__(name, shape, base.item)
        self.base: Buffer = base.base if isinstance(base, View) else base


def root(buffer: Buffer) -> Buffer:
    """The buffer that owns the memory."""
    return buffer.base if isinstance(buffer, View) else buffer


def covers(have: Halo, need: Halo) -> bool:
    return all(a >= c and b >= d for (a, b), (c, d) in zip(have, need, strict=True))


def address_of(array: Array) -> int:
    """As `array.ctypes.data`, which takes longer: a plan asks for hundreds."""
    return int(array.__array_interface__["data"][0])


def aligned(array: Array) -> Array:
    """A copy that begins at a cache line: vectors that straddle two take twice the time to load."""
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -address_of(memory) % ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def as_bytes(array: Array) -> Array:
    """int8 codes as bytes, 128 more; any other array as it is."""
    return array.view(np.uint8) ^ FLIP if array.dtype == np.int8 else array


def _codes(view: Array) -> Array:
    """A new array of int8 codes from bytes."""
    return np.asarray(view ^ FLIP).view(np.int8)


def split_padding(steps: list[Step]) -> tuple[list[Step], list[Step]]:
    """The steps of each run; and the fills around images, if the images are so small that each may keep its memory."""
    padding = [step for step in steps if step.kernel == "fill" and step.op is None]
    if sum(step.writes[0].bytes for step in padding) > LASTING_BYTES:
        return steps, []
    return [step for step in steps if step not in padding], padding


class Segment:
    """Kernels between two calls of references."""

    def __init__(self, table: Array, total: int) -> None:
        self.table, self.total = table, total
        self.address, self.count = table.ctypes.data, len(table)
        self.job = self.part(0, self.count)  # all of it on one thread
        self.parallel = total > len(table)
        if self.parallel:
            keep(table)

    def part(self, first: int, last: int) -> Array:
        """Some of the kernels, for `Native.alone`."""
        return np.array([(self.address, first, last)], JOB)


class Plan:
    """A model for given sizes, ready to run. Who runs it holds its `lock`: its values lie in one arena."""

    def __init__(
        self,
        model: Model,
        dims: Mapping[str, int],
        level: Level,
        lower: Callable[[Planner, Any], bool],
        threads: int = 1,
    ) -> None:
        self.model, self.dims, self.level, self.threads = model, dict(dims), level, threads
        self.lock = lock()
        planner = Planner(model, dims, level)
        self.inputs = {}
        for name in model.inputs:
            self.inputs[name] = planner.write(name)
        for op in model.ops:
            if op.outputs[0] in planner.done:
                continue
            count = len(planner.steps)
            if not lower(planner, op) or planner.too_large(count):
                planner.forget(count)
                self._add_reference(planner, op)
        self.outputs = {name: planner.read(name) for name in model.outputs}
        self.steps, padding = split_padding(planner.steps)
        self._place([step.writes[0] for step in padding])
        self._pad(padding)
        self.foreign = self._foreign()
        self._bind()
        self._open()

    def _add_reference(self, planner: Planner, op: Op) -> None:
        model = self.model
        reads = {n: planner.read(n) for n in op.used_inputs() if n not in model.constants}
        writes = [planner.write(name) for name in op.outputs]
        types = tuple(planner.type(name) for name in op.outputs)

        def operand(name: str) -> Tensor:
            array = (
                model.constants[name] if name in model.constants else self.get(reads[name], name)
            )
            return Tensor(model.types[name], array)

        def run() -> None:
            result = op.reference(*types, *op.arguments(operand))
            results = result if isinstance(result, tuple) else (result,)
            for buffer, array in zip(writes, results, strict=True):
                self.put(buffer, np.asarray(array))

        planner.steps.append(Step(op, "reference", tuple(reads.values()), tuple(writes), run=run))

    def _place(self, lasting: Sequence[Buffer]) -> None:
        """Lifetimes, then offsets: the largest buffers first, each at the lowest place that is free while it lives.

        Args:
            lasting: buffers that share their memory with none.
        """
        buffers: dict[int, Buffer] = {}

        def touch(buffer: Buffer, at: float) -> None:
            owner = root(buffer)
            if owner.data is None:
                buffers[id(owner)] = owner
                owner.first, owner.last = min(owner.first, at), max(owner.last, at)

        for buffer in (*self.inputs.values(), *lasting):
            touch(buffer, -1)
        for index, step in enumerate(self.steps):
            for buffer in (*step.reads, *step.writes):
                touch(buffer, index)
        for buffer in (*self.outputs.values(), *lasting):
            touch(buffer, len(self.steps))
        placed: list[Buffer] = []
        self.arena_bytes = 0
        for buffer in sorted(buffers.values(), key=lambda b: -b.bytes):
            size = _room(buffer)
            offset = 0
            for other in sorted(placed, key=lambda b: b.offset):
                if other.last < buffer.first or other.first > buffer.last:
                    continue
                if offset + size <= other.offset:
                    break
                offset = max(offset, other.offset + _room(other))
            buffer.offset = offset
            placed.append(buffer)
            self.arena_bytes = max(self.arena_bytes, offset + size)
        self.buffers = placed
        self._memory = np.zeros(self.arena_bytes + ALIGNMENT + SLACK, np.uint8)
        start = -self._memory.ctypes.data % ALIGNMENT
        self.arena = self._memory[start:]
        self.base = self.arena.ctypes.data

    def _pad(self, steps: Sequence[Step]) -> None:
        """Do fills once and for all."""
        for step in steps:
            memory = self._view(step.writes[0])
            for start, size in step.args["spans"]:
                memory[start : start + size] = step.args["value"]

    def _foreign(self) -> dict[str, list[Array]]:
        """The inputs that are read where the caller has them, and the places in records that hold their address."""
        found: dict[str, list[Array]] = {}
        for name, buffer in self.inputs.items():
            readers = [s for s in self.steps if any(root(b) is buffer for b in s.reads)]
            kept = any(root(b) is buffer for b in self.outputs.values())
            within = any(
                isinstance(a, tuple) and root(a[0]) is buffer
                for s in readers
                for a in s.args.values()
            )
            in_place = not kept and not within and all(s.in_place for s in readers)
            if buffer.bytes >= FOREIGN_BYTES and in_place:
                found[name] = []
        return found

    def _bind(self) -> None:
        """The tables of kernels, between calls of references."""
        self.segments: list[Segment | Callable[[], None]] = []
        entries: list[tuple[int, ...]] = []
        self._keep: list[Any] = []
        need = start = 0  # `need`: the chunks before the last barrier

        def close() -> None:
            nonlocal need, start
            if entries:
                self.segments.append(Segment(np.array(entries, ENTRY), start))
                entries.clear()
            need = start = 0

        for step in self.steps:
            if step.run is not None:
                close()
                self.segments.append(step.run)
                continue
            assert step.build is not None
            record = self._record(step)
            self._keep.append((record, step.args))
            kernel = cache.address(self.level, step.kernel, step.build)
            chunks = self._chunks(step)
            entries.append((kernel, address_of(record), chunks, start, need))
            start += chunks
            if step.barrier:
                need = start
        close()

    def _record(self, step: Step) -> Array:
        """The arguments of a kernel."""
        record = np.zeros(1, step.record)
        for name, value in step.args.items():
            if isinstance(value, np.ndarray):
                step.args[name] = value = aligned(value)
                record[name] = address_of(value)
            elif isinstance(value, Buffer):
                record[name] = self.address(value)
                owner = root(value)
                if owner.name in self.foreign and owner is self.inputs[owner.name]:
                    self.foreign[owner.name].append(record[name])
            elif isinstance(value, tuple):
                record[name] = self.address(value[0]) + value[1]
            else:
                record[name] = value
        return record

    def _chunks(self, step: Step) -> int:
        """Into how many parts to cut the work of a step."""
        if self.threads == 1:
            return 1
        moved = sum(buffer.bytes for buffer in (*step.reads, *step.writes))
        seconds = step.macs / MACS_PER_SECOND + moved / BYTES_PER_SECOND
        return max(1, int(min(seconds / (GRAIN or 1e-9), 4 * self.threads)))

    def address(self, buffer: Buffer) -> int:
        owner = root(buffer)
        if owner.data is not None:
            return int(owner.data.ctypes.data)
        return int(self.base + owner.offset)

    # --- values from outside

    def _open(self) -> None:
        """Views of the inputs and outputs: bytes for int8."""

        def view(name: str, buffer: Buffer) -> Array:
            dtype = self.model.types[name].numpy
            seen = np.dtype(np.uint8) if dtype == np.int8 else dtype
            return self._view(buffer).view(seen).reshape(buffer.shape)

        self.input_views = {n: (view(n, b), self._is_int8(n)) for n, b in self.inputs.items()}
        self.output_views = {n: (view(n, b), self._is_int8(n)) for n, b in self.outputs.items()}

    def _is_int8(self, name: str) -> bool:
        return self.model.types[name].dtype == "int8"

    def caller(
        self, segments: Sequence[Callable[[], object]], names: Sequence[str]
    ) -> Callable[[Mapping[str, Array]], list[Array]]:
        """A function from inputs to these outputs, as new arrays. `segments` run those of the plan.

        Of a small model it takes most of the time, so everything is looked up beforehand.
        """
        acquire, release = self.lock.acquire, self.lock.release
        inputs = [(n, v, i) for n, (v, i) in self.input_views.items() if n not in self.foreign]
        views = [self.output_views[name] for name in names]
        results = [partial(_codes, v) if is_int8 else v.copy for v, is_int8 in views]
        foreign = bool(self.foreign)

        def call(feeds: Mapping[str, Array]) -> list[Array]:
            acquire()
            try:
                for name, view, is_int8 in inputs:
                    if is_int8:
                        np.bitwise_xor(feeds[name].view(np.uint8), FLIP, out=view)
                    else:
                        view[...] = feeds[name]
                if foreign:
                    self._point_to(feeds)
                for run_segment in segments:
                    run_segment()
                found = []
                for result in results:
                    found.append(result())
                return found
            finally:
                try:
                    if foreign:
                        self._point_to({})
                finally:
                    release()

        return call

    @property
    def is_simple(self) -> bool:
        """One input, which is copied, one output, neither int8, and nothing that the reference runs."""
        views = [*self.input_views.values(), *self.output_views.values()]
        alone = (
            len(views) == 2 and len(self.segments) == 1 and isinstance(self.segments[0], Segment)
        )
        return alone and not self.foreign and not any(is_int8 for _, is_int8 in views)

    def single_caller(self, run_segment: Callable[[], object]) -> Callable[[Array], Array]:
        """`caller` where the plan `is_simple`: without all that it does not need."""
        ((view, _),) = self.input_views.values()
        ((output, _),) = self.output_views.values()
        result = output.copy

        def call(x: Array) -> Array:
            with self.lock:  # of `self`, so that the plan lives on: kernels read what it holds
                view[...] = x
                run_segment()
                return result()

        return call

    def _point_to(self, feeds: Mapping[str, Array]) -> None:
        """Let the kernels read these arrays; without them, the arena, for the arrays may go."""
        for name, slots in self.foreign.items():
            address, array = self.address(self.inputs[name]), feeds.get(name)
            if array is not None and array.flags.c_contiguous:
                address = array.__array_interface__["data"][0]
            elif array is not None:
                self.input_views[name][0][...] = array
            for slot in slots:
                slot[0] = address

    def _view(self, buffer: Buffer) -> Array:
        owner = root(buffer)
        if owner.data is not None:
            return owner.data[: buffer.bytes]
        return self.arena[owner.offset : owner.offset + buffer.bytes]

    def put(self, buffer: Buffer, array: Array) -> None:
        """Store an array as the value of a dense buffer."""
        if array.dtype == np.int8:
            np.bitwise_xor(array.view(np.uint8), FLIP, out=self._view(buffer).reshape(array.shape))
        else:
            self._view(buffer).view(array.dtype).reshape(array.shape)[...] = array

    def get(self, buffer: Buffer, name: str) -> Array:
        """The value of a dense buffer; shares memory with the plan unless it is int8."""
        dtype = self.model.types[name].numpy
        view = self._view(buffer)
        if dtype == np.int8:
            return (view ^ FLIP).view(np.int8).reshape(buffer.shape)
        return view.view(dtype).reshape(buffer.shape)

    # --- for people

    def describe(self) -> list[dict[str, Any]]:
        """For each step: kernel, op, what it reads and writes, and where that lies in the arena."""

        def place(buffer: Buffer) -> dict[str, Any]:
            owner = root(buffer)
            where = None if owner.data is not None else owner.offset
            return {
                "value": buffer.name,
                "shape": list(buffer.shape),
                "halo": [list(pair) for pair in buffer.halo] if not buffer.dense else [],
                "bytes": buffer.bytes,
                "offset": where,
            }

        return [
            {
                "kernel": step.kernel,
                "op": step.op.name if step.op is not None else step.note,
                "output": step.op.outputs[0] if step.op is not None else "",
                "reads": [place(b) for b in step.reads],
                "writes": [place(b) for b in step.writes],
                "constant_bytes": sum(
                    v.nbytes for v in step.args.values() if isinstance(v, np.ndarray)
                ),
                "macs": step.macs,
            }
            for step in self.steps
        ]


def _room(buffer: Buffer) -> int:
    return -(-(buffer.bytes + SLACK) // ALIGNMENT) * ALIGNMENT
