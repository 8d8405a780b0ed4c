"""What a newcomer may give the torch front end, wrong things too, and what is said about it."""

import contextlib
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from nprt.cli import main
from nprt.converters import QuantizationConfig, from_torch
from nprt.errors import CalibrationError, InputError, ModelError, ModelFormatError

torch = pytest.importorskip("torch")
from torch import nn
from torch_runner import QUIET, eager, tq

from nprt.converters.torch_ops import source

pytestmark = [pytest.mark.filterwarnings(text) for text in QUIET]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.conv(x))


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
        self.fc = nn.Linear(4 * 64, 3)

    def forward(self, x):
        return self.fc(self.block(x).flatten(1))


X = torch.linspace(-1, 1, 2 * 64).reshape(2, 1, 8, 8)


def failing(module, example, **options):
    """What is said when a module cannot be converted."""
    with pytest.raises(InputError) as caught:
        from_torch(module, example, **options)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def said(capsys, *arguments):
    """The error of a command that fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([str(argument) for argument in arguments]) == 1
    return capsys.readouterr().err


# --- example inputs -----------------------------------------------------------------------------------


def test_arrays_are_example_inputs():
    module = nn.Linear(4, 3).eval()
    array = np.ones((2, 4), np.float32)
    array.flags.writeable = False
    for example in (array, (array,), [array], {"input": array}):
        assert from_torch(module, example).inputs == ("input",)
    assert "example inputs" in failing(module, np.array(["a"]))


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (
            torch.zeros(2, 3, 8, 8),
            ["x: f32[2,3,8,8], in block.conv (Conv2d) at ", "test_torch_source.py:", "channels"],
        ),
        (torch.zeros(2, 64), ["x: f32[2,64], in block.conv (Conv2d)"]),
        (X.double(), ["x: f64[2,1,8,8], in block.conv (Conv2d)"]),
        (X[:, :, :4], ["x: f32[2,1,4,8], in fc (Linear)", "cannot be multiplied"]),
        ((X, X), ["x: f32[2,1,8,8], input_1: f32[2,1,8,8]: ", "3 were given"]),
        ((), ["missing 1 required positional argument: 'x'"]),
    ],
    ids=["channels", "rank", "float64", "size", "too-many", "none"],
)
def test_example_inputs_that_do_not_fit(example, words):
    message = failing(CNN(), example)
    assert message.startswith("CNN failed on the example inputs ")
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_the_error_of_torch_is_the_cause():
    with pytest.raises(InputError) as caught:
        from_torch(CNN(), torch.zeros(2, 3, 8, 8))
    assert type(caught.value.__cause__) is RuntimeError


def test_the_module_that_raises_is_named_and_not_the_one_that_caught():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = CNN()
            self.second = nn.Linear(9, 2)

        def forward(self, x):
            with contextlib.suppress(RuntimeError):
                self.first(x)
            return self.second(x)

    assert "in second (Linear)" in failing(Careful(), torch.zeros(2, 3, 8, 8))


def test_graph_modules_and_torchscript_that_fail():
    bad = torch.zeros(2, 3, 8, 8)
    assert "conv" in failing(torch.fx.symbolic_trace(CNN().eval()), bad)
    message = failing(torch.jit.trace(CNN().eval(), X), bad)
    assert message.startswith("CNN failed")
    assert "channels" in message


def test_a_program_that_was_exported_for_one_batch():
    program = torch.export.export(CNN().eval(), (X,))
    recipe = (
        "exported for this batch alone; for a free one export with "
        "dynamic_shapes={'x': {0: torch.export.Dim('batch')}}"
    )
    message = failing(program, torch.zeros(3, 1, 8, 8))
    assert recipe in message
    assert "x: f32[3,1,8,8]: Guard failed" in message
    notes = from_torch(program, X).origin.notes
    assert any(note.startswith("the batch is fixed at 2: ") and recipe in note for note in notes)
    shapes = {"x": {0: torch.export.Dim("batch")}}
    free = torch.export.export(CNN().eval(), (X,), dynamic_shapes=shapes)
    assert from_torch(free, X).types["x"].shape[0] == "N"
    assert "dynamic_shapes" not in failing(program, torch.zeros(2, 1, 8, 9))


# --- not a module -------------------------------------------------------------------------------------


def test_what_is_not_a_module():
    assert failing(CNN, X) == "CNN is a class; pass an instance"
    assert "an OrderedDict is not a torch module" in failing(CNN().state_dict(), X)
    assert "int is not a torch module" in failing(3, X)


def test_tensors_of_torchao_are_refused_by_name():
    quantization = pytest.importorskip("torchao.quantization")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = CNN().eval()
        quantization.quantize_(module, quantization.Int8WeightOnlyConfig())
    message = "fc.weight is a torchao Int8Tensor, made by quantize_, which is not read; convert the float module, or"
    with pytest.raises(ModelError, match=message):
        from_torch(module, X)


def test_files_of_other_kinds(folder):
    """Recognized before torch reads them: its warnings would be errors here."""
    from_torch(nn.Linear(4, 3), torch.ones(2, 4)).save("a.nprt")
    (folder / "net.onnx").write_bytes(b"\x08\x08")
    (folder / "junk.pt2").write_bytes(b"junk")
    torch.save(CNN().state_dict(), "new.pth")
    torch.save(CNN().state_dict(), "old.pth", _use_new_zipfile_serialization=False)
    for name, words in (
        ("a.nprt", "is an .nprt file already"),
        ("net.onnx", "is an ONNX file; convert it with from_onnx"),
        ("junk.pt2", "neither an exported program nor TorchScript"),
        ("new.pth", "written by torch.save"),
        ("old.pth", "written by torch.save"),
    ):
        with pytest.raises(ModelFormatError, match=words):
            from_torch(name, X)


# --- the command line ---------------------------------------------------------------------------------


def test_files_of_other_kinds_from_the_shell(folder, capsys):
    from_torch(nn.Linear(4, 3), torch.ones(2, 4)).save("a.nprt")
    assert "a.nprt is an .nprt file already" in said(capsys, "convert", "a.nprt")
    assert "is an .nprt file already" in said(capsys, "convert", "a.nprt", "-o", "b.nprt")
    assert "is an .nprt file already" in said(
        capsys, "convert", "--torch", "a.nprt", "-o", "b.nprt"
    )
    torch.save(CNN().state_dict(), "new.pth")
    torch.save(CNN(), "new.bin")
    torch.save(CNN().state_dict(), "old.pth", _use_new_zipfile_serialization=False)
    for name in ("new.pth", "new.bin", "old.pth"):
        assert "written by torch.save, which holds a pickle" in said(capsys, "convert", name)
    torch.jit.trace(CNN().eval(), X).save("traced.bin")
    assert "traced.bin: is TorchScript" in said(capsys, "convert", "traced.bin")
    (folder / "junk.bin").write_bytes(b"junk")
    assert "not an ONNX model" in said(capsys, "convert", "junk.bin")


FACTORIES = """
import collections
import torch

def weights():
    return torch.nn.Linear(2, 2).state_dict()

def plain():
    return {}

def sized(size, depth=3):
    return torch.nn.Linear(size, size)

def fails():
    raise ValueError("no such size\\nat all")

def arrays():
    import numpy
    return torch.nn.Linear(4, 3), numpy.ones((2, 4), numpy.float32)

def mine():
    class Mine(torch.nn.Module):
        def forward(self, x):
            return x @ torch.ones(5, 5)
    return Mine(), torch.ones(2, 4)
"""


@pytest.fixture
def factories(folder):
    (folder / "factories_of_a_newcomer.py").write_text(FACTORIES)
    (folder / "broken_module.py").write_text("import no_such_library_anywhere")
    (folder / "raising_module.py").write_text("1 / 0")
    np.savez("x.npz", input=np.ones((9, 4), np.float32))
    yield "factories_of_a_newcomer"
    sys.modules.pop("factories_of_a_newcomer", None)


def test_a_factory_without_torch(factories, capsys):
    err = said(capsys, "convert", f"{factories}:arrays")
    assert f"did you mean --torch {factories}:arrays?" in err


def test_factories_that_are_wrong(factories, capsys):
    for spec, words in (
        (f"{factories}:weights", "returned an OrderedDict, not a module"),
        (f"{factories}:plain", "returned a dict, not a module"),
        (f"{factories}:sized", "is called without arguments; it needs size"),
        (f"{factories}:fails", f"{factories}:fails raised ValueError: no such size"),
        ("some/build.py:f", "write some.build:f"),
        ("broken_module:f", "importing broken_module raised ModuleNotFoundError: No module named"),
        ("raising_module:f", "importing raising_module raised ZeroDivisionError"),
        ("gone_module.part:f", "run from the folder that holds gone_module"),
        (f"{factories}:mine", "Mine failed on the example inputs x: f32[2,4], at "),
    ):
        assert words in said(capsys, "convert", "--torch", spec, "-o", "o.nprt"), spec
    with pytest.raises(InputError) as caught:
        main(["convert", "--torch", f"{factories}:fails", "--debug"])
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_factory_whose_example_is_an_array(factories, capsys):
    spec = ["--torch", f"{factories}:arrays"]
    assert main(["convert", *spec, "-o", "a.nprt"]) == 0
    assert main(["convert", *spec, "-o", "a.nprt", "-c", "x.npz", "--example", "x.npz"]) == 0
    assert (
        main(
            [
                "compare",
                "a.nprt",
                *spec,
                "-i",
                "x.npz",
                "--tolerance",
                "255",
                "--float-tolerance",
                "9",
            ]
        )
        == 0
    )


def test_a_batch_that_a_fixed_model_does_not_take(factories, capsys):
    spec = ["--torch", f"{factories}:arrays"]
    assert main(["convert", *spec, "-o", "a.nprt", "--fixed-batch"]) == 0
    err = said(capsys, "compare", "a.nprt", *spec, "-i", "x.npz")
    assert "input 'input' has shape [9, 4], expected f32[2,4]" in err


def test_a_program_of_pt2e_in_a_process_of_its_own(folder):
    """Nothing has loaded the operators that it is made of."""
    pytest.importorskip("torchao")
    from tests.torch_pt2e import quantized, xnnpack

    module = quantized(nn.Linear(4, 3), [torch.randn(8, 4)], xnnpack())
    torch.export.save(torch.export.export(module, (torch.randn(2, 4),)), "net.pt2")
    code = "import sys; from nprt.cli import main; sys.exit(main(['convert', 'net.pt2']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "net.pt2 -> net.nprt" in done.stdout
    assert "Warning" not in done.stderr


# --- bytes --------------------------------------------------------------------------------------------


def quantized_layers():
    net = nn.Sequential(
        tq.QuantStub(), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 5), tq.DeQuantStub()
    )
    return eager(net, "fbgemm", [X])


def test_packed_weights_are_counted(folder, capsys):
    module = quantized_layers()
    whole = 4 * 9 + 4 * 4 + 5 * 144 + 5 * 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, X)
    for form in (module, traced):
        assert whole <= source.weight_bytes(form) <= whole + 200
    torch.jit.freeze(traced.eval()).save("frozen.pt")
    np.savez("x.npz", input=X.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["convert", "frozen.pt", "--example", "x.npz"]) == 0
    line = next(text for text in capsys.readouterr().out.splitlines() if "weights" in text)
    assert "->" not in line


# --- calibration --------------------------------------------------------------------------------------


def test_calibration_with_tensors_and_arrays():
    module = CNN().eval()
    x = torch.linspace(-1, 1, 16 * 64).reshape(16, 1, 8, 8)
    expected = from_torch(module, X, calibration=[{"x": x.numpy()}])
    for data in ([x], [x.numpy()], [{"x": x}], {"x": x}, {"x": x.requires_grad_()}):
        assert str(from_torch(module, X, calibration=data)) == str(expected)
    assert expected.origin.notes == () or "calibrated on" not in str(expected.origin.notes)


def test_a_loader_of_inputs_and_labels():
    for feed in ((X, torch.zeros(2)), [X, torch.zeros(2)]):
        with pytest.raises(CalibrationError) as caught:
            from_torch(CNN().eval(), X, calibration=[feed])
        assert "for a DataLoader of (input, label): ({'x': a} for a, _ in loader)" in str(
            caught.value
        )


@pytest.mark.parametrize(("count", "words"), [(1, "on 1 sample;"), (7, "on 7 samples;"), (8, "")])
def test_few_samples_are_warned_of(count, words, caplog):
    x = torch.linspace(-1, 1, count * 64).reshape(count, 1, 8, 8)
    with caplog.at_level(logging.WARNING, "nprt"):
        model = from_torch(CNN().eval(), X, calibration={"x": x})
    notes = [note for note in model.origin.notes if note.startswith("calibrated")]
    assert len(notes) == bool(words) == ("calibrated" in caplog.text)
    assert all(f"calibrated {words}" in note for note in notes)


def test_a_config_is_an_object():
    for config in ({"dtype": "uint8"}, "uint8"):
        with pytest.raises(TypeError, match="expected a QuantizationConfig"):
            from_torch(CNN(), X, calibration={"x": X}, config=config)
    from_torch(CNN(), X, calibration={"x": X}, config=QuantizationConfig(dtype="uint8"))


def test_calibrating_what_is_quantized():
    with pytest.raises(ValueError, match=r"leave out calibration \(--calibration\)"):
        from_torch(quantized_layers(), X, calibration={"input": X})


def test_a_quantized_model_that_was_never_calibrated(caplog):
    """Converted without a single run: every observer still has what it begins with."""
    net = nn.Sequential(tq.QuantStub(), nn.Conv2d(1, 4, 3), nn.Sigmoid(), tq.DeQuantStub())
    words = "was this model calibrated, or is its state_dict not loaded?"
    with caplog.at_level(logging.WARNING, "nprt"):
        model = from_torch(eager(net, "fbgemm", []), X)
    assert any(words in note for note in model.origin.notes)
    assert words in caplog.text
    assert not any(words in note for note in from_torch(quantized_layers(), X).origin.notes)


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    """Those of docs/torch.md, one after the other."""
    page = (Path(__file__).parent.parent / "docs" / "torch.md").read_text(encoding="utf-8")
    first, *others = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    images = torch.randn(16, 3, 16, 16)
    scope = {"images": images.numpy(), "loader": [(part, None) for part in images.split(4)]}
    made, _, _ = first.partition("net = skeleton()")
    exec(compile(made, "torch.md", "exec"), scope)
    module = scope["Net"]().eval()
    module.qconfig = tq.get_default_qconfig("x86")
    prepared = tq.prepare(tq.fuse_modules(module, [["conv", "relu"]]))
    prepared(images)
    scope["state"] = tq.convert(prepared).state_dict()
    for example in (first, *others):
        exec(compile(example, "torch.md", "exec"), scope)
    assert (tmp_path / "net.nprt").exists()
    assert scope["model"].types["x"].shape == ("N", 3, 16, 16)
