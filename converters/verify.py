"""What a conversion changed: the converted model beside its source on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from nprt.compare import difference
from nprt.ir import Array, Model
from nprt.ops.dequantize import Dequantize
from nprt.session import Session

# Float results of one program agree to about this much of the largest, whatever the order of their sums.
FLOAT_TOLERANCE = 1e-5


def moved(
    model: Model, feeds: Mapping[str, Array], expected: Mapping[str, Array], source: str
) -> Iterator[str]:
    """Sentences that say how far the outputs of `model` are from `expected`; none where they are the same.

    Args:
        source: whose results `expected` are, for the sentences.
    """
    names = [name for name in model.outputs if name in expected]
    arrays = Session(model).run(names, feeds)
    for name, array in zip(names, arrays, strict=True):
        other = expected[name]
        if other.shape != array.shape or other.dtype != array.dtype:
            continue  # edges in codes: the source has floats there
        differs = difference(model.types[name], array, other)
        step = _step(model, name)
        if differs.codes or step is not None:
            unit = 1.0 if step is None else step
            gap = np.abs(array.astype(np.float64) - other.astype(np.float64)) / unit
            count = int(np.count_nonzero(gap > 0.5))
            if not count:
                continue
            how = f"{count:,} of {array.size:,} codes of {name} differ, by {round(float(gap.max()))} at most"
        elif differs.largest <= FLOAT_TOLERANCE:
            continue
        else:
            how = f"{name} has a signal-to-noise ratio of {differs.snr:.1f} dB"
        yield f"on the example inputs, against {source}: {how}{_top_1(array, other)}"


def _step(model: Model, name: str) -> float | None:
    """The scale of the codes that a float32 output is dequantized from; None for any other."""
    for op in model.ops:
        if name in op.outputs and isinstance(op, Dequantize):
            quant = model.types[op.inputs[0]].quant
            codes = model.types[op.inputs[0]].is_codes
            return (
                float(quant.scale[0])
                if codes and quant is not None and quant.axis is None
                else None
            )
    return None


def _top_1(array: Array, other: Array) -> str:
    """How many rows have another greatest class."""
    if array.ndim != 2 or array.shape[1] < 2:
        return ""
    changed = int(np.count_nonzero(array.argmax(1) != other.argmax(1)))
    return f"; top-1 changed in {changed} of {len(array)}"
