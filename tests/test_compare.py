"""Two runs compared op by op, in Python and by `nprt compare`."""

import dataclasses
import importlib
import json
import math

import numpy as np
import pytest

from nprt.cli import main
from nprt.compare import compare, values_of
from nprt.errors import InputError
from nprt.ir import Model, QuantParams, TensorType
from nprt.ops.add import Add
from nprt.ops.dequantize import Dequantize
from nprt.ops.lookup import Lookup
from nprt.ops.quantize import Quantize

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
    expected = {name: array.T for name, array in values_of(chain(), feeds).items()}
    result = compare(chain(), feeds, expected)
    assert len(result.rows) == 4
    assert result.first_beyond() is None


def test_values_of_another_shape_have_no_counterpart(feeds):
    expected = values_of(chain(), feeds) | {"f": np.zeros((3, 3), np.int8)}
    assert compare(chain(), feeds, expected).alone == ("f",)
    with pytest.raises(InputError, match="no value in common"):
        compare(chain(), feeds, {"other": np.zeros(3)})


def test_floats_are_compared_relative_to_the_largest(feeds):
    expected = values_of(chain(), feeds)
    expected["y"] = expected["y"] * np.float32(1 + 1e-6)
    row = compare(chain(), feeds, expected).rows[-1]
    assert not row.codes
    assert 5e-7 < row.largest < 2e-6
    assert not row.exceeds(0, 1e-5)
    assert row.exceeds(0, 1e-7)
    expected["y"][0, 0] = np.nan
    assert compare(chain(), feeds, expected).rows[-1].largest == math.inf


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
    assert main(["compare", *other, "--tolerance", "2", "--float-tolerance", "1"]) == 0
    capsys.readouterr()
    assert main(["compare", *other, "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["first_beyond"] == "f"
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
    assert "without a counterpart" in out
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
