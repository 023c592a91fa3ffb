"""Exact crossings by hand, by a slow search layer by layer, and as the limit of sampled transitions."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.metrics.activations import mlp_preactivations
from jaxsens.metrics.crossings import count_crossings
from jaxsens.metrics.transitions import activation_codes, transition_count
from jaxsens.types import PIECEWISE_LINEAR

WIDTHS = (4, 8, 7, 6, 3)
ACTIVATIONS = sorted(PIECEWISE_LINEAR)
# So that segments cross the kinks of each activation often: inputs, then inner weights.
SCALES = {"relu": (1.0, 1.0), "relu6": (4.0, 1.0), "hard_tanh": (1.0, 1.5), "hard_sigmoid": (3.0, 12.0)}


def normal(seed, *shape, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def perceptron(seed, activation="relu", members=(), widths=WIDTHS, dtype=np.float64):
    """A perceptron and a function that draws inputs in the range of its kinks."""
    outer, inner = SCALES[activation]
    weights, biases = [], []
    for i, shape in enumerate(itertools.pairwise(widths)):
        scale = 1.0 if i == 0 else inner
        weights.append(scale * normal([seed, 1, i], *members, *shape, dtype=dtype))
        biases.append(normal([seed, 2, i], *members, shape[1], dtype=dtype))
    return weights, biases, lambda tag, *n: outer * normal([seed, 3, tag], *n, widths[0], dtype=dtype)


def slow_crossings(weights, biases, a, b, activation):
    """The same by another way: the kinks of each layer between all the breakpoints of the layers below.

    There the layer is affine, so a unit passes a kink where its two ends lie on different sides.
    """
    slope, shift, low, high = PIECEWISE_LINEAR[activation]
    at, values, total = np.array([0.0, 1.0]), np.stack([a, b]).astype(np.float64), 0
    for w, v in zip(weights[:-1], biases[:-1], strict=True):
        y = slope * (values @ np.asarray(w) + np.asarray(v)) + shift
        found = []
        for i, unit in itertools.product(range(len(at) - 1), range(y.shape[1])):
            start, stop = y[i, unit], y[i + 1, unit]
            for flat in (lambda s: s <= low, lambda s: s >= high):
                kink = low if flat(-math.inf) else high
                if flat(start) != flat(stop):
                    found.append(at[i] + (at[i + 1] - at[i]) * (kink - start) / (stop - start))
        total += len(found)
        finer = np.unique([*at, *found])
        fine = np.stack([np.interp(finer, at, column) for column in y.T], axis=1)
        at, values = finer, np.clip(fine, low, high)
    return total


def sampled(weights, biases, points, activation, closed=False):
    """Transitions of n trajectories (n, k, D)."""
    flat = points.reshape(-1, points.shape[-1])
    codes = activation_codes(
        mlp_preactivations(weights, biases, flat, activation=activation), activation=activation
    ).reshape(*points.shape[:2], -1)
    return codes, lambda c: np.asarray(jax.vmap(lambda one: transition_count(one, closed=closed))(c))


def on_a_line(weights, biases, starts, ends, activation="relu"):
    """Counts for inputs of one number."""
    a, b = (jnp.asarray(x, jnp.float32)[:, None] for x in (starts, ends))
    return count_crossings(weights, biases, a, b, activation=activation).tolist()


LINE = [jnp.array([[1.0, -2.0, 1.0]]), jnp.ones((3, 1))], [jnp.array([-1.0, 1.0, 5.0]), jnp.zeros(1)]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        # Of the units x - 1, 1 - 2x and x + 5.
        ("relu", [2, 3, 0, 2]),  # kinks 1, 1/2 and -5
        ("relu6", [3, 6, 0, 3]),  # and 7, -5/2, 1
        ("hard_tanh", [1, 6, 0, 1]),  # 0, 2; 1, 0; -6, -4
        ("hard_sigmoid", [0, 6, 1, 0]),  # -2, 4; 2, -1; -8, -2
    ],
)
def test_one_layer_by_hand(activation, expected):
    assert on_a_line(*LINE, [0.1, -10, 3.1, 1.9], [1.9, 10, 4.5, 0.1], activation) == expected


ABSOLUTE = jnp.array([[1.0, -1.0]])


@pytest.mark.parametrize(
    ("inner", "bias", "expected"),
    [
        (1.0, -1.0, [4, 1, 3]),  # |x| - 1: kinks at -1 and 1, and the two units below both have theirs at 0
        (1.0, 1.0, [2, 0, 2]),  # |x| + 1 is always active
        (-1.0, -1.0, [2, 0, 2]),  # and -|x| - 1 never
        (-1.0, 0.0, [2, 0, 2]),  # -|x| touches its kink, and crosses nothing
    ],
)
def test_two_layers_by_hand(inner, bias, expected):
    weights = [ABSOLUTE, jnp.full((2, 1), inner), jnp.ones((1, 2))]
    biases = [jnp.zeros(2), jnp.array([bias]), jnp.zeros(2)]
    assert on_a_line(weights, biases, [-2, 0.5, 3], [2, 2, -0.5]) == expected


def test_a_segment_that_ends_on_a_kink():
    """A unit on its kink is flat: it has passed the kink when it gets there, or does when it goes on."""
    weights, biases = [jnp.ones((1, 1)), jnp.ones((1, 1))], [jnp.array([-1.0]), jnp.zeros(1)]
    assert on_a_line(weights, biases, [0, 1, 0], [1, 2, 2]) == [0, 1, 1]
    assert on_a_line(weights, biases, [2, 1, 2], [1, 0, 0]) == [1, 0, 1]
    assert on_a_line(weights, biases, [1], [1]) == [0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_layer_in_closed_form(activation, x64):
    weights, biases, draw = perceptron(1, activation, widths=(4, 30, 2))
    slope, shift, *bounds = PIECEWISE_LINEAR[activation]
    a, b = draw(0, 25), draw(1, 25)
    z, change = a @ weights[0] + biases[0], (b - a) @ weights[0]
    kinks = [(bound - shift) / slope for bound in bounds if math.isfinite(bound)]
    times = np.concatenate([(kink - z) / change for kink in kinks], axis=1)
    expected = ((times > 0) & (times < 1)).sum(axis=1)
    ours = count_crossings(weights, biases, a, b, activation=activation)
    assert ours.dtype == jnp.int32
    np.testing.assert_array_equal(ours, expected)
    assert 0 < expected.max() <= 30 * len(kinks)
    far = count_crossings(weights, biases, -1e6 * b, 1e6 * b, activation=activation)
    np.testing.assert_array_equal(far, 30 * len(kinks))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_deep_networks_agree_with_a_search_layer_by_layer(activation, x64):
    totals = []
    for seed in range(4):
        weights, biases, draw = perceptron(seed, activation)
        a, b = draw(0, 10), draw(1, 10)
        ours = count_crossings(weights, biases, a, b, activation=activation)
        slow = [slow_crossings(weights, biases, p, q, activation) for p, q in zip(a, b, strict=True)]
        np.testing.assert_array_equal(ours, slow)
        totals += slow
    assert np.mean(totals) > 7


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sampled_transitions_rise_to_the_crossings(activation, x64):
    weights, biases, draw = perceptron(7, activation)
    a, b = draw(0, 6), draw(1, 6)
    exact = np.asarray(count_crossings(weights, biases, a, b, activation=activation))
    t = jnp.linspace(0, 1, 2**13 + 1)[:, None]
    codes, count = sampled(weights, biases, (1 - t) * a[:, None] + t * b[:, None], activation)
    counts = np.stack([count(codes[:, :: 2**k]) for k in (13, 10, 7, 4, 2, 0)])
    assert np.all(counts <= exact)
    assert np.all(np.diff(counts, axis=0) >= 0)
    assert counts[0].sum() < exact.sum()
    np.testing.assert_array_equal(counts[-1], exact)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_polygon_is_the_sum_of_its_sides(activation, x64):
    weights, biases, draw = perceptron(8, activation)
    corners = draw(0, 5)
    following = jnp.roll(corners, -1, axis=0)
    sides = count_crossings(weights, biases, corners, following, activation=activation)
    t = (jnp.arange(2**12) / 2**12)[:, None]
    boundary = ((1 - t) * corners[:, None] + t * following[:, None]).reshape(1, -1, 4)
    codes, count = sampled(weights, biases, boundary, activation, closed=True)
    assert int(sides.sum()) == count(codes)[0] > 20


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_reversed_and_divided_segments(activation, x64):
    weights, biases, draw = perceptron(9, activation)
    a, b = draw(0, 40), draw(1, 40)

    def count(a, b):
        return np.asarray(count_crossings(weights, biases, a, b, activation=activation))

    whole = count(a, b)
    np.testing.assert_array_equal(count(b, a), whole)
    middle = 0.7 * a + 0.3 * b
    np.testing.assert_array_equal(count(a, middle) + count(middle, b), whole)
    np.testing.assert_array_equal(count(a, a), 0)
    assert whole.min() > 0


def test_rescaling_nodes_leaves_the_crossings_of_relu(x64):
    weights, biases, draw = perceptron(10)
    a, b, scale = draw(0, 40), draw(1, 40), jnp.exp(normal(11, 8))
    moved = [weights[0] * scale, weights[1] / scale[:, None], *weights[2:]]
    np.testing.assert_array_equal(
        count_crossings(moved, [biases[0] * scale, *biases[1:]], a, b), count_crossings(weights, biases, a, b)
    )


def test_float32_counts_as_float64_does(x64):
    weights, biases, draw = perceptron(12, widths=(10, 40, 40, 40, 3))
    a, b = draw(0, 20), draw(1, 20)
    narrow = jax.tree.map(lambda x: x.astype(jnp.float32), (weights, biases, a, b))
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), narrow)
    exact = np.asarray(count_crossings(*wide))
    np.testing.assert_array_equal(count_crossings(*narrow), exact)
    np.testing.assert_array_equal(count_crossings(weights, narrow[1], a, narrow[3]), exact)
    assert exact.mean() > 50


def test_images_missing_biases_and_a_linear_network(x64):
    weights, biases, draw = perceptron(13)
    a, b = draw(0, 9), draw(1, 9)
    flat = count_crossings(weights, None, a, b)
    np.testing.assert_array_equal(flat, count_crossings(weights, [0 * v for v in biases], a, b))
    image = count_crossings(weights, None, a.reshape(9, 2, 1, 2), b.reshape(9, 2, 1, 2))
    np.testing.assert_array_equal(image, flat)
    assert int(flat.sum()) > 50
    np.testing.assert_array_equal(count_crossings([jnp.ones((4, 2))], None, a, b), np.zeros(9, int))


def test_dead_layers_are_not_crossed(x64):
    """A unit that is 0 along all of a segment is on its kink everywhere, and passes it nowhere."""
    weights, biases, draw = perceptron(14)
    biases[0] = jnp.full(8, -1e3)
    biases[1:] = [0 * v for v in biases[1:]]
    np.testing.assert_array_equal(count_crossings(weights, biases, draw(0, 5), draw(1, 5)), 0)


def test_a_layer_that_dies_leaves_units_on_their_kinks():
    """h = max(x, 0) dies at 0, where the unit h goes to its kink and stays; the unit -h is always there."""
    weights, biases = [jnp.ones((1, 1)), jnp.array([[1.0, -1.0]]), jnp.ones((2, 1))], [jnp.zeros(1)] * 3
    biases[1] = jnp.zeros(2)
    assert on_a_line(weights, biases, [1, -1, 1, -1], [-1, 1, 0.5, -2]) == [2, 2, 0, 0]


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_whole_layers_that_die_are_counted_but_for_pairs(activation, x64):
    """Without biases all layers above die with a layer, at one point, where rounding orders the kinks."""
    weights, _, draw = perceptron(16, activation, widths=(2, 4, 6, 6, 2))
    zeros = [jnp.zeros(w.shape[1]) for w in weights]
    a, b = draw(0, 60), draw(1, 60)
    wanted = [slow_crossings(weights, zeros, *ends, activation) for ends in zip(a, b, strict=True)]
    for start, end in ((a, b), (b, a)):
        more = np.asarray(count_crossings(weights, None, start, end, activation=activation)) - wanted
        np.testing.assert_array_equal(more % 2, 0)
        assert np.mean(more != 0) < 0.15


def test_all_kinks_at_one_point(x64):
    """Without biases all boundaries meet at 0, and only rounding orders them there: the walk still ends."""
    weights, _, draw = perceptron(15)
    x = draw(0, 30)
    counts = np.asarray(count_crossings(weights, None, x, -2 * x))
    ends = [np.asarray(activation_codes(mlp_preactivations(weights, None, y)), int) for y in (x, -2 * x)]
    distance = np.abs(ends[0] - ends[1]).sum(axis=1)
    assert np.all(counts >= distance)
    assert np.all(distance >= 8)
    np.testing.assert_array_equal((counts - distance) % 2, 0)


@pytest.mark.parametrize("activation", ["relu", "hard_tanh"])
def test_vmap_over_members_equals_a_loop(activation, x64):
    weights, biases, draw = perceptron(16, activation, members=(3,))
    a, b = draw(0, 6), draw(1, 6)

    def count(weights, biases):
        return count_crossings(weights, biases, a, b, activation=activation)

    slow = [count([w[m] for w in weights], [v[m] for v in biases]) for m in range(3)]
    np.testing.assert_array_equal(jax.jit(jax.vmap(count))(weights, biases), slow)
    assert len({int(one.sum()) for one in slow}) == 3


GOOD = {"weights": [jnp.ones((3, 2)), jnp.ones((2, 1))], "biases": [jnp.ones(2), jnp.ones(1)]}
GOOD |= {"a": jnp.ones((4, 3)), "b": jnp.zeros((4, 3))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": []}, "no weights"),
        ({"weights": [jnp.ones((3, 2)), jnp.ones((3, 1))]}, r"weights\[0\] of \(3, 2\) before weights\[1\]"),
        ({"weights": [jnp.full((3, 2), jnp.nan), jnp.ones((2, 1))]}, r"NaN or infinity in weights\[0\]"),
        ({"biases": [jnp.ones(2)]}, r"biases of lengths \[2\]; expected .* \[2, 1\]"),
        ({"a": jnp.ones((4, 2)), "b": jnp.ones((4, 2))}, r"a of shape \(4, 2\) .*; expected .* 3 entries"),
        ({"b": jnp.ones((5, 3))}, r"b of shape \(5, 3\)"),
        ({"a": jnp.ones(3)}, r"a of shape \(3,\)"),
        ({"a": jnp.ones(())}, "a of rank 0"),
        ({"b": jnp.ones((0, 3))}, "0 examples in b"),
        ({"a": jnp.ones((4, 3), jnp.int32)}, "a of dtype int32"),
        ({"b": jnp.full((4, 3), jnp.inf)}, "NaN or infinity in b"),
        ({"activation": "tanh"}, "activation='tanh'; expected one of relu"),
    ],
)
def test_refusals(plain, change, message):
    with pytest.raises(InputError, match=message):
        count_crossings(**(GOOD | change))
