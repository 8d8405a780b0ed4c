"""The ops, by name. To add one: its file in this folder, and its line here."""

from __future__ import annotations

from nprt.ir import Op
from nprt.ops.adaptive_average_pool import AdaptiveAveragePool
from nprt.ops.add import Add
from nprt.ops.argmax import Argmax
from nprt.ops.average_pool import AveragePool
from nprt.ops.batch_norm import BatchNorm
from nprt.ops.cast import Cast
from nprt.ops.compare import Compare
from nprt.ops.concat import Concat
from nprt.ops.conv import Conv
from nprt.ops.conv_transpose import ConvTranspose
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.dequantize import Dequantize
from nprt.ops.div import Div
from nprt.ops.dynamic_linear import DynamicLinear
from nprt.ops.dynamic_quantize import DynamicQuantize
from nprt.ops.embedding_bag import EmbeddingBag
from nprt.ops.expand import Expand
from nprt.ops.gather import Gather
from nprt.ops.global_average_pool import GlobalAveragePool
from nprt.ops.group_norm import GroupNorm
from nprt.ops.gru import Gru
from nprt.ops.layer_norm import LayerNorm
from nprt.ops.linear import Linear
from nprt.ops.lookup import Lookup
from nprt.ops.lstm import Lstm
from nprt.ops.matmul import Matmul
from nprt.ops.max_pool import MaxPool
from nprt.ops.maximum import Maximum
from nprt.ops.minimum import Minimum
from nprt.ops.mul import Mul
from nprt.ops.pad import Pad
from nprt.ops.power import Power
from nprt.ops.prelu import Prelu
from nprt.ops.quantize import Quantize
from nprt.ops.reduce_mean import ReduceMean
from nprt.ops.reshape import Reshape
from nprt.ops.resize import Resize
from nprt.ops.slice import Slice
from nprt.ops.softmax import Softmax
from nprt.ops.sub import Sub
from nprt.ops.transpose import Transpose
from nprt.ops.unary import Unary
from nprt.ops.where import Where

OPS: dict[str, type[Op]] = {
    "adaptive_average_pool": AdaptiveAveragePool,
    "add": Add,
    "argmax": Argmax,
    "average_pool": AveragePool,
    "batch_norm": BatchNorm,
    "cast": Cast,
    "compare": Compare,
    "concat": Concat,
    "conv": Conv,
    "conv_transpose": ConvTranspose,
    "depthwise_conv": DepthwiseConv,
    "dequantize": Dequantize,
    "div": Div,
    "dynamic_linear": DynamicLinear,
    "dynamic_quantize": DynamicQuantize,
    "embedding_bag": EmbeddingBag,
    "expand": Expand,
    "gather": Gather,
    "global_average_pool": GlobalAveragePool,
    "group_norm": GroupNorm,
    "gru": Gru,
    "layer_norm": LayerNorm,
    "linear": Linear,
    "lookup": Lookup,
    "lstm": Lstm,
    "matmul": Matmul,
    "max_pool": MaxPool,
    "maximum": Maximum,
    "minimum": Minimum,
    "mul": Mul,
    "pad": Pad,
    "power": Power,
    "prelu": Prelu,
    "quantize": Quantize,
    "reduce_mean": ReduceMean,
    "reshape": Reshape,
    "resize": Resize,
    "slice": Slice,
    "softmax": Softmax,
    "sub": Sub,
    "transpose": Transpose,
    "unary": Unary,
    "where": Where,
}
