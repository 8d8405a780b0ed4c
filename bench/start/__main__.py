"""From the start of a process to its first result: `python -m bench.start [MODEL ...]`.

Whole processes take turns, in random order. This one stays small: on Linux, a process starts with the peak of memory of
the one that started it.
"""

# ruff: noqa: T201 - a command that prints what it measured

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.start.installed import megabytes
from bench.start.programs import PROGRAMS, Program

MODELS = ("resnet8", "mobilenet_v2")
KILOBYTE = 1024 if sys.platform == "linux" else 1 / 1024  # the unit of ru_maxrss, bytes on macOS


@dataclass(frozen=True)
class Result:
    """Of one program: milliseconds to the first result, and on processors until its end; megabytes."""

    model: str
    program: str
    first: float
    least: float
    processor: float
    memory: float
    installed: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.start", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("models", nargs="*", default=MODELS, help="of models.architectures")
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args(arguments)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as temporary:
        for model in options.models:
            folder = Path(temporary) / model
            subprocess.run(
                [sys.executable, "-m", "bench.start.prepare", model, str(folder)],
                check=True,
                capture_output=True,
            )
            results += measure(model, folder, options.programs, options.rounds)
    table = markdown(results)
    print(table, end="")
    if options.json:
        rows = [asdict(result) for result in results]
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")


def measure(model: str, folder: Path, names: Sequence[str], rounds: int) -> list[Result]:
    """Every program in every round; a first round fills the caches, that of bytecode too, and does not count."""
    runs: dict[str, list[Run]] = {name: [] for name in names}
    order = random.Random(0)
    for _ in range(rounds + 1):
        for name in order.sample(names, len(names)):
            runs[name].append(start(PROGRAMS[name], folder))
    return [result(model, name, runs[name][1:]) for name in names]


@dataclass(frozen=True)
class Run:
    """One process: seconds to its first result, seconds on processors, bytes of memory at the peak."""

    first: float
    processor: float
    memory: float


def start(program: Program, folder: Path) -> Run:
    """Raises RuntimeError when the program fails."""
    with tempfile.TemporaryDirectory() as empty:
        cache = Path(empty) if program.empty_cache else folder / "cache"
        command = [sys.executable, "-c", program.source(str(folder), str(cache))]
        environment = {**os.environ, "NPRT_CACHE_DIR": str(cache)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # packages come with their bytecode
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        assert process.stdout
        answer = process.stdout.readline()
        first = time.perf_counter() - begin
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
    if process.returncode or not answer.strip().isdigit():
        raise RuntimeError(f"exit code {process.returncode} of {' '.join(command)}")
    return Run(first, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * KILOBYTE)


def result(model: str, name: str, runs: Sequence[Run]) -> Result:
    return Result(
        model,
        name,
        first=1e3 * statistics.median(run.first for run in runs),
        least=1e3 * min(run.first for run in runs),
        processor=1e3 * statistics.median(run.processor for run in runs),
        memory=statistics.median(run.memory for run in runs) / 1e6,
        installed=megabytes(PROGRAMS[name].distributions),
    )


def markdown(results: Sequence[Result]) -> str:
    """One row for each program, with the figures of all models side by side."""
    models = list(dict.fromkeys(result.model for result in results))
    heads = ["program"]
    heads += [f"{model}, {what}" for model in models for what in ("ms", "CPU ms", "MB")]
    rows = [[*heads, "MB installed"], ["---"] + ["---:"] * (len(heads))]
    for name in dict.fromkeys(result.program for result in results):
        these = [result for result in results if result.program == name]
        figures = [figure for r in these for figure in (r.first, r.processor, r.memory)]
        cells = [f"{figure:.0f}" for figure in figures]
        rows.append([name, *cells, f"{these[0].installed:.0f}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main()
