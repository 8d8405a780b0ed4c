"""Time of the NumPy backend against torch float32, both on one thread: `python -m bench.numpy_speed`.

Architectures of `models/` get seeded random weights, are exported to ONNX, and converted with synthetic images for
calibration. The two runtimes take turns, so that a noisy machine disturbs both; medians and the median of the ratios
are printed, then where the NumPy backend's time goes.
"""

# ruff: noqa: T201 - a command that prints what it measured

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import threadpoolctl
import torch

from models.architectures import ARCHITECTURES, randomize
from models.data import synthetic_images
from models.export import export_onnx
from nprt.converters import from_onnx
from nprt.ir import Array, Model, TensorType
from nprt.reference import ReferenceBackend
from nprt.session import Session, bind_dims, check_feeds

CALIBRATION_SIZE = 4
WARM_UP = 2


@dataclass(frozen=True)
class Contest:
    """Seconds of each round, the two runtimes side by side."""

    nprt: list[float]
    torch: list[float]

    @property
    def ratio(self) -> float:
        """How many times torch's time nprt takes: the median over the rounds."""
        return statistics.median(n / t for n, t in zip(self.nprt, self.torch, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.numpy_speed", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("models", nargs="*", default=["mobilenet_v2", "resnet18"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    unknown = set(options.models) - set(ARCHITECTURES)
    if unknown:
        parser.error(f"no architecture {sorted(unknown)}; there are {', '.join(ARCHITECTURES)}")
    torch.set_num_threads(1)
    with threadpoolctl.threadpool_limits(1):
        for name in options.models:
            measure(name, options.batch, options.rounds)


def measure(name: str, batch: int, rounds: int) -> None:
    """Print what one architecture takes."""
    module, model, images = prepare(name, batch)
    session = Session(model, backend="numpy")
    tensor = torch.from_numpy(images)
    feeds = {model.inputs[0]: images}
    with torch.inference_mode():
        contest = contend(lambda: session.run(None, feeds), lambda: module(tensor), rounds)
    ms = [1000 * statistics.median(times) for times in (contest.nprt, contest.torch)]
    print(
        f"{name} {'x'.join(map(str, images.shape))}: nprt numpy int8 {ms[0]:.1f} ms, "
        f"torch float32 {ms[1]:.1f} ms, ratio {contest.ratio:.2f} "
        f"(one thread, median of {rounds} rounds)"
    )
    print_profile(model, images, rounds)


def prepare(name: str, batch: int) -> tuple[torch.nn.Module, Model, Array]:
    """The torch module, the same network converted to int8, and a batch of inputs."""
    architecture = ARCHITECTURES[name]
    module = architecture.build().eval()
    randomize(module, 0, architecture.input_shape)
    images = synthetic_images(CALIBRATION_SIZE, architecture.input_shape, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        export_onnx(module, path, architecture.input_shape)
        model = from_onnx(path, calibration={"input": images})
    return module, model, synthetic_images(batch, architecture.input_shape, seed=2)


def contend(nprt: Callable[[], object], torch_: Callable[[], object], rounds: int) -> Contest:
    """Run both in turn, `rounds` times, after a warm-up."""
    for _ in range(WARM_UP):
        nprt()
        torch_()
    contest = Contest([], [])
    for _ in range(rounds):
        contest.nprt.append(seconds(nprt))
        contest.torch.append(seconds(torch_))
    return contest


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def print_profile(model: Model, images: Array, rounds: int) -> None:
    """Print the median time of each kind of op, its share, and multiply-accumulates per second."""
    feeds = check_feeds(model, {model.inputs[0]: images})
    dims = bind_dims(model, feeds)
    backend = ReferenceBackend(model)
    times: dict[str, list[float]] = defaultdict(list)  # by the op's first output
    before = 0.0

    def observe(name: str, type: TensorType, array: Array) -> None:
        nonlocal before
        now = time.perf_counter()
        times[name].append(now - before)
        before = now

    for _ in range(rounds):
        before = time.perf_counter()
        backend.run(feeds, dims, model.outputs, observe)
    rows: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for op in model.ops:
        # Of an op with several outputs the later ones take no time: they are observed at once.
        spent = sum(statistics.median(times[name]) for name in op.outputs)
        types = [model.types[name] for name in op.outputs]
        macs = op.macs(*types, *op.arguments(model.types.__getitem__))
        rows[kind(op.name, model, op.inputs)].append((spent, macs * len(images)))
    total = sum(spent for row in rows.values() for spent, _ in row)
    print(f"  {'op':28} {'count':>5} {'ms':>8} {'share':>6} {'GMAC/s':>7}")
    for name, row in sorted(rows.items(), key=lambda item: -sum(t for t, _ in item[1])):
        spent, macs = np.sum(row, axis=0)
        rate = f"{macs / spent / 1e9:7.1f}" if macs else ""
        print(f"  {name:28} {len(row):5} {1000 * spent:8.2f} {100 * spent / total:5.1f}% {rate}")
    print(f"  {'all':28} {len(model.ops):5} {1000 * total:8.2f}")


def kind(name: str, model: Model, inputs: tuple[str, ...]) -> str:
    """The op's name, for a convolution with the size of its kernel."""
    if name not in ("conv", "depthwise_conv"):
        return name
    shape = model.types[inputs[1]].shape
    kernel = shape[1:-1] if name == "conv" else shape[:-1]
    return f"{name} {'x'.join(map(str, kernel))}"


if __name__ == "__main__":
    main()
