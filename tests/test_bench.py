"""How measurements become tables; nothing here measures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from bench.peers import report, worker
from bench.peers.forms import Forms, Images
from bench.peers.measure import Result
from bench.peers.table import PEERS, RUNTIMES


def result(peer: str, ratio: float, threads: int = 1) -> Result:
    return Result(
        "net",
        1,
        threads,
        peer,
        median=0.5 * ratio,
        least=0.4 * ratio,
        processor=0.5 * ratio,
        ratio=ratio,
        least_ratio=ratio,
        processor_ratio=ratio,
        gmac_per_second=300 / ratio,
        share=0.75 / ratio,
        correlation=0.99,
    )


RESULTS = [
    result("onnxruntime int8", 2.0),
    result("nprt", 1.0),
    result("nprt integer", 1.1),
    result("onnxruntime float32", 1.5),
    result("openvino int8", 1.25),
    result("nprt", 1.0, threads=2),
    result("torch x86", 1.5, threads=2),
    result("nprt", 1.0, threads=3),
]


def test_the_fastest_form_counts() -> None:
    case, two_threads = report.cases(RESULTS)  # with three there is no other to compare with
    assert two_threads.ours.threads == 2
    assert case.ours.peer == "nprt"
    assert case.integer is not None
    assert case.integer.ratio == 1.1
    assert two_threads.integer is None
    assert [peer.peer for peer in case.peers] == [
        "openvino int8",
        "onnxruntime float32",
        "onnxruntime int8",
    ]
    best = case.best("onnxruntime")
    assert best is not None
    assert best.peer == "onnxruntime float32"
    assert case.best("torch") is None


def test_table() -> None:
    row = report.markdown(report.cases(RESULTS)).splitlines()[2]
    assert (
        row
        == "| net | 1 | 0.500 / 0.500 | 75 % / 75 % | 1.10 / - | 1.50 / - | **1.25** / - | - / **1.50** | - / - |"
    )


@pytest.mark.parametrize(
    ("value", "text"), [(0.00249, "0.00249"), (0.0309, "0.0309"), (1.04, "1.04"), (123.4, "123")]
)
def test_three_digits(value: float, text: str) -> None:
    assert report.milliseconds(value) == text


class Net(Forms):
    """A network that gives back what it is given."""

    def expected(self, batch: int) -> Images:
        return np.arange(10, dtype=np.float32).reshape(1, 10)


def test_a_peer_must_compute_the_network() -> None:
    forms = Net("net", Path())
    images = forms.expected(1)
    assert worker.correlation(forms, lambda x: 2 * x, images) == pytest.approx(1)
    with pytest.raises(ValueError, match="another network"):
        worker.correlation(forms, np.zeros_like, images)
    with pytest.raises(ValueError, match="another network"):
        worker.correlation(forms, lambda x: -x, images)
    with pytest.raises(TypeError, match="not a NumPy array"):
        worker.correlation(forms, lambda x: x.tolist(), images)


def test_each_peer_belongs_to_a_runtime() -> None:
    for peer, (module, _) in PEERS.items():
        assert peer.split()[0] in ("nprt", *RUNTIMES)
        assert importlib.util.find_spec(f"bench.peers.{module}") is not None


def test_installed_size_counts_what_is_required() -> None:
    pytest.importorskip("packaging")
    from bench.start import installed

    assert installed.megabytes(["nprt"]) > installed.megabytes(["numpy"]) > 1
