"""PT2E quantization by torchao's quantizers, and nprt's codes beside those of the exported graph itself.

Import after `pytest.importorskip("torch")` and `pytest.importorskip("torchao")`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import nprt
from nprt.compare import _aligned
from nprt.converters import from_torch
from nprt.converters.from_torch import torch_values
from nprt.ir import Array, Tensor, TensorType
from nprt.ops.products import ProductOp
from nprt.reference import ReferenceBackend
from nprt.session import bind_dims, check_feeds

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import (
        convert_pt2e,
        prepare_pt2e,
        prepare_qat_pt2e,
    )
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )
    from torchao.testing.pt2e._xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )


def xnnpack(**options: Any) -> XNNPACKQuantizer:
    """int8 activations; weights per channel if `is_per_channel`."""
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(**options))


def x86(**options: Any) -> X86InductorQuantizer:
    """uint8 activations; weights per channel."""
    config = get_default_x86_inductor_quantization_config(**options)
    return X86InductorQuantizer().set_global(config)


def quantized(
    module: torch.nn.Module,
    calibration: Sequence[torch.Tensor],
    quantizer: Any,
    *,
    qat: bool = False,
    free: bool = True,
    fold: bool = True,
) -> torch.fx.GraphModule:
    """The module through export, prepare, calibration or a few steps of training, and convert."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dims = ({0: torch.export.Dim("n")},) if free else None
        exported = torch.export.export(
            module.train(qat), (calibration[0],), dynamic_shapes=dims
        ).module()
        prepared = (prepare_qat_pt2e if qat else prepare_pt2e)(exported, quantizer)
        steps = torch.optim.SGD(prepared.parameters(), 1e-3) if qat else None
        for x in calibration:
            y = prepared(x)
            if steps is not None:
                steps.zero_grad()
                y.square().mean().backward()
                steps.step()
        if qat:
            from torchao.quantization.pt2e import move_exported_model_to_eval

            move_exported_model_to_eval(prepared)
        return convert_pt2e(prepared, fold_quantize=fold)


@dataclass
class Counts:
    """How many codes were compared, by the op that makes them, and how many of them differ."""

    compared: dict[str, int]
    differing: dict[str, int]


def compared_codes(
    module: torch.fx.GraphModule, *inputs: torch.Tensor, functions: bool = False, **options: Any
) -> tuple[nprt.Model, Counts]:
    """Convert, run, and compare the codes of every quantize node with those of the graph as torch runs it.

    Each op gets what torch gave to it. Results of products may differ by one code, where the exact sum is so near to
    the middle between two codes that the order of a float32 sum decides. All other codes must be equal.

    Args:
        functions: there are tables of functions that torch computes in float32, within an ulp or two; they may differ
            by one code, for one code in a thousand.
    """
    model = from_torch(module, inputs, **options)
    expected = torch_values(module, inputs)
    feeds = {name: x.numpy() for name, x in zip(model.inputs, inputs, strict=True)}
    makers = {name: op for op in model.ops for name in op.outputs}
    values: dict[str, Array] = {**model.constants, **feeds}
    counts = Counts({}, {})

    def observe(name: str, type: TensorType, array: Array) -> Array | None:
        values[name] = array
        other = expected.get(name)
        aligned = None if other is None else _aligned(array, np.asarray(other))
        if aligned is None or not type.is_codes or aligned.dtype != array.dtype:
            return None
        values[name] = aligned
        op = makers[name]
        differs = array != aligned
        counts.compared[op.name] = counts.compared.get(op.name, 0) + array.size
        counts.differing[op.name] = counts.differing.get(op.name, 0) + int(differs.sum())
        if differs.any():
            gap = np.abs(array.astype(int) - aligned.astype(int)).max()
            assert gap == 1, f"{name} = {op}: off by {gap}"
            if isinstance(op, ProductOp):
                assert near_a_tie(model, op, values)[differs].all(), f"{name} = {op}"
            else:
                tolerated = 1e-3 if functions and op.name == "lookup" else 0
                assert differs.mean() <= tolerated, f"{name} = {op}: {differs.sum()} differ"
        return aligned

    arrays = check_feeds(model, feeds)
    with np.errstate(all="ignore"):
        ReferenceBackend(model).run(arrays, bind_dims(model, arrays), (), observe)
    quantized = sum(str(node.target).startswith(QUANTIZE) for node in module.graph.nodes)
    assert len(counts.compared) > 0 or not quantized
    return model, counts


QUANTIZE = "quantized_decomposed.quantize_per_tensor"


def near_a_tie(model: nprt.Model, op: ProductOp, values: dict[str, Array]) -> Array:
    """Where the order of float32 additions can move a code of a product.

    A float32 sum of k terms, in any order, is within k * 2**-24 * (the sum of the magnitudes) of the exact one; three
    more roundings come from the operands, the reciprocal and its product.
    """

    def operand(name: str) -> Tensor:
        return Tensor(model.types[name], values[name])

    x, w, *bias = (operand(name) for name in op.inputs if name)
    y = model.types[op.outputs[0]]
    acc = plain(op, "int32").reference(_shape(y, values[op.outputs[0]], "int32"), x, w)
    scale = x.type.scale.astype(np.float64) * w.type.scale.astype(np.float64)
    added = bias[0].data.astype(np.float64) if bias else np.zeros(1)
    exact = (acc * scale + added) / np.float64(y.scale)
    operands = (_float(np.abs(x.real())), _float(np.abs(w.real())))
    magnitude = plain(op, "float32").reference(
        _shape(y, values[op.outputs[0]], "float32"), *operands
    )
    terms = w.data.size // acc.shape[-1] + 4
    error = terms * 2.0**-24 * 1.01 * (magnitude + np.abs(added)) / np.float64(y.scale)
    return np.abs(exact - np.floor(exact) - 0.5) <= error


def plain(op: ProductOp, dtype: str) -> Any:
    return replace(op, numerics="integer", clamp=None, inputs=op.inputs[:2])


def _float(array: Array) -> Tensor:
    return Tensor(TensorType("float32", array.shape), array.astype(np.float32))


def _shape(y: TensorType, like: Array, dtype: str) -> TensorType:
    return TensorType(dtype, like.shape)
