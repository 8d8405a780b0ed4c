"""Cutting work into blocks that stay in the cache and bound the memory that a large batch takes."""

from __future__ import annotations

from collections.abc import Iterator

# Several passes over a block of so many elements find them in the cache.
BLOCK_ELEMENTS = 1 << 15


def evenly(count: int, most: int) -> int:
    """The step that cuts `count` into as few parts of at most `most` as possible, the parts about equal."""
    parts = max(1, -(-count // most))
    return max(1, -(-count // parts))


def blocks(count: int, most: int) -> Iterator[slice]:
    """Cut `count` items into slices of at most `most`."""
    step = evenly(count, most)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def largest_divisor(count: int, most: int) -> int:
    """The largest divisor of `count` that is at most `most`, or 1."""
    return max((n for n in range(2, min(count, most) + 1) if count % n == 0), default=1)
