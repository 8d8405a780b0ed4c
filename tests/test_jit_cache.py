"""The cache of machine code: used, checked, and never in the way."""

import os
import platform
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

pytest.importorskip("llvmlite")

from llvmlite import binding

from nprt.file import dumps
from nprt.jit import cache, image, simd
from nprt.jit.kernels import fill
from nprt.session import Session


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NPRT_CACHE_DIR", str(tmp_path))
    return tmp_path


def code(name):
    return cache.compile(simd.choose(), str(fill.emit(name, simd.choose())))


def test_what_is_written_is_read(folder):
    assert cache.folder() == folder
    assert cache.read("k") is None
    cache.write("k", b"machine code")
    assert cache.read("k") == b"machine code"
    assert [p.name for p in folder.iterdir()] == ["k"]


@pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
def test_others_may_read_what_is_written(folder):
    """As far as new files are readable: a folder is often filled by root and used by another."""
    cache.write("k", b"machine code")
    (folder / "plain").write_bytes(b"")
    assert (folder / "k").stat().st_mode == (folder / "plain").stat().st_mode


@pytest.mark.parametrize("triple", ["x86_64-apple-macosx", "x86_64-pc-windows-msvc", "armv7-linux"])
def test_objects_of_other_systems_are_loaded_by_llvm(triple, monkeypatch):
    """They are no images, whatever they begin with."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(triple).create_target_machine()
    module = binding.parse_assembly("define void @f() { ret void }")
    module.triple = triple
    code = machine.emit_object(module)
    assert image.link(code, "f") is None
    given = []
    engine = SimpleNamespace(
        add_object_file=given.append,
        finalize_object=lambda: None,
        get_function_address=lambda name: 4096,
    )
    monkeypatch.setattr(cache, "_engine", lambda: engine)
    monkeypatch.setattr(image, "load", None)
    monkeypatch.setattr(binding.ObjectFileRef, "from_data", lambda data: data)
    assert cache._load("f", code) == 4096
    assert given == [code]


@pytest.mark.parametrize("damage", [b"", b"x", b"\0" * 100])
def test_a_damaged_file_is_no_file(folder, damage):
    (folder / "k").write_bytes(damage)
    assert cache.read("k") is None
    cache.write("k", b"code")
    data = bytearray((folder / "k").read_bytes())
    data[-1] ^= 1
    (folder / "k").write_bytes(bytes(data))
    assert cache.read("k") is None


@pytest.mark.parametrize("place", ["file", "file/below", "\0", "missing/deep"])
def test_a_folder_that_cannot_be_used_is_no_error(tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / place)
    cache.write("k", b"code")
    assert cache.read("k") in (None, b"code")


def test_racing_writers_leave_a_whole_file(folder):
    codes = [bytes([i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=cache.write, args=("k", c)) for c in codes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.read("k") in codes
    assert [p.name for p in folder.iterdir()] == ["k"]


def test_the_name_depends_on_level_and_key(monkeypatch):
    names = {
        cache.kernel_name(level, key)
        for level in simd.LEVELS.values()
        for key in ("fill", "copy 0")
    }
    assert len(names) == 2 * len(simd.LEVELS)
    level = simd.choose()
    before = cache.kernel_name(level, "fill")
    monkeypatch.setattr(cache, "_fingerprint", lambda: "other sources")
    assert cache.kernel_name(level, "fill") != before


def test_the_name_depends_on_the_architecture(monkeypatch):
    before = cache._fingerprint.__wrapped__()
    monkeypatch.setattr(cache, "host", lambda: ("riscv64", frozenset()))
    assert cache._fingerprint.__wrapped__() != before


SCRIPT = """
import sys
import numpy as np
before = set(sys.modules)
from nprt import Session
from nprt.jit import cache
warm = bool({warm})
if warm:
    cache.compile = None
session = Session({model!r}, backend="numba", threads=2)
y = session(np.ones((2, 2), np.float32))
assert y.tolist() == {expected}
loaded = sys.modules.keys() - before
if {images}:
    assert ("llvmlite.ir" in loaded) is not warm
    assert ("llvmlite.binding" in loaded) is not warm
    assert not (warm and {{"hashlib", "logging", "tempfile"}} & loaded)
"""
IMAGES = sys.platform == "linux" and platform.machine() == "x86_64"


def test_a_second_process_does_not_compile(folder, tmp_path_factory):
    """Nor does it write LLVM IR, nor load LLVM where machine code is kept as images, nor what takes long to import."""
    model = tmp_path_factory.mktemp("model") / "two_layers.nprt"
    model.write_bytes(dumps(tiny.two_layers()))
    feed = np.ones((2, 2), np.float32)
    expected = Session(tiny.two_layers(), backend="numpy")(feed).tolist()
    environment = {**os.environ, "NPRT_CACHE_DIR": str(folder)}
    kept = []
    for warm in (False, True):
        script = SCRIPT.format(warm=warm, model=str(model), expected=expected, images=IMAGES)
        subprocess.run([sys.executable, "-c", script], env=environment, check=True)
        kept.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert kept[0] == kept[1]
    assert len(kept[0]) > 3  # the executor's three functions, and kernels
