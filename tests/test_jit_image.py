"""Images: the same code as LLVM loads, anywhere in memory; what needs more than itself is no image."""

import ctypes
import platform
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("llvmlite")

from nprt.errors import BackendUnavailableError
from nprt.jit import cache, image, simd

if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.skip("images are for Linux on x86-64", allow_module_level=True)

# A table that is looked up through an address, a constant in code, and a call within the module.
WHOLE = """
@table = private constant [5 x i64] [i64 3, i64 1, i64 4, i64 1, i64 5], align 64
@other = private constant [3 x i8] c"abc", align 1

define internal i64 @half(i64 %x) noinline {
  %at = getelementptr [3 x i8], ptr @other, i64 0, i64 %x
  %byte = load i8, ptr %at
  %wide = zext i8 %byte to i64
  ret i64 %wide
}

define i64 @entry(i64 %x) {
  %at = getelementptr [5 x i64], ptr @table, i64 0, i64 %x
  %found = load i64, ptr %at
  %f = uitofp i64 %found to double
  %g = fmul double %f, 1.5
  %h = fptoui double %g to i64
  %small = urem i64 %x, 3
  %letter = call i64 @half(i64 %small)
  %y = add i64 %h, %letter
  ret i64 %y
}
"""
CALLS_OUT = """
declare i64 @labs(i64)

define i64 @entry(i64 %x) {
  %y = call i64 @labs(i64 %x)
  ret i64 %y
}
"""
WRITES = """
@count = internal global i64 7

define i64 @entry(i64 %x) {
  %old = load i64, ptr @count
  %new = add i64 %old, %x
  store i64 %new, ptr @count
  ret i64 %old
}
"""


@pytest.fixture(params=simd.available(), ids=lambda level: level.name)
def level(request):
    return request.param


def call(address, x):
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(x)


def expected(x):
    return int((3, 1, 4, 1, 5)[x] * 1.5) + b"abc"[x % 3]


def test_an_image_computes_what_its_object_does(level):
    code = cache.compile(level, WHOLE)
    linked = image.link(code, "entry")
    assert linked is not None
    addresses = [image.load(linked), image.load(linked), cache._load("entry", code)]
    assert len(set(addresses)) == 3
    for address in addresses:
        assert [call(address, x) for x in range(5)] == [expected(x) for x in range(5)]


def test_constants_keep_their_alignment(level):
    text = WHOLE.replace("%y = add i64 %h, %letter", "%y = ptrtoint ptr @table to i64")
    linked = image.link(cache.compile(level, text), "entry")
    assert call(image.load(linked), 0) % 64 == 0


@pytest.mark.parametrize("text", [CALLS_OUT, WRITES], ids=["calls_out", "writes"])
def test_what_needs_more_than_itself_is_no_image(level, text):
    assert image.link(cache.compile(level, text), "entry") is None


def test_a_missing_function_is_no_image():
    assert image.link(cache.compile(simd.choose(), WHOLE), "other_entry") is None


def test_other_formats_are_no_images():
    code = cache.compile(simd.choose(), WHOLE)
    assert image.link(b"MZ" + code, "entry") is None
    other_cpu = bytearray(code)
    other_cpu[18] = 183
    assert image.link(bytes(other_cpu), "entry") is None


def test_code_in_memory_cannot_be_written(level):
    address = image.load(image.link(cache.compile(level, WHOLE), "entry"))
    with open("/proc/self/maps", encoding="utf-8") as lines:
        for line in lines:
            limits, rights = line.split()[:2]
            start, end = (int(limit, 16) for limit in limits.split("-"))
            if start <= address < end:
                assert rights == "r-xp"
                return
    pytest.fail("the code is not in memory")


@pytest.mark.parametrize("broken", ["mmap", "mprotect"])
def test_a_system_without_room_for_code_is_a_named_error(monkeypatch, broken):
    linked = image.link(cache.compile(simd.choose(), WHOLE), "entry")
    working = image._system()
    calls = {"mmap": working.mmap, "mprotect": working.mprotect}
    calls[broken] = lambda *_: ctypes.c_void_p(-1).value
    monkeypatch.setattr(image, "_system", lambda: SimpleNamespace(**calls))
    with pytest.raises(BackendUnavailableError, match=f"make code .*{broken}.*backend='numpy'"):
        cache._load("entry", linked)


def test_records_are_as_long_as_in_elf():
    sizes = (image.SECTION.itemsize, image.SYMBOL.itemsize, image.RELOCATION.itemsize)
    assert sizes == (64, 24, 24)
