"""Conditions C1 to C3 and Theorem 1 of paper D by hand, by slow loops, and where D's text cannot be right."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxsens.checks import InputError
from jaxsens.metrics.activations import mlp_preactivations
from jaxsens.metrics.sharpness_conditions import (
    balanced_sigmas,
    bounded_sharpness_rhs,
    flip_condition,
    interaction_condition,
    interaction_triples,
    spike_condition,
    unit_norm_ratios,
)

WIDTHS = (6, 5, 4, 7, 3)
DELTAS = np.array([0.05, 0.5, 1.0, 3.0])
interactions_of = jax.jit(interaction_condition)
spikes_of = jax.jit(spike_condition)
flips_of = jax.jit(flip_condition)
unit_norm_ratios_of = jax.jit(unit_norm_ratios)
bound_of = jax.jit(bounded_sharpness_rhs, static_argnames="num_examples")
sigmas_of = jax.jit(balanced_sigmas)
THEOREM = {
    "sigmas": 0.01,
    "mu": 0.25,
    "c2": 5.0,
    "c3": 3.0,
    "lipschitz": 2.0,
    "mean_output_norm": 7.0,
    "num_examples": 1000,
    "delta": 0.05,
    "deltas": 0.01,
}


def normal(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def perceptron(*members, widths=WIDTHS, dtype=np.float32):
    layers = list(itertools.pairwise(widths))
    weights = [normal([1, i], *members, *shape, dtype=dtype) for i, shape in enumerate(layers)]
    biases = [normal([2, i], *members, shape[1], dtype=dtype) for i, shape in enumerate(layers)]
    return weights, biases


def paper_layers(weights, biases, x):
    """D's notation in float64: [x, D_1 W_1, ..., D_d W_d] with explicit diagonal matrices, and all z_k."""
    h, factors, zs = np.asarray(x, np.float64).ravel(), [np.asarray(x, np.float64).reshape(-1, 1)], []
    for i, w in enumerate(weights):
        matrix = np.asarray(w, np.float64).T
        z = matrix @ h + (0 if biases is None else np.asarray(biases[i], np.float64))
        diagonal = np.eye(len(z)) if i == len(weights) - 1 else np.diag((z > 0).astype(float))
        factors.append(diagonal @ matrix)
        zs.append(z)
        h = diagonal @ z
    return factors, zs


def product(factors, a, b):
    return np.linalg.multi_dot([*factors[a : b + 1][::-1], np.eye(factors[a].shape[1])])


def slow_interactions(weights, biases, xs):
    """C1 as it reads, one triple at a time; the order is that of a dictionary's keys."""
    found = []
    for x in xs:
        factors, _ = paper_layers(weights, biases, x)
        ratios = {}
        for a, b in itertools.combinations(range(len(factors)), 2):
            for c in range(a, b):
                right, left, whole = (
                    product(factors, c + 1, b),
                    product(factors, a, c),
                    product(factors, a, b),
                )
                ratios[a, c, b] = np.linalg.norm(right) * np.linalg.norm(left)
                ratios[a, c, b] /= math.sqrt(len(factors[c])) * np.linalg.norm(whole)
        found.append(ratios)
    return found


def slow_spikes(weights, biases, xs):
    rows = []
    for x in xs:
        factors, _ = paper_layers(weights, biases, x)
        rows.append(
            [
                max(np.linalg.norm(w, axis=0)) * math.sqrt(w.shape[1]) / np.linalg.norm(factors[i + 1])
                for i, w in enumerate(weights)
            ]
        )
    return rows


def noisy_distance(weights, sigmas, x, draws=20000):
    """The left side of Lemma 1 and its standard error: patterns fixed at those of the network itself."""
    rng = np.random.default_rng(7)
    factors, zs = paper_layers(weights, None, x)
    h = np.broadcast_to(factors[0][:, 0], (draws, len(factors[0])))
    for i, w in enumerate(weights):
        noisy = np.asarray(w).T + sigmas[i] * rng.normal(size=(draws, *w.T.shape))
        h = np.einsum("koi,ki->ko", noisy, h)
        if i < len(weights) - 1:
            h = h * (zs[i] > 0)
    distances = np.linalg.norm(h - zs[-1], axis=1)
    return distances.mean(), distances.std() / math.sqrt(draws)


def lemma_1(layers, sigmas, mu, output_norm):
    """The right side of Lemma 1, from matrices whose norms stand below sigma_i."""
    gammas = [
        s * math.sqrt(m.size) / (mu**2 * np.linalg.norm(m)) for m, s in zip(layers, sigmas, strict=True)
    ]
    return (math.prod(1 + g for g in gammas) - 1) * output_norm


@pytest.mark.parametrize("depth", [1, 2, 4, 10])
def test_triples_are_those_of_figure_6(depth):
    triples, inner = interaction_triples(depth)
    everything = itertools.product(range(depth + 1), repeat=3)
    assert sorted(map(tuple, triples.tolist())) == [t for t in everything if t[0] <= t[1] <= t[2] - 1]
    assert len(triples) == depth * (depth + 1) * (depth + 2) // 6
    assert inner.tolist() == [c not in (a, b - 1) for a, c, b in triples]
    if depth == 10:
        assert (len(triples), inner.sum()) == (220, 120)


def test_identity_layers_have_ratios_of_1_and_no_spikes():
    weights, xs = [jnp.eye(4)] * 2, jnp.array([[1.0, 2.0, 0.5, 3.0]])
    np.testing.assert_allclose(interactions_of(weights, None, xs).ratio, 1.0, rtol=1e-6)
    np.testing.assert_allclose(interactions_of(weights, None, xs).mu, [1.0], rtol=1e-6)
    np.testing.assert_allclose(spikes_of(weights, None, xs), np.ones((1, 2)), rtol=1e-6)


def test_rank_one_layers_have_the_width_alone():
    """All vectors positive: every product of norms is the norm of the product."""
    vectors = [jnp.abs(normal(i, h)) + 0.1 for i, h in enumerate((3, 4, 9))]
    weights = [jnp.outer(u, v) for u, v in itertools.pairwise(vectors)]
    result = interactions_of(weights, None, 2 * vectors[0][None])
    # Left and right of layer c stands the same vector, so that only 1 / sqrt(h_c) is left.
    expected = 1 / np.sqrt(np.array([3, 4])[interaction_triples(2).triples[:, 1]])
    np.testing.assert_allclose(result.ratio, expected[None], rtol=1e-5)
    np.testing.assert_allclose(result.mu, [math.sqrt(3)], rtol=1e-5)


def test_a_rotation_has_a_ratio_of_1(x64):
    """One matrix of orthogonal rows on an input: |W| |x| = sqrt(h) |W x|, the tightest case of Lemma 3."""
    rotation = jnp.linalg.qr(normal(1, 5, 5, dtype=np.float64))[0]
    result = interactions_of([rotation], None, normal(2, 3, 5, dtype=np.float64))
    np.testing.assert_allclose(result.ratio, np.ones((3, 1)), rtol=1e-12)


@pytest.mark.parametrize("with_biases", [False, True])
def test_all_agree_with_the_definitions(with_biases, x64):
    weights, biases = perceptron(dtype=np.float64)
    biases = biases if with_biases else None
    xs = normal(3, 6, 2, 3, dtype=np.float64)
    result = interactions_of(weights, biases, xs)
    slow = slow_interactions(weights, biases, xs)
    triples = list(map(tuple, interaction_triples(4).triples.tolist()))
    np.testing.assert_allclose(result.ratio, [[row[t] for t in triples] for row in slow], rtol=1e-10)
    np.testing.assert_allclose(result.mu, [1 / max(row.values()) for row in slow], rtol=1e-10)
    np.testing.assert_allclose(spikes_of(weights, biases, xs), slow_spikes(weights, biases, xs), rtol=1e-10)
    assert result.ratio.dtype == spikes_of(weights, biases, xs).dtype == jnp.float64


def test_flips_agree_with_the_definition(x64):
    weights, biases = perceptron(dtype=np.float64)
    xs = normal(3, 6, 2, 3, dtype=np.float64)
    result = flips_of(weights, biases, xs, DELTAS)
    assert result.share.shape == (6, 3, 4)
    for n, x in enumerate(xs):
        for k, z in enumerate(paper_layers(weights, biases, x)[1][:-1]):
            share = [np.mean(np.abs(z) <= d) for d in DELTAS]
            np.testing.assert_allclose(result.share[n, k], share, rtol=1e-12)
            # The share over delta is largest where a unit has just come within delta.
            constant = max(np.mean(np.abs(z) <= d) / d for d in np.abs(z))
            np.testing.assert_allclose(result.constant[n, k], constant, rtol=1e-10)
            dense = np.geomspace(1e-4, 20, 4000)
            assert all(np.mean(np.abs(z) <= d) <= constant * d * (1 + 1e-12) for d in dense)


def test_flips_by_hand():
    """A distance of exactly delta counts, a tie counts twice, and a unit at 0 leaves no C_2."""
    weights = [jnp.array([[-2.0, 2.0, 0.5, 4.0]]), jnp.ones((4, 1))]
    result = flips_of(weights, None, jnp.array([[1.0], [0.0]]), jnp.array([0.25, 0.5, 2.0, 5.0]))
    np.testing.assert_allclose(result.share[0, 0], [0.0, 0.25, 0.75, 1.0])
    np.testing.assert_allclose(result.constant[0, 0], 0.25 / 0.5)
    np.testing.assert_allclose(result.share[1, 0], np.ones(4))
    assert result.constant[1, 0] == jnp.inf


def test_unit_norm_ratios_by_hand():
    weights = [jnp.array([[3.0, 0.0], [4.0, 5.0]]), jnp.array([[1.0, 7.0], [0.0, 0.0]]), jnp.zeros((2, 3))]
    first, second, third = unit_norm_ratios_of(weights)
    np.testing.assert_allclose(first, [1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(second, [0.2, 1.4], rtol=1e-6)
    np.testing.assert_array_equal(third, np.zeros(3))
    on = spikes_of(weights, [jnp.ones(2), jnp.ones(2), jnp.zeros(3)], jnp.ones((1, 2)))
    np.testing.assert_allclose(on[0], [1.0, 1.4, 0.0], rtol=1e-6)


def test_orthogonal_layers_have_mu_0_and_dead_ones_satisfy_c1():
    """|W_2 D_1 W_1| = 0 between two matrices that are not 0; with D_1 = 0, C1 reads 0 >= 0."""
    triples = list(map(tuple, interaction_triples(2).triples.tolist()))
    first, last = jnp.array([[1.0, -1.0], [1.0, -1.0]]), jnp.array([[0.0, 0.0], [1.0, 3.0]])
    crossed = interactions_of([first, last], None, jnp.ones((1, 2)))
    ratios = dict(zip(triples, np.asarray(crossed.ratio[0]), strict=True))
    assert ratios[0, 1, 2] == ratios[1, 1, 2] == np.inf
    # Here W_2 D_1 W_1 is itself a factor, and C1 is 0 >= 0.
    assert ratios[0, 0, 2] == 0
    assert ratios[0, 0, 1] == pytest.approx(1 / math.sqrt(2), rel=1e-6)
    assert crossed.mu[0] == 0
    dead = interactions_of([-jnp.abs(first), last], None, jnp.ones((1, 2)))
    np.testing.assert_array_equal(dead.ratio, np.zeros((1, 4)))
    assert dead.mu[0] == jnp.inf
    assert spikes_of([-jnp.abs(first), last], None, jnp.ones((1, 2)))[0, 0] == jnp.inf
    at_zero = interactions_of([first, last], None, jnp.zeros((1, 2)))
    assert not np.isnan(at_zero.ratio).any()


def test_one_matrix_has_one_triple_and_no_flips():
    weights, xs = [normal(1, 4, 3)], normal(2, 5, 4)
    expected = (
        np.linalg.norm(weights[0]) * np.linalg.norm(xs, axis=1) / 2 / np.linalg.norm(xs @ weights[0], axis=1)
    )
    np.testing.assert_allclose(interactions_of(weights, None, xs).ratio[:, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        spikes_of(weights, None, xs), np.full((5, 1), unit_norm_ratios_of(weights)[0].max()), rtol=1e-6
    )
    with pytest.raises(InputError, match="got 1 matrix in weights; expected a hidden layer"):
        flip_condition(weights, None, xs, DELTAS)


@pytest.mark.parametrize("scale", [1e-25, 3.0, 1e25])
def test_factors_on_layers_and_input_change_nothing(scale):
    """float32, where a preactivation of the second layer would be 0 or infinite."""
    weights, _ = perceptron(widths=(6, 5, 4, 3))
    xs = normal(3, 4, 6)
    moved = [w * scale for w in weights]
    before, after = interactions_of(weights, None, xs), interactions_of(moved, None, 100 * xs)
    np.testing.assert_allclose(after.ratio, before.ratio, rtol=1e-5)
    np.testing.assert_allclose(after.mu, before.mu, rtol=1e-5)
    np.testing.assert_allclose(spikes_of(moved, None, xs), spikes_of(weights, None, xs), rtol=1e-5)
    for ours, theirs in zip(unit_norm_ratios_of(moved), unit_norm_ratios_of(weights), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_order_of_units_changes_nothing_but_their_scale_does(x64):
    weights, biases = perceptron(dtype=np.float64)
    xs = normal(3, 6, 2, 3, dtype=np.float64)
    order = np.array([3, 1, 0, 2])
    permuted = [weights[0], weights[1][:, order], weights[2][order], weights[3]]
    moved_biases = [biases[0], biases[1][order], *biases[2:]]
    for measure in (interactions_of, spikes_of, lambda *args: flips_of(*args, DELTAS)):
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-10),
            measure(permuted, moved_biases, xs),
            measure(weights, biases, xs),
        )
    scale = jnp.array([1.0, 50.0, 1.0, 0.1])
    rescaled = [weights[0], weights[1] * scale, weights[2] / scale[:, None], weights[3]]
    before, after = interactions_of(weights, None, xs), interactions_of(rescaled, None, xs)
    assert not np.allclose(before.mu, after.mu, rtol=0.1)


def test_preactivations_scale_with_the_input_and_so_does_c2():
    weights, xs = perceptron()[0], normal(3, 20, 6)
    once, twice = flips_of(weights, None, xs, DELTAS), flips_of(weights, None, 2 * xs, 2 * DELTAS)
    np.testing.assert_allclose(twice.share, once.share)
    np.testing.assert_allclose(2 * twice.constant, once.constant, rtol=1e-6)


def test_ten_layers_of_standard_normals_stay_in_range():
    """Products of their norms leave float32: |D_i W_i| is near 70, and outputs near 1e11."""
    weights, _ = perceptron(widths=(50, *[100] * 9, 10))
    weights = [w * 1e3 for w in weights]
    x = jnp.abs(normal(3, 1, 50))
    assert math.prod(float(jnp.linalg.norm(w)) for w in weights) > 3e38
    slow = slow_interactions(weights, None, x)[0]
    result = interactions_of(weights, None, x)
    triples = map(tuple, interaction_triples(10).triples.tolist())
    np.testing.assert_allclose(result.ratio[0], [slow[t] for t in triples], rtol=2e-5)


def test_preactivations_out_of_range_give_nan_and_no_number():
    weights = [jnp.full((2, 2), 1e30), jnp.array([[1e30, 1.0], [-1e30, 1.0]]), jnp.ones((2, 1))]
    biases = [jnp.ones(2), jnp.ones(2), jnp.ones(1)]
    xs = jnp.array([[1.0, 1.0], [0.0, 0.0]])
    flips = flips_of(weights, biases, xs, DELTAS)
    results = [
        interactions_of(weights, biases, xs).mu,
        spikes_of(weights, biases, xs)[:, 0],
        flips.constant[:, 0],
        flips.share[:, 0, 0],
    ]
    for result in results:
        assert np.isnan(result).tolist() == [True, False]


def test_vmap_over_members_equals_a_loop_and_jit_equals_eager():
    weights, biases = perceptron(3, widths=(3, 3, 3))
    xs = normal(3, 3, 3)

    def everything(weights, biases):
        interactions = interaction_condition(weights, biases, xs)
        spikes = spike_condition(weights, biases, xs)
        flips = flip_condition(weights, biases, xs, jnp.asarray(DELTAS, xs.dtype))
        sigmas = balanced_sigmas(weights, 0.1, mu=interactions.mu.min(), deltas=0.1)
        known = THEOREM | {"sigmas": sigmas, "mu": interactions.mu.min(), "c3": spikes.max()}
        bound = bounded_sharpness_rhs(weights, **known)
        return interactions, spikes, flips, unit_norm_ratios(weights), bound

    one = jax.jit(everything)
    members = [([w[m] for w in weights], [b[m] for b in biases]) for m in range(3)]
    slow = jax.tree.map(lambda *parts: jnp.stack(parts), *[one(*member) for member in members])
    fast = jax.jit(jax.vmap(everything))(weights, biases)
    close = partial(np.testing.assert_allclose, rtol=1e-4)
    jax.tree.map(close, fast, slow)
    first = jax.tree.map(lambda a: a[0], slow)
    jax.tree.map(close, interaction_condition(*members[0], xs), first[0])
    jax.tree.map(close, flip_condition(*members[0], xs, DELTAS), first[2])
    jax.tree.map(close, unit_norm_ratios(members[0][0]), first[3])


def test_theorem_1_by_hand(x64):
    weights, _ = perceptron(widths=(3, 4, 2), dtype=np.float64)
    sigmas, deltas = np.array([0.02, 0.05]), np.array([0.1, 0.2])
    norms = [np.linalg.norm(w) for w in weights]
    gammas = [0.02 * math.sqrt(12) / (0.25**2 * norms[0]), 0.05 * math.sqrt(8) / (0.25**2 * norms[1])]
    c_deltas = [1.1 * math.sqrt(2 * math.log(4)), 1.2 * math.sqrt(2 * math.log(2))]
    sharpness = math.prod(1 + g for g in gammas) - 1
    sharpness += math.prod(1 + g * 5 * 3 for g in gammas) * (
        math.prod(1 + g * c * 5 for g, c in zip(gammas, c_deltas, strict=True)) - 1
    )
    complexity = math.sqrt(((norms[0] / 0.02) ** 2 + (norms[1] / 0.05) ** 2 + math.log(20)) / 1000)
    known = THEOREM | {"sigmas": sigmas, "deltas": deltas}
    result = bound_of(weights, **known)
    np.testing.assert_allclose(result.sharpness, sharpness * 2 * 7, rtol=1e-12)
    np.testing.assert_allclose(result.complexity, complexity, rtol=1e-12)
    np.testing.assert_allclose(result.value, sharpness * 2 * 7 + complexity, rtol=1e-12)
    above = bound_of(weights, **(known | {"mu": 4.0}))
    assert above == bound_of(weights, **(known | {"mu": 1.0}))


def test_theorem_1_keeps_the_digits_of_small_noise_and_overflows_to_infinity():
    """prod(1 + 1e-9) - 1 in float32 is 0."""
    weights = [jnp.eye(4)] * 3
    gamma = 1e-9 * 4 / 2
    small = bound_of(weights, **(THEOREM | {"sigmas": 1e-9, "mu": 1.0}))
    c_delta = 1.01 * math.sqrt(2 * math.log(4))
    assert float(small.sharpness) == pytest.approx(14 * 3 * gamma * (1 + c_delta * 5), rel=1e-5)
    for weights in ([jnp.eye(4)] * 3, [jnp.ones((3, 1)), jnp.ones((1, 1))]):
        huge = bound_of(weights, **(THEOREM | {"sigmas": 1e30}))
        assert huge.sharpness == huge.value == jnp.inf
    zero_layer = [jnp.ones((3, 2)), jnp.zeros((2, 1))]
    for mean_output_norm in (0.0, 1.0):
        zero = bound_of(zero_layer, **(THEOREM | {"mean_output_norm": mean_output_norm}))
        assert zero.sharpness == jnp.inf
        assert np.isfinite(zero.complexity)
    nothing = {"mean_output_norm": 0.0, "lipschitz": 1e38}
    assert bound_of([jnp.eye(4)] * 3, **(THEOREM | nothing)).sharpness == 0
    assert bound_of([w * 1e25 for w in weights], **THEOREM).complexity > 1e26


def test_complexity_of_theorem_1_has_twice_the_kl_of_eq_6(x64):
    weights, _ = perceptron(dtype=np.float64)
    result = bound_of(weights, **THEOREM)
    kl = sum(float(jnp.sum(w**2)) for w in weights) / (2 * 0.01**2)
    assert float(result.complexity**2) == pytest.approx((2 * kl + math.log(20)) / 1000, rel=1e-12)


def test_balanced_sigmas_give_the_gammas_after_theorem_1(x64):
    weights, _ = perceptron(dtype=np.float64)
    deltas = np.array([0.1, 0.2, 0.3, 0.4])
    sigmas = sigmas_of(weights, 0.3, mu=0.25, deltas=deltas)
    for w, sigma, delta in zip(weights, sigmas, deltas, strict=True):
        gamma = sigma * math.sqrt(w.size) / (0.25**2 * np.linalg.norm(w))
        c_delta = (1 + delta) * math.sqrt(2 * math.log(w.shape[1]))
        assert float(gamma) == pytest.approx(0.3 / (c_delta * 4), rel=1e-12)
    at_1, above = (sigmas_of(weights, 0.3, mu=mu, deltas=deltas) for mu in (1.0, 2.0))
    np.testing.assert_array_equal(above, at_1)


# Where D's section 4 cannot be right.


def test_lemma_1_holds_with_all_triples_and_mu_of_at_most_1(x64):
    members, _ = perceptron(8, dtype=np.float64)
    xs, sigmas, checked = normal(3, 6, 2, 3, dtype=np.float64), [0.3, 0.2, 0.1, 0.2], 0
    for member in range(8):
        weights = [w[member] for w in members]
        for x, mu in zip(xs, np.minimum(interactions_of(weights, None, xs).mu, 1), strict=True):
            factors, zs = paper_layers(weights, None, x)
            if all(map(np.any, factors)):
                mean, error = noisy_distance(weights, sigmas, x, draws=300)
                assert mean - 5 * error <= lemma_1(factors[1:], sigmas, mu, np.linalg.norm(zs[-1]))
                checked += 1
    assert checked > 30


def test_lemma_1_is_tight_at_a_rotation(x64):
    """One noisy layer, mu = 1: E|nu x| is sigma |x| sqrt(h) but for Jensen's inequality, as is the bound."""
    weights, x = [np.eye(30)], np.ones((1, 30))
    mu = float(interactions_of([jnp.eye(30)], None, jnp.asarray(x)).mu[0])
    mean, _ = noisy_distance(weights, [0.1], x[0], draws=2000)
    assert 0.98 < mean / lemma_1(weights, [0.1], mu, np.linalg.norm(x)) <= 1


def test_c1_as_printed_does_not_give_lemma_1(x64):
    """C1 prints a < c. Two layers then have one triple, (0, 1, 2), and x may be all but orthogonal to W_1."""
    weights, x, sigmas = [jnp.array([[0.01], [5.0]]), jnp.ones((1, 1))], jnp.array([[1.0, 0.0]]), [0.1, 1e-6]
    result, (triples, _) = interactions_of(weights, None, x), interaction_triples(2)
    printed = result.ratio[0, triples[:, 0] < triples[:, 1]]
    np.testing.assert_allclose(printed, [1.0], rtol=1e-12)
    mean, error = noisy_distance(weights, sigmas, x[0])
    assert mean - 5 * error > 100 * lemma_1([w.T for w in weights], sigmas, 1.0, 0.01)
    assert mean + 5 * error < lemma_1([w.T for w in weights], sigmas, float(result.mu[0]), 0.01)


def test_lemma_1_fails_for_mu_above_1(x64):
    """One output, W = x = (1, 1, 1, 1): |f| = 4, E|nu x| = 2 sigma sqrt(2 / pi), and C1 holds with mu = 2."""
    weights, x = [jnp.ones((4, 1))], jnp.ones((1, 4))
    mu = float(interactions_of(weights, None, x).mu[0])
    assert mu == pytest.approx(2.0, rel=1e-12)
    exact = 0.1 * 2 * math.sqrt(2 / math.pi)
    assert noisy_distance(weights, [0.1], x[0])[0] == pytest.approx(exact, rel=0.03)
    assert lemma_1([weights[0].T], [0.1], mu, 4.0) < 0.7 * exact
    assert lemma_1([weights[0].T], [0.1], 1.0, 4.0) > exact


def test_gamma_of_theorem_1_has_weights_that_lemma_1_masks(x64):
    """An inactive unit of norm 10 in |W_1|, not in |D_1 W_1|; C_3 bounds what that can change."""
    weights, x, sigmas = [jnp.array([[1.0, -10.0]]), jnp.array([[1.0], [0.0]])], jnp.ones((1, 1)), [0.1, 1e-6]
    assert float(interactions_of(weights, None, x).mu[0]) == pytest.approx(1.0, rel=1e-12)
    mean, error = noisy_distance(weights, sigmas, x[0])
    factors, _ = paper_layers(weights, None, x[0])
    assert mean - 5 * error > 4 * lemma_1([w.T for w in weights], sigmas, 1.0, 1.0)
    assert mean + 5 * error < lemma_1(factors[1:], sigmas, 1.0, 1.0)
    c3 = spikes_of(weights, None, x)[0]
    assert np.linalg.norm(weights[0]) <= float(c3[0]) * np.linalg.norm(factors[1])


def test_c2_as_printed_has_no_constant():
    """z <= delta holds for every unit that is off, at every delta."""
    weights, _ = perceptron()
    xs = normal(3, 20, 6)
    z = np.asarray(mlp_preactivations(weights, None, xs)[0])
    off = np.mean(z < 0)
    assert off > 0.3
    constant = float(flips_of(weights, None, xs, DELTAS).constant[:, 0].max())
    for delta in (1e-3, 1e-6, 1e-9):
        printed = np.mean(z <= delta)
        assert printed >= off > constant * delta
        assert np.all(np.mean(np.abs(z) <= delta, axis=1) <= constant * delta)


def test_c_delta_does_not_hold_with_probability_1_minus_delta():
    """h normal draws stay below (1 + delta) sqrt(2 ln h) less often; even one alone does, for small h."""
    for h, delta in ((2, 0.05), (10, 0.01), (1000, 0.01)):
        beyond = 2 * norm.sf((1 + delta) * math.sqrt(2 * math.log(h)))
        assert (1 - beyond) ** h < 1 - delta
        # What a union bound gives.
        assert (1 - 2 * norm.sf(math.sqrt(2 * math.log(2 * h / delta)))) ** h >= 1 - delta
    assert 2 * norm.sf(1.05 * math.sqrt(2 * math.log(2))) > 0.05


def test_flips_of_a_layer_do_not_come_from_its_own_noise_alone():
    """Lemma 2 bounds |D-hat_2 - D_2|_1 by sigma_2 times constants; noise in W_1 alone flips them as well."""
    second = np.stack([np.ones(100), -1 + np.linspace(-0.99, 0.99, 100)])
    weights = [jnp.ones((1, 2)), jnp.asarray(second, jnp.float32), jnp.ones((100, 2))]
    c2 = float(flips_of(weights, None, jnp.ones((1, 1)), DELTAS).constant[0, 1])
    assert c2 < 2.1
    sigma_2, c_delta = 1e-6, 1.1 * math.sqrt(2 * math.log(100))
    rng = np.random.default_rng(5)
    first = np.maximum(1 + 0.2 * rng.normal(size=(2000, 2)), 0)
    z = np.einsum("ki,kij->kj", first, second + sigma_2 * rng.normal(size=(2000, 2, 100)))
    flipped = np.mean(np.sum((z > 0) != (np.ones(2) @ second > 0), axis=1))
    assert flipped > 5
    assert flipped > 1000 * c2 * 100 * c_delta * sigma_2 * math.sqrt(2)


def test_the_simplified_bound_lacks_c_delta_and_is_for_small_noise_alone(x64):
    """Balanced sigmas put C_delta^2 beside h_i h_{i-1}, and prod(1 + s / d) is near exp(s), not 1 + s."""
    weights = [normal(i, 100, 100, dtype=np.float64) for i in range(10)]
    sigma, mu, delta = 3.0, 0.25, 0.01
    sigmas = sigmas_of(weights, sigma, mu=mu, deltas=delta)
    printed = 10**2 / mu**4 * 10 * 100 * 100 / sigma**2
    c_delta = 1.01 * math.sqrt(2 * math.log(100))
    result = bound_of(weights, **(THEOREM | {"sigmas": sigmas, "mu": mu, "deltas": delta}))
    squares = float(result.complexity**2 * 1000) - math.log(20)
    assert squares == pytest.approx(c_delta**2 * printed, rel=1e-9)
    simplified = sigma * (1 + (1 + sigma * 5 * 3) * 5) * 14
    assert float(result.sharpness) > 1e4 * simplified


@pytest.mark.parametrize("depth", [0, 2.0, True])
def test_refusals_of_depths(plain, depth):
    with pytest.raises(InputError, match="whole number >= 1"):
        interaction_triples(depth)


GOOD = {"weights": [jnp.ones((3, 2)), jnp.ones((2, 2))], "biases": [jnp.ones(2), jnp.ones(2)]}
GOOD["xs"] = jnp.ones((4, 3))


@pytest.mark.parametrize(
    "measure", [interaction_condition, spike_condition, partial(flip_condition, deltas=DELTAS)]
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": []}, "no weights"),
        ({"weights": [jnp.ones((3, 2)), jnp.ones((3, 1))]}, r"weights\[0\] of \(3, 2\) before weights\[1\]"),
        ({"weights": [jnp.full((3, 2), jnp.nan), jnp.ones((2, 2))]}, r"NaN or infinity in weights\[0\]"),
        ({"biases": [jnp.ones(2)]}, r"biases of lengths \[2\]"),
        ({"xs": jnp.ones((4, 2))}, r"xs of shape \(4, 2\) .* 3 entries"),
        ({"xs": jnp.ones((0, 3))}, "0 examples in xs"),
        ({"xs": jnp.ones((4, 3), jnp.int32)}, "xs of dtype int32"),
        ({"xs": jnp.full((4, 3), jnp.nan)}, "NaN or infinity in xs"),
    ],
)
def test_refusals_of_networks_and_examples(plain, measure, change, message):
    with pytest.raises(InputError, match=message):
        measure(**(GOOD | change))


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        (jnp.zeros(0), r"deltas of shape \(0,\)"),
        (0.1, r"deltas of shape \(\)"),
        (jnp.array([0.1, 0.0]), "a finite deltas > 0"),
        (jnp.array([0.1, -1.0]), "a finite deltas > 0"),
        (jnp.array([jnp.nan]), "a finite deltas > 0"),
    ],
)
def test_refusals_of_deltas(plain, deltas, message):
    with pytest.raises(InputError, match=message):
        flip_condition(**GOOD, deltas=deltas)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [jnp.ones((3, 2)), jnp.ones((3, 1))]}, r"weights\[0\] of \(3, 2\) before weights\[1\]"),
        ({"sigmas": 0.0}, "a finite sigmas > 0"),
        ({"sigmas": jnp.ones(3)}, r"sigmas of shape \(3,\) for 2 layers"),
        ({"deltas": jnp.array([0.1, -0.1])}, "a finite deltas > 0"),
        ({"deltas": jnp.ones((2, 1))}, r"deltas of shape \(2, 1\) for 2 layers"),
        ({"mu": 0.0}, "mu=0.0"),
        ({"mu": jnp.inf}, "mu=inf"),
        ({"mu": jnp.ones(2)}, r"mu of shape \(2,\); expected one number"),
        ({"c2": -1.0}, "c2=-1.0"),
        ({"c3": math.nan}, "c3=nan"),
        ({"lipschitz": 0.0}, "lipschitz=0.0"),
        ({"mean_output_norm": -1.0}, "mean_output_norm=-1.0"),
        ({"mean_output_norm": jnp.ones(2)}, r"mean_output_norm of shape \(2,\)"),
        ({"num_examples": 0}, "num_examples=0"),
        ({"delta": 1.0}, "delta=1.0; expected a probability below 1"),
        ({"delta": 0.0}, "a finite delta > 0"),
    ],
)
def test_refusals_of_theorem_1(plain, change, message):
    with pytest.raises(InputError, match=message):
        bounded_sharpness_rhs(**({"weights": GOOD["weights"]} | THEOREM | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weights": [jnp.ones((3, 1)), jnp.ones((1, 2))]},
            r"weights\[0\] of shape \(3, 1\), a layer of one unit",
        ),
        ({"sigma": 0.0}, "sigma=0.0"),
        ({"sigma": jnp.ones(2)}, r"sigma of shape \(2,\)"),
        ({"mu": -1.0}, "mu=-1.0"),
        ({"deltas": 0.0}, "a finite deltas > 0"),
    ],
)
def test_refusals_of_balanced_sigmas(plain, change, message):
    known = {"weights": GOOD["weights"], "sigma": 0.1, "mu": 0.5, "deltas": 0.1}
    with pytest.raises(InputError, match=message):
        balanced_sigmas(**(known | change))
