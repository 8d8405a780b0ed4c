"""The container of an `.nprt` file: a zip archive of stored members, laid out in one way only.

    archive   ::= local ... directory           nothing before, between or behind
    local     ::= record name bytes             one for each member
    directory ::= (record name) ... end         the same members in the same order

What a reader of zip archives may choose between is fixed here: both records of a member say the same, members neither
overlap nor leave gaps, and nothing is compressed, encrypted, split, commented or extended. So every tool sees the same
members, and none takes more memory than the file. `docs/format.md` lists the fields.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from nprt.errors import (
    ArchiveError,
    ChecksumError,
    MemberError,
    NotAModelFileError,
    TruncatedFileError,
)

# Signature, version needed, flags, method, time, date, CRC-32, stored size, size, length of name, length of extra.
LOCAL = struct.Struct("<4s5H3I2H")
# Signature, version made by, then as in LOCAL; length of comment, disk, attributes, attributes of the system, offset.
CENTRAL = struct.Struct("<4s6H3I5H2I")
# Signature, disk, disk of the directory, members on this disk, members, size and offset of the directory, comment.
END = struct.Struct("<4s4H2IH")
LOCAL_MAGIC, CENTRAL_MAGIC, END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"

# Written as they are, without effect on a reader: zip 2.0 on Unix, 1980-01-01 00:00, a regular file of mode 0644.
MADE_BY, NEEDED, TIME, DATE, SYSTEM_ATTRIBUTES = 3 << 8 | 20, 20, 0, 1 << 5 | 1, 0o100644 << 16

# More needs zip's 64-bit extension, which this format leaves out.
MAX_BYTES = 2**32 - 1
MAX_MEMBERS = 2**16 - 1


def pack(members: Mapping[str, bytes]) -> bytes:
    """The archive of `members`, in their order.

    Raises:
        ArchiveError: more than 65,535 members, or more than 4 GiB in all.
    """
    parts: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for name, data in members.items():
        path = name.encode("ascii")
        if len(members) > MAX_MEMBERS or offset + len(data) > MAX_BYTES:
            raise ArchiveError(
                f"{len(members)} members; at most {MAX_MEMBERS}, and at most {MAX_BYTES} bytes in all"
            )
        shared = (0, 0, TIME, DATE, zlib.crc32(data), len(data), len(data), len(path), 0)
        parts += [LOCAL.pack(LOCAL_MAGIC, NEEDED, *shared), path, data]
        directory += [
            CENTRAL.pack(
                CENTRAL_MAGIC, MADE_BY, NEEDED, *shared, 0, 0, 0, SYSTEM_ATTRIBUTES, offset
            ),
            path,
        ]
        offset += LOCAL.size + len(path) + len(data)
    records = b"".join(directory)
    if offset + len(records) > MAX_BYTES:
        raise ArchiveError(f"{offset + len(records)} bytes; at most {MAX_BYTES}")
    count = len(members)
    end = END.pack(END_MAGIC, 0, 0, count, count, len(records), offset, 0)
    return b"".join([*parts, records, end])


class Member(NamedTuple):
    """What both records of a member say."""

    name: str
    size: int
    crc: int


def unpack(data: bytes) -> dict[str, memoryview]:
    """The members of an archive by name: views of `data`, their CRC-32 checked.

    Raises:
        ModelFormatError: one of its children, naming the member or the record.
    """
    if not data.startswith(LOCAL_MAGIC):
        raise NotAModelFileError("this is not an .nprt file: it does not begin as a zip archive")
    count, directory = _read_end(data)
    members: dict[str, memoryview] = {}
    at = 0
    for member, offset in _read_directory(data, count, directory):
        name = member.name
        if name in members:
            raise MemberError(f"member {name!r} is there twice")
        if offset != at:
            raise ArchiveError(
                f"member {name!r} begins at byte {offset}; expected {at}, without gap or overlap"
            )
        start = at + LOCAL.size + len(name)
        at = start + member.size
        if at > directory:
            raise ArchiveError(f"member {name!r} runs into the directory")
        if _read_local(data, offset) != member:
            raise ArchiveError(f"the two records of member {name!r} differ")
        members[name] = memoryview(data)[start:at]
        if zlib.crc32(members[name]) != member.crc:
            raise ChecksumError(
                f"member {name!r} does not have the CRC-32 {member.crc:08x}: the file is damaged; "
                "copy it again, or convert the model again"
            )
    if at != directory:
        raise ArchiveError(f"the members end at byte {at}, the directory begins at {directory}")
    return members


def _read_end(data: bytes) -> tuple[int, int]:
    """The number of members, and where the directory begins."""
    start = len(data) - END.size
    if start < 0 or data[start : start + 4] != END_MAGIC:
        found = data.rfind(END_MAGIC)
        if 0 <= found < start:
            raise ArchiveError(f"{start - found} bytes follow the end of the archive")
        raise TruncatedFileError(
            f"the file breaks off after {len(data)} bytes, before the end of the archive; copy it again"
        )
    _, disk, directory_disk, here, count, size, offset, comment = END.unpack_from(data, start)
    if disk or directory_disk or here != count or comment:
        raise ArchiveError("the archive has more than one part, or a comment")
    if offset + size != start:
        raise ArchiveError(
            f"the directory takes bytes {offset} to {offset + size}, but the archive ends at {start}"
        )
    return count, offset


def _read_directory(data: bytes, count: int, at: int) -> Iterator[tuple[Member, int]]:
    """Each member and its offset. `at` is where the directory begins."""
    stop = len(data) - END.size
    for index in range(count):
        if at + CENTRAL.size > stop:
            raise ArchiveError(f"the directory has no room for member {index} of {count}")
        record = CENTRAL.unpack_from(data, at)
        magic, _made_by, _needed, flags, method, _time, _date, crc, stored, size = record[:10]
        length, extra, comment, disk, _attributes, _system_attributes, offset = record[10:]
        at += CENTRAL.size + length
        if magic != CENTRAL_MAGIC or extra or comment or disk or at > stop:
            raise ArchiveError(f"the directory's record of member {index} is damaged or extended")
        yield _member(data[at - length : at], flags, method, crc, stored, size), offset
    if at != stop:
        raise ArchiveError(
            f"the directory has {stop - at} bytes more than its {count} members take"
        )


def _read_local(data: bytes, at: int) -> Member:
    """The member whose local record, which lies before the directory, is at `at`."""
    magic, _needed, flags, method, _time, _date, crc, stored, size, length, extra = (
        LOCAL.unpack_from(data, at)
    )
    if magic != LOCAL_MAGIC or extra:
        raise ArchiveError(f"the record at byte {at} is damaged or extended")
    path = data[at + LOCAL.size : at + LOCAL.size + length]
    return _member(path, flags, method, crc, stored, size)


def _member(path: bytes, flags: int, method: int, crc: int, stored: int, size: int) -> Member:
    if not path.isascii():
        raise MemberError(f"a member's name is not ASCII: {path[:60]!r}")
    name = path.decode("ascii")
    if flags or method or stored != size:
        raise MemberError(
            f"member {name!r} is compressed, encrypted or streamed (method {method}, flags {flags:#x}); "
            "expected stored bytes, as `zip -0 -X` writes them"
        )
    return Member(name, size, crc)
