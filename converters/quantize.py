"""Quantize a float graph: which values get codes, with which scale and zero point, and weights as int8.

The result is the same graph with `quantize` and `dequantize` around the ops that shall work on codes; `passes/qdq.py`
makes integer ops of it, as it does for models that came quantized.
"""

from __future__ import annotations

import difflib
import fnmatch
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nprt.converters.graph import DERIVED, FLOAT, Graph, Rewriter
from nprt.converters.observers import Observer, make_observer
from nprt.converters.passes.fold import LAYERS
from nprt.converters.passes.qdq import BINARIES, is_movement
from nprt.converters.passes.tabulate import ELEMENTWISE
from nprt.errors import CalibrationError, InputError
from nprt.ir import Array, Model, Op, QuantParams, TensorType
from nprt.ops.adaptive_average_pool import AdaptiveAveragePool
from nprt.ops.add import Add
from nprt.ops.average_pool import AveragePool
from nprt.ops.concat import Concat
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.dequantize import Dequantize
from nprt.ops.dynamic_linear import DynamicLinear
from nprt.ops.expand import Expand
from nprt.ops.gather import Gather
from nprt.ops.global_average_pool import GlobalAveragePool
from nprt.ops.linear import Linear
from nprt.ops.matmul import Matmul
from nprt.ops.mul import Mul
from nprt.ops.quantize import Quantize, to_codes
from nprt.ops.recurrent import RecurrentOp
from nprt.ops.reduce_mean import ReduceMean
from nprt.ops.resize import Resize
from nprt.ops.softmax import Softmax
from nprt.ops.unary import Unary
from nprt.ops.where import Where
from nprt.reference import ReferenceBackend
from nprt.session import bind_dims, check_feeds

log = logging.getLogger("nprt")

QUANTIZABLE = (
    *LAYERS,
    *BINARIES,
    Matmul,
    AdaptiveAveragePool,
    AveragePool,
    Concat,
    GlobalAveragePool,
    ReduceMean,
    Resize,
    Softmax,
    Unary,
)

ObserverSpec = str | Callable[..., Observer] | Observer

# Feeds that come as one big array are cut into pieces of this many samples.
CALIBRATION_BATCH = 32

# Calibration data of fewer samples are warned of.
FEW_SAMPLES = 8

# A constant that is added or chosen is a mask if it has an element this large: the element stands for infinity.
MASK = 1e4

# A bias is kept below this, so that the sum of products has room beside it in int32: eq. (4).
BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class LayerConfig:
    """How one layer departs from the rest.

    Attributes:
        skip: leave it in float32. A relu or clip belongs to the layer before it, and a function of one quantized value
            is a table of float32 results all the same; skip the layer itself.
        observer: what finds the range of its result, see `QuantizationConfig`.
        dtype: "int8" or "uint8" for its result.
    """

    skip: bool = False
    observer: ObserverSpec | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class QuantizationConfig:
    """How a float model is quantized.

    Attributes:
        dtype: "int8" or "uint8" for activations. Weights are int8 in [-127, 127].
        symmetric: activations have their zero point in the middle of the codes, but for the results of softmax and
            sigmoid, which are never negative.
        per_channel: weights have a scale for each output channel.
        float_edges: whether the model takes and gives float32. If not, its inputs and outputs are codes, with their
            scale and zero point in their type (`Session.inputs` shows them), and the first `quantize` and the last
            `dequantize` are left out. On the command line: --integer-edges.
        observer: "minmax", "moving_average", "percentile", "entropy", "mse", or a factory; see `observers`.
        layers: what is different for some layers, by the name of a node or of its result in the source model; the
            patterns of `fnmatch` are allowed ("/features/0/*"). The first that matches counts.
    """

    dtype: str = "int8"
    symmetric: bool = False
    per_channel: bool = True
    float_edges: bool = True
    observer: ObserverSpec = "mse"
    layers: Mapping[str, LayerConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for dtype in (self.dtype, *(layer.dtype for layer in self.layers.values() if layer.dtype)):
            if dtype not in ("int8", "uint8"):
                raise ValueError(f"dtype {dtype!r} is not int8 or uint8")

    def of(self, names: Iterable[str]) -> LayerConfig:
        """What holds for a layer known by `names`."""
        known = tuple(names)
        for pattern, layer in self.layers.items():
            if any(fnmatch.fnmatchcase(name, pattern) for name in known):
                return layer
        return LayerConfig()


def check_patterns(graph: Graph, config: QuantizationConfig) -> None:
    """Raises ValueError if a pattern matches no layer: a typing error would go unnoticed."""
    names = {name for op in graph.ops for name in _names(graph, op)}
    for pattern in config.layers:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, 4, 0.4) or sorted(names)[:8]
            raise ValueError(
                f"layers: {pattern!r} matches no layer; there are, for example, {', '.join(near)}"
            )


def _names(graph: Graph, op: Op) -> tuple[str, ...]:
    labels = graph.labels.get(op.outputs[0], ())
    return (
        *sorted(labels, key=str),  # of a hostile file they may be bytes
        *(name.split(DERIVED)[0] for name in op.outputs),
    )


# --- ranges to parameters -----------------------------------------------------------------------------


def choose_qparams(low: float, high: float, dtype: str, symmetric: bool) -> QuantParams:
    """Scale and zero point for reals in [low, high], a range that is first extended to hold 0: eq. (17) and (18).

    Asymmetric codes span the whole dtype. Symmetric ones leave out the least code and have the zero point in the middle
    (0 for int8, 128 for uint8).
    """
    low, high = min(low, 0.0), max(high, 0.0)
    least, greatest = (-128, 127) if dtype == "int8" else (0, 255)
    if symmetric:
        scale = np.float32(max(-low, high) / 127)
        return QuantParams.of(_positive(scale), least + 128)
    scale = _positive(np.float32((high - low) / 255))
    zero_point = np.clip(np.rint(least - low / np.float64(scale)), least, greatest)
    return QuantParams.of(scale, int(zero_point))


def _positive(scale: Array) -> Array:
    """A scale that is not zero: constant zero data have any scale."""
    tiny = np.finfo(np.float32).tiny
    return np.where(scale < tiny, np.float32(1), scale).astype(np.float32)


def quantize_weights(
    weights: Array, axis: int, per_channel: bool, least_scale: Array | None = None
) -> tuple[Array, QuantParams]:
    """int8 codes in [-127, 127] with zero point 0: eq. (19).

    Args:
        weights: float32.
        axis: of the output channels.
        least_scale: float64, per channel: scales are raised to this, so that a bias fits.
    """
    others = tuple(i for i in range(weights.ndim) if i != axis)
    greatest = np.abs(weights).max(axis=others if per_channel else None, initial=0)
    scale = _positive((greatest / np.float32(127)).astype(np.float32))
    if least_scale is not None:
        floor = least_scale if per_channel else least_scale.max(initial=0)
        scale = np.maximum(scale, floor.astype(np.float32))
    along = [-1 if i == axis else 1 for i in range(weights.ndim)] if per_channel else []
    codes = np.clip(np.rint(weights / scale.reshape(along)), -127, 127).astype(np.int8)
    return codes, QuantParams.of(scale, 0, axis if per_channel else None)


# --- which values get codes ---------------------------------------------------------------------------


class Plan:
    """Which ops work on codes, which values have codes, and which of these share one scale."""

    def __init__(self, graph: Graph, config: QuantizationConfig) -> None:
        self.graph = graph
        self.config = config
        self.readers = graph.consumers()
        self.producers = graph.producers()
        self._leaves: dict[str, frozenset[str]] = {}
        wanted = [op for op in graph.ops if self._wanted(op)]
        masked = self._find_masked()
        left = [_names(graph, op)[0] for op in wanted if id(op) in masked]
        if left:
            log.warning(
                "an operand of magnitude %g or more is taken for a mask; in float32 stay: %s",
                MASK,
                ", ".join(dict.fromkeys(left)),
            )
        self.quantized: set[int] = {id(op) for op in wanted} - masked
        self._drop_lonely_movement()
        self.values = self._values()
        self._parent: dict[str, str] = {}
        self._share()

    def _wanted(self, op: Op) -> bool:
        types = self.graph.types
        floats = all(types[name].is_float for name in op.outputs) and types[op.inputs[0]].is_float
        if not floats or not (isinstance(op, QUANTIZABLE) or is_movement(op)):
            return False
        if isinstance(op, LAYERS) and op.inputs[1] not in self.graph.constants:
            return False
        if isinstance(op, Softmax) and op.log:
            return False
        return not self.config.of(_names(self.graph, op)).skip

    def _find_masked(self) -> set[int]:
        """The ops on a mask, or on values such as scores to which one was added.

        These values get no codes, whose range the mask would take up. Divisors, weights and biases are none, nor are
        factors, but for a large negative one: `(1 - mask) * -10000` makes a mask when the model runs.
        """
        masks = {
            name
            for name, array in self.graph.constants.items()
            if array.dtype == np.float32 and not np.all(np.abs(array) < MASK)
        }
        unbounded: set[str] = set()
        found: set[int] = set()
        for op in self.graph.ops:
            if (is_movement(op) and op.inputs[0] in masks) or self._makes_mask(op):
                masks.update(op.outputs)
            elif unbounded.isdisjoint(op.used_inputs()) and not (
                isinstance(op, Add | Where) and not masks.isdisjoint(op.used_inputs())
            ):
                continue
            elif not isinstance(op, Softmax) or op.log:
                unbounded.update(op.outputs)
            found.add(id(op))
        return found

    def _makes_mask(self, op: Op) -> bool:
        factors = [self.graph.constants.get(name) for name in op.inputs]
        return isinstance(op, Mul) and any(f is not None and np.all(f <= -MASK) for f in factors)

    def _drop_lonely_movement(self) -> None:
        """Moving data on codes is worth it only next to another op on codes."""
        changed = True
        while changed:
            changed = False
            for op in self.graph.ops:
                if id(op) not in self.quantized or not is_movement(op):
                    continue
                around = [self.producers.get(op.inputs[0]), *self.readers[op.outputs[0]]]
                if not any(o is not None and id(o) in self.quantized for o in around):
                    self.quantized.remove(id(op))
                    changed = True

    def leaf(self, value: str) -> frozenset[str]:
        """The values that `value` is an elementwise function of; itself, if no elementwise op makes it."""
        if value in self._leaves:
            return self._leaves[value]
        op = self.producers.get(value)
        clamp = op is not None and self._clamped(op.inputs[0])
        if isinstance(op, ELEMENTWISE) and id(op) in self.quantized and not clamp:
            inputs = [name for name in op.inputs if not self._is_number(name)]
            leaves = frozenset().union(*map(self.leaf, inputs))
            same = all(
                self.graph.types[name].shape == self.graph.types[value].shape for name in inputs
            )
            result = leaves if len(leaves) == 1 and same else frozenset({value})
        else:
            result = frozenset({value})
        self._leaves[value] = result
        return result

    def _is_number(self, name: str) -> bool:
        array = self.graph.constants.get(name)
        return array is not None and array.size == 1

    def _clamped(self, value: str) -> bool:
        """Whether `value` is the result of an op that fuses the relu or clip which is all that reads it."""
        producer, readers = self.producers.get(value), self.readers.get(value, [])
        return (
            isinstance(producer, (*LAYERS, *BINARIES, AveragePool))
            and id(producer) in self.quantized
            and value not in self.graph.outputs
            and len(readers) == 1
            and isinstance(readers[0], Unary)
            and readers[0].function in ("relu", "clip")
            and id(readers[0]) in self.quantized
            and self.leaf(value) == {value}
        )

    def _inside(self, value: str) -> bool:
        """Whether `value` needs no codes: it is fused into, or part of a function of, what reads it."""
        readers = self.readers[value]
        if value in self.graph.outputs or not readers:
            return False
        producer = self.producers.get(value)
        if producer is None or id(producer) not in self.quantized:
            return False
        leaf = self.leaf(value)
        if self._clamped(value):
            return True
        if leaf == {value}:
            return False
        return all(
            isinstance(reader, ELEMENTWISE)
            and id(reader) in self.quantized
            and self.leaf(reader.outputs[0]) == leaf
            for reader in readers
        )

    def _values(self) -> list[str]:
        """The float32 values that get codes, in execution order."""
        graph = self.graph
        touched = dict.fromkeys(
            name
            for op in graph.ops
            if id(op) in self.quantized
            for name in (*self.activations(op), *op.outputs)
            if name not in graph.constants
        )
        return [name for name in touched if not self._inside(name) and not self._is_sum(name)]

    def _is_sum(self, value: str) -> bool:
        """Whether `value` is a float32 output that a layer makes: its int32 sums are scaled, and not rounded to codes.

        Nothing on codes reads it, so that rounding it would only lose precision: two classes could come out even.
        """
        return (
            self.config.float_edges
            and value in self.graph.outputs
            and not self.readers[value]
            and isinstance(self.producers.get(value), LAYERS)
        )

    def activations(self, op: Op) -> tuple[str, ...]:
        """The inputs of op that are activations."""
        return op.inputs[:1] if isinstance(op, LAYERS) or is_movement(op) else op.used_inputs()

    def _share(self) -> None:
        """One scale where an op only moves data, or asks for the same scale on both sides."""
        wanted = set(self.values)
        for op in self.graph.ops:
            if id(op) not in self.quantized:
                continue
            if is_movement(op) or (
                isinstance(op, Concat | AdaptiveAveragePool | AveragePool | Resize)
                and not self._is_mean(op)
            ):
                for name in self.activations(op):
                    if {name, op.outputs[0]} <= wanted and not {
                        self.fixed(name),
                        self.fixed(op.outputs[0]),
                    } - {None}:
                        self._parent[self.root(name)] = self.root(op.outputs[0])

    def _is_mean(self, op: Op) -> bool:
        """Whether op is an average pool with one window over everything: a mean, whose range is much the narrower."""
        shape = self.graph.types[op.outputs[0]].shape
        return isinstance(op, AveragePool) and all(size == 1 for size in shape[1:-1])

    def root(self, value: str) -> str:
        """The value that stands for all that share its scale."""
        while self._parent.get(value, value) != value:
            value = self._parent[value]
        return value

    def fixed(self, value: str) -> str | None:
        """The function whose range is known beforehand, if one makes `value`."""
        op = self.producers.get(value)
        if isinstance(op, Softmax) and not op.log:
            return "softmax"
        if isinstance(op, Unary) and op.function in ("sigmoid", "tanh", "hardsigmoid"):
            return op.function
        return None

    def layer_config(self, value: str) -> LayerConfig:
        """What holds for the layers that make `value`, or a value that shares its scale."""
        root = self.root(value)
        sharing = [other for other in self.values if self.root(other) == root]
        return self.config.of(name for other in sharing for name in self._layer_names(other))

    def _layer_names(self, value: str) -> Iterator[str]:
        """The names of the op that makes `value`, and of those that are fused into it."""
        op = self.producers.get(value)
        yield from _names(self.graph, op) if op is not None else (value,)
        for name in op.used_inputs() if op is not None else ():
            if name in self.producers and self._inside(name):
                yield from self._layer_names(name)

    def dtype(self, value: str) -> str:
        return self.layer_config(value).dtype or self.config.dtype

    def fixed_qparams(self, value: str) -> QuantParams | None:
        """Softmax and sigmoid in steps of 1/256 from 0, tanh in steps of 1/128 around 0, as in TFLite."""
        function = self.fixed(value)
        if function is None:
            return None
        least = -128 if self.dtype(value) == "int8" else 0
        return (
            QuantParams.of(1 / 128, least + 128)
            if function == "tanh"
            else QuantParams.of(1 / 256, least)
        )


# --- calibration --------------------------------------------------------------------------------------


def feeds_of(calibration: Any, batch: Any) -> Iterator[Mapping[str, Array]]:
    """Feeds one by one, from an iterable of them or from one mapping of whole arrays."""
    if isinstance(calibration, np.ndarray) or _is_tensor(calibration):
        raise CalibrationError(
            "calibration is an array; expected a mapping {input name: array}, or an iterable of such mappings"
        )
    if not isinstance(calibration, Mapping):
        yield from calibration
        return
    arrays = {name: _array(array) for name, array in calibration.items()}
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1:
        raise CalibrationError(
            f"calibration arrays have different numbers of samples: {sorted(counts)}"
        )
    step = batch if isinstance(batch, int) and batch > 0 else CALIBRATION_BATCH
    count = counts.pop()
    for start in range(0, count, step):
        if isinstance(batch, int) and start + step > count:
            start = count - step  # a whole batch, some of whose samples have been seen
        if start >= 0:
            yield {name: array[start : start + step] for name, array in arrays.items()}


def _is_tensor(item: Any) -> bool:
    """Whether this is a tensor of torch, which is not imported for that."""
    return hasattr(item, "detach") and hasattr(item, "cpu") and hasattr(item, "numpy")


def _array(item: Any) -> Array:
    return np.asarray(item.detach().cpu().numpy() if _is_tensor(item) else item)


def _feed(model: Model, feed: Any) -> dict[str, Array]:
    """One feed as a mapping; an array or tensor alone is that of the only input. Raises InputError."""
    if isinstance(feed, Mapping):
        return {name: _array(array) for name, array in feed.items()}
    if (isinstance(feed, np.ndarray) or _is_tensor(feed)) and len(model.inputs) == 1:
        return {model.inputs[0]: _array(feed)}
    names = ", ".join(f"{name!r}: array" for name in model.inputs)
    message = (
        f"the inputs are given as {type(feed).__name__}; expected a mapping of names to arrays: "
        f"{{{names}}}"
    )
    if isinstance(feed, tuple | list) and model.inputs:
        message += (
            f"; for a DataLoader of (input, label): ({{{model.inputs[0]!r}: a}} for a, _ in loader)"
        )
    raise InputError(message)


def calibrate(
    graph: Graph, plan: Plan, calibration: Any, progress: bool
) -> tuple[dict[str, QuantParams], list[str]]:
    """Run the float graph on the calibration data; the parameters of each value that gets codes, and notes."""
    model, names = graph.to_model(), graph.final_names()
    backend = ReferenceBackend(model)
    # By root: the observers of the values that share a scale, which spans all their ranges.
    observers: dict[str, list[Observer]] = {}
    watched: dict[str, Observer] = {}
    for value in plan.values:
        if plan.fixed(value):
            continue
        root = plan.root(value)
        producer = plan.producers.get(value)
        moved = producer is not None and (is_movement(producer) or isinstance(producer, Concat))
        inputs = plan.activations(producer) if producer is not None and moved else ()
        if inputs and all(plan.root(name) == root for name in inputs):
            continue  # nothing is in it that is not in its inputs
        spec = plan.layer_config(root).observer or plan.config.observer
        levels = 255 if plan.config.symmetric else 256
        watched[names[value]] = make_observer(spec, levels=levels, symmetric=plan.config.symmetric)
        observers.setdefault(root, []).append(watched[names[value]])

    def observe(name: str, type: TensorType, array: Array) -> None:
        if name in watched:
            try:
                watched[name].update(array)
            except ValueError as error:
                raise CalibrationError(f"calibrating {name!r}: {error}") from error

    count = samples = 0
    first = model.types[model.inputs[0]].shape[:1] if model.inputs else ()
    for feeds in _with_progress(feeds_of(calibration, first[0] if first else None), progress):
        try:
            arrays = check_feeds(model, _feed(model, feeds))
            dims = bind_dims(model, arrays)
        except InputError as error:
            raise CalibrationError(f"calibration feed {count}: {error}") from error
        for name, array in arrays.items():
            observe(name, model.types[name], array)
        with np.errstate(all="ignore"):  # the observers report what is not finite, by name
            backend.run(arrays, dims, (), observe)
        count += 1
        samples += max((len(array) if array.ndim else 1 for array in arrays.values()), default=0)
    if not count:
        raise CalibrationError(
            "the calibration data hold no complete batch; give some tens of typical inputs, "
            f"in pieces of the model's batch size {first[0] if first else ''}"
        )
    constant = [
        value for value in plan.graph.inputs if value in watched and _is_constant(watched[value])
    ]
    if constant:
        log.warning(
            "calibration: input %s never changes; are these typical inputs?", ", ".join(constant)
        )
    notes = []
    if samples < FEW_SAMPLES:
        notes.append(
            f"calibrated on {samples} sample{'' if samples == 1 else 's'}; ranges from so few are guesses, some "
            "hundred are usual"
        )
        log.warning("%s", notes[0])
    ranges = {root: span(observer.range() for observer in seen) for root, seen in observers.items()}
    params = {
        value: plan.fixed_qparams(value)
        or choose_qparams(*ranges[plan.root(value)], plan.dtype(value), plan.config.symmetric)
        for value in plan.values
    }
    return params, notes


def _is_constant(observer: Observer) -> bool:
    low, high = observer.range()
    return low == high


def span(ranges: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The least range that holds all of them."""
    lows, highs = zip(*ranges, strict=True)
    return min(lows), max(highs)


def _with_progress(
    feeds: Iterable[Mapping[str, Array]], progress: bool
) -> Iterable[Mapping[str, Array]]:
    if not progress:
        return feeds
    try:
        from tqdm import tqdm
    except ImportError:
        log.info("no progress bar without tqdm: pip install 'nprt[onnx]'")
        return feeds
    bar: Iterable[Mapping[str, Array]] = tqdm(feeds, desc="calibrating", unit="batch")
    return bar


# --- writing it into the graph ------------------------------------------------------------------------


def quantize_static(
    graph: Graph, config: QuantizationConfig, calibration: Any, progress: bool
) -> list[str]:
    """Insert `quantize` and `dequantize` around every op that the configuration lets work on codes; return notes."""
    check_patterns(graph, config)
    plan = Plan(graph, config)
    params, notes = calibrate(graph, plan, calibration, progress)
    insert_qdq(graph, plan, params)
    graph.rewrite(
        lambda rewriter, op: (
            isinstance(op, RecurrentOp) and quantize_recurrent(rewriter, op, config)
        )
    )
    return notes


def insert_qdq(graph: Graph, plan: Plan, params: Mapping[str, QuantParams]) -> None:
    """Values get codes with `params`.

    A value that an op on codes makes exists only as codes, and everything reads those. Of an input, or of the result of
    an op that stays in float32 (`exact`), only the ops on codes read codes. A function that is written with several ops
    is one function of its leaf, though one of its inner values may have codes for another reader.
    """
    real: dict[str, str] = {}

    def round_trip(rewriter: Rewriter, value: str) -> None:
        like = TensorType(plan.dtype(value), (), params[value])
        codes = rewriter.add(Quantize, value, out=f"{value}~codes", like=like)
        real[value] = rewriter.add(Dequantize, codes, out=f"{value}~real")
        if value not in exact:
            rewriter.replace(value, real[value])

    on_codes = {op.outputs: id(op) in plan.quantized for op in graph.ops}
    operands = {op.outputs: op.inputs for op in graph.ops}
    leaves = {
        name: plan.leaf(name) for op in graph.ops for name in (*op.used_inputs(), *op.outputs)
    }
    exact = {name for name in plan.values if not _made_on_codes(plan, name)}

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if (
            on_codes[op.outputs]
            and isinstance(op, Gather | Expand)
            and op.inputs[0] in graph.constants
        ):
            like = TensorType(plan.dtype(op.outputs[0]), (), params[op.outputs[0]])
            table = graph.constant(
                to_codes(graph.constants[op.inputs[0]], like), op.inputs[0], like.quant
            )
            like = like.with_shape(graph.types[op.outputs[0]].shape)
            codes = rewriter.add(
                type(op),
                table,
                *op.inputs[1:],
                out=f"{op.outputs[0]}~codes",
                like=like,
                **op.fields(),
            )
            return rewriter.rebind(op, Dequantize, codes)
        if on_codes[op.outputs]:
            for name in plan.activations(op):
                if name in exact and name not in real:
                    round_trip(rewriter, name)
            leaf = leaves[op.outputs[0]]
            op = replace(
                op,
                inputs=tuple(
                    old if old and leaves[old] == leaf != {old} else real.get(new, new)
                    for old, new in zip(operands[op.outputs], op.inputs, strict=True)
                ),
            )
            op = _with_quantized_constants(rewriter, plan, op)
        rewriter.emit(op)
        for name in op.outputs:
            if name in params and name not in exact:
                round_trip(rewriter, name)
        return True

    graph.rewrite(rule)


def _made_on_codes(plan: Plan, value: str) -> bool:
    op = plan.producers.get(value)
    return op is not None and id(op) in plan.quantized


def _with_quantized_constants(rewriter: Rewriter, plan: Plan, op: Op) -> Op:
    """Weights, and constant operands of more than one element, as dequantized codes."""
    graph = rewriter.graph
    inputs = list(op.inputs)
    if isinstance(op, LAYERS):
        weights = graph.constants[inputs[1]]
        axis = weights.ndim - 1 if isinstance(op, DepthwiseConv) else 0
        least = None
        bias = inputs[2] if len(inputs) > 2 else ""
        if bias in graph.constants:
            source = rewriter.producer(inputs[0], Dequantize)
            x_scale = float(graph.types[source.inputs[0]].scale)
            least = np.abs(graph.constants[bias]).astype(np.float64) / (x_scale * BIAS_LIMIT)
        codes, quant = quantize_weights(weights, axis, plan.config.per_channel, least)
        name = graph.constant(codes, inputs[1], quant)
        inputs[1] = rewriter.add(Dequantize, name, out=f"{name}~real")
    elif isinstance(op, (*BINARIES, Matmul, Concat)):
        for index, name in enumerate(inputs):
            array = graph.constants.get(name)
            if array is None or (array.size == 1 and not isinstance(op, Concat)):
                continue
            quant = choose_qparams(
                float(array.min()), float(array.max()), plan.config.dtype, plan.config.symmetric
            )
            like = TensorType(plan.config.dtype, (), quant)
            codes = to_codes(array, like)
            constant = graph.constant(codes, name, quant)
            inputs[index] = rewriter.add(Dequantize, constant, out=f"{constant}~real")
    return replace(op, inputs=tuple(inputs))


def quantize_recurrent(rewriter: Rewriter, op: RecurrentOp, config: QuantizationConfig) -> bool:
    """A float32 recurrent layer gets int8 weights, and quantizes its inputs at run time, row by row."""
    graph, inputs = rewriter.graph, list(op.inputs)
    first = op.INPUTS.index("w_ih")
    both = range(first, first + 2)
    plain = all(inputs[i] in graph.constants and graph.types[inputs[i]].is_float for i in both)
    if not plain or config.of(_names(graph, op)).skip:
        return False
    for i in both:
        codes, quant = quantize_weights(graph.constants[inputs[i]], 0, config.per_channel)
        inputs[i] = graph.constant(codes, inputs[i], quant)
    return rewriter.rebind(op, type(op), *inputs, reverse=op.reverse, per_row=True)


def quantize_dynamic(graph: Graph, config: QuantizationConfig) -> list[str]:
    """Linear and recurrent layers quantize their input at run time, row by row.

    Returns the layers that stay in float32.

    Raises:
        CalibrationError: there is no such layer, so that nothing would be quantized.
    """
    check_patterns(graph, config)
    left: list[str] = []
    done: list[str] = []

    def rule(rewriter: Rewriter, op: Op) -> bool:
        if isinstance(op, RecurrentOp):
            made = quantize_recurrent(rewriter, op, config)
            (done if made else left).append(_names(graph, op)[0])
            return made
        if not isinstance(op, (*LAYERS, Matmul)):
            return False
        constant = isinstance(op, Linear) and op.inputs[1] in graph.constants
        if (
            not constant
            or not graph.types[op.inputs[0]].is_float
            or config.of(_names(graph, op)).skip
        ):
            left.append(_names(graph, op)[0])
            return False
        codes, quant = quantize_weights(graph.constants[op.inputs[1]], 0, config.per_channel)
        weights = graph.constant(codes, op.inputs[1], quant)
        done.append(op.outputs[0])
        return rewriter.rebind(
            op, DynamicLinear, op.inputs[0], weights, *op.inputs[2:3], like=FLOAT, per_row=True
        )

    graph.rewrite(rule)
    if not done:
        raise CalibrationError(
            "this float model has no linear layer, nor a recurrent one, that could quantize its input at run time; "
            "pass calibration data (--calibration data.npz with some tens of typical inputs) so that its layers can be "
            "quantized"
        )
    return left
