"""What a user may give as a torch model: a module, an exported program, a file, or a function that makes one."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from nprt.converters import sniff
from nprt.converters.torch_ops.recorder import input_names, parameters_of
from nprt.converters.torch_ops.recording import leaves, mapped, one_line, tensors_of
from nprt.errors import InputError, ModelError, ModelFormatError, NprtError
from nprt.ir import Array


def load(source: Any) -> tuple[Any, str]:
    """Something callable, and a name for messages.

    Raises:
        ModelFormatError: a file that torch cannot read as an exported program or as TorchScript.
        InputError: not something to convert.
        ModelError: its weights are tensors of torchao's own.
    """
    if isinstance(source, str | os.PathLike):
        program = read(os.fspath(source))
        return _module_of(program), os.fspath(source)
    if isinstance(source, type):
        raise InputError(f"{source.__name__} is a class; pass an instance")
    if isinstance(source, Mapping):
        raise InputError(
            f"{_a(source)} is not a torch module; load it into its module with load_state_dict"
        )
    if isinstance(source, torch.export.ExportedProgram):
        return _module_of(source), "<ExportedProgram>"
    if not callable(source):
        raise InputError(
            f"{type(source).__name__} is not a torch module; expected an nn.Module, an ExportedProgram, a TorchScript "
            "module or the path of a file"
        )
    if isinstance(source, torch.nn.Module):
        refuse_subclasses(source)
    return source, type(source).__name__


def refuse_subclasses(module: torch.nn.Module) -> None:
    """Raises ModelError if torchao's `quantize_` has put tensors of its own into a module."""
    found = [
        (name, type(tensor).__name__)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if any(base.__module__.partition(".")[0] == "torchao" for base in type(tensor).__mro__)
    ]
    if found:
        (name, kind), others = found[0], len(found) - 1
        more = f" (and so {'is' if others == 1 else 'are'} {others} more)" if others else ""
        raise ModelError(
            f"{name} is a torchao {kind}{more}, made by quantize_, which is not read; convert the float module, or "
            "quantize it with PT2E"
        )


def _a(item: Any) -> str:
    """The type of `item` with its article: "an OrderedDict"."""
    name = type(item).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _module_of(source: Any) -> Any:
    return source.module() if isinstance(source, torch.export.ExportedProgram) else source


def read(path: str) -> Any:
    """The ExportedProgram or TorchScript module in a file."""
    if not os.path.exists(path):
        raise FileNotFoundError(2, "no such file", path)
    kind = sniff.kind(path)
    if kind not in ("program", "torchscript"):
        what = sniff.advice(path) or f"neither an exported program nor TorchScript; {sniff.SAVE}"
        raise ModelFormatError(f"{path}: {what}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "torchscript":
                return torch.jit.load(path)  # type: ignore[no-untyped-call]
            # Registers the operators quantized_decomposed.*, of which programs of PT2E are made.
            importlib.import_module("torch.ao.quantization.fx._decomposed")
            return torch.export.load(path)
    except Exception as error:  # torch has no one error for a file that it cannot read
        raise ModelFormatError(f"{path}: torch cannot read it ({error})") from error


def call_of(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from a tensor, a tuple of arguments, or a mapping of keyword arguments.

    Arrays become tensors.
    """
    if any(isinstance(leaf, np.ndarray) for leaf in leaves(example_inputs)):
        example_inputs = mapped(_tensor, example_inputs)
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def _tensor(item: Any) -> Any:
    if not isinstance(item, np.ndarray):
        return item
    try:
        return torch.from_numpy(np.array(item))
    except TypeError as error:
        raise InputError(f"example inputs: {one_line(error)}") from error


def resolve(spec: str) -> tuple[Any, Any]:
    """The model that `package.module:factory`, or a `.pt2` or `.pt` file, stands for, and example inputs or None.

    A factory is called without arguments. It returns the model, or the model and its example inputs. Modules are found
    as Python finds them, and in the working directory.

    Raises:
        InputError: there is no such module or factory, it fails, or what it returns is not a module.
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
    if name.endswith(".py") or "/" in name or os.sep in name:
        dotted = os.path.normpath(name.removesuffix(".py")).replace(os.sep, ".").replace("/", ".")
        raise InputError(f"{spec!r} names a file; write {dotted.lstrip('.')}:{factory}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except NprtError:
        raise
    except Exception as error:  # whatever runs when it is imported
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise InputError(
                f"{spec!r}: {error}; run from the folder that holds {name.split('.')[0]}"
            ) from error
        raise InputError(f"{spec!r}: importing {name} raised {one_line(error)}") from error
    made = getattr(module, factory, None)
    if made is None:
        raise InputError(f"{spec!r}: {name} has no {factory!r}")
    if callable(made) and not isinstance(made, torch.nn.Module):
        made = _called(made, spec)
    if isinstance(made, tuple) and len(made) == 2 and callable(_module_of(made[0])):
        return made
    if not callable(_module_of(made)):
        hint = "; load it into its module" if isinstance(made, Mapping) else ""
        raise InputError(f"{spec} returned {_a(made)}, not a module{hint}")
    return made, None


def _called(factory: Any, spec: str) -> Any:
    """What a function without arguments returns."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        parameters = {}.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    if needed:
        raise InputError(f"{spec} is called without arguments; it needs {', '.join(needed)}")
    try:
        return factory()
    except NprtError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise InputError(f"{spec} raised {one_line(error)}") from error


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
    held = torch.Tensor | np.ndarray
    return mapped(lambda item: next(tensors) if isinstance(item, held) else item, example)


def plain(tensor: torch.Tensor) -> Array:
    """A tensor as an array; the codes of a quantized one."""
    tensor = tensor.detach().cpu()
    array: Array = (tensor.int_repr() if tensor.is_quantized else tensor).numpy()
    return array


def required_inputs(module: Any) -> list[str]:
    """The names of the inputs that a module cannot do without, where there is no example to see them."""
    return parameters_of(module, required=True)


def weight_bytes(module: Any) -> int:
    """Bytes of the parameters and buffers of a module, packed ones included; of TorchScript, those that it names."""
    if not isinstance(module, torch.nn.Module):
        return 0
    found = [*leaves(list(module.state_dict().values()))]
    if isinstance(module, torch.jit.ScriptModule):
        found += [item for part in module.modules() for item in _packed(part)]
    return sum(tensor.nbytes for tensor in tensors_of([_unpacked(item) for item in found]))


def _packed(part: Any) -> Iterator[Any]:
    """Packed weights that a module of TorchScript holds; they are not in its state_dict."""
    inside = getattr(part, "_c", None)
    for name in ("_packed_params", "_packed_weight", "param"):
        if inside is not None and inside.hasattr(name):
            yield inside.getattr(name)


def _unpacked(item: Any) -> Any:
    """The tensors inside of packed weights; anything else as it is."""
    try:
        state: Any = getattr(item, "__getstate__", None)
        return state() if isinstance(item, torch.ScriptObject) else item
    except RuntimeError:  # a module of TorchScript, which is visited itself
        return None
