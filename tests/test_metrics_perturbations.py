"""Sharpness against closed forms, a NumPy ascent in float64, and its own error bars."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.metrics.pac_bayes import kl_divergence
from jaxsens.metrics.perturbations import expected_sharpness, sharpness, sharpness_kl_curve

rng = np.random.default_rng(11)
WEIGHTS = rng.normal(size=7)
SLOPES = rng.normal(size=7)
root = rng.normal(size=(7, 7))
CURVATURE = root @ root.T
EXAMPLES = rng.normal(size=(100, 3))
OPTIONS = ("loss", "num_steps", "num_evaluations", "denominator")
climbed = jax.jit(sharpness, static_argnames=OPTIONS)
GROUPS = ("loss", "num_perturbations", "perturbations_per_draw", "batch_size")
expected = jax.jit(expected_sharpness, static_argnames=GROUPS)


def tree(weights, dtype=None):
    """Seven weights in two leaves, and two leaves that are none."""
    weights = jnp.asarray(weights, dtype)
    return {"a": weights[..., :3], "b": [weights[..., 3:].reshape(*weights.shape[:-1], 2, 2), jnp.arange(2)]}


def flat(params):
    return jnp.concatenate([params["a"], params["b"][0].ravel()])


def linear(params, key):
    return flat(params) @ jnp.asarray(SLOPES, params["a"].dtype)


def quadratic(params, key):
    w = flat(params)
    return linear(params, key) + w @ jnp.asarray(CURVATURE, w.dtype) @ w / 2


def uniform(key):
    """A number in [0, 1) from the key's own bits: compiling jax.random takes longer than these tests."""
    return (jax.random.key_data(key)[-1] >> 9).astype(jnp.float32) / 2**23


def factor(key):
    """What minibatches multiply a loss by: 1 on average, with a standard deviation of 0.3."""
    return 1 + 0.3 * 12**0.5 * (uniform(key) - 0.5)


def noisy_linear(params, key):
    return factor(key) * linear(params, key)


def noisy_quadratic(params, key):
    return factor(key) * quadratic(params, key)


def network(params, key):
    """Squared error of a small network at eight examples that the key chooses."""
    start = (92 * uniform(key)).astype(int)
    x = jax.lax.dynamic_slice_in_dim(jnp.asarray(EXAMPLES, params["a"].dtype), start, 8)
    z = x * params["a"]
    hidden = z / (1 + z**2)
    return jnp.mean((hidden[:, :2] @ params["b"][0] + hidden[:, 2:] - 1) ** 2)


def box(alpha):
    return alpha * (np.abs(WEIGHTS) + 1)


def stds(alpha):
    return alpha * (10 * np.abs(WEIGHTS) + 1)


def quadratic_sharpness(alpha):
    return np.sum(np.diag(CURVATURE) * stds(alpha) ** 2) / 2


# Expected sharpness.


@pytest.mark.parametrize("alpha", [0.003, 0.05])
def test_quadratic_loss_has_its_closed_form(key, alpha, x64):
    value, stderr = expected(quadratic, tree(WEIGHTS), key=key, alpha=alpha, num_perturbations=20_000)
    assert abs(value - quadratic_sharpness(alpha)) < 4 * stderr
    assert stderr < 0.02 * value
    assert value.dtype == stderr.dtype == jnp.float64


def test_what_is_of_first_order_cancels(key, x64):
    value, stderr = expected(linear, tree(WEIGHTS), key=key, alpha=0.1, num_perturbations=40)
    np.testing.assert_allclose([value, stderr], 0, atol=1e-14)


def test_expected_sharpness_and_its_error_are_honest(x64):
    """Over many keys: the mean, and the spread as the error bar says, with minibatches that groups share."""
    keys = jax.random.split(jax.random.key(3), 1500)
    values, stderrs = jax.vmap(
        lambda key: expected(
            noisy_quadratic,
            tree(WEIGHTS),
            key=key,
            alpha=0.05,
            num_perturbations=60,
            perturbations_per_draw=6,
        )
    )(keys)
    exact = quadratic_sharpness(0.05)
    assert abs(np.mean(values) - exact) < 4 * np.std(values) / len(keys) ** 0.5
    np.testing.assert_allclose(np.mean(stderrs**2), np.var(values), rtol=0.15)


def slow_expected_sharpness(loss, weights, key, alpha, num, per_group):
    """One perturbation at a time; only the random numbers come from JAX."""
    loss_key, noise_key = jax.random.split(key)
    means = []
    for group in range(num // per_group):
        minibatch, differences = jax.random.fold_in(loss_key, group), []
        for pair in range(group * per_group // 2, (group + 1) * per_group // 2):
            z = np.asarray(jax.random.normal(jax.random.fold_in(noise_key, pair), weights.shape))
            for sign in (1, -1):
                moved = weights + sign * alpha * (10 * np.abs(weights) + 1) * z
                differences.append(loss(tree(moved), minibatch) - loss(tree(weights), minibatch))
        means.append(np.mean(differences))
    return np.mean(means), np.std(means, ddof=1) / len(means) ** 0.5


def test_expected_sharpness_equals_the_loop(key, x64):
    reference = slow_expected_sharpness(jax.jit(network), WEIGHTS, key, 0.02, 18, 6)
    options = {"alpha": 0.02, "num_perturbations": 18, "perturbations_per_draw": 6}
    # A loop in Python, one that is compiled, and batches.
    eager = expected_sharpness(network, tree(WEIGHTS), key=key, **options)
    np.testing.assert_allclose(eager, reference, rtol=1e-10)
    for batches in ({}, {"batch_size": 3}):
        jitted = expected(network, tree(WEIGHTS), key=key, **options, **batches)
        np.testing.assert_allclose(jitted, reference, rtol=1e-10)


def test_pairs_do_not_depend_on_the_groups(key, x64):
    values = [
        expected(quadratic, tree(WEIGHTS), key=key, alpha=0.05, num_perturbations=20_000, **groups).value
        for groups in ({}, {"perturbations_per_draw": 4})
    ]
    np.testing.assert_allclose(*values, rtol=1e-12)


def test_alphas_share_their_random_numbers(key, x64):
    params, alphas = tree(WEIGHTS), jnp.array([0.003, 0.02])
    options = {"key": key, "num_perturbations": 18, "perturbations_per_draw": 6}
    curve = jax.jit(lambda params: sharpness_kl_curve(network, params, alphas, **options))(params)
    for i, alpha in enumerate(alphas.tolist()):
        alone = expected(network, params, alpha=alpha, **options)
        np.testing.assert_allclose([part[i] for part in curve.expected_sharpness], alone, rtol=1e-9)
        np.testing.assert_allclose(curve.kl[i], kl_divergence(params, alpha=alpha), rtol=1e-12)
    np.testing.assert_array_equal(curve.alphas, alphas)


# Sharpness.


def test_linear_loss_reaches_the_corner(key, x64):
    value, stderr = sharpness(linear, tree(WEIGHTS), key=key, alpha=0.01, num_steps=60, num_evaluations=2)
    np.testing.assert_allclose(value, np.sum(np.abs(SLOPES) * box(0.01)), rtol=1e-12)
    assert stderr < 1e-14


def slow_sharpness(key, alpha, num_steps, learning_rate, momentum, num_evaluations, denominator):
    """The ascent on noisy_quadratic in NumPy, gradients by hand; only minibatches come from JAX."""
    ascent_key, evaluation_key = jax.random.split(key)

    def loss(w):
        return SLOPES @ w + w @ CURVATURE @ w / 2

    nu, velocity = np.zeros(7), np.zeros(7)
    for i in range(num_steps):
        gradient = float(factor(jax.random.fold_in(ascent_key, i))) * (SLOPES + CURVATURE @ (WEIGHTS + nu))
        velocity = momentum * velocity + gradient
        nu = np.minimum(np.maximum(nu + learning_rate * velocity, -box(alpha)), box(alpha))
    factors = np.array([float(factor(jax.random.fold_in(evaluation_key, i))) for i in range(num_evaluations)])
    highs, lows = factors * loss(WEIGHTS + nu), factors * loss(WEIGHTS)
    if not denominator:
        return np.mean(highs - lows), np.std(highs - lows, ddof=1) / num_evaluations**0.5, nu
    ratio = np.mean(highs - lows) / (1 + np.mean(lows))
    covariance = np.cov(highs - lows, lows, ddof=1)
    gradient = np.array([1, -ratio]) / (1 + np.mean(lows))
    return ratio, (gradient @ covariance @ gradient / num_evaluations) ** 0.5, nu


@pytest.mark.parametrize(("momentum", "denominator"), [(0.0, False), (0.9, True)])
def test_ascent_equals_the_loop(key, momentum, denominator, x64):
    options = {"alpha": 0.05, "num_steps": 12, "learning_rate": 3e-4, "momentum": momentum}
    options |= {"num_evaluations": 5, "denominator": denominator}
    *reference, nu = slow_sharpness(key, **options)
    on_the_box = np.abs(nu) == box(0.05)
    assert on_the_box.any() == (momentum > 0)
    assert not on_the_box.all()
    params = tree(WEIGHTS)
    # A loop in Python, and one that is compiled.
    np.testing.assert_allclose(sharpness(noisy_quadratic, params, key=key, **options), reference, rtol=1e-9)
    np.testing.assert_allclose(climbed(noisy_quadratic, params, key=key, **options), reference, rtol=1e-9)


@pytest.mark.parametrize("denominator", [False, True])
def test_error_bar_of_sharpness_is_honest(denominator, x64):
    """Over many keys. The ascent ends in the same corner for all, so that what remains is the minibatches."""

    def loss(params, key):
        return 40 + noisy_linear(params, key)

    keys = jax.random.split(jax.random.key(4), 800)
    options = {"alpha": 0.1, "num_steps": 80, "num_evaluations": 20, "denominator": denominator}
    values, stderrs = jax.vmap(lambda key: climbed(loss, tree(WEIGHTS), key=key, **options))(keys)
    exact = np.sum(np.abs(SLOPES) * box(0.1)) / (41 + SLOPES @ WEIGHTS if denominator else 1)
    assert abs(np.mean(values) - exact) < 4 * np.std(values) / len(keys) ** 0.5
    np.testing.assert_allclose(np.mean(stderrs**2), np.var(values), rtol=0.15)


def test_sharpness_is_found_from_below_and_grows_with_the_box(key):
    def value(alpha, rate):
        rate = jnp.float32(rate)
        return climbed(
            quadratic, tree(WEIGHTS), key=key, alpha=alpha, num_steps=500, learning_rate=rate
        ).value

    # The maximum of a convex function is at a corner.
    corners = np.stack(np.meshgrid(*[[-1, 1]] * 7), -1).reshape(-1, 7) * box(0.05)
    gains = (
        corners @ (SLOPES + CURVATURE @ WEIGHTS) + np.einsum("ci,ij,cj->c", corners, CURVATURE, corners) / 2
    )
    assert 0 < value(0.05, 1e-6) < 0.9 * gains.max()
    np.testing.assert_allclose(value(0.05, 0.01), gains.max(), rtol=1e-4)
    assert value(0.01, 0.01) < value(0.05, 0.01) < value(0.2, 0.01)


# Both.


@pytest.mark.parametrize(
    ("measure", "jitted", "options"),
    [
        (sharpness, climbed, {"num_steps": 7, "num_evaluations": 4}),
        (expected_sharpness, expected, {"num_perturbations": 18, "perturbations_per_draw": 6}),
    ],
)
def test_members_and_traced_losses_equal_a_loop(measure, jitted, options, key, x64):
    of = functools.partial(measure, key=key, alpha=0.02, **options)
    members = jnp.asarray(rng.normal(size=(2, 7)))
    loops = [jitted(network, tree(member), key=key, alpha=0.02, **options) for member in members]
    together = jax.jit(jax.vmap(lambda w: of(network, tree(w))))(members)
    np.testing.assert_allclose(together, np.transpose(loops), rtol=1e-9)
    # Nothing but what the loss closes over is traced.
    params = tree(members[0])

    def changed(factor, constant):
        return of(lambda p, k: factor * network(p, k) + constant, params)

    factors = jnp.array([1.0, 1.5])
    by_factor = np.transpose(jax.vmap(changed)(factors, jnp.zeros(2)))
    np.testing.assert_allclose(by_factor[0], loops[0], rtol=1e-9)
    if measure is expected_sharpness:
        np.testing.assert_allclose(by_factor[1], 1.5 * by_factor[0], rtol=1e-9)
    np.testing.assert_allclose(jax.jit(changed)(1.5, 7.0), by_factor[1], rtol=1e-9)


def test_leaves_keep_their_dtypes_and_others_their_values(key, x64):
    seen = []

    def loss(params, key):
        seen.append(jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape), params))
        counts = params["counts"]
        return (jnp.sum(params["narrow"] ** 2) + jnp.sum(params["wide"] ** 2)) * jnp.sum(
            counts == jnp.arange(4)
        )

    params = {"narrow": jnp.ones(3, jnp.float32), "wide": jnp.ones((2, 2)), "counts": jnp.arange(4)}
    options = {"key": key, "alpha": np.float64(0.01)}
    sharp = sharpness(
        loss, params, num_steps=900, learning_rate=np.float64(0.01), momentum=np.float64(0.5), **options
    )
    # |w| = 1: the corner is 1.02 everywhere; all four counts are as they were.
    np.testing.assert_allclose(sharp.value, 4 * 7 * (1.02**2 - 1), rtol=1e-6)
    mean, stderr = expected_sharpness(loss, params, **options)
    assert abs(mean - 4 * 7 * 0.11**2) < 4 * stderr
    assert all(record == jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape), params) for record in seen)


def test_a_traced_nan_is_not_measured(key):
    """An error rate is a number even for NaN outputs."""

    def error_rate(params, key):
        return jnp.mean((CURVATURE @ flat(params) > 0).astype(jnp.float32))

    members = jnp.asarray(np.stack([WEIGHTS, np.where(np.arange(7) == 2, np.nan, WEIGHTS)]), jnp.float32)
    alphas = jnp.array([0.01, 0.01, -0.01, 0.0, jnp.nan])
    members = members[jnp.array([0, 1, 0, 0, 0])]
    for measure, options in ((expected, {"num_perturbations": 40}), (climbed, {"num_steps": 3})):
        measured = jax.vmap(lambda w, a, m=measure, o=options: m(error_rate, tree(w), key=key, alpha=a, **o))(
            members, alphas
        )
        np.testing.assert_array_equal(np.isnan(np.array(measured)), [[False, True, True, True, True]] * 2)


def test_bad_input_is_refused(key, plain):
    params = tree(WEIGHTS, jnp.float32)
    both = [
        ({"alpha": 0.0}, "alpha=0.0; expected a finite alpha > 0"),
        ({"alpha": -1e-3}, "finite alpha > 0"),
        ({"alpha": jnp.nan}, "finite alpha > 0"),
        ({"alpha": jnp.ones(2)}, "alpha of shape \\(2,\\)"),
        ({"alpha": 1e-7}, "alpha=1e-07; expected at least"),
        ({"key": jax.random.PRNGKey(0)}, "expected one typed key"),
        ({"key": jax.random.split(key, 2)}, "expected one typed key"),
        ({"params": {"a": jnp.arange(7)}}, "params without a floating array"),
        ({"params": {"a": jnp.array([1.0, jnp.inf])}}, "NaN or infinity in params\\['a'\\]"),
        ({"params": {"a": jnp.ones(7, jnp.float16)}}, "dtype float16; expected float32 or float64"),
        ({"loss": lambda p, k: p["a"]}, "shape \\(3,\\); expected one scalar"),
        ({"loss": lambda p, k: p["b"][1][0]}, "dtype int32, shape \\(\\); expected one scalar"),
        ({"loss": lambda p, k: (linear(p, k), 0)}, "of type tuple"),
        ({"loss": lambda p, k: linear(p, k).astype(jnp.bfloat16)}, "dtype bfloat16, shape"),
    ]
    climbing = [
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_evaluations": 1}, "num_evaluations=1; expected a whole number >= 2"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": jnp.ones(7)}, "learning_rate of shape \\(7,\\)"),
        ({"momentum": 1.0}, "momentum=1.0; expected a momentum in \\[0, 1\\)"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"momentum": jnp.nan}, "momentum=nan"),
    ]
    sampling = [
        ({"num_perturbations": 95}, "num_perturbations=95 in groups of 10"),
        ({"num_perturbations": 10}, "at least 2 groups"),
        ({"num_perturbations": 0}, "num_perturbations=0"),
        ({"perturbations_per_draw": 5}, "perturbations_per_draw=5; expected an even number"),
        ({"perturbations_per_draw": 0}, "perturbations_per_draw=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.0}, "batch_size=2.0"),
    ]
    for measure, cases in ((sharpness, climbing), (expected_sharpness, sampling)):
        for options, message in both + cases:
            given = {"loss": linear, "params": params, "key": key, "alpha": 0.01, **options}
            with pytest.raises(InputError, match=message):
                measure(given.pop("loss"), given.pop("params"), **given)
    for alphas, message in [
        (0.1, "alphas of shape \\(\\)"),
        (jnp.ones((2, 1)), "alphas of shape \\(2, 1\\)"),
        (jnp.ones(0), "alphas of shape \\(0,\\)"),
        (jnp.array([0.1, 0.0]), "finite alphas > 0"),
        (jnp.array([0.1, 1e-8]), "expected at least"),
    ]:
        with pytest.raises(InputError, match=message):
            sharpness_kl_curve(linear, params, alphas, key=key)


def test_one_sigma_for_all_is_a_quadratics_trace(key):
    """E 1/2 sum a (w + nu)^2 - 1/2 sum a w^2 = sigma^2 / 2 sum a, whatever the weights are."""
    a, w = jnp.arange(1.0, 6.0), jnp.array([3.0, -2.0, 0.0, 1.0, 50.0])
    found = expected_sharpness(
        lambda p, k: jnp.sum(a * p**2) / 2, w, key=key, sigma=0.3, num_perturbations=4000
    )
    assert abs(found.value - 0.3**2 / 2 * a.sum()) < 4 * found.stderr
    assert found.stderr < 0.05 * found.value


def test_scales_lost_in_rounding_are_no_numbers_under_jit(key):
    def loss(p, k):
        return jnp.mean(p**2)

    w = jnp.ones(10)
    for measure in (sharpness, expected_sharpness):
        options = {"num_steps": 2} if measure is sharpness else {"num_perturbations": 20}
        found = jax.jit(lambda a, m=measure, o=options: m(loss, w, key=key, alpha=a, **o))(1e-9)
        assert np.isnan(found.value)
        assert np.isnan(found.stderr)


def test_the_rounding_of_the_loss_is_in_the_error_bar(key):
    """A full-batch loss near 1 in float32: its rounding, which all groups share, is larger than the value."""
    w = jax.random.normal(jax.random.key(2), (1000,))
    scale = 10 * jnp.abs(w) + 1
    true = 1e-10 * float(jnp.mean(scale**2))
    found = expected_sharpness(lambda p, k: jnp.mean(p**2), w, key=key, alpha=1e-5, num_perturbations=200)
    assert abs(found.value - true) < 4 * found.stderr


def test_alpha_or_sigma_and_not_both(key):
    for options in ({}, {"alpha": 0.1, "sigma": 0.1}):
        with pytest.raises(InputError, match="expected exactly one of them"):
            expected_sharpness(lambda p, k: jnp.sum(p), jnp.ones(3), key=key, **options)
    with pytest.raises(InputError, match=r"sigma=-1"):
        expected_sharpness(lambda p, k: jnp.sum(p), jnp.ones(3), key=key, sigma=-1.0)
