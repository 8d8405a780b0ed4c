"""Results as text, as a Markdown table and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.measure import Failure, Result
from bench.peers.table import INTEGER, OURS, RUNTIMES

MOST = 10  # times as slow; what is more says only that threads were disturbed
COLOURS = dict(
    zip((OURS, *RUNTIMES), ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e"), strict=True)
)


@dataclass(frozen=True)
class Case:
    """All results for one network, batch and number of threads. `peers`: the fastest first."""

    ours: Result
    integer: Result | None
    peers: tuple[Result, ...]

    def best(self, runtime: str) -> Result | None:
        """The fastest form that a runtime has."""
        return next((peer for peer in self.peers if peer.peer.startswith(runtime)), None)


def cases(results: Sequence[Result]) -> list[Case]:
    """Those in which nprt and another ran."""
    groups: dict[tuple[str, int, int], list[Result]] = {}
    for result in sorted(results, key=lambda result: result.ratio):
        groups.setdefault((result.model, result.batch, result.threads), []).append(result)
    found = []
    for key in dict.fromkeys((result.model, result.batch, result.threads) for result in results):
        named = {result.peer: result for result in groups[key]}
        ours, integer = named.pop(OURS, None), named.pop(INTEGER, None)
        if ours and named:
            found.append(Case(ours, integer, tuple(named.values())))
    return found


def lines(results: Iterable[Result], failures: Iterable[Failure]) -> str:
    """A row for each peer."""
    rows = [
        f"  {r.peer:24}{milliseconds(r.median):>8} ms (least {milliseconds(r.least)}, on processors "
        f"{milliseconds(r.processor)}), {r.gmac_per_second:.1f} GMAC/s, "
        f"{r.ratio:.2f} x nprt's time (least {r.least_ratio:.2f}, on processors "
        f"{r.processor_ratio:.2f}), correlation {r.correlation:.4f}"
        for r in results
    ]
    return "\n".join([*rows, *(f"  {f.peer:24}{f.error}" for f in failures)])


def summary(found: Sequence[Case]) -> str:
    ratios = [case.peers[0].ratio for case in found]
    least = [min(peer.least_ratio for peer in case.peers) for case in found]
    return (
        f"time of the fastest peer divided by nprt's, {len(found)} cases: "
        f"geometric mean {statistics.geometric_mean(ratios):.2f}, least {min(ratios):.2f}; by the least times "
        f"geometric mean {statistics.geometric_mean(least):.2f}, least {min(least):.2f}"
    )


def markdown(found: Iterable[Case]) -> str:
    """A row for each network and batch; in a cell, a figure for each number of threads.

    Of each other runtime, and of nprt with integers alone: its time, in its fastest form, divided by nprt's. Bold: the
    fastest of all the others.
    """
    heads = ("network", "batch", "nprt, ms", "of the peak", "integer", *RUNTIMES)
    rows: list[Sequence[str]] = [heads, ("---", *["---:"] * (len(heads) - 1))]
    groups: dict[tuple[str, int], list[Case]] = {}
    for case in found:
        groups.setdefault((case.ours.model, case.ours.batch), []).append(case)
    for (model, batch), these in groups.items():
        cells = [
            [milliseconds(case.ours.median) for case in these],
            [f"{100 * case.ours.share:.0f} %" for case in these],
            [f"{case.integer.ratio:.2f}" if case.integer else "-" for case in these],
            *([_ratio(case, runtime) for case in these] for runtime in RUNTIMES),
        ]
        rows.append((model, str(batch), *(" / ".join(cell) for cell in cells)))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _ratio(case: Case, runtime: str) -> str:
    best = case.best(runtime)
    if best is None:
        return "-"
    text = f"{best.ratio:.2f}" if best.ratio < MOST else f"> {MOST}"
    return f"**{text}**" if best is case.peers[0] else text


def milliseconds(value: float) -> str:
    """Three digits that count, or all before the point."""
    places = next((places for places in range(6) if value * 10**places >= 100), 6)
    return f"{value:.{places}f}"


def picture(found: Sequence[Case], peak: float, path: Path) -> None:
    """What each network reaches of the peak, on one panel for each number of threads."""
    import matplotlib.pyplot as plt

    threads = sorted({case.ours.threads for case in found})
    rows = list(dict.fromkeys((case.ours.model, case.ours.batch) for case in found))
    size = (4.6 * len(threads) + 1.6, 0.34 * len(rows) + 1.4)
    figure, axes = plt.subplots(
        1, len(threads), sharex=True, sharey=True, squeeze=False, figsize=size
    )
    for axis, count in zip(axes[0], threads, strict=True):
        these = [case for case in found if case.ours.threads == count]
        _panel(axis, these, rows, peak * count)
        axis.set_title(f"{count} thread{'s' * (count > 1)}")
    axes[0][0].set_yticks(range(len(rows)), [f"{model}, batch {batch}" for model, batch in rows])
    axes[0][0].invert_yaxis()
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=len(names), frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=120)


def _panel(axis: Any, these: Sequence[Case], rows: Sequence[tuple[str, int]], peak: float) -> None:
    axis.axvline(peak, color="black", linestyle="--", label="measured peak")
    for runtime, colour in COLOURS.items():
        bests = [case.ours if runtime == OURS else case.best(runtime) for case in these]
        points = [
            (best.gmac_per_second, rows.index((best.model, best.batch))) for best in bests if best
        ]
        x, y = zip(*points, strict=True) if points else ((), ())
        marker, size = ("D", 46) if runtime == OURS else ("o", 30)
        axis.scatter(x, y, s=size, marker=marker, color=colour, label=runtime, zorder=3)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("GMAC/s")
    axis.grid(alpha=0.3, which="both")
