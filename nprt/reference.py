"""The NumPy backend: the loop over the ops. Its results are the definition that every other backend must equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from nprt.ir import Array, Model, Tensor, TensorType

Observe = Callable[[str, TensorType, Array], Array | None]


class ReferenceBackend:
    """Runs a checked model op by op. Holds no state between runs, so it may be used from many threads at once."""

    name = "numpy"

    def __init__(self, model: Model, threads: int | None = None) -> None:
        """`threads` has no effect here: the matrix products use as many threads as NumPy's BLAS was set up with."""
        self.model = model

    def ready(
        self, dims: Mapping[str, int], keep: tuple[str, ...]
    ) -> Callable[[Mapping[str, Array]], list[Array]]:
        """A function from feeds of these sizes to the values of `keep`; see `run`."""

        def call(feeds: Mapping[str, Array]) -> list[Array]:
            results = self.run(feeds, dims, keep)
            return [results[name] for name in keep]

        return call

    def single(self, dims: Mapping[str, int]) -> Callable[[Array], Array]:
        """`ready` of a model with one input and one output, from array to array."""
        return single(self.model, self.ready(dims, self.model.outputs))

    def run(
        self,
        feeds: Mapping[str, Array],
        dims: Mapping[str, int],
        keep: tuple[str, ...],
        observe: Observe | None = None,
    ) -> dict[str, Array]:
        """Run the model once.

        Args:
            feeds: one array for each input, of the right dtype and shape.
            dims: what each symbol in the shapes stands for.
            keep: the values to return.
            observe: called with name, type and array of each op's outputs, in execution order. An array that it returns
                takes the place of the value, for the ops that follow.

        Returns:
            The arrays of `keep`, by name.
        """
        model = self.model
        values: dict[str, Array] = {**model.constants, **feeds}
        last_use = {name: op for op in model.ops for name in op.used_inputs()}

        def operand(name: str) -> Tensor:
            return Tensor(model.types[name], values[name])

        for op in model.ops:
            types = tuple(model.types[name].bind(dims) for name in op.outputs)
            result = op.reference(*types, *op.arguments(operand))
            for name, type, array in zip(
                op.outputs, types, result if isinstance(result, tuple) else (result,), strict=True
            ):
                values[name] = np.asarray(array)  # NumPy gives a scalar where an array has no axes
                replacement = observe(name, type, values[name]) if observe is not None else None
                if replacement is not None:
                    values[name] = replacement
            for name in {*op.used_inputs(), *op.outputs}:
                if (
                    last_use.get(name, op) is op
                    and name not in keep
                    and name not in model.constants
                ):
                    del values[name]
        results: dict[str, Array] = {}
        for name in keep:
            taken = (*feeds.values(), *model.constants.values(), *results.values())
            results[name] = _owned(values[name], taken)
        return results


def single(
    model: Model, call: Callable[[Mapping[str, Array]], list[Array]]
) -> Callable[[Array], Array]:
    """`call` from array to array, of a model with one input and one output."""
    (name,) = model.inputs
    return lambda x: call({name: x})[0]


def _owned(array: Array, others: tuple[Array, ...]) -> Array:
    """`array`, copied if it shares memory with one of `others`: a caller may write into what it gets."""
    if any(np.may_share_memory(array, other) for other in others):
        return array.copy()
    return array
