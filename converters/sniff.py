"""What kind of file a path is, by its first bytes and its members, where a front end cannot read it."""

from __future__ import annotations

import zipfile

# How torch.save began a file before it wrote zip archives: a pickle of this number.
PICKLED = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"

SAVE = "save it with torch.export.save or torch.jit.save"

PICKLE = f"written by torch.save, which holds a pickle and not a program; load it into its module, and {SAVE}"


def kind(path: str) -> str:
    """ "nprt", "torchscript", "pickle" (of torch.save), "program" (of torch.export.save), "onnx" by its name, or ""."""
    try:
        with open(path, "rb") as file:
            if file.read(len(PICKLED)) == PICKLED:
                return "pickle"
        if not zipfile.is_zipfile(path):
            return "onnx" if path.endswith(".onnx") else ""
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return "nprt" if path.endswith(".nprt") else ""
    if "model.json" in members and path.endswith(".nprt"):
        return "nprt"
    if any("/code/" in member for member in members):
        return "torchscript"
    if any(member.endswith("archive_format") for member in members):
        return "program"
    if any(member.endswith("data.pkl") for member in members):
        return "pickle"
    return "nprt" if "model.json" in members else ""


def advice(path: str) -> str:
    """What a file is that a front end is not for, and what to do with it; "" for what nothing is known of."""
    return {
        "nprt": "is an .nprt file already; there is nothing to convert",
        "onnx": "is an ONNX file; convert it with from_onnx",
        "pickle": PICKLE,
        "program": "is an exported program of torch; convert it with from_torch, or with nprt convert --torch",
        "torchscript": "is TorchScript; convert it with from_torch, or with nprt convert --torch",
    }.get(kind(path), "")
