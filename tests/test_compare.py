"""Two runs compared op by op, in Python and by `nprt compare`."""

import dataclasses
import importlib
import json
import math
from itertools import pairwise

import numpy as np
import pytest

from nprt.cli import main
from nprt.compare import Row, compare, difference, values_of
from nprt.converters import QuantizationConfig, from_torch
from nprt.errors import InputError
from nprt.ir import Model, QuantParams, TensorType
from nprt.ops.add import Add
from nprt.ops.dequantize import Dequantize
from nprt.ops.linear import Linear
from nprt.ops.lookup import Lookup
from nprt.ops.quantize import Quantize
from nprt.ops.reshape import Reshape
from nprt.ops.unary import Unary
from nprt.session import Session

QUANT = QuantParams.of(0.5, 3)


def chain(shift: int = 0) -> Model:
    """quantize, lookup, add to itself, dequantize; the table is off by `shift` codes at each tenth code."""
    codes = np.arange(-128, 128)
    table = np.clip(codes + shift * (codes % 10 == 0), -128, 127).astype(np.int8)
    real, coded = TensorType("float32", ("N", 4)), TensorType("int8", ("N", 4), QUANT)
    return Model(
        ("x",),
        ("y",),
        {
            "x": real,
            "q": coded,
            "table": TensorType("int8", (256,)),
            "f": coded,
            "s": coded,
            "y": real,
        },
        {"table": table},
        (
            Quantize(inputs=("x",), outputs=("q",)),
            Lookup(inputs=("q", "table"), outputs=("f",)),
            Add(inputs=("f", "f"), outputs=("s",)),
            Dequantize(inputs=("s",), outputs=("y",)),
        ),
    )


@pytest.fixture
def feeds():
    return {"x": np.linspace(-20, 20, 40, dtype=np.float32).reshape(10, 4)}


def test_a_model_equals_itself(feeds):
    result = compare(chain(), feeds, values_of(chain(), feeds))
    assert [row.name for row in result.rows] == ["q", "f", "s", "y"]
    assert all(row.differing == 0 and row.snr == math.inf for row in result.rows)
    assert result.first_beyond() is None
    assert result.alone == ()


def test_the_first_op_that_differs_is_named(feeds):
    """What differs behind it is counted, too; with its own inputs it does not differ."""
    expected = values_of(chain(), feeds)
    result = compare(chain(2), feeds, expected)
    changed = np.count_nonzero(expected["q"] % 10 == 0)
    rows = {row.name: row for row in result.rows}
    assert result.first_beyond().name == "f"
    assert rows["q"].differing == 0
    assert (rows["f"].differing, rows["f"].largest) == (changed, 2)
    assert rows["s"].largest == 4
    assert result.first_beyond(codes=2).name == "s"
    assert result.first_beyond(codes=4, floats=1).name if result.first_beyond(4, 1) else True
    signal = np.sum((0.5 * (expected["f"] - 3.0)) ** 2)
    assert rows["f"].snr == pytest.approx(10 * np.log10(signal / (changed * 1.0)))
    alone = {row.name: row for row in compare(chain(2), feeds, expected, isolate=True).rows}
    assert alone["f"].differing == changed
    assert alone["s"].differing == alone["y"].differing == 0


def test_values_in_another_order_of_axes(feeds):
    """A source that is channels first is compared with values that are channels last."""
    same = values_of(chain(), feeds)
    expected = {name: array.T for name, array in same.items()} | {"y": same["y"]}
    result = compare(chain(), feeds, expected)
    assert len(result.rows) == 4
    assert result.first_beyond() is None
    assert compare(chain(), feeds, expected | {"y": same["y"].T}).alone == ("y",)


def test_values_of_another_shape_have_no_counterpart(feeds):
    expected = values_of(chain(), feeds) | {"f": np.zeros((3, 3), np.int8)}
    assert compare(chain(), feeds, expected).alone == ("f",)
    with pytest.raises(InputError, match="no value in common"):
        compare(chain(), feeds, {"other": np.zeros(3)})


def test_values_in_another_order_of_axes_of_the_same_size():
    """Channels last or first is seen from the numbers; any other order of equal sizes is a difference."""
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 4, 4, 4)).astype(np.float32)}
    model = unary("N", 4, 4, 4)
    values = values_of(model, feeds)
    for order in ((0, 1, 2, 3), (0, 3, 1, 2), (0, 2, 3, 1)):
        assert compare(model, feeds, {"h": values["h"].transpose(order)}).first_beyond() is None
    for order in ((0, 1, 3, 2), (0, 2, 1, 3), (3, 1, 2, 0)):
        assert compare(model, feeds, {"h": values["h"].transpose(order)}).first_beyond().name == "h"
    moved = values["y"].transpose(0, 3, 1, 2)  # an output keeps the order of its source
    assert compare(model, feeds, {"y": moved}).first_beyond().name == "y"


def unary(*shape) -> Model:
    real = TensorType("float32", shape)
    names = ("x", "h", "y")
    ops = [Unary(function="relu", inputs=(a,), outputs=(b,)) for a, b in pairwise(names)]
    return Model(("x",), ("y",), dict.fromkeys(names, real), {}, tuple(ops))


def test_floats_are_compared_relative_to_the_largest(feeds):
    model = unary("N", 4)
    expected = values_of(model, feeds)
    expected["y"] = expected["y"] * np.float32(1 + 1e-6)
    row = compare(model, feeds, expected).rows[-1]
    assert row.unit == "ratio"
    assert 5e-7 < row.largest < 2e-6
    assert not row.exceeds(0, 1e-5)
    assert row.exceeds(0, 1e-7)
    expected["y"][0, 0] = np.nan
    assert compare(model, feeds, expected).rows[-1].largest == math.inf


def test_infinities_and_nan_that_both_runs_have_are_equal():
    x = np.array([[np.inf, np.nan, -np.inf, 1]], np.float32)
    row = difference(TensorType("float32", (1, 4)), x, x.copy())
    assert (row.differing, row.largest, row.snr) == (0, 0, math.inf)


def test_floats_made_of_codes_are_compared_in_steps(feeds):
    """A scale that is off by a little is a part of a step; float32 noise is none."""
    expected = values_of(chain(), feeds)
    moved = {**expected, "y": expected["y"] + np.float32(0.5)}
    row = compare(chain(), feeds, moved).rows[-1]
    assert (row.name, row.unit, row.differing, row.largest) == ("y", "steps", 40, 1)
    assert compare(chain(), feeds, moved).first_beyond(codes=1, floats=0) is None
    noisy = {**expected, "y": expected["y"] * np.float32(1 + 1e-7)}
    assert compare(chain(), feeds, noisy).first_beyond() is None
    stretched = {**expected, "y": expected["y"] * np.float32(1.001)}
    row = compare(chain(), feeds, stretched).first_beyond()
    assert row.largest == pytest.approx(0.002 * np.abs(expected["y"]).max(), rel=1e-3)
    expected["y"][0, 0] = np.nan
    assert compare(chain(), feeds, expected).first_beyond(codes=100).largest == math.inf


def test_a_reshape_keeps_the_steps(feeds):
    model = chain()
    types = {**model.types, "z": TensorType("float32", ("N", 2, 2))}
    ops = (*model.ops, Reshape(inputs=("y",), outputs=("z",)))
    model = dataclasses.replace(model, types=types, outputs=("z",), ops=ops)
    assert [row.unit for row in compare(model, feeds, values_of(model, feeds)).rows[-2:]] == [
        "steps",
        "steps",
    ]


def test_codes_are_compared_with_floats_in_steps(feeds):
    """A float within half a step of a code is equal to it; one beyond the codes' range equals the end code."""
    expected = values_of(chain(), feeds)
    real = {name: np.float32(0.5) * (expected[name] - np.float32(3)) for name in ("q", "f", "s")}
    real["s"] = real["s"] + np.where(expected["s"] == 127, np.float32(9), 0)
    result = compare(chain(), feeds, {**real, "y": expected["y"]})
    assert [row.unit for row in result.rows] == ["steps"] * 4
    assert result.first_beyond() is None
    near = {"q": real["q"] + np.float32(0.24)}
    row = compare(chain(), feeds, near).rows[0]
    assert (row.differing, row.largest) == (0, 0)
    assert row.snr == pytest.approx(20 * np.log10(np.std(real["q"]) / 0.24), abs=1)
    far = {"q": real["q"].copy()}
    far["q"][0, 0] += np.float32(0.9)  # 1.8 steps
    row = compare(chain(), feeds, far).rows[0]
    assert (row.differing, row.largest) == (1, 2)


def test_ops_work_on_floats_quantized_to_their_types(feeds):
    """With `isolate`, what follows a difference has none, though the other run has floats."""
    expected = values_of(chain(), feeds)
    real = {name: np.float32(0.5) * (expected[name] - np.float32(3)) for name in ("q", "f", "s")}
    result = compare(chain(2), feeds, real, isolate=True)
    assert {row.name: row.largest for row in result.rows} == {"q": 0, "f": 2, "s": 0}


def test_codes_of_unknown_scale_have_no_counterpart(feeds):
    """Integers beside a float value, and codes of another dtype beside codes."""
    expected = values_of(chain(), feeds)
    other = {"y": expected["s"], "f": expected["f"].astype(np.uint8)}
    result = compare(chain(), feeds, {**expected, **other})
    assert result.alone == ("f", "y")
    assert [row.name for row in result.rows] == ["q", "s"]


def test_per_axis_codes_beside_floats():
    type = TensorType("int8", (2, 3), QuantParams.of([0.5, 0.25, 2.0], [0, 1, -3], axis=1))
    codes = np.array([[1, 2, 3], [-4, -5, -6]], np.int8)
    real = np.array([[0.5, 0.25, 12], [-2, -1.5, -6]], np.float32)
    assert difference(type, codes, real).differing == 0
    row = difference(type, codes, real + np.float32(0.75))
    assert (row.unit, row.differing, row.largest) == ("steps", 4, 3)


def test_float_feeds_of_a_model_that_takes_codes(feeds):
    model = chain()
    inner = dataclasses.replace(model, inputs=("q",), ops=model.ops[1:])
    types = {name: type for name, type in model.types.items() if name != "x"}
    inner = dataclasses.replace(inner, types=types)
    result = compare(inner, {"q": feeds["x"]}, values_of(model, feeds))
    assert [row.differing for row in result.rows] == [0, 0, 0]


def test_other_weights_are_suspected():
    """A hint where the first product agrees with nothing; none where a later one, or no product, does."""
    real = TensorType("float32", ("N", 8))
    names = {"x": real, "h": real, "y": real}
    random = np.random.default_rng(0)

    def model(*weights):
        types = {**names, "v": TensorType("float32", (8, 8)), "w": TensorType("float32", (8, 8))}
        ops = (
            Linear(inputs=("x", "v", ""), outputs=("h",)),
            Linear(inputs=("h", "w", ""), outputs=("y",)),
        )
        return Model(("x",), ("y",), types, dict(zip("vw", weights, strict=True)), ops)

    v, w, other = random.standard_normal((3, 8, 8)).astype(np.float32)
    feeds = {"x": random.standard_normal((5, 8)).astype(np.float32)}
    expected = values_of(model(v, w), feeds)
    assert "same weights?" in compare(model(other, w), feeds, expected).hint
    assert compare(model(v, other), feeds, expected).hint == ""
    assert compare(model(v, w), feeds, expected).hint == ""


@pytest.fixture
def files(tmp_path, feeds):
    chain().save(tmp_path / "a.nprt")
    chain(1).save(tmp_path / "b.nprt")
    np.savez(tmp_path / "x.npz", **feeds)
    return tmp_path


def test_the_command(files, capsys):
    same = [str(files / "a.nprt"), str(files / "a.nprt"), "-i", str(files / "x.npz")]
    assert main(["compare", *same]) == 0
    assert "no value is beyond the tolerance" in capsys.readouterr().out
    other = [str(files / "a.nprt"), str(files / "b.nprt"), "-i", str(files / "x.npz")]
    assert main(["compare", *other]) == 1
    assert "first beyond the tolerance: f, by lookup" in capsys.readouterr().out
    assert main(["compare", *other, "--tolerance", "2"]) == 0
    assert " 2 steps" in capsys.readouterr().out
    capsys.readouterr()
    assert main(["compare", *other, "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["first_beyond"] == "f"
    assert facts["hint"] is None
    assert list(facts["rows"][0]) == [f.name for f in dataclasses.fields(Row)]
    assert [row["unit"] for row in facts["rows"]] == ["codes", "codes", "codes", "steps"]
    assert facts["rows"][0]["snr"] is None
    assert facts["rows"][1]["largest"] == 1


def test_the_command_needs_one_counterpart(files, capsys):
    assert main(["compare", str(files / "a.nprt"), "-i", str(files / "x.npz")]) == 1
    assert "give what to compare with" in capsys.readouterr().err


def test_rows_are_frozen(feeds):
    row = compare(chain(), feeds, values_of(chain(), feeds)).rows[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.name = "other"


# --- with torch ---------------------------------------------------------------------------------------

FACTORY = """
import torch
from torch.ao import quantization as tq

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.relu = torch.nn.ReLU()
        self.fc = torch.nn.Linear(8 * 36, 5)

    def forward(self, x):
        x = self.relu(self.conv(self.quant(x)))
        return self.dequant(self.fc(x.flatten(1)))

def quantized():
    torch.manual_seed(0)
    net = Net().eval()
    net.qconfig = tq.get_default_qconfig("fbgemm")
    net = tq.prepare(tq.fuse_modules(net, [["conv", "relu"]]))
    net(torch.randn(4, 3, 8, 8))
    return tq.convert(net)

def plain():
    torch.manual_seed(0)
    return Net().eval(), torch.randn(2, 3, 8, 8)

def unseeded():
    torch.seed()
    return Net().eval(), torch.randn(2, 3, 8, 8)

def odd():
    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).real, torch.linalg.inv(x)
    return Odd(), torch.randn(2, 3, 3)
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A folder with a module of factories, as the working directory."""
    pytest.importorskip("torch")
    (tmp_path / "torch_factory.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    array = np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=array)
    return tmp_path


torch_quiet = pytest.mark.filterwarnings("ignore")


@torch_quiet
def test_a_torch_model_from_the_shell(factory, capsys):
    """Convert, run, compare; with numerics integer the difference is found and named."""
    spec = ["--torch", "torch_factory:quantized"]
    assert main(["convert", *spec, "--example", "x.npz", "-o", "a.nprt"]) == 0
    assert "numerics      fbgemm (1 op), onednn (1 op)" in capsys.readouterr().out
    assert main(["compare", "a.nprt", *spec, "-i", "x.npz"]) == 0
    out = capsys.readouterr().out
    assert "conv" in out
    assert "not compared, as the other run has no such value: quant.codes" in out
    integer = ["--example", "x.npz", "-o", "i.nprt", "--numerics", "integer"]
    assert main(["convert", *spec, *integer]) == 0
    capsys.readouterr()
    code = main(["compare", "i.nprt", *spec, "-i", "x.npz", "--json", "--tolerance", "1"])
    facts = json.loads(capsys.readouterr().out)
    assert code == (facts["first_beyond"] is not None)
    by_name = {row["name"]: row for row in facts["rows"]}
    assert 0 < by_name["conv"]["differing"] < by_name["conv"]["compared"] / 20
    assert by_name["conv"]["largest"] == 1
    assert by_name["quant"]["differing"] == 0


@torch_quiet
def test_a_float_torch_model_from_the_shell(factory, capsys):
    assert main(["convert", "--torch", "torch_factory:plain", "-c", "x.npz"]) == 0
    out = capsys.readouterr().out
    assert "plain.nprt" in out
    assert "signal-to-noise ratio" in out
    assert (factory / "plain.nprt").exists()
    command = ["compare", "plain.nprt", "--torch", "torch_factory:plain", "-i", "x.npz"]
    assert main([*command, "--tolerance", "8", "--float-tolerance", "0.1"]) == 0
    out = capsys.readouterr().out
    assert " steps" in out
    assert "same weights?" not in out
    assert main([*command, "--isolate", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert all(row["snr"] > 20 for row in rows)


@torch_quiet
def test_a_factory_without_a_seed_is_suspected(factory, capsys):
    assert main(["convert", "--torch", "torch_factory:unseeded", "-c", "x.npz"]) == 0
    command = ["compare", "unseeded.nprt", "--torch", "torch_factory:unseeded", "-i", "x.npz"]
    assert main(command) == 1
    assert "are these the same weights?" in capsys.readouterr().out


@torch_quiet
def test_a_torch_model_with_integer_edges(factory, capsys):
    """It is verified and compared with what torch computes from the floats that its codes stand for."""
    spec = ["--torch", "torch_factory:plain", "-c", "x.npz", "-o", "codes.nprt", "--integer-edges"]
    assert main(["convert", *spec]) == 0
    assert "codes of output differ" in capsys.readouterr().out
    command = ["compare", "codes.nprt", "--torch", "torch_factory:plain", "-i", "x.npz"]
    assert main([*command, "--tolerance", "8"]) == 0
    torch_factory = importlib.import_module("torch_factory")
    module, example = torch_factory.plain()
    calibration = dict(np.load("x.npz"))
    config = QuantizationConfig(float_edges=False)
    model = from_torch(module, example, calibration=calibration, config=config)
    assert Session(model).inputs[0].dtype == Session(model).outputs[0].dtype == np.int8
    assert any("codes of output differ" in note for note in model.origin.notes)


@torch_quiet
def test_what_is_wrong_with_a_torch_model_is_said(factory, capsys):
    """Every operator that cannot be converted, with its line; factories and files that are not there."""
    assert main(["convert", "--torch", "torch_factory:odd", "-o", "o.nprt"]) == 1
    err = capsys.readouterr().err
    assert "_fft_r2c" in err
    assert "linalg_inv" in err
    line = (
        FACTORY.splitlines().index("            return torch.fft.fft(x).real, torch.linalg.inv(x)")
        + 1
    )
    assert f"torch_factory.py:{line}" in err
    for spec, words in (
        ("torch_factory:nothing", "has no 'nothing'"),
        ("no_such_module:make", "no_such_module"),
        ("torch_factory", "package.module:factory"),
        ("gone.pt2", "no such file"),
    ):
        assert main(["convert", "--torch", spec, "--example", "x.npz", "-o", "o.nprt"]) == 1
        assert words in capsys.readouterr().err
    assert main(["convert", "--torch", "torch_factory:quantized", "-o", "o.nprt"]) == 1
    assert "--example" in capsys.readouterr().err


@torch_quiet
def test_files_of_torch(factory, capsys):
    """An exported program brings its example; TorchScript needs one; a pickle is refused."""
    torch = pytest.importorskip("torch")
    torch_factory = importlib.import_module("torch_factory")

    module, example = torch_factory.plain()
    program = torch.export.export(
        module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, "net.pt2")
    assert main(["convert", "net.pt2", "-c", "x.npz"]) == 0
    assert (factory / "net.nprt").exists()
    torch.jit.trace(torch_factory.quantized(), example).save("net.pt")
    assert main(["convert", "net.pt", "--example", "x.npz", "-o", "t.nprt"]) == 0
    assert main(["compare", "t.nprt", "--torch", "net.pt", "-i", "x.npz"]) == 0
    torch.save(module.state_dict(), "weights.pt")
    capsys.readouterr()
    assert main(["convert", "weights.pt", "--example", "x.npz"]) == 1
    assert "torch.save" in capsys.readouterr().err
