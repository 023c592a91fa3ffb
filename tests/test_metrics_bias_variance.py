"""Decompositions of loss and variance against loops and simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsens.checks import InputError
from jaxsens.metrics import bias_variance, decompose_variance


def slow_bias_variance(predictions, targets):
    """A eqs. 4-6, one number at a time."""
    members, n, k = predictions.shape
    loss = bias = variance = 0.0
    for i in range(n):
        for c in range(k):
            values = [predictions[m, i, c] for m in range(members)]
            centre = sum(values) / members
            loss += sum((v - targets[i, c]) ** 2 for v in values) / members / n
            bias += (centre - targets[i, c]) ** 2 / n
            variance += sum((v - centre) ** 2 for v in values) / members / n
    return loss, bias, variance


def test_two_opposite_members_are_all_variance():
    predictions = jnp.array([[[1.0, -2.0]], [[-1.0, 2.0]]])
    assert bias_variance(predictions, jnp.zeros((1, 2))) == (5.0, 0.0, 5.0)
    assert bias_variance(predictions, jnp.zeros((1, 2)), unbiased=True) == (5.0, -5.0, 10.0)


def test_equal_members_are_all_bias():
    predictions = jnp.ones((3, 4, 2))
    assert bias_variance(predictions, jnp.zeros((4, 2))) == (2.0, 2.0, 0.0)


def test_loops_agree(x64):
    rng = np.random.default_rng(0)
    predictions, targets = rng.normal(size=(4, 5, 3)), rng.normal(size=(5, 3))
    parts = bias_variance(jnp.asarray(predictions), jnp.asarray(targets))
    np.testing.assert_allclose(parts, slow_bias_variance(predictions, targets), rtol=1e-12)
    assert parts.loss.dtype == jnp.float64


@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from([(2, 1, 1), (2, 5, 3), (5, 4, 2)]), st.booleans(), st.floats(0.1, 10), st.integers(0, 99)
)
def test_the_parts_sum_to_the_loss(shape, unbiased, spread, seed):
    rng = np.random.default_rng(seed)
    predictions = jnp.asarray(spread * rng.normal(size=shape), jnp.float32)
    targets = jnp.asarray(rng.normal(size=shape[1:]), jnp.float32)
    loss, bias, variance = jax.jit(bias_variance, static_argnames="unbiased")(
        predictions, targets, unbiased=unbiased
    )
    np.testing.assert_allclose(loss, bias + variance, rtol=1e-5, atol=1e-6)


def test_unbiased_is_unbiased(key):
    """Members F = y + 0.5 + N(0, s_k^2): bias K / 4, variance sum s_k^2, whatever the number of members."""
    spread = jnp.array([0.5, 1.0, 2.0])
    simulations, members, n = 4000, 3, 5
    targets = jax.nn.one_hot(jnp.arange(n) % 3, 3)
    noise = spread * jax.random.normal(key, (simulations, members, n, 3))

    def mean_and_error(unbiased):
        parts = jax.vmap(lambda p: bias_variance(p, targets, unbiased=unbiased))(targets + 0.5 + noise)
        return [(np.mean(p), np.std(p) / np.sqrt(simulations)) for p in parts]

    truth = [0.75 + 5.25, 0.75, 5.25]
    for (mean, error), expected in zip(mean_and_error(True), truth, strict=True):
        assert abs(mean - expected) < 4 * error
    for (mean, error), expected in list(zip(mean_and_error(False), truth, strict=True))[1:]:
        assert abs(mean - expected) > 10 * error


def test_vmap_and_jit_equal_a_loop(key):
    predictions = jax.random.normal(key, (6, 3, 4, 2))
    targets = jnp.ones((4, 2))
    fast = jax.jit(jax.vmap(lambda p: bias_variance(p, targets, unbiased=True)))(predictions)
    slow = [bias_variance(p, targets, unbiased=True) for p in predictions]
    np.testing.assert_allclose(jnp.stack(fast, 1), jnp.array(slow), rtol=1e-5)


@pytest.mark.parametrize(
    ("predictions", "targets", "message"),
    [
        (jnp.ones((4, 3)), jnp.ones((4, 3)), r"axes \(members, n, K\)"),
        (jnp.ones((1, 4, 3)), jnp.ones((4, 3)), "1 members in predictions"),
        (jnp.ones((2, 0, 3)), jnp.ones((0, 3)), "0 n in predictions"),
        (jnp.ones((2, 4, 3)), jnp.ones(4, jnp.int32), r"jax\.nn\.one_hot"),
        (jnp.ones((2, 4, 3)), jnp.ones((4, 2)), r"targets of shape \(4, 2\)"),
        (jnp.ones((2, 4, 3)), jnp.ones((4, 3), jnp.int32), "targets of dtype int32"),
        (jnp.full((2, 4, 3), jnp.nan), jnp.ones((4, 3)), "NaN or infinity in predictions"),
        (jnp.ones((2, 4, 3)), jnp.full((4, 3), jnp.inf), "NaN or infinity in targets"),
    ],
)
def test_bias_variance_refuses(plain, predictions, targets, message):
    with pytest.raises(InputError, match=message):
        bias_variance(predictions, targets)


def test_variance_splits_by_its_cause():
    """The draw alone moves the first, the initialisation alone the second."""
    between = jnp.broadcast_to(jnp.array([1.0, -1.0])[:, None, None, None], (2, 3, 4, 2))
    assert decompose_variance(between) == (2.0, 2.0, 0.0)
    within = jnp.broadcast_to(jnp.array([3.0, -3.0])[None, :, None, None], (5, 2, 4, 1))
    assert decompose_variance(within) == (9.0, 0.0, 9.0)
    np.testing.assert_allclose(decompose_variance(2 * between), (8.0, 8.0, 0.0))


def test_variance_parts_equal_the_loops(x64):
    predictions = np.random.default_rng(1).normal(size=(3, 4, 5, 2)) * np.arange(1, 4)[:, None, None, None]
    total = between = within = 0.0
    for i in range(5):
        for c in range(2):
            values = predictions[:, :, i, c]
            means = [np.mean(row) for row in values]
            total += np.mean((values - np.mean(values)) ** 2) / 5
            between += np.mean([(m - np.mean(means)) ** 2 for m in means]) / 5
            within += np.mean([np.mean((row - np.mean(row)) ** 2) for row in values]) / 5
    parts = decompose_variance(jnp.asarray(predictions))
    np.testing.assert_allclose(parts, (total, between, within), rtol=1e-12)
    np.testing.assert_allclose(parts.total, parts.between_data + parts.within_data, rtol=1e-12)
    as_one_ensemble = bias_variance(jnp.asarray(predictions.reshape(12, 5, 2)), jnp.zeros((5, 2)))
    np.testing.assert_allclose(parts.total, as_one_ensemble.variance, rtol=1e-12)


def test_variance_parts_vmap(key):
    predictions = jax.random.normal(key, (3, 2, 4, 5, 2))
    fast = jax.jit(jax.vmap(decompose_variance))(predictions)
    slow = [decompose_variance(p) for p in predictions]
    np.testing.assert_allclose(jnp.stack(fast, 1), jnp.array(slow), rtol=1e-5)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (jnp.ones((2, 4, 3)), r"axes \(draws, inits, n, K\)"),
        (jnp.ones((1, 2, 4, 3)), "1 draws in predictions"),
        (jnp.ones((2, 1, 4, 3)), "1 inits in predictions"),
        (jnp.full((2, 2, 4, 3), jnp.nan), "NaN or infinity in predictions"),
        (jnp.ones((2, 2, 4, 3), jnp.int32), "predictions of dtype int32"),
    ],
)
def test_decompose_variance_refuses(plain, predictions, message):
    with pytest.raises(InputError, match=message):
        decompose_variance(predictions)
