"""Train the small models and write them as ONNX: `python -m models.train digits mlp`.

Writes models/<name>.onnx, and into models/trained.json how it was trained and what it reached.
"""

# ruff: noqa: T201 - a command that prints its progress

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models import data
from models.architectures import ARCHITECTURES
from models.export import Exporter, export_onnx, verify_onnx

FOLDER = Path(__file__).resolve().parent
DATASETS = {"digits": data.digits, "fashion_mnist": data.fashion_mnist}


@dataclass(frozen=True)
class Recipe:
    """How to train one model: AdamW, one cycle of the learning rate, cross entropy.

    `flip` mirrors every other image at random; `shift` moves each batch by up to so many pixels.
    With `reconstruct` the target is the flattened input and the loss the mean squared error.
    """

    epochs: int
    exporter: Exporter
    learning_rate: float
    batch_size: int = 128
    weight_decay: float = 0.01
    flip: bool = False
    shift: int = 0
    reconstruct: bool = False
    seed: int = 0


RECIPES = {
    "digits": Recipe(60, "torchscript-unfolded", 5e-3, batch_size=32, shift=1),
    "mlp": Recipe(15, "dynamo", 2e-3),
    "lenet": Recipe(20, "torchscript", 3e-3, flip=True, shift=1),
    "resnet8": Recipe(8, "dynamo", 5e-3, flip=True, shift=1),
    "dscnn": Recipe(8, "torchscript-unfolded", 5e-3, flip=True, shift=1),
    "autoencoder": Recipe(20, "torchscript", 3e-3, reconstruct=True),
}


def train(name: str, recipe: Recipe, dataset: data.Dataset) -> nn.Module:
    """The trained model, in eval mode. Same recipe, torch, CPU and thread count: same weights."""
    torch.manual_seed(recipe.seed)
    module = ARCHITECTURES[name].build()
    # faster on a CPU; torch's annotations lack this overload
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.from_numpy(dataset.train_images)
    labels = torch.from_numpy(dataset.train_labels)
    steps = len(images) // recipe.batch_size  # the last, incomplete batch is left out
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, epochs=recipe.epochs, steps_per_epoch=steps
    )
    for epoch in range(1, recipe.epochs + 1):
        start = time.perf_counter()
        module.train()
        total = 0.0
        order = torch.randperm(len(images))[: steps * recipe.batch_size]
        for indices in order.split(recipe.batch_size):
            batch = _augment(images[indices], recipe)
            if recipe.reconstruct:
                loss = functional.mse_loss(module(batch), batch.flatten(1))
            else:
                loss = functional.cross_entropy(module(batch), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - start
        print(
            f"{name} epoch {epoch}/{recipe.epochs}: loss {total / steps:.4f}, {seconds:.1f} s",
            flush=True,
        )
    # left as it is, the dynamo exporter would write the strides into the graph
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return module.eval()


def predict(module: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The outputs of `module` in eval mode, (n, outputs) float32."""
    module.eval()
    with torch.no_grad():
        batches = [module(batch) for batch in torch.from_numpy(images).split(1000)]
    return torch.cat(batches).numpy()


def evaluate(module: nn.Module, recipe: Recipe, dataset: data.Dataset) -> dict[str, float]:
    """The test figure under its name: the share of right classes, or the mean squared error.

    The error is in units of normalised pixels: 1 is that of answering the mean pixel everywhere.
    """
    outputs = predict(module, dataset.test_images)
    if recipe.reconstruct:
        targets = dataset.test_images.reshape(len(outputs), -1)
        return {"test_mse": round(float(np.square(outputs - targets).mean()), 5)}
    right = outputs.argmax(axis=1) == dataset.test_labels
    return {"test_accuracy": round(float(right.mean()), 5)}


def _augment(images: Tensor, recipe: Recipe) -> Tensor:
    """images (n, 1, h, w) -> the same shape, mirrored and shifted as the recipe says."""
    if recipe.flip:
        mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    if recipe.shift:
        height, width = images.shape[2:]
        top, left = torch.randint(2 * recipe.shift + 1, (2,)).tolist()
        background = float(images.min())
        images = functional.pad(images, [recipe.shift] * 4, value=background)
        images = images[:, :, top : top + height, left : left + width]
    return images


def _record(name: str, entry: dict[str, object]) -> None:
    """Put one model's entry into trained.json, beside the others'."""
    path = FOLDER / "trained.json"
    entries = json.loads(path.read_text()) if path.exists() else {}
    entries[name] = entry
    path.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument("names", nargs="+", choices=RECIPES, help="which models to train")
    parser.add_argument("--threads", type=int, default=2, help="default: 2, as for the files here")
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    for name in options.names:
        recipe, architecture = RECIPES[name], ARCHITECTURES[name]
        assert architecture.dataset is not None
        dataset = DATASETS[architecture.dataset]()
        module = train(name, recipe, dataset)
        figures = evaluate(module, recipe, dataset)
        path = FOLDER / f"{name}.onnx"
        export_onnx(module, path, architecture.input_shape, recipe.exporter)
        difference = verify_onnx(module, path, architecture.input_shape)
        entry = {
            "dataset": architecture.dataset,
            "epochs": recipe.epochs,
            "exporter": recipe.exporter,
            "seed": recipe.seed,
            "threads": options.threads,
            "torch": torch.__version__,
            **figures,
        }
        _record(name, entry)
        print(f"{path.name}: {figures}, onnxruntime within {difference:.1e} of torch")


if __name__ == "__main__":
    main()
