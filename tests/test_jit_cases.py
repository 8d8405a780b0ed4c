"""The JIT backend equals the reference exactly: every case, every CPU level, several threads."""

import math
from itertools import product

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from cases import CASES
from cases.case import case as new_case
from test_cases import batches, compare, expected

from nprt.check import check
from nprt.ir import Model, QuantParams, TensorType
from nprt.jit import cache, plan, simd
from nprt.jit.kernels import binary, quantize, stage
from nprt.jit.kernels.table import FIELDS, KERNELS
from nprt.ops.add import Add
from nprt.ops.depthwise_conv import DepthwiseConv
from nprt.ops.quantize import Quantize
from nprt.ops.table import OPS
from nprt.ops.transpose import Transpose
from nprt.session import Session

LEVELS = [level.name for level in simd.available()]
# Ops that share kernels or run by their reference need no more than test_cases.py gives them.
OWN = [c for name, cases in CASES.items() if name in KERNELS for c in cases]


@pytest.fixture(params=OWN, ids=lambda case: case.id, scope="module")
def case(request):
    return request.param


@pytest.mark.parametrize("level", LEVELS)
def test_level_equals_the_reference(case, level, monkeypatch):
    monkeypatch.setenv("NPRT_CPU", level)
    session = Session(case.model(), backend="numba", threads=1)
    for batch in batches(case):
        compare(session, case, batch)


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_threads_equal_the_reference(case, threads, monkeypatch):
    """Work is cut finely, so that every thread gets some."""
    monkeypatch.setattr(plan, "GRAIN", 1e-10)
    session = Session(case.model(), backend="numba", threads=threads)
    for batch in batches(case)[-2:]:
        compare(session, case, batch)


def is_image(type):
    """Per-tensor codes (N, *spatial, channels) that a convolution can read."""
    known = all(isinstance(dim, int) and dim for dim in type.shape[1:])
    return type.is_codes and type.quant.axis is None and 3 <= len(type.shape) <= 5 and known


IMAGES = [
    case
    for case in OWN
    if is_image(case.types[case.op.outputs[0]]) and not (case.bench or case.op.name == "reshape")
]


def between_convolutions(case):
    """The case with depthwise convolutions behind it that read its images with padding, and only those as outputs."""
    rng = np.random.default_rng(7)
    types, constants, ops = dict(case.types), dict(case.constants), [case.op]
    for name in dict.fromkeys((*case.input_names, *case.op.outputs)):
        if not is_image(types[name]):
            continue
        shape, rank = types[name].shape, len(types[name].shape) - 2
        w, out = f"{name}_w", f"{name}_sums"
        types[w] = TensorType("int8", (*(3,) * rank, shape[-1]), QuantParams.of(0.01, 0))
        constants[w] = rng.integers(-128, 128, types[w].shape).astype(np.int8)
        types[out] = TensorType("int32", shape)
        ones = {"stride": (1,) * rank, "dilation": (1,) * rank, "padding": ((1, 1),) * rank}
        ops.append(DepthwiseConv(inputs=(name, w), outputs=(out,), **ones))
    outputs = tuple(op.outputs[0] for op in ops[1:])
    return check(Model(case.input_names, outputs, types, constants, tuple(ops)))


@pytest.mark.parametrize("image", IMAGES, ids=lambda case: case.id)
def test_images_with_padding_around_them(image):
    """What a convolution with padding reads is stored with that padding, whatever writes it or reads it as well."""
    model, feeds = between_convolutions(image), image.feeds(seed=1, batch=2)
    sums = Session(model, backend="numba", threads=1).run(None, feeds)
    for actual, wanted in zip(sums, Session(model, backend="numpy").run(None, feeds), strict=True):
        np.testing.assert_array_equal(actual, wanted, strict=True)


# The adds that are put behind the products of each numerics.
SUMS = {
    "integer": ("integer",),
    "ort": ("ort", "onnx"),
    "qnnpack": ("qnnpack",),
    "fbgemm": ("fbgemm", "fbgemm-scalar"),
    "onednn": ("fbgemm", "onnx"),
    "pt2e": ("pt2e",),
}
PRODUCTS = [c for name in ("conv", "linear") for c in CASES[name] if c.name.endswith("_near")]


def with_a_sum(case, numerics, *, first, far):
    """The case, and an add of its result and of another value that is an input.

    Args:
        first: whether the result is the first operand.
        far: whether numbers are beyond int32 before they are rounded; then the sum has a clamp too.
    """
    shape, scale = case.types["y"].shape, 1e-9 if far else 0.15
    types = {
        **case.types,
        "other": TensorType("int8", shape, QuantParams.of(0.07, 5)),
        "sum": TensorType("int8", shape, QuantParams.of(scale, -9)),
    }
    add = Add(
        inputs=("y", "other") if first else ("other", "y"),
        outputs=("sum",),
        clamp=(-9, 50) if far else None,
        numerics=numerics,
    )
    inputs = (*case.input_names, "other")
    return check(Model(inputs, ("sum",), types, case.constants, (case.op, add)))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("case", "numerics"),
    [
        pytest.param(case, numerics, id=f"{case.id}-{numerics}")
        for case in PRODUCTS
        for numerics in SUMS[case.op.numerics]
    ],
)
def test_a_sum_behind_a_product(case, numerics, level, monkeypatch):
    """It is computed in the registers of the product."""
    monkeypatch.setenv("NPRT_CPU", level)
    rng = np.random.default_rng(9)
    # The scales of a sum in fixed point may not be that far apart.
    for first, far in ((True, False), (False, numerics not in ("integer", "qnnpack"))):
        model = with_a_sum(case, numerics, first=first, far=far)
        session = Session(model, backend="numba", threads=1)
        for batch in (1, 3):
            feeds = case.feeds(seed=batch, batch=batch)
            shape = case.output_types(batch)[0].shape
            feeds["other"] = rng.integers(-128, 128, shape).astype(np.int8)
            wanted = Session(model, backend="numpy").run(None, feeds)[0]
            np.testing.assert_array_equal(session.run(None, feeds)[0], wanted, strict=True)
        kernels = [step["kernel"] for step in session.plan(N=3)]
        (kernel,) = (kernel for kernel in kernels if kernel.startswith("gemm"))
        assert f" add {numerics} " in kernel
        assert "reference" not in kernels


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("numerics", quantize.NUMERICS)
def test_quantize_to_channels_last(numerics, channels, level, monkeypatch):
    """Lines shorter than a vector and longer, along one, two and three axes."""
    monkeypatch.setenv("NPRT_CPU", level)
    kernels = set()
    for size in ("7", "67", "3,5", "3,131", "2,3,64"):
        images = new_case(
            f"planes_{size}_{channels}_{numerics}",
            Quantize,
            f"f32[N,{channels},{size}] wild",
            y="i8*0.0217+3",
            numerics=numerics,
        )
        shape, rank = images.types["y"].shape, size.count(",") + 1
        last = TensorType("int8", (shape[0], *shape[2:], shape[1]), images.types["y"].quant)
        op = Transpose(inputs=("y",), outputs=("last",), perm=(0, *range(2, rank + 2), 1))
        model = check(
            Model(
                images.input_names, ("last",), {**images.types, "last": last}, {}, (images.op, op)
            )
        )
        session = Session(model, backend="numba", threads=1)
        for batch in (1, 2):
            feeds = images.feeds(seed=batch, batch=batch)
            wanted = Session(model, backend="numpy").run(None, feeds)[0]
            np.testing.assert_array_equal(session.run(None, feeds)[0], wanted, strict=True)
        kernels |= {step["kernel"] for step in session.plan(N=2)}
    planes = f"quantize_planes {numerics} {channels}"
    assert kernels == {planes, f"{planes} wide"}


def kernels_of(case):
    """The kernels of a plan; none where something is empty, or nothing is to do."""
    session = Session(case.model(), backend="numba", threads=1)
    plan = session._backend.plan(case.dims(2))
    return [] if plan is None else [step.kernel for step in plan.steps]


def is_float(case):
    return case.types[case.op.inputs[0]].is_float


def is_general_product(case):
    """float32, weights off the middle of their dtype, or zero points given at run time."""
    w = case.types["w"]
    zero_points = w.quant.zero_point if w.quant else (0,)
    middle = 128 if w.dtype == "uint8" else 0
    return is_float(case) or len(case.op.inputs) > 3 or any(z != middle for z in zero_points)


def is_scattered_mean(case):
    """A mean in torch's order of which the columns are few, or not the last axes."""
    rank = len(case.types["x"].shape)
    behind = range(max(case.op.axes) + 1, rank)
    columns = math.prod(case.types["x"].shape[axis] for axis in behind)
    first = case.op.axes == tuple(range(1, rank - len(behind)))
    return case.op.numerics == "torch-nhwc" and not (first and behind and columns >= 8)


def is_wide(case):
    """Elements of more than 8 bits."""
    return case.types["y"].dtype not in ("int8", "uint8")


# Functions of float64 that need no series or table.
ARITHMETIC = (
    *("abs", "clip", "hardshrink", "hardsigmoid", "hardswish", "leaky_relu", "nan_to_zero", "neg"),
    *("reciprocal", "relu", "rsqrt", "softsign", "sqrt", "threshold"),
)

# The cases that run by their reference although their op has a kernel. Ops that are not here have none.
BY_REFERENCE = {
    "adaptive_average_pool": is_float,
    "add": lambda c: c.types["y"].dtype == "int64",
    "average_pool": is_float,
    "batch_norm": lambda c: not is_float(c) and not c.constants,
    "cast": lambda c: (c.types["x"].dtype, c.types["y"].dtype) != ("int32", "float32"),
    "conv": is_general_product,
    "conv_transpose": lambda c: is_general_product(c) or c.op.numerics == "onednn-general",
    "depthwise_conv": lambda c: (
        is_general_product(c)
        or c.types[c.op.inputs[0]].shape[-1] != c.types["y"].shape[-1]
        or c.op.numerics == "fbgemm-saturating"
    ),
    "div": lambda c: c.types["y"].dtype in ("int32", "int64"),
    "dynamic_linear": lambda c: any(
        z != (128 if c.types["w"].dtype == "uint8" else 0) for z in c.types["w"].quant.zero_point
    ),
    "global_average_pool": is_float,
    "layer_norm": is_float,
    "linear": lambda c: is_general_product(c) or c.op.numerics == "onednn-general",
    "lookup": lambda c: "table" not in c.constants,
    "matmul": lambda c: is_float(c) or len(c.op.inputs) > 2 or c.op.numerics == "torch",
    "max_pool": is_float,
    "maximum": is_wide,
    "minimum": is_wide,
    "mul": lambda c: c.types["y"].dtype == "int64",
    "pad": lambda c: c.op.mode != "constant" or is_wide(c),
    "reduce_mean": lambda c: is_float(c) or is_scattered_mean(c),
    "resize": lambda c: c.op.mode == "linear" and len(c.types["x"].shape) == 5,
    "softmax": lambda c: is_float(c) or c.op.numerics == "torch",
    "sub": lambda c: c.types["y"].dtype == "int64",
    "unary": lambda c: c.op.function not in ARITHMETIC,
}


@pytest.mark.parametrize("name", KERNELS)
def test_cases_run_on_kernels(name):
    """A kernel that gives up would pass all other tests."""
    by_reference = BY_REFERENCE.get(name, lambda case: False)
    planned = {case.name: kernels_of(case) for case in CASES[name]}
    assert {case for case, kernels in planned.items() if "reference" in kernels} == {
        case.name for case in CASES[name] if planned[case.name] and by_reference(case)
    }


@pytest.mark.parametrize("name", ["conv", "linear", "depthwise_conv"])
def test_a_wrong_kernel_fails(name, monkeypatch, tmp_path):
    """Sums rounded one too high are noticed."""
    case = next(c for c in CASES[name] if "reference" not in kernels_of(c) and not c.bench)
    compare(Session(case.model(), backend="numba"), case, 2)
    monkeypatch.setattr(cache, "_fingerprint", lambda: "wrong")
    monkeypatch.setenv("NPRT_CACHE_DIR", str(tmp_path))
    right = dict(stage.FORMULAS)
    for kind, formula in right.items():
        monkeypatch.setitem(
            stage.FORMULAS, kind, lambda k, level, acc, p, f=formula: f(k, level, acc, p) + 1
        )
    with pytest.raises(AssertionError):
        compare(Session(case.model(), backend="numba"), case, 2)


def test_kernels_heed_every_field():
    """A new field of an op needs a look at its kernel; until then the reference runs."""
    assert FIELDS.keys() == KERNELS.keys()
    for name, fields in FIELDS.items():
        assert {f.name for f in OPS[name].own_fields()} == set(fields), name


def test_expected_is_the_reference():
    case = CASES["add"][0]
    feeds, (wanted,) = expected(case, 2)
    np.testing.assert_array_equal(
        Session(case.model(), backend="numpy").run(None, feeds)[0], wanted
    )


# The formulas from sums to codes.
ENDS = [kind for kind in stage.FORMULAS if kind not in stage.WIDE]


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_sums_and_products_beyond_int32_are_among_the_cases(name):
    """Each formula that rounds real numbers, near zero and anywhere, is compared with the reference."""
    words = [kernel.split() for case in CASES[name] for kernel in kernels_of(case)]
    found = {(some[1], binary.NEAR in some[2]) for some in words if some[0] == name and some[2:]}
    real = {case.op.numerics for case in CASES[name]} - {"integer", "qnnpack"}
    assert found >= set(product(real, (False, True)))


def test_every_end_of_a_matmul_is_among_the_cases():
    """Each formula, and each number of terms beyond fours, is compared with the reference."""
    kernels = {kernel for case in CASES["matmul"] for kernel in kernels_of(case)}
    found = {tuple(kernel.split()[1:]) for kernel in kernels if kernel.startswith("matmul")}
    kinds, rests = {kind for kind, _ in found}, {rest for _, rest in found}
    # There is one scale for all columns.
    assert kinds == {*ENDS, "sum"} - {"fbgemm", "fbgemm" + stage.FAR}
    assert rests == set("0123")


@pytest.mark.parametrize("name", ["conv", "linear", "depthwise_conv"])
def test_every_end_of_a_product_is_among_the_cases(name):
    """Each formula with a clamp and without, in tiles that overlap and in others, is compared with the reference."""
    words = [set(kernel.split()) for case in CASES[name] for kernel in kernels_of(case)]
    found = {
        (kind, "clamped" in some, "ahead" in some)
        for some in words
        for kind in some & {*ENDS, "sum"}
    }
    overlap = name != "depthwise_conv" and bool(simd.choose().overlapping_tiles)
    ahead = (False, True) if overlap else (False,)
    assert found >= {*product(ENDS, (False, True), ahead), *product(["sum"], [False], ahead)}
