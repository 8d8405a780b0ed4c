"""Machine code that runs wherever it lies in memory, so that loading it takes no LLVM.

An *image* is what an ELF object for x86-64 holds of code and constants, in one piece: constants lie at fixed distances
from the code that reads them. A mark and the offset of its function stand before it.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
from functools import cache
from typing import Any

import numpy as np

from nprt.ir import Array

MARK = b"nprt img"  # no object file begins so
HEAD = struct.Struct("<8sQ")  # MARK, and where the function is
MAGIC = b"\x7fELF\2\1"  # 64 bits, little endian
RELOCATABLE, X86_64 = 1, 62
PROGBITS, SYMTAB, RELOCATIONS = 1, 2, 4  # types of sections
WRITE, ALLOC = 1, 2  # flags of sections
PC32, PLT32 = 2, 4  # relocations: symbol + addend - place, in 32 bits
SECTION = np.dtype("<u4, <u4, <u8, <u8, <u8, <u8, <u4, <u4, <u8, <u8")
SECTION.names = (
    *("name", "type", "flags", "address", "offset"),
    *("size", "link", "info", "align", "entry_size"),
)
SYMBOL = np.dtype("<u4, u1, u1, <u2, <u8, <u8")
SYMBOL.names = ("name", "info", "other", "section", "value", "size")
RELOCATION = np.dtype("<u8, <u4, <u4, <i8")
RELOCATION.names = ("offset", "type", "symbol", "addend")


def link(code: bytes, function: str) -> bytes | None:
    """The image of an object; None where it needs anything beyond itself, or this machine takes no images.

    Args:
        code: an object file, compiled as position-independent code.
        function: the name of the function that the image is for.
    """
    if sys.platform != "linux" or not code.startswith(MAGIC):
        return None
    if struct.unpack_from("<HH", code, 16) != (RELOCATABLE, X86_64):
        return None
    (start,), (count,) = struct.unpack_from("<Q", code, 40), struct.unpack_from("<H", code, 60)
    sections = np.frombuffer(code, SECTION, count, start)
    (table,) = sections[sections["type"] == SYMTAB]
    symbols = _records(code, table, SYMBOL)
    image, places = _lay_out(code, sections)
    for section in sections[sections["type"] == RELOCATIONS]:
        at = places.get(section["info"])
        if at is not None:
            relocations = _records(code, section, RELOCATION)
            if not all(_relocate(image, at, r, symbols[r["symbol"]], places) for r in relocations):
                return None
    names = int(sections[table["link"]]["offset"])
    for symbol in symbols:
        name = code[names + int(symbol["name"]) :].partition(b"\0")[0]
        if name == function.encode() and symbol["section"] in places:
            return HEAD.pack(MARK, places[symbol["section"]] + int(symbol["value"])) + image
    return None


def _records(code: bytes, section: Any, dtype: np.dtype[Any]) -> Array:
    return np.frombuffer(code, dtype, section["size"] // dtype.itemsize, section["offset"])


def _lay_out(code: bytes, sections: Array) -> tuple[bytearray, dict[int, int]]:
    """The code and constants, one section after the other, and where each begins."""
    image, places = bytearray(), {}
    for number, section in enumerate(sections):
        if section["type"] == PROGBITS and section["flags"] & (ALLOC | WRITE) == ALLOC:
            image.extend(bytes(-len(image) % int(section["align"])))
            places[number] = len(image)
            start = int(section["offset"])
            image += code[start : start + int(section["size"])]
    return image, places


def _relocate(
    image: bytearray, start: int, relocation: Any, symbol: Any, places: dict[int, int]
) -> bool:
    """Write a distance into the section that begins at `start`; False where it is not one within the image."""
    if relocation["type"] not in (PC32, PLT32) or symbol["section"] not in places:
        return False
    at = start + int(relocation["offset"])
    target = places[symbol["section"]] + int(symbol["value"]) + int(relocation["addend"])
    struct.pack_into("<i", image, at, target - at)
    return True


@cache
def _system() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


def load(image: bytes) -> int:
    """The address of an image's function. It stays in memory until the process ends, as threads may be inside.

    Raises:
        OSError: the system does not let this process make code.
    """
    mark, entry = HEAD.unpack_from(image)
    code = image[HEAD.size :]
    if mark != MARK or entry >= len(code):
        raise ValueError("not an image")
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    write, execute = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_EXEC
    address = _system().mmap(None, len(code), write, private, -1, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise _failure("mmap")
    ctypes.memmove(address, code, len(code))
    if _system().mprotect(address, len(code), execute):
        raise _failure("mprotect")
    return int(address + entry)


def _failure(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}, for machine code")
