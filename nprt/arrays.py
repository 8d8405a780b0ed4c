"""Named arrays in `.npz` and `.npy` files: what the commands read and write."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nprt.errors import NprtError

log = logging.getLogger("nprt")

Array = NDArray[Any]

NPY_MAGIC = b"\x93NUMPY"


def is_npy(path: str) -> bool:
    return path.endswith(".npy")


def read_arrays(
    path: str, expected: Mapping[str, np.dtype[Any] | None], error: type[NprtError]
) -> dict[str, Array]:
    """The arrays for the inputs in `expected`, each of the dtype that it says; None takes any.

    A dtype that fits into it is converted exactly (float16 to float32, int32 to int64). Nothing else is: the bytes
    of an image are not yet what a float model was trained on. A single input also takes a `.npy` file, or an `.npz`
    file with one array that was given no name. Arrays that no input is named for are left out, with a warning.

    Raises:
        error: the file holds no arrays, lacks one, or has one of another dtype.
        OSError: the file cannot be read.
    """
    found = _load(path, list(expected), error)
    missing = [name for name in expected if name not in found]
    if missing:
        first = missing[0]
        keyword = f"{first}=array" if first.isidentifier() else f"**{{{first!r}: array}}"
        raise error(
            f"{path}: no array for the input{'s' * (len(missing) > 1)} {_listed(missing)}; "
            f"it holds {_listed(found) or 'no array'}. Write it with np.savez({path!r}, {keyword})"
        )
    ignored = [name for name in found if name not in expected]
    if ignored:
        log.warning("%s: %s not used, the model has no such input", path, _listed(ignored))
    return {name: _fit(path, name, found[name], dtype, error) for name, dtype in expected.items()}


def _load(path: str, names: Sequence[str], error: type[NprtError]) -> dict[str, Array]:
    try:
        with open(path, "rb") as file:
            if file.read(len(NPY_MAGIC)) == NPY_MAGIC:
                arrays = {"": np.load(path, mmap_mode="r", allow_pickle=False)}
            else:
                file.seek(0)
                with np.load(file, allow_pickle=False) as loaded:
                    arrays = {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as problem:
        raise error(f"{path}: not an .npz or .npy file of plain numbers") from problem
    if "" in arrays and len(names) != 1:
        raise error(
            f"{path} holds one array, the model has the inputs {_listed(names)}; "
            "give an .npz file with an array for each"
        )
    if len(names) == 1 and list(arrays) in ([""], ["arr_0"]):  # np.savez(path, array)
        return {names[0]: next(iter(arrays.values()))}
    return arrays


def _fit(
    path: str, name: str, array: Array, dtype: np.dtype[Any] | None, error: type[NprtError]
) -> Array:
    if dtype is None or array.dtype == dtype:
        return array
    kinds = "f" if dtype.kind == "f" else "iu"
    if array.dtype.kind in kinds and np.can_cast(array.dtype, dtype, "safe"):
        return array.astype(dtype)
    if dtype.kind == "f" and array.dtype.kind in "iu":
        how = (
            "prepare it as the model's training data were, for an image perhaps with "
            f"((x / 255 - mean) / std).astype(np.{dtype})"
        )
    else:
        how = f"write it again as x.astype(np.{dtype})"
    raise error(f"{path}: array {name!r} is {array.dtype}, the model's input is {dtype}; {how}")


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names))


def write_arrays(path: str, arrays: Mapping[str, Array]) -> None:
    """An `.npz` file; a `.npy` file if that is how `path` ends, for one array.

    Unlike `np.savez`, this takes every name for an array and adds nothing to the path.
    """
    with open(path, "wb") as file:
        if is_npy(path):
            (array,) = arrays.values()
            np.lib.format.write_array(file, array, allow_pickle=False)
            return
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
