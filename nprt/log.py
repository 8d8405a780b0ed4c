"""The logger `nprt`, for processes that hardly ever log: to import `logging` takes 2 ms of their start."""

from __future__ import annotations

import sys


def debug(message: str, *arguments: object) -> None:
    """Log, if anybody may listen: whoever does has imported `logging`."""
    if "logging" in sys.modules:
        sys.modules["logging"].getLogger("nprt").debug(message, *arguments)


def warning(message: str, *arguments: object) -> None:
    """Log, whoever listens."""
    import logging

    logging.getLogger("nprt").warning(message, *arguments)
