"""The command `nprt`: convert a model, run it, look at it, compare it with its source.

Exit codes: 0 done; 1 it failed, for a reason written to stderr, or `compare` found differences beyond what is
tolerated; 2 the command line is wrong; 130 interrupted.
What a command needs is imported when it runs, so that `nprt --version` starts at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nprt.errors import BackendUnavailableError, CalibrationError, InputError, NprtError
from nprt.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from nprt.compare import Comparison
    from nprt.compare import Row as ComparedRow
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
        code = int(options.command(options) or 0)
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
    return code


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
    _add_compare(commands)
    _add_bench(commands)
    _add_warmup(commands)
    return parser


def _add_command(commands: Any, name: str, function: Any, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(command=function)
    parser.add_argument("--debug", action="store_true", help="log more; show tracebacks")
    return parser


def _add_convert(commands: Any) -> None:
    parser = _add_command(commands, "convert", convert, "convert an ONNX or torch model to int8")
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        help="an ONNX file, float or quantized; or what torch.export.save (.pt2) or torch.jit.save (.pt) wrote",
    )
    _add_torch(parser)
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
        choices=("auto", "integer", "ort", "ort-int8", "torch"),
        default="auto",
        help="integer: fixed point only; ort: as onnxruntime computes; ort-int8: the same with its session "
        "option qdqisint8allowed; torch: as the engine of a torch model computes; auto (default): integer for a "
        "float model, ort or torch for a quantized one",
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
    add("--plan", action="store_true", help="print the kernels of the fast backend and its memory")
    add("--batch", type=_positive, default=1, help="the free dimensions, for --plan (default: 1)")


def _add_bench(commands: Any) -> None:
    parser = _add_command(commands, "bench", bench, "measure how long a model takes")
    add = parser.add_argument
    add("model", help="an .nprt file")
    add("--backend", default="auto", help="default: auto, the fastest there is")
    add("--threads", type=_positive, help="how many threads a run may use")
    add("--batch", type=_positive, default=1, help="the free dimensions (default: 1)")
    add("--seconds", type=float, default=2.0, help="how long to measure (default: 2)")
    add("--per-op", action="store_true", help="also each kernel by itself, on one thread")
    add("--json", action="store_true", help="print everything as JSON")


def _add_warmup(commands: Any) -> None:
    help = "compile the kernels of models and keep them, so that a first run need not"
    parser = _add_command(commands, "warmup", warmup, help)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="an .nprt file")
    help = "the free dimensions, for which kernels differ: all batches that will come (default: 1)"
    parser.add_argument("--batch", type=_positive, nargs="+", default=[1], help=help)


def _add_torch(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("torch models")
    group.add_argument(
        "--torch",
        metavar="PACKAGE.MODULE:FACTORY",
        help="a function that returns a torch module, or the module and its example inputs; or a .pt2 or .pt file",
    )
    group.add_argument(
        "--example",
        metavar="DATA",
        help="example inputs for a torch model, .npz or .npy; default: those that come with it, or --calibration",
    )
    group.add_argument(
        "--engine",
        choices=("fbgemm", "x86", "onednn", "qnnpack"),
        help="the engine that a torch model was quantized for (default: torch's current one)",
    )
    group.add_argument("--fixed-batch", action="store_true", help="keep the batch of the example")


def _add_compare(commands: Any) -> None:
    parser = _add_command(
        commands,
        "compare",
        compare,
        "run a model beside the torch model it came from, or beside another .nprt file, and compare op by op",
    )
    add = parser.add_argument
    add("model", help="an .nprt file")
    add("other", nargs="?", help="another .nprt file of the same network")
    add("-i", "--input", required=True, help=".npz with an array for each input, or .npy")
    _add_torch(parser)
    add(
        "--isolate",
        action="store_true",
        help="give each op the other run's inputs, so that a difference shows only where it is made",
    )
    add(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="CODES",
        help="exit with 1 if codes, or numbers made of them in steps of their scale, differ by more (default: 0)",
    )
    add(
        "--float-tolerance",
        type=float,
        default=1e-5,
        metavar="RATIO",
        help="exit with 1 if floats differ by more than this share of the largest (default: 1e-5)",
    )
    add("--json", action="store_true", help="print everything as JSON")


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
    source = options.torch or options.model
    if source is None or (options.torch and options.model):
        raise ValueError("give one model to convert: a file, or --torch PACKAGE.MODULE:FACTORY")
    if options.model and _is_factory(options.model):
        raise ValueError(f"{options.model}: no such file; did you mean --torch {options.model}?")
    output = options.output or _default_output(source)
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise FileNotFoundError(2, "no such folder to write the model to", folder)
    if source.endswith(".nprt") and os.path.exists(source):
        raise ValueError(f"{source} is an .nprt file already; there is nothing to convert")
    if os.path.exists(output) and os.path.exists(source) and os.path.samefile(source, output):
        raise ValueError(
            f"{output}: the output would replace the source; give another name with -o"
        )

    from nprt.info import summary

    start = time.perf_counter()
    torch = options.torch or source.endswith((".pt2", ".pt"))
    model, weights = _from_torch(options, source) if torch else _from_onnx(options)
    model.save(output)
    if model.origin.engine and _quantization_flags(options):
        sys.stderr.write(
            f"nprt: warning: {source} was quantized already; "
            f"{', '.join(_quantization_flags(options))} had no effect\n"
        )
    if not options.quiet:
        facts = summary(model)
        _write(f"{source} -> {output}, in {time.perf_counter() - start:.1f} s\n")
        size = _bytes(facts["weight_bytes"])
        if 10 * weights >= facts["weight_bytes"]:  # else the source keeps them where nobody sees
            size = f"{_bytes(weights)} -> {size}"
        rows = [*_op_rows(model, facts), ("weights", [size])]
        if facts["float_ops"] and not (options.calibration or model.origin.engine):
            rows.append(("hint", ["with --calibration, more of it can work on integers"]))
        if model.origin.notes:
            rows.append(("notes", list(model.origin.notes)))
        _write_table(rows, indent=2)


def _is_factory(text: str) -> bool:
    """Whether this is like `package.module:factory`, and no file."""
    module, colon, factory = text.partition(":")
    parts = [*module.split("."), factory]
    return bool(colon) and all(map(str.isidentifier, parts)) and not os.path.exists(text)


def _default_output(source: str) -> str:
    name = source.rpartition(":")[2] if ":" in os.path.basename(source) else source
    return os.path.splitext(name)[0] + ".nprt"


def _from_onnx(options: argparse.Namespace) -> tuple[Model, int]:
    """The converted model, and the bytes of the source's weights."""
    from nprt.arrays import read_arrays
    from nprt.converters import from_onnx

    given = [name for name in ("example", "engine", "fixed_batch") if getattr(options, name)]
    if given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} is for torch models; {options.model} is ONNX"
        )
    expected, weights = _inspect_onnx(options.model)
    calibration = None
    if options.calibration is not None:
        calibration = read_arrays(options.calibration, expected, CalibrationError)
    model = from_onnx(
        options.model,
        calibration=calibration,
        numerics=options.numerics,
        config=_config(options),
        input_shapes=dict(options.shape),
        require_integer=options.require_integer,
        progress=not options.quiet and sys.stderr.isatty(),
    )
    return model, weights


def _from_torch(options: argparse.Namespace, spec: str) -> tuple[Model, int]:
    """The converted model, and the bytes of the source's weights."""
    from nprt.converters import from_torch
    from nprt.converters.from_torch import open_torch

    if options.shape:
        raise ValueError(
            "--shape is for ONNX models; the shapes of a torch model are its example's"
        )
    source = open_torch(spec)
    calibration = None
    if options.calibration is not None:
        calibration = source.read(options.calibration, CalibrationError)
    example = source.example
    if options.example is not None:
        example = source.arguments(source.read(options.example, InputError))
    elif example is None and calibration is not None:
        example = source.arguments({name: array[:2] for name, array in calibration.items()})
    if example is None:
        raise ValueError(
            f"{spec} comes without example inputs; give some with --example, or return them from the factory"
        )
    model = from_torch(
        source.module,
        example,
        calibration=calibration,
        numerics=options.numerics,
        config=_config(options),
        engine=options.engine,
        batch_axis=None if options.fixed_batch else 0,
        require_integer=options.require_integer,
        progress=not options.quiet and sys.stderr.isatty(),
    )
    return model, source.weight_bytes()


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
    with _showing_compilation() as compiled:
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
    took = f", {_count(len(compiled), 'kernel')} compiled" if compiled else ""
    _write(f"{1000 * seconds:.1f} ms on backend {session.backend}{took}{where}\n")


def info(options: argparse.Namespace) -> None:
    from nprt.file import load
    from nprt.info import summary
    from nprt.ir import lines

    model = load(options.model)
    if options.plan:
        _write_plan(model, options.batch, options.json)
        return
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


def _write_plan(model: Model, batch: int, as_json: bool) -> None:
    _require_compiler("info --plan")
    from nprt.jit.backend import JitBackend
    from nprt.jit.report import plan_rows, sizes

    plan = JitBackend(model, 1).plan(sizes(model, batch))
    if plan is None:
        raise ValueError("nothing to plan: a value is empty")
    if as_json:
        _write_json({"steps": plan.describe(), "arena_bytes": plan.arena_bytes})
        return
    _write_columns(plan_rows(plan))
    _write(f"arena {_bytes(plan.arena_bytes)}\n")


def bench(options: argparse.Namespace) -> None:
    if options.per_op:
        _require_compiler("bench --per-op")
    from nprt.jit import report
    from nprt.session import Session

    session = Session(options.model, backend=options.backend, threads=options.threads)
    feeds = report.example(session.model, options.batch)
    with _showing_compilation():
        session.run(None, feeds)
    times = report.measure(lambda: session.run(None, feeds), options.seconds)
    facts: dict[str, Any] = {"backend": session.backend, "batch": options.batch, **times}
    steps: list[dict[str, Any]] = []
    if options.per_op:
        backend, plan = session.compiled(report.sizes(session.model, options.batch))
        steps = report.time_steps(backend, plan, options.seconds)
        facts |= {"peak_macs_per_second": report.peak(), "steps": steps}
    if options.json:
        _write_json(facts)
        return
    median, least, p90 = (1000 * times[name] for name in ("median", "min", "p90"))
    _write(
        f"median {median:.4g} ms, min {least:.4g} ms, p90 {p90:.4g} ms "
        f"of {times['runs']} runs on backend {session.backend}\n"
    )
    if not steps:
        return
    peak = facts["peak_macs_per_second"]
    total = sum(step["seconds"] for step in steps)
    rows: list[tuple[str, ...]] = [("kernel", "value", "us", "share", "GMAC/s", "of peak")]
    for step in steps:
        rate = step["macs"] / step["seconds"]
        rows.append(
            (
                step["kernel"],
                step["writes"][0]["value"],
                f"{1e6 * step['seconds']:.1f}",
                f"{100 * step['seconds'] / total:.1f} %",
                f"{rate / 1e9:.0f}" if rate else "",
                f"{100 * rate / peak:.0f} %" if rate else "",
            )
        )
    _write_columns(rows)
    _write(f"kernels {1000 * total:.4g} ms; peak of one core {peak / 1e9:.0f} GMAC/s\n")


def warmup(options: argparse.Namespace) -> None:
    _require_compiler("warmup")
    from nprt.file import load
    from nprt.jit import cache, run, simd
    from nprt.jit.report import sizes, warm_up

    level = simd.choose()
    with _showing_compilation():
        run.native(level)
    for path in options.models:
        model = load(path)
        start = time.perf_counter()
        with _showing_compilation():
            counts = [warm_up(model, sizes(model, batch)) for batch in options.batch]
        needed, compiled = max(n for n, _ in counts), sum(c for _, c in counts)
        seconds = f" in {time.perf_counter() - start:.1f} s" if compiled else ""
        _write(f"{path}: {_count(needed, 'kernel')}, {compiled or 'none'} compiled{seconds}\n")
    if cache.unkept():
        raise ValueError(f"{cache.folder()}: machine code cannot be kept there; set NPRT_CACHE_DIR")
    _write(f"kept in {cache.folder()} for {level.name}\n")


def _require_compiler(command: str) -> None:
    if importlib.util.find_spec("llvmlite") is None:
        raise BackendUnavailableError(
            f"nprt {command} needs llvmlite, which is not installed; pip install 'nprt[numba]'"
        )


@contextlib.contextmanager
def _showing_compilation() -> Iterator[list[str]]:
    """What is compiled inside; on a terminal, a line counts it once that takes more than a second."""
    compiled: list[str] = []
    cache = sys.modules.get("nprt.jit.cache")
    if cache is None:
        yield compiled
        return
    start, shown = time.perf_counter(), ""

    def show(kernel: str) -> None:
        nonlocal shown
        compiled.append(kernel)
        seconds = time.perf_counter() - start
        if seconds > 1 and sys.stderr.isatty():
            shown = f"compiling: {_count(len(compiled), 'kernel')} in {seconds:.0f} s"
            sys.stderr.write(f"\r{shown}")
            sys.stderr.flush()

    try:
        with cache.watching(show):
            yield compiled
    finally:
        if shown:
            sys.stderr.write(f"\r{' ' * len(shown)}\r")
            sys.stderr.flush()


def _write_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        _write("  ".join(cells).rstrip() + "\n")


def compare(options: argparse.Namespace) -> int:
    from nprt.arrays import read_arrays
    from nprt.compare import as_inputs, as_reals, values_of
    from nprt.compare import compare as compare_runs
    from nprt.file import load
    from nprt.session import bind_dims, check_feeds

    if (options.torch is None) == (options.other is None):
        raise ValueError(
            "give what to compare with: another .nprt file, or --torch PACKAGE.MODULE:FACTORY"
        )
    model = load(options.model)
    types = {name: model.types[name] for name in model.inputs}
    dtypes = {name: None if type.is_codes else type.numpy for name, type in types.items()}
    feeds = read_arrays(options.input, dtypes, InputError)
    if options.torch is not None:
        from nprt.converters.from_torch import open_torch, torch_values

        bind_dims(model, check_feeds(model, as_inputs(model, feeds)))  # before torch complains
        source = open_torch(options.torch)
        expected = torch_values(source.module, source.arguments(feeds), options.engine)
    else:
        expected = values_of(load(options.other), as_reals(model, feeds))
    result = compare_runs(model, feeds, expected, isolate=options.isolate)
    first = result.first_beyond(options.tolerance, options.float_tolerance)
    other = options.torch or options.other
    if options.json:
        rows = [dataclasses.asdict(row) for row in result.rows]
        for row in rows:
            row["snr"] = row["snr"] if math.isfinite(row["snr"]) else None
        diverges = None if first is None else first.name
        facts = {
            "rows": rows,
            "alone": list(result.alone),
            "first_beyond": diverges,
            "hint": result.hint or None,
        }
        _write_json({"model": options.model, "other": other, **facts})
    else:
        _write_comparison(result, first, other)
    return FAILED if first is not None else 0


# --- what is printed ----------------------------------------------------------------------------------

Row = tuple[str, list[str]]  # a heading, and the lines beside it


def _write_comparison(result: Comparison, first: ComparedRow | None, other: str) -> None:
    table = [("op", "value", "compared", "differ", "largest", "SNR dB")]
    for row in result.rows:
        largest = _largest(row)
        snr = "exact" if row.snr == math.inf else f"{row.snr:.1f}"
        cells = (row.op, row.name, f"{row.compared:,}", f"{row.differing:,}", largest, snr)
        table.append(cells)
    widths = [max(len(cells[column]) for cells in table) for column in range(6)]
    for cells in table:
        left = [f"{cell:{width}}" for cell, width in zip(cells[:2], widths[:2], strict=True)]
        right = [f"{cell:>{width}}" for cell, width in zip(cells[2:], widths[2:], strict=True)]
        _write("  ".join([*left, *right]).rstrip() + "\n")
    total = sum(row.compared for row in result.rows)
    differ = sum(row.differing for row in result.rows)
    _write(f"\n{differ:,} of {total:,} elements in {len(result.rows)} values differ from {other}\n")
    if result.alone:
        names = ", ".join(_shortened(result.alone))
        _write(f"not compared, as the other run has no such value: {names}\n")
    if first is None:
        _write("no value is beyond the tolerance\n")
    else:
        _write(f"first beyond the tolerance: {first.name}, by {first.op}\n")
    if result.hint:
        _write(f"{result.hint}\n")


def _largest(row: ComparedRow) -> str:
    """The largest difference with its unit: codes have none, steps their name, ratios an exponent."""
    if row.unit == "ratio":
        return f"{row.largest:.1e}" if row.largest else "0"
    whole = float(row.largest).is_integer() or math.isinf(row.largest)
    number = f"{row.largest:.0f}" if whole else f"{row.largest:.3g}"
    if row.unit == "codes" or not row.largest:
        return number
    return f"{number} step{'s' * (row.largest != 1)}"


def _shortened(names: Sequence[str], most: int = 8) -> list[str]:
    return [*names[:most], *([f"... {len(names) - most} more"] if len(names) > most else [])]


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
