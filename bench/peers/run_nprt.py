"""nprt: int8 on the fast backend."""

from __future__ import annotations

from bench.peers.forms import Forms
from bench.peers.table import Run
from nprt.session import Session


def ort(forms: Forms, batch: int, threads: int) -> Run:
    return Session(forms.nprt, backend="numba", threads=threads)


def integer(forms: Forms, batch: int, threads: int) -> Run:
    return Session(forms.nprt_integer, backend="numba", threads=threads)
