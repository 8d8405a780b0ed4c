"""What it costs to import nprt, beside NumPy: `python -m bench.import_time`.

Each statement runs in new interpreters, taking turns, so that a noisy machine disturbs all alike. Name another
interpreter with `--python`, for example that of an environment where only NumPy and the wheel of nprt are installed.
"""

# ruff: noqa: T201 - a command that prints what it measured

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

STATEMENTS = {
    "import numpy": "import numpy",
    "import nprt": "import nprt",
    "... ready to load and run a model": "import nprt; nprt.load; nprt.Session",
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.import_time", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--python", default=sys.executable, help="default: this interpreter")
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args(arguments)
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(options.rounds + 1):
        for name, statement in STATEMENTS.items():
            times[name].append(milliseconds(options.python, statement))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # 0 warms up
    for name, median in medians.items():
        ratio = median / medians["import numpy"]
        print(f"{name:36}{median:7.1f} ms{ratio:7.2f}x")


def milliseconds(python: str, statement: str) -> float:
    """How long `statement` takes in a new interpreter, its own start not counted."""
    code = (
        "import sys, time; start = time.perf_counter()\n"
        f"{statement}\n"
        "sys.stdout.write(repr(time.perf_counter() - start))"
    )
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [python, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=True
        )
    return 1000 * float(done.stdout)


if __name__ == "__main__":
    main()
