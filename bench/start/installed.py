"""How much is installed with a package."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

SOURCES = {
    "nprt": ("nprt", "converters")
}  # of what is installed from this clone by `pip install -e`


def megabytes(distributions: Iterable[str]) -> float:
    """Of these and all that they require, without bytecode, which Python writes itself."""
    found: set[NormalizedName] = set()
    todo = [canonicalize_name(name) for name in distributions]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += _requirements(name)
    return sum(map(_bytes, found)) / 1e6


def _requirements(name: str) -> list[NormalizedName]:
    parsed = [Requirement(line) for line in metadata.requires(name) or ()]
    return [
        canonicalize_name(requirement.name)
        for requirement in parsed
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]


def _bytes(name: str) -> int:
    root = Path(__file__).parents[2]
    if name in SOURCES:
        files = [path for folder in SOURCES[name] for path in (root / folder).rglob("*")]
    else:
        files = [Path(str(file.locate())) for file in metadata.files(name) or ()]
    return sum(path.stat().st_size for path in files if path.is_file() and path.suffix != ".pyc")
