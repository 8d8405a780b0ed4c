"""Peers in processes of their own, taking turns."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.peers.forms import Forms
from bench.peers.table import OURS
from nprt.jit.report import peak


class Worker:
    """The process of one peer, which runs only when it is its turn. `error` is why it cannot."""

    def __init__(self, peer: str, forms: Forms, threads: int, batches: Sequence[int]) -> None:
        self.peer = peer
        self.error: str | None = None
        self.correlations: dict[int, float] = {}
        command = [sys.executable, "-m", "bench.peers.worker", peer, forms.name]
        with (forms.folder / f"{peer}.log").open("w") as log:
            self._process = subprocess.Popen(
                [*command, str(forms.folder), str(threads), *map(str, batches)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )

    def wait(self) -> None:
        """Until it is built, or has failed."""
        try:
            answer = self._answer()
        except EOFError:
            answer = {"error": f"ended with exit code {self._process.wait()}"}
        self.error = answer.pop("error", None)
        self.correlations = {int(batch): value for batch, value in answer.items()}

    def turn(self, batch: int) -> dict[str, float]:
        """Seconds of one run, by clock."""
        assert self._process.stdin
        self._process.stdin.write(f"{batch}\n")
        self._process.stdin.flush()
        seconds: dict[str, float] = self._answer()
        return seconds

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise EOFError(f"{self.peer} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True)
class Result:
    """What one peer takes, in milliseconds: on the clock (median, least), and on all processors together.

    `ratio` is the median, over all rounds, of its time divided by nprt's in the same round; `least_ratio` that of the
    least times, `processor_ratio` that of times on processors, which means something for one thread. `share` is the
    median of what it reaches of the peak of its cores, measured in the same round.
    """

    model: str
    batch: int
    threads: int
    peer: str
    median: float
    least: float
    processor: float
    ratio: float
    least_ratio: float
    processor_ratio: float
    gmac_per_second: float
    share: float
    correlation: float


@dataclass(frozen=True)
class Failure:
    """Why a peer does not run."""

    model: str
    threads: int
    peer: str
    error: str


def measure(
    forms: Forms, peers: Sequence[str], threads: int, batches: Sequence[int], rounds: int
) -> tuple[list[Result], list[Failure]]:
    """Time all `peers`, the first of which is nprt, in each of `rounds` rounds, in a new random order each time."""
    workers = [Worker(peer, forms, threads, batches) for peer in peers]
    for worker in workers:
        worker.wait()
    able = [worker for worker in workers if worker.error is None]
    if OURS not in [worker.peer for worker in able]:
        raise RuntimeError(f"{forms.name}: {OURS} does not run: {workers[0].error}")
    results: list[Result] = []
    for batch in batches:
        turns, peaks = _rounds(able, batch, rounds)
        for worker in able:
            macs = forms.macs * batch
            correlation = worker.correlations[batch]
            figures = _figures(turns[worker.peer], turns[OURS], macs, [threads * p for p in peaks])
            results.append(
                Result(forms.name, batch, threads, worker.peer, correlation=correlation, **figures)
            )
    for worker in workers:
        worker.close()
    failures = [Failure(forms.name, threads, w.peer, w.error) for w in workers if w.error]
    return results, failures


Turn = dict[str, float]


def _rounds(
    workers: Sequence[Worker], batch: int, rounds: int
) -> tuple[dict[str, list[Turn]], list[float]]:
    """The turns of each worker, and the peak of one core in each round."""
    turns: dict[str, list[Turn]] = {worker.peer: [] for worker in workers}
    peaks = []
    order = random.Random(0)
    for _ in range(rounds):
        peaks.append(peak())
        for worker in order.sample(workers, len(workers)):
            turns[worker.peer].append(worker.turn(batch))
    return turns, peaks


def _figures(
    turns: Sequence[Turn], ours: Sequence[Turn], macs: int, peaks: Sequence[float]
) -> dict[str, float]:
    walls, processors = [turn["wall"] for turn in turns], [turn["processor"] for turn in turns]
    median = statistics.median(walls)
    return {
        "median": 1e3 * median,
        "least": 1e3 * min(walls),
        "processor": 1e3 * statistics.median(processors),
        "ratio": _median_ratio(walls, [turn["wall"] for turn in ours]),
        "least_ratio": min(walls) / min(turn["wall"] for turn in ours),
        "processor_ratio": _median_ratio(processors, [turn["processor"] for turn in ours]),
        "gmac_per_second": macs / median / 1e9,
        "share": statistics.median(macs / a / b for a, b in zip(walls, peaks, strict=True)),
    }


def _median_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, others, strict=True))
