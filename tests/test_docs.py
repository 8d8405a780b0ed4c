"""The documentation says what the code does: its examples run, its formulas are cited, its op list is the op list."""

from __future__ import annotations

import doctest
import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from nprt import archive, errors
from nprt.file import FORMAT_VERSION, dumps, load
from nprt.ir import DTYPES, MAX_COMPUTED, MAX_ELEMENTS, MAX_RANK
from nprt.session import Session

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced code blocks of a page in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL)


def sources() -> dict[str, str]:
    paths = [*(ROOT / "nprt").rglob("*.py"), *(ROOT / "converters").rglob("*.py")]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


# --- quantization.md ----------------------------------------------------------------------------------


def defined_equations() -> list[int]:
    """The numbers at the ends of indented lines."""
    return [
        int(n) for n in re.findall(r"^    .*\S +\((\d+)\)$", page("quantization.md"), re.MULTILINE)
    ]


def cited_equations() -> dict[int, set[str]]:
    """Number to the files that cite it."""
    cited: dict[int, set[str]] = {}
    for file, text in sources().items():
        for first, more in re.findall(r"eq\. \((\d+)\)((?:,? (?:and|or|to) \(\d+\))*)", text):
            for number in (first, *re.findall(r"\d+", more)):
                cited.setdefault(int(number), set()).add(file)
    return cited


def test_equations_are_numbered_in_order() -> None:
    assert defined_equations() == list(range(1, len(defined_equations()) + 1))


def test_equations_are_defined_and_cited() -> None:
    """Every number in the code is on the page, and every number on the page is cited where it is computed."""
    defined, cited = set(defined_equations()), cited_equations()
    assert not {n: files for n, files in cited.items() if n not in defined}
    assert not defined - set(cited)


def test_eq_is_always_followed_by_a_number() -> None:
    """A citation that the test above cannot read would be a citation that nobody checks."""
    for file, text in sources().items():
        for found in re.findall(r"\beqs?\..{0,8}", text):
            assert re.match(r"eq\. \(\d+\)", found), f"{file}: {found!r}"


def test_the_examples_of_quantization_run() -> None:
    """What the page prints is what the code prints."""
    text = "\n".join(blocks("quantization.md", "python"))
    example = doctest.DocTestParser().get_doctest(text, {}, "quantization.md", None, 0)
    assert len(example.examples) > 30
    messages: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(
        example, out=messages.append
    )
    assert results.failed == 0, "".join(messages)


# --- format.md ----------------------------------------------------------------------------------------


def test_the_example_of_the_format_is_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file made from the page with nothing but zipfile and NumPy loads, runs, and is what nprt would write."""
    (header,) = blocks("format.md", "json")
    (program,) = blocks("format.md", "python")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.json").write_text(header, encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(compile(program, "format.md", "exec"), scope)
    (made,) = (name for name in os.listdir(tmp_path) if name.endswith(".nprt"))
    model = load(tmp_path / made)
    assert bytes(archive.unpack(dumps(model))["model.json"]).decode() == header
    result = Session(model)(np.array([[1.0, 2.0]], np.float32))
    np.testing.assert_array_equal(result, scope["expected"])
    assert result.dtype == scope["expected"].dtype


def test_the_format_names_every_error() -> None:
    """Each way to be bad is in the table of the page, under the error's name."""
    children = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type)
        and issubclass(value, errors.ModelFormatError)
        and value is not errors.ModelFormatError
    }
    assert children == set(re.findall(r"^\| `(\w+Error)` \|", page("format.md"), re.MULTILINE))


def test_the_format_states_the_limits_of_the_code() -> None:
    """Version, dtypes and limits on the page are those of the code."""
    text = page("format.md")
    (header,) = blocks("format.md", "json")
    assert json.loads(header)["format"] == FORMAT_VERSION
    assert f"Version {FORMAT_VERSION}" in text
    for dtype in DTYPES:
        assert f"`{dtype}`" in text
    for limit in (MAX_ELEMENTS, MAX_RANK, MAX_COMPUTED, archive.MAX_MEMBERS):
        assert f"{limit:,}" in text


# --- torch.md -----------------------------------------------------------------------------------------


def section(name: str, heading: str) -> str:
    (found,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", page(name), re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_table_of_convolutions_names_what_decides() -> None:
    """Each rule of `faults.py` has a row, and each name in the table's last column is a function."""
    code = sources()
    rules = code["converters/torch_ops/faults.py"]
    rows = [
        row.strip("| ").split(" | ")
        for row in section("torch.md", "Convolutions and linear layers").splitlines()
        if row.startswith("| ")
    ]
    named = {name for row in rows for name in re.findall(r"^`(\w+)`", row[-1].strip())}
    deciding = set(re.findall(r"^def ([a-z]\w+)\(", rules, re.MULTILINE))
    assert deciding - {"faults", "saturation_limit"} <= named
    (unwritten,) = re.findall(r"^UNWRITTEN = \((.*)\)$", rules, re.MULTILINE)
    assert set(unwritten.split(", ")) <= named
    text = "\n".join(code[f"converters/torch_ops/{file}.py"] for file in FAULTY)
    for name in named:
        assert re.search(rf"^ *def {name}\(", text, re.MULTILINE), name


FAULTY = ("faults", "quantized", "importer")


# --- ops.md -------------------------------------------------------------------------------------------


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_ops_is_generated() -> None:
    """After a change to an op: `python docs/generate.py`."""
    assert page("ops.md") == generator().ops_page(), "run python docs/generate.py"


# --- all pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.name)
def test_files_that_pages_name_exist(path: Path) -> None:
    """A path in backticks, or a link, leads somewhere."""
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`((?:nprt|converters|tests|docs|bench|models)/[\w./-]+)`", text)
    for name in named:
        found = list(ROOT.glob(f"{name}*" if re.search(r"/\d{4}$", name) else name))
        assert found, f"{path.name} names {name}"
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", sorted((DOCS / "decisions").glob("*.md")), ids=lambda p: p.name)
def test_decisions_have_one_form(path: Path) -> None:
    """NNNN-title.md: the problem, the decision, and what follows from it."""
    assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", path.name)
    headings = re.findall(r"^##? .*$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert re.match(rf"# {path.name[:4]}\b", headings[0])
    assert len(headings) == 4
    assert re.match(r"## (The d|D)ecision", headings[2])
