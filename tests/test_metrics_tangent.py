"""Tangent sensitivity: every method against the definition, in float64, and against closed forms."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.metrics import (
    mean_tangent_sensitivity,
    relu_mlp_tangent_sensitivity,
    tangent_method,
    tangent_sample_sensitivity,
    tangent_sensitivity,
)

SIZES = (10, 4, 6, 5, 3)  # The first layer has less than half as many units as the input entries.
EXACT = ("structured", "streamed", "dense")


def normal(seed, *shape, dtype=np.float32):
    """Drawn by NumPy: compiling jax.random.normal for each shape takes longer than these tests."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def perceptron(seed, *members, sizes=SIZES, dtype=np.float32):
    """Weights and biases of a perceptron, or of several stacked ones."""
    pairs = list(itertools.pairwise(sizes))
    weights = [normal([seed, i, 0], *members, a, b, dtype=dtype) / a**0.5 for i, (a, b) in enumerate(pairs)]
    return weights, [normal([seed, i, 1], *members, b, dtype=dtype) for i, (_, b) in enumerate(pairs)]


def relu_mlp(params, x, activation=jax.nn.relu):
    weights, biases = params
    h = x.ravel()
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        h = activation(h @ weight + bias)
    return h @ weights[-1] + biases[-1]


tanh_mlp = functools.partial(relu_mlp, activation=jnp.tanh)


def slow(f, params, xs, outputs, step=1e-6):
    """The definition in float64: gradients with respect to each parameter, central differences over x."""

    @jax.jit
    def gradients(x):
        return jax.tree.leaves(jax.jacrev(f)(params, x))

    norms = []
    for x in np.asarray(xs):
        total = 0.0
        for index in np.ndindex(x.shape):
            shifted = [x.copy(), x.copy()]
            shifted[0][index] += step
            shifted[1][index] -= step
            for up, down in zip(*map(gradients, shifted), strict=True):
                column = (np.asarray(up) - np.asarray(down)) / (2 * step)
                total += ((column if outputs == "all" else column.sum(axis=0)) ** 2).sum()
        norms.append(total)
    return np.array(norms)


@pytest.mark.parametrize("outputs", ["sum", "all"])
@pytest.mark.parametrize("f", [relu_mlp, tanh_mlp])
@pytest.mark.parametrize("method", EXACT)
def test_every_exact_method_is_the_definition(method, f, outputs, x64):
    params, xs = perceptron(0, dtype=np.float64), normal(1, 3, 10, dtype=np.float64)
    measured = jax.jit(lambda p, x: tangent_sensitivity(f, p, x, method=method, outputs=outputs))(params, xs)
    np.testing.assert_allclose(measured, slow(f, params, xs, outputs), rtol=1e-6)


@pytest.mark.parametrize("outputs", ["sum", "all"])
def test_closed_form_is_the_definition(outputs, x64):
    params, xs = perceptron(0, dtype=np.float64), normal(1, 3, 10, dtype=np.float64)
    measured = relu_mlp_tangent_sensitivity(*params, xs, outputs=outputs)
    np.testing.assert_allclose(measured, slow(relu_mlp, params, xs, outputs), rtol=1e-6)


def test_two_linear_layers_have_a_formula():
    """f = x W V: |d2f/dW dx|^2 = D |V 1|^2 and |d2f/dV dx|^2 = K |W|^2, for the sum of K outputs."""
    w, v, xs = normal(0, 5, 4), normal(1, 4, 3), normal(2, 2, 5)
    expected = 5 * np.sum(np.asarray(v).sum(1) ** 2) + 3 * np.sum(np.asarray(w) ** 2)
    for method in EXACT:
        measured = tangent_sensitivity(lambda p, x: x @ p[0] @ p[1], (w, v), xs, method=method)
        np.testing.assert_allclose(measured, [expected] * 2, rtol=1e-5)


def test_square_of_one_weight():
    """f = sin(w x): d2f/dw dx = cos(w x) - w x sin(w x)."""
    w, xs = jnp.float32(0.7), jnp.array([[-1.0], [0.5], [2.0]])
    z = 0.7 * np.asarray(xs)[:, 0]
    for method in ("auto", *EXACT):
        measured = tangent_sensitivity(lambda p, x: jnp.sin(p * x), w, xs, method=method)
        np.testing.assert_allclose(measured, (np.cos(z) - z * np.sin(z)) ** 2, rtol=1e-5)


@pytest.mark.parametrize(
    "sizes", [(6, 2), pytest.param((6, 3, 2), marks=pytest.mark.slow), (3, 8, 5, 2), (30, 4, 4, 4, 2)]
)
def test_closed_form_equals_streamed_for_any_widths(sizes):
    params, xs = perceptron(3, sizes=sizes), normal(4, 5, sizes[0])
    for outputs in ("sum", "all"):
        closed = relu_mlp_tangent_sensitivity(*params, xs, outputs=outputs, batch_size=2)
        streamed = tangent_sensitivity(relu_mlp, params, xs, method="streamed", outputs=outputs)
        np.testing.assert_allclose(closed, streamed, rtol=1e-5)
    without = [jnp.zeros_like(b) for b in params[1]]
    np.testing.assert_allclose(
        relu_mlp_tangent_sensitivity(params[0], None, xs),
        relu_mlp_tangent_sensitivity(params[0], without, xs),
    )


def test_images_are_flattened_and_batches_change_nothing():
    params, xs = perceptron(0, sizes=(12, 3, 2)), normal(1, 7, 3, 2, 2)
    expected = relu_mlp_tangent_sensitivity(*params, xs.reshape(7, 12))
    for size in (1, 3, None):
        measured = relu_mlp_tangent_sensitivity(*params, xs, batch_size=size)
        np.testing.assert_allclose(measured, expected, rtol=1e-6)
    for method in ("auto", "streamed"):
        for chunk in (1, 5, 100):
            measured = tangent_sensitivity(relu_mlp, params, xs, method=method, chunk_size=chunk)
            np.testing.assert_allclose(measured, expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["auto", "streamed", "closed form"])
def test_members_by_vmap_are_members_in_turn(method):
    params, xs = perceptron(5, 3), normal(6, 4, 10)

    def measure(params):
        if method == "closed form":
            return relu_mlp_tangent_sensitivity(*params, xs)
        return tangent_sensitivity(relu_mlp, params, xs, method=method)

    together = jax.vmap(measure)(params)
    for member in range(3):
        alone = measure(jax.tree.map(lambda leaf, member=member: leaf[member], params))
        np.testing.assert_allclose(together[member], alone, rtol=1e-5)


def test_probes_are_unbiased_within_their_error_bars():
    params, xs = perceptron(0), normal(1, 2, 10)
    exact = tangent_sensitivity(relu_mlp, params, xs)
    estimate = jax.jit(
        jax.vmap(
            lambda key: tangent_sensitivity(relu_mlp, params, xs, method="hutchinson", num_probes=30, key=key)
        )
    )(jax.random.split(jax.random.key(0), 300))
    mean, spread = estimate.value.mean(0), estimate.value.std(0, ddof=1)
    assert np.all(np.abs(mean - exact) < 4 * spread / 300**0.5)
    np.testing.assert_allclose((estimate.stderr**2).mean(0) ** 0.5, spread, rtol=0.2)


def test_whole_matrix_has_the_shape_and_the_norm():
    (weights, biases), x = perceptron(0), normal(1, 10)
    params = {"w": weights, "b": biases, "steps": jnp.int32(3), "name": None}

    def f(p, x):
        return relu_mlp((p["w"], p["b"]), x)

    for outputs, leading in (("sum", ()), ("all", (3,))):
        whole = jax.jit(lambda p, x, o=outputs: tangent_sample_sensitivity(f, p, x, outputs=o))(params, x)
        assert whole["steps"] is None
        assert [leaf.shape for leaf in whole["w"]] == [(*leading, *w.shape, 10) for w in weights]
        # Rows of biases are 0 in a piecewise linear network.
        assert all(not leaf.any() for leaf in whole["b"])
        square = sum(jnp.sum(leaf**2) for leaf in whole["w"])
        np.testing.assert_allclose(
            square, tangent_sensitivity(f, params, x[None], outputs=outputs)[0], rtol=1e-5
        )


def test_norm_of_the_mean_is_not_the_mean_of_norms(x64):
    params, xs = perceptron(0, dtype=np.float64), normal(1, 6, 10, dtype=np.float64)
    for outputs in ("sum", "all"):
        whole = jax.jit(functools.partial(tangent_sample_sensitivity, relu_mlp, outputs=outputs))
        matrices = [[np.asarray(leaf) for leaf in jax.tree.leaves(whole(params, x))] for x in xs]
        expected = sum(np.sum((sum(leaves) / 6) ** 2) for leaves in zip(*matrices, strict=True))
        measured = mean_tangent_sensitivity(relu_mlp, params, xs, outputs=outputs)
        np.testing.assert_allclose(measured, expected, rtol=1e-10)
        assert measured < 0.9 * tangent_sensitivity(relu_mlp, params, xs, outputs=outputs).mean()
    np.testing.assert_allclose(
        mean_tangent_sensitivity(relu_mlp, params, xs[:1]),
        tangent_sensitivity(relu_mlp, params, xs[:1])[0],
    )


def test_one_region_has_one_value_and_scales_leave_it_or_not():
    """Lemma 1; and a unit's inputs times c, its outputs over c, moves the norm between the layers."""
    params, x = perceptron(0, sizes=(6, 4, 3)), normal(1, 1, 6)
    near = tangent_sensitivity(relu_mlp, params, x + 1e-4 * normal(2, 5, 6))
    np.testing.assert_allclose(near, [near[0]] * 5, rtol=1e-6)
    (w, v), (b, c) = params
    scaled = ([w * 2, v / 2], [b * 2, c])
    np.testing.assert_allclose(relu_mlp(scaled, x[0]), relu_mlp(params, x[0]), rtol=1e-5)
    on = np.asarray(x[0] @ w + b) > 0
    first = 6 * np.sum(np.asarray(v)[on].sum(1) ** 2)
    second = 3 * np.sum(np.asarray(w)[:, on] ** 2)
    np.testing.assert_allclose(tangent_sensitivity(relu_mlp, params, x), [first + second], rtol=1e-5)
    np.testing.assert_allclose(tangent_sensitivity(relu_mlp, scaled, x), [first / 4 + 4 * second], rtol=1e-5)


@pytest.mark.parametrize("sizes", [(10, 4, 3), pytest.param((4, 6, 3), marks=pytest.mark.slow)])
def test_norms_can_be_trained_on(sizes, x64):
    """The first derivative of every way is that of the streamed one; a second is refused, not wrong."""
    params, xs = perceptron(0, sizes=sizes, dtype=np.float64), normal(1, 3, sizes[0], dtype=np.float64)
    ways = {
        "closed form": lambda p: relu_mlp_tangent_sensitivity(*p, xs).sum(),
        "structured": lambda p: tangent_sensitivity(relu_mlp, p, xs, method="structured").sum(),
    }
    expected = jax.grad(lambda p: tangent_sensitivity(relu_mlp, p, xs, method="streamed").sum())(params)
    for way in ways.values():
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-9), jax.grad(way)(params), expected
        )
    with pytest.raises(InputError, match="one derivative at most"):
        jax.hessian(ways["closed form"])(params)


def test_refusals(plain):
    params, xs = perceptron(0), normal(1, 2, 10)
    measure = functools.partial(tangent_sensitivity, relu_mlp)
    bad = [jax.tree.map(lambda leaf, v=v: leaf.at[(0,) * leaf.ndim].set(v), params) for v in (np.nan, np.inf)]
    for params_ in bad:
        with pytest.raises(InputError, match="NaN or infinity in params"):
            measure(params_, xs)
        with pytest.raises(InputError, match="NaN or infinity"):
            relu_mlp_tangent_sensitivity(*params_, xs)
        with pytest.raises(InputError, match="NaN or infinity in params"):
            mean_tangent_sensitivity(relu_mlp, params_, xs)
    for broken, match in (
        (xs.at[0, 0].set(np.nan), "NaN or infinity in xs"),
        (xs[:0], "0 examples"),
        (jnp.ones((2, 10), int), "dtype int32"),
        (xs.astype(jnp.bfloat16), "dtype bfloat16"),
    ):
        with pytest.raises(InputError, match=match):
            measure(params, broken)
    for options, match in (
        ({"method": "exact"}, "one of auto, structured, streamed, dense, hutchinson"),
        ({"outputs": "each"}, "one of sum, all"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"num_probes": 10}, "neither: it is exact"),
        ({"method": "hutchinson", "num_probes": 10}, "one typed key"),
        ({"method": "hutchinson", "num_probes": 1, "key": jax.random.key(0)}, "whole number >= 2"),
    ):
        with pytest.raises(InputError, match=match):
            measure(params, xs, **options)
    with pytest.raises(InputError, match="without a floating array"):
        tangent_sensitivity(lambda p, x: x, jnp.arange(3), xs)
    with pytest.raises(InputError, match="outputs='each'"):
        relu_mlp_tangent_sensitivity(*params, xs, outputs="each")
    with pytest.raises(InputError, match=r"entries|rows"):
        relu_mlp_tangent_sensitivity(*params, xs[:, :5])


def test_auto_says_what_it_takes():
    params, x = perceptron(0), normal(1, 10)
    assert tangent_method(relu_mlp, params, x) == ("structured", "the model is piecewise linear")
    assert tangent_method(tanh_mlp, params, x).method == "structured"

    def looped(w, x):
        return jax.lax.scan(lambda h, m: (jax.nn.relu(h @ m), None), x, w)[0]

    chosen = tangent_method(looped, normal(0, 3, 4, 4), normal(1, 4))
    assert chosen.method == "streamed"
    assert "'scan'" in chosen.reason
    with pytest.raises(InputError, match=r"'scan'.*take method='auto' or 'streamed'"):
        tangent_sensitivity(looped, normal(0, 3, 4, 4), normal(1, 2, 4), method="structured")
    np.testing.assert_allclose(
        tangent_sensitivity(looped, normal(0, 3, 4, 4), normal(1, 2, 4)),
        tangent_sensitivity(looped, normal(0, 3, 4, 4), normal(1, 2, 4), method="dense"),
        rtol=1e-5,
    )
