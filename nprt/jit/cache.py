"""Machine code: compiled once, kept in files, loaded without compiling.

A file holds one kernel: a hash of what follows, then an image (`image.py`), or an object file of LLVM where there is no
image. Its name is a hash of all that the code depends on: the sources of this package, the versions of Python and
llvmlite, the platform, the level and the kernel's own key. LLVM, a large library, is loaded only to compile or to load
objects.

Files are written to a temporary name and moved into place, so processes may race. A folder that cannot be read or
written, or a file that is damaged, only means that the kernel is compiled again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import source_hash
from pathlib import Path
from typing import Any

import llvmlite

from nprt import log
from nprt.errors import BackendUnavailableError
from nprt.jit import image
from nprt.jit.simd import Level, host

_lock = threading.RLock()
_addresses: dict[str, int] = {}
_compiled: list[str] = []
_watchers: list[Callable[[str], None]] = []


def address(level: Level, key: str, build: Callable[[str], Any]) -> int:
    """The address of a kernel's machine code, which stays valid until the process ends.

    Args:
        key: names the kernel and everything that its code depends on beside the level.
        build: makes the LLVM module, given the name that its function must have.
    """
    name = kernel_name(level, key)
    with _lock:
        if name not in _addresses:
            code = read(name)
            if code is None:
                start = time.perf_counter()
                code = compile(level, str(build(name)))
                code = image.link(code, name) or code
                write(name, code)
                milliseconds = 1000 * (time.perf_counter() - start)
                log.debug("compiled %s for %s in %.0f ms", key, level.name, milliseconds)
                _compiled.append(name)
                for watcher in _watchers:
                    watcher(key)
            _addresses[name] = _load(name, code)
        return _addresses[name]


def forget_lock() -> None:
    """In a child after a fork: the thread that held it did not come along."""
    global _lock
    _lock = threading.RLock()


def compiled() -> int:
    """How many kernels this process has compiled."""
    return len(_compiled)


def unkept() -> int:
    """How many of the kernels that this process has loaded are not in the folder."""
    return sum(read(name) is None for name in list(_addresses))


@contextlib.contextmanager
def watching(watcher: Callable[[str], None]) -> Iterator[None]:
    """Inside, `watcher` is called with the key of each kernel that has been compiled."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def kernel_name(level: Level, key: str) -> str:
    text = "\n".join((_fingerprint(), level.name, key))
    return "nprt_" + _hash(text.encode()).hex()


def _hash(data: bytes) -> bytes:
    """128 bits, by what Python compares its own sources with: `hashlib` takes 2 ms to import."""
    return source_hash(data) + source_hash(b"again" + data)


@cache
def _fingerprint() -> str:
    """A hash of the sources that make kernels, the version of the compiler, and what it compiles for."""
    here = os.path.dirname(__file__)
    sources = []
    for folder in (here, os.path.join(here, "kernels"), os.path.join(here, "..", "rounding")):
        for name in sorted(os.listdir(folder)):
            if name.endswith(".py"):
                with open(os.path.join(folder, name), "rb") as file:
                    sources += [name.encode(), file.read()]
    return f"{_hash(b'|'.join(sources)).hex()} {llvmlite.__version__} {sys.platform} {host()[0]}"


@cache
def _llvm() -> tuple[Any, Any]:
    """llvmlite's binding, which loads LLVM, and the target."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding, binding.Target.from_triple(binding.get_process_triple())


def _machine(level: Level) -> Any:
    _, target = _llvm()
    return target.create_target_machine(
        cpu=level.cpu, features=level.features, opt=3, reloc="pic", codemodel="small", jit=True
    )


def _parse(machine: Any, text: str) -> Any:
    binding, _ = _llvm()
    module = binding.parse_assembly(text)
    module.triple = binding.get_process_triple()
    module.data_layout = str(machine.target_data)
    module.verify()
    return module


def compile(level: Level, text: str) -> bytes:
    """LLVM IR to an object file."""
    machine = _machine(level)
    code: bytes = machine.emit_object(_parse(machine, text))
    return code


def assembly(level: Level, text: str) -> str:
    """LLVM IR to assembly, for people."""
    machine = _machine(level)
    listing: str = machine.emit_assembly(_parse(machine, text))
    return listing


def _load(name: str, code: bytes) -> int:
    if code.startswith(image.MARK):
        try:
            return image.load(code)
        except OSError as error:
            raise BackendUnavailableError(
                f"the system does not let this process make code ({error}); use backend='numpy'"
            ) from error
    engine, binding = _engine(), _llvm()[0]
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    found: int = engine.get_function_address(name)
    return found


@cache
def _engine() -> Any:
    """LLVM's loader."""
    binding, target = _llvm()
    empty = binding.parse_assembly("")
    empty.triple = binding.get_process_triple()
    return binding.create_mcjit_compiler(empty, target.create_target_machine(jit=True))


# --- files --------------------------------------------------------------------------------------------


def folder() -> Path:
    """NPRT_CACHE_DIR, or the user's cache folder of the platform."""
    if chosen := os.environ.get("NPRT_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "nprt"


def read(name: str) -> bytes | None:
    """A kernel's object code, or None where there is none that is whole."""
    try:
        data = (folder() / name).read_bytes()
    except (OSError, RuntimeError, ValueError):
        return None
    digest, code = data[:16], data[16:]
    return code if _hash(code) == digest else None


@cache
def _warn_once(place: str, reason: str) -> None:
    log.warning(
        "machine code is not kept in %s (%s), so each process compiles it; NPRT_CACHE_DIR names a folder",
        place,
        reason,
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def write(name: str, code: bytes) -> None:
    """Keep a kernel's object code, if that can be done."""
    temporary = None
    try:
        place = folder()
        place.mkdir(parents=True, exist_ok=True)
        temporary = place / f".writing-{os.getpid()}-{os.urandom(8).hex()}"
        with open(temporary, "xb") as file:  # for whoever may read new files: others run here too
            file.write(_hash(code) + code)
        os.replace(temporary, place / name)
    except (OSError, RuntimeError, ValueError) as error:
        _warn_once(os.environ.get("NPRT_CACHE_DIR", "the cache"), _reason(error))
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
