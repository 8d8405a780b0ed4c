"""The `.nprt` file: same model, same bytes; and one named error for each way in which a file can be bad."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import codes, floats, model, one_op, two_layers

from nprt import archive, errors
from nprt.errors import ModelError, ModelFormatError, NprtError
from nprt.file import HEADER, dumps, load, save
from nprt.ir import Array, Model, QuantParams, TensorType
from nprt.ops.conv import Conv
from nprt.ops.unary import Unary

SMALL = dumps(two_layers())


def meaning(read: Model) -> bytes:
    """Equal for models that compute the same."""
    return dumps(read)


def zipped(members: dict[str, bytes] | list[tuple[str, bytes]], **options: Any) -> bytes:
    """An archive as Python's zipfile writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as file:
        for name, data in members.items() if isinstance(members, dict) else members:
            file.writestr(name, data)
    return buffer.getvalue()


def parts() -> dict[str, bytes]:
    """The members of the small file."""
    return {name: bytes(data) for name, data in archive.unpack(SMALL).items()}


def with_header(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The small file after `change` to its model.json."""
    members = parts()
    header = json.loads(members[HEADER])
    header = change(header) or header
    return archive.pack(members | {HEADER: json.dumps(header).encode()})


def refused(data: bytes, error: type[Exception], *words: str) -> None:
    with pytest.raises(error) as caught:
        load(data)
    assert type(caught.value) is error, caught.value
    for word in words:
        assert word in str(caught.value)


# --- good files ---------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_a_saved_file_is_not_executable(tmp_path: Path) -> None:
    """It has the mode of any new file."""
    two_layers().save(tmp_path / "m.nprt")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "m.nprt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_save_into_a_missing_folder_names_the_path(tmp_path: Path) -> None:
    """The error is about the file that was asked for."""
    with pytest.raises(FileNotFoundError, match=r"m\.nprt'$"):
        two_layers().save(tmp_path / "missing" / "m.nprt")


def test_save_load_save_gives_the_same_bytes(tmp_path: Path) -> None:
    """What is read is what was written, down to the last byte, from a path, a string or bytes."""
    path = tmp_path / "small.nprt"
    two_layers().save(path)
    assert path.read_bytes() == SMALL
    for source in (path, str(path), SMALL, bytearray(SMALL), memoryview(SMALL)):
        read = load(source)
        assert dumps(read) == SMALL
        assert str(read) == str(two_layers())
        assert read.origin == two_layers().origin


def test_numpy_opens_the_file_and_gives_the_arrays(tmp_path: Path) -> None:
    """`numpy.load` sees every constant, without pickle."""
    save(two_layers(), tmp_path / "small.nprt")
    with np.load(tmp_path / "small.nprt", allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["b", HEADER, "w"]
        for name, expected in two_layers().constants.items():
            np.testing.assert_array_equal(arrays[name], expected)
            assert arrays[name].dtype == expected.dtype
        assert json.loads(arrays[HEADER])["format"] == 1


def test_each_member_is_what_numpy_save_writes() -> None:
    """A member, whatever its dtype and shape, reads back with NumPy, and NumPy's own bytes read back with nprt."""
    for array in (
        np.zeros((), np.float32),
        np.arange(3, dtype=np.int64),
        np.zeros((0, 4), np.uint8),
        np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        np.array([True, False]),
    ):
        members = archive.unpack(dumps(holding(array)))
        read = np.load(io.BytesIO(members["w.npy"]), allow_pickle=False)
        np.testing.assert_array_equal(read, array)
        assert read.dtype == array.dtype
        buffer = io.BytesIO()
        np.save(buffer, array)
        own = load(archive.pack({HEADER: bytes(members[HEADER]), "w.npy": buffer.getvalue()}))
        np.testing.assert_array_equal(own.constants["w"], array)
        assert own.constants["w"].dtype == array.dtype
        assert not own.constants["w"].flags.writeable
        assert own.constants["w"].flags.aligned


def holding(array: Array) -> Model:
    """A model with one constant, which nothing reads."""
    type = TensorType(array.dtype.name, array.shape)
    return model(
        [Unary(inputs=("x",), outputs=("y",), function="relu")],
        {"x": floats(), "y": floats(), "w": type},
        {"w": array},
    )


def test_other_tools_open_the_file() -> None:
    """`unzip` and Python's zipfile list, test and read it; the names and dates are fixed."""
    with zipfile.ZipFile(io.BytesIO(SMALL)) as file:
        assert file.testzip() is None
        infos = file.infolist()
    assert [info.filename for info in infos] == [HEADER, "b.npy", "w.npy"]
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.external_attr >> 16 for info in infos} == {0o100644}


def test_an_archive_that_another_tool_made_is_read() -> None:
    """Unpacked and packed again, in any order, with any dates, it is the same model."""
    assert meaning(load(zipped(dict(reversed(parts().items()))))) == SMALL


def test_arrays_of_any_layout_are_written_the_same() -> None:
    """Strides and byte order of an array in memory leave no trace in the file."""
    plain = np.arange(6, dtype=np.int32).reshape(2, 3)
    for array in (np.asfortranarray(plain), np.repeat(plain, 2, axis=1)[:, ::2]):
        assert dumps(holding(array)) == dumps(holding(plain))


def test_numpy_numbers_in_fields_are_written_as_numbers() -> None:
    """A converter may leave NumPy's scalars in fields and shapes."""
    op = Unary(inputs=("x",), outputs=("y",), function="clip", parameters=(np.float32(0.5), 6.0))
    read = load(dumps(one_op(op, floats(np.int64(2)), floats(np.int64(2)))))
    assert read.ops[0] == op
    assert read.types["x"] == floats(2)


def test_names_may_be_any_text() -> None:
    """Values keep the names of their source, in any script; constants are named for file systems."""
    op = Unary(inputs=("größe/入力:0",), outputs=('"y"\n',), function="relu")
    read = load(dumps(one_op_named(op)))
    assert read.inputs == ("größe/入力:0",)
    assert read.outputs == ('"y"\n',)


def one_op_named(op: Unary) -> Model:
    return model(
        [op], {op.inputs[0]: floats(1), op.outputs[0]: floats(1)}, {}, op.inputs, op.outputs
    )


# --- saving -------------------------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails, the old bytes stay and no other file is left."""
    path = tmp_path / "model.nprt"
    path.write_bytes(b"old")

    def fail(*args: Any) -> None:
        raise OSError(28, "no space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            with pytest.raises(OSError, match="no space"):
                save(two_layers(), path)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["model.nprt"]
    with pytest.raises(ModelError):
        save(model([], {}, {}, (), ()), path)
    assert path.read_bytes() == b"old"
    save(two_layers(), path)
    assert path.read_bytes() == SMALL
    assert os.listdir(tmp_path) == ["model.nprt"]


@pytest.mark.skipif(os.name == "nt", reason="permissions and symbolic links of Unix")
def test_a_saved_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """The process's umask decides; a symbolic link stays and its target is replaced."""
    (tmp_path / "plain").touch()
    os.symlink(tmp_path / "target.nprt", tmp_path / "link.nprt")
    save(two_layers(), tmp_path / "link.nprt")
    assert (tmp_path / "link.nprt").is_symlink()
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("plain", "target.nprt")]
    assert modes[0] == modes[1] & ~0o111


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    """Paths fail as they do for `open`."""
    with pytest.raises(FileNotFoundError):
        save(two_layers(), tmp_path / "missing" / "model.nprt")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.nprt")
    with pytest.raises(OSError, match=r".*"):
        load(tmp_path)


def test_what_an_archive_cannot_hold_is_refused() -> None:
    """Without zip's 64-bit extension there are 65,535 members at most."""
    assert len(archive.unpack(archive.pack({str(i): b"" for i in range(65535)}))) == 65535
    with pytest.raises(errors.ArchiveError, match="65536 members; at most 65535"):
        archive.pack({str(i): b"" for i in range(65536)})


# --- bytes that are not an archive --------------------------------------------------------------------


def test_the_error_names_the_file(tmp_path: Path) -> None:
    """A path, where there is one."""
    path = tmp_path / "empty.nprt"
    path.touch()
    with pytest.raises(errors.NotAModelFileError, match=r"empty\.nprt: this is not an \.nprt file"):
        load(path)


def test_empty() -> None:
    refused(b"", errors.NotAModelFileError, "<bytes>", "not an .nprt file")


def test_not_a_zip() -> None:
    refused(b"PK", errors.NotAModelFileError)
    refused(b"\x89HDF\r\n\x1a\n" + SMALL, errors.NotAModelFileError)


def test_an_empty_zip() -> None:
    refused(archive.pack({}), errors.NotAModelFileError)


def test_a_zip_of_something_else() -> None:
    refused(archive.pack({"a": b""}), errors.NotAModelFileError, "no member 'model.json'")


def test_truncated() -> None:
    """Cut anywhere, a file has one of two errors."""
    for cut in range(len(SMALL)):
        error = errors.NotAModelFileError if cut < 4 else errors.TruncatedFileError
        refused(SMALL[:cut], error)


def test_bytes_behind_the_end() -> None:
    refused(SMALL + b"\n", errors.ArchiveError, "1 bytes follow")


def test_every_flipped_bit_is_noticed() -> None:
    """A flip of any bit is an error, or changes nothing but dates, attributes and versions in the archive's records."""
    harmless = 0
    for at in range(len(SMALL)):
        for bit in range(8):
            flipped = bytearray(SMALL)
            flipped[at] ^= 1 << bit
            try:
                assert meaning(load(bytes(flipped))) == SMALL
                harmless += 1
            except ModelFormatError:
                pass
    # In each of three members: time, date and version needed (6 bytes) twice, version made by (2), attributes (6).
    assert harmless == 8 * 3 * (2 * 6 + 2 + 6)


# --- the archive's records ----------------------------------------------------------------------------

DIRECTORY = SMALL.index(archive.CENTRAL_MAGIC)
END = len(SMALL) - archive.END.size


def patched(at: int, format: str, value: int) -> bytes:
    data = bytearray(SMALL)
    struct.pack_into(format, data, at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("at", "format", "value", "error", "word"),
    [
        (0, "<4s", b"PK\x03\x05", errors.NotAModelFileError, "does not begin as a zip"),
        (6, "<H", 1, errors.MemberError, "encrypted"),
        (8, "<H", 8, errors.MemberError, "compressed"),
        (14, "<I", 0, errors.ArchiveError, "two records of member 'model.json' differ"),
        (18, "<I", 1, errors.MemberError, "compressed"),
        (26, "<H", 11, errors.ArchiveError, "two records"),
        (28, "<H", 1, errors.ArchiveError, "damaged or extended"),
        (30, "<B", 0xFF, errors.MemberError, "not ASCII"),
        (30, "<B", 0x4D, errors.ArchiveError, "two records of member 'model.json' differ"),
        (DIRECTORY, "<I", 0, errors.ArchiveError, "record of member 0"),
        (DIRECTORY + 8, "<H", 8, errors.MemberError, "streamed"),
        (DIRECTORY + 10, "<H", 8, errors.MemberError, "compressed"),
        (DIRECTORY + 16, "<I", 0, errors.ArchiveError, "two records"),
        (DIRECTORY + 28, "<H", 65535, errors.ArchiveError, "record of member 0"),
        (DIRECTORY + 30, "<H", 4, errors.ArchiveError, "damaged or extended"),
        (DIRECTORY + 32, "<H", 4, errors.ArchiveError, "damaged or extended"),
        (DIRECTORY + 34, "<H", 1, errors.ArchiveError, "damaged or extended"),
        (DIRECTORY + 42, "<I", 1, errors.ArchiveError, "begins at byte 1; expected 0"),
        (END + 4, "<H", 1, errors.ArchiveError, "more than one part"),
        (END + 8, "<H", 2, errors.ArchiveError, "more than one part"),
        (END + 12, "<I", 1, errors.ArchiveError, "but the archive ends at"),
        (END + 20, "<H", 1, errors.ArchiveError, "comment"),
    ],
)
def test_damaged_records(at: int, format: str, value: Any, error: type, word: str) -> None:
    """Each field of a record that a reader could trust wrongly."""
    refused(patched(at, format, value), error, word)


def test_wrong_number_of_members() -> None:
    """More than the directory holds, or fewer."""
    more, fewer = bytearray(SMALL), bytearray(SMALL)
    struct.pack_into("<2H", more, END + 8, 4, 4)
    struct.pack_into("<2H", fewer, END + 8, 2, 2)
    refused(bytes(more), errors.ArchiveError, "no room for member 3 of 4")
    refused(bytes(fewer), errors.ArchiveError, "more than its 2 members take")


def test_a_damaged_member() -> None:
    refused(patched(60, "<B", 0), errors.ChecksumError, "'model.json'", "CRC-32")


def test_overlapping_members() -> None:
    """The directory of a zip bomb names the same bytes many times over."""
    body = struct.pack("<I", 0) * 16
    path, crc = b"a", zlib.crc32(body)
    facts = (0, 0, 0, 0, crc, len(body), len(body), 1, 0)
    local = archive.LOCAL.pack(archive.LOCAL_MAGIC, 20, *facts) + path + body
    record = archive.CENTRAL.pack(archive.CENTRAL_MAGIC, 20, 20, *facts, 0, 0, 0, 0, 0)
    other = record + b"b"
    end = archive.END.pack(archive.END_MAGIC, 0, 0, 2, 2, 2 * (len(record) + 1), len(local), 0)
    refused(local + record + path + other + end, errors.ArchiveError, "without gap or overlap")


def test_gaps_between_members() -> None:
    """Bytes that no member owns could hold another file."""
    local, directory, end = SMALL[:DIRECTORY], SMALL[DIRECTORY:END], bytearray(SMALL[END:])
    struct.pack_into("<I", end, 16, DIRECTORY + 1)
    refused(local + b"\0" + directory + bytes(end), errors.ArchiveError, "the members end at byte")


def test_a_member_that_runs_into_the_directory() -> None:
    """A size that both records agree on, and that the file has not got."""
    data = bytearray(archive.pack({"a": b""}))
    at = data.index(archive.CENTRAL_MAGIC)
    for offset in (18, 22, at + 20, at + 24):
        struct.pack_into("<I", data, offset, 2**32 - 1)
    refused(bytes(data), errors.ArchiveError, "member 'a' runs into the directory")


def test_many_members_take_little_time() -> None:
    """65,535 members are listed in the error, in short."""
    data = archive.pack({HEADER: parts()[HEADER]} | {f"{i}.npy": b"" for i in range(65534)})
    start = time.perf_counter()
    refused(data, errors.MemberError)
    assert time.perf_counter() - start < 10


# --- members ------------------------------------------------------------------------------------------


def test_a_compressed_member() -> None:
    data = zipped(parts(), compression=zipfile.ZIP_DEFLATED)
    refused(data, errors.MemberError, "'model.json' is compressed")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice() -> None:
    refused(zipped([("a", b""), ("a", b"")]), errors.MemberError, "'a' is there twice")


def test_a_missing_member() -> None:
    members = parts()
    del members["w.npy"]
    refused(archive.pack(members), errors.MemberError, "constant 'w' has no member 'w.npy'")


@pytest.mark.parametrize(
    "name", ["x.npy", "w.npy ", "../w.npy", "/etc/passwd", "a/b.npy", "a\\b", ""]
)
def test_an_unexpected_member(name: str) -> None:
    """Names are compared, never used as paths."""
    refused(archive.pack(parts() | {name: b""}), errors.MemberError, "does not name", repr(name))


@pytest.mark.parametrize("name", ["../w", "/w", "a/b", "a\\b", "", ".w", "w:"])
def test_a_constant_named_like_a_path(name: str) -> None:
    """Even where model.json and the archive agree on it."""

    def rename(header: dict[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps(header).replace('"w"', json.dumps(name)))

    members = parts()
    header = json.dumps(rename(json.loads(members[HEADER]))).encode()
    data = archive.pack(
        {HEADER: header, f"{name}.npy": members["w.npy"], "b.npy": members["b.npy"]}
    )
    with pytest.raises(NprtError, match="has no name" if not name else "must be named by letters"):
        load(data)


def npy(header: str, body: bytes = b"\0" * 6, version: bytes = b"\1\0") -> bytes:
    text = header.encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body


def with_w(data: bytes) -> bytes:
    return archive.pack(parts() | {"w.npy": data})


PLAIN = "{'descr': '|i1', 'fortran_order': False, 'shape': (3, 2), }\n"


def test_the_shortest_npy_member() -> None:
    """The cases below are this one, broken."""
    assert not load(with_w(npy(PLAIN))).constants["w"].any()


@pytest.mark.parametrize(
    ("data", "error", "word"),
    [
        (b"", errors.MemberError, "not a plain .npy array"),
        (b"\x93NUMPY\1\0\xff\xff", errors.MemberError, "not a plain .npy array"),
        (npy(PLAIN, version=b"\2\0"), errors.MemberError, "not a plain .npy array"),
        (npy(PLAIN[:-1]), errors.MemberError, "not a plain .npy array"),
        (npy(PLAIN.replace("'|i1'", "[('a', '|i1')]")), errors.MemberError, "plain"),
        (npy(PLAIN.replace("False", "__import__('os')")), errors.MemberError, "plain"),
        (npy(PLAIN.replace("(3, 2)", "(3, -2)")), errors.MemberError, "plain"),
        (npy(PLAIN.replace("(3, 2)", "(" * 5000 + ")" * 5000)), errors.MemberError, "plain"),
        (npy(PLAIN.replace("(3, 2)", "(" + "9" * 5000 + ",)")), errors.MemberError, "plain"),
        (npy(PLAIN.replace("False", "True")), errors.MemberError, "Fortran"),
        (npy(PLAIN.replace("|i1", "|O")), errors.MemberError, "object"),
        (
            npy(PLAIN.replace("|i1", "|u1")),
            errors.TensorMismatchError,
            "|u1[3, 2], declared i8[3,2]",
        ),
        (npy(PLAIN.replace("|i1", ">i2")), errors.TensorMismatchError, ">i2"),
        (npy(PLAIN.replace("(3, 2)", "(2, 3)")), errors.TensorMismatchError, "[2, 3], declared"),
        (npy(PLAIN.replace("(3, 2)", "(6,)")), errors.TensorMismatchError, "[6], declared"),
        (npy(PLAIN, b"\0" * 5), errors.TensorMismatchError, "holds 5 bytes of data"),
        (npy(PLAIN, b"\0" * 7), errors.TensorMismatchError, "holds 7 bytes of data"),
    ],
)
def test_bad_arrays(data: bytes, error: type, word: str) -> None:
    """Each way in which a `.npy` member can differ from its declaration."""
    refused(with_w(data), error, "'w.npy'", word)


def test_an_array_of_pickled_objects() -> None:
    """NumPy's own pickled array is refused before anything is unpickled."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([[{}] * 2] * 3), allow_pickle=True)
    refused(with_w(buffer.getvalue()), errors.MemberError, "object")


def test_a_bool_that_is_neither_true_nor_false() -> None:
    data = dumps(holding(np.array([True])))
    members = {name: bytes(part) for name, part in archive.unpack(data).items()}
    members["w.npy"] = members["w.npy"][:-1] + b"\2"
    refused(archive.pack(members), errors.TensorMismatchError, "bytes above 1")


# --- model.json ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe{\0}\0",
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"format": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"format": ' + b"9" * 5000 + b"}",
        b"[]",
        b"null",
        b'{"format": 1, "format": 1}',
        b'{"format": 1, "\\ud800": 1}',
    ],
)
def test_bad_json(text: bytes) -> None:
    """Not JSON, not UTF-8, not an object, nested without end, or with a key twice."""
    refused(archive.pack({HEADER: text}), errors.JsonFieldError)


@pytest.mark.parametrize("version", [2, 0, -1, 10**30])
def test_wrong_version(version: int) -> None:
    """A newer file says which nprt it needs."""
    error = errors.VersionError if abs(version) < 2**63 else errors.JsonFieldError
    words = (
        ["nprt >= '9.9.9'", "or convert the model again"] if error is errors.VersionError else []
    )
    refused(
        with_header(lambda header: {**header, "format": version, "nprt": "9.9.9"}), error, *words
    )


@pytest.mark.parametrize(
    "field", ["format", "nprt", "origin", "inputs", "outputs", "constants", "types", "ops"]
)
def test_each_field_is_required_and_typed(field: str) -> None:
    """Without a field, or with a value of another type, a file is refused by the name of the field."""

    def without(header: dict[str, Any]) -> None:
        del header[field]

    refused(with_header(without), errors.JsonFieldError, field)
    for value in (None, True, 1.0, "x", [1], [None], [[]], {"a": 1}, 1 << 70):
        if field == "nprt" and value == "x":
            continue
        refused(
            with_header(lambda header, v=value: header | {field: v}), errors.JsonFieldError, field
        )


def test_unknown_fields() -> None:
    """In every object: a field that this version does not know may matter."""
    for path in ((), ("origin",), ("types", "x"), ("ops", 1)):

        def change(header: dict[str, Any], path: tuple[Any, ...] = path) -> None:
            at = header
            for key in path:
                at = at[key]
            at["extra"] = 0

        refused(with_header(change), errors.JsonFieldError, "unknown ['extra']")


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("dtype", "int4", "not one of int8"),
        ("dtype", 8, "found 8, expected str"),
        ("shape", 3, "found 3"),
        ("shape", [3.0, 2], "found [3.0, 2]"),
        ("shape", [True, 2], "found [True, 2]"),
        ("shape", [-3, 2], "negative"),
        ("shape", ["N M", 2], "neither an integer nor a name"),
        ("shape", [2**31, 2], "at most 2147483647"),
        ("shape", [0, 2**62], "at most 2147483647"),
        ("shape", [10**30], "found [1"),
        ("shape", [1] * 17, "17 dimensions; at most 16"),
        ("scale", None, "found None"),
        ("scale", 0.5, "found 0.5"),
        ("scale", [], "0 scales but 3 zero points"),
        ("scale", [0.5, 0.5, 0], "not a positive finite float32"),
        ("scale", [0.5, 0.5, -1], "not a positive finite float32"),
        ("scale", [0.5, 0.5, 0.1], "not a positive finite float32"),
        ("scale", [0.5, 0.5, 1e39], "not a positive finite float32"),
        ("scale", [0.5, 0.5, 1e-46], "not a positive finite float32"),
        ("scale", [0.5, 0.5, float("nan")], "found [0.5, 0.5, nan]"),
        ("scale", [0.5, 0.5, float("inf")], "found [0.5, 0.5, inf]"),
        ("scale", [0.5, 0.5, 10**400], "found [0.5, 0.5, 1000"),
        ("zero_point", [0, 0], "3 scales but 2 zero points"),
        ("zero_point", [0, 0, 128], "zero point 128 is not a code of int8"),
        ("scale", [0.5, 0.5, True], "found [0.5, 0.5, True]"),
        ("zero_point", [0, 0, 0.0], "found [0, 0, 0.0]"),
        ("zero_point", [0, 0, False], "found [0, 0, False]"),
        ("zero_point", [0, 0, 2**63], "found [0, 0, 9223372036854775808]"),
        ("axis", 2, "axis 2 is not one of 2 dimensions"),
        ("axis", -1, "axis -1 is not one of 2 dimensions"),
        ("axis", 1, "3 scales on axis 1 of size 2"),
        ("axis", None, "3 scales without an axis"),
    ],
)
def test_bad_types(name: str, value: Any, word: str) -> None:
    """Each field of a type, with the value that was found."""

    def change(header: dict[str, Any]) -> None:
        header["types"]["w"][name] = value

    refused(with_header(change), errors.JsonFieldError, "types['w']", word)


def test_codes_without_scales() -> None:
    """Zero points or an axis alone are not a quantization."""

    def change(header: dict[str, Any]) -> None:
        del header["types"]["w"]["scale"]

    refused(with_header(change), errors.JsonFieldError, "types['w'].scale")


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("op", "conv2d", "ops[1]: op 'conv2d' is not known"),
        ("op", None, "op None is not known"),
        ("op", ["linear"], "op ['linear'] is not known"),
        ("inputs", "qw", "ops[1] (linear).inputs: found 'qw'"),
        ("inputs", ["q", None], "ops[1] (linear).inputs"),
        ("outputs", ["\ud800"], "ops[1] (linear).outputs"),
        ("numerics", 1, "ops[1] (linear).numerics: found 1, expected str"),
        ("clamp", [0], "ops[1] (linear).clamp: found [0]"),
        ("clamp", [0, 1, 2], "ops[1] (linear).clamp"),
        ("clamp", [0, 1.5], "ops[1] (linear).clamp"),
        ("clamp", [0, 2**63], "ops[1] (linear).clamp"),
        ("clamp", True, "ops[1] (linear).clamp: found True"),
    ],
)
def test_bad_ops(name: str, value: Any, word: str) -> None:
    """Each kind of field of an op, with its place and the value that was found."""

    def change(header: dict[str, Any]) -> None:
        header["ops"][1][name] = value

    refused(with_header(change), errors.JsonFieldError, word)


def test_deep_nesting_in_a_field() -> None:
    """The message about a field that nests is itself not nested."""
    members = parts()
    deep = members[HEADER].replace(b'"clamp": [-3, 127]', b'"clamp": ' + b"[" * 500 + b"]" * 500)
    assert deep != members[HEADER]
    refused(archive.pack(members | {HEADER: deep}), errors.JsonFieldError, "clamp: found [[[")


def test_constants_that_do_not_add_up() -> None:
    """Named twice, without a type, or also an input."""
    refused(
        with_header(lambda header: header | {"constants": ["w", "b", "w"]}),
        errors.JsonFieldError,
        "constants: 'w' is there twice",
    )
    refused(
        with_header(lambda header: header | {"constants": ["w", "b", "c"]}),
        errors.JsonFieldError,
        "constants: 'c' has no type",
    )
    refused(with_header(lambda header: header | {"inputs": ["x", "w"]}), ModelError, "bound twice")


def test_a_model_that_check_refuses() -> None:
    """A file that is well formed may still hold no model; the error says so, and names the file."""
    refused(with_header(lambda header: header | {"outputs": ["z"]}), ModelError, "<bytes>: ", "'z'")


# --- fuzzing ------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_files_raise_named_errors(data: st.DataObject) -> None:
    """Bytes replaced, removed, doubled or moved: an NprtError, or a model of the same meaning."""
    raw = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw)))
        stop = data.draw(st.integers(start, min(len(raw), start + 40)))
        raw[start:stop] = data.draw(
            st.one_of(
                st.binary(max_size=8), st.just(bytes(raw[start:stop]) * 2), st.just(SMALL[-60:])
            )
        )
    with contextlib.suppress(NprtError):
        assert meaning(load(bytes(raw))) == SMALL


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["x", "w", "q", "int8", "linear", "N", 0, 1, 2, 3]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values in a JSON document."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


WHOLE = json.loads(bytes(archive.unpack(SMALL)[HEADER]))
PLACES = [path for path in places(WHOLE) if path]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(PLACES), JSON)
def test_any_json_in_any_place_raises_named_errors(path: tuple[Any, ...], value: Any) -> None:
    """A well-formed archive whose model.json says anything at all: a model, or an NprtError."""

    def change(header: dict[str, Any]) -> None:
        at = header
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    try:
        data = with_header(change)
    except UnicodeEncodeError:
        return
    try:
        read = load(data)
    except NprtError:
        return
    assert dumps(load(dumps(read))) == dumps(read)


# --- speed --------------------------------------------------------------------------------------------


def test_loading_does_not_copy_or_scan_weights() -> None:
    """The arrays are views of the file's bytes, and 16 MB of weights load in far less than a second."""
    channels = 2048
    types = {
        "x": codes("N", 1, 1, channels),
        "y": codes("N", 1, 1, 8192),
    }
    weights = np.zeros((8192, 1, 1, channels), np.int8)
    op = Conv(
        inputs=("x", "w"), outputs=("y",), stride=(1, 1), dilation=(1, 1), padding=((0, 0), (0, 0))
    )
    types["w"] = TensorType("int8", weights.shape, QuantParams.of(np.full(8192, 0.5), 0, 0))
    data = dumps(model([op], types, {"w": weights}))
    start = time.perf_counter()
    read = load(data)
    taken = time.perf_counter() - start
    assert np.shares_memory(read.constants["w"], np.frombuffer(data, np.uint8))
    assert taken < 1
