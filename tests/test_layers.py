"""Imports point down: `docs/layers.md` gives each file a level, and every import is compared with it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([^`]+)` \| (\d+) \| .+ \|$", PAGE, re.MULTILINE)
EXCEPTIONS = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| .+ \|$", PAGE, re.MULTILINE)

# Modules of the standard library that would slow `import nprt` down, or have no business in a runtime.
UNWANTED = {"pickle", "marshal", "shelve", "ctypes", "socket", "subprocess", "urllib", "http"}


def files(folder: str) -> list[str]:
    """Source files, without the empty ones that only make a folder a package."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return [path.relative_to(ROOT).as_posix() for path in paths if path.stat().st_size]


FILES = [*files("nprt"), *files("converters")]


def level(file: str) -> int:
    for pattern, value in ROWS:
        if fnmatchcase(file, pattern):
            return int(value)
    raise AssertionError(f"{file} has no row in docs/layers.md")


def imported_modules(file: str) -> Iterator[str]:
    """The modules that a file names in import statements, anywhere in it. `from a import b` gives a.b."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(module: str) -> str | None:
    """The file in this repository that `module`, or the module that has this name in it, is."""
    path = re.sub(r"^nprt/converters", "converters", module.replace(".", "/"))
    parent = path.rpartition("/")[0]
    for candidate in (f"{path}.py", f"{path}/__init__.py", f"{parent}.py", f"{parent}/__init__.py"):
        if (ROOT / candidate).exists() and candidate.split("/")[0] in ("nprt", "converters"):
            return candidate
    return None


def own_imports(file: str) -> set[str]:
    found = (file_of(module) for module in imported_modules(file) if module.split(".")[0] == "nprt")
    return {target for target in found if target is not None} - {file}


@pytest.mark.parametrize("file", FILES)
def test_imports_point_down(file: str) -> None:
    """Each file imports files of lower levels only, apart from the listed exceptions."""
    upward = {
        f"{file} (level {level(file)}) imports {target} (level {level(target)})"
        for target in own_imports(file)
        if level(target) >= level(file) and (file, target) not in EXCEPTIONS
    }
    assert not upward


def test_the_table_is_about_this_repository() -> None:
    """Each row matches a file, in an order that leaves none in the shadow of another; each exception is needed."""
    assert len(ROWS) > 30
    taken: set[str] = set()
    for pattern, _ in ROWS:
        matched = {file for file in FILES if fnmatchcase(file, pattern)} - taken
        assert matched, f"{pattern} matches no file"
        taken |= matched
    for importer, target in EXCEPTIONS:
        if (ROOT / target).exists():
            assert target in own_imports(importer), f"{importer} does not import {target}"
            assert level(target) >= level(importer)
        else:
            assert target in {module.split(".")[0] for module in imported_modules(importer)}


@pytest.mark.parametrize("file", files("nprt"))
def test_the_runtime_needs_only_numpy(file: str) -> None:
    """nprt/ imports the standard library, NumPy and itself; nothing that unpickles or opens connections."""
    for module in imported_modules(file):
        top = module.split(".")[0]
        if (file, top) in EXCEPTIONS:
            continue
        assert top in {"nprt", "numpy", *sys.stdlib_module_names} - UNWANTED, f"{file}: {module}"
        if file != "nprt/cli.py":
            assert not module.startswith("nprt.converters"), f"{file}: {module}"


def test_an_upward_import_would_be_noticed(tmp_path: Path) -> None:
    """The reader of imports sees those in functions, under conditions, and of names in modules."""
    source = tmp_path / "x.py"
    source.write_text(
        "import nprt.errors as e\nif 0:\n    from nprt.ir import Model\n"
        "def f():\n    from nprt import file, version\n    from nprt.ops import rules\n"
        "    import nprt.converters.graph\n"
    )
    found = {file_of(module) for module in imported_modules(str(source))}
    assert found == {
        *("nprt/errors.py", "nprt/ir.py", "nprt/file.py", "nprt/version.py"),
        *("nprt/ops/rules.py", "converters/graph.py"),
    }
