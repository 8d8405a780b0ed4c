"""What a torch module computes, as the list of operators that PyTorch's dispatcher runs for example inputs.

One way to read every kind of module: eager modules with int8 kernels, FX and PT2E graphs, exported programs,
TorchScript and float modules all run the same dispatcher. A value that does not depend on the inputs is known, and its
operators are left out. The module runs a second time with one more sample; what then differs by one is the batch.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nprt.converters.torch_ops.recording import (
    Call,
    Codes,
    Known,
    Place,
    Recording,
    Ref,
    Value,
    leaves,
    mapped,
    one_line,
    tensors_of,
)
from nprt.converters.torch_ops.unmerged import REPLACED
from nprt.errors import InputError, ModelError, NprtError

# Operators whose Python result steers the program: with a value that depends on the inputs, the trace would be of one
# input only.
READS_DATA = (
    "aten._local_scalar_dense",
    "aten.equal",
    "aten.is_nonzero",
    "aten.nonzero",
    "aten.unique_dim",
    "aten._unique2",
    "aten.masked_select",
)

# Methods that hand a tensor's numbers to Python behind the dispatcher's back.
READS_NUMBERS = (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__)

# Operators whose results are drawn at random.
RANDOM = (
    "aten.bernoulli",
    "aten.exponential",
    "aten.multinomial",
    "aten.normal",
    "aten.poisson",
    "aten.rand",
    "aten.rand_like",
    "aten.randint",
    "aten.randint_like",
    "aten.randn",
    "aten.randn_like",
    "aten.random",
    "aten.randperm",
    "aten.uniform",
)

# The base classes of observers and fake quantizers, of torch and of torchao.
OBSERVERS = {"ObserverBase", "FakeQuantizeBase", "AffineQuantizedObserverBase"}

# Operators that choose what runs while it runs.
CONTROL_FLOW = ("cond", "while_loop", "scan", "map_impl", "associative_scan")

CHANGED = (
    "it reads a tensor that was changed through a view of it, by {}; "
    "make a new tensor with torch.cat or torch.where"
)

# Composite operators that are kept whole: their parts merge the batch with other dimensions, or repeat for each step.
WHOLE: dict[Any, str] = {
    torch._C._nn.linear: "aten.linear",
    torch.ops.aten.linear.default: "aten.linear",
    torch.max_pool1d: "aten.max_pool1d",
    torch.ops.aten.max_pool1d.default: "aten.max_pool1d",
    torch.matmul: "aten.matmul",
    torch.Tensor.matmul: "aten.matmul",
    torch.Tensor.__matmul__: "aten.matmul",
    torch.ops.aten.matmul.default: "aten.matmul",
    torch._C._nn.scaled_dot_product_attention: "aten.scaled_dot_product_attention",
    torch.ops.aten.scaled_dot_product_attention.default: "aten.scaled_dot_product_attention",
    torch.nn.functional.embedding_bag: "torch.embedding_bag",
    torch._C._VariableFunctions.lstm: "aten.lstm",
    torch.ops.aten.lstm.input: "aten.lstm",
    torch._C._VariableFunctions.gru: "aten.gru",
    torch.ops.aten.gru.input: "aten.gru",
    torch._C._VariableFunctions.rnn_tanh: "aten.rnn_tanh",
    torch.ops.aten.rnn_tanh.input: "aten.rnn_tanh",
    torch._C._VariableFunctions.rnn_relu: "aten.rnn_relu",
    torch.ops.aten.rnn_relu.input: "aten.rnn_relu",
    torch._C._VariableFunctions.lstm_cell: "aten.lstm_cell",
    torch.ops.aten.lstm_cell.default: "aten.lstm_cell",
    torch._C._VariableFunctions.gru_cell: "aten.gru_cell",
    torch.ops.aten.gru_cell.default: "aten.gru_cell",
}

# The memory format of channels-last tensors, by rank.
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

# Operators from codes to float32. Of what they make of known codes, the codes are kept.
DEQUANTIZE = (
    "aten.dequantize",
    "quantized_decomposed.dequantize_per_tensor",
    "quantized_decomposed.dequantize_per_channel",
)

# Operators that permute the axes of known float32, or copy it, and of its codes as well.
PERMUTES = ("aten.t", "aten.transpose", "aten.permute", "aten.detach", "aten.alias", "aten.clone")


# --- running ------------------------------------------------------------------------------------------


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records while it is active. Tensors are told apart by identity, so all of them are kept alive."""

    supports_higher_order_operators = True  # to refuse them by name

    def __init__(self, root: torch.nn.Module, keep_data: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = Recording()
        self.keep_data = keep_data
        self.paused = False
        self.stack: list[Place] = []
        self.node: Place | None = None
        self._modules = {id(module): name for name, module in root.named_modules()}
        named = [*root.named_parameters(), *root.named_buffers()]
        self._names = {id(tensor): name for name, tensor in named}
        self._fixed = set(self._names)
        self._versions = {id(tensor): _version(tensor) for _, tensor in named}
        self.failed: tuple[BaseException, Place] | None = None  # the innermost module that raised
        self.observers: list[str] = []  # modules that calibrate, or pretend to quantize
        self._refs: dict[int, Ref] = {}
        self._alive: list[Any] = [tensor for _, tensor in named]
        self._codes: dict[int, Codes] = {}
        self._storages: dict[int, set[int]] = {}
        self._stale: dict[
            int, str
        ] = {}  # the place where a tensor that it shares memory with was written
        self._random: set[int] = set()  # known tensors that were drawn, and what was made of them
        self._mixed: dict[int, str] = {}  # storages that inputs were written into, and the place

    def new(self, tensor: torch.Tensor) -> Ref:
        """Bind a tensor to a new value."""
        ref = Ref(len(self.recording.values))
        self.recording.values.append(_value(tensor, self.keep_data))
        self._refs[id(tensor)] = ref
        self._alive.append(tensor)
        self._stale.pop(id(tensor), None)
        self._storages.setdefault(_storage(tensor), set()).add(id(tensor))
        return ref

    def of(self, item: Any) -> Any:
        """A Ref or Known for a tensor; anything else as it is."""
        if not isinstance(item, torch.Tensor):
            return item
        ref = self._refs.get(id(item))
        if ref is not None:
            if id(item) in self._stale:
                self._problem(CHANGED.format(self._stale[id(item)]))
            return ref
        if id(item) in self._random:
            self._problem(
                "it reads random numbers; they would be the same each time the model runs"
            )
        same = self._versions.get(id(item)) == _version(item)
        snapshot = item if id(item) in self._fixed and same else item.detach().clone()
        codes = self._codes.get(id(item))
        return Known(snapshot.detach(), self._names.get(id(item), ""), codes=codes)

    def derived(self, items: Any) -> bool:
        return any(
            isinstance(item, torch.Tensor) and id(item) in self._refs for item in leaves(items)
        )

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):
            raise ModelError(control_flow(str(func), self.place()))
        if self.paused:
            return func(*args, **kwargs)
        name, _, overload = str(func).rpartition(".")
        written = _written(func, args, kwargs)
        if name.startswith("aten.unsafe_split"):
            func = _apart(func)
        return self.record(name, overload, func, args, kwargs, written)

    def record(
        self,
        name: str,
        overload: str,
        func: Callable[..., Any],
        args: Any,
        kwargs: Mapping[str, Any],
        written: Sequence[torch.Tensor] = (),
    ) -> Any:
        self.refuse_mixed((args, kwargs))
        if not self.derived((args, kwargs)):
            out = func(*args, **kwargs)
            self._name_known(args, out)
            if name.rstrip("_") in RANDOM or self._random.intersection(map(id, leaves(args))):
                drawn = tensors_of(out)
                self._random.update(map(id, drawn))
                self._alive += drawn
            self._keep_codes(name, func, args, out)
            for tensor in written:
                self._codes.pop(id(tensor), None)
            return out
        if name in READS_DATA:
            self.refuse(name)
        held_args, held_kwargs = (mapped(self.of, part) for part in (args, dict(kwargs)))
        paused, self.paused = self.paused, True
        try:
            out = func(*args, **kwargs)
        except Exception as error:
            self.fail(error)
            raise
        finally:
            self.paused = paused
        if self._fixed.intersection(map(id, written)):
            self._problem(
                f"{name} keeps what depends on the inputs in a buffer; a model has no state"
            )
        for tensor in written:
            sharing = self._storages.get(_storage(tensor), set())
            where = str(self.place())
            self._stale |= dict.fromkeys(sharing - {id(tensor)}, where)
            self._mixed[_storage(tensor)] = where
            self._alive.append(tensor)
        results = [out] if isinstance(out, torch.Tensor) else list(leaves(out))
        tensors = [item if isinstance(item, torch.Tensor) else None for item in results]
        outputs = tuple(None if tensor is None else self.new(tensor) for tensor in tensors)
        for tensor in written:
            if not any(tensor is item for item in tensors):
                self._problem(f"{name} writes into an argument, which has no place in an op list")
        self.recording.calls.append(
            Call(name, overload, tuple(held_args), held_kwargs, outputs, self.place())
        )
        return out

    def refuse_mixed(self, items: Any) -> None:
        """Known tensors whose storage got values that depend on the inputs are not known any more."""
        if not self._mixed:
            return
        for item in tensors_of(items):
            if id(item) not in self._refs and _storage(item) in self._mixed:
                self._problem(CHANGED.format(self._mixed[_storage(item)]))

    def refuse(self, name: str) -> None:
        self._problem(
            f"{name} makes the program depend on the data, as item(), if and while do, so it can only be traced for "
            "one input; use torch.where"
        )

    def place(self) -> Place:
        if self.stack and self.stack[-1].module:
            line = _user_line() or (self.node.line if self.node else "")
            return replace(self.stack[-1], line=line)
        if self.node is not None:
            return self.node
        return replace(self.stack[-1] if self.stack else Place(), line=_user_line())

    def fail(self, error: BaseException | None) -> None:
        """Keep the place of an error where it is first seen."""
        if error is None or (self.failed is not None and self.failed[0] is error):
            return
        if self.failed is None or not str(error).startswith(SCRIPTED):
            self.failed = error, self.place()

    def _problem(self, what: str) -> None:
        self.recording.problems.append(f"{self.place()}: {what}")

    def _name_known(self, args: Any, out: Any) -> None:
        names = {
            self._names.get(id(item), "") for item in leaves(args) if isinstance(item, torch.Tensor)
        }
        if isinstance(out, torch.Tensor) and id(out) not in self._names and len(names) == 1:
            self._names[id(out)] = names.pop()
            self._alive.append(out)

    def _keep_codes(self, name: str, func: Callable[..., Any], args: Any, out: Any) -> None:
        codes = None
        if name in DEQUANTIZE:
            codes = _codes_of(name, args)
        elif name in PERMUTES and id(args[0]) in self._codes:
            codes = _permuted(self._codes[id(args[0])], func, args[1:])
        if codes is not None:
            self._codes[id(out)] = codes
            self._alive.append(out)

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Follow which module is running."""

        def enter(module: torch.nn.Module, args: Any) -> None:
            name = self._modules.get(id(module), "")
            if not OBSERVERS.isdisjoint(base.__name__ for base in type(module).__mro__):
                self.observers.append(name)
            leaf = all(child.startswith("_packed") for child, _ in module.named_children())
            self.stack.append(Place(name, type(module).__name__, leaf=leaf))

        def leave(module: torch.nn.Module, args: Any, result: Any) -> None:
            self.fail(sys.exc_info()[1])
            self.stack.pop()

        handles = [
            torch.nn.modules.module.register_module_forward_pre_hook(enter),
            torch.nn.modules.module.register_module_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


class _Whole(TorchFunctionMode):
    """Hands the composite operators of WHOLE to the recorder before they come apart."""

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.recorder.paused or not func.__hash__ or _quantized((args, kwargs)):
            return func(*args, **kwargs)
        if func in READS_NUMBERS and self.recorder.derived(args):
            self.recorder.refuse(f"Tensor.{func.__name__}")
        if func is _DATA:
            return args[0].detach()
        if func in REPLACED:
            with self:
                result = REPLACED[func](*args, **kwargs)
            return func(*args, **kwargs) if result is NotImplemented else result
        name = WHOLE.get(func)
        if name is None:
            return func(*args, **kwargs)
        return self.recorder.record(name, "default", func, args, kwargs)


def control_flow(name: str, place: Place) -> str:
    return f"{place}: {name} is control flow, which a model does not have; use torch.where"


class _Interpreter(torch.fx.Interpreter):
    """Runs a graph module node by node, so that each operator knows the node it came from."""

    def __init__(self, module: torch.fx.GraphModule, recorder: _Recorder) -> None:
        super().__init__(module)
        self.recorder = recorder

    def run_node(self, n: torch.fx.Node) -> Any:
        self.recorder.node = _place_of(n)
        if isinstance(n.target, torch._ops.HigherOrderOperator) and str(n.target) in CONTROL_FLOW:
            raise ModelError(control_flow(str(n.target), self.recorder.node))
        try:
            return super().run_node(n)
        except Exception as error:
            self.recorder.fail(error)
            raise
        finally:
            self.recorder.node = None


def _place_of(node: torch.fx.Node) -> Place:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    module, kind = stack[-1] if stack else ("", "")
    module = module.removeprefix("L['self'].").removeprefix("L__self__.")
    path = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    kind = path.rpartition(".")[2]
    trace = node.meta.get("stack_trace") or ""
    found = [line for line in trace.splitlines() if line.lstrip().startswith("File")]
    line = ""
    for text in reversed(found):
        name, _, rest = text.strip().removeprefix('File "').partition('", line ')
        if os.sep + "torch" + os.sep not in name:
            line = f"{name}:{rest.split(',')[0]}"
            break
    leaf = path.startswith("torch.nn.") and ".container." not in path
    return Place(module, kind, line, leaf=bool(module) and leaf, node=node.name)


def record(
    module: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    keep_data: bool = False,
) -> Recording:
    """Run `module(*args, **kwargs)` once and record it.

    Args:
        keep_data: keep every intermediate tensor in `Value.data`.

    Raises:
        ModelError: observers run in the module.
        InputError: the module fails on these arguments; from what it raised.
    """
    root = module if isinstance(module, torch.nn.Module) else torch.nn.Module()
    recorder = _Recorder(root, keep_data)
    names = input_names(module, args, kwargs)
    args, kwargs = (mapped(_copy, part) for part in (args, dict(kwargs)))
    flat = [*tensors_of(args), *tensors_of(dict(kwargs))]
    recorder.recording.inputs = {
        name: recorder.new(tensor) for name, tensor in zip(names, flat, strict=True)
    }
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(0)
        stack.enter_context(torch.no_grad())
        stack.enter_context(_evaluated(root))
        stack.enter_context(_unchanged(root, recorder.recording))
        stack.enter_context(_unoptimized())
        stack.enter_context(_unfused())
        stack.enter_context(recorder.hooks())
        stack.enter_context(recorder)
        stack.enter_context(_Whole(recorder))
        ordered = _in_order(module, args, kwargs)
        try:
            if ordered is not None and isinstance(module, torch.fx.GraphModule):
                result = _Interpreter(module, recorder).run(*ordered)
            else:
                result = module(*args, **kwargs)
        except NprtError:
            raise
        except Exception as error:  # whatever a module raises
            inputs = dict(zip(names, flat, strict=True))
            raise InputError(_failure(module, inputs, error, recorder.failed)) from error
    if recorder.observers:
        count, first = len(recorder.observers), ", ".join(recorder.observers[:4])
        raise ModelError(
            f"{type(module).__name__} is prepared for quantization and not converted: {count} observers or fake "
            f"quantizers run in it, as {first}; call convert, convert_fx or convert_pt2e on it first"
        )
    recorder.recording.results = dict(_named_outputs(result))
    recorder.refuse_mixed(result)
    recorder.recording.outputs = {
        name: recorder.of(tensor) for name, tensor in recorder.recording.results.items()
    }
    return recorder.recording


# How torch names dtypes in its own graphs; others by their name.
SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u"}


# How an error of TorchScript begins; its last line is what an operator said.
SCRIPTED = "The following operation failed in the TorchScript interpreter"


def _failure(
    module: Any,
    inputs: Mapping[str, torch.Tensor],
    error: Exception,
    failed: tuple[BaseException, Place] | None,
) -> str:
    """One sentence on a module that raised `error` on its inputs."""
    kind = getattr(module, "original_name", "") or type(module).__name__
    given = ", ".join(
        f"{name}: {_short(tensor.dtype)}{list(tensor.shape)}".replace(" ", "").replace(":", ": ")
        for name, tensor in inputs.items()
    )
    seen: BaseException = error
    if failed is not None and str(error).startswith(SCRIPTED):
        seen = failed[0]  # TorchScript forgets what an operator said
    place = failed[1] if failed is not None and failed[0] is seen else Place()
    place = replace(place, line=_line_of(error) or place.line)
    where = ""
    if "Guard failed" not in str(error):
        if place.module or place.node:
            where = f", in {place}"
        elif place.line:
            where = f", at {place.line}"
    return f"{kind} failed on the example inputs {given}{where}: {reason(seen, inputs)}"


def _short(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return re.sub(r"^(float|bfloat|int|uint)(\d+)$", lambda m: SHORT[m[1]] + m[2], name)


def _line_of(error: BaseException) -> str:
    """`file:line` of the innermost frame of the user's that an error passed through; "" if there is none."""
    found = ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if _is_users(name):
            found = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def reason(error: BaseException, inputs: Mapping[str, torch.Tensor]) -> str:
    """Why a module fails: torch's first line, and what to do where it was exported for one batch."""
    if isinstance(error, InputError) and error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = one_line(error)
    if lines and lines[0].startswith(SCRIPTED):
        text = lines[-1].removeprefix("RuntimeError: ")
    elif lines and type(error) in (RuntimeError, AssertionError, TypeError, ValueError):
        text = lines[0]
    guard = re.search(r"Guard failed: (\w+)\.size\(\)\[0\] == ", text)
    if guard is not None:
        free = ", ".join(f"'{name}': {{0: torch.export.Dim('batch')}}" for name in inputs)
        text += (
            f"; exported for this batch alone; for a free one export with dynamic_shapes={{{free}}}"
        )
    return text


def _in_order(
    module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...] | None:
    """The arguments of a graph module by position, for the interpreter; None if it cannot run `module`."""
    if not isinstance(module, torch.fx.GraphModule):
        return None
    names = parameters_of(module)[len(args) : len(args) + len(kwargs)]
    return (*args, *(kwargs[name] for name in names)) if set(names) == set(kwargs) else None


@contextmanager
def _evaluated(root: torch.nn.Module) -> Iterator[None]:
    """Every module is in eval mode for the time being; exported graphs do not let eval() be called."""
    training = [module for module in root.modules() if getattr(module, "training", False)]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _unchanged(root: torch.nn.Module, recording: Recording) -> Iterator[None]:
    """Buffers that the module writes into get their values back; a problem of the recording if these were others."""
    before = [(name, b, _version(b), b.clone()) for name, b in root.named_buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer, version, value in before:
                if _version(buffer) == version:
                    continue
                if buffer.shape != value.shape or not torch.equal(buffer, value):
                    recording.problems.append(
                        f"buffer {name} changes whenever the module runs; a model has no state"
                    )
                buffer.copy_(value)


def _version(tensor: torch.Tensor) -> int:
    """A number that changes when the tensor is written; tensors made in inference mode have none."""
    return -1 if tensor.is_inference() else int(tensor._version)


@contextmanager
def _unfused() -> Iterator[None]:
    """Transformers run as they are written, not by one operator for a whole layer."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _unoptimized() -> Iterator[None]:
    """TorchScript runs as it is written, without fusing operators."""
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        yield


def input_names(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """A name for each input tensor, as the module's `forward` calls it."""
    if isinstance(module, torch.fx.GraphModule) and not kwargs:
        names = [node.name for node in module.graph.nodes if node.op == "placeholder"]
        if len(names) == len(tensors_of(args)):
            return names
    positional = parameters_of(module)
    names = []
    for index, argument in enumerate(args):
        base = positional[index] if index < len(positional) else f"input_{index}"
        names += _names_of(base, argument)
    for key, argument in kwargs.items():
        names += _names_of(key, argument)
    return names


def parameters_of(module: Any, *, required: bool = False) -> list[str]:
    """The names of the arguments of a module's `forward`; with `required`, of those that have no default."""
    if isinstance(module, torch.jit.ScriptModule):
        arguments = module.forward.schema.arguments[1:]  # type: ignore[attr-defined]
        return [a.name for a in arguments if not (required and a.has_default_value())]
    try:
        parameters = inspect.signature(getattr(module, "forward", module)).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [p for p in parameters if p.kind in kinds]
    return [p.name for p in named if not (required and p.default is not p.empty)]


def _names_of(base: str, argument: Any) -> list[str]:
    count = len(tensors_of(argument))
    if isinstance(argument, torch.Tensor):
        return [base]
    return [f"{base}_{index}" for index in range(count)]


def _named_outputs(result: Any) -> list[tuple[str, torch.Tensor]]:
    if isinstance(result, torch.Tensor):
        return [("output", result)]
    if isinstance(result, Mapping):
        found = [(str(key), item) for key, item in result.items() if isinstance(item, torch.Tensor)]
        if len(found) == len(tensors_of(result)):
            return found
    return [(f"output_{index}", tensor) for index, tensor in enumerate(tensors_of(result))]


# --- small pieces -------------------------------------------------------------------------------------


def _quantized(item: Any) -> bool:
    return any(tensor.is_quantized for tensor in tensors_of(item))


def _value(tensor: torch.Tensor, keep_data: bool) -> Value:
    scale = zero_point = None
    if tensor.is_quantized and tensor.qscheme() in (
        torch.per_tensor_affine,
        torch.per_tensor_symmetric,
    ):
        scale, zero_point = float(tensor.q_scale()), int(tensor.q_zero_point())
    data = tensor.detach().clone() if keep_data else None
    last = LAST.get(tensor.ndim)
    return Value(
        tuple(tensor.shape),
        tensor.dtype,
        scale,
        zero_point,
        tensor.is_contiguous(),
        last is not None and tensor.is_contiguous(memory_format=last),
        tuple(tensor.stride()),
        data,
    )


def _codes_of(name: str, args: Any) -> Codes | None:
    """What an operator of DEQUANTIZE was given; None for what nprt does not have as codes."""
    tensor = args[0]
    if name != "aten.dequantize":
        scale, zero_point = (torch.as_tensor(item) for item in args[1:3])
        axis = args[3] if name.endswith("per_channel") else None
        return Codes(tensor.clone(), scale, zero_point, axis)
    if not tensor.is_quantized or tensor.qscheme() == torch.per_channel_affine_float_qparams:
        return None
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        numbers = torch.tensor(tensor.q_scale()), torch.tensor(tensor.q_zero_point())
        return Codes(tensor.int_repr(), *numbers)
    scales, zero_points = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return Codes(tensor.int_repr(), scales, zero_points, tensor.q_per_channel_axis())


def _permuted(codes: Codes, func: Callable[..., Any], rest: Any) -> Codes:
    """Codes through an operator of PERMUTES."""
    tensor = func(codes.tensor, *rest)
    if codes.axis is None:
        return replace(codes, tensor=tensor)
    sizes = torch.empty([*range(2, 2 + tensor.ndim)], device="meta")  # tell the axes apart
    return replace(codes, tensor=tensor, axis=func(sizes, *rest).shape.index(2 + codes.axis))


def _apart(func: Callable[..., Any]) -> Callable[..., Any]:
    """Parts with memory of their own: what splits unsafely is promised not to be read any more."""

    def split(*args: Any, **kwargs: Any) -> list[torch.Tensor]:
        return [part.clone() for part in func(*args, **kwargs)]

    return split


def _copy(item: Any) -> Any:
    """A tensor of its own for each input: the same one may be given twice, and a module may write into it."""
    if not isinstance(item, torch.Tensor):
        return item
    if item.is_quantized:  # `clone` makes it contiguous
        last = LAST.get(item.ndim)
        if last is None or not item.is_contiguous(memory_format=last):
            return torch.empty_like(item).copy_(item)
        copy = torch.empty_like(item, memory_format=last).copy_(item)
        return copy.as_strided(item.shape, item.stride())  # torch looks at those of axes of 1, too
    return item.detach().clone()


def _storage(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):
        return id(tensor)


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensor arguments that an operator writes into, by its schema."""
    written = []
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        item = args[index] if index < len(args) else kwargs.get(argument.name)
        written += tensors_of(item)
    return written


def _user_line() -> str:
    """`file:line` of the innermost frame that is neither torch's nor ours; "" if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if frame.f_code is record.__code__:
            return ""
        if _is_users(name):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


# The folders of nprt's converters and of torch.
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_TORCH = os.path.dirname(os.path.abspath(torch.__file__))


def _is_users(file: str) -> bool:
    """Whether a file of Python is neither torch's nor ours."""
    return (
        not file.startswith(("<", _OURS, _TORCH))
        and os.path.sep in file
        and "contextlib" not in file
    )
