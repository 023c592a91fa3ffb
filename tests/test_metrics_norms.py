"""Products of matrix norms against loops in float64, their forms, range, derivatives and refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsens.checks import InputError
from jaxsens.metrics.loss_estimators import log_spectral_product
from jaxsens.metrics.margins import percentile_of_margins
from jaxsens.metrics.norms import log_l2_norm, log_spectral_norm

NORMS = [log_l2_norm, log_spectral_norm]
# A convolution network on 4 x 4 images, flattened, and a perceptron.
NETWORKS = [
    [(3, 3, 2, 5), (1, 1, 5, 3), (48, 4), (4, 2)],
    [(6, 5), (5, 7), (7, 3)],
    [(4, 4)],
    [(2, 9), (9, 1)],
]


def draw(shapes, seed=0, dtype=None):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def slow_log_norm(norm, weights, form):
    total = 0.0
    for w in weights:
        matrix = np.asarray(w, np.float64).reshape(-1, w.shape[-1])
        if norm is log_l2_norm:
            total += math.log(sum(value**2 for value in matrix.ravel()))
            total += math.log(4) if form == "capacity" else 0
        else:
            total += 2 * math.log(np.linalg.svd(matrix)[1][0])
            total += math.log(w.shape[-1]) if form == "capacity" else 0
    return total


@pytest.mark.parametrize("shapes", NETWORKS)
def test_norms_equal_a_loop(shapes, x64):
    weights = draw(shapes)
    kinds = [(norm, form) for norm in NORMS for form in ("plotted", "capacity")]
    expected = [slow_log_norm(norm, weights, form) for norm, form in kinds]
    measure = jax.jit(lambda weights: [norm(weights, form=form) for norm, form in kinds])
    np.testing.assert_allclose(measure(weights), expected, rtol=1e-12)
    single = measure([w.astype(jnp.float32) for w in weights])
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5)


def test_by_hand():
    weights = [jnp.diag(jnp.array([3.0, 4.0])), jnp.array([[1.0], [0.0]])]
    assert float(log_l2_norm(weights)) == pytest.approx(math.log(25))
    assert float(log_l2_norm(weights, form="capacity")) == pytest.approx(math.log(25 * 4**2))
    assert float(log_spectral_norm(weights)) == pytest.approx(math.log(16))
    assert float(log_spectral_norm(weights, form="capacity")) == pytest.approx(math.log(16 * 2 * 1))


def test_spectral_norm_is_twice_the_spectral_product(x64):
    weights = draw(NETWORKS[0])
    np.testing.assert_allclose(log_spectral_norm(weights), 2 * log_spectral_product(weights), rtol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_margins_divide(norm):
    weights = draw(NETWORKS[1])
    gamma = percentile_of_margins(jnp.array([0.25, 3.0]))
    difference = norm(weights) - norm(weights, log_margin=gamma.log_value)
    assert float(difference) == pytest.approx(2 * math.log(0.25), rel=1e-5)
    for log_margin in (math.log(0.25), np.float32(math.log(0.25))):
        assert float(norm(weights, log_margin=log_margin)) == pytest.approx(float(norm(weights) - difference))


@pytest.mark.parametrize("norm", NORMS)
def test_a_network_that_does_not_separate_has_no_finite_capacity(norm):
    weights = draw(NETWORKS[1])
    gamma = percentile_of_margins(jnp.array([-0.25, 3.0]))
    for form in ("plotted", "capacity"):
        assert norm(weights, form=form, log_margin=gamma.log_value) == jnp.inf
    assert norm([w * 0 for w in weights], log_margin=-math.inf) == jnp.inf
    assert jax.jit(lambda w, m: norm(w, log_margin=m))(weights, gamma.log_value) == jnp.inf


@pytest.mark.parametrize("norm", NORMS)
def test_zero_layers_are_minus_infinity(norm):
    weights = draw(NETWORKS[1])
    assert norm([weights[0], weights[1] * 0, weights[2]]) == -jnp.inf
    assert jax.jit(norm)([weights[0], weights[1] * 0, weights[2]]) == -jnp.inf


@pytest.mark.parametrize("norm", NORMS)
def test_squares_stay_in_range(norm):
    """Squares of 1e30, and products over 10 layers, are beyond float32."""
    measure = jax.jit(jax.value_and_grad(norm))
    for scale in (1e-30, 1e30):
        weights = [scale * w for w in draw([(3, 3)] * 10, dtype=jnp.float32)]
        value, gradient = measure(weights)
        np.testing.assert_allclose(value, slow_log_norm(norm, weights, "plotted"), rtol=1e-5)
        assert all(bool(jnp.all(jnp.isfinite(g))) for g in gradient)


@pytest.mark.parametrize("norm", NORMS)
def test_derivatives(norm, x64):
    """d log|W|_F^2 = 2 W / |W|_F^2 and d log|W|_2^2 = 2 u v^T / |W|_2."""
    weights = draw(NETWORKS[0])
    for w, gradient in zip(weights, jax.jit(jax.grad(norm))(weights), strict=True):
        matrix = np.asarray(w).reshape(-1, w.shape[-1])
        u, s, vt = np.linalg.svd(matrix, full_matrices=False)
        frobenius = 2 * matrix / np.sum(matrix**2)
        expected = frobenius if norm is log_l2_norm else 2 * np.outer(u[:, 0], vt[0]) / s[0]
        np.testing.assert_allclose(gradient, expected.reshape(w.shape), atol=1e-12)


compiled = [jax.jit(norm) for norm in NORMS]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), factor=st.sampled_from([1e-3, 0.5, 40.0]))
def test_scales(seed, factor):
    """Layer-wise rescaling leaves both norms, node-wise rescaling does not leave the l2 norm."""
    with jax.enable_x64(True):
        weights = draw(NETWORKS[1], seed)
        moved = [weights[0] * factor, weights[1] / factor, weights[2]]
        unit = [weights[0].at[:, 0].multiply(factor), weights[1].at[0].divide(factor), weights[2]]
        for norm in compiled:
            np.testing.assert_allclose(norm(moved), norm(weights), rtol=1e-10, atol=1e-10)
            np.testing.assert_allclose(
                norm([factor * w for w in weights]), norm(weights) + 2 * 3 * math.log(factor), atol=1e-10
            )
        l2, spectral = compiled
        assert abs(l2(unit) - l2(weights)) > 1e-6
        assert spectral(weights) <= l2(weights)


def test_spectral_capacity_as_printed_does_not_follow_from_the_l2_capacity():
    """Footnote 2 derives it from prod 4 |W|_F^2 <= prod 4 h |W|_2^2; it is printed without the 4."""
    weights, depth = [jnp.eye(5)] * 3, 3
    printed, source = (norm(weights, form="capacity") for norm in (log_spectral_norm, log_l2_norm))
    assert float(printed) == pytest.approx(float(source) - depth * math.log(4), rel=1e-5)
    with_factor = float(printed) + depth * math.log(4)
    assert with_factor == pytest.approx(float(source), rel=1e-5)
    random = draw(NETWORKS[1])
    assert log_l2_norm(random, form="capacity") <= (
        log_spectral_norm(random, form="capacity") + depth * math.log(4)
    )


@pytest.mark.parametrize("norm", NORMS)
def test_members_equal_a_loop(norm, x64):
    members = [draw(NETWORKS[0], seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    together = jax.jit(jax.vmap(norm))(stacked)
    np.testing.assert_allclose(together, [norm(member) for member in members], rtol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_bad_input_is_refused(norm, plain):
    a, b = jnp.ones((6, 5)), jnp.ones((5, 7))
    kernel = jnp.ones((3, 3, 2, 5))
    cases = [
        ([], "no weights"),
        ([a, a], "weights\\[0\\] of shape \\(6, 5\\) before weights\\[1\\] of \\(6, 5\\)"),
        ([a, b, a], "weights\\[1\\]"),
        ([kernel, jnp.ones((48, 4))], "channels that divide"),
        ([kernel, kernel], "weights\\[0\\]"),
        ([a, jnp.ones((3, 3, 5, 2))], "weights\\[0\\]"),
        ([a, jnp.ones(5)], "weights\\[1\\] of shape \\(5,\\)"),
        ([a * jnp.nan], "NaN or infinity in weights"),
        ([a.astype(int)], "dtype int32"),
    ]
    for weights, message in cases:
        with pytest.raises(InputError, match=message):
            norm(weights)
    with pytest.raises(InputError, match="form='printed'"):
        norm([a], form="printed")
    for log_margin in (math.nan, math.inf):
        with pytest.raises(InputError, match="margin_percentile"):
            norm([a], log_margin=log_margin)
    with pytest.raises(InputError, match="log_margin of shape \\(2,\\)"):
        norm([a], log_margin=jnp.ones(2))
