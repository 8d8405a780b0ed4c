"""The cache of machine code: used, checked, and never in the way."""

import os
import subprocess
import sys
import threading

import pytest

pytest.importorskip("llvmlite")

from nprt.jit import cache, report, simd
from nprt.jit.kernels import fill


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


SCRIPT = """
import nprt.jit.cache as cache
from nprt.jit import report
if {forbidden}:
    cache.compile = None
assert report.peak() > 0
"""


def test_a_second_process_does_not_compile(folder):
    environment = {**os.environ, "NPRT_CACHE_DIR": str(folder)}
    for forbidden in (False, True):
        subprocess.run(
            [sys.executable, "-c", SCRIPT.format(forbidden=forbidden)], env=environment, check=True
        )
    assert len(list(folder.iterdir())) == 1
    assert report.peak() > 0
