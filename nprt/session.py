"""Session: a model made ready to run on one backend."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nprt import file, log
from nprt.check import check
from nprt.errors import BackendUnavailableError, InputError
from nprt.ir import Array, Model, Shape, TensorType
from nprt.reference import ReferenceBackend


def _jit(model: Model, threads: int | None) -> Any:
    try:
        from nprt.jit.backend import JitBackend
    except ImportError as error:
        raise BackendUnavailableError(
            f"backend 'numba' needs llvmlite ({error}); pip install 'nprt[numba]'"
        ) from error
    return JitBackend(model, threads)


BACKENDS: dict[str, Callable[[Model, int | None], Any]] = {
    "numpy": ReferenceBackend,
    "numba": _jit,
}


def fastest() -> str:
    """The backend that "auto" stands for: what NPRT_BACKEND says, or the fastest that is installed."""
    default = "numba" if importlib.util.find_spec("llvmlite") is not None else "numpy"
    return os.environ.get("NPRT_BACKEND", default)


@dataclass(frozen=True)
class ValueInfo:
    """What a caller needs to know of an input or output.

    Attributes:
        name: as in the source model.
        shape: integers, and names for the dimensions that are free.
        dtype: of the array to give or to get.
        quantization: None for plain numbers; else `scales`, `zero_points` and `quantized_dimension`, with
            real = scale * (code - zero_point).
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    quantization: dict[str, Any] | None

    @classmethod
    def of(cls, name: str, type: TensorType) -> ValueInfo:
        quantization = None
        if type.quant is not None:
            quantization = {
                "scales": np.array(type.quant.scale, np.float32),
                "zero_points": np.array(type.quant.zero_point, np.int32),
                "quantized_dimension": 0 if type.quant.axis is None else type.quant.axis,
            }
        return cls(name, type.shape, type.numpy, quantization)


@dataclass(frozen=True)
class _Call:
    """What a session did last: another call like it needs no checks but these. They cost less than a small model.

    Attributes:
        output_names: as they were asked for.
        inputs: name, dtype and shape of each.
        run: from arrays of just these kinds to the outputs.
    """

    output_names: tuple[str, ...] | None
    inputs: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
    run: Callable[[Mapping[str, Array]], list[Array]]

    def fits(self, names: tuple[str, ...] | None, feeds: Mapping[str, Array]) -> bool:
        if names != self.output_names or type(feeds) is not dict or len(feeds) != len(self.inputs):
            return False
        for name, dtype, shape in self.inputs:
            array = feeds.get(name)
            if type(array) is not np.ndarray or array.dtype is not dtype or array.shape != shape:
                return False
        return True


@dataclass(frozen=True)
class _Single:
    """The same for a session that is called with an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    run: Callable[[Array], Array]

    def fits(self, x: Array) -> bool:
        return type(x) is np.ndarray and x.dtype is self.dtype and x.shape == self.shape


class Session:
    """Runs a model: `Session("model.nprt").run(None, {"x": images})`.

    A session may be used from many threads at once.
    """

    def __init__(
        self,
        model: Model | str | os.PathLike[str] | bytes,
        *,
        backend: str = "auto",
        threads: int | None = None,
    ) -> None:
        """
        Args:
            model: a Model, the path of an `.nprt` file, or its bytes.
            backend: "numpy", or "auto" for the fastest that is installed; the environment variable `NPRT_BACKEND` says
                what "auto" means.
            threads: how many threads a run may use; None leaves the choice to the backend.

        Raises:
            ModelFormatError, ModelError: the model cannot be used.
            BackendUnavailableError: no such backend here.
        """
        self.model = check(model) if isinstance(model, Model) else file.load(model)
        if threads is not None and (type(threads) is not int or threads < 1):
            raise ValueError(f"threads={threads!r}; expected None or an integer of at least 1")
        if backend == "auto":
            backend = fastest()
        if backend not in BACKENDS:
            raise BackendUnavailableError(
                f"backend {backend!r} is not one of {', '.join(BACKENDS)}"
            )
        self._backend = BACKENDS[backend](self.model, threads)
        self._recent: _Call | None = None
        self._single: _Single | None = None
        single = len(self.model.inputs) == len(self.model.outputs) == 1
        self._only_input = self.model.inputs[0] if single else None
        log.debug("session on backend %s, %d ops", backend, len(self.model.ops))

    @property
    def backend(self) -> str:
        """The name of the backend that runs this session."""
        return self._backend.name

    @property
    def inputs(self) -> list[ValueInfo]:
        return [ValueInfo.of(name, self.model.types[name]) for name in self.model.inputs]

    @property
    def outputs(self) -> list[ValueInfo]:
        return [ValueInfo.of(name, self.model.types[name]) for name in self.model.outputs]

    def __repr__(self) -> str:
        values = (
            ", ".join(f"{name}: {self.model.types[name]}" for name in names)
            for names in (self.model.inputs, self.model.outputs)
        )
        return f"<nprt.Session on {self.backend}: {' -> '.join(values)}>"

    def plan(self, **dims: int) -> list[dict[str, Any]]:
        """What runs for given sizes of the free dimensions, step by step: kernel, op, shapes, bytes, places in memory.

        Only backends that plan have one; the kernel "reference" is the op's NumPy reference.
        """
        return list(self.compiled(dims)[1].describe())

    def compiled(self, dims: Mapping[str, int]) -> tuple[Any, Any]:
        """The backend and its plan.

        Raises:
            InputError: the sizes are not those of the free dimensions.
            BackendUnavailableError: the backend makes no plans.
        """
        shapes = [self.model.types[name].shape for name in self.model.inputs]
        free = list(dict.fromkeys(d for shape in shapes for d in shape if isinstance(d, str)))
        if set(dims) != set(free) or not all(type(n) is int and n > 0 for n in dims.values()):
            raise InputError(
                f"a plan is for sizes of {free}, integers of at least 1; got {dict(dims)}"
            )
        if not hasattr(self._backend, "plan"):
            raise BackendUnavailableError(f"backend {self.backend!r} makes no plans")
        plan = self._backend.plan({name: dims[name] for name in free})
        if plan is None:
            raise InputError("nothing to plan: a value of the model is empty")
        return self._backend, plan

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Run the model once.

        Args:
            output_names: which outputs to return, in this order; None for all.
            feeds: an array for each input, by name.

        Returns:
            The outputs.

        Raises:
            InputError: a name, dtype or shape is wrong.
        """
        asked = None if output_names is None else tuple(output_names)
        recent = self._recent
        if recent is not None and recent.fits(asked, feeds):
            return recent.run(feeds)
        names = self.model.outputs if asked is None else asked
        unknown = [name for name in names if name not in self.model.outputs]
        if unknown:
            raise InputError(f"no output {unknown}; the model has {list(self.model.outputs)}")
        arrays = check_feeds(self.model, feeds)
        run = self._backend.ready(bind_dims(self.model, arrays), names)
        kinds = tuple((name, array.dtype, array.shape) for name, array in arrays.items())
        self._recent = _Call(asked, kinds, run)
        return run(arrays)

    def __call__(self, x: Array) -> Array:
        """The output for `x`, of a model with one input and one output."""
        last = self._single
        if last is not None and last.fits(x):
            return last.run(x)
        if self._only_input is None:
            raise InputError(
                f"the model has inputs {list(self.model.inputs)} and outputs {list(self.model.outputs)}; "
                "call run(None, {name: array, ...})"
            )
        if isinstance(x, Mapping):
            raise InputError(
                "called with a mapping; call run(None, {name: array}), or give the array alone"
            )
        arrays = check_feeds(self.model, {self._only_input: x})
        run = self._backend.single(bind_dims(self.model, arrays))
        array = arrays[self._only_input]
        self._single = _Single(array.dtype, array.shape, run)
        return run(array)


def check_feeds(model: Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """`feeds` as arrays of exactly the declared dtypes and ranks. Raises InputError."""
    if not isinstance(feeds, Mapping):
        raise InputError(
            f"the inputs are given as {type(feeds).__name__}; expected a mapping of names to arrays: "
            f"{{{', '.join(f'{name!r}: array' for name in model.inputs)}}}"
        )
    if len(feeds) != len(model.inputs) or not all(map(feeds.__contains__, model.inputs)):
        missing = [name for name in model.inputs if name not in feeds]
        unknown = [name for name in feeds if name not in model.inputs]
        raise InputError(
            f"missing inputs {missing}, unknown inputs {unknown}; the model has {list(model.inputs)}"
        )
    arrays = {name: np.asarray(feeds[name]) for name in model.inputs}
    for name, array in arrays.items():
        expected = model.types[name]
        if array.dtype != expected.numpy:
            raise InputError(
                f"input {name!r} is {array.dtype}, expected {expected.dtype}; "
                f"convert it with array.astype(np.{expected.dtype})"
            )
        if not _fits(array.shape, expected.shape):
            raise InputError(f"input {name!r} has shape {list(array.shape)}, expected {expected}")
    return arrays


def _fits(sizes: tuple[int, ...], shape: Shape) -> bool:
    if len(sizes) != len(shape):
        return False
    for size, dim in zip(sizes, shape, strict=True):  # noqa: SIM110 - a loop is faster, on each run
        if dim != size and not isinstance(dim, str):
            return False
    return True


def bind_dims(model: Model, arrays: Mapping[str, Array]) -> dict[str, int]:
    """What each symbol stands for in this run. Raises InputError where two inputs disagree."""
    dims: dict[str, int] = {}
    for name, array in arrays.items():
        for dim, size in zip(model.types[name].shape, array.shape, strict=True):
            if isinstance(dim, str) and dims.setdefault(dim, size) != size:
                raise InputError(
                    f"input {name!r} has {dim} = {size}, but another input has {dims[dim]}"
                )
    return dims
