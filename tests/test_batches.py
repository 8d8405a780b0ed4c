"""A result does not depend on what else is in the batch, nor on what other threads do."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nprt import Session
from nprt.ops import conv, depthwise_conv

pytest.importorskip("onnx")

from nprt.converters import from_onnx

MODELS = Path(__file__).resolve().parents[1] / "models"
SHAPES = {
    "digits": (1, 8, 8),
    "mlp": (1, 28, 28),
    "lenet": (1, 28, 28),
    "resnet8": (1, 28, 28),
    "dscnn": (1, 28, 28),
    "autoencoder": (1, 28, 28),
}


def images(name, count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *SHAPES[name])).astype(np.float32)


@pytest.fixture(scope="module", params=SHAPES)
def session(request):
    model = from_onnx(
        MODELS / f"{request.param}.onnx", calibration={"input": images(request.param, 8)}
    )
    return request.param, Session(model, backend="numpy")


def test_a_batch_gives_the_rows_of_its_images(session, monkeypatch):
    name, session = session
    x = images(name, 7, seed=1)
    whole = session(x)
    one_by_one = [session(x[i : i + 1]) for i in range(len(x))]
    np.testing.assert_array_equal(whole, np.concatenate(one_by_one))
    assert session(x[:0]).shape == (0, *whole.shape[1:])
    monkeypatch.setattr(conv, "UNROLLED_ELEMENTS", 1000)
    monkeypatch.setattr(depthwise_conv, "PIECE_ELEMENTS", 1000)
    np.testing.assert_array_equal(session(x), whole)


def test_many_threads_share_a_session(session):
    name, session = session
    batches = [images(name, 1 + i % 3, seed=i) for i in range(12)]
    expected = [session(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(session, batches * 3))
    for result, right in zip(results, expected * 3, strict=True):
        np.testing.assert_array_equal(result, right)
