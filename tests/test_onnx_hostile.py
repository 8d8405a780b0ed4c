"""A damaged or hostile ONNX file gives a named error: never another exception, a hang, or the host's memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

from nprt.converters import from_onnx  # noqa: E402
from nprt.errors import ModelFormatError, NprtError, UnsupportedOpError  # noqa: E402

DIGITS = Path(__file__).parent.parent / "models" / "digits.onnx"


def int64(*values: int) -> onnx.TensorProto:
    return helper.make_tensor("value", TensorProto.INT64, [len(values)], values)


def model(*nodes: onnx.NodeProto, opset: int = 17) -> onnx.ModelProto:
    """x float32 [N, 4] -> nodes -> y."""
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def test_empty_and_garbage_bytes_are_refused() -> None:
    """What is not a protobuf of a model is a ModelFormatError."""
    for data in (b"", b"\x00", b"not a model at all", DIGITS.read_bytes()[:100]):
        with pytest.raises(ModelFormatError):
            from_onnx(data)


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    """A path that does not exist is FileNotFoundError, as from open()."""
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "missing.onnx")


@pytest.mark.parametrize("seed", range(4))
def test_mutated_models_raise_named_errors(seed: int) -> None:
    """Random bytes in everything but the weights: each mutant converts, or raises an NprtError."""
    rng = np.random.default_rng(seed)
    whole = onnx.load(DIGITS)
    weights = list(whole.graph.initializer)
    bare = onnx.ModelProto()
    bare.CopyFrom(whole)
    del bare.graph.initializer[:]
    calibration = [{"input": rng.normal(size=(2, 1, 8, 8)).astype(np.float32)}]
    outcomes = {"converted": 0, "refused": 0}
    for _ in range(100):
        raw = bytearray(bare.SerializeToString())
        for _ in range(rng.integers(1, 4)):
            raw[rng.integers(len(raw))] = rng.integers(256)
        mutant = onnx.ModelProto()
        try:
            mutant.ParseFromString(bytes(raw))
        except Exception:
            continue  # not a protobuf any more; the error of reading that is tested above
        mutant.graph.initializer.extend(weights)
        try:
            from_onnx(mutant, calibration=calibration)
            outcomes["converted"] += 1
        except NprtError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0


HUGE = 1 << 40
BOMBS = {
    "constant_of_shape": [
        helper.make_node("Constant", [], ["s"], value=int64(HUGE)),
        helper.make_node("ConstantOfShape", ["s"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ],
    "range": [
        helper.make_node("Constant", [], ["a"], value_int=0),
        helper.make_node("Constant", [], ["b"], value_int=HUGE),
        helper.make_node("Constant", [], ["c"], value_int=1),
        helper.make_node("Range", ["a", "b", "c"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ],
    "expand": [
        helper.make_node("Constant", [], ["s"], value=int64(HUGE, 1, 4)),
        helper.make_node("Expand", ["x", "s"], ["y"]),
    ],
    "pad": [
        helper.make_node("Constant", [], ["p"], value=int64(0, 0, 0, HUGE)),
        helper.make_node("Pad", ["x", "p"], ["y"]),
    ],
    "tile": [
        helper.make_node("Constant", [], ["r"], value=int64(1, HUGE)),
        helper.make_node("Tile", ["x", "r"], ["y"]),
    ],
    "outer": [
        helper.make_node("Constant", [], ["s"], value=int64(1 << 20, 1)),
        helper.make_node("Constant", [], ["t"], value=int64(1, 1 << 20)),
        helper.make_node("ConstantOfShape", ["s"], ["a"]),
        helper.make_node("ConstantOfShape", ["t"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ],
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_cannot_ask_for_huge_arrays(name: str) -> None:
    """A few bytes that stand for terabytes are refused before anything is allocated."""
    with pytest.raises(UnsupportedOpError):
        from_onnx(model(*BOMBS[name]), calibration=[{"x": np.ones((1, 4), np.float32)}])


def test_a_value_that_nothing_defines() -> None:
    """A node that reads an undefined value is reported with its name."""
    with pytest.raises(UnsupportedOpError, match="'ghost' is not defined"):
        from_onnx(model(helper.make_node("Add", ["x", "ghost"], ["y"])))


def test_an_output_that_nothing_computes() -> None:
    """A graph output without a node is an error, not a crash."""
    with pytest.raises(NprtError, match="'y'"):
        from_onnx(model(helper.make_node("Relu", ["x"], ["z"])))
