"""nprt: int8 inference with NumPy, from one `.nprt` file. What is not in `__all__` is not promised.

The names are imported at their first use, so that `import nprt` costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

from nprt.errors import NprtError
from nprt.version import __version__

if TYPE_CHECKING:
    from nprt.file import load
    from nprt.ir import Model
    from nprt.session import Session

__all__ = ["Model", "NprtError", "Session", "__version__", "load"]

_HOMES = {"Model": "nprt.ir", "Session": "nprt.session", "load": "nprt.file"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'nprt' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
