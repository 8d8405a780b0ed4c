"""Accuracy of the small trained models in int8, beside onnxruntime: `python -m bench.accuracy`.

Each model runs on its whole test set in float32 (onnxruntime), converted by nprt with its defaults, and quantized by
onnxruntime's `quantize_static` (QDQ, int8 weights per channel, its default MinMax) with uint8 and with int8
activations. All use the same calibration images. The table goes into `models/README.md`, between its markers.
"""

# ruff: noqa: T201 - a command that prints what it measured

from __future__ import annotations

import argparse
import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)

from models.data import Dataset, digits, fashion_mnist
from nprt.converters import from_onnx
from nprt.ir import Array
from nprt.session import Session

MODELS = Path(__file__).resolve().parents[1] / "models"
README = MODELS / "README.md"
BEGIN, END = "<!-- accuracy table: begin -->", "<!-- accuracy table: end -->"
COMMAND = "python -m bench.accuracy"
DATA = {
    "digits": digits,
    "mlp": fashion_mnist,
    "lenet": fashion_mnist,
    "resnet8": fashion_mnist,
    "dscnn": fashion_mnist,
    "autoencoder": fashion_mnist,
}
BATCH = 1000
MOST_LOST = 0.5  # points of top-1 that int8 may lose


class Feeds(CalibrationDataReader):
    """The calibration images, some at a time, as onnxruntime wants to be given them."""

    def __init__(self, name: str, images: Array) -> None:
        self.pieces = iter(np.split(images, len(images) // 32))
        self.name = name

    def get_next(self) -> dict[str, Array] | None:
        piece = next(self.pieces, None)
        return None if piece is None else {self.name: piece}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", help="default: all, and the table is written")
    options = parser.parse_args(arguments)
    unknown = set(options.models) - set(DATA)
    if unknown:
        parser.error(f"no model {sorted(unknown)}; there are {', '.join(DATA)}")
    logging.disable(logging.WARNING)  # onnxruntime's advice to preprocess, which is done here
    lines = list(rows(options.models or list(DATA)))
    table = "\n".join([*HEADER, *lines])
    print(table)
    if not options.models and len(lines) == len(DATA):
        write_table(table)
        print(f"written to {README.name}")


HEADER = (
    "| model | figure | float32 | nprt int8 | onnxruntime u8/s8 | onnxruntime s8/s8 "
    "| like float: nprt | like float: onnxruntime | only right: nprt / onnxruntime |",
    "|---|---|---|---|---|---|---|---|---|",
)
NOTES = """\
"Like float" is how many images get float32's class (for the autoencoder, the signal-to-noise ratio against float32).
"Only right" counts the images that one of the two has right and the other (u8/s8) has not: where these are near each
other, so are the two, whichever is ahead."""


def rows(names: Sequence[str]) -> Iterator[str]:
    """A line of the table for each model whose data are here; a message for the others."""
    for name in names:
        try:
            data = load(name)
        except FileNotFoundError as error:
            print(f"{name}: skipped. {error}")
            continue
        yield row(name, data)


@cache
def _data(source: str) -> Dataset:
    return {"digits": digits, "fashion_mnist": fashion_mnist}[source]()


def load(name: str) -> Dataset:
    return _data(DATA[name].__name__)


def row(name: str, data: Dataset) -> str:
    path = MODELS / f"{name}.onnx"
    results = {
        "float": run_onnx(path, data.test_images),
        "nprt": run_nprt(path, data),
        "u8": run_ort_int8(path, data, QuantType.QUInt8),
        "s8": run_ort_int8(path, data, QuantType.QInt8),
    }
    if name == "autoencoder":
        target = data.test_images.reshape(len(data.test_images), -1)
        cells = [f"{np.mean((r - target) ** 2):.4f}" for r in results.values()]
        nearness = [f"{snr(results['float'], results[who]):.1f} dB" for who in ("nprt", "u8")]
        return f"| {name} | MSE | {' | '.join([*cells, *nearness])} | |"
    classes = {who: result.argmax(1) for who, result in results.items()}
    right = {who: found == data.test_labels for who, found in classes.items()}
    top1 = {who: 100 * float(np.mean(hits)) for who, hits in right.items()}
    if top1["nprt"] < top1["float"] - MOST_LOST:
        print(f"{name}: int8 loses {top1['float'] - top1['nprt']:.2f} points, above {MOST_LOST}")
    cells = [f"{figure:.2f} %" for figure in top1.values()]
    nearness = [
        f"{100 * np.mean(classes[who] == classes['float']):.2f} %" for who in ("nprt", "u8")
    ]
    only = f"{np.sum(right['nprt'] & ~right['u8'])} / {np.sum(right['u8'] & ~right['nprt'])}"
    return f"| {name} | top-1 | {' | '.join([*cells, *nearness])} | {only} |"


def snr(expected: Array, actual: Array) -> float:
    """Signal-to-noise ratio in dB."""
    return float(10 * np.log10(np.sum(expected**2) / np.sum((actual - expected) ** 2)))


def run_nprt(path: Path, data: Dataset) -> Array:
    model = from_onnx(path, calibration={input_name(path): data.calibration_images})
    session = Session(model)
    return np.concatenate([session(images) for images in batches(data.test_images)])


def run_ort_int8(path: Path, data: Dataset, activations: QuantType) -> Array:
    with tempfile.TemporaryDirectory() as folder:
        ready, quantized = Path(folder) / "ready.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(path, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            quantized,
            Feeds(input_name(path), data.calibration_images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=activations,
            weight_type=QuantType.QInt8,
        )
        return run_onnx(quantized, data.test_images)


def run_onnx(path: Path, images: Array) -> Array:
    session = open_onnx(path)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: piece})[0] for piece in batches(images)])


def input_name(path: Path) -> str:
    return open_onnx(path).get_inputs()[0].name


def open_onnx(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def batches(images: Array) -> Iterator[Array]:
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH]


def write_table(table: str) -> None:
    """Put the table and the command that made it between the markers of the README."""
    text = README.read_text()
    between = f"{BEGIN}\nOn the whole test set, by `{COMMAND}`:\n\n{table}\n\n{NOTES}\n{END}"
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{README}: no markers {BEGIN} and {END}")
    README.write_text(pattern.sub(lambda _: between, text))


if __name__ == "__main__":
    main()
