"""The command `nprt`: what it prints, what it writes, how it fails."""

import io
import itertools
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import nprt
from nprt.arrays import read_arrays, write_arrays
from nprt.cli import OBSERVERS, main
from nprt.errors import InputError
from nprt.ir import Model, Origin, QuantParams, TensorType
from nprt.ops.dequantize import Dequantize
from nprt.ops.quantize import Quantize
from nprt.ops.transpose import Transpose


@pytest.fixture
def small(tmp_path):
    """The path of a model with the float32 input x [N,3] and the output y."""
    real, codes = TensorType("float32", ("N", 3)), TensorType("int8", ("N", 3), QuantParams.of(0.5))
    model = Model(
        inputs=("x",),
        outputs=("y",),
        types={"x": real, "codes": codes, "y": real},
        constants={},
        ops=(
            Quantize(inputs=("x",), outputs=("codes",)),
            Dequantize(inputs=("codes",), outputs=("y",)),
        ),
        origin=Origin("nprt test", "made by hand"),
    )
    path = tmp_path / "small.nprt"
    model.save(path)
    return str(path)


@pytest.fixture
def pair(tmp_path):
    """The path of a model with two inputs and two outputs, with names that no keyword can have."""
    types = {name: TensorType("float32", (2, 3)) for name in ("file", "a/b")}
    types |= {name: TensorType("float32", (3, 2)) for name in ("allow_pickle", "/out")}
    ops = tuple(
        Transpose(inputs=(x,), outputs=(y,), perm=(1, 0))
        for x, y in (("file", "allow_pickle"), ("a/b", "/out"))
    )
    path = tmp_path / "pair.nprt"
    Model(("file", "a/b"), ("allow_pickle", "/out"), types, {}, ops).save(path)
    return str(path)


@pytest.fixture
def mlp(tmp_path):
    """The path of a float ONNX model: gemm, relu, gemm, with the input x [N,4]."""
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    text = """<ir_version: 8, opset_import: ["" : 17]>
        mlp (float[N,4] x) => (float[N,2] y) {
            h = Gemm(x, w1, b1)
            r = Relu(h)
            y = Gemm(r, w2)
        }"""
    model = onnx.parser.parse_model(text)
    for name, shape in (("w1", (4, 8)), ("b1", (8,)), ("w2", (8, 2))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    path = tmp_path / "mlp.onnx"
    onnx.save(model, str(path))
    return str(path)


@pytest.fixture
def samples(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.random.default_rng(1).standard_normal((64, 4)).astype(np.float32))
    return str(path)


def error_of(capsys, *arguments):
    """What a failing command writes to stderr; it fails with exit code 1 and without a traceback."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("nprt: error: ")
    assert "Traceback" not in captured.err
    return captured.err.removeprefix("nprt: error: ").rstrip()


# --- info ---------------------------------------------------------------------------------------------


def test_info(small, capsys):
    assert main(["info", small]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert lines["source"] == "made by hand"
    assert lines["inputs"] == "x: f32[N,3]"
    assert lines["outputs"] == "y: f32[N,3]"
    assert lines["ops"] == "2: 1 dequantize, 1 quantize"
    assert lines["integer"] == "only  yes"
    assert lines["activations"] == "15 B at the peak for N = 1"


def test_info_names_the_float_ops(pair, capsys):
    assert main(["info", pair]) == 0
    out = capsys.readouterr().out
    assert "no, 2 of 2 ops work on float32:" in out
    assert "transpose -> /out" in out


def test_info_json(small, capsys):
    assert main(["info", small, "--json", "--ops"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["integer_only"] is True
    assert facts["ops"] == {"quantize": 1, "dequantize": 1}
    assert facts["file_bytes"] > facts["weight_bytes"] == 0
    assert facts["op_list"] == str(nprt.load(small)).splitlines()


def test_info_ops(small, capsys):
    assert main(["info", small, "--ops"]) == 0
    assert capsys.readouterr().out.endswith(f"\n\n{nprt.load(small)}\n")


# --- run ----------------------------------------------------------------------------------------------

X = np.array([[0.2, 0.3, -70.0]], np.float32)
Y = np.array([[0.0, 0.5, -64.0]], np.float32)


@pytest.mark.parametrize("name", ["x.npz", "unnamed.npz", "x.npy"])
def test_run(small, tmp_path, capsys, name):
    source, target = tmp_path / name, tmp_path / "out.npz"
    if name == "x.npy":
        np.save(source, X)
    elif name == "x.npz":
        np.savez(source, x=X)
    else:
        np.savez(source, X)
    assert main(["run", small, "--input", str(source), "--output", str(target)]) == 0
    assert "y  float32[1, 3]" in capsys.readouterr().out
    with np.load(target) as results:
        assert results.files == ["y"]
        np.testing.assert_array_equal(results["y"], Y, strict=True)


def test_run_writes_npy(small, tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    arguments = ["run", small, "-i", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy")]
    assert main([*arguments, "--json", "--backend", "numpy", "--threads", "1"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["outputs"] == [{"name": "y", "dtype": "float32", "shape": [1, 3]}]
    assert described["backend"] == "numpy"
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), Y, strict=True)


def test_run_takes_any_name(pair, tmp_path, capsys):
    feeds = {"file": np.ones((2, 3), np.float32), "a/b": np.zeros((2, 3), np.float32)}
    write_arrays(str(tmp_path / "in.npz"), feeds)
    target = tmp_path / "out"
    assert main(["run", pair, "-i", str(tmp_path / "in.npz"), "-o", str(target)]) == 0
    with np.load(target) as results:
        assert set(results.files) == {"allow_pickle", "/out"}
        np.testing.assert_array_equal(results["allow_pickle"], np.ones((3, 2), np.float32))
    message = error_of(capsys, "run", pair, "-i", str(tmp_path / "in.npz"), "-o", "y.npy")
    assert "2 outputs; write an .npz file" in message


# --- arrays in files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("uint8", "is uint8, the model's input is float32; prepare it as"),
        ("int64", "prepare it as the model's training data were"),
        ("float64", "write it again as x.astype(np.float32)"),
        ("bool", "write it again"),
        ("complex64", "write it again"),
    ],
)
def test_dtype_of_an_input(small, tmp_path, capsys, dtype, words):
    np.savez(tmp_path / "x.npz", x=X.astype(dtype))
    assert words in error_of(capsys, "run", small, "-i", str(tmp_path / "x.npz"))


@pytest.mark.parametrize(
    ("given", "expected", "accepted"),
    [
        ("float16", "float32", True),
        ("int32", "int64", True),
        ("uint8", "int16", True),
        ("int64", "int32", False),
        ("uint8", "int8", False),
        ("int8", "uint8", False),
        ("bool", "int64", False),
        ("float16", "int32", False),
    ],
)
def test_only_exact_casts(tmp_path, given, expected, accepted):
    path = str(tmp_path / "x.npz")
    np.savez(path, x=np.array([0, 1], given))
    if accepted:
        (array,) = read_arrays(path, {"x": np.dtype(expected)}, InputError).values()
        np.testing.assert_array_equal(array, np.array([0, 1], expected), strict=True)
    else:
        with pytest.raises(InputError, match=f"is {given}, the model's input is {expected}"):
            read_arrays(path, {"x": np.dtype(expected)}, InputError)


def test_missing_input(pair, tmp_path, capsys):
    np.savez(tmp_path / "in.npz", z=X)
    message = error_of(capsys, "run", pair, "-i", str(tmp_path / "in.npz"))
    assert "no array for the inputs 'file', 'a/b'; it holds 'z'" in message
    np.save(tmp_path / "in.npy", X)
    assert "holds one array" in error_of(capsys, "run", pair, "-i", str(tmp_path / "in.npy"))


def test_arrays_that_are_not_used(small, tmp_path, capsys):
    np.savez(tmp_path / "in.npz", x=X, labels=X)
    assert main(["run", small, "-i", str(tmp_path / "in.npz")]) == 0
    assert "nprt: warning: " in (err := capsys.readouterr().err)
    assert "'labels' not used" in err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"neither"])
def test_not_arrays(small, tmp_path, capsys, content):
    (tmp_path / "in.npz").write_bytes(content)
    message = error_of(capsys, "run", small, "-i", str(tmp_path / "in.npz"))
    assert message.endswith("in.npz: not an .npz or .npy file of plain numbers")


def test_objects_are_not_unpickled(small, tmp_path, capsys):
    np.savez(tmp_path / "in.npz", x=np.array([None]))
    message = error_of(capsys, "run", small, "-i", str(tmp_path / "in.npz"))
    assert message.endswith("not an .npz or .npy file of plain numbers")


# --- convert ------------------------------------------------------------------------------------------


def test_convert(mlp, samples, tmp_path, capsys):
    assert main(["convert", mlp, "--calibration", samples, "--require-integer"]) == 0
    captured = capsys.readouterr()
    assert "integer only  yes" in captured.out
    assert "weights       224 B -> 80 B" in captured.out
    assert captured.err == ""
    model = nprt.load(tmp_path / "mlp.nprt")
    assert [op.name for op in model.ops] == ["quantize", "linear", "linear", "dequantize"]
    assert model.inputs == ("x",)


def test_convert_quietly_with_every_choice(mlp, samples, tmp_path, capsys):
    target = str(tmp_path / "other.nprt")
    choices = [
        "--numerics",
        "integer",
        "--observer",
        "minmax",
        "--dtype",
        "uint8",
        "--symmetric",
        "--per-tensor",
    ]
    choices += ["--skip", "y", "--shape", "x=2,4", "--quiet"]
    assert main(["convert", mlp, "-o", target, "-c", samples, *choices]) == 0
    assert capsys.readouterr().out == ""
    model = nprt.load(target)
    assert model.types["x"].shape == (2, 4)
    (quantize,) = (op for op in model.ops if op.name == "quantize")
    codes = model.types[quantize.outputs[0]]
    assert codes.dtype == "uint8"
    assert codes.zero_point == 128
    assert model.types[model.ops[-1].inputs[0]].is_float


def test_convert_without_calibration(mlp, capsys):
    assert main(["convert", mlp]) == 0
    out = capsys.readouterr().out
    assert "2 dynamic_linear" in out
    assert "with --calibration, more" in out


def test_convert_says_what_had_no_effect(mlp, samples, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    quantization = pytest.importorskip("onnxruntime.quantization")
    del onnxruntime
    quantized = str(tmp_path / "dynamic.onnx")
    quantization.quantize_dynamic(mlp, quantized)
    assert main(["convert", quantized, "--symmetric", "--dtype", "int8"]) == 0
    assert "quantized already; --dtype, --symmetric had no effect" in capsys.readouterr().err
    assert "quantized already" in error_of(capsys, "convert", quantized, "-c", samples)


def test_convert_failures(mlp, samples, tmp_path, capsys):
    assert "nope.onnx: No such file" in error_of(capsys, "convert", "nope.onnx")
    assert "no such folder" in error_of(capsys, "convert", mlp, "-o", str(tmp_path / "no" / "m"))
    assert "would replace the source" in error_of(capsys, "convert", mlp, "-o", mlp)
    assert "not an ONNX model" in error_of(capsys, "convert", samples)
    assert "matches no layer" in error_of(capsys, "convert", mlp, "-c", samples, "--skip", "zzz")
    assert "'z'" in error_of(capsys, "convert", mlp, "--shape", "z=1,4")
    np.savez(tmp_path / "u8.npz", x=np.zeros((64, 4), np.uint8))
    message = error_of(capsys, "convert", mlp, "-c", str(tmp_path / "u8.npz"))
    assert "is uint8, the model's input is float32" in message


def test_observers_are_those_of_the_converter():
    observers = pytest.importorskip("nprt.converters.observers")
    assert tuple(observers.OBSERVERS) == OBSERVERS


# --- the command itself -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["info"],
        ["run", "m.nprt"],
        ["run", "m.nprt", "-i", "x.npz", "--threads", "0"],
        ["convert", "m.onnx", "--shape", "1,2"],
        ["convert", "m.onnx", "--shape", "x=1,-2"],
        ["convert", "m.onnx", "--numerics", "float"],
    ],
)
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: nprt" in capsys.readouterr().err


def test_damaged_model(small, tmp_path, capsys):
    damaged = tmp_path / "damaged.nprt"
    damaged.write_bytes(b"not a model")
    assert "damaged.nprt: " in error_of(capsys, "info", str(damaged))
    with pytest.raises(nprt.NprtError):
        main(["info", str(damaged), "--debug"])


def test_interrupted(small, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nprt.file.load", interrupt)
    assert main(["info", small]) == 130
    assert capsys.readouterr().err == "nprt: interrupted\n"


def run_module(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "nprt", *arguments], text=True, **options)


def test_as_a_module(small):
    done = run_module("--version", capture_output=True)
    assert (done.returncode, done.stdout) == (0, f"nprt {nprt.__version__}\n")
    done = run_module("info", "nowhere.nprt", capture_output=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("nprt: error: nowhere.nprt: ")


def test_closed_pipe(small):
    """A reader that stops reading, such as `head`, is no reason for a traceback."""
    command = [sys.executable, "-m", "nprt", "info", small]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


# --- machine code -------------------------------------------------------------------------------------


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """An empty folder for machine code, of which the process has loaded none."""
    pytest.importorskip("llvmlite")
    from nprt.jit import cache

    folder = tmp_path / "kernels"
    monkeypatch.setenv("NPRT_CACHE_DIR", str(folder))
    monkeypatch.setattr(cache, "_addresses", {})
    return folder


def test_warmup(small, kernels, capsys):
    from nprt.jit.simd import choose

    for compiled in (r"2 compiled in \d+\.\d s", "none compiled"):
        assert main(["warmup", small, small]) == 0
        out, err = capsys.readouterr()
        first, second, last = out.splitlines()
        assert re.fullmatch(re.escape(small) + f": 2 kernels, {compiled}", first)
        assert second == f"{small}: 2 kernels, none compiled"
        assert last == f"kept in {kernels} for {choose().name}"
        assert err == ""
    assert len(list(kernels.iterdir())) >= 2


def test_warmup_where_nothing_can_be_kept(small, kernels, capsys):
    kernels.write_text("not a folder")
    assert main(["warmup", small]) == 1
    out, err = capsys.readouterr()
    assert "2 compiled" in out
    warning, error = err.splitlines()
    assert warning.startswith(f"nprt: warning: machine code is not kept in {kernels} (")
    assert error == f"nprt: error: {kernels}: machine code cannot be kept there; set NPRT_CACHE_DIR"


def test_run_says_that_it_compiled(small, kernels, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((1, 3), np.float32))
    for words in (", 2 kernels compiled", ""):
        command = ["run", small, "--input", str(tmp_path / "x.npy"), "--backend", "numba"]
        assert main(command) == 0
        *_, last = capsys.readouterr().out.splitlines()
        assert re.fullmatch(rf"\d+\.\d ms on backend numba{words}", last)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("seconds", [0.4, 0.6])
@pytest.mark.parametrize("command", ["warmup", "run", "bench"])
def test_long_compilation_shows_on_a_terminal(
    command, seconds, small, kernels, tmp_path, capsys, monkeypatch
):
    """From the first kernel after one second on; the line is gone at the end."""
    from nprt.jit import cache

    now = itertools.count()
    monkeypatch.setattr("nprt.cli.time", SimpleNamespace(perf_counter=lambda: seconds * next(now)))
    monkeypatch.setattr(cache, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    monkeypatch.setattr("sys.stderr", Terminal())
    np.save(tmp_path / "x.npy", np.zeros((1, 3), np.float32))
    arguments = {"run": ["--input", str(tmp_path / "x.npy")], "bench": ["--seconds", "0"]}
    assert main([command, small, *arguments.get(command, [])]) == 0
    shown = "compiling: 2 kernels in 1 s"
    if seconds == 0.6:
        assert sys.stderr.getvalue() == f"\r{shown}\r{' ' * len(shown)}\r"
    else:
        assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("command", [["warmup"], ["bench", "--per-op"], ["info", "--plan"]])
def test_without_a_compiler(command, small, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main([*command, small]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"nprt: error: nprt {' '.join(command)} needs llvmlite")
