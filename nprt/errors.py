"""Every error that nprt raises on purpose.

Each is an `NprtError`, and also the builtin a caller would expect to catch. A message names the file or
the op, the field, what was found, what was expected, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class NprtError(Exception):
    """Base of every error raised on purpose by nprt."""


class ModelFormatError(NprtError, ValueError):
    """An `.nprt` file is not what `docs/format.md` says; the children name the ways."""


class NotAModelFileError(ModelFormatError):
    """The bytes do not begin as a zip archive, or the archive has no `model.json`."""


class TruncatedFileError(ModelFormatError):
    """The file breaks off before the end of the archive."""


class ArchiveError(ModelFormatError):
    """The archive's records disagree, overlap, leave gaps, or use what `.nprt` files leave out."""


class ChecksumError(ModelFormatError):
    """A member's bytes do not have the CRC-32 that the archive records for them."""


class VersionError(ModelFormatError):
    """The file has a format version that this nprt does not read."""


class MemberError(ModelFormatError):
    """A member of the archive is compressed, repeated, missing, unexpected or not a plain array."""


class JsonFieldError(ModelFormatError):
    """`model.json` has a missing, unknown or wrongly typed field."""


class TensorMismatchError(ModelFormatError):
    """A stored array's dtype, shape or size is not the one that `model.json` declares."""


class ModelError(NprtError, ValueError):
    """A model breaks a rule of the op list: a type, a name, or an accumulator that may overflow."""


class ShapeError(ModelError):
    """Shapes do not fit together."""


class QuantizationError(ModelError):
    """Quantization parameters are impossible, or not accepted by an op."""


class AccumulatorError(ModelError):
    """A sum may leave int32."""


class InputError(NprtError, ValueError):
    """An array given to `Session.run` has the wrong name, dtype or shape."""


class BackendUnavailableError(NprtError, ImportError):
    """The backend asked for cannot run here."""


class CalibrationError(NprtError, ValueError):
    """Calibration data are missing, empty, or not finite."""


class UnsupportedOpError(NprtError, NotImplementedError):
    """A source model has layers that nprt cannot convert. `problems` lists all of them, a line each."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = "1 node" if len(problems) == 1 else f"{len(problems)} nodes"
        listing = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{source}: {count} cannot be converted:\n{listing}")
