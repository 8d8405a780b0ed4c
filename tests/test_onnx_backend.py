"""The node tests of the onnx package, for every operator that nprt reads: right numbers, or a refusal with a reason."""

from __future__ import annotations

import fnmatch
import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the node tests come with the onnx package")

from nprt import Session  # noqa: E402
from nprt.converters.from_onnx import OLDEST_OPSET, import_graph  # noqa: E402
from nprt.converters.onnx_ops.table import IMPORTERS  # noqa: E402
from nprt.converters.pipeline import float_model  # noqa: E402
from nprt.errors import ModelError, ModelFormatError, UnsupportedOpError  # noqa: E402
from nprt.ir import DTYPES  # noqa: E402

# Which inputs become initializers: what a file has as a constant, the node tests have as an input.
NONE, ALL_BUT_FIRST, ALL = "none", "all but the first", "all"

# Operators some of whose inputs must be constants: shapes, axes, statistics, parameters.
ARGUMENTS = {
    "BatchNormalization", "Clip", "ConvInteger", "DequantizeLinear", "Dropout", "Expand", "GroupNormalization",
    "InstanceNormalization", "PRelu", "Pad", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "ReduceL1", "ReduceL2",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "Reshape", "Resize", "Slice", "Split",
    "Squeeze", "Tile", "Unsqueeze",
}  # fmt: skip

# Operators that are only computed while converting.
FOLDED = {"ConstantOfShape", "Mod", "Range", "ReduceProd", "Trilu"}

# Cases that are refused, by what the message must say. Those with a dtype that nprt does not have are not here.
REFUSED: dict[str, tuple[str, ...]] = {
    "has dtype int8; expected float32 or int32 or int64": ("add_int8", "div_int8", "mul_int8", "sub_int8"),
    "has dtype int16; expected float32 or int32 or int64": ("add_int16", "div_int16", "mul_int16", "sub_int16"),
    "has dtype uint8; expected float32 or int32 or int64": ("add_uint8", "div_uint8", "mul_uint8", "sub_uint8"),
    "select_last_index=1 is not supported": ("argm??_*_select_last_index",),
    "in training mode; export the model in eval mode": (
        "batchnorm_*_training_mode", "training_dropout", "training_dropout_default", "training_dropout_zero_ratio",
    ),
    "the mask of Dropout is not supported": ("dropout_default_mask*", "training_dropout_*mask"),
    "blocked quantization is not supported": ("dequantizelinear_blocked", "quantizelinear_blocked_asymmetric"),
    "only int8 and uint8 activations with one scale": ("quantizelinear_axis", "quantizelinear_int16"),
    "scale 'DynamicQuantizeLinear": ("dynamicquantizelinear*_expanded",),
    "has dtype bool; expected float32": ("reduce_m*_bool_inputs", "reduce_max_empty_set_bool"),
    "the second output of MaxPool, Indices": ("maxpool_with_argmax_*",),
    "mode 'wrap' is not supported": ("wrap_pad",),
    "a i64[3] has dtype int64; expected float32": ("pow_types_int64_*",),
    "a i32[3] has dtype int32; expected float32": ("pow_types_int32_*",),
    "=(0,) is not 1 integers of at least 1": (
        "reduce_l1_empty_set*", "reduce_l2_empty_set", "reduce_log_sum_empty_set_expanded", "reduce_max_empty_set",
        "reduce_min_empty_set", "reduce_sum_empty_set", "reduce_sum_square_empty_set*",
    ),
    "mode 'cubic' is not supported": ("resize_*_cubic*",),
    "antialias and exclude_outside are not supported": ("resize_*_linear_antialias",),
    "coordinate_transformation_mode 'tf_crop_and_resize'": ("resize_tf_crop_and_resize*",),
    "coordinate_transformation_mode 'half_pixel_symmetric'": ("resize_*_half_pixel_symmetric",),
    "only keep_aspect_ratio_policy stretch": ("resize_*_not_larger", "resize_*_not_smaller"),
}  # fmt: skip

# Cases whose expected numbers nprt does not give, with the reason.
OTHERWISE = {
    # The reference scales by 2.4 / 4, not by the whole number of columns that there are. onnxruntime does as nprt does.
    "test_resize_downsample_scales_linear_align_corners": [[[[1.0, 4.0]]]],
}


def load_cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference computations of some cases divide by zero
        from onnx.backend.test.loader import load_model_tests

        cases = load_model_tests(kind="node")
    return {case.name: case for case in cases if operators(case.model) <= set(IMPORTERS)}


def operators(model):
    return {
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for node in model.graph.node
    }


def has_only_our_dtypes(case):
    arrays = [array for inputs, outputs in case.data_sets for array in (*inputs, *outputs)]
    return all(getattr(array, "dtype", None) in DTYPES.values() for array in arrays)


CASES = load_cases()
PLAIN = [name for name, case in CASES.items() if has_only_our_dtypes(case)]
EXOTIC = [name for name in CASES if name not in PLAIN]


def attempt(case, promoted):
    """None if the model gives the right numbers, or the message with which it is refused."""
    for inputs, expected in case.data_sets:
        model = onnx.ModelProto.FromString(case.model.SerializeToString())
        feeds = dict(zip((value.name for value in model.graph.input), inputs, strict=True))
        kept = {NONE: None, ALL_BUT_FIRST: 1, ALL: 0}[promoted]
        for opset in model.opset_import:  # older operators that have stayed as they were
            opset.version = max(opset.version, OLDEST_OPSET)
        for name in list(feeds)[kept:] if kept is not None else ():
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(np.asarray(feeds.pop(name)), name)
            )
        try:
            session = Session(float_model(import_graph(model, case.name, {})[0]), backend="numpy")
        except (UnsupportedOpError, ModelError, ModelFormatError) as error:
            return str(error)
        for actual, wanted in zip(session.run(None, feeds), expected, strict=True):
            assert (actual.dtype, actual.shape) == (wanted.dtype, wanted.shape)
            floats = wanted.dtype.kind == "f"
            wanted = OTHERWISE.get(case.name, wanted)
            np.testing.assert_allclose(
                actual, wanted, rtol=case.rtol if floats else 0, atol=1e-6 if floats else 0
            )
    return None


def reason_to_refuse(name):
    for reason, patterns in REFUSED.items():
        if any(fnmatch.fnmatchcase(name.removeprefix("test_"), pattern) for pattern in patterns):
            return reason
    return None


def expected_modes(case):
    """How much must be constant for the case to run."""
    ops = operators(case.model)
    return (
        NONE,
        *((ALL_BUT_FIRST,) if ops & (ARGUMENTS | FOLDED) else ()),
        *((ALL,) if ops & FOLDED else ()),
    )


@pytest.mark.parametrize("name", PLAIN)
def test_node(name):
    case, reason = CASES[name], reason_to_refuse(name)
    if reason is not None:
        for promoted in (NONE, ALL_BUT_FIRST):
            message = attempt(case, promoted)
            assert message is not None, "this case runs now: take it out of REFUSED"
            assert "malformed" not in message
        assert reason in message
        return
    messages = [attempt(case, promoted) for promoted in expected_modes(case)]
    assert None in messages, messages


@pytest.mark.parametrize("name", EXOTIC)
def test_node_with_a_dtype_that_nprt_does_not_have(name):
    """float16, float64, 4-bit, strings, sequences."""
    assert attempt(CASES[name], NONE) is not None


def test_the_table_of_refused_cases_has_no_dead_entries():
    for reason, patterns in REFUSED.items():
        for pattern in patterns:
            assert any(
                fnmatch.fnmatchcase(name.removeprefix("test_"), pattern) for name in PLAIN
            ), (reason, pattern)


def test_most_cases_run():
    refused = sum(reason_to_refuse(name) is not None for name in PLAIN)
    assert len(PLAIN) - refused > 600, (len(PLAIN), refused)
