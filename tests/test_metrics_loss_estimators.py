"""The loss estimators by hand, their measures against slow loops, and what they refuse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.metrics import input_jacobian_norm
from jaxsens.metrics.activations import active_counts, log_empirical_tangent_sensitivity, mlp_preactivations
from jaxsens.metrics.loss_estimators import (
    active_count_estimate,
    empirical_estimate,
    fisher_rao_estimate,
    fisher_rao_norm,
    jacobian_estimate,
    layerwise_norm_estimate,
    log_layerwise_norm,
    log_spectral_product,
    spectral_estimate,
)
from jaxsens.metrics.path_bounds import log_psi_star, log_tangent_norm_bound

BY_LOGS = [layerwise_norm_estimate, active_count_estimate, empirical_estimate, spectral_estimate]
BY_VALUES = [jacobian_estimate, fisher_rao_estimate]


def log_form(previous_log, current_log, train_loss):
    return layerwise_norm_estimate(previous_log, current_log, train_loss, form="log")


def normal(seed, *shape, dtype=np.float32):
    """Drawn by NumPy: compiling jax.random.normal for each shape takes longer than these tests."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def matrices(*members, dtype=np.float32):
    shapes = [(6, 5), (5, 4), (4, 3)]
    return [normal([1, i], *members, *shape, dtype=dtype) for i, shape in enumerate(shapes)]


def slow_fisher_rao(logits):
    """C eq. 10, one class and one example at a time; dl/df by autodiff of the loss itself."""

    @jax.jit
    def product(f, j):
        gradient = jax.grad(lambda f: jax.nn.logsumexp(f) - f[j])(f)
        return jnp.sum(gradient * f)

    n, num_classes = logits.shape
    return sum(sum(float(product(f, j)) ** 2 for f in logits) / n for j in range(num_classes))


@pytest.mark.parametrize("estimate", BY_LOGS)
def test_ratios_of_logarithms_by_hand(estimate):
    assert float(estimate(math.log(6.0), math.log(2.0), 0.5)) == pytest.approx(1.5, rel=1e-6)
    assert float(estimate(-3000.0, -3000.0 - math.log(2.0), 0.5)) == pytest.approx(1.0, rel=1e-5)
    assert float(estimate(-math.inf, 0.0, 0.5)) == 0.0
    assert float(estimate(5.0, 5.0, 0.25)) == 0.25


@pytest.mark.parametrize("estimate", BY_VALUES)
def test_ratios_of_values_by_hand(estimate):
    assert float(estimate(6.0, 2.0, 0.5)) == 1.5
    assert float(estimate(0.0, 2.0, 0.5)) == 0.0


def test_log_form_is_the_ratio_of_logarithms():
    assert float(log_form(6.0, 4.0, 0.5)) == 0.75
    assert float(log_form(0.0, 4.0, 0.5)) == 0.0


def test_layerwise_norm_by_hand(x64):
    """C eq. 6 with the norms growing by 2 and 3: the estimate falls by their square."""
    before = [jnp.array([[1.0, -2.0]]), jnp.array([[0.5], [0.25]])]
    now = [jnp.array([[-4.0, 1.0]]), jnp.array([[1.5], [1.0]])]
    np.testing.assert_allclose(np.exp(log_layerwise_norm(before)), (2.0 * 0.5) ** 2, rtol=1e-12)
    previous, current = log_layerwise_norm(before), log_layerwise_norm(now)
    np.testing.assert_allclose(layerwise_norm_estimate(previous, current, 3.6), 3.6 / 36, rtol=1e-12)


def test_equation_6_leaves_out_a_part_that_learning_changes(x64):
    """C calls the rest of eq. 1 invariable, but eq. 1 divides by min_i wmax_i: its ratio is another."""
    before = [jnp.array([[2.0]]), jnp.array([[0.5]])]
    now = [jnp.array([[2.0]]), jnp.array([[1.0]])]
    printed = layerwise_norm_estimate(log_layerwise_norm(before), log_layerwise_norm(now), 1.0)
    whole = layerwise_norm_estimate(log_tangent_norm_bound(before), log_tangent_norm_bound(now), 1.0)
    np.testing.assert_allclose(printed, 0.25, rtol=1e-12)
    np.testing.assert_allclose(whole, 1.0, rtol=1e-12)


def test_each_estimate_from_a_network_to_a_loss(x64):
    """Train and test sets in their places: measures of the test set above, of the training set below."""
    weights, (train, test) = matrices(dtype=np.float64), normal(2, 2, 9, 6, dtype=np.float64)

    def f(params, x):
        for w in params[:-1]:
            x = jax.nn.relu(x @ w)
        return x @ params[-1]

    jacobians = [np.asarray(input_jacobian_norm(f, weights, xs)).mean() for xs in (test, train)]
    np.testing.assert_allclose(
        jacobian_estimate(*jacobians, 0.7), jacobians[0] / jacobians[1] * 0.7, rtol=1e-12
    )
    logits = [jax.vmap(f, (None, 0))(weights, xs) for xs in (test, train)]
    slow = [slow_fisher_rao(y) for y in logits]
    np.testing.assert_allclose(
        fisher_rao_estimate(*map(fisher_rao_norm, logits), 0.7), slow[0] / slow[1] * 0.7, rtol=1e-9
    )
    counts = [np.asarray(active_counts(mlp_preactivations(weights, None, xs)).total) for xs in (test, train)]
    psi = [log_psi_star(3, float(t.mean()), float(t.std())) for t in counts]
    # At k = 3, std^4 1F1(-1, 1/2, -mean^2 / 2 std^2)^2 = (std^2 + mean^2)^2.
    expected = np.prod(
        [(t.std() ** 2 + t.mean() ** 2) ** (2 * s) for t, s in zip(counts, (1, -1), strict=True)]
    )
    np.testing.assert_allclose(active_count_estimate(*psi, 0.7), expected * 0.7, rtol=1e-9)
    values = [jnp.exp(y[:, 0]) for y in logits]
    logs = map(log_empirical_tangent_sensitivity, values)
    np.testing.assert_allclose(
        empirical_estimate(*logs, 0.7), values[0].mean() / values[1].mean() * 0.7, rtol=1e-9
    )


@pytest.mark.parametrize("estimate", [*BY_LOGS, *BY_VALUES, log_form])
def test_curves_and_vmap_agree_with_a_loop(estimate):
    """Arrays broadcast, under jit too."""
    first, second, losses = (
        jnp.asarray(np.random.default_rng(i).uniform(1, 3, 4), jnp.float32) for i in range(3)
    )
    slow = [float(estimate(*map(float, each))) for each in zip(first, second, losses, strict=True)]
    np.testing.assert_allclose(estimate(first, second, losses), slow, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(estimate)(first, second, losses), slow, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(estimate)(first, second, losses), slow, rtol=1e-5)
    np.testing.assert_allclose(
        estimate(np.asarray(first), 2.0, 1)[1], estimate(float(first[1]), 2, 1.0), rtol=1e-5
    )


def test_fisher_rao_of_two_classes_by_hand(x64):
    """f = (a, 0): p_1 = sigmoid(a), and the two products are -a sigmoid(-a) and a sigmoid(a)."""
    a = 1.3
    p = 1 / (1 + math.exp(-a))
    expected = (a * (1 - p)) ** 2 + (a * p) ** 2
    np.testing.assert_allclose(fisher_rao_norm(jnp.array([[a, 0.0]])), expected, rtol=1e-12)
    np.testing.assert_allclose(fisher_rao_norm(jnp.full((4, 3), 2.0)), 0.0, atol=1e-20)
    assert fisher_rao_norm(jnp.ones((4, 1))) == 0.0


def test_fisher_rao_agrees_with_loops(x64):
    logits = 3.0 * normal(3, 7, 5, dtype=np.float64)
    np.testing.assert_allclose(jax.jit(fisher_rao_norm)(logits), slow_fisher_rao(logits), rtol=1e-10)


def test_fisher_rao_does_not_see_shifts():
    """One number added to all logits of an example; powers of two, so that adding them rounds nothing."""
    logits = jnp.round(normal(3, 7, 5) * 64) / 64
    shifted = logits + jnp.array([0.0, 2.0**10, -(2.0**10), 64.0, 2.0**12, 1.0, -8.0])[:, None]
    np.testing.assert_allclose(fisher_rao_norm(shifted), fisher_rao_norm(logits), rtol=1e-6)


def test_fisher_rao_of_large_logits_keeps_its_digits(x64):
    """Close logits on a large offset: p . f - f_j as written loses them, the reference does not."""
    logits = jnp.array([[1000.0, 1000.001, 999.998], [-5000.0, -5000.01, -5000.02]], jnp.float32)
    expected = slow_fisher_rao(logits.astype(jnp.float64) - jnp.array([[1000.0], [-5000.0]]))
    np.testing.assert_allclose(fisher_rao_norm(logits), expected, rtol=1e-5)
    naive = jnp.sum(jax.nn.softmax(logits) * logits, axis=1, keepdims=True) - logits
    assert abs(jnp.sum(jnp.mean(naive**2, axis=0)) / expected - 1) > 1e-3
    assert jnp.isfinite(fisher_rao_norm(jnp.array([[1e4, -1e4, 0.0]], jnp.float32)))


def test_fisher_rao_is_a_mean_over_examples(x64):
    logits = normal(3, 7, 5, dtype=np.float64)
    np.testing.assert_allclose(fisher_rao_norm(jnp.tile(logits, (3, 1))), fisher_rao_norm(logits), rtol=1e-12)
    np.testing.assert_allclose(fisher_rao_norm(logits[:, ::-1]), fisher_rao_norm(logits), rtol=1e-12)


def test_spectral_product_is_of_singular_values_not_eigenvalues(x64):
    """A shear has eigenvalues 1, 1 and largest singular value (4 + sqrt 20) / 2."""
    shear = jnp.array([[1.0, 4.0], [0.0, 1.0]])
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(shear)), [1.0, 1.0])
    np.testing.assert_allclose(np.exp(log_spectral_product([shear])), (4 + math.sqrt(20)) / 2, rtol=1e-12)
    nilpotent = jnp.array([[0.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(np.exp(log_spectral_product([shear, nilpotent])), 3 * (2 + math.sqrt(5)))


def test_spectral_product_agrees_with_gram_matrices(x64):
    kernel = normal(4, 2, 3, 4, 5, dtype=np.float64)
    weights = [*matrices(dtype=np.float64), kernel]
    flat = [np.asarray(w) for w in matrices(dtype=np.float64)]
    flat.append(np.asarray(kernel).reshape(24, 5))
    expected = sum(math.log(np.linalg.eigvalsh(w.T @ w).max()) / 2 for w in flat)
    np.testing.assert_allclose(jax.jit(log_spectral_product)(weights), expected, rtol=1e-10)


def test_products_of_many_layers_stay_in_range():
    weights = [jnp.full((3, 3), 1e4)] * 40
    np.testing.assert_allclose(log_spectral_product(weights), 40 * math.log(3e4), rtol=1e-6)
    np.testing.assert_allclose(log_layerwise_norm(weights), 80 * math.log(1e4), rtol=1e-6)
    assert log_layerwise_norm([jnp.ones((2, 2)), jnp.zeros((2, 2))]) == -jnp.inf


def test_measures_of_weights_scale(x64):
    weights = matrices(dtype=np.float64)
    scaled = [3.0 * w for w in weights]
    shift = 3 * math.log(3.0)
    np.testing.assert_allclose(
        log_spectral_product(scaled), log_spectral_product(weights) + shift, rtol=1e-12
    )
    np.testing.assert_allclose(
        log_layerwise_norm(scaled), log_layerwise_norm(weights) + 2 * shift, rtol=1e-12
    )


def test_vmap_over_members_equals_a_loop():
    stacked, logits = matrices(3), normal(5, 3, 6, 4)

    def one(weights, logits):
        return log_layerwise_norm(weights), log_spectral_product(weights), fisher_rao_norm(logits)

    jitted = jax.jit(one)
    loops = [jitted([w[m] for w in stacked], logits[m]) for m in range(3)]
    slow = jax.tree.map(lambda *parts: jnp.stack(parts), *loops)
    fast = jax.jit(jax.vmap(one))(stacked, logits)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), fast, slow)


@pytest.mark.parametrize("estimate", [*BY_LOGS, *BY_VALUES, log_form])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf, jnp.array([1.0, jnp.nan])])
def test_estimates_refuse_nan_and_infinity(plain, estimate, place, bad):
    arguments = [1.0, 2.0, 3.0]
    arguments[place] = bad
    with pytest.raises(InputError, match="expected a finite"):
        estimate(*arguments)


@pytest.mark.parametrize("estimate", BY_LOGS)
def test_estimates_refuse_a_training_measure_of_zero(plain, estimate):
    with pytest.raises(InputError, match="=-inf; expected a finite"):
        estimate(1.0, -math.inf, 1.0)


@pytest.mark.parametrize("estimate", BY_VALUES)
def test_estimates_refuse_values_that_are_no_norms(plain, estimate):
    with pytest.raises(InputError, match=r"train=0\.0; expected a train other than 0"):
        estimate(1.0, 0.0, 1.0)
    with pytest.raises(InputError, match=r"test=-1\.0"):
        estimate(-1.0, 1.0, 1.0)
    with pytest.raises(InputError, match=r"train=-1\.0"):
        estimate(1.0, -1.0, 1.0)


def test_log_form_refuses_a_logarithm_of_zero(plain):
    with pytest.raises(InputError, match=r"current_log=0\.0; expected a current_log other than 0"):
        log_form(1.0, 0.0, 1.0)
    with pytest.raises(InputError, match="previous_log=-inf"):
        log_form(-math.inf, 1.0, 1.0)
    with pytest.raises(InputError, match="form='ratio'; expected one of as_printed, log"):
        layerwise_norm_estimate(1.0, 1.0, 1.0, form="ratio")


@pytest.mark.parametrize("measure", [log_layerwise_norm, log_spectral_product])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "no weights"),
        ([jnp.ones(3)], r"weights\[0\] of shape \(3,\); expected a non-empty array of rank 2 or 4"),
        ([jnp.ones((2, 2)), jnp.ones((2, 0))], r"weights\[1\] of shape \(2, 0\)"),
        ([jnp.ones((2, 2), jnp.int32)], "dtype int32"),
        ([jnp.full((2, 2), jnp.nan)], r"NaN or infinity in weights\[0\]"),
    ],
)
def test_refusals_of_weights(plain, measure, weights, message):
    with pytest.raises(InputError, match=message):
        measure(weights)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (jnp.ones(3), r"logits of shape \(3,\)"),
        (jnp.ones((0, 3)), r"logits of shape \(0, 3\)"),
        (jnp.ones((3, 0)), r"logits of shape \(3, 0\)"),
        (jnp.ones((3, 2), jnp.int32), "logits of dtype int32"),
        (jnp.full((3, 2), jnp.inf), "NaN or infinity in logits"),
    ],
)
def test_refusals_of_logits(plain, logits, message):
    with pytest.raises(InputError, match=message):
        fisher_rao_norm(logits)
