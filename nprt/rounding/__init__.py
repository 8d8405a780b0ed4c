"""All rounding: real scales to integers, accumulators to codes, floats to codes and back.

No other folder of the runtime rounds to codes. Each formula has its number in `docs/quantization.md`. A *numerics*
names one family of these formulas; every op that rounds says in its field `numerics` which one it follows.

    integer   fixed point, no float between the first quantize and the last dequantize; ties go up
    ort       onnxruntime's quantized kernels on x86: float32 multipliers; ties go to even
    onnx      the ONNX operators themselves: dequantize, the op in float32, quantize; ties go to even
    fbgemm    PyTorch's engines fbgemm and, for most ops, x86: float32 multipliers, float32 bias; ties go to even
    fbgemm-scalar  the same in add where PyTorch has no vector loop: the zero point is added before rounding
    fbgemm-saturating
              the same in depthwise convolutions whose kernel cuts sums of two products to 16 bits
    onednn    PyTorch's engine onednn, and x86 for most convolutions: the zero point is added before rounding
    onednn-general
              its general kernels, for layers for which it has no other: the same in another order
    qnnpack   PyTorch's engine qnnpack: float32 multipliers, int32 bias; add in fixed point, ties away from zero
    torch     `torch.quantize_per_tensor`, and what PyTorch computes in float32 before it; ties go to even
    torch-nchw, torch-nhwc
              PyTorch's own kernels for pooling, means and resizing, on contiguous and on channels-last tensors; all its
              engines share them; ties go to even
    pt2e      PyTorch's `quantized_decomposed` graphs: dequantize, the op in float32, quantize; ties go to even

Shapes: scales and multipliers broadcast against the accumulator, whose last axis holds the channels.
"""

from nprt.rounding.arithmetic import *
from nprt.rounding.dynamic import *
from nprt.rounding.elementwise import *
from nprt.rounding.floats import *
from nprt.rounding.interpolation import *
from nprt.rounding.means import *
from nprt.rounding.norms import *
from nprt.rounding.products import *
from nprt.rounding.softmax import *

NUMERICS = (
    *("integer", "ort", "onnx"),
    *("fbgemm", "fbgemm-scalar", "fbgemm-saturating", "onednn", "onednn-general", "qnnpack"),
    *("torch", "torch-nchw", "torch-nhwc", "pt2e"),
)
