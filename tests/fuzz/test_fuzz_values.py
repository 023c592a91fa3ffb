"""Every public metric on random numbers of any scale: each finite number is right, and NaN stays NaN."""

import numpy as np
import pytest
from cases_functions import CASES as FUNCTION_CASES
from cases_numbers import CASES as NUMBER_CASES
from cases_perceptrons import CASES as PERCEPTRON_CASES
from fuzzing import FUNCTIONS, agree, compare, draw, floats, run, spoilt, watch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

CASES = [*FUNCTION_CASES, *PERCEPTRON_CASES, *NUMBER_CASES]
JITTED = [case for case in CASES if case.jit]
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
each_jitted = pytest.mark.parametrize("case", JITTED, ids=lambda case: case.label)
watched = watch
# Shrinking says little here, and takes long.
PHASES = (Phase.explicit, Phase.generate)
SEEDS = st.integers(0, 2**31)


def few(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=PHASES,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


def test_no_public_metric_is_left_out():
    assert {case.name for case in CASES} == set(FUNCTIONS)
    assert len({case.label for case in CASES}) == len(CASES)


@each
def test_numbers_of_about_one_are_right(case):
    arguments, powers = draw(case, 1, lambda choices: 0)
    agree(case, arguments, powers)


def check_scales(case, data):
    arguments, powers = draw(case, data.draw(SEEDS), lambda choices: data.draw(st.sampled_from(choices)))
    agree(case, arguments, powers)


@each_jitted
@few(6)
@given(data=st.data())
def test_huge_and_tiny_numbers_are_right_or_not_finite(case, data):
    check_scales(case, data)


def check_traced(case, data):
    arguments, _ = draw(case, data.draw(SEEDS), lambda choices: 0)
    path, value = data.draw(st.sampled_from(floats(arguments))), data.draw(st.sampled_from(BAD))
    if np.isinf(value) and path[0].key in case.infinite:
        return
    check_spoilt(case, arguments, path, data.draw(st.integers(0, 99)), value)


BAD = (np.nan, np.inf, -np.inf)


def check_spoilt(case, arguments, path, place, value):
    """A result, or an array of it, has no finite number that depends on the one that is none."""
    results = [run(case, spoilt(arguments, path, place, v)) for v in (value, 0.7, 1.3)]
    if all(r.dtype == bool for r in results[0]):
        return
    missing = [~np.isfinite(r) if r.dtype.kind == "f" else r == -1 for r in results[0]]
    assert any(part.any() for part in missing), f"{value} at {path} gives {results[0]}"
    for got, gone, *clean in zip(results[0], missing, *results[1:], strict=True):
        for other in clean:
            if got.dtype != bool:
                compare(case, np.where(gone, other, got), other)


@each_jitted
@few(8)
@given(data=st.data())
def test_traced_nan_never_becomes_a_finite_number(case, data):
    if floats(draw(case, 0, lambda _: 0)[0]):
        check_traced(case, data)


@pytest.mark.slow
@each_jitted
@settings(few(60))
@given(data=st.data())
def test_many_scales_are_right_or_not_finite(case, data):
    check_scales(case, data)


@pytest.mark.slow
@each_jitted
@settings(few(60))
@given(data=st.data())
def test_many_traced_nans_never_become_finite_numbers(case, data):
    if floats(draw(case, 0, lambda _: 0)[0]):
        check_traced(case, data)
