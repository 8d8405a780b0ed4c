"""The kernels by the name of their op. An op without one is run by its reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nprt.jit.kernels import gemm

# Adds the steps of an op to a plan, or returns False where the kernel does not do it.
KERNELS: dict[str, Callable[[Any, Any], bool]] = {
    "conv": gemm.lower,
    "linear": gemm.lower,
}
