"""The ops, by name. To add one: its file in this folder, and its line here."""

from __future__ import annotations

from nprt.ir import Op
from nprt.ops.add import Add
from nprt.ops.conv import Conv
from nprt.ops.conv_transpose import ConvTranspose
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.dequantize import Dequantize
from nprt.ops.div import Div
from nprt.ops.dynamic_linear import DynamicLinear
from nprt.ops.dynamic_quantize import DynamicQuantize
from nprt.ops.linear import Linear
from nprt.ops.lookup import Lookup
from nprt.ops.matmul import Matmul
from nprt.ops.mul import Mul
from nprt.ops.quantize import Quantize
from nprt.ops.sub import Sub

OPS: dict[str, type[Op]] = {
    "add": Add,
    "conv": Conv,
    "conv_transpose": ConvTranspose,
    "depthwise_conv": DepthwiseConv,
    "dequantize": Dequantize,
    "div": Div,
    "dynamic_linear": DynamicLinear,
    "dynamic_quantize": DynamicQuantize,
    "linear": Linear,
    "lookup": Lookup,
    "matmul": Matmul,
    "mul": Mul,
    "quantize": Quantize,
    "sub": Sub,
}
