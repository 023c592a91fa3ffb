"""Path bounds against the exact second derivative, enumerated paths, and the printed formulas."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from jaxsens.checks import InputError
from jaxsens.metrics.activations import activation_pattern, active_counts, mlp_preactivations
from jaxsens.metrics.path_bounds import (
    log_active_path_bound,
    log_normal_absolute_moment,
    log_psi_star,
    log_region_bound,
    log_tangent_norm_bound,
)

WIDTHS = [(3, 4, 1), (4, 2, 3), (2, 3, 3, 1), (3, 2, 4, 2), (2, 2, 3, 2, 2), (4, 3), (1, 1, 1), (1, 1, 1, 12)]
NUM_EXAMPLES = 5
SLACK = 1e-9

moment_of = jax.jit(log_normal_absolute_moment, static_argnames="power")
region_bound_of = jax.jit(log_region_bound)
path_bound_of = jax.jit(
    log_active_path_bound, static_argnames=("num_params", "input_dim", "depth", "variant", "num_outputs")
)


def outputs_sum(params, x):
    weights, biases = params
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        x = jax.nn.relu(x @ w + b)
    return jnp.sum(x @ weights[-1] + biases[-1])


@jax.jit
def second_derivatives(params, xs):
    """d2(sum_k f_k) / dtheta dx by its definition, biases included."""
    return jax.vmap(jax.jacfwd(jax.grad(outputs_sum), argnums=1), (None, 0))(params, xs)


def exact_sensitivity(weights, biases, xs):
    parts = jax.tree.leaves(second_derivatives((weights, biases), xs))
    return sum((np.asarray(part).reshape(len(xs), -1) ** 2).sum(axis=1) for part in parts)


@jax.jit
def bounds_of(weights, biases, xs):
    """T(x) and all three bounds that hold, Theorem 2 at each x with T(x) in place of its distribution."""
    h = mlp_preactivations(weights, biases, xs)
    counts, patterns = jnp.zeros(len(xs)), jnp.zeros((len(xs), 0), bool)
    if h:
        counts, patterns = active_counts(h).total, activation_pattern(h)
    pointwise = log_active_path_bound(
        sum(w.size for w in weights),
        weights[0].shape[0],
        len(weights),
        counts,
        0.0,
        jnp.max(jnp.stack([jnp.max(jnp.abs(w)) for w in weights])),
        num_outputs=weights[-1].shape[1],
    )
    return counts, log_tangent_norm_bound(weights), pointwise, log_region_bound(weights, patterns), patterns


def draw(seed, widths, *, n=NUM_EXAMPLES, scale=1.0, heavy=False, bias_scale=1.0):
    """Weights, biases and inputs."""
    rng = np.random.default_rng(seed)
    shapes = list(itertools.pairwise(widths))
    entries = rng.standard_t(2, size=1000) if heavy else rng.normal(size=1000)
    weights = [jnp.asarray(scale * rng.choice(entries, shape)) for shape in shapes]
    biases = [jnp.asarray(bias_scale * rng.normal(size=shape[1])) for shape in shapes]
    return weights, biases, jnp.asarray(rng.normal(size=(n, widths[0])))


def enumerate_paths(widths):
    """Every input-output path, as its unit in each layer."""
    return itertools.product(*map(range, widths))


def gates_of(weights, pattern):
    widths = [w.shape[1] for w in weights[:-1]]
    hidden = np.split(np.asarray(pattern), np.cumsum(widths)[:-1]) if widths else []
    return [np.ones(weights[0].shape[0], bool), *hidden, np.ones(weights[-1].shape[1], bool)]


def slow_sensitivity(weights, pattern):
    """|Sens|_F^2 path by path (C Appendix A): every path adds the product of its other weights."""
    widths = [weights[0].shape[0], *(w.shape[1] for w in weights)]
    gates, entries = gates_of(weights, pattern), {}
    for path in enumerate_paths(widths):
        if not all(gate[unit] for gate, unit in zip(gates, path, strict=True)):
            continue
        edges = list(itertools.pairwise(path))
        values = [float(w[edge]) for w, edge in zip(weights, edges, strict=True)]
        for layer, edge in enumerate(edges):
            others = math.prod(values[:layer] + values[layer + 1 :])
            key = (path[0], layer, edge)
            entries[key] = entries.get(key, 0.0) + others
    return sum(value**2 for value in entries.values())


def slow_region_bound(weights, patterns, probabilities):
    """C eq. 4 with w_A found by walking along all active paths."""
    widths = [weights[0].shape[0], *(w.shape[1] for w in weights)]
    power, total = 2 * (len(weights) - 1), 0.0
    for pattern, probability in zip(patterns, probabilities, strict=True):
        gates, largest = gates_of(weights, pattern), 0.0
        for path in enumerate_paths(widths):
            if all(gate[unit] for gate, unit in zip(gates, path, strict=True)):
                edges = zip(weights, itertools.pairwise(path), strict=True)
                largest = max(largest, *(abs(float(w[edge])) for w, edge in edges))
        total += largest**power * probability
    return sum(w.size for w in weights) * widths[0] * max(widths[1:]) ** power * total


networks = given(
    seed=st.integers(0, 2**31 - 1),
    widths=st.sampled_from(WIDTHS),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
    heavy=st.booleans(),
    bias_scale=st.sampled_from([0.0, 1.0]),
    equal=st.booleans(),
)


TIGHTEST = {"seed": 0, "scale": 1.0, "heavy": False, "bias_scale": 0.0, "equal": True}


@settings(deadline=None, max_examples=60)
@networks
@example(widths=(1, 1, 1), **TIGHTEST)
@example(widths=(1, 1, 1, 12), **TIGHTEST)
def test_every_bound_is_above_the_exact_second_derivative(seed, widths, scale, heavy, bias_scale, equal):
    """One output and several, with biases and without; equal weights make the bounds tightest."""
    with jax.enable_x64(True):
        weights, biases, xs = draw(seed, widths, scale=scale, heavy=heavy, bias_scale=bias_scale)
        if equal:
            weights = [jnp.full_like(w, jnp.abs(weights[0][0, 0])) for w in weights]
        exact = exact_sensitivity(weights, biases, xs)
        _, norm_bound, pointwise, region_bound, _ = bounds_of(weights, biases, xs)
        logs = np.log(np.asarray(exact) + 1e-300)
        assert np.all(logs <= norm_bound + SLACK)
        assert np.all(np.asarray(exact) <= np.exp(np.asarray(pointwise) + SLACK))
        assert np.log(np.mean(exact) + 1e-300) <= region_bound + SLACK or float(np.mean(exact)) == 0.0
        largest = max(float(jnp.max(jnp.abs(w))) for w in weights)
        entries = sum(w.size for w in weights) * widths[0]
        loosest = math.log(entries) + 2 * (len(weights) - 1) * math.log(max(widths[1:]) * largest)
        assert region_bound <= loosest + SLACK


@settings(deadline=None, max_examples=30)
@networks
def test_inputs_of_one_region_have_one_sens(seed, widths, scale, heavy, bias_scale, equal):
    """C Lemma 1, and that Sens is the sum over active paths of Appendix A."""
    del equal
    with jax.enable_x64(True):
        weights, biases, xs = draw(seed, widths, scale=scale, heavy=heavy, bias_scale=bias_scale)
        moved = xs * (1 + 1e-7)
        patterns, beside = bounds_of(weights, biases, xs)[-1], bounds_of(weights, biases, moved)[-1]
        assume(bool(jnp.all(patterns == beside)))
        here, there = (jax.tree.leaves(second_derivatives((weights, biases), x)) for x in (xs, moved))
        for a, b in zip(here, there, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-12, atol=0)
        exact = exact_sensitivity(weights, biases, xs)
        arrays = [np.asarray(w) for w in weights]
        np.testing.assert_allclose(
            exact, [slow_sensitivity(arrays, p) for p in np.asarray(patterns)], rtol=1e-10
        )


def test_theorem_2_as_printed_is_violated(x64):
    """k = 2, two hidden units, four inputs, all weights 1: |Sens|^2 is 16, C eq. 2 says 10 at most."""
    weights = [jnp.ones((4, 2)), jnp.ones((2, 1))]
    biases = [jnp.zeros(2), jnp.zeros(1)]
    xs = jnp.ones((1, 4))
    exact = exact_sensitivity(weights, biases, xs)
    np.testing.assert_allclose(exact, [16.0])
    assert slow_sensitivity(weights, [True, True]) == 16.0
    num_params, counts = 4 * 2 + 2 * 1, active_counts(mlp_preactivations(weights, None, xs)).total
    printed = path_bound_of(num_params, 4, 2, counts, 0.0, 1.0, variant="as_printed")
    np.testing.assert_allclose(np.exp(printed), [10.0], rtol=1e-12)
    corrected = np.exp(path_bound_of(num_params, 4, 2, counts, 0.0, 1.0))
    np.testing.assert_allclose(corrected, [160.0], rtol=1e-12)
    np.testing.assert_allclose(np.exp(log_tangent_norm_bound(weights)), 160.0, rtol=1e-12)


def test_theorem_1_by_hand(x64):
    weights = [jnp.array([[1.0, -3.0], [2.0, 0.5], [0.0, 1.0]]), jnp.array([[0.25, 0.1, 0.0, -0.2]] * 2)]
    weights.append(jnp.full((4, 2), -7.0))
    expected = (6 + 8 + 8) * 3 * (4**2 * 3.0 * 7.0) ** 2
    np.testing.assert_allclose(np.exp(log_tangent_norm_bound(weights)), expected, rtol=1e-12)
    np.testing.assert_allclose(np.exp(log_tangent_norm_bound(weights, 3)), expected, rtol=1e-12)


def test_theorem_1_is_reached(x64):
    """Not quite the paper's 'almost never': one input, one unit per layer, equal weights, two layers."""
    weights, zeros = [jnp.full((1, 1), 3.0)] * 2, [jnp.zeros(1)] * 2
    exact = exact_sensitivity(weights, zeros, jnp.ones((1, 1)))[0]
    np.testing.assert_allclose(np.exp(log_tangent_norm_bound(weights)), exact, rtol=1e-12)


def test_more_outputs_need_their_factor(x64):
    """Theorem 2 for one output is exceeded by the sum of 50: the number of paths grows with K."""
    weights, biases = [jnp.ones((1, 1)), jnp.ones((1, 50))], [jnp.zeros(1), jnp.zeros(50)]
    exact = exact_sensitivity(weights, biases, jnp.ones((1, 1)))[0]
    np.testing.assert_allclose(exact, 50.0**2 + 50.0)
    one, all_of_them = (np.exp(path_bound_of(100, 1, 2, 1.0, 0.0, 1.0, num_outputs=k)) for k in (1, 50))
    assert one < exact <= all_of_them
    assert exact <= np.exp(log_tangent_norm_bound(weights))


def test_zero_layers(x64):
    """One zero layer leaves the derivative in its own weights; two leave nothing."""
    ones, zeros, biases = jnp.ones((2, 2)), jnp.zeros((2, 2)), [jnp.ones(2)] * 3
    weights = [ones, ones, zeros]
    exact = exact_sensitivity(weights, biases, jnp.ones((1, 2)))[0]
    assert 0 < exact <= np.exp(log_tangent_norm_bound(weights)) == pytest.approx(12 * 2 * (2**2) ** 2)
    two = [ones, zeros, zeros]
    assert exact_sensitivity(two, biases, jnp.ones((1, 2)))[0] == 0
    assert log_tangent_norm_bound(two) == -jnp.inf
    np.testing.assert_allclose(np.exp(region_bound_of(weights, jnp.ones((1, 4), bool))), 12 * 2 * 2.0**4)


def test_without_hidden_layers(x64):
    """f = x W: d2f/dW_ij dx_i = 1, so |Sens|^2 = N_theta."""
    weights = [normal_matrix(4, 3)]
    np.testing.assert_allclose(exact_sensitivity(weights, [jnp.zeros(3)], jnp.ones((2, 4))), 12.0)
    expected = math.log(12 * 4)
    assert float(log_tangent_norm_bound(weights)) == pytest.approx(expected)
    assert float(log_region_bound(weights, jnp.zeros((5, 0), bool))) == pytest.approx(expected)
    for variant in ("corrected", "as_printed"):
        assert float(path_bound_of(12, 4, 1, 0.0, 0.0, 0.0, variant=variant)) == pytest.approx(expected)


def normal_matrix(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7, 10])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 2.0), (1.0, 3.0), (5.0, 1.0), (48.0, 4.0), (-2.0, 1.5)])
def test_as_printed_is_equation_2(depth, mean, std, x64):
    """N d sigma^{2(k-1)} 2^{k-1} / k^{2k} Gamma(k/2)^2 / pi Psi^2 w^{2(k-1)}, and psi* of eq. 7."""
    k, w, num_params, input_dim = depth, 0.7, 31, 5
    psi = scipy.special.hyp1f1(-(k - 1) / 2, 0.5, -(mean**2) / (2 * std**2))
    expected = num_params * input_dim * std ** (2 * (k - 1)) * 2 ** (k - 1) / k ** (2 * k)
    expected *= math.gamma(k / 2) ** 2 / math.pi * psi**2 * w ** (2 * (k - 1))
    ours = path_bound_of(num_params, input_dim, k, mean, std, w, variant="as_printed")
    np.testing.assert_allclose(ours, math.log(expected), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        log_psi_star(k, mean, std), math.log(std ** (2 * (k - 1)) * psi**2), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("depth", [2, 3, 4, 7])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 2.0), (5.0, 1.0), (48.0, 4.0)])
def test_corrected_is_the_moment_of_its_docstring(depth, mean, std, x64):
    p = depth - 1
    moment = scipy.stats.norm(mean, std).moment(2 * p)
    expected = 3**2 * 31 * 5 * 0.7 ** (2 * p) * moment / p ** (2 * p)
    ours = path_bound_of(31, 5, depth, mean, std, 0.7, num_outputs=3)
    np.testing.assert_allclose(ours, math.log(expected), rtol=1e-10)


@pytest.mark.parametrize("power", [0, 1, 2, 5, 8])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 2.0), (0.3, 1.0), (-1.0, 0.5), (3.0, 0.2)])
def test_moments_agree_with_integrals(power, mean, std, x64):
    def integrand(t):
        return abs(t) ** power * scipy.stats.norm.pdf(t, mean, std)

    below = scipy.integrate.quad(integrand, mean - 12 * std, 0.0)[0] if mean < 12 * std else 0.0
    above = scipy.integrate.quad(integrand, max(0.0, mean - 12 * std), max(mean, 0) + 12 * std)[0]
    np.testing.assert_allclose(moment_of(mean, std, power=power), math.log(below + above), atol=1e-8)


def test_moments_of_a_constant_and_of_nothing(x64):
    np.testing.assert_allclose(moment_of(-3.0, 0.0, power=5), 5 * math.log(3.0), rtol=1e-12)
    assert moment_of(0.0, 0.0, power=0) == 0
    assert all(moment_of(0.0, 0.0, power=p) == -jnp.inf for p in (1, 2, 3))
    assert path_bound_of(10, 4, 3, 2.0, 1.0, 0.0) == -jnp.inf
    assert log_psi_star(3, 0.0, 0.0) == -jnp.inf


def test_moments_do_not_cancel_where_the_mean_is_small(x64):
    """At mean 1e-9 the odd moments are those of mean 0, which erf and exp alone must give."""
    for power in (1, 3, 7):
        np.testing.assert_allclose(
            moment_of(1e-9, 2.0, power=power), moment_of(0.0, 2.0, power=power), rtol=1e-12
        )


@pytest.mark.parametrize("depth", [5, 30, 200])
def test_deep_and_wide_networks_stay_in_float32(depth):
    """At depth 200 the bound is of the order of 10^1000."""
    arguments = (10**7, 3072, depth, 480.0 * depth, 40.0 * depth, 0.1)
    for variant in ("corrected", "as_printed"):
        single = path_bound_of(*arguments, variant=variant)
        with jax.enable_x64(True):
            double = path_bound_of(*arguments, variant=variant)
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, double, rtol=1e-5)


def test_only_the_true_rising_factorial_gives_the_moment(x64):
    """B prints prod (a - i + 1); C prints prod (a - k + 1), k the power, and mu without its square."""
    mean, std, p = 2.0, 1.5, 3

    def moment(factorial, argument):
        terms = [
            math.prod(factorial(-p / 2, i) for i in range(1, n + 1))
            / math.prod(factorial(0.5, i) for i in range(1, n + 1))
            * argument**n
            / math.factorial(n)
            for n in range(60)
        ]
        return std**p * 2 ** (p / 2) * math.gamma((p + 1) / 2) / math.sqrt(math.pi) * sum(terms)

    z = -(mean**2) / (2 * std**2)
    exact = float(np.exp(moment_of(mean, std, power=p)))
    assert moment(lambda a, i: a + i - 1, z) == pytest.approx(exact, rel=1e-9)
    assert moment(lambda a, i: a - i + 1, z) != pytest.approx(exact, rel=0.05)
    assert moment(lambda a, i: a - p + 1, z) != pytest.approx(exact, rel=0.05)
    assert moment(lambda a, i: a + i - 1, -mean / (2 * std**2)) != pytest.approx(exact, rel=0.05)


def test_one_hidden_layer_needs_no_normal_distribution(x64):
    """For k = 2 the bound is of E[T^2], so the sample's mean and std bound the sample's sensitivity."""
    weights, biases, xs = draw(3, (3, 4, 1), n=200)
    exact = np.mean(exact_sensitivity(weights, biases, xs))
    counts = active_counts(mlp_preactivations(weights, biases, xs)).total
    mean, std = jnp.mean(counts), jnp.std(counts)
    largest = max(float(jnp.max(jnp.abs(w))) for w in weights)
    assert std > 0
    assert exact <= np.exp(path_bound_of(16, 3, 2, mean, std, largest))


def test_path_bound_broadcasts_to_curves(x64):
    means, stds = jnp.linspace(10.0, 40.0, 4)[:, None], np.array([0.0, 1.0, 5.0])
    table = path_bound_of(100, 4, 4, means, stds, 0.3)
    assert table.shape == (4, 3)
    for i, j in itertools.product(range(4), range(3)):
        one = path_bound_of(100, 4, 4, float(means[i, 0]), float(stds[j]), 0.3)
        np.testing.assert_allclose(table[i, j], one, rtol=1e-12)
    counts = jnp.array([3, 0, 7])
    np.testing.assert_allclose(path_bound_of(100, 4, 3, counts, 0, 1)[0], math.log(400 * (3 / 2) ** 4))
    assert np.all(np.diff(table, axis=1) > 0)


@pytest.mark.parametrize("widths", [(3, 4, 1), (3, 2, 4, 2), (2, 2, 3, 2, 2)])
def test_region_bound_agrees_with_enumerated_paths(widths, x64):
    weights, _, _ = draw(11, widths)
    units = sum(widths[1:-1])
    patterns = np.array(list(itertools.product([False, True], repeat=units)))[:: 2 ** max(units - 6, 0)]
    n = len(patterns)
    np.testing.assert_allclose(
        np.exp(region_bound_of(weights, jnp.asarray(patterns))),
        slow_region_bound(weights, patterns, [1 / n] * n),
        rtol=1e-12,
    )
    shares = np.random.default_rng(12).dirichlet(np.ones(n))
    shares[0] = 0.0
    with np.errstate(divide="ignore"):
        logs = jnp.log(jnp.asarray(shares))
    np.testing.assert_allclose(
        np.exp(region_bound_of(weights, jnp.asarray(patterns), log_probabilities=logs)),
        slow_region_bound(weights, patterns, shares),
        rtol=1e-12,
    )


def test_region_bound_by_hand(x64):
    """The 9 enters a unit that is off in the first pattern; the third has no path at all."""
    weights = [jnp.array([[1.0, 9.0]]), jnp.array([[-2.0], [5.0]])]
    patterns = jnp.array([[True, False], [True, True], [False, False]])
    expected = 4 * 1 * 2**2 * (2.0**2 + 9.0**2 + 0.0) / 3
    np.testing.assert_allclose(np.exp(region_bound_of(weights, patterns)), expected, rtol=1e-12)
    assert region_bound_of(weights, patterns[2:]) == -jnp.inf


def test_many_patterns_go_through_in_chunks():
    weights, _, _ = draw(11, (3, 2, 4, 2))
    patterns = np.random.default_rng(13).random((150, 6)) < 0.6
    np.testing.assert_allclose(
        region_bound_of([jnp.asarray(w, jnp.float32) for w in weights], jnp.asarray(patterns)),
        math.log(slow_region_bound(weights, patterns, [1 / 150] * 150)),
        rtol=1e-6,
    )


def test_scaling_and_rescaling(x64):
    """Homogeneous of degree 2(k - 1); a rescaled unit keeps the function but not max|W|, nor |Sens|."""
    weights, biases, xs = draw(5, (3, 2, 4, 2))
    _, norm_bound, _, region_bound, patterns = bounds_of(weights, biases, xs)
    scaled = [3.0 * w for w in weights]
    shift = 2 * 2 * math.log(3.0)
    np.testing.assert_allclose(log_tangent_norm_bound(scaled), norm_bound + shift, rtol=1e-12)
    np.testing.assert_allclose(region_bound_of(scaled, patterns), region_bound + shift, rtol=1e-12)
    np.testing.assert_allclose(
        path_bound_of(30, 3, 3, 4.0, 1.0, 3.0), path_bound_of(30, 3, 3, 4.0, 1.0, 1.0) + shift, rtol=1e-12
    )
    factor = jnp.array([100.0, 1.0])
    moved = [weights[0] * factor, weights[1] / factor[:, None], weights[2]]
    moved_biases = [biases[0] * factor, *biases[1:]]
    np.testing.assert_array_equal(bounds_of(moved, moved_biases, xs)[-1], patterns)
    np.testing.assert_allclose(
        outputs_sum((moved, moved_biases), xs[0]), outputs_sum((weights, biases), xs[0])
    )
    assert log_tangent_norm_bound(moved) > norm_bound + 1


def test_reordering_units_changes_nothing(x64):
    weights, biases, xs = draw(5, (3, 2, 4, 2))
    order = jnp.array([2, 0, 3, 1])
    moved = [weights[0], weights[1][:, order], weights[2][order]]
    before, after = (
        bounds_of(w, b, xs)[:4]
        for w, b in [(weights, biases), (moved, [biases[0], biases[1][order], biases[2]])]
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), after, before)


def test_vmap_over_members_equals_a_loop():
    members = [draw(seed, (3, 2, 4, 2)) for seed in range(3)]
    members = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), members)
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *members)
    fast = jax.jit(jax.vmap(bounds_of))(*stacked)
    slow = jax.tree.map(lambda *parts: jnp.stack(parts), *(bounds_of(*member) for member in members))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), fast, slow)


GOOD = {"num_params": 10, "input_dim": 4, "depth": 2, "mean": 2.0, "std": 1.0, "w_max": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_params": 0}, "num_params=0"),
        ({"input_dim": 2.5}, "input_dim=2.5"),
        ({"depth": 0}, "depth=0"),
        ({"mean": math.nan}, "mean=nan"),
        ({"std": -1.0}, "std=-1.0; expected a finite std >= 0"),
        ({"std": jnp.array([1.0, jnp.inf])}, "std="),
        ({"w_max": -1.0}, "w_max=-1.0"),
        ({"variant": "printed"}, "variant='printed'; expected one of corrected, as_printed"),
        ({"num_outputs": 0}, "num_outputs=0"),
        ({"num_outputs": 3, "variant": "as_printed"}, "'as_printed' with num_outputs=3"),
    ],
)
def test_refusals_of_theorem_2(plain, change, message):
    with pytest.raises(InputError, match=message):
        log_active_path_bound(**(GOOD | change))


def test_refusals_of_moments(plain):
    with pytest.raises(InputError, match="power=-1"):
        log_normal_absolute_moment(1.0, 1.0, -1)
    with pytest.raises(InputError, match="depth=0"):
        log_psi_star(0, 1.0, 1.0)
    with pytest.raises(InputError, match="std=nan"):
        log_psi_star(2, 1.0, math.nan)


def all_on(weights):
    return log_region_bound(weights, jnp.ones((1, 2), bool))


@pytest.mark.parametrize("bound", [log_tangent_norm_bound, all_on])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "no weights"),
        ([jnp.ones((3, 2)), jnp.ones((1, 2))], "that chain"),
        ([jnp.ones((3, 2)), jnp.ones(2)], r"weights\[1\] of shape \(2,\)"),
        ([jnp.ones((3, 2), jnp.float16), jnp.ones((2, 1))], r"weights\[0\] of dtype float16"),
        ([jnp.ones((3, 2)), jnp.full((2, 1), jnp.nan)], r"NaN or infinity in weights\[1\]"),
    ],
)
def test_refusals_of_weights(plain, bound, weights, message):
    with pytest.raises(InputError, match=message):
        bound(weights)


WEIGHTS = [jnp.ones((3, 2)), jnp.ones((2, 1))]


def test_refusal_of_another_input_dim(plain):
    with pytest.raises(InputError, match="input_dim=2 for weights"):
        log_tangent_norm_bound(WEIGHTS, 2)


@pytest.mark.parametrize(
    ("patterns", "options", "message"),
    [
        (jnp.ones((4, 2)), {}, "patterns of dtype float32"),
        (jnp.ones((4, 3), bool), {}, r"patterns of shape \(4, 3\); expected \(4, 2\)"),
        (jnp.ones((0, 2), bool), {}, "0 examples in patterns"),
        (jnp.ones((4, 2), bool), {"log_probabilities": jnp.zeros(3)}, r"log_probabilities of shape \(3,\)"),
        (jnp.ones((1, 2), bool), {"log_probabilities": jnp.ones(1)}, "log_probabilities up to 1.0"),
        (jnp.ones((1, 2), bool), {"log_probabilities": jnp.full(1, jnp.nan)}, "log_probabilities up to nan"),
        (jnp.ones((1, 2), bool), {"log_probabilities": jnp.zeros(1, jnp.int32)}, "dtype int32"),
    ],
)
def test_refusals_of_patterns(plain, patterns, options, message):
    with pytest.raises(InputError, match=message):
        log_region_bound(WEIGHTS, patterns, **options)
