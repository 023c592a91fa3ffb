"""Codes and their transitions by hand and by slow loops; perceptrons with other activations than ReLU."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.metrics.activations import activation_pattern, mlp_preactivations, piecewise_linear
from jaxsens.metrics.transitions import activation_codes, transition_count
from jaxsens.types import PIECEWISE_LINEAR

# By hand: the activation, and its kinks in z.
FUNCTIONS = {
    "relu": (lambda z: max(z, 0.0), (0.0,)),
    "relu6": (lambda z: min(max(z, 0.0), 6.0), (0.0, 6.0)),
    "hard_tanh": (lambda z: min(max(z, -1.0), 1.0), (-1.0, 1.0)),
    "hard_sigmoid": (lambda z: min(max(z + 3, 0.0), 6.0) / 6, (-3.0, 3.0)),
}
ACTIVATIONS = sorted(PIECEWISE_LINEAR)
WIDTHS = (6, 5, 4, 3)


def normal(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def perceptron(*members, dtype=np.float32):
    layers = list(itertools.pairwise(WIDTHS))
    weights = [normal([1, i], *members, *shape, dtype=dtype) for i, shape in enumerate(layers)]
    return weights, [normal([2, i], *members, shape[1], dtype=dtype) for i, shape in enumerate(layers)]


def slow_preactivations(weights, biases, xs, function):
    """One unit of one example at a time, in Python floats."""
    layers = [[] for _ in weights[:-1]]
    for x in np.asarray(xs, np.float64):
        hidden = x.ravel()
        for i, (w, b) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            w, b = np.asarray(w, np.float64), np.asarray(b, np.float64)
            z = [sum(h * w[j, u] for j, h in enumerate(hidden)) + b[u] for u in range(w.shape[1])]
            layers[i].append(z)
            hidden = [function(v) for v in z]
    return [np.array(layer) for layer in layers]


def slow_code(z, kinks):
    below, above = kinks[0], kinks[1] if len(kinks) == 2 else np.inf
    return 0 if z <= below else 2 if z >= above else 1


def slow_count(codes, closed):
    rows = [[int(c) for c in row] for row in codes]
    steps = [*itertools.pairwise(rows), *([(rows[-1], rows[0])] if closed else [])]
    return sum(abs(p - q) for one, other in steps for p, q in zip(one, other, strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_preactivations_and_codes_agree_with_loops(activation, x64):
    weights, biases = perceptron(dtype=np.float64)
    xs = 3 * normal(3, 12, 2, 3, dtype=np.float64)
    function, kinks = FUNCTIONS[activation]
    fast = jax.jit(mlp_preactivations, static_argnames="activation")(
        weights, biases, xs, activation=activation
    )
    slow = slow_preactivations(weights, biases, xs, function)
    for ours, theirs in zip(fast, slow, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    codes = activation_codes(fast, activation=activation)
    expected = [[slow_code(z, kinks) for z in row] for row in np.concatenate(slow, axis=1)]
    np.testing.assert_array_equal(codes, expected)
    assert codes.dtype == jnp.int8
    assert set(np.unique(codes)) == ({0, 1} if activation == "relu" else {0, 1, 2})


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_unit_on_its_kink_is_flat(activation):
    """The code of the kink is that of the flat piece, and there the derivative is 0, elsewhere the slope."""
    function, kinks = FUNCTIONS[activation]
    zs = jnp.array([k + step for k in kinks for step in (-0.5, 0.0, 0.5)])
    numbers = PIECEWISE_LINEAR[activation]
    values = piecewise_linear(zs, numbers)
    np.testing.assert_allclose(values, [function(float(z)) for z in zs], rtol=1e-6, atol=1e-7)
    codes = activation_codes([zs[:, None]], activation=activation)[:, 0]
    np.testing.assert_array_equal(codes, [0, 0, 1, 1, 2, 2][: len(zs)])
    slopes = jax.vmap(jax.grad(lambda z: piecewise_linear(z, numbers)))(zs)
    np.testing.assert_allclose(slopes, np.where(np.asarray(codes) == 1, numbers.slope, 0.0), rtol=1e-7)


def test_codes_of_relu_are_its_pattern():
    h = mlp_preactivations(*perceptron(), normal(3, 9, 6))
    np.testing.assert_array_equal(activation_codes(h), activation_pattern(h))
    explicit = mlp_preactivations(*perceptron(), normal(3, 9, 6), activation="relu")
    jax.tree.map(np.testing.assert_array_equal, explicit, h)


def test_transitions_by_hand():
    codes = jnp.array([[0, 1, 2], [2, 1, 1], [2, 0, 1]])
    assert int(transition_count(codes, closed=False)) == (2 + 0 + 1) + (0 + 1 + 0)
    assert int(transition_count(codes)) == 4 + (2 + 1 + 1)
    assert transition_count(codes).dtype == jnp.int32
    # Two points: there and back.
    assert int(transition_count(codes[:2])) == 2 * int(transition_count(codes[:2], closed=False)) == 6


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int32])
@pytest.mark.parametrize("closed", [True, False])
def test_many_trajectories_agree_with_loops(dtype, closed):
    codes = jnp.asarray(np.random.default_rng(4).integers(0, 3, (5, 7, 11)), dtype)
    fast = jax.jit(jax.vmap(lambda c: transition_count(c, closed=closed)))(codes)
    np.testing.assert_array_equal(fast, [slow_count(c, closed) for c in np.asarray(codes)])


def test_codes_wider_than_int8_sums_do_not_wrap_around():
    codes = jnp.asarray(np.arange(400)[:, None] % 2 * np.full(1000, 2), jnp.int8)
    assert int(transition_count(codes)) == 400 * 1000 * 2


def test_order_and_start_of_a_closed_trajectory_do_not_matter():
    codes = jnp.asarray(np.random.default_rng(5).integers(0, 3, (9, 4)), jnp.int8)
    expected = int(transition_count(codes))
    assert expected > 0
    assert int(transition_count(jnp.roll(codes, 3, axis=0))) == expected
    assert int(transition_count(codes[::-1])) == expected
    assert int(transition_count(codes[:, ::-1])) == expected


def test_rescaling_nodes_leaves_codes(x64):
    weights, biases = perceptron(dtype=np.float64)
    xs, scale = normal(3, 20, 6, dtype=np.float64), jnp.array([0.1, 2.0, 30.0, 1.0, 5.0])
    moved = [weights[0] * scale, weights[1] / scale[:, None], weights[2]]
    before = activation_codes(mlp_preactivations(weights, biases, xs))
    after = activation_codes(mlp_preactivations(moved, [biases[0] * scale, *biases[1:]], xs))
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("activation", ["relu", "hard_sigmoid"])
def test_vmap_over_members_equals_a_loop(activation):
    weights, biases = perceptron(3)
    xs = normal(3, 8, 6)

    def everything(weights, biases):
        codes = activation_codes(
            mlp_preactivations(weights, biases, xs, activation=activation), activation=activation
        )
        return codes, transition_count(codes)

    one = jax.jit(everything)
    loops = [one([w[m] for w in weights], [b[m] for b in biases]) for m in range(3)]
    slow = jax.tree.map(lambda *parts: jnp.stack(parts), *loops)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(jax.vmap(everything))(weights, biases), slow)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (jnp.ones((3, 2)), "codes of dtype float32; expected integers"),
        (jnp.ones((3, 2), bool), "codes of dtype bool; expected integers; .* cast booleans"),
        (jnp.ones((1, 2), jnp.int8), r"codes of shape \(1, 2\); expected \(k, N\).* k >= 2"),
        (jnp.ones((3, 0), jnp.int8), r"codes of shape \(3, 0\)"),
        (jnp.ones(3, jnp.int8), r"codes of shape \(3,\)"),
        (jnp.ones((2, 3, 4), jnp.int8), r"codes of shape \(2, 3, 4\); .* vmap over several"),
        ([[0, 1], [1, 1]], r"codes of shape \(2, 2\)"),
    ],
)
def test_refusals_of_transitions(plain, codes, message):
    with pytest.raises(InputError, match=message):
        transition_count(codes)


@pytest.mark.parametrize(
    ("preactivations", "activation", "message"),
    [
        ([], "relu", "no preactivations"),
        ([jnp.ones(2)], "relu", r"preactivations\[0\] of shape \(2,\)"),
        ([jnp.ones((3, 2)), jnp.ones((4, 2))], "relu", r"preactivations of \[3, 4\] examples"),
        ([jnp.ones((3, 2), jnp.int32)], "relu", "dtype int32"),
        ([jnp.full((3, 2), jnp.nan)], "relu", "NaN or infinity in preactivations"),
        ([jnp.ones((3, 2))], "tanh", "activation='tanh'; expected one of relu, relu6, hard_tanh"),
    ],
)
def test_refusals_of_codes(plain, preactivations, activation, message):
    with pytest.raises(InputError, match=message):
        activation_codes(preactivations, activation=activation)


def test_an_unknown_activation_of_a_perceptron_is_refused(plain):
    with pytest.raises(InputError, match="activation='gelu'; expected one of relu"):
        mlp_preactivations(*perceptron(), normal(3, 2, 6), activation="gelu")
