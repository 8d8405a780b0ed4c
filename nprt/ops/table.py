"""The ops, by name. To add one: its file in this folder, `<name>.py`, and its line here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module

from nprt.ir import Op

CLASSES = {
    "adaptive_average_pool": "AdaptiveAveragePool",
    "add": "Add",
    "argmax": "Argmax",
    "average_pool": "AveragePool",
    "batch_norm": "BatchNorm",
    "cast": "Cast",
    "compare": "Compare",
    "concat": "Concat",
    "conv": "Conv",
    "conv_transpose": "ConvTranspose",
    "depthwise_conv": "DepthwiseConv",
    "dequantize": "Dequantize",
    "div": "Div",
    "dynamic_linear": "DynamicLinear",
    "dynamic_quantize": "DynamicQuantize",
    "embedding_bag": "EmbeddingBag",
    "expand": "Expand",
    "gather": "Gather",
    "global_average_pool": "GlobalAveragePool",
    "group_norm": "GroupNorm",
    "gru": "Gru",
    "layer_norm": "LayerNorm",
    "linear": "Linear",
    "lookup": "Lookup",
    "lstm": "Lstm",
    "matmul": "Matmul",
    "max_pool": "MaxPool",
    "maximum": "Maximum",
    "minimum": "Minimum",
    "mul": "Mul",
    "pad": "Pad",
    "power": "Power",
    "prelu": "Prelu",
    "quantize": "Quantize",
    "reduce_mean": "ReduceMean",
    "reshape": "Reshape",
    "resize": "Resize",
    "slice": "Slice",
    "softmax": "Softmax",
    "sub": "Sub",
    "transpose": "Transpose",
    "unary": "Unary",
    "where": "Where",
}


class _Ops(Mapping[str, type[Op]]):
    """The classes, each imported when it is first asked for: a model needs few, and a process should start soon."""

    def __getitem__(self, name: str) -> type[Op]:
        return _imported(name)

    def __iter__(self) -> Iterator[str]:
        return iter(CLASSES)

    def __len__(self) -> int:
        return len(CLASSES)

    def __contains__(self, name: object) -> bool:
        return name in CLASSES


@cache
def _imported(name: str) -> type[Op]:
    name_of_class = CLASSES[name]
    op: type[Op] = getattr(import_module(f"nprt.ops.{name}"), name_of_class)
    return op


OPS: Mapping[str, type[Op]] = _Ops()
