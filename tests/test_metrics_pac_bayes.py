"""KL divergence against sums in float64, and the PAC-Bayes bound against risks that are known exactly."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxsens.checks import InputError
from jaxsens.metrics.pac_bayes import kl_divergence, pac_bayes_bound

rng = np.random.default_rng(5)
WEIGHTS = {"a": rng.normal(size=(4, 3)), "b": [rng.normal(size=5), np.zeros(2)]}


def tree(dtype, scale=1.0):
    """Weights and a leaf that is none."""
    return {**jax.tree.map(lambda w: jnp.asarray(scale * w, dtype), WEIGHTS), "steps": jnp.arange(3)}


def flat(weights):
    return [float(w) for leaf in jax.tree.leaves(weights) for w in np.ravel(leaf)]


def gaussian_kl(mean, prior_mean, std):
    """KL of two Gaussians by quadrature of q log(q / p), weight by weight."""
    total = 0.0
    for m, p in zip(mean, prior_mean, strict=True):
        x = np.linspace(m - 12 * std, m + 12 * std, 4001)
        q = norm.pdf(x, m, std)
        total += np.trapezoid(q * (norm.logpdf(x, m, std) - norm.logpdf(x, p, std)), x)
    return total


# The divergence.


@pytest.mark.parametrize("alpha", [1e-3, 0.2])
def test_plotted_divergence_is_its_sum(alpha, x64):
    expected = sum((w / (10 * abs(w) + 1)) ** 2 for w in flat(WEIGHTS)) / alpha**2
    measured = kl_divergence(tree(jnp.float64), alpha=alpha)
    np.testing.assert_allclose(measured, expected, rtol=1e-13)
    assert measured.dtype == jnp.float64
    np.testing.assert_allclose(kl_divergence(tree(jnp.float32), alpha=alpha), expected, rtol=1e-6)


def test_gaussian_divergence_is_the_integral(x64):
    prior = tree(jnp.float64, 0.5)
    measured = kl_divergence(tree(jnp.float64), sigma=0.7, prior=prior)
    expected = gaussian_kl(flat(WEIGHTS), [w / 2 for w in flat(WEIGHTS)], 0.7)
    np.testing.assert_allclose(measured, expected, rtol=1e-9)


def test_divergence_from_zero_and_from_itself():
    weights = tree(jnp.float32)
    expected = sum(w**2 for w in flat(WEIGHTS)) / (2 * 0.3**2)
    np.testing.assert_allclose(kl_divergence(weights, sigma=0.3), expected, rtol=1e-6)
    assert kl_divergence(weights, sigma=0.3, prior=weights) == 0


def test_sums_over_many_weights_are_accurate():
    weights = rng.exponential(size=3_000_000).astype(np.float32)
    exact = np.sum(weights.astype(np.float64) ** 2) / 2
    np.testing.assert_allclose(jax.jit(kl_divergence)(jnp.asarray(weights), sigma=1.0), exact, rtol=2e-6)


@pytest.mark.parametrize("scale", ["alpha", "sigma"])
def test_members_and_scales_equal_a_loop(scale, x64):
    members = jnp.asarray(rng.normal(size=(3, 6)))
    scales = jnp.array([0.01, 0.1])
    measure = jax.jit(
        jax.vmap(jax.vmap(lambda w, s: kl_divergence({"w": w}, **{scale: s}), (0, None)), (None, 0))
    )
    together = measure(members, scales)
    for i, s in enumerate(scales):
        for j, member in enumerate(members):
            alone = kl_divergence({"w": member}, **{scale: float(s)})
            np.testing.assert_allclose(together[i, j], alone, rtol=1e-13)


def test_a_traced_scale_that_is_not_positive_gives_nan():
    for scale in ("alpha", "sigma"):
        assert jnp.isnan(jax.jit(lambda s, name=scale: kl_divergence(jnp.ones(3), **{name: s}))(-0.1))


# The bound.


def test_bound_has_its_closed_form(x64):
    valid = pac_bayes_bound(0.1, 20.0, 1000, delta=0.01)
    np.testing.assert_allclose(valid, 0.1 + math.sqrt((20 + math.log(2000 / 0.01)) / 1000), rtol=1e-14)
    printed = pac_bayes_bound(0.1, 20.0, 1000, delta=0.01, form="as_printed")
    np.testing.assert_allclose(printed, 0.1 + math.sqrt((20 + math.log(100)) / 1000), rtol=1e-14)
    sampled = pac_bayes_bound(0.1, 20.0, 1000, delta=0.01, num_draws=50, monte_carlo_delta=0.02)
    np.testing.assert_allclose(sampled - valid, math.sqrt(math.log(50) / 100), rtol=1e-12)
    assert pac_bayes_bound(0.1, 20.0, 1000).dtype == jnp.float64
    assert pac_bayes_bound(jnp.float32(0.1), jnp.bfloat16(20), 1000).dtype == jnp.float32


def test_bound_moves_as_it_should():
    base = {"mean_loss": 0.1, "kl": 20.0, "num_examples": 1000, "delta": 0.05, "num_draws": 100}
    bound = pac_bayes_bound(**base)
    for name, value in [("mean_loss", 0.2), ("kl", 30.0), ("delta", 0.01), ("monte_carlo_delta", 0.001)]:
        assert pac_bayes_bound(**{**base, name: value}) > bound
    for name, value in [("num_examples", 2000), ("num_draws", 200), ("num_draws", None)]:
        assert pac_bayes_bound(**{**base, name: value}) < bound
    assert pac_bayes_bound(**base, form="as_printed") < bound


def test_valid_form_is_no_less_than_a_proved_bound():
    """Maurer: E exp(m kl(Lhat, L)) <= xi(m) <= 2 sqrt(m), which is computed here. The rest is Pinsker's."""
    for m in [1, 2, 3, 5, 7, 8, 20, 300, 1000]:
        k = np.arange(m + 1)
        binomials = [math.lgamma(m + 1) - math.lgamma(i + 1) - math.lgamma(m - i + 1) for i in k]
        powers = [sum(n * math.log(n / m) for n in (int(i), m - int(i)) if n) for i in k]
        log_xi = np.logaddexp.reduce(np.add(binomials, powers))
        assert log_xi <= math.log(2 * math.sqrt(m)) + 1e-12
        for kl in [0.0, 0.5, 3.0, 40.0, 1e4]:
            for delta in [0.001, 0.05, 0.5]:
                proved = math.sqrt((kl + log_xi - math.log(delta)) / (2 * m))
                assert pac_bayes_bound(0.0, kl, m, delta=delta) >= proved * (1 - 1e-6)
                if kl - math.log(delta) >= math.log(2 * math.sqrt(m)):
                    printed = pac_bayes_bound(0.0, kl, m, delta=delta, form="as_printed")
                    assert printed >= proved * (1 - 1e-6)


def gibbs_error(w, xs, ys, std):
    """The error rate of sign((w + nu) . x) over nu ~ N(0, std^2 I), exactly; w of shape (members, dim)."""
    margins = np.einsum("md,mnd->mn", w, xs) * ys
    return norm.cdf(-margins / (std * np.linalg.norm(xs, axis=-1))).mean(1)


@functools.cache
def bounds_of(form):
    return jax.jit(jax.vmap(lambda loss, kl: pac_bayes_bound(loss, kl, 200, delta=0.1, form=form)))


def test_bound_holds_for_labels_that_no_one_can_learn():
    """Random labels: the true risk is 1/2. w and its scale are chosen, on the training set, to break it."""
    num_sets, m, dim, std = 200, 200, 100, 1.0
    xs = rng.normal(size=(num_sets, m, dim))
    ys = rng.choice([-1.0, 1.0], size=(num_sets, m))
    direction = np.einsum("mnd,mn->md", xs, ys) / m
    lowest, no_kl = np.full(num_sets, np.inf), np.full(num_sets, np.inf)
    for scale in [0.0, 1.0, 3.0, 10.0, 30.0]:
        w = scale * direction
        losses = gibbs_error(w, xs, ys, std)
        kl = jax.vmap(lambda w: kl_divergence(w, sigma=std))(jnp.asarray(w, jnp.float32))
        lowest = np.minimum(lowest, bounds_of("valid")(jnp.asarray(losses, jnp.float32), kl))
        no_kl = np.minimum(no_kl, bounds_of("valid")(jnp.asarray(losses, jnp.float32), 0 * kl))
    assert np.mean(lowest < 0.5) <= 0.1
    assert np.all(lowest < 1)
    # The case can fail: without the divergence the bound is broken most of the time.
    assert np.mean(no_kl < 0.5) > 0.5


def test_bound_says_something_where_there_is_something_to_learn():
    num_sets, m, std = 50, 200, 1.0
    xs = rng.normal(size=(num_sets, m, 2))
    ys = np.sign(xs[..., 0])
    w = np.tile([3.0, 0.0], (num_sets, 1))
    w[:, 1] = xs[:, 0, 1]  # Anything that depends on the training set.
    kl = jax.vmap(lambda w: kl_divergence(w, sigma=std))(jnp.asarray(w, jnp.float32))
    bounds = bounds_of("valid")(jnp.asarray(gibbs_error(w, xs, ys, std), jnp.float32), kl)
    # The error rate of a direction is its angle to the true one over pi.
    noisy = w + rng.normal(size=(20_000, 1, 2)) * std
    risks = np.mean(np.abs(np.arctan2(noisy[..., 1], noisy[..., 0])) / np.pi, axis=0)
    assert np.all(bounds >= risks)
    assert np.all(bounds < 0.6)


def test_values_out_of_range_give_nan_under_jit():
    for mean_loss, kl in [(-0.1, 1.0), (1.1, 1.0), (0.1, -1.0), (jnp.nan, 1.0), (0.1, jnp.nan)]:
        assert jnp.isnan(jax.jit(lambda a, b: pac_bayes_bound(a, b, 100))(mean_loss, kl))
    # The rounding of a mean is none of it.
    assert pac_bayes_bound(-1e-8, 1.0, 100) > 0


def test_bad_input_is_refused(plain):
    weights = tree(jnp.float32)
    cases = [
        (weights, {}, "exactly one of them"),
        (weights, {"alpha": 0.1, "sigma": 0.1}, "exactly one of them"),
        (weights, {"alpha": 0.0}, "alpha=0.0; expected a finite alpha > 0"),
        (weights, {"alpha": -1e-3}, "finite alpha > 0"),
        (weights, {"sigma": -1.0}, "finite sigma > 0"),
        (weights, {"sigma": jnp.nan}, "finite sigma > 0"),
        (weights, {"sigma": jnp.ones(2)}, "sigma of shape \\(2,\\)"),
        (weights, {"alpha": 0.1, "prior": weights}, "a prior with alpha"),
        (weights, {"sigma": 0.1, "prior": {"a": weights["a"]}}, "a prior of structure"),
        (weights, {"sigma": 0.1, "prior": {**weights, "a": jnp.ones((3, 4))}}, "of shape \\(3, 4\\)"),
        (weights, {"sigma": 0.1, "prior": {**weights, "a": jnp.ones((4, 3), int)}}, "a prior with int32"),
        (weights, {"sigma": 0.1, "prior": {**weights, "a": weights["a"] / 0}}, "NaN or infinity in prior"),
        ({"a": jnp.array([1.0, jnp.nan])}, {"sigma": 0.1}, "NaN or infinity in params\\['a'\\]"),
        ({"a": jnp.arange(3)}, {"sigma": 0.1}, "params without a floating array"),
        ({"a": jnp.ones(3, jnp.bfloat16)}, {"alpha": 0.1}, "dtype bfloat16; expected float32 or float64"),
        ({"a": jnp.ones(3, complex)}, {"alpha": 0.1}, "dtype complex64; expected float32 or float64"),
    ]
    for params, options, message in cases:
        with pytest.raises(InputError, match=message):
            kl_divergence(params, **options)
    good = {"mean_loss": 0.1, "kl": 1.0, "num_examples": 100}
    cases = [
        ({"mean_loss": 1.2}, "mean of losses in \\[0, 1\\]; take the error rate"),
        ({"mean_loss": -0.1}, "mean of losses in \\[0, 1\\]"),
        ({"mean_loss": jnp.nan}, "mean of losses in \\[0, 1\\]"),
        ({"mean_loss": jnp.array([0.1, 0.2])}, "mean_loss of shape \\(2,\\)"),
        ({"kl": -1.0}, "expected a kl >= 0"),
        ({"kl": jnp.nan}, "expected a kl >= 0"),
        ({"kl": jnp.ones(2)}, "kl of shape \\(2,\\)"),
        ({"num_examples": 0}, "num_examples=0"),
        ({"num_examples": 10.0}, "num_examples=10.0"),
        ({"delta": 0.0}, "delta=0.0; expected a probability"),
        ({"delta": 1.0}, "delta=1.0; expected a probability"),
        ({"monte_carlo_delta": 2.0}, "monte_carlo_delta=2.0"),
        ({"num_draws": 0}, "num_draws=0"),
        ({"form": "printed"}, "form='printed'; expected one of valid, as_printed"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            pac_bayes_bound(**{**good, **options})
