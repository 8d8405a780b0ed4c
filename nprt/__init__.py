"""nprt: int8 inference with NumPy, from one `.nprt` file. What is not in `__all__` is not promised."""

import logging

from nprt.errors import NprtError
from nprt.file import load
from nprt.ir import Model
from nprt.session import Session
from nprt.version import __version__

logging.getLogger("nprt").addHandler(logging.NullHandler())

__all__ = ["Model", "NprtError", "Session", "__version__", "load"]
