"""Activation patterns by hand and by slow loops; the soft pattern probabilities in log space."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.metrics.activations import (
    activation_pattern,
    active_counts,
    empirical_tangent_sensitivity,
    log_empirical_tangent_sensitivity,
    log_pattern_probability,
    margins_per_unit,
    mlp_preactivations,
)

WIDTHS = (6, 5, 4, 3)
MEASURES = [active_counts, activation_pattern, margins_per_unit]
sensitivity_of = jax.jit(empirical_tangent_sensitivity, static_argnames=("weighting", "batch_size"))
log_sensitivity_of = jax.jit(log_empirical_tangent_sensitivity, static_argnames=("weighting", "batch_size"))


def normal(seed, *shape, dtype=np.float32):
    """Drawn by NumPy: compiling jax.random.normal for each shape takes longer than these tests."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def perceptron(*members, widths=WIDTHS, dtype=np.float32):
    layers = list(itertools.pairwise(widths))
    weights = [normal([1, i], *members, *shape, dtype=dtype) for i, shape in enumerate(layers)]
    biases = [normal([2, i], *members, shape[1], dtype=dtype) for i, shape in enumerate(layers)]
    return weights, biases


def slow_preactivations(weights, biases, xs):
    """One unit of one example at a time, in Python floats."""
    layers = [[] for _ in weights[:-1]]
    for x in np.asarray(xs, np.float64):
        hidden = x.ravel()
        for i, (w, b) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            w, b = np.asarray(w, np.float64), np.asarray(b, np.float64)
            z = [sum(h * w[j, u] for j, h in enumerate(hidden)) + b[u] for u in range(w.shape[1])]
            layers[i].append(z)
            hidden = [max(v, 0.0) for v in z]
    return [np.array(layer) for layer in layers]


def sigmoid(z):
    return 1 / (1 + math.exp(-z)) if z > -30 else math.exp(z)


def slow_soft(sensitivities, preactivations):
    """C section 3.4 as it reads: distinct patterns, each with its probability averaged over X."""
    h = np.concatenate([np.asarray(layer, np.float64) for layer in preactivations], axis=1)
    regions = {tuple(row > 0): s for row, s in zip(h, np.asarray(sensitivities, np.float64), strict=True)}
    total = 0.0
    for pattern, value in regions.items():
        given = [
            math.prod(sigmoid(z) if on else sigmoid(-z) for z, on in zip(row, pattern, strict=True))
            for row in h
        ]
        total += value * sum(given) / len(h)
    return total


HAND = [jnp.array([[1.0, -2.0], [0.0, 3.0]]), jnp.array([[-1.0], [0.25]])]


def test_a_network_by_hand():
    weights = [jnp.array([[1.0, -1.0], [2.0, 0.5]]), jnp.array([[3.0], [-2.0]]), jnp.ones((1, 2))]
    biases = [jnp.array([0.5, 0.0]), jnp.array([-1.0]), jnp.zeros(2)]
    xs = jnp.array([[1.0, 1.0], [-2.0, 0.0]])
    first, second = mlp_preactivations(weights, biases, xs)
    np.testing.assert_allclose(first, [[3.5, -0.5], [-1.5, 2.0]])
    np.testing.assert_allclose(second, [[9.5], [-5.0]])
    first, second = mlp_preactivations(weights, None, xs)
    np.testing.assert_allclose(first, [[3.0, -0.5], [-2.0, 2.0]])
    np.testing.assert_allclose(second, [[9.0], [-4.0]])
    assert mlp_preactivations(weights[:1], biases[:1], xs) == ()


def test_counts_patterns_and_margins_by_hand():
    """A preactivation of exactly 0 is not active: JAX's ReLU has derivative 0 there."""
    counts = active_counts(HAND)
    np.testing.assert_array_equal(counts.per_layer, [[1, 0], [1, 1]])
    np.testing.assert_array_equal(counts.total, [1, 2])
    assert counts.total.dtype == jnp.int32
    np.testing.assert_array_equal(activation_pattern(HAND), [[True, False, False], [False, True, True]])
    margins = margins_per_unit(HAND)
    np.testing.assert_allclose(margins.absolute[0], [0.0, 2.0])
    np.testing.assert_allclose(margins.absolute[1], [0.25])
    np.testing.assert_allclose(margins.probabilistic[0], [0.0, 1 / (1 + math.exp(-2)) - 0.5], rtol=1e-6)
    np.testing.assert_allclose(margins.probabilistic[1], [1 / (1 + math.exp(-0.25)) - 0.5], rtol=1e-6)


def test_pattern_probability_by_hand():
    expected = [
        math.log(sigmoid(1.0) * sigmoid(2.0) * sigmoid(1.0)),
        math.log(sigmoid(0.0) * sigmoid(-3.0) * sigmoid(-0.25)),
    ]
    pattern = jnp.array([True, False, False])
    np.testing.assert_allclose(log_pattern_probability(HAND, pattern), expected, rtol=1e-6)
    both = jnp.stack([pattern, pattern])
    np.testing.assert_allclose(log_pattern_probability(HAND, both), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_preactivations_agree_with_loops(shape, x64):
    weights, biases = perceptron(dtype=np.float64)
    xs = normal(3, 7, *shape, dtype=np.float64)
    fast = jax.jit(mlp_preactivations)(weights, biases, xs)
    for ours, slow in zip(fast, slow_preactivations(weights, biases, xs), strict=True):
        np.testing.assert_allclose(ours, slow, rtol=1e-12, atol=1e-12)


def test_probabilities_of_all_patterns_sum_to_one(x64):
    h = mlp_preactivations(*perceptron(dtype=np.float64), normal(3, 4, 6, dtype=np.float64))
    patterns = [jnp.array(p) for p in itertools.product([True, False], repeat=9)]
    of_all = np.exp(jax.jit(jax.vmap(lambda p: log_pattern_probability(h, p)))(jnp.stack(patterns)))
    np.testing.assert_allclose(of_all.sum(axis=0), 1.0, rtol=1e-12)
    own = np.exp(log_pattern_probability(h, activation_pattern(h)))
    np.testing.assert_allclose(of_all.max(axis=0), own, rtol=1e-12)
    assert np.all(own > 0.5**9)


def test_probabilistic_margin_keeps_its_digits_near_zero():
    """sigmoid(h) - 1/2 in float32 is 0 for h = 1e-9, where h / 4 is right."""
    tiny = jnp.array([[1e-9, -1e-20]])
    assert float(jax.nn.sigmoid(tiny)[0, 0] - 0.5) == 0.0
    np.testing.assert_allclose(margins_per_unit([tiny]).probabilistic[0], [2.5e-10, 2.5e-21], rtol=1e-6)


def test_patterns_far_below_float32_keep_their_logarithm():
    """1000 units at -1 taken as active: the probability is 1e-571."""
    h, pattern = [jnp.full((3, 1000), -1.0)], jnp.ones(1000, bool)
    np.testing.assert_allclose(
        log_pattern_probability(h, pattern), [1000 * math.log(sigmoid(-1.0))] * 3, rtol=1e-6
    )
    extreme = [jnp.array([[1e30, -1e30]])]
    np.testing.assert_allclose(log_pattern_probability(extreme, jnp.array([True, False])), [0.0])


def test_relative_frequency_is_the_sum_over_observed_regions(x64):
    """C eq. 3 with a counted P(A) is the mean over examples, for values that depend on the pattern alone."""
    codes = np.array([[1, 1], [1, -1], [1, 1], [-1, 1], [1, -1], [1, 1]])
    of_region = {(1, 1): 5.0, (1, -1): 0.0, (-1, 1): 7.0}
    values = jnp.array([of_region[tuple(c)] for c in codes.tolist()])
    expected = 5.0 * 3 / 6 + 7.0 * 1 / 6
    assert float(sensitivity_of(values)) == pytest.approx(expected, rel=1e-12)
    assert float(log_sensitivity_of(values)) == pytest.approx(math.log(expected), rel=1e-12)


def test_zero_sensitivity_is_a_logarithm_of_minus_infinity():
    zeros = jnp.zeros(3)
    assert log_sensitivity_of(zeros) == -jnp.inf
    assert sensitivity_of(zeros, [jnp.ones((3, 2))], weighting="soft") == 0.0


def test_log_sensitivity_stays_in_range_where_the_mean_overflows():
    big = jnp.full(100, 3e38)
    assert float(log_sensitivity_of(big)) == pytest.approx(math.log(3e38), rel=1e-6)
    assert jnp.isinf(jnp.sum(big))


@pytest.mark.parametrize("batch_size", [None, 4, 100])
def test_soft_weighting_agrees_with_the_sum_over_distinct_patterns(batch_size, x64):
    weights, biases = perceptron(widths=(2, 3, 2, 1), dtype=np.float64)
    xs = normal(4, 30, 2, dtype=np.float64)
    h = mlp_preactivations(weights, biases, xs)
    patterns = np.asarray(activation_pattern(h))
    distinct = len({tuple(row) for row in patterns})
    assert 2 < distinct < 30
    values = jnp.asarray(1.0 + patterns @ np.arange(1.0, 6.0))
    ours = jax.jit(lambda v, h: sensitivity_of(v, h, weighting="soft", batch_size=batch_size))(values, h)
    np.testing.assert_allclose(ours, slow_soft(values, h), rtol=1e-12)


def test_soft_weighting_of_one_pattern_by_hand():
    h = [jnp.array([[2.0, -1.0], [0.5, -3.0]])]
    expected = 4.0 * (sigmoid(2.0) * sigmoid(1.0) + sigmoid(0.5) * sigmoid(3.0)) / 2
    ours = sensitivity_of(jnp.array([4.0, 4.0]), h, weighting="soft")
    assert float(ours) == pytest.approx(expected, rel=1e-6)


def test_soft_weighting_of_hundreds_of_units_in_float32(x64):
    """Every p(A_i) is below the smallest float32: only its logarithm exists there."""
    h = [normal([5, i], 12, 400) * 0.1 for i in range(4)]
    values = jnp.asarray(np.random.default_rng(6).uniform(1, 2, 12), jnp.float32)
    wide = [jnp.asarray(layer, jnp.float64) for layer in h]
    slow = log_sensitivity_of(jnp.asarray(values, jnp.float64), wide, weighting="soft")
    ours = log_sensitivity_of(values, h, weighting="soft")
    assert ours.dtype == jnp.float32
    assert -1200 < float(slow) < -1000
    np.testing.assert_allclose(ours, slow, rtol=1e-6)
    everything = np.concatenate(wide, axis=1)
    logs = [[-np.logaddexp(0, -np.where(a > 0, x, -x)).sum() for x in everything] for a in everything]
    p = np.logaddexp.reduce(np.array(logs), axis=1) - np.log(12)
    np.testing.assert_allclose(slow, np.logaddexp.reduce(p + np.log(values)), rtol=1e-10)


def test_copies_of_the_examples_change_nothing(x64):
    """The multiplicity of a pattern is divided out, and both weightings are means over X."""
    h = [normal(7, 9, 4, dtype=np.float64)]
    values = jnp.exp(normal(8, 9, dtype=np.float64))
    for weighting in ("relative_frequency", "soft"):
        once = sensitivity_of(values, h, weighting=weighting)
        thrice = sensitivity_of(jnp.tile(values, 3), [jnp.tile(h[0], (3, 1))], weighting=weighting)
        np.testing.assert_allclose(thrice, once, rtol=1e-12)


def test_soft_becomes_relative_frequency_far_from_the_boundaries(x64):
    """sigmoid(+-h) is then 0 or 1."""
    h = [1e3 * jnp.sign(normal(7, 20, 3, dtype=np.float64))]
    values = 1.0 + activation_pattern(h) @ jnp.array([1.0, 2.0, 4.0])
    np.testing.assert_allclose(
        sensitivity_of(values, h, weighting="soft"),
        sensitivity_of(values),
        rtol=1e-12,
    )


def test_rescaling_nodes_leaves_patterns_and_counts(x64):
    weights, biases = perceptron(dtype=np.float64)
    xs = normal(3, 20, 6, dtype=np.float64)
    scale = jnp.array([0.1, 2.0, 30.0, 1.0, 5.0])
    moved = [weights[0] * scale, weights[1] / scale[:, None], weights[2]]
    before = mlp_preactivations(weights, biases, xs)
    after = mlp_preactivations(moved, [biases[0] * scale, *biases[1:]], xs)
    np.testing.assert_array_equal(activation_pattern(after), activation_pattern(before))
    np.testing.assert_array_equal(active_counts(after).per_layer, active_counts(before).per_layer)
    np.testing.assert_allclose(after[1], before[1], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        margins_per_unit(after).absolute[0], scale * margins_per_unit(before).absolute[0], rtol=1e-10
    )


def test_vmap_over_members_equals_a_loop():
    weights, biases = perceptron(3)
    xs = normal(3, 8, 6)

    def everything(weights, biases):
        h = mlp_preactivations(weights, biases, xs)
        pattern, values = activation_pattern(h), jnp.exp(h[0][:, 0])
        soft = log_empirical_tangent_sensitivity(values, h, weighting="soft", batch_size=3)
        measures = [measure(h) for measure in MEASURES]
        return (
            h,
            measures,
            log_pattern_probability(h, pattern[0]),
            soft,
            empirical_tangent_sensitivity(values),
        )

    one = jax.jit(everything)
    loops = [one([w[m] for w in weights], [b[m] for b in biases]) for m in range(3)]
    slow = jax.tree.map(lambda *parts: jnp.stack(parts), *loops)
    fast = jax.jit(jax.vmap(everything))(weights, biases)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), fast, slow)


GOOD = {"weights": [jnp.ones((3, 2)), jnp.ones((2, 1))], "biases": [jnp.ones(2), jnp.ones(1)]}
GOOD["xs"] = jnp.ones((4, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": []}, "no weights"),
        ({"weights": [jnp.ones((3, 2)), jnp.ones((3, 1))]}, r"weights\[0\] of \(3, 2\) before weights\[1\]"),
        ({"weights": [jnp.ones((3, 2)), jnp.ones(2)]}, r"weights\[1\] of shape \(2,\)"),
        ({"weights": [[[1.0, 2.0]]]}, r"weights\[0\] of shape \(1, 2\)"),
        ({"weights": [jnp.ones((3, 0))]}, "non-empty"),
        ({"weights": [jnp.ones((3, 2), jnp.int32)]}, r"weights\[0\] of dtype int32"),
        ({"weights": [jnp.full((3, 2), jnp.nan), jnp.ones((2, 1))]}, r"NaN or infinity in weights\[0\]"),
        ({"biases": [jnp.ones(2)]}, r"biases of lengths \[2\]; expected .* \[2, 1\]"),
        ({"biases": [jnp.ones(2), jnp.ones((1, 1))]}, r"biases\[1\] of shape \(1, 1\)"),
        ({"biases": [jnp.ones(2), jnp.full(1, jnp.inf)]}, r"NaN or infinity in biases\[1\]"),
        ({"xs": jnp.ones((4, 2))}, r"xs of shape \(4, 2\) .* 3 entries"),
        ({"xs": jnp.ones(())}, "xs of rank 0"),
        ({"xs": jnp.ones((0, 3))}, "0 examples in xs"),
        ({"xs": jnp.ones((4, 3), jnp.int32)}, "xs of dtype int32"),
        ({"xs": jnp.full((4, 3), jnp.nan)}, "NaN or infinity in xs"),
    ],
)
def test_refusals_of_preactivations(plain, change, message):
    with pytest.raises(InputError, match=message):
        mlp_preactivations(**(GOOD | change))


@pytest.mark.parametrize("measure", [*MEASURES, lambda h: log_pattern_probability(h, jnp.ones(2, bool))])
@pytest.mark.parametrize(
    ("preactivations", "message"),
    [
        ([], "no preactivations"),
        ([jnp.ones(2)], r"preactivations\[0\] of shape \(2,\)"),
        ([jnp.ones((0, 2))], "non-empty"),
        ([jnp.ones((3, 2)), jnp.ones((4, 2))], r"preactivations of \[3, 4\] examples"),
        ([jnp.ones((3, 2), jnp.int32)], "dtype int32"),
        ([jnp.full((3, 2), jnp.nan)], "NaN or infinity in preactivations"),
    ],
)
def test_refusals_of_measures(plain, measure, preactivations, message):
    with pytest.raises(InputError, match=message):
        measure(preactivations)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (jnp.ones(2), "pattern of dtype float32"),
        (jnp.ones(3, bool), r"pattern of shape \(3,\); expected \(4, 2\) or \(2,\)"),
        (jnp.ones((3, 2), bool), r"pattern of shape \(3, 2\)"),
    ],
)
def test_refusals_of_patterns(plain, pattern, message):
    with pytest.raises(InputError, match=message):
        log_pattern_probability([jnp.ones((4, 2))], pattern)


@pytest.mark.parametrize("function", [empirical_tangent_sensitivity, log_empirical_tangent_sensitivity])
@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (jnp.ones((2, 2)), {}, r"tangent_sensitivities of shape \(2, 2\)"),
        (jnp.ones(0), {}, "0 examples in tangent_sensitivities"),
        (jnp.ones(2, jnp.int32), {}, "tangent_sensitivities of dtype int32"),
        (jnp.array([1.0, jnp.nan]), {}, "NaN or infinity in tangent_sensitivities"),
        (jnp.array([1.0, -2.0]), {}, "-2.0 in tangent_sensitivities"),
        (jnp.ones(2), {"weighting": "hard"}, "weighting='hard'; expected one of relative_frequency, soft"),
        (jnp.ones(2), {"weighting": "soft"}, "without preactivations"),
        (
            jnp.ones(2),
            {"weighting": "soft", "preactivations": [jnp.ones((3, 1))]},
            "2 tangent_sensitivities, 3 rows",
        ),
        (
            jnp.ones(2),
            {"weighting": "soft", "preactivations": [jnp.ones((2, 1))], "batch_size": 0},
            "batch_size=0",
        ),
    ],
)
def test_refusals_of_empirical_sensitivity(plain, function, values, options, message):
    with pytest.raises(InputError, match=message):
        function(values, **options)
