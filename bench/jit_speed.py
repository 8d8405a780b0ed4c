"""Time of the fast backend against onnxruntime's int8 kernels: `python -m bench.jit_speed [MODEL ...]`.

The same float network is quantized twice, by nprt and by onnxruntime (QDQ, uint8 activations, int8 weights per
channel). MODEL is the path of an ONNX file, the name of one in `models/`, or an architecture of `models.architectures`,
which gets random weights and needs torch. The two runtimes take turns, so that a noisy machine disturbs both. Beside
the time on the clock stands the time on the processor of the calling thread, which others on the machine disturb less;
it means something for one thread only.
"""

# ruff: noqa: T201 - a command that prints what it measured

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from models.data import synthetic_images
from nprt.converters import from_onnx
from nprt.info import macs
from nprt.ir import Array
from nprt.jit.report import peak
from nprt.session import Session

MODELS = Path(__file__).parent.parent / "models"
SMALL = ("mlp", "autoencoder", "dscnn", "resnet8")
LEAST_SECONDS = 0.002  # of one measurement


class _Reader(CalibrationDataReader):
    def __init__(self, name: str, images: Array) -> None:
        self.rows = iter([{name: images[i : i + 1]} for i in range(len(images))])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.rows, None)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.jit_speed", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("models", nargs="*", default=SMALL)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", help="also write the results here")
    options = parser.parse_args(arguments)
    print(f"peak of one core: {peak() / 1e9:.0f} GMAC/s")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            ours, theirs, shape = prepare(name, Path(folder))
            for batch in options.batch:
                for threads in options.threads:
                    images = synthetic_images(batch, shape, seed=2)
                    result = measure(ours, theirs, images, threads, options.rounds)
                    results.append({"model": name, "batch": batch, "threads": threads, **result})
                    print(line(results[-1]), flush=True)
    ratios = [result["ratio"] for result in results]
    print(f"geometric mean of the ratios: {statistics.geometric_mean(ratios):.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def prepare(name: str, folder: Path) -> tuple[Any, Path, tuple[int, ...]]:
    """nprt's model, the path of onnxruntime's, and the shape of one sample."""
    path = Path(name) if name.endswith(".onnx") else MODELS / f"{name}.onnx"
    if not path.exists():
        path = folder / f"{name}.onnx"
        export(name, path)
    value = onnx.load(path).graph.input[0]
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)[1:]
    images = synthetic_images(4, shape, seed=1)
    ours = from_onnx(path, calibration={value.name: images})
    clean, theirs = folder / "clean.onnx", folder / f"{path.stem}.qdq.onnx"
    quant_pre_process(str(path), str(clean), skip_symbolic_shape=True)
    quantize_static(
        str(clean),
        str(theirs),
        _Reader(value.name, images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return ours, theirs, shape


def export(name: str, path: Path) -> None:
    """An architecture with random weights."""
    from models.architectures import ARCHITECTURES, randomize
    from models.export import export_onnx

    architecture = ARCHITECTURES[name]
    module = architecture.build().eval()
    randomize(module, 0, architecture.input_shape)
    export_onnx(module, path, architecture.input_shape)


def measure(ours: Any, theirs: Path, images: Array, threads: int, rounds: int) -> dict[str, float]:
    """Milliseconds of both, in turns."""
    session = Session(ours, backend="numba", threads=threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    other = onnxruntime.InferenceSession(theirs, options, providers=["CPUExecutionProvider"])
    feeds, other_feeds = {ours.inputs[0]: images}, {other.get_inputs()[0].name: images}
    runs = (lambda: session.run(None, feeds), lambda: other.run(None, other_feeds))
    calls = [repeats(run) for run in runs]
    clock: tuple[list[float], list[float]] = ([], [])
    processor: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, count, walls, cpus in zip(runs, calls, clock, processor, strict=True):
            wall, cpu = time.perf_counter(), time.thread_time()
            for _ in range(count):
                run()
            cpus.append(1000 * (time.thread_time() - cpu) / count)
            walls.append(1000 * (time.perf_counter() - wall) / count)
    ratios = [theirs_ / ours_ for ours_, theirs_ in zip(*clock, strict=True)]
    return {
        "nprt_ms": statistics.median(clock[0]),
        "onnxruntime_ms": statistics.median(clock[1]),
        "ratio": statistics.median(ratios),
        "nprt_least_ms": min(clock[0]),
        "onnxruntime_least_ms": min(clock[1]),
        "nprt_processor_ms": statistics.median(processor[0]),
        "onnxruntime_processor_ms": statistics.median(processor[1]),
        "gmac_per_second": macs(ours) * len(images) / min(clock[0]) / 1e6,
    }


def repeats(run: Callable[[], object]) -> int:
    for _ in range(3):
        run()
    start = time.perf_counter()
    run()
    return max(1, int(LEAST_SECONDS / max(time.perf_counter() - start, 1e-9)))


def line(result: dict[str, Any]) -> str:
    least = result["onnxruntime_least_ms"] / result["nprt_least_ms"]
    processor = result["onnxruntime_processor_ms"] / result["nprt_processor_ms"]
    return (
        f"{result['model']:16} batch {result['batch']:3} threads {result['threads']}: "
        f"nprt {result['nprt_ms']:8.4f} ms, onnxruntime {result['onnxruntime_ms']:8.4f} ms, "
        f"ratio {result['ratio']:5.2f} (of the least times {least:5.2f}, "
        f"of processor times {processor:5.2f}), {result['gmac_per_second']:5.0f} GMAC/s"
    )


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
