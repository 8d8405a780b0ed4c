"""What README.md shows is what happens: its commands, its examples, its links."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nprt.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "models/README.md")


def blocks(language):
    """The fenced blocks of README.md in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def steady(text):
    """`text` without what differs from run to run and from machine to machine: times, and the size of the file."""
    text = re.sub(r"\d+\.\d+ m?s\b", "TIME", text.strip())
    return re.sub(r"(digits.nprt, )\d+\.\d kB", r"\1SIZE", text)


def commands(console):
    """(command, output) of each `$ ` line of a console block."""
    parts = re.split(r"^\$ (.*)\n", console, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def test_examples(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("sklearn")
    monkeypatch.setenv("NPRT_BACKEND", "numpy")  # what every installation has
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models" / "digits.onnx", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    capsys.readouterr()
    run_console(blocks("console")[0], ["convert", "info", "run"], capsys)


def run_console(console, verbs, capsys):
    """Each command of a console block prints what stands below it."""
    shown = commands(console)
    assert [shlex.split(command)[1] for command, _ in shown] == verbs
    for command, output in shown:
        program, *arguments = shlex.split(command)
        assert program == "nprt"
        assert main(arguments) == 0
        assert steady(capsys.readouterr().out) == steady(output)


@pytest.mark.filterwarnings("ignore")
def test_torch_examples(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    from models.data import digits
    from models.torch_example import Net, quantized

    monkeypatch.chdir(tmp_path)
    images = digits().calibration_images
    np.savez("digits.npz", input=images)
    _, example, *rest = blocks("python")
    assert not rest
    module, inputs = quantized()
    scope = {
        "quantized_module": module,
        "float_module": Net(),
        "example_inputs": inputs,
        "images": images,
    }
    exec(compile(example, "README.md", "exec"), scope)
    _, console, *rest = blocks("console")
    assert not rest
    run_console(console, ["convert", "compare"], capsys)


def test_demo(capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("sklearn")
    from models.demo import main as demo

    demo([])
    out = capsys.readouterr().out
    accuracy = re.search(r"accuracy +(\S+) % +(\S+) %", out)
    assert accuracy
    real, int8 = map(float, accuracy.groups())
    assert real > 98
    assert int8 > real - 0.5
    agreement = re.search(r"agree on (\d+) of 360 images", out)
    assert agreement
    assert int(agreement[1]) >= 357


def test_ci_runs_the_commands_of_the_readme():
    """`.ci/run` finds the two blocks by their marks and runs each unchanged."""
    script = (ROOT / ".ci" / "run").read_text()
    function = re.search(r"^readme\(\) \{.*?^\}\n", script, re.MULTILINE | re.DOTALL)
    assert function
    found = []
    for name in ("demo", "test"):
        assert f'sh -exc "$(readme {name})"' in script
        done = subprocess.run(
            ["sh", "-ec", f"{function[0]}readme {name}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(done.stdout)
    assert found == blocks("sh")
    assert found[0].rstrip().endswith("python -m models.demo")
    assert found[1].rstrip().endswith("python -m pytest")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text())
    assert [t for t in targets if not (path.parent / t).exists()] == []
