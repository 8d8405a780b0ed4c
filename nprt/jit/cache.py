"""Machine code: compiled once, kept in files, loaded without compiling.

A file holds one kernel: a SHA-256 of what follows, then the object code. Its name is a hash of all that the code
depends on: the sources of this package, the versions of llvmlite and LLVM, the CPU, the level and the kernel's own
key. Files are written to a temporary name and moved into place, so processes may race. A folder that cannot be read
or written, or a file that is damaged, only means that the kernel is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
from llvmlite import binding

from nprt.jit.simd import Level, host

log = logging.getLogger("nprt")
_lock = threading.RLock()
_addresses: dict[str, int] = {}
_engine: Any = None


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
                log.debug("compiling kernel %s for %s", key, level.name)
                code = compile(level, str(build(name)))
                write(name, code)
            _addresses[name] = _load(name, code)
        return _addresses[name]


def loaded() -> int:
    """How many kernels this process has loaded."""
    return len(_addresses)


@cache
def _target_text(level: Level) -> str:
    """What a level compiles for."""
    cpu = host()[1] if level.cpu == "host" else level.cpu
    return "\n".join((level.name, cpu, _features(level)))


def kernel_name(level: Level, key: str) -> str:
    text = "\n".join((_fingerprint(), _target_text(level), key))
    return "nprt_" + hashlib.sha256(text.encode()).hexdigest()[:40]


@cache
def _fingerprint() -> str:
    """A hash of the sources that make kernels, and the versions of the compiler."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for folder in (here, here.parent / "rounding"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    version = ".".join(map(str, binding.llvm_version_info))
    return f"{digest.hexdigest()} {llvmlite.__version__} {version} {sys.platform}"


@cache
def _features(level: Level) -> str:
    if level.cpu == "host":
        return str(binding.get_host_cpu_features().flatten())
    return level.features


@cache
def _target() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_triple(binding.get_process_triple())


def _machine(level: Level) -> Any:
    cpu = host()[1] if level.cpu == "host" else level.cpu
    return _target().create_target_machine(
        cpu=cpu, features=_features(level), opt=3, codemodel="jitdefault", jit=True
    )


def compile(level: Level, text: str) -> bytes:
    """LLVM IR to object code."""
    machine = _machine(level)
    module = binding.parse_assembly(text)
    module.triple = binding.get_process_triple()
    module.data_layout = str(machine.target_data)
    module.verify()
    code: bytes = machine.emit_object(module)
    return code


def assembly(level: Level, text: str) -> str:
    """LLVM IR to assembly, for people."""
    machine = _machine(level)
    module = binding.parse_assembly(text)
    module.triple = binding.get_process_triple()
    module.data_layout = str(machine.target_data)
    listing: str = machine.emit_assembly(module)
    return listing


def _load(name: str, code: bytes) -> int:
    global _engine
    if _engine is None:
        _target()
        empty = binding.parse_assembly("")
        empty.triple = binding.get_process_triple()
        machine = _target().create_target_machine(jit=True)
        _engine = binding.create_mcjit_compiler(empty, machine)
    _engine.add_object_file(binding.ObjectFileRef.from_data(code))
    _engine.finalize_object()
    found: int = _engine.get_function_address(name)
    return found


# --- files --------------------------------------------------------------------------------------------


def folder() -> Path:
    """NPRT_CACHE_DIR, or the user's cache folder of the platform."""
    if chosen := os.environ.get("NPRT_CACHE_DIR"):
        return Path(chosen)
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
    digest, code = data[:32], data[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def write(name: str, code: bytes) -> None:
    """Keep a kernel's object code, if that can be done."""
    temporary = ""
    try:
        place = folder()
        place.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place, prefix=".writing-")
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(temporary, place / name)
    except (OSError, RuntimeError, ValueError) as error:
        log.debug("kernel not kept in %s: %s", os.environ.get("NPRT_CACHE_DIR", "the cache"), error)
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
