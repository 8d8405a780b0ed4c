"""A session: what may be fed, what comes back, and messages that say how to do it right."""

from __future__ import annotations

import importlib.util
import logging
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import codes, floats, model, two_layers

import nprt
from nprt.errors import BackendUnavailableError, InputError, ModelError, NotAModelFileError
from nprt.file import dumps
from nprt.ir import Model, TensorType
from nprt.ops.add import Add
from nprt.ops.dequantize import Dequantize
from nprt.ops.quantize import Quantize
from nprt.ops.reshape import Reshape
from nprt.session import Session

X = np.array([[0.0, 1.0], [-3.0, 60.0]], np.float32)
# q = x / 0.5 + 3; sums with (q - 3); y = sum * w_scale * 0.5 / 0.75 - 3, ties up, clamped to [-3, 127].
Y = np.array([[-3, 0, 127], [-3, 127, 127]], np.int8)


def two_by_two() -> Model:
    """Inputs a [N, 2] and b [M, N]; outputs their codes and a's floats again, and a as it is."""
    types = {
        "a": floats("N", 2),
        "b": floats("M", "N"),
        "qa": codes("N", 2),
        "qb": codes("M", "N", scale=0.25, zero_point=0),
        "fa": floats("N", 2),
        "same": floats("N", 2),
    }
    ops = [
        Quantize(inputs=("a",), outputs=("qa",)),
        Quantize(inputs=("b",), outputs=("qb",)),
        Dequantize(inputs=("qa",), outputs=("fa",)),
        Reshape(inputs=("a",), outputs=("same",)),
    ]
    return model(ops, types, {}, ("a", "b"), ("qa", "qb", "fa", "same"))


# --- running ------------------------------------------------------------------------------------------


def test_run_gives_all_outputs_in_order() -> None:
    """`run(None, feeds)` as in other runtimes; calling the session is the short form for one input and output."""
    session = Session(two_layers())
    (result,) = session.run(None, {"x": X})
    np.testing.assert_array_equal(result, Y)
    assert result.dtype == np.int8
    np.testing.assert_array_equal(session(X), Y)


def test_the_result_is_that_of_exact_arithmetic() -> None:
    """Y, above, derived with Python's integers and fractions."""
    from fractions import Fraction
    from math import floor

    weights, bias = two_layers().constants["w"].tolist(), two_layers().constants["b"].tolist()
    for row, expected in zip(X.tolist(), Y.tolist(), strict=True):
        q = [min(max(round(x / 0.5) + 3, -128), 127) - 3 for x in row]
        for w, b, scale, code in zip(weights, bias, (0.25, 0.5, 0.125), expected, strict=True):
            total = sum(p * r for p, r in zip(q, w, strict=True)) + b
            real = total * Fraction(scale) * Fraction(0.5) / Fraction(0.75)
            assert code == min(max(floor(real + Fraction(1, 2)) - 3, -3), 127)


def test_outputs_can_be_chosen() -> None:
    """By name, in any order, also the same twice; an empty list gives nothing."""
    session = Session(two_by_two())
    feeds = {"a": X, "b": np.zeros((1, 2), np.float32)}
    everything = dict(zip(("qa", "qb", "fa", "same"), session.run(None, feeds), strict=True))
    for names in (["fa", "qa"], ("qb",), ["qa", "qa"], []):
        results = session.run(names, feeds)
        assert len(results) == len(names)
        for name, result in zip(names, results, strict=True):
            np.testing.assert_array_equal(result, everything[name])
    for _ in range(2):
        assert len(session.run((name for name in ["fa"]), feeds)) == 1
        session.run(None, feeds)


def test_any_batch() -> None:
    """A symbol is whatever the feeds say, anew in each run."""
    session = Session(two_layers())
    for batch in (0, 1, 7, 2):
        assert session(np.zeros((batch, 2), np.float32)).shape == (batch, 3)


def test_results_are_the_callers_own() -> None:
    """Writing into a result changes neither the feeds, nor the model, nor another result."""
    session = Session(two_by_two())
    x = X.copy()
    first = session.run(None, {"a": x, "b": x})
    for result in first:
        assert result.flags.writeable
        result[...] = 1
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(session.run(["same"], {"a": x, "b": x})[0], X)


def test_feeds_of_any_layout() -> None:
    """Strided, transposed, read-only and nested-list feeds give the same result."""
    session = Session(two_layers())
    read_only = X.copy()
    read_only.flags.writeable = False
    for x in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], X[::-1][::-1], read_only):
        np.testing.assert_array_equal(session(x), Y)


def test_scalars() -> None:
    """Inputs without dimensions take NumPy's scalars."""
    op = Add(inputs=("x", "i"), outputs=("y",))
    integer = TensorType("int64", ())
    session = Session(model([op], dict.fromkeys("xiy", integer), {}, ("x", "i")))
    (result,) = session.run(None, {"x": np.int64(2), "i": np.array(3)})
    np.testing.assert_array_equal(result, np.array(5, np.int64))
    assert result.dtype == np.int64


def test_many_threads_at_once() -> None:
    """One session, eight threads, different batches: each gets its own answer."""
    session = Session(two_layers())
    rng = np.random.default_rng(0)
    feeds = [rng.normal(0, 20, (1 + i % 5, 2)).astype(np.float32) for i in range(200)]
    expected = [session(x) for x in feeds]
    with ThreadPoolExecutor(8) as pool:
        for actual, wanted in zip(pool.map(session, feeds), expected, strict=True):
            np.testing.assert_array_equal(actual, wanted)


# --- what a session says about itself -----------------------------------------------------------------


def test_inputs_and_outputs_are_described() -> None:
    """Name, shape, dtype, and the quantization under the keys that TFLite's users know."""
    session = Session(two_layers())
    (x,), (y,) = session.inputs, session.outputs
    assert (x.name, x.shape, x.dtype, x.quantization) == ("x", ("N", 2), np.float32, None)
    assert (y.name, y.shape, y.dtype) == ("y", ("N", 3), np.int8)
    assert y.quantization is not None
    assert list(y.quantization) == ["scales", "zero_points", "quantized_dimension"]
    np.testing.assert_array_equal(y.quantization["scales"], np.array([0.75], np.float32))
    np.testing.assert_array_equal(y.quantization["zero_points"], np.array([-3], np.int32))
    assert y.quantization["quantized_dimension"] == 0
    real = y.quantization["scales"] * (session(X) - y.quantization["zero_points"])
    np.testing.assert_array_equal(real[0], np.array([0.0, 2.25, 97.5]))


# --- wrong feeds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "missing inputs ['a', 'b'], unknown inputs []; the model has ['a', 'b']"),
        ({"a": X}, "missing inputs ['b']"),
        ({"a": X, "b": X, "c": X}, "unknown inputs ['c']"),
        ({"a": X.astype(np.float64), "b": X}, "input 'a' is float64, expected float32"),
        ({"a": X.astype(np.float64), "b": X}, "array.astype(np.float32)"),
        ({"a": X.tolist(), "b": X}, "input 'a' is float64, expected float32"),
        ({"a": X.astype(">f4"), "b": X}, "expected float32"),
        ({"a": None, "b": X}, "input 'a' is object"),
        ({"a": X[0], "b": X}, "input 'a' has shape [2], expected f32[N,2]"),
        ({"a": X[:, :1], "b": X}, "input 'a' has shape [2, 1], expected f32[N,2]"),
        ({"a": X, "b": X[None]}, "input 'b' has shape [1, 2, 2], expected f32[M,N]"),
        ({"a": X[:1], "b": X}, "input 'b' has N = 2, but another input has 1"),
    ],
)
def test_wrong_feeds(feeds: dict[str, Any], words: str) -> None:
    """Found, expected, and what to do."""
    with pytest.raises(InputError, match=re.escape(words)):
        Session(two_by_two()).run(None, feeds)


def test_unknown_outputs() -> None:
    """The message lists those that there are."""
    session = Session(two_layers())
    with pytest.raises(InputError, match=re.escape("no output ['z']; the model has ['y']")):
        session.run(["z"], {"x": X})
    with pytest.raises(InputError, match="no output"):
        session.run(["q"], {"x": X})


def test_calling_needs_one_input_and_one_output() -> None:
    with pytest.raises(InputError, match=re.escape("call run(None, {name: array, ...})")):
        Session(two_by_two())(X)


def test_errors_are_also_builtin_errors() -> None:
    """A caller who knows nothing of nprt catches ValueError, or everything of nprt's as NprtError."""
    with pytest.raises(ValueError, match="missing inputs"):
        Session(two_layers()).run(None, {})
    assert issubclass(InputError, nprt.NprtError)
    assert issubclass(BackendUnavailableError, ImportError)


# --- making one ---------------------------------------------------------------------------------------


def test_a_model_from_anywhere(tmp_path: Path) -> None:
    """A Model, a path in either form, or the bytes of a file; with the same result."""
    two_layers().save(tmp_path / "m.nprt")
    for source in (
        two_layers(),
        tmp_path / "m.nprt",
        str(tmp_path / "m.nprt"),
        dumps(two_layers()),
    ):
        np.testing.assert_array_equal(Session(source)(X), Y)
    np.testing.assert_array_equal(nprt.Session(nprt.load(tmp_path / "m.nprt"))(X), Y)


def test_an_unsound_model_makes_no_session() -> None:
    """Checked however it came."""
    with pytest.raises(ModelError, match="no outputs"):
        Session(model([], {}, {}, (), ()))
    with pytest.raises(NotAModelFileError):
        Session(b"")


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_bad_threads(threads: Any) -> None:
    with pytest.raises(ValueError, match="expected None or an integer of at least 1"):
        Session(two_layers(), threads=threads)


@pytest.mark.parametrize("threads", [None, 1, 2, 64])
def test_threads_do_not_change_results(threads: int | None) -> None:
    np.testing.assert_array_equal(Session(two_layers(), threads=threads)(X), Y)


def test_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, or "auto", which an environment variable can settle."""
    monkeypatch.delenv("NPRT_BACKEND", raising=False)
    assert Session(two_layers(), backend="numpy").backend == "numpy"
    fastest = "numpy" if importlib.util.find_spec("llvmlite") is None else "numba"
    assert Session(two_layers()).backend == fastest
    monkeypatch.setenv("NPRT_BACKEND", "numpy")
    assert Session(two_layers()).backend == "numpy"
    monkeypatch.setenv("NPRT_BACKEND", "cuda")
    assert Session(two_layers(), backend="numpy").backend == "numpy"
    for options in ({}, {"backend": "cuda"}):
        with pytest.raises(BackendUnavailableError, match="backend 'cuda' is not one of numpy"):
            Session(two_layers(), **options)


def test_a_session_is_silent_unless_asked(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is printed; with logging at DEBUG one line names the backend."""
    with caplog.at_level(logging.DEBUG, logger="nprt"):
        Session(two_layers(), backend="numpy")
    assert [record.message for record in caplog.records] == ["session on backend numpy, 2 ops"]


def test_the_package_promises_what_it_lists() -> None:
    """`nprt.__all__` is the public interface, and importing it brings in neither converters nor their libraries."""
    assert sorted(nprt.__all__) == ["Model", "NprtError", "Session", "__version__", "load"]
    for name in nprt.__all__:
        assert getattr(nprt, name)
    code = (
        "import sys, nprt; [getattr(nprt, name) for name in nprt.__all__]; "
        "print(sorted(m for m in sys.modules if m.split('.')[0] in "
        "('numba', 'llvmlite', 'torch', 'onnx', 'onnxruntime', 'matplotlib', 'tqdm', 'zipfile') "
        "or m.startswith('nprt.converters')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_outputs_that_are_views_of_one_value_do_not_share_memory() -> None:
    """A caller may write into what it gets: neither its inputs nor its other results change."""
    types = {"x": floats("N", 2), "a": floats("N", 2), "b": floats("N", 1, 2)}
    ops = [Reshape(inputs=("x",), outputs=("a",)), Reshape(inputs=("a",), outputs=("b",))]
    x = X.copy()
    a, b = Session(model(ops, types, {}, ("x",), ("a", "b"))).run(None, {"x": x})
    a[:] = 7
    b[:] = 9
    np.testing.assert_array_equal(x, X)
    assert (a == 7).all()


@pytest.mark.parametrize("given", [X, [X], None])
def test_inputs_that_are_not_a_mapping(given: Any) -> None:
    """The array in place of {name: array} is the first mistake one makes."""
    with pytest.raises(InputError, match=r"expected a mapping of names to arrays: \{'x': array\}"):
        Session(two_layers()).run(None, given)


def test_a_mapping_given_to_a_call() -> None:
    """session({name: array}) is the other one."""
    with pytest.raises(InputError, match="call run"):
        Session(two_layers())({"x": X})  # type: ignore[arg-type]


@pytest.mark.parametrize("dims", [{}, {"M": 3}, {"N": "a"}, {"N": 0}, {"N": 2, "M": 1}])
def test_a_plan_is_for_sizes_of_the_free_dimensions(dims: dict[str, Any]) -> None:
    pytest.importorskip("llvmlite")
    session = Session(two_layers(), backend="numba")
    (free,) = {d for value in session.inputs for d in value.shape if isinstance(d, str)}
    dims = {free if name == "N" else name: size for name, size in dims.items()}
    with pytest.raises(InputError, match="sizes of"):
        session.plan(**dims)
