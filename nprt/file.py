"""Read and write `.nprt` files: a stored zip of `model.json` and one `.npy` per constant. `docs/format.md` is the page.

A file is data: nothing in it is executed or unpickled, each member's CRC-32 is checked, and a model is returned only
after `check` has proven its names, types and shapes.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import tempfile
import types
import typing
import zipfile
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from nprt import errors
from nprt.check import check
from nprt.ir import Array, Model, Op, Origin, QuantParams, TensorType
from nprt.ops.table import OPS
from nprt.version import __version__

FORMAT_VERSION = 1
HEADER = "model.json"
ZIP_MAGIC = b"PK\x03\x04"
# Zip's earliest date; a fixed one, so that the same model gives the same bytes.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)


# --- writing ------------------------------------------------------------------------------------------


def dumps(model: Model) -> bytes:
    """The bytes of the `.nprt` file of `model`. The same model gives the same bytes."""
    check(model)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        _write_member(archive, HEADER, _header(model).encode())
        for name in sorted(model.constants):
            _write_member(archive, f"{name}.npy", _npy(model.constants[name]))
    return buffer.getvalue()


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write `model` to `path` in one step: a reader sees the old file or the new one, never a part."""
    data = dumps(model)
    path = os.path.abspath(os.fspath(path))
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".nprt-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_member(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, TIMESTAMP)
    info.external_attr = 0o644 << 16
    info.create_system = 3
    archive.writestr(info, data)


def _npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    np.lib.format.write_array(
        buffer, np.ascontiguousarray(little).reshape(array.shape), version=(1, 0)
    )
    return buffer.getvalue()


def _header(model: Model) -> str:
    """`model.json`: compact, with a line for each type and each op."""

    def one_line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    type_lines = [
        f"{one_line(name)}: {one_line(_encode_type(t))}" for name, t in sorted(model.types.items())
    ]
    op_lines = [one_line(_encode_op(op)) for op in model.ops]
    parts = [
        f'"format": {FORMAT_VERSION}',
        f'"nprt": {one_line(__version__)}',
        f'"origin": {one_line(dataclasses.asdict(model.origin))}',
        f'"inputs": {one_line(model.inputs)}',
        f'"outputs": {one_line(model.outputs)}',
        f'"constants": {one_line(list(model.constants))}',
        '"types": {\n  ' + ",\n  ".join(type_lines) + "\n }",
        '"ops": [\n  ' + ",\n  ".join(op_lines) + "\n ]",
    ]
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _encode_type(type: TensorType) -> dict[str, Any]:
    encoded: dict[str, Any] = {"dtype": type.dtype, "shape": type.shape}
    if type.quant is not None:
        encoded |= {"scale": type.quant.scale, "zero_point": type.quant.zero_point}
        if type.quant.axis is not None:
            encoded["axis"] = type.quant.axis
    return encoded


def _encode_op(op: Op) -> dict[str, Any]:
    return {"op": op.name, "inputs": op.inputs, "outputs": op.outputs, **op.fields()}


# --- reading ------------------------------------------------------------------------------------------


def load(source: str | os.PathLike[str] | bytes) -> Model:
    """Read a model from the path of an `.nprt` file, or from its bytes.

    Raises:
        ModelFormatError: one of its children, naming the member and the field.
        ModelError: the op list breaks a rule of `check`.
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data, where = bytes(source), "<bytes>"
    else:
        where = os.fspath(source)
        with open(source, "rb") as file:
            data = file.read()
    try:
        return check(_read(data))
    except (errors.ModelFormatError, errors.ModelError) as error:
        raise type(error)(f"{where}: {error}") from error


def _read(data: bytes) -> Model:
    members = _members(data)
    if HEADER not in members:
        raise errors.NotAModelFileError(
            f"the archive has no member {HEADER!r}; is it an .nprt file?"
        )
    header = _parse_header(members.pop(HEADER))
    names = _decode(header["constants"], tuple[str, ...], "constants")
    types = {
        name: _decode_type(value, f"types[{name!r}]")
        for name, value in _mapping(header["types"], "types").items()
    }
    constants = {}
    for name in names:
        member = f"{name}.npy"
        if member not in members or name not in types:
            raise errors.MemberError(
                f"constant {name!r} has no {'type' if member in members else 'member'}"
            )
        constants[name] = _read_npy(members.pop(member), types[name], member)
    if members:
        raise errors.MemberError(
            f"members that {HEADER} does not name: {', '.join(sorted(members))}"
        )
    ops = header["ops"]
    if not isinstance(ops, list):
        raise errors.JsonFieldError(f"ops: found {type(ops).__name__}, expected a list")
    return Model(
        inputs=_decode(header["inputs"], tuple[str, ...], "inputs"),
        outputs=_decode(header["outputs"], tuple[str, ...], "outputs"),
        types=types,
        constants=constants,
        ops=tuple(_decode_op(value, f"ops[{index}]") for index, value in enumerate(ops)),
        origin=Origin(**_decode_fields(header["origin"], Origin, "origin")),
    )


def _members(data: bytes) -> dict[str, bytes]:
    """The archive's members by name, each stored, whole, unique and with the right CRC-32."""
    if not data.startswith(ZIP_MAGIC):
        raise errors.NotAModelFileError(
            "this is not an .nprt file: it does not begin as a zip archive"
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        raise errors.TruncatedFileError(
            f"the archive's directory, at the end of the file, is missing or damaged ({error})"
        ) from error
    members: dict[str, bytes] = {}
    with archive:
        infos = archive.infolist()
        if sum(info.file_size for info in infos) > len(data):
            raise errors.TruncatedFileError(
                f"the members are larger than the file ({len(data)} bytes)"
            )
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise errors.MemberError(f"member {info.filename!r} is compressed or encrypted")
            if info.filename in members:
                raise errors.MemberError(f"member {info.filename!r} is there twice")
            try:
                members[info.filename] = archive.read(info)
            except (
                zipfile.BadZipFile,
                EOFError,
                NotImplementedError,
                ValueError,
                OSError,
            ) as error:
                raise errors.ChecksumError(
                    f"member {info.filename!r} is damaged ({error}); copy or convert the model again"
                ) from error
    return members


def _parse_header(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise errors.JsonFieldError(f"{HEADER} is not JSON: {error}") from error
    header = _mapping(header, HEADER)
    version = header.get("format")
    if type(version) is not int:
        raise errors.JsonFieldError(f"{HEADER}: format is {version!r}, expected an integer")
    if version != FORMAT_VERSION:
        raise errors.VersionError(
            f"format version {version}, written by nprt {header.get('nprt')}; this is nprt {__version__}, "
            f"which reads version {FORMAT_VERSION}. Use nprt >= {header.get('nprt')}, or convert the model again"
        )
    expected = {"format", "nprt", "origin", "inputs", "outputs", "constants", "types", "ops"}
    _exact_keys(header, expected, HEADER)
    return header


def _read_npy(data: bytes, type: TensorType, member: str) -> Array:
    """A `.npy` member as a read-only array, with the dtype and shape that `type` says."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(stream)
    except (
        ValueError,
        KeyError,
        EOFError,
        SyntaxError,
        TypeError,
        RecursionError,
        MemoryError,
    ) as error:
        raise errors.MemberError(f"member {member!r} is not a .npy array ({error})") from error
    if fortran or dtype.hasobject:
        raise errors.MemberError(f"member {member!r} holds a Fortran-ordered or object array")
    if dtype != type.numpy.newbyteorder("<") or shape != type.shape:
        raise errors.TensorMismatchError(
            f"member {member!r} is {dtype}{list(shape)}, declared {type}"
        )
    content = data[stream.tell() :]
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise errors.TensorMismatchError(
            f"member {member!r} holds {len(content)} bytes of data; {type} takes {math.prod(shape) * dtype.itemsize}"
        )
    return np.frombuffer(content, dtype).reshape(shape)


def _decode_type(value: Any, where: str) -> TensorType:
    fields = _mapping(value, where)
    _exact_keys(fields, {"dtype", "shape"}, where, optional={"scale", "zero_point", "axis"})
    quant = None
    try:
        if fields.keys() & {"scale", "zero_point", "axis"}:
            quant = QuantParams(
                _decode(fields.get("scale"), tuple[float, ...], f"{where}.scale"),
                _decode(fields.get("zero_point"), tuple[int, ...], f"{where}.zero_point"),
                _decode(fields.get("axis"), int | None, f"{where}.axis"),
            )
        dtype = _decode(fields["dtype"], str, f"{where}.dtype")
        return TensorType(
            dtype, _decode(fields["shape"], tuple[int | str, ...], f"{where}.shape"), quant
        )
    except errors.ModelError as error:
        raise errors.JsonFieldError(f"{where}: {error}") from error


def _decode_op(value: Any, where: str) -> Op:
    fields = dict(_mapping(value, where))
    name = fields.pop("op", None)
    if not isinstance(name, str) or name not in OPS:
        raise errors.JsonFieldError(f"{where}: op {name!r} is not known to nprt {__version__}")
    return OPS[name](**_decode_fields(fields, OPS[name], f"{where} ({name})"))


def _decode_fields(value: Any, cls: type[Any], where: str) -> dict[str, Any]:
    """The constructor arguments of a dataclass, each checked against its annotation."""
    fields = _mapping(value, where)
    _exact_keys(fields, {field.name for field in dataclasses.fields(cls)}, where)
    hints = typing.get_type_hints(cls)
    return {name: _decode(item, hints[name], f"{where}.{name}") for name, item in fields.items()}


def _decode(value: Any, hint: Any, where: str) -> Any:
    """`value` from JSON as the type that `hint` names: a scalar, a tuple, or a union of these."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list):
        if args[-1] is Ellipsis:
            return tuple(_decode(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
        if len(args) == len(value):
            return tuple(_decode(*pair, where) for pair in zip(value, args, strict=True))
    elif origin in (typing.Union, types.UnionType):
        for option in args:
            if _fits(value, option):
                return _decode(value, option, where)
    elif _fits(value, hint):
        return float(value) if hint is float else value
    shown = repr(value)
    found = shown if len(shown) <= 60 else shown[:57] + "..."
    raise errors.JsonFieldError(f"{where}: found {found}, expected {hint}")


def _fits(value: Any, hint: Any) -> bool:
    if hint is types.NoneType or hint is None:
        return value is None
    if hint is int:
        return type(value) is int and abs(value) < 2**63
    if hint is float:
        return type(value) in (int, float) and abs(value) < math.inf
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list)
    return type(value) is hint


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise errors.JsonFieldError(f"{where}: found {type(value).__name__}, expected an object")
    return value


def _exact_keys(
    fields: Mapping[str, Any],
    required: Set[str],
    where: str,
    optional: Set[str] = frozenset(),
) -> None:
    missing, unknown = required - fields.keys(), fields.keys() - required - optional
    if missing or unknown:
        raise errors.JsonFieldError(
            f"{where}: missing {sorted(missing)}, unknown {sorted(unknown)}"
        )
