"""The wheel: what is in it, and that it runs where there is nothing but NumPy."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import nprt

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
)


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{done.args}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel that was built from the source distribution that was built from the repository."""
    pytest.importorskip("build", reason="building the wheel needs the extra nprt[test]")
    setuptools = pytest.importorskip("setuptools", reason="building needs the extra nprt[test]")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("building the wheel needs setuptools >= 77, as in the extra nprt[test]")
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    for folder in ("nprt", "converters", "models", "bench", "tests"):
        unwanted = shutil.ignore_patterns("__pycache__", "*.onnx", "converters")
        (source / folder).mkdir()
        shutil.copytree(ROOT / folder, source / folder, ignore=unwanted, dirs_exist_ok=True)
    target = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source)
    (sdist,) = target.glob("*.tar.gz")
    assert sdist.name == f"nprt-{nprt.__version__}.tar.gz"
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of an environment that holds the wheel, a copy of NumPy, and no more."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (interpreter,) = [*folder.glob("bin/python"), *folder.glob("Scripts/python.exe")]
    site = Path(run(interpreter, "-c", "import site; print(site.getsitepackages()[-1])").strip())
    for file in importlib.metadata.files("numpy") or ():
        if ".." not in file.parts and "__pycache__" not in file.parts:
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), site / file)
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        interpreter,
        "install",
        "--no-deps",
        "--no-index",
        wheel,
    )
    return interpreter


def test_wheel_holds_nprt_and_its_converters_only(wheel):
    assert wheel.name == f"nprt-{nprt.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        entry_points = archive.read(f"nprt-{nprt.__version__}.dist-info/entry_points.txt").decode()
        metadata = archive.read(f"nprt-{nprt.__version__}.dist-info/METADATA").decode()
    expected = {"nprt/py.typed"}
    for folder, package in (("nprt", "nprt"), ("converters", "nprt/converters")):
        for path in (ROOT / folder).rglob("*.py"):
            expected.add(f"{package}/{path.relative_to(ROOT / folder).as_posix()}")
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "nprt = nprt.cli:main" in entry_points
    required = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    assert [line for line in required if "extra ==" not in line] == ["numpy>=1.24"]


def test_runs_with_numpy_only(python, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("sklearn")
    from models.data import digits
    from nprt.converters import from_onnx

    data = digits()
    model = from_onnx(
        ROOT / "models" / "digits.onnx", calibration={"input": data.calibration_images}
    )
    model.save(tmp_path / "digits.nprt")
    images = data.test_images[:50]
    np.savez(tmp_path / "in.npz", input=images)
    command = python.parent / "nprt"
    arguments = ("run", "digits.nprt", "--input", "in.npz", "--output", "out.npz")
    run(command, *arguments, cwd=tmp_path)
    with np.load(tmp_path / "out.npz") as results:
        np.testing.assert_array_equal(results["output"], nprt.Session(model)(images), strict=True)
    done = subprocess.run(
        [command, "convert", ROOT / "models" / "digits.onnx", "-o", "x.nprt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("nprt: error: ")
    assert "pip install 'nprt[onnx]'" in done.stderr
    assert "Traceback" not in done.stderr


def modules_after(statement, python=sys.executable):
    """The top-level modules that are not in the standard library, after `statement` in a new interpreter."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    loaded = {name.partition(".")[0] for name in run(python, "-c", code).split()}
    return {name for name in loaded - sys.stdlib_module_names if not name.startswith("__")}


def test_import_is_light():
    """Nothing but NumPy, here too, where torch and onnx could be had; and not even that for the import alone."""
    assert modules_after("import nprt") == {"nprt"}
    assert modules_after("import nprt; nprt.load, nprt.Session, nprt.Model") == {"nprt", "numpy"}
    assert modules_after("import nprt.cli, nprt.reference, nprt.ops.table") == {"nprt", "numpy"}


def test_public_names():
    for name in nprt.__all__:
        assert getattr(nprt, name) is not None
    assert dir(nprt) == sorted(nprt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nprt.nothing  # noqa: B018
