"""Read and write `.nprt` files: a stored zip of `model.json` and one `.npy` per constant. `docs/format.md` is the page.

A file is data: nothing in it is executed or unpickled, and a model is returned only after `check` has proven its names,
types and shapes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Set
from functools import cache
from typing import Any

import numpy as np

from nprt import archive, errors
from nprt.check import check
from nprt.ir import Array, Model, Op, Origin, QuantParams, TensorType
from nprt.ops.table import OPS
from nprt.version import __version__

FORMAT_VERSION = 1
HEADER = "model.json"
FIELDS = "__dataclass_fields__"
HEADER_FIELDS = {"format", "nprt", "origin", "inputs", "outputs", "constants", "types", "ops"}

NPY_MAGIC = b"\x93NUMPY\x01\x00"
NPY_ALIGNMENT = 64
NPY_HEADER = re.compile(
    rb"\{'descr': '([^']{1,20})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,10},|\d{1,10}(?:, \d{1,10})+)?)\), \} *\n"
)


# --- writing ------------------------------------------------------------------------------------------


def dumps(model: Model) -> bytes:
    """The bytes of the `.nprt` file of `model`. The same model gives the same bytes."""
    check(model)
    members = {HEADER: _header(model).encode()}
    for name in sorted(model.constants):
        members[f"{name}.npy"] = _npy(model.constants[name])
    return archive.pack(members)


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write `model` to `path` in one step: a reader sees the old file or the new one, never a part."""
    data = dumps(model)
    path = os.path.realpath(os.fspath(path))
    temporary = f"{path}.{os.urandom(6).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(temporary, flags, 0o666)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, path) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _npy(array: Array) -> bytes:
    """`array` as a `.npy` file of version 1.0, as `numpy.save` writes it, whatever the version of NumPy."""
    dtype = array.dtype.newbyteorder("<")
    header = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {array.shape}, }}"
    taken = len(NPY_MAGIC) + 2 + len(header) + 1
    header += " " * (-taken % NPY_ALIGNMENT) + "\n"
    length = len(header).to_bytes(2, "little")
    return b"".join(
        [NPY_MAGIC, length, header.encode("ascii"), array.astype(dtype, copy=False).tobytes()]
    )


def _header(model: Model) -> str:
    """`model.json`: compact, with a line for each type and each op."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)

    type_lines = [
        f"{line(name)}: {line(_encode_type(t))}" for name, t in sorted(model.types.items())
    ]
    op_lines = [line(_encode_op(op)) for op in model.ops]
    parts = [
        f'"format": {FORMAT_VERSION}',
        f'"nprt": {line(__version__)}',
        f'"origin": {line(dataclasses.asdict(model.origin))}',
        f'"inputs": {line(model.inputs)}',
        f'"outputs": {line(model.outputs)}',
        f'"constants": {line(list(model.constants))}',
        '"types": {\n  ' + ",\n  ".join(type_lines) + "\n }",
        '"ops": [\n  ' + ",\n  ".join(op_lines) + "\n ]",
    ]
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _plain(value: Any) -> Any:
    """NumPy's scalars are numbers like any other."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} cannot be written to {HEADER}")


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
        where = os.fsdecode(source)
        with open(source, "rb") as file:
            data = file.read()
    try:
        return check(_read(data))
    except (errors.ModelFormatError, errors.ModelError) as error:
        raise type(error)(f"{where}: {error}") from error


def _read(data: bytes) -> Model:
    members = archive.unpack(data)
    if HEADER not in members:
        raise errors.NotAModelFileError(
            f"the archive has no member {HEADER!r}; is it an .nprt file?"
        )
    header = _parse_header(members.pop(HEADER))
    types = {
        name: _decode_type(value, f"types[{name!r}]")
        for name, value in _mapping(header["types"], "types").items()
    }
    constants: dict[str, Array] = {}
    for name in _decode(header["constants"], tuple[str, ...], "constants"):
        member = f"{name}.npy"
        if name in constants or name not in types:
            found = "is there twice" if name in constants else "has no type"
            raise errors.JsonFieldError(f"constants: {name!r} {found}")
        if member not in members:
            raise errors.MemberError(f"constant {name!r} has no member {member!r}")
        constants[name] = _read_npy(members.pop(member), types[name], member)
    if members:
        raise errors.MemberError(
            f"members that {HEADER} does not name: {', '.join(map(repr, sorted(members)[:8]))}"
        )
    ops = header["ops"]
    if not isinstance(ops, list):
        raise errors.JsonFieldError(f"ops: found {_shown(ops)}, expected a list")
    return Model(
        inputs=_decode(header["inputs"], tuple[str, ...], "inputs"),
        outputs=_decode(header["outputs"], tuple[str, ...], "outputs"),
        types=types,
        constants=constants,
        ops=tuple(_decode_op(value, f"ops[{index}]") for index, value in enumerate(ops)),
        origin=Origin(**_decode_fields(header["origin"], Origin, "origin")),
    )


def _read_npy(data: memoryview, type: TensorType, member: str) -> Array:
    """A `.npy` member as a read-only array on the file's bytes, with the dtype and shape that `type` says."""
    start = len(NPY_MAGIC) + 2
    stop = start + int.from_bytes(data[len(NPY_MAGIC) : start], "little")
    header = NPY_HEADER.fullmatch(data[start:stop])
    if data[: len(NPY_MAGIC)] != NPY_MAGIC or header is None:
        raise errors.MemberError(f"member {member!r} is not a plain .npy array of version 1.0")
    descr, order, dims = (part.decode("ascii", "replace") for part in header.groups())
    if order == "True" or "O" in descr:
        raise errors.MemberError(f"member {member!r} holds a Fortran-ordered or object array")
    shape = tuple(int(dim) for dim in dims.split(",") if dim)
    dtype = type.numpy.newbyteorder("<")
    if descr != dtype.str or shape != type.shape:
        raise errors.TensorMismatchError(
            f"member {member!r} is {descr}{list(shape)}, declared {type}, which is {dtype.str}"
        )
    size = math.prod(shape) * dtype.itemsize
    if len(data) - stop != size:
        raise errors.TensorMismatchError(
            f"member {member!r} holds {len(data) - stop} bytes of data; {type} takes {size}"
        )
    if type.dtype == "bool" and np.ndarray(shape, np.uint8, data, stop).max(initial=0) > 1:
        raise errors.TensorMismatchError(f"member {member!r} is bool, but holds bytes above 1")
    array = np.ndarray(shape, dtype, data, stop)
    usable = array.flags.aligned and sys.byteorder == "little"
    return array if usable else _read_only(array.astype(type.numpy))


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


# --- model.json ---------------------------------------------------------------------------------------


def _parse_header(data: memoryview) -> dict[str, Any]:
    try:
        header = json.loads(bytes(data).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, errors.JsonFieldError):
            raise
        raise errors.JsonFieldError(f"{HEADER} is not JSON: {error}") from error
    header = _mapping(header, HEADER)
    version = _decode(header.get("format"), int, "format")
    if version != FORMAT_VERSION:
        writer = header.get("nprt")
        raise errors.VersionError(
            f"format version {version}, written by nprt {_shown(writer)}; this is nprt {__version__}, which reads "
            f"version {FORMAT_VERSION}. Use nprt >= {_shown(writer)}, or convert the model again"
        )
    _exact_keys(header, HEADER_FIELDS, HEADER)
    _decode(header["nprt"], str, "nprt")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are text, each there once."""
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:
            raise errors.JsonFieldError(f"{HEADER}: key {_shown(key)} is there twice in one object")
        fields[_decode(key, str, "a key")] = value
    return fields


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
        shape = _decode(fields["shape"], tuple[int | str, ...], f"{where}.shape")
        return TensorType(dtype, shape, quant)
    except errors.ModelError as error:
        raise errors.JsonFieldError(f"{where}: {error}") from error


def _decode_op(value: Any, where: str) -> Op:
    fields = dict(_mapping(value, where))
    name = fields.pop("op", None)
    if not isinstance(name, str) or name not in OPS:
        raise errors.JsonFieldError(
            f"{where}: op {_shown(name)} is not known to nprt {__version__}"
        )
    return OPS[name](**_decode_fields(fields, OPS[name], f"{where} ({name})"))


def _decode_fields(value: Any, cls: Any, where: str) -> dict[str, Any]:
    """The constructor arguments of a dataclass, each checked against its annotation."""
    fields = _mapping(value, where)
    hints = _field_hints(cls)
    _exact_keys(fields, hints.keys(), where)
    return {name: _decode(item, hints[name], f"{where}.{name}") for name, item in fields.items()}


@cache
def _field_hints(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, as `typing.get_type_hints` has them; that takes ten times as long."""
    hints = {}
    for field in dataclasses.fields(cls):
        # The class that declares a field shares it with those that inherit it.
        sharing = [c for c in cls.__mro__ if c.__dict__.get(FIELDS, {}).get(field.name) is field]
        hints[field.name] = _evaluated(str(field.type), sharing[-1].__module__)
    return hints


@cache
def _evaluated(annotation: str, module: str) -> Any:
    return eval(annotation, vars(sys.modules[module]))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise errors.JsonFieldError(f"{where}: found {_shown(value)}, expected an object")
    return value


def _exact_keys(
    fields: dict[str, Any], required: Set[str], where: str, optional: Set[str] = frozenset()
) -> None:
    missing, unknown = required - fields.keys(), fields.keys() - required - optional
    if missing or unknown:
        raise errors.JsonFieldError(
            f"{where}: missing {sorted(missing)}, unknown {_shown(sorted(unknown))}"
        )


def _shown(value: Any) -> str:
    """`value` in a message: short, and without recursion into what a hostile file nests."""
    return reprlib.repr(value)


# --- JSON values to field types -----------------------------------------------------------------------


def _decode(value: Any, hint: Any, where: str) -> Any:
    """`value` from JSON as the type that `hint` names: a scalar, a tuple, or a union of these."""
    try:
        return _decoder(hint)(value)
    except TypeError:
        expected = hint.__name__ if hint in SCALARS else str(hint)
        raise errors.JsonFieldError(
            f"{where}: found {_shown(value)}, expected {expected}"
        ) from None


@cache
def _decoder(hint: Any) -> Callable[[Any], Any]:
    """A function from a JSON value to `hint`'s type, which raises TypeError where the value is of another."""
    if hint in SCALARS:
        return SCALARS[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and args[-1] is Ellipsis:
        if args[0] in SEQUENCES:
            return SEQUENCES[args[0]]
        item = _decoder(args[0])
        return lambda value: tuple(map(item, _list(value)))
    parts = tuple(map(_decoder, args))
    if origin is tuple:
        return lambda value: tuple(
            part(item) for part, item in zip(parts, _list(value, len(parts)), strict=True)
        )
    assert origin in (typing.Union, types.UnionType), hint

    def either(value: Any) -> Any:
        for part in parts:
            try:
                return part(value)
            except TypeError:
                pass
        raise TypeError

    return either


def _integer(value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise TypeError
    return value


def _float(value: Any) -> float:
    if type(value) is int:
        return float(_integer(value))
    if type(value) is not float or not math.isfinite(value):
        raise TypeError
    return value


def _integers(value: Any) -> tuple[int, ...]:
    """As `_integer` on each, in a time that matters where each channel has a number."""
    items = _list(value)
    if items and (set(map(type, items)) != {int} or min(items) < -(2**63) or max(items) >= 2**63):
        raise TypeError
    return tuple(items)


def _floats(value: Any) -> tuple[float, ...]:
    """As `_float` on each, likewise."""
    items = _list(value)
    if set(map(type, items)) == {float} and all(map(math.isfinite, items)):
        return tuple(items)
    return tuple(map(_float, items))


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError
    return value


def _text(value: Any) -> str:
    """A string that can be written again: JSON's escapes can spell halves of characters."""
    if type(value) is not str or not (value.isascii() or _encodable(value)):
        raise TypeError
    return value


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _nothing(value: Any) -> None:
    if value is not None:
        raise TypeError


def _list(value: Any, length: int | None = None) -> list[Any]:
    if type(value) is not list or length not in (None, len(value)):
        raise TypeError
    return value


SCALARS: dict[Any, Callable[[Any], Any]] = {
    int: _integer,
    float: _float,
    bool: _boolean,
    str: _text,
    types.NoneType: _nothing,
}
SEQUENCES: dict[Any, Callable[[Any], Any]] = {int: _integers, float: _floats}
