"""Margins against loops in float64, and their percentile against its definition."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsens.checks import InputError
from jaxsens.metrics.margins import margin, margin_percentile, percentile_of_margins

rng = np.random.default_rng(3)
WEIGHTS = rng.normal(size=(4, 3))
INPUTS = rng.normal(size=(11, 4))
LABELS = jnp.asarray(rng.integers(0, 3, 11))


def linear(w, x):
    return x @ w


def slow_margins(logits, labels):
    return [
        row[y] - max(value for j, value in enumerate(row) if j != y)
        for row, y in zip(np.asarray(logits, np.float64), np.asarray(labels), strict=True)
    ]


def test_margins_of_given_logits():
    logits = jnp.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 0.0, -1.0]])
    measured = margin(lambda _, x: x, (), logits, jnp.array([0, 2, 1]))
    np.testing.assert_array_equal(measured, [1.0, -1.0, 0.0])


@pytest.mark.parametrize("batch_size", [None, 1, 4, 100])
def test_margins_equal_a_loop(batch_size, x64):
    w, xs = jnp.asarray(WEIGHTS), jnp.asarray(INPUTS)
    measured = margin(linear, w, xs, LABELS, batch_size=batch_size)
    np.testing.assert_allclose(measured, slow_margins(INPUTS @ WEIGHTS, LABELS), rtol=1e-13)
    assert measured.dtype == jnp.float64


def test_shifts_leave_margins_and_scales_scale_them(x64):
    w, xs = jnp.asarray(WEIGHTS), jnp.asarray(INPUTS)
    plain_margins = margin(linear, w, xs, LABELS)
    shifted = margin(lambda w, x: x @ w + x.sum(), w, xs, LABELS)
    np.testing.assert_allclose(shifted, plain_margins, rtol=1e-12)
    scaled = margin_percentile(linear, 3 * w, xs, LABELS, percent=70)
    value = margin_percentile(linear, w, xs, LABELS, percent=70)
    np.testing.assert_allclose(scaled.value, 3 * value.value, rtol=1e-13)


def test_large_logits_keep_their_margin():
    xs = jnp.array([[1e30, -1e30, 9e29], [-3e38, 1.0, 2.0]], jnp.float32)
    measured = margin(lambda _, x: x, (), xs, jnp.array([0, 2]))
    np.testing.assert_allclose(measured, [1e29, 1.0], rtol=1e-5)


def test_margins_have_the_derivative_of_two_logits():
    logits = jnp.array([[3.0, 1.0, 2.0]])
    gradient = jax.grad(lambda x: margin(lambda _, x: x, (), x, jnp.array([1])).sum())(logits)
    np.testing.assert_array_equal(gradient, [[-1.0, 1.0, 0.0]])


def test_members_equal_a_loop(x64):
    members, xs = jnp.asarray(rng.normal(size=(3, 4, 3))), jnp.asarray(INPUTS)

    def measure(w):
        return margin_percentile(linear, w, xs, LABELS, percent=30)

    together = jax.jit(jax.vmap(measure))(members)
    for i, member in enumerate(members):
        for a, b in zip(jax.tree.leaves(measure(member)), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(b[i], a, rtol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.integers(-5, 20), min_size=1, max_size=40),
    percent=st.sampled_from([0, 0.1, 1, 5, 7, 14.5, 50, 99, 100]),
)
def test_percentile_is_its_definition(values, percent):
    """The infimum of all gamma such that ceil(epsilon m) margins are below gamma."""
    needed = max(1, -(-round(percent * 10 * len(values)) // 1000))
    measured = percentile_of_margins(jnp.array(values, jnp.float32), percent=percent)
    value = float(measured.value)
    assert sum(v < value + 1e-3 for v in values) >= needed
    assert sum(v < value for v in values) < needed
    assert bool(measured.separates) == (value > 0)
    expected = math.log(value) if value > 0 else -math.inf
    assert float(measured.log_value) == pytest.approx(expected)


def test_fifth_percentile_of_a_hundred():
    margins = jnp.arange(100, 0, -1, dtype=jnp.float32)
    assert percentile_of_margins(margins).value == 5
    assert percentile_of_margins(margins, percent=0).value == 1
    assert percentile_of_margins(margins, percent=100).value == 100
    assert percentile_of_margins(margins, percent=7).value == 7


def test_percentile_lies_beside_the_interpolated_one():
    margins = np.sort(rng.normal(size=200))
    ours = float(percentile_of_margins(jnp.asarray(margins, jnp.float32)).value)
    assert abs(ours - np.percentile(margins, 5)) <= margins[10] - margins[9] + 1e-6


@pytest.mark.parametrize("values", [[-1.0, 2.0], [0.0, 2.0]])
def test_a_margin_that_does_not_separate_says_so(values):
    measured = percentile_of_margins(jnp.array(values))
    assert not measured.separates
    assert measured.log_value == -jnp.inf


def test_not_a_number_is_not_sorted_away():
    with pytest.raises(InputError, match="NaN"):
        percentile_of_margins(jnp.array([1.0, jnp.nan]))
    measured = jax.jit(percentile_of_margins)(jnp.array([1.0, jnp.nan]))
    assert jnp.isnan(measured.value)
    assert jnp.isnan(measured.log_value)
    assert not measured.separates


def test_bad_input_is_refused(plain):
    w, xs = jnp.asarray(WEIGHTS, jnp.float32), jnp.asarray(INPUTS, jnp.float32)
    cases = [
        (linear, w[:, :1], xs, LABELS * 0, "at least 2 outputs"),
        (linear, w, xs, LABELS + 1, "labels from 0 to 2"),
        (linear, w, xs, LABELS * 1.0, "integer class labels"),
        (linear, w, xs, LABELS[:5], "ys of shape \\(5,\\) for 11 examples"),
        (linear, w, xs[:0], LABELS[:0], "0 examples"),
        (linear, w * jnp.nan, xs, LABELS, "NaN or infinity in params"),
        (lambda w, x: (x @ w).sum(), w, xs, LABELS, "shape \\(K,\\)"),
    ]
    for f, params, inputs, labels, message in cases:
        with pytest.raises(InputError, match=message):
            margin(f, params, inputs, labels)
    with pytest.raises(InputError, match="batch_size=0"):
        margin(linear, w, xs, LABELS, batch_size=0)
    for percent in (-1, 101, math.nan, True, "5"):
        with pytest.raises(InputError, match="a number from 0 to 100"):
            margin_percentile(linear, w, xs, LABELS, percent=percent)
    with pytest.raises(InputError, match="shape \\(n,\\)"):
        percentile_of_margins(xs)
    with pytest.raises(InputError, match="0 examples in margins"):
        percentile_of_margins(xs[:0, 0])
    with pytest.raises(InputError, match="margins of dtype int32"):
        percentile_of_margins(jnp.arange(3))
