"""nprt beside other runtimes: `python -m bench.peers [MODEL ...]`; `bench/README.md` says how it measures."""

# ruff: noqa: T201 - a command that prints what it measured

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.peers import report
from bench.peers.forms import Forms
from bench.peers.measure import Failure, Result, measure
from bench.peers.prepare import prepare
from bench.peers.table import OURS, PEERS, RUNTIMES
from nprt.jit.report import peak

# the networks that are measured by default, with their batches
BATCHES = {
    "mlp": (1, 64),
    "autoencoder": (1, 64),
    "dscnn": (1, 64),
    "resnet8": (1, 64),
    "mobilenet_v2": (1, 8),
    "resnet18": (1, 8),
    "resnet50": (1, 8),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    peers = list(dict.fromkeys([OURS, *options.peers]))
    results: list[Result] = []
    failures: list[Failure] = []
    core = peak()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models or BATCHES:
            forms = prepare(name, Path(folder) / name)
            batches = options.batch or BATCHES.get(name, (1,))
            for threads in options.threads:
                made, failed = measure(forms, peers, threads, batches, options.rounds)
                _print(forms, made, failed)
                results += made
                failures += failed
    core = max(core, peak()) / 1e9
    _write(options, results, failures, core)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("models", nargs="*", help="of models.architectures")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", help="default: two for each model")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    parser.add_argument("--picture", type=Path, help="draw what is reached of the peak here")
    return parser


def _print(forms: Forms, results: Sequence[Result], failures: Sequence[Failure]) -> None:
    for batch in dict.fromkeys(result.batch for result in results):
        these = [result for result in results if result.batch == batch]
        print(f"{forms.name}, batch {batch}, threads {these[0].threads}")
        print(report.lines(these, failures), flush=True)


def _write(
    options: argparse.Namespace, results: list[Result], failures: list[Failure], core: float
) -> None:
    found = report.cases(results)
    print(f"peak of one core: {core:.0f} GMAC/s")
    if found:
        print(report.summary(found))
    if options.json:
        everything = {
            "machine": _machine(),
            "peak": core,
            "results": [asdict(result) for result in results],
            "failures": [asdict(failure) for failure in failures],
        }
        options.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(report.markdown(found), encoding="utf-8")
    if options.picture:
        report.picture(found, core, options.picture)


def _machine() -> dict[str, Any]:
    """What the figures depend on: processor, Python, versions."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        processor = text.split("model name", 1)[1].split(":", 1)[1].split("\n", 1)[0].strip()
    except (OSError, IndexError):
        processor = platform.processor()
    versions = {}
    for name in ("numpy", "llvmlite", OURS, *RUNTIMES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"processor": processor, "python": platform.python_version(), "versions": versions}


if __name__ == "__main__":
    main()
