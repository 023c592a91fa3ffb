"""Paper A's predictions by hand and against random networks."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.data import load
from jaxsens.metrics import (
    bias_term,
    logit_variance,
    mlp_sensitivity_at_init,
    output_sensitivity,
    predicted_logit_variance,
    predicted_loss,
    predicted_variance,
)
from jaxsens.models import build, fully_connected


def test_predictions_by_hand():
    options = {"noise_std": 0.5, "bias_term": 3.0}
    assert predicted_logit_variance(0.25, 2.0, **options) == 0.25 * 2.0 / 0.25 + 3.0
    assert predicted_variance(0.25, 2.0, num_outputs=10, **options) == pytest.approx(0.9 * 5.0)
    assert predicted_loss(0.25, 2.0, num_outputs=10, **options) == pytest.approx(np.sqrt(0.45 * 5.0))
    assert predicted_variance(0.25, 2.0, num_outputs=1, **options) == 0.0


def test_predictions_take_an_ensemble_under_jit():
    values = jnp.array([0.25, 1.0])
    fast = jax.jit(lambda s: predicted_loss(s, 2.0, noise_std=0.5, num_outputs=10))(values)
    slow = [predicted_loss(float(s), 2.0, noise_std=0.5, num_outputs=10) for s in values]
    np.testing.assert_allclose(fast, slow, rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(lambda s: predicted_loss(s, 2.0, noise_std=0.5, num_outputs=10))(values), slow
    )


def test_bias_term_of_one_hidden_layer_is_appendix_b():
    """Sigma = (H/K) w_2 b_1 c + b_2 / K; eq. 8 as printed keeps b_1 / K alone."""
    w, b, h, k, alpha, beta = (2.0, 3.0), (5.0, 7.0), 11, 4, 1.0, 0.5
    c = (alpha**2 + beta**2) / 2
    slopes = {"alpha": alpha, "beta": beta}
    assert bias_term(w, b, (h,), k, **slopes) == pytest.approx(h / k * 3.0 * 5.0 * c + 7.0 / k)
    assert bias_term(w, b, (h,), k, variant="as_printed", **slopes) == pytest.approx(5.0 / k)


def test_bias_term_of_two_hidden_layers_by_hand():
    w, b, (h1, h2), k = (2.0, 3.0, 5.0), (7.0, 11.0, 13.0), (4, 6), 3
    derived = (7.0 * (3.0 * h1 / 2) * (5.0 * h2 / 2) + 11.0 * (5.0 * h2 / 2) + 13.0) / k
    printed = (7.0 * (3.0 * h2 / 2) + 11.0) / k
    assert bias_term(w, b, (h1, h2), k) == pytest.approx(derived)
    assert bias_term(w, b, (h1, h2), k, variant="as_printed") == pytest.approx(printed)


def test_bias_term_without_hidden_layers_is_the_output_bias():
    assert bias_term((2.0,), (6.0,), (), 3) == pytest.approx(2.0)


def test_sensitivity_at_init_by_hand():
    assert mlp_sensitivity_at_init(3072, 10, (100,) * 3, 0.1) == pytest.approx(3072 / 10 * 50.0**3 * 0.01)
    assert mlp_sensitivity_at_init(6, 3, (), 0.5) == pytest.approx(6 / 3 * 0.25)
    value = mlp_sensitivity_at_init(6, 3, (4, 5), 0.5, weight_moments=(2.0, 3.0, 7.0), alpha=1.0, beta=0.5)
    assert value == pytest.approx(6 / 3 * 0.25 * 2.0 * (0.625 * 3.0 * 4) * (0.625 * 7.0 * 5))


def test_a_deep_network_does_not_overflow():
    assert mlp_sensitivity_at_init(3072, 10, (1000,) * 20, 0.1) == pytest.approx(3.072 * 500.0**20)


def test_moments_may_be_traced():
    def both(w, b):
        return bias_term(w, b, (4, 5), 3), mlp_sensitivity_at_init(6, 3, (4, 5), 0.5, weight_moments=w)

    w, b = jnp.array([2.0, 3.0, 7.0]), jnp.array([1.0, 0.5, 2.0])
    expected = both(w.tolist(), b.tolist())
    np.testing.assert_allclose(jax.jit(both)(w, b), expected, rtol=1e-6)
    stacked = jax.vmap(both)(jnp.stack([w, 2 * w]), jnp.stack([b, b]))
    np.testing.assert_allclose([part[0] for part in stacked], expected, rtol=1e-6)
    np.testing.assert_allclose(stacked[1][1] / stacked[1][0], 8.0, rtol=1e-6)


@pytest.mark.parametrize("widths", [(7,), (5, 8)])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_random_networks_have_the_derived_variance(widths, beta):
    """A eq. 14 over 100 000 random networks; with eq. 8 as printed it fails."""
    members, dim, num_outputs, noise_std = 100_000, 4, 3, 0.1
    weight_moments = [0.5, 0.8, 0.3][: len(widths) + 1]
    bias_moments = [2.0, 0.3, 3.0][: len(widths) + 1]
    rng = np.random.default_rng(len(widths))
    xs = rng.normal(size=(2, dim))
    h = np.broadcast_to(xs, (members, 2, dim))
    sizes = (dim, *widths, num_outputs)
    for layer, (d, o) in enumerate(pairwise(sizes)):
        if layer:
            h = np.where(h > 0, h, beta * h)
        w = np.sqrt(weight_moments[layer]) * rng.normal(size=(members, d, o))
        b = np.sqrt(bias_moments[layer]) * rng.normal(size=(members, 1, o))
        h = h @ w + b
    squares = (h.mean(2) ** 2).mean(1)
    error = squares.std() / np.sqrt(members)
    with jax.enable_x64(True):
        measured = float(logit_variance(jnp.asarray(h)))
    sensitivity = mlp_sensitivity_at_init(
        dim, num_outputs, widths, noise_std, weight_moments=weight_moments, beta=beta
    )

    def predicted(variant):
        sigma = bias_term(weight_moments, bias_moments, widths, num_outputs, beta=beta, variant=variant)
        return predicted_logit_variance(sensitivity, np.mean(xs**2), noise_std=noise_std, bias_term=sigma)

    assert error < 0.02 * measured
    assert abs(measured - predicted("derivation")) < 4 * error
    assert abs(measured - predicted("as_printed")) > 10 * error


def test_logit_variance_equals_the_loops(x64):
    outputs = np.random.default_rng(0).normal(size=(4, 5, 3))
    means = [[np.mean(outputs[m, i]) for m in range(4)] for i in range(5)]
    for unbiased in (False, True):
        expected = np.mean([np.var(row, ddof=int(unbiased)) for row in means])
        np.testing.assert_allclose(
            logit_variance(jnp.asarray(outputs), unbiased=unbiased), expected, rtol=1e-12
        )


def test_logit_variance_vmap(key):
    outputs = jax.random.normal(key, (3, 4, 5, 2))
    np.testing.assert_allclose(
        jax.jit(jax.vmap(logit_variance))(outputs), [logit_variance(o) for o in outputs], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bias_term((1.0,), (1.0, 1.0), (5,), 2), "1 weight_moments for 1 widths"),
        (lambda: bias_term((1.0, 1.0), (1.0,), (5,), 2), "1 bias_moments for 1 widths"),
        (lambda: bias_term((1.0, 1.0), (1.0, -1.0), (5,), 2), r"bias_moments\[1\]=-1.0"),
        (lambda: bias_term((1.0, 1.0), (1.0, 1.0), (0,), 2), r"widths\[0\]=0"),
        (lambda: bias_term((1.0, 1.0), (1.0, 1.0), (5,), 0), "num_outputs=0"),
        (lambda: bias_term((1.0, 1.0), (1.0, 1.0), (5,), 2, variant="printed"), "variant='printed'"),
        (lambda: mlp_sensitivity_at_init(0, 2, (5,), 0.1), "input_dim=0"),
        (lambda: mlp_sensitivity_at_init(3, 2, (5,), 0.0), "noise_std=0.0"),
        (lambda: mlp_sensitivity_at_init(3, 2, (5,), 0.1, weight_moments=(1.0,)), "1 weight_moments"),
        (lambda: predicted_variance(-1.0, 1.0, noise_std=0.1, num_outputs=2), "sensitivity=-1.0"),
        (lambda: predicted_variance(float("nan"), 1.0, noise_std=0.1, num_outputs=2), "sensitivity=nan"),
        (lambda: predicted_loss(1.0, -1.0, noise_std=0.1, num_outputs=2), "input_second_moment=-1.0"),
        (lambda: predicted_loss(1.0, 1.0, noise_std=0.0, num_outputs=2), "noise_std=0.0"),
        (lambda: predicted_loss(1.0, 1.0, noise_std=0.1, num_outputs=2, bias_term=-1.0), "bias_term=-1.0"),
        (lambda: logit_variance(jnp.ones((4, 3))), r"axes \(members, n, K\)"),
        (lambda: logit_variance(jnp.ones((1, 4, 3))), "1 members in outputs"),
        (lambda: logit_variance(jnp.full((2, 4, 3), jnp.nan)), "NaN or infinity in outputs"),
    ],
)
def test_refusals(plain, call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("hidden_layers", "width"),
    [
        (1, 20),
        (2, 12),
        *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((1, 80), (6, 24), (3, 30), (4, 16))),
    ],
)
def test_equation_10_is_s_before_of_standard_normal_networks(hidden_layers, width):
    """The zoo's own networks, as the figures have them untrained, on real digits: 1000 seeds each.

    Small noise, where eq. 10 is exact; S varies from seed to seed, so the mean is held against its own error.
    """
    xs = jnp.asarray(load("digits").x_test[:20])
    network = build(fully_connected(hidden_layers, width), input_shape=xs.shape[1:], num_outputs=10)

    def sensitivity(key):
        params, state = network.init(key)
        f = network.function(state)
        return output_sensitivity(f, params, xs, key=jax.random.fold_in(key, 1), noise_std=1e-3).value

    found = np.asarray(jax.jit(jax.vmap(sensitivity))(jax.random.split(jax.random.key(10), 1000)), np.float64)
    error = found.std(ddof=1) / np.sqrt(len(found))
    # The variance of 20 draws is about a mean of their own, which takes a twentieth.
    predicted = mlp_sensitivity_at_init(64, 10, [width] * hidden_layers, 1e-3) * 19 / 20
    assert error < 0.2 * predicted
    assert abs(found.mean() - predicted) < 3.5 * error
