"""The executor's functions in LLVM IR: one native call runs many kernels on all threads.

A *table* has one entry for each kernel. Its work is cut into *chunks*, numbered through the whole table; a kernel is
called as `kernel(args, chunk, chunks)`. Threads claim chunks one by one from a common ticket, once all chunks that the
entry *needs* are done. Nobody waits for a thread that holds no chunk, so a worker that sleeps, or that the system does
not run, costs nothing; the caller can do all the work alone. Entries of one chunk are always the caller's.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from nprt.jit.layout import CHUNK_BITS, ENTRY, SHARED, SPINS_BEFORE_YIELD, SPINS_FOR_JOB
from nprt.jit.simd import host

I32, I64 = ir.IntType(32), ir.IntType(64)


class _Function:
    """A native function of int64 arguments under construction."""

    def __init__(self, name: str, arguments: int) -> None:
        self.module = ir.Module(name)
        self.function = ir.Function(self.module, ir.FunctionType(I64, [I64] * arguments), name)
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))

    def block(self, name: str) -> Any:
        return self.function.append_basic_block(name)

    def pointer(self, base: Any, offset: int) -> Any:
        return self.b.inttoptr(self.b.add(base, I64(offset)), ir.PointerType(I64))

    def load(self, base: Any, offset: int) -> Any:
        return self.b.load(self.pointer(base, offset), typ=I64, align=8)

    def acquire(self, pointer: Any) -> Any:
        return self.b.load_atomic(pointer, "acquire", 8, typ=I64)

    def release(self, value: Any, pointer: Any) -> None:
        self.b.store_atomic(value, pointer, "seq_cst", 8)

    def call(self, address: Any, kind: Any, *operands: Any) -> None:
        self.b.call(self.b.inttoptr(address, ir.PointerType(kind)), operands)

    def pause(self) -> None:
        if host()[0] == "x86_64":
            name = "llvm.x86.sse2.pause"
            kind = ir.FunctionType(ir.VoidType(), [])
            self.b.call(self.module.globals.get(name) or ir.Function(self.module, kind, name), [])

    def wait(self, shared: Any, spins: Any) -> None:
        """A pause; after many, give the processor to somebody else."""
        self.pause()
        at = self.load(shared, _offset("yield"))
        many = self.b.icmp_signed(">", spins, I64(SPINS_BEFORE_YIELD))
        with self.b.if_then(self.b.and_(many, self.b.icmp_signed("!=", at, I64(0)))):
            self.call(at, ir.FunctionType(I32, []))


def _offset(name: str) -> int:
    fields: Any = SHARED.fields
    return int(fields[name][1])


KERNEL = ir.FunctionType(ir.VoidType(), [I64, I64, I64])


def emit_alone(name: str) -> Any:
    """`alone(job)`: some entries of a table, see JOB, on this thread."""
    f = _Function(name, 1)
    b, (job,) = f.b, f.function.args
    table, first, last = (f.load(job, offset) for offset in (0, 8, 16))
    before, head, inside, after = b.block, f.block("head"), f.block("inside"), f.block("after")
    b.branch(head)
    b.position_at_end(head)
    i = b.phi(I64)
    i.add_incoming(first, before)
    b.cbranch(b.icmp_signed("<", i, last), inside, after)
    b.position_at_end(inside)
    entry = b.add(table, b.mul(i, I64(ENTRY.itemsize)))
    f.call(f.load(entry, 0), KERNEL, f.load(entry, 8), I64(0), I64(1))
    i.add_incoming(b.add(i, I64(1)), b.block)
    b.branch(head)
    b.position_at_end(after)
    b.ret(I64(0))
    return f.module


def _emit_drain(f: _Function, shared: Any, *, caller: bool) -> Any:
    """Claim and run chunks. The caller stays until the job is done, a worker until none came for a while.

    Returns the last ticket that was seen.
    """
    b = f.b
    ticket_at, done_at = f.pointer(shared, _offset("ticket")), f.pointer(shared, _offset("done"))
    before = b.block
    names = ("look", "mine", "find", "next", "ready", "claim", "work", "idle", "out")
    look, mine, find, following, ready, claim, work, idle, out = map(f.block, names)
    b.branch(look)

    b.position_at_end(look)
    entry, job, spins = b.phi(I64), b.phi(I64), b.phi(I64)
    entry.add_incoming(I64(0), before)
    job.add_incoming(I64(-1), before)
    spins.add_incoming(I64(0), before)
    ticket = f.acquire(ticket_at)
    table, total = f.load(shared, _offset("table")), f.load(shared, _offset("total"))
    chunk = b.and_(ticket, I64((1 << CHUNK_BITS) - 1))
    same = b.icmp_signed("==", f.acquire(ticket_at), ticket)  # so table and total belong to it
    some = b.and_(b.icmp_signed("<", chunk, total), b.icmp_signed(">=", ticket, I64(0)))
    b.cbranch(b.and_(same, some), mine, idle)

    b.position_at_end(mine)  # another job begins at its first entry
    this_job = b.ashr(ticket, I64(CHUNK_BITS))
    first = b.select(b.icmp_signed("==", this_job, job), entry, table)
    b.branch(find)
    b.position_at_end(find)
    at = b.phi(I64)
    at.add_incoming(first, mine)
    chunks, start = f.load(at, 16), f.load(at, 24)
    b.cbranch(b.icmp_signed(">=", chunk, b.add(start, chunks)), following, ready)
    b.position_at_end(following)
    at.add_incoming(b.add(at, I64(ENTRY.itemsize)), following)
    b.branch(find)

    b.position_at_end(ready)
    done = f.acquire(done_at)
    may = b.icmp_signed(">=", done, f.load(at, 32))
    if not caller:
        may = b.and_(may, b.icmp_signed(">", chunks, I64(1)))
    b.cbranch(may, claim, idle)
    b.position_at_end(claim)
    got = b.cmpxchg(ticket_at, ticket, b.add(ticket, I64(1)), "acq_rel", "acquire")
    b.cbranch(b.extract_value(got, 1), work, look)
    for phi, value in ((entry, at), (job, this_job), (spins, I64(0))):
        phi.add_incoming(value, claim)
    b.position_at_end(work)
    f.call(f.load(at, 0), KERNEL, f.load(at, 8), b.sub(chunk, start), chunks)
    b.atomic_rmw("add", done_at, I64(1), "acq_rel")
    for phi, value in ((entry, at), (job, this_job), (spins, I64(0))):
        phi.add_incoming(value, b.block)
    b.branch(look)

    b.position_at_end(idle)
    if caller:
        over = b.icmp_signed(">=", f.acquire(done_at), total)
    else:
        stop = f.acquire(f.pointer(shared, _offset("stop")))
        over = b.or_(
            b.icmp_signed(">", spins, I64(SPINS_FOR_JOB)), b.icmp_signed("!=", stop, I64(0))
        )
    f.wait(shared, spins)
    # The entry is looked for anew: at is not known here.
    for phi, value in ((entry, entry), (job, job), (spins, b.add(spins, I64(1)))):
        phi.add_incoming(value, b.block)
    b.cbranch(over, out, look)
    b.position_at_end(out)
    return ticket


def emit_run(name: str) -> Any:
    """`run(shared, table, total, job)`: publish a job and stay until it is done."""
    f = _Function(name, 4)
    shared, table, total, job = f.function.args
    ticket = f.pointer(shared, _offset("ticket"))
    f.release(I64(-1), ticket)
    for field, value in (("table", table), ("total", total), ("done", I64(0))):
        f.release(value, f.pointer(shared, _offset(field)))
    f.release(f.b.shl(job, I64(CHUNK_BITS)), ticket)
    _emit_drain(f, shared, caller=True)
    f.b.ret(I64(0))
    return f.module


def emit_work(name: str) -> Any:
    """`work(shared)`: do jobs until there is none for a while; returns the number of the last one."""
    f = _Function(name, 1)
    ticket = _emit_drain(f, f.function.args[0], caller=False)
    f.b.ret(f.b.ashr(ticket, I64(CHUNK_BITS)))
    return f.module


FUNCTIONS = {"alone": emit_alone, "run": emit_run, "work": emit_work}
