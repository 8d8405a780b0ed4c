"""The cases of all ops, one file for each op. Adding a file adds its cases."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .case import Case

__all__ = ["CASES", "Case"]

_FILES = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))

# By the name of the file, which is the name of the op.
CASES: dict[str, list[Case]] = {
    name: import_module(f".{name}", __package__).CASES
    for name in _FILES
    if name not in ("__init__", "case")
}
