"""The command `nprt`: convert a model, run it, look at it.

Exit codes: 0 done; 1 it failed, for a reason written to stderr; 2 the command line is wrong; 130 interrupted.
What a command needs is imported when it runs, so that `nprt --version` starts at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nprt.errors import CalibrationError, InputError, NprtError
from nprt.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from nprt.converters import QuantizationConfig
    from nprt.ir import Model

FAILED, INTERRUPTED = 1, 130

OBSERVERS = ("minmax", "moving_average", "percentile", "entropy", "mse")

# How many float ops `info` shows before it says how many more there are.
SHOWN_FLOAT_OPS = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(arguments)
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    log = logging.getLogger("nprt")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.DEBUG if options.debug else logging.WARNING)
    try:
        options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("nprt: interrupted\n")
        return INTERRUPTED
    except (NprtError, OSError, ValueError, MemoryError) as error:
        if options.debug:
            raise
        sys.stderr.write(f"nprt: error: {_explain(error)}\n")
        return FAILED
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    return 0


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"nprt: {record.levelname.lower()}: {record.getMessage()}"


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"not enough memory {error}".rstrip()
    return str(error) or type(error).__name__


# --- the command line ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nprt", description="int8 inference with NumPy, from one .nprt file"
    )
    parser.add_argument("--version", action="version", version=f"nprt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_convert(commands)
    _add_run(commands)
    _add_info(commands)
    return parser


def _add_command(commands: Any, name: str, function: Any, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(command=function)
    parser.add_argument("--debug", action="store_true", help="log more; show tracebacks")
    return parser


def _add_convert(commands: Any) -> None:
    parser = _add_command(commands, "convert", convert, "convert an ONNX model to int8")
    add = parser.add_argument
    add("model", help="an ONNX file, float or quantized")
    add("-o", "--output", help="default: the name of the model, with .nprt")
    add(
        "-c",
        "--calibration",
        metavar="DATA",
        help="typical inputs for a float model: .npz with an array for each input, or .npy; "
        "some hundred samples along the first axis",
    )
    add(
        "--numerics",
        choices=("auto", "integer", "ort", "ort-int8"),
        default="auto",
        help="integer: fixed point only; ort: as onnxruntime computes; ort-int8: the same with its session "
        "option qdqisint8allowed; auto (default): integer for a float model, ort for a quantized one",
    )
    add("--require-integer", action="store_true", help="fail if an op works on float32")
    add("--integer-edges", action="store_true", help="inputs and outputs are codes, not float32")
    add(
        "--shape",
        action="append",
        default=[],
        type=_shape,
        metavar="NAME=DIM,...",
        help="the shape of an input, such as image=N,3,224,224",
    )
    add("-q", "--quiet", action="store_true", help="print nothing but warnings and errors")
    float_models = parser.add_argument_group("how a float model is quantized")
    add = float_models.add_argument
    add("--observer", choices=OBSERVERS, help="what finds the ranges of activations (default: mse)")
    add("--dtype", choices=("int8", "uint8"), help="of activations (default: int8)")
    add("--symmetric", action="store_true", help="zero points in the middle of the codes")
    add("--per-tensor", action="store_true", help="one scale for all channels of a weight")
    add(
        "--skip",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave the layers with such a name in float32, such as '/head/*'; may be repeated",
    )


def _add_run(commands: Any) -> None:
    parser = _add_command(commands, "run", run, "run a model on arrays")
    add = parser.add_argument
    add("model", help="an .nprt file")
    add(
        "-i",
        "--input",
        required=True,
        help=".npz with an array for each input, or .npy for a model with one",
    )
    add("-o", "--output", help=".npz to write, or .npy for a model with one output")
    add("--backend", default="auto", help="default: auto, the fastest there is")
    add("--threads", type=_positive, help="how many threads a run may use")
    add("--json", action="store_true", help="print the outputs' names and types as JSON")


def _add_info(commands: Any) -> None:
    parser = _add_command(commands, "info", info, "show what a model is and what it takes to run")
    add = parser.add_argument
    add("model", help="an .nprt file")
    add("--json", action="store_true", help="print everything as JSON")
    add("--ops", action="store_true", help="also print the op list")


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def _shape(text: str) -> tuple[str, tuple[int | str, ...]]:
    """`image=N,3,224,224` -> `("image", ("N", 3, 224, 224))`."""
    name, equals, dims = text.rpartition("=")
    parts = dims.split(",") if dims else []
    if not (name and equals) or not all(p.isdecimal() or p.isidentifier() for p in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not like image=N,3,224,224")
    return name, tuple(int(part) if part.isdecimal() else part for part in parts)


# --- commands -----------------------------------------------------------------------------------------


def convert(options: argparse.Namespace) -> None:
    output = options.output or os.path.splitext(options.model)[0] + ".nprt"
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise FileNotFoundError(2, "no such folder to write the model to", folder)
    if os.path.exists(output) and os.path.samefile(options.model, output):
        raise ValueError(
            f"{output}: the output would replace the source; give another name with -o"
        )

    from nprt.arrays import read_arrays
    from nprt.converters import from_onnx
    from nprt.info import summary

    expected, weights = _inspect_onnx(options.model)
    calibration = None
    if options.calibration is not None:
        calibration = read_arrays(options.calibration, expected, CalibrationError)
    start = time.perf_counter()
    model = from_onnx(
        options.model,
        calibration=calibration,
        numerics=options.numerics,
        config=_config(options),
        input_shapes=dict(options.shape),
        require_integer=options.require_integer,
        progress=not options.quiet and sys.stderr.isatty(),
    )
    model.save(output)
    if model.origin.engine and _quantization_flags(options):
        sys.stderr.write(
            f"nprt: warning: {options.model} was quantized already; "
            f"{', '.join(_quantization_flags(options))} had no effect\n"
        )
    if not options.quiet:
        facts = summary(model)
        _write(f"{options.model} -> {output}, in {time.perf_counter() - start:.1f} s\n")
        before, after = _bytes(weights), _bytes(facts["weight_bytes"])
        rows = [*_op_rows(model, facts), ("weights", [f"{before} -> {after}"])]
        if facts["float_ops"] and not (options.calibration or model.origin.engine):
            rows.append(("hint", ["with --calibration, more of it can work on integers"]))
        _write_table(rows, indent=2)


def run(options: argparse.Namespace) -> None:
    from nprt.arrays import is_npy, read_arrays, write_arrays
    from nprt.session import Session

    session = Session(options.model, backend=options.backend, threads=options.threads)
    expected = {value.name: value.dtype for value in session.inputs}
    feeds = read_arrays(options.input, expected, InputError)
    if options.output and is_npy(options.output) and len(session.outputs) != 1:
        raise ValueError(
            f"{options.output}: a .npy file holds one array, the model has "
            f"{len(session.outputs)} outputs; write an .npz file"
        )
    start = time.perf_counter()
    arrays = session.run(None, feeds)
    seconds = time.perf_counter() - start
    results = {value.name: array for value, array in zip(session.outputs, arrays, strict=True)}
    if options.output:
        write_arrays(options.output, results)
    described = [
        {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
        for name, array in results.items()
    ]
    if options.json:
        _write_json({"outputs": described, "backend": session.backend, "seconds": seconds})
        return
    for item in described:
        _write(f"{item['name']}  {item['dtype']}{item['shape']}\n")
    where = f", written to {options.output}" if options.output else ""
    _write(f"{1000 * seconds:.1f} ms on backend {session.backend}{where}\n")


def info(options: argparse.Namespace) -> None:
    from nprt.file import load
    from nprt.info import summary
    from nprt.ir import lines

    model = load(options.model)
    facts = {
        "file": os.fspath(options.model),
        "file_bytes": os.path.getsize(options.model),
        **summary(model),
    }
    if options.json:
        _write_json(facts | ({"op_list": list(lines(model))} if options.ops else {}))
        return
    _write_table(_info_rows(model, facts))
    if options.ops:
        _write("\n")
        for line in lines(model):
            _write(line + "\n")


# --- what is printed ----------------------------------------------------------------------------------

Row = tuple[str, list[str]]  # a heading, and the lines beside it


def _info_rows(model: Model, facts: Mapping[str, Any]) -> list[Row]:
    origin = facts["origin"]
    source = [part for part in (origin["framework"], origin["engine"]) if part]
    peak = f"{_bytes(facts['peak_activation_bytes'])} at the peak{_for_batch(model)}"
    return [
        ("file", [f"{facts['file']}, {_bytes(facts['file_bytes'])}"]),
        ("source", [", for ".join(source) or "unknown"]),
        ("written by", [origin["producer"] or "unknown"]),
        ("inputs", [f"{name}: {model.types[name]}" for name in model.inputs] or ["none"]),
        ("outputs", [f"{name}: {model.types[name]}" for name in model.outputs]),
        *_op_rows(model, facts),
        ("weights", [f"{_bytes(facts['weight_bytes'])}, {facts['parameters']:,} numbers"]),
        ("work", [f"{_millions(facts['macs'])} multiply-accumulates{_for_batch(model)}"]),
        ("activations", [peak]),
        *([("notes", list(origin["notes"]))] if origin["notes"] else []),
    ]


def _op_rows(model: Model, facts: Mapping[str, Any]) -> list[Row]:
    from nprt.info import float_ops, float_rounding

    counts = sorted(facts["ops"].items(), key=lambda item: (-item[1], item[0]))
    total = sum(count for _, count in counts)
    islands = float_ops(model)
    rounding = float_rounding(model)
    integer = [f"no, {len(islands)} of {total} ops work on float32:"] if islands else ["yes"]
    if rounding and not islands:
        integer = [
            f"no, {_count(len(rounding), 'op')} on codes multiplied by float32 scales (--numerics integer)"
        ]
    integer += [f"  {op.name} -> {', '.join(op.outputs)}" for op in islands[:SHOWN_FLOAT_OPS]]
    if len(islands) > SHOWN_FLOAT_OPS:
        integer.append(f"  ... and {len(islands) - SHOWN_FLOAT_OPS} more")
    rules = [f"{rule} ({_count(n, 'op')})" for rule, n in facts["numerics"].items()]
    return [
        ("ops", _wrap(f"{total}:", [f"{count} {name}" for name, count in counts])),
        ("integer only", integer),
        ("numerics", [", ".join(rules) or "none"]),
    ]


def _wrap(first: str, words: Sequence[str], width: int = 80) -> list[str]:
    """`first word, word, ...` in lines of at most `width` characters."""
    rows = [first]
    for index, word in enumerate(words):
        piece = word + ("," if index < len(words) - 1 else "")
        if len(rows[-1]) + 1 + len(piece) > width:
            rows.append(piece)
        else:
            rows[-1] += f" {piece}"
    return rows


def _for_batch(model: Model) -> str:
    free = {dim for name in model.inputs for dim in model.types[name].shape if isinstance(dim, str)}
    return f" for {', '.join(f'{dim} = 1' for dim in sorted(free))}" if free else ""


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _bytes(number: int) -> str:
    if number < 1000:
        return f"{number} B"
    if number < 1_000_000:
        return f"{number / 1000:.1f} kB"
    return f"{number / 1_000_000:.2f} MB"


def _millions(number: int) -> str:
    return f"{number:,}" if number < 10_000 else f"{number / 1_000_000:,.2f} M"


def _write_table(rows: Iterable[Row], indent: int = 0) -> None:
    rows = list(rows)
    width = max(len(heading) for heading, _ in rows)
    for heading, texts in rows:
        for index, text in enumerate(texts):
            _write(f"{' ' * indent}{'' if index else heading:{width}}  {text}\n")


def _write_json(value: Any) -> None:
    import json

    _write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _write(text: str) -> None:
    sys.stdout.write(text)


# --- ONNX ---------------------------------------------------------------------------------------------


def _inspect_onnx(path: str) -> tuple[dict[str, np.dtype[Any]], int]:
    """The dtypes of an ONNX model's inputs by name, and the bytes of its weights."""
    from nprt.converters.from_onnx import read_proto

    proto, _ = read_proto(path)
    import numpy as np
    from onnx.helper import tensor_dtype_to_np_dtype

    stored = list(proto.graph.initializer)
    names = {tensor.name for tensor in stored}
    for node in proto.graph.node:
        if node.op_type == "Constant":
            stored += [a.t for a in node.attribute if a.name == "value"]

    def dtype(element: int) -> np.dtype[Any]:
        try:
            return np.dtype(tensor_dtype_to_np_dtype(element))
        except KeyError:  # the converter reports it
            return np.dtype(np.float32)

    inputs = {
        value.name: dtype(value.type.tensor_type.elem_type)
        for value in proto.graph.input
        if value.name not in names
    }
    sizes = [int(np.prod(t.dims, dtype=np.int64)) * dtype(t.data_type).itemsize for t in stored]
    return inputs, sum(sizes)


def _config(options: argparse.Namespace) -> QuantizationConfig:
    from nprt.converters import LayerConfig, QuantizationConfig

    chosen = {"observer": options.observer, "dtype": options.dtype}
    return QuantizationConfig(
        symmetric=options.symmetric,
        per_channel=not options.per_tensor,
        float_edges=not options.integer_edges,
        layers={pattern: LayerConfig(skip=True) for pattern in options.skip},
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _quantization_flags(options: argparse.Namespace) -> list[str]:
    """The flags given that matter only for a float model."""
    names = ("observer", "dtype", "symmetric", "per_tensor", "skip")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]
