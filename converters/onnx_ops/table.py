"""Every ONNX operator that nprt reads, and the function that translates it. Names of other domains begin with theirs."""

from __future__ import annotations

import numpy as np

from nprt.converters.onnx_ops import elementwise, layers, movement, pooling, quantized
from nprt.converters.onnx_ops.elementwise import binary, unary
from nprt.converters.onnx_ops.movement import Translate, arithmetic, foldable
from nprt.converters.onnx_ops.movement import elementwise as each
from nprt.ops.add import Add
from nprt.ops.div import Div
from nprt.ops.mul import Mul
from nprt.ops.sub import Sub

IMPORTERS: dict[str, Translate] = {
    # layers
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "Gemm": layers.gemm,
    "MatMul": layers.matmul,
    "BatchNormalization": elementwise.batch_norm,
    "LayerNormalization": elementwise.layer_norm,
    # arithmetic
    "Add": foldable(arithmetic(np.add), binary(Add)),
    "Sub": foldable(arithmetic(np.subtract), binary(Sub)),
    "Mul": foldable(arithmetic(np.multiply), binary(Mul)),
    "Div": foldable(arithmetic(movement.divide), binary(Div)),
    "Pow": elementwise.power,
    "Max": foldable(each(np.maximum), elementwise.bound("Max")),
    "Min": foldable(each(np.minimum), elementwise.bound("Min")),
    # activations and other functions of one element
    "Relu": unary("relu"),
    "LeakyRelu": unary("leaky_relu", alpha=0.01),
    "Elu": unary("elu", alpha=1.0),
    "Selu": unary("selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Celu": unary("celu", alpha=1.0),
    "ThresholdedRelu": elementwise.thresholded_relu,
    "Sigmoid": unary("sigmoid"),
    "HardSigmoid": unary("hardsigmoid", alpha=0.2, beta=0.5),
    "HardSwish": unary("hardswish"),
    "Tanh": unary("tanh"),
    "Softplus": unary("softplus"),
    "Softsign": unary("softsign"),
    "Mish": unary("mish"),
    "Erf": unary("erf"),
    "Exp": unary("exp"),
    "Log": unary("log"),
    "Sqrt": foldable(each(np.sqrt), unary("sqrt")),
    "Reciprocal": unary("reciprocal"),
    "Abs": unary("abs"),
    "Neg": unary("neg"),
    "Floor": foldable(each(np.floor), unary("floor")),
    "Ceil": foldable(each(np.ceil), unary("ceil")),
    "Round": unary("round"),
    "Sign": unary("sign"),
    "Sin": unary("sin"),
    "Cos": unary("cos"),
    "Gelu": elementwise.gelu,
    "com.microsoft.Gelu": unary("gelu"),
    "com.microsoft.QuickGelu": unary("quick_gelu", alpha=1.702),
    "Clip": elementwise.clip,
    "PRelu": elementwise.prelu,
    "Softmax": elementwise.softmax,
    "LogSoftmax": elementwise.log_softmax,
    # pooling and resizing
    "MaxPool": pooling.max_pool,
    "AveragePool": pooling.average_pool,
    "GlobalAveragePool": pooling.global_average_pool,
    "GlobalMaxPool": pooling.global_max_pool,
    "ReduceMean": movement.reduce_mean,
    "Resize": pooling.resize,
    "Upsample": pooling.resize,
    # movement
    "Identity": movement.identity,
    "Dropout": movement.identity,
    "Reshape": movement.reshape,
    "Flatten": movement.flatten,
    "Transpose": movement.transpose,
    "Squeeze": movement.squeeze,
    "Unsqueeze": movement.unsqueeze,
    "Concat": foldable(movement.evaluate_concat, movement.concat),
    "Split": movement.split,
    "Slice": movement.slice_,
    "Pad": movement.pad,
    "Gather": foldable(movement.evaluate_gather, movement.gather),
    "Expand": foldable(movement.evaluate_expand, movement.expand),
    "Tile": movement.tile,
    "DepthToSpace": movement.depth_to_space,
    "ArgMax": movement.argmax,
    "Cast": elementwise.cast,
    # known values
    "Constant": movement.constant,
    "ConstantOfShape": movement.constant_of_shape,
    "Shape": movement.shape,
    "Range": foldable(movement.evaluate_range),
    "Where": foldable(movement.evaluate_where),
    "Equal": foldable(each(np.equal)),
    "ReduceProd": foldable(movement.evaluate_reduce_prod),
    # quantized
    "QuantizeLinear": quantized.quantize_linear,
    "DequantizeLinear": quantized.dequantize_linear,
    "com.microsoft.QuantizeLinear": quantized.quantize_linear,
    "com.microsoft.DequantizeLinear": quantized.dequantize_linear,
    "QLinearConv": quantized.qlinear_conv,
    "com.microsoft.QLinearConv": quantized.qlinear_conv,
    "QLinearMatMul": quantized.qlinear_matmul,
    "com.microsoft.QGemm": quantized.qgemm,
    "com.microsoft.QLinearAdd": quantized.qlinear_binary(Add),
    "com.microsoft.QLinearMul": quantized.qlinear_binary(Mul),
    "com.microsoft.QLinearAveragePool": quantized.qlinear_pool,
    "com.microsoft.QLinearGlobalAveragePool": quantized.qlinear_pool,
    "com.microsoft.QLinearSigmoid": quantized.qlinear_unary("sigmoid"),
    "com.microsoft.QLinearLeakyRelu": quantized.qlinear_unary("leaky_relu", alpha=0.01),
    "com.microsoft.QLinearSoftmax": quantized.qlinear_softmax,
    "com.microsoft.QLinearConcat": quantized.qlinear_concat,
    # integer
    "DynamicQuantizeLinear": quantized.dynamic_quantize_linear,
    "MatMulInteger": quantized.matmul_integer,
    "ConvInteger": quantized.conv_integer,
    "com.microsoft.MatMulIntegerToFloat": quantized.matmul_integer_to_float,
    "com.microsoft.DynamicQuantizeMatMul": quantized.dynamic_quantize_matmul,
}
