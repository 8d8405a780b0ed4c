"""The JIT backend equals the reference exactly: every case, every CPU level, several threads."""

import math

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from cases import CASES
from test_cases import batches, compare, expected

from nprt.jit import cache, plan, simd
from nprt.jit.kernels import stage
from nprt.jit.kernels.table import FIELDS, KERNELS
from nprt.ops.table import OPS
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
    monkeypatch.setattr(plan, "GRAIN", 0)
    session = Session(case.model(), backend="numba", threads=threads)
    for batch in batches(case)[-2:]:
        compare(session, case, batch)


def kernels_of(case):
    """The kernels of a plan; none where something is empty, or nothing is to do."""
    session = Session(case.model(), backend="numba", threads=1)
    plan = session._backend.plan(case.dims(2))
    return [] if plan is None else [step.kernel for step in plan.steps]


def is_float(case):
    return case.types[case.op.inputs[0]].is_float


def is_general_product(case):
    """float32, zero points of weights other than 0, or zero points given at run time."""
    quant = case.types["w"].quant
    return is_float(case) or len(case.op.inputs) > 3 or bool(quant and any(quant.zero_point))


def is_general_sum(case):
    """Operands that broadcast, values that are not codes, or numerics without a formula."""
    a, b = (case.types[name] for name in case.op.inputs)
    return not a.is_codes or a.shape != b.shape or case.op.numerics in ("fbgemm-scalar", "qnnpack")


# The cases that run by their reference although their op has a kernel. Ops that are not here have none.
BY_REFERENCE = {
    "adaptive_average_pool": is_float,
    "add": lambda c: is_general_sum(c) or not c.types["y"].shape,
    "average_pool": is_float,
    "conv": is_general_product,
    "depthwise_conv": lambda c: (
        is_general_product(c)
        or c.types[c.op.inputs[0]].shape[-1] != c.types["y"].shape[-1]
        or c.op.numerics == "fbgemm-saturating"
        or math.prod(c.types["w"].shape[:-1]) > 128
    ),
    "dequantize": lambda c: c.types["x"].quant.axis is not None or c.types["x"].dtype == "int16",
    "global_average_pool": is_float,
    "linear": lambda c: is_general_product(c) or c.op.numerics == "onednn-general",
    "lookup": lambda c: "table" not in c.constants,
    "max_pool": is_float,
    "mul": lambda c: is_general_sum(c) or not c.types["y"].shape,
    "pad": lambda c: c.op.mode != "constant" or c.types["x"].dtype not in ("int8", "uint8"),
    "reduce_mean": lambda c: (
        is_float(c) or c.op.numerics == "torch-nhwc" or len(c.types["x"].shape) - 1 in c.op.axes
    ),
    "sub": lambda c: is_general_sum(c) or not c.types["y"].shape,
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
