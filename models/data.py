"""The two image data sets, as NumPy arrays with a fixed split.

Needs NumPy; `digits` also needs scikit-learn. Never imports torch.
"""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CALIBRATION_SIZE = 512
SPLIT_SEED = 0

DIGITS_TEST_SIZE = 360
DIGITS_MEAN, DIGITS_STD = 0.3053, 0.3760  # of all 1797 images, pixels in [0, 1]

FASHION_MEAN, FASHION_STD = 0.2860, 0.3530  # of the 60000 training images, pixels in [0, 1]
FASHION_FOLDER_VARIABLE = "NPRT_FASHION_MNIST"
FASHION_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "fashion-mnist"
FASHION_FILES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}
FASHION_SOURCE = "https://github.com/zalandoresearch/fashion-mnist/tree/master/data/fashion"


@dataclass(frozen=True)
class Dataset:
    """Normalised images (n, 1, height, width) float32 and labels (n,) int64 in 0..9.

    `calibration_images` are CALIBRATION_SIZE of the training images: no test image is among them.
    """

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    calibration_images: NDArray[np.float32]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def digits() -> Dataset:
    """The 8x8 digits of scikit-learn: 1437 train (512 of them calibration), 360 test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = _normalise(bunch.images.astype(np.uint8), 16, DIGITS_MEAN, DIGITS_STD)
    labels = bunch.target.astype(np.int64)
    order = _permutation(len(images))
    test, train = order[:DIGITS_TEST_SIZE], order[DIGITS_TEST_SIZE:]
    return _dataset(images[train], labels[train], images[test], labels[test])


def fashion_mnist(folder: str | Path | None = None) -> Dataset:
    """Fashion-MNIST, 28x28: 60000 train (512 of them calibration), 10000 test.

    Reads the four gzipped IDX files of `folder`, or of the folder that the environment variable
    NPRT_FASHION_MNIST names, or of `../shared/data/fashion-mnist` beside the repository.
    Raises FileNotFoundError when one is missing, ValueError when one is not what it should be.
    """
    path = Path(folder or os.environ.get(FASHION_FOLDER_VARIABLE) or FASHION_FOLDER)
    missing = [name for name in FASHION_FILES.values() if not (path / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"Fashion-MNIST: {', '.join(missing)} not found in {path}. "
            f"Download {', '.join(FASHION_FILES.values())} from {FASHION_SOURCE} "
            f"(leave them gzipped) into that folder, or name another folder "
            f"in the environment variable {FASHION_FOLDER_VARIABLE}."
        )

    def images(key: str, count: int) -> NDArray[np.float32]:
        pixels = _read_idx(path / FASHION_FILES[key], (count, 28, 28))
        return _normalise(pixels, 255, FASHION_MEAN, FASHION_STD)

    def labels(key: str, count: int) -> NDArray[np.int64]:
        return _read_idx(path / FASHION_FILES[key], (count,)).astype(np.int64)

    return _dataset(
        images("train_images", 60000),
        labels("train_labels", 60000),
        images("test_images", 10000),
        labels("test_labels", 10000),
    )


def synthetic_images(count: int, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Seeded stand-ins for normalised images, (count, *shape) float32, mean 0 and std about 1.

    Each image has a colour, patches around it, and pixel noise: networks average pure noise away.
    For a `shape` other than (channels, height, width): pure noise.
    """
    rng = np.random.RandomState(seed)
    noise = rng.standard_normal((count, *shape))
    if len(shape) != 3:
        return noise.astype(np.float32)
    channels, height, width = shape
    patch = 16
    coarse = rng.standard_normal((count, channels, -(-height // patch), -(-width // patch)))
    patches = coarse.repeat(patch, axis=2).repeat(patch, axis=3)[:, :, :height, :width]
    colour = rng.standard_normal((count, channels, 1, 1))
    return (0.6 * colour + 0.75 * patches + 0.3 * noise).astype(np.float32)


def _dataset(
    train_images: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test_images: NDArray[np.float32],
    test_labels: NDArray[np.int64],
) -> Dataset:
    calibration = _permutation(len(train_images))[:CALIBRATION_SIZE]
    return Dataset(train_images, train_labels, train_images[calibration], test_images, test_labels)


def _permutation(size: int) -> NDArray[np.int64]:
    # RandomState, not default_rng: NumPy promises never to change what it draws
    return np.random.RandomState(SPLIT_SEED).permutation(size).astype(np.int64)


def _normalise(
    pixels: NDArray[np.uint8], white: int, mean: float, std: float
) -> NDArray[np.float32]:
    """pixels (n, h, w) uint8 in 0..white -> `(pixel / white - mean) / std`, (n, 1, h, w)."""
    table = ((np.arange(white + 1) / white - mean) / std).astype(np.float32)
    return table[pixels][:, np.newaxis]


def _read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The uint8 array of a gzipped IDX file, which must have the given shape."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a complete gzip file ({error})") from error
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    if not data.startswith(header) or len(data) != len(header) + int(np.prod(shape)):
        raise ValueError(f"{path}: expected a gzipped IDX file of uint8 with shape {shape}")
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)
