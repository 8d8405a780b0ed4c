"""What a conversion changed: the converted model beside its source on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from nprt.compare import as_inputs, difference, step_of
from nprt.ir import Array, Model, Tensor
from nprt.session import Session

# Float results of one program agree to about this much of the largest, whatever the order of their sums.
FLOAT_TOLERANCE = 1e-5


def moved(
    model: Model, feeds: Mapping[str, Array], expected: Mapping[str, Array], source: str
) -> Iterator[str]:
    """Sentences that say how far the outputs of `model` are from `expected`; none where they are the same.

    Args:
        feeds: the source's inputs; float32 for an input of codes is quantized, by eq. (1).
        expected: the source's outputs; float32 for an output of codes is compared with the real numbers of these.
        source: whose results `expected` are, for the sentences.
    """
    names = [name for name in model.outputs if name in expected]
    arrays = Session(model).run(names, as_inputs(model, feeds))
    for name, array in zip(names, arrays, strict=True):
        type, other, step = model.types[name], expected[name], step_of(model, name)
        if type.is_codes and other.dtype == np.float32:
            array, step = Tensor(type, array).real(), float(type.scale.max())
        if other.shape != array.shape or other.dtype != array.dtype:
            continue
        if step is not None or not type.is_float:
            gap = np.abs(array.astype(np.float64) - other.astype(np.float64)) / (step or 1.0)
            count = int(np.count_nonzero(~(gap <= 0.5)))
            if not count:
                continue
            how = f"{count:,} of {array.size:,} codes of {name} differ, by {gap.max():.0f} at most"
        else:
            differs = difference(type, array, other)
            if differs.largest <= FLOAT_TOLERANCE:
                continue
            how = f"{name} has a signal-to-noise ratio of {differs.snr:.1f} dB"
        yield f"on the example inputs, against {source}: {how}{_top_1(array, other)}"


def _top_1(array: Array, other: Array) -> str:
    """How many rows have another greatest class."""
    if array.ndim != 2 or array.shape[1] < 2:
        return ""
    changed = int(np.count_nonzero(array.argmax(1) != other.argmax(1)))
    return f"; top-1 changed in {changed} of {len(array)}"
