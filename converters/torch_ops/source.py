"""What a user may give as a torch model: a module, an exported program, a file, or a function that makes one."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from nprt.converters.torch_ops.recorder import input_names, parameters_of
from nprt.converters.torch_ops.recording import mapped, tensors_of
from nprt.errors import InputError, ModelFormatError
from nprt.ir import Array


def load(source: Any) -> tuple[Any, str]:
    """Something callable, and a name for messages.

    Raises:
        ModelFormatError: a file that torch cannot read as an exported program or as TorchScript.
        InputError: not something to convert.
    """
    if isinstance(source, str | os.PathLike):
        program = read(os.fspath(source))
        return _module_of(program), os.fspath(source)
    if isinstance(source, torch.export.ExportedProgram):
        return _module_of(source), "<ExportedProgram>"
    if not callable(source):
        raise InputError(
            f"{type(source).__name__} is not a torch module; expected an nn.Module, an ExportedProgram, a TorchScript "
            "module or the path of a file"
        )
    return source, type(source).__name__


def _module_of(source: Any) -> Any:
    return source.module() if isinstance(source, torch.export.ExportedProgram) else source


def read(path: str) -> Any:
    """The ExportedProgram or TorchScript module in a file."""
    if not os.path.exists(path):
        raise FileNotFoundError(2, "no such file", path)
    advice = "save it with torch.export.save or torch.jit.save"
    if not zipfile.is_zipfile(path):
        raise ModelFormatError(f"{path}: neither an exported program nor TorchScript; {advice}")
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    scripted = any("/code/" in member for member in members)
    if not scripted and any(member.endswith("data.pkl") for member in members):
        raise ModelFormatError(
            f"{path}: written by torch.save, which holds a pickle and not a program; load it into its module, and "
            f"{advice}"
        )
    try:
        return torch.jit.load(path) if scripted else torch.export.load(path)  # type: ignore[no-untyped-call]
    except Exception as error:  # torch has no one error for a file that it cannot read
        raise ModelFormatError(f"{path}: torch cannot read it ({error})") from error


def call_of(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from a tensor, a tuple of arguments, or a mapping of keyword arguments."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def resolve(spec: str) -> tuple[Any, Any]:
    """The model that `package.module:factory`, or a `.pt2` or `.pt` file, stands for, and example inputs or None.

    A factory is called without arguments. It returns the model, or the model and its example inputs. Modules are found
    as Python finds them, and in the working directory.

    Raises:
        InputError: there is no such module or factory.
    """
    if os.path.exists(spec) or spec.endswith((".pt2", ".pt")):
        program = read(spec)
        example = getattr(program, "example_inputs", None)
        if example is not None:
            args, kwargs = example
            example = dict(kwargs) if kwargs and not args else args
        return program, example
    name, colon, factory = spec.partition(":")
    if not colon or not name or not factory:
        raise InputError(
            f"{spec!r} is not like package.module:factory, nor the path of a .pt2 or .pt file"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{spec!r}: {error}; run from the folder that holds {name.split('.')[0]}"
        ) from error
    made = getattr(module, factory, None)
    if made is None:
        raise InputError(f"{spec!r}: {name} has no {factory!r}")
    if callable(made) and not isinstance(made, torch.nn.Module):
        made = made()
    if isinstance(made, tuple) and len(made) == 2 and callable(_module_of(made[0])):
        return made
    return made, None


def feeds_of(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays for the inputs of the converted model, by name, from the arguments of the module."""
    names = input_names(module, args, kwargs)
    tensors = [*tensors_of(args), *tensors_of(dict(kwargs))]
    return {name: plain(tensor) for name, tensor in zip(names, tensors, strict=True)}


def arguments_from(example: Any, arrays: Mapping[str, Array]) -> Any:
    """Arguments like `example` with the tensors of `arrays`, in order; positional tensors where there is no example."""
    tensors = iter([torch.from_numpy(np.array(array)) for array in arrays.values()])
    if example is None:
        return tuple(tensors)
    return mapped(lambda item: next(tensors) if isinstance(item, torch.Tensor) else item, example)


def plain(tensor: torch.Tensor) -> Array:
    """A tensor as an array; the codes of a quantized one."""
    tensor = tensor.detach().cpu()
    array: Array = (tensor.int_repr() if tensor.is_quantized else tensor).numpy()
    return array


def required_inputs(module: Any) -> list[str]:
    """The names of the inputs that a module cannot do without, where there is no example to see them."""
    return parameters_of(module, required=True)


def weight_bytes(module: Any) -> int:
    """Bytes of the parameters and buffers of a module, packed ones included."""
    state = module.state_dict() if isinstance(module, torch.nn.Module) else {}
    return sum(tensor.nbytes for tensor in tensors_of(list(state.values())))
