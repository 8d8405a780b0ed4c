"""The JIT backend equals the reference exactly: every case, every CPU level, several threads."""

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
    session = Session(case.model(), backend="numba", threads=1)
    plan = session._backend.plan(case.dims(2))
    return ["reference"] if plan is None else [step.kernel for step in plan.steps]


@pytest.mark.parametrize(
    "name", ["conv", "linear", "depthwise_conv", "add", "max_pool", "quantize"]
)
def test_most_cases_run_on_kernels(name):
    """A kernel that gives up on everything would pass all other tests."""
    cases = [c for c in CASES[name] if not c.types[c.op.inputs[0]].is_float or name == "quantize"]
    by_kernel = [c for c in cases if "reference" not in kernels_of(c)]
    assert len(by_kernel) > 0.6 * len(cases)


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
