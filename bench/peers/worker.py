"""The process of one peer: `python -m bench.peers.worker PEER MODEL FOLDER THREADS BATCH [BATCH ...]`.

It builds the peer for each batch, writes what it computes beside the forms of the model, and says so in a line of JSON.
Then each line of input names a batch; the answer is how long one run takes. A peer that cannot be built, or computes
something else than the network, answers with its error and ends.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
import traceback
from pathlib import Path
from typing import IO

import numpy as np

from bench.peers.forms import Forms, Images
from bench.peers.table import PEERS, Run

WARM_SECONDS = 0.005  # of runs that are not measured
TURN_SECONDS = 0.01  # of runs that are
BLOCK_SECONDS = 0.0002  # of runs that are timed together
REST_SECONDS = 0.01  # in which threads do nothing, after a turn
LEAST_CORRELATION = 0.7  # of what a peer computes with what the float32 network does


def main() -> None:
    peer, model, folder, threads, *batches = sys.argv[1:]
    answers = _own_stdout()
    forms = Forms(model, Path(folder))
    try:
        runs = {int(batch): _build(peer, forms, int(batch), int(threads)) for batch in batches}
        images = {batch: forms.images(batch) for batch in runs}
        correlations = {batch: correlation(forms, runs[batch], images[batch]) for batch in runs}
    except Exception as error:
        traceback.print_exc()
        _answer(answers, {"error": " ".join(f"{type(error).__name__}: {error}".split())})
        return
    _answer(answers, correlations)
    for line in sys.stdin:
        seconds = _measure(runs[int(line)], images[int(line)])
        _rest()
        _answer(answers, seconds)


def _own_stdout() -> IO[str]:
    """The standard output for answers alone: what libraries print there goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _answer(answers: IO[str], answer: object) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _build(peer: str, forms: Forms, batch: int, threads: int) -> Run:
    module, function = PEERS[peer]
    run: Run = getattr(importlib.import_module(f"bench.peers.{module}"), function)(
        forms, batch, threads
    )
    return run


def correlation(forms: Forms, run: Run, images: Images) -> float:
    """Of the outputs with those of float32. Raises an error where they have little in common."""
    output, expected = run(images), forms.expected(len(images))
    if type(output) is not np.ndarray or output.dtype != np.float32:
        raise TypeError(f"the result is {type(output).__name__}, not a NumPy array of float32")
    if output.shape != expected.shape:
        raise ValueError(f"another network: {output.shape}, not {expected.shape}")
    with np.errstate(invalid="ignore"):  # of an output that is constant
        found = float(np.corrcoef(output.ravel(), expected.ravel())[0, 1])
    if not found >= LEAST_CORRELATION:
        raise ValueError(f"another network: correlation {found:.3f}")
    return found


def _measure(run: Run, images: Images) -> dict[str, float]:
    """Seconds of one run, on the clock and on all processors together.

    On the clock it is the median of short blocks of runs, so that it does not count when another process has the
    processor for a while.
    """
    count = _count(run, images)
    blocks: list[float] = []
    processor = time.process_time()
    while sum(blocks) * count < TURN_SECONDS:
        start = time.perf_counter()
        for _ in range(count):
            run(images)
        blocks.append((time.perf_counter() - start) / count)
    processor = (time.process_time() - processor) / count / len(blocks)
    return {"wall": statistics.median(blocks), "processor": processor}


def _rest() -> None:
    """Until no thread of this process runs: many wait for the next run by spinning, for up to some 20 ms."""
    busy = 1.0
    while busy > REST_SECONDS / 20:
        before = time.process_time()
        time.sleep(REST_SECONDS)
        busy = time.process_time() - before


def _count(run: Run, images: Images) -> int:
    """How many runs are a block, found by doing many; caches and clock rate are warm afterwards."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < WARM_SECONDS:
        run(images)
        count += 1
    return max(1, round(count * BLOCK_SECONDS / elapsed))


if __name__ == "__main__":
    main()
