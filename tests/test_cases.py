"""Every case of every op on every backend: the same bits as the reference, whatever the batch.

A new backend is one line in BACKENDS; a new op is one file in `cases/`.
"""

import dataclasses
import importlib.util
from functools import lru_cache

import numpy as np
import pytest
from cases import CASES
from cases.case import case as new_case
from cases.case import parse

from nprt.check import check
from nprt.errors import ModelError
from nprt.file import dumps, load
from nprt.ir import Tensor
from nprt.ops.add import Add
from nprt.ops.compare import RELATIONS
from nprt.ops.pad import MODES as PAD_MODES
from nprt.ops.resize import COORDINATES, NEAREST
from nprt.ops.resize import MODES as RESIZE_MODES
from nprt.ops.table import OPS
from nprt.ops.unary import FUNCTIONS
from nprt.rounding import NUMERICS
from nprt.session import Session

# From a model to the session that runs it.
BACKENDS = {
    "numpy": lambda model: Session(model, backend="numpy"),
    "saved": lambda model: Session(dumps(model), backend="numpy"),
}
if importlib.util.find_spec("llvmlite") is not None:
    BACKENDS["numba"] = lambda model: Session(model, backend="numba")

# What the results for one sample may depend on beside that sample, so that a batch differs from single runs.
MIXES_SAMPLES = {
    "dynamic_quantize": "one scale for the whole array",
    "embedding_bag-run_time_offsets": "a bag ends where the next one begins",
    "reduce_mean-float_batch": "the mean over the batch",
    "reshape-batch_moved": "the batch is no longer an axis of its own",
    "reshape-batch_second": "the batch is no longer an axis of its own",
    "slice-reversed_batch": "the batch is reversed",
}
MIXES_SAMPLES |= {
    c.id: "one scale for the whole array" for c in CASES["dynamic_linear"] if not c.op.per_row
}
MIXES_SAMPLES |= {
    c.id: "one scale for the whole array"
    for c in (*CASES["lstm"], *CASES["gru"])
    if not (c.types["w_ih"].is_float or c.op.per_row)
}

# float32 sums whose order BLAS chooses by the number of rows: equal to within rounding, not bit for bit.
FLOAT_SUMS = {"conv", "conv_transpose", "gru", "linear", "lstm", "matmul"}

# Cases that an empty batch makes meaningless.
NEEDS_A_SAMPLE = {"reduce_mean-float_batch": "the mean of nothing"}

# Parts of the names of cases that are meant to give one value only.
ONE_VALUE = {
    "clamp_-128_to_-128": "clamped to one code",
    "clamp_4_to_4": "clamped to one code",
    "of_2_to_minus_33": "the multiplier is 0",
    "tiny_result": "the multiplier is 0",
    "matmul-no_terms": "sums of nothing",
    "embedding_bag-no_indices": "sums of nothing",
    "dynamic_quantize-zeros": "all inputs alike",
    "dynamic_quantize-torch_zeros": "all inputs alike",
    "softmax-integer_alike": "all inputs alike",
    "softmax-integer_flat": "all inputs nearly alike",
    "softmax-integer_least_codes": "all inputs nearly alike",
    "softmax-ort_alike": "all inputs alike",
    "softmax-qnnpack_alike": "all inputs alike",
    "softmax-torch_alike": "all inputs alike",
    "cast-i32_to_bool": "almost nothing is 0",
    "cast-near_zero_to_bool": "almost nothing is 0",
    "equal_int32_ends": "almost nothing is equal",
    "equal_int64_ends": "almost nothing is equal",
    "compare-equal_float": "almost nothing is equal",
    "equal_u8": "almost nothing is equal",
}

ALL = [case for cases in CASES.values() for case in cases]


@pytest.fixture(params=ALL, ids=lambda case: case.id, scope="module")
def case(request):
    """Each case in turn; its tests stand together, so that its reference runs once."""
    return request.param


def batches(case):
    """Batch sizes worth running: a case of fixed size has one."""
    if not any("N" in case.types[name].shape for name in case.input_names):
        return (1,)
    if case.bench:
        return (1, 2)
    return (1, 2, 5) if case.id in NEEDS_A_SAMPLE else (0, 1, 2, 5)


@lru_cache(maxsize=16)
def expected(case, batch):
    """The feeds, and what the op's reference makes of them; both read-only, so that writing to them is an error."""
    feeds = case.feeds(seed=batch, batch=batch)
    values = {**case.constants, **feeds}
    for array in values.values():
        array.setflags(write=False)
    operands = case.op.arguments(lambda name: Tensor(case.types[name], values[name]))
    result = case.op.reference(*case.output_types(batch), *operands)
    return feeds, tuple(map(np.asarray, result if isinstance(result, tuple) else (result,)))


def assert_same(actual, wanted):
    """The same dtype, shape and bits; NaN is NaN."""
    assert type(actual) is np.ndarray
    assert (actual.dtype, actual.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(actual, wanted)
    if actual.dtype.kind == "f":
        number = ~np.isnan(wanted)
        np.testing.assert_array_equal(
            np.signbit(actual)[number], np.signbit(wanted)[number], err_msg="the sign of zero"
        )


def compare(session, case, batch):
    """Run the case in a session of some backend and hold the outputs against the reference."""
    feeds, wanted = expected(case, batch)
    given = {name: array.copy() for name, array in feeds.items()}
    outputs = session.run(None, given)
    assert len(outputs) == len(wanted)
    for name, array in given.items():
        assert_same(array, feeds[name])  # an input was written to
    for actual, reference in zip(outputs, wanted, strict=True):
        assert_same(actual, reference)
        assert actual.flags.writeable
        for array in (*given.values(), *case.constants.values()):
            assert not np.may_share_memory(actual, array)


# --- each case ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_equals_the_reference(case, backend):
    session = BACKENDS[backend](case.model())
    for batch in batches(case):
        compare(session, case, batch)


def test_reference_keeps_to_its_types(case):
    clamp = getattr(case.op, "clamp", None)
    for batch in batches(case):
        _, outputs = expected(case, batch)
        for type, array in zip(case.output_types(batch), outputs, strict=True):
            assert (str(array.dtype), array.shape) == (type.dtype, type.shape)
            if clamp is not None and array.size:
                assert clamp[0] <= array.min() <= array.max() <= clamp[1]
    # A case whose result is one value, whatever the input, would not notice a wrong kernel.
    output = outputs[0]
    meant = any(part in case.id for part in ONE_VALUE)
    assert meant or output.size < 30 or output.min() != output.max()


def test_model_prints_and_loads(case):
    model = check(case.model())
    declared = ", ".join(f"{name}: {case.types[name]}" for name in case.op.outputs)
    assert f"\n{declared} = {case.op}\n" in f"\n{model}\n"
    assert str(case.op).startswith(case.op.name)
    data = dumps(model)
    loaded = load(data)
    assert str(loaded) == str(model)
    assert loaded.ops == model.ops
    assert dumps(loaded) == data


def test_batch_of_five_is_five_runs(case):
    sliced = {
        n: case.types[n].shape.index("N") for n in case.input_names if "N" in case.types[n].shape
    }
    if not sliced or case.bench or {case.id, case.op.name} & MIXES_SAMPLES.keys():
        return
    feeds, together = expected(case, 5)
    run = Session(case.model(), backend="numpy").run
    alone = [
        run(None, {n: x.take([i], sliced[n]) if n in sliced else x for n, x in feeds.items()})
        for i in range(5)
    ]
    for name, parts, whole in zip(case.op.outputs, zip(*alone, strict=True), together, strict=True):
        joined = np.concatenate(parts, axis=case.types[name].shape.index("N"))
        if case.types[name].is_float and case.op.name in FLOAT_SUMS:
            np.testing.assert_allclose(joined, whole, rtol=1e-5, atol=1e-4)
        else:
            assert_same(joined, whole)


def test_feeds_are_the_same_each_time():
    case = CASES["add"][0]
    again, other = case.feeds(3, 2), case.feeds(4, 2)
    for name, array in case.feeds(3, 2).items():
        np.testing.assert_array_equal(array, again[name])
        assert (array != other[name]).any()


# --- all cases together -------------------------------------------------------------------------------


def test_each_op_has_cases():
    assert sorted(CASES) == sorted(OPS), "tests/cases/ and nprt/ops/table.py differ"
    for name, cases in CASES.items():
        assert cases, f"tests/cases/{name}.py has no case"
        assert {type(case.op) for case in cases} == {OPS[name]}
        names = [case.name for case in cases]
        assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", OPS)
def test_each_field_varies(name):
    for field in OPS[name].own_fields():
        values = {getattr(case.op, field.name) for case in CASES[name]}
        assert len(values) > 1, f"all cases of {name} have {field.name}={values}"


@pytest.mark.parametrize("name", OPS)
def test_each_numerics_appears(name):
    """What the type rule accepts on codes has a case."""
    cases = [case for case in CASES[name] if case.types[case.op.outputs[0]].is_codes]
    accepted = {
        numerics
        for case in cases
        for numerics in NUMERICS
        if hasattr(case.op, "numerics") and accepts(case, numerics=numerics)
    }
    assert accepted == {case.op.numerics for case in cases if hasattr(case.op, "numerics")}


def accepts(case, **fields):
    op = dataclasses.replace(case.op, **fields)
    try:
        op.type_rule(*[case.types[n] for n in op.outputs], *op.arguments(case.types.__getitem__))
    except ModelError:
        return False
    return True


@pytest.mark.parametrize("name", OPS)
def test_each_optional_input_is_there_and_is_not(name):
    for index, optional in enumerate(OPS[name].INPUTS):
        if optional.endswith("?"):
            given = {index < len(c.op.inputs) and bool(c.op.inputs[index]) for c in CASES[name]}
            assert given == {True, False}, f"{name}: {optional}"


@pytest.mark.parametrize("name", OPS)
def test_each_code_dtype_appears(name):
    dtypes = {type.dtype for case in CASES[name] for type in case.types.values()}
    assert not dtypes & {"int8", "uint8"} or dtypes >= {"int8", "uint8"}


@pytest.mark.parametrize(
    ("name", "field", "choices"),
    [
        ("compare", "relation", RELATIONS),
        ("pad", "mode", PAD_MODES),
        ("resize", "mode", RESIZE_MODES),
        ("resize", "coordinates", COORDINATES),
        ("resize", "nearest", NEAREST),
        ("unary", "function", FUNCTIONS),
    ],
)
def test_each_choice_appears(name, field, choices):
    assert {getattr(case.op, field) for case in CASES[name]} == set(choices)


@pytest.mark.parametrize("name", ["conv", "depthwise_conv", "conv_transpose", "linear"])
def test_sums_reach_the_end_of_int32(name):
    bounds = []
    for case in CASES[name]:
        model = case.model()
        operand = {n: model.tensor(n) if n in model.constants else t for n, t in case.types.items()}
        arguments = case.op.arguments(operand.__getitem__)
        bounds.append(case.op.accumulator_bound(*map(operand.get, case.op.outputs), *arguments))
    assert max(filter(None, bounds)) == 2**31 - 1
    case = next(c for c in CASES[name] if c.name.startswith("sum_at_the_bound"))
    as_sum = dataclasses.replace(case.types["y"], dtype="int32", quant=None)
    op = dataclasses.replace(case.op, numerics="integer")
    sums = []
    for seed in (0, 1):  # which of the ends comes first
        values = {**case.constants, **case.feeds(seed, batch=1)}
        tensors = {n: Tensor(case.types[n], array) for n, array in values.items()}
        sums.append(op.reference(as_sum.bind({"N": 1}), *op.arguments(tensors.__getitem__)))
    assert np.min(sums) == -(2**31) + 1


# --- the harness itself -------------------------------------------------------------------------------


class Altered:
    """A session whose outputs go through `change(outputs, feeds)`."""

    def __init__(self, case, change):
        self.session, self.change = BACKENDS["numpy"](case.model()), change

    def run(self, names, feeds):
        return self.change(self.session.run(names, feeds), feeds)


def off_by_one(outputs, feeds):
    """One wrong element, by the least that its dtype allows."""
    out = outputs[0]
    at = out.size // 2
    out.flat[at] = next_to(out.flat[at])
    return outputs


def next_to(value):
    if value.dtype == bool:
        return not value
    if value.dtype.kind == "f":
        return np.nextafter(value, np.float32(0) if value else np.float32(1))
    return value - 1 if value == np.iinfo(value.dtype).max else value + 1


@pytest.mark.parametrize("name", OPS)
def test_a_wrong_kernel_fails(name):
    case = next(c for c in CASES[name] if expected(c, 5)[1][0].size)
    compare(Altered(case, lambda outputs, feeds: outputs), case, 5)
    with pytest.raises(AssertionError):
        compare(Altered(case, off_by_one), case, 5)


def write_to_input(outputs, feeds):
    feeds["a"][...] += 1
    return outputs


def return_input(outputs, feeds):
    feeds["a"][...] = outputs[0]
    return [feeds["a"]]


@pytest.mark.parametrize(
    "change",
    [
        lambda y, feeds: [y[0].astype(np.int16)],
        lambda y, feeds: [y[0].view(np.uint8)],
        lambda y, feeds: [y[0][np.newaxis]],
        lambda y, feeds: [y[0][:-1]],
        lambda y, feeds: [y[0].ravel()],
        lambda y, feeds: [np.broadcast_to(y[0][0], y[0].shape)],
        lambda y, feeds: [y[0], y[0]],
        lambda y, feeds: [],
        write_to_input,
        return_input,
    ],
    ids=[
        "wider",
        "unsigned",
        "axis",
        "short",
        "flat",
        "repeated",
        "twice",
        "none",
        "write",
        "alias",
    ],
)
def test_a_wrong_result_fails(change):
    case = new_case("wrong", Add, "i8[N,7]*0.02+3", "i8[N,7]*0.03-4", y="i8*0.05+1")
    with pytest.raises(AssertionError):
        compare(Altered(case, change), case, 2)


def test_the_sign_of_zero_and_nan_are_told_apart():
    zero, nan = np.zeros(2, np.float32), np.full(2, np.nan, np.float32)
    assert_same(zero, zero)
    assert_same(nan, -nan)
    for actual, wanted in ((-zero, zero), (nan, zero), (zero, nan)):
        with pytest.raises(AssertionError):
            assert_same(actual, wanted)


@pytest.mark.parametrize(
    "text",
    ["i8[N,8,8,3]*0.02+3", "u8[]*1e-05+255", "f32[7]", "i64[N,T]", "bool[]", "i32[5]*0.125-9"],
)
def test_types_are_written_as_they_print(text):
    assert str(parse(text, "")[0]) == text


def test_types_per_axis_are_written_as_they_print():
    text = "i8[5,3,3,7]*0.004..0.009/0"
    assert str(parse(text, "")[0]) == text
    spread = parse("u8[5,9]*0.004..0.009/1~20", "")[0]
    assert set(spread.quant.zero_point) <= set(range(108, 149))
    assert len(set(spread.quant.zero_point)) > 1


@pytest.mark.parametrize(
    "text", ["i4[3]", "i8[3", "i8[3]*0.1", "i8[3] some", "i8[3]*0.1..0.2", "x: i8[3]"]
)
def test_a_misspelt_type_is_an_error(text):
    with pytest.raises(ValueError, match=r"is not a|does not say"):
        parse(text, "")
