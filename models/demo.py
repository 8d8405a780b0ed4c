"""The main job, on real data: `python -m models.demo`.

A float ONNX model of handwritten digits is calibrated on real images, converted to int8, saved, loaded, and run on
images that neither its training nor its calibration saw.
"""

# ruff: noqa: T201 - a command that prints what it found

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.numpy_helper import to_array
from onnx.reference import ReferenceEvaluator

import nprt
from models.data import digits
from nprt.converters import from_onnx
from nprt.info import float_ops, macs, peak_activation_bytes, weight_bytes

SOURCE = Path(__file__).resolve().parent / "digits.onnx"
RUNS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.demo", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("-o", "--output", type=Path, help="keep the int8 model in this file")
    options = parser.parse_args(arguments)
    if options.output:
        demonstrate(options.output)
    else:
        with tempfile.TemporaryDirectory() as folder:
            demonstrate(Path(folder) / "digits.nprt")


def demonstrate(target: Path) -> None:
    """Convert SOURCE to `target`, run both on the test images, and print how they compare."""
    data = digits()
    images, labels = data.test_images, data.test_labels
    start = time.perf_counter()
    model = from_onnx(SOURCE, calibration={"input": data.calibration_images})
    model.save(target)
    seconds = time.perf_counter() - start
    print(
        f"Calibrated {SOURCE.name} on {len(data.calibration_images)} images of handwritten digits and converted it\n"
        f"to {target.name} in {seconds:.1f} s. Both ran on {len(images)} other images: the float model by onnx's\n"
        "reference evaluator (independent of nprt, not made for speed), the int8 model by nprt.\n"
    )
    session = nprt.Session(target)
    evaluator = ReferenceEvaluator(str(SOURCE))
    int8, int8_ms = timed(session, images)
    real, real_ms = timed(lambda x: evaluator.run(None, {"input": x})[0], images)
    float_bytes = sum(to_array(t).nbytes for t in onnx.load(SOURCE).graph.initializer)
    rows = [
        ("", "float", "int8"),
        ("accuracy", percent(real.argmax(1) == labels), percent(int8.argmax(1) == labels)),
        ("file", kilobytes(SOURCE.stat().st_size), kilobytes(target.stat().st_size)),
        ("weights", kilobytes(float_bytes), kilobytes(weight_bytes(model))),
        ("time per image", f"{real_ms:.2f} ms", f"{int8_ms:.2f} ms"),
    ]
    for heading, first, second in rows:
        print(f"  {heading:16}{first:>12}{second:>12}")
    same = int((int8.argmax(1) == real.argmax(1)).sum())
    islands = len(float_ops(model))
    print(
        f"\nThe two agree on {same} of {len(images)} images. An image takes {macs(model):,} multiply-accumulates,\n"
        f"{f'with {islands} float operations' if islands else 'all in integers'}, "
        f"and {kilobytes(peak_activation_bytes(model))} for activations. The first operations:\n"
    )
    for op in model.ops[:6]:
        print(f"  {op.name:10}  {', '.join(str(model.types[name]) for name in op.outputs)}")
    print(f"  ... and {len(model.ops) - 6} more")


def timed(
    function: Callable[[NDArray[np.float32]], NDArray[np.float32]], images: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float]:
    """The outputs for all images, and the milliseconds for one: the best of some runs."""
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        outputs = function(images)
        seconds.append(time.perf_counter() - start)
    return outputs, 1000 * min(seconds) / len(images)


def percent(right: NDArray[np.bool_]) -> str:
    return f"{100 * right.mean():.2f} %"


def kilobytes(size: int) -> str:
    return f"{size / 1000:.1f} kB"


if __name__ == "__main__":
    main()
