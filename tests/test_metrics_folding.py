"""Affine maps with batch normalisation folded in are the same maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsens.checks import InputError
from jaxsens.metrics import Affine, BatchNorm, fold_batch_norm, log_l2_norm

# Kernel shapes, and how many batch normalisations follow each.
CHAINS = [
    [((6, 5), 1), ((5, 4), 0), ((4, 3), 2)],
    [((3, 2, 2, 4), 1), ((1, 1, 4, 3), 2), ((48, 5), 1), ((5, 2), 0)],
    [((4, 4), 0)],
]


def draw(chain, seed=0, dtype=np.float64):
    """Layers with random arrays: scales of both signs and 0, variances from small to large, some Nones."""
    rng = np.random.default_rng(seed)

    def some(n):
        return None if rng.random() < 0.3 else (rng.normal(size=n) * (rng.random(n) < 0.8)).astype(dtype)

    layers = []
    for shape, norms in chain:
        layers.append(Affine(rng.normal(size=shape).astype(dtype), some(shape[-1])))
        for _ in range(norms):
            n = shape[-1]
            mean, variance = rng.normal(size=n), np.exp(3 * rng.normal(size=n))
            epsilon = rng.choice([0.0, 1e-5, 1e-3, 1.0])
            layers.append(
                BatchNorm(mean.astype(dtype), variance.astype(dtype), some(n), some(n), float(epsilon))
            )
    return layers


def fold(layers):
    return fold_batch_norm(jax.tree.map(jnp.asarray, layers))


def outputs(layers, xs):
    """The definition in NumPy, affine maps on every patch and ReLU between them, one output at a time."""
    hidden = np.asarray(xs, np.float64)
    for place, layer in enumerate(layers):
        if isinstance(layer, BatchNorm):
            for j in range(hidden.shape[-1]):
                standard = (hidden[..., j] - layer.mean[j]) / np.sqrt(layer.variance[j] + layer.epsilon)
                scale = 1 if layer.scale is None else layer.scale[j]
                hidden[..., j] = scale * standard + (0 if layer.shift is None else layer.shift[j])
        else:
            if place > 0:
                hidden = np.maximum(hidden, 0)
            hidden = affine(np.asarray(layer.kernel, np.float64), hidden)
            hidden = hidden + (0 if layer.bias is None else np.asarray(layer.bias, np.float64))
    return hidden


def affine(kernel, xs):
    if kernel.ndim == 2:
        return xs.reshape(len(xs), -1) @ kernel
    rows, columns = kernel.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(xs, (rows, columns), axis=(1, 2))
    return np.einsum("nhwirc,rcio->nhwo", windows, kernel)


def inputs(chain, seed):
    # 6 x 5 pixels, of which the 3 x 2 kernel leaves 4 x 4.
    shape = (6, 5, 2) if len(chain[0][0]) == 4 else chain[0][0][:1]
    return np.random.default_rng(seed).normal(size=(3, *shape))


@settings(max_examples=20, deadline=None)
@given(chain=st.sampled_from(CHAINS), seed=st.integers(0, 2**31 - 1))
def test_the_function_is_the_same(chain, seed):
    layers, xs = draw(chain, seed), inputs(chain, seed)
    wanted = outputs(layers, xs)
    with jax.enable_x64(True):
        folded = fold(layers)
    assert [layer.kernel.shape for layer in folded] == [shape for shape, _ in chain]
    largest = np.abs(wanted).max()
    np.testing.assert_allclose(outputs(folded, xs), wanted, rtol=0, atol=1e-12 * largest)


@settings(max_examples=10, deadline=None)
@given(chain=st.sampled_from(CHAINS), seed=st.integers(0, 2**31 - 1))
def test_single_precision_is_double_precision_to_rounding(chain, seed):
    layers = draw(chain, seed)
    with jax.enable_x64(True):
        double = fold(layers)
    # Weights are products and lose nothing; a bias may cancel against the mean, times the kernel's factor.
    for found, wanted in zip(fold(draw(chain, seed, np.float32)), double, strict=True):
        assert found.kernel.dtype == np.float32
        np.testing.assert_allclose(found.kernel, wanted.kernel, rtol=2e-6)
        if wanted.bias is not None:
            assert found.bias.dtype == np.float32
            size = np.abs(wanted.bias).max() + np.abs(wanted.kernel).max()
            np.testing.assert_allclose(found.bias, wanted.bias, rtol=0, atol=1e-4 * size)


def test_by_hand():
    layer = Affine(jnp.array([[2.0, 3.0]]), jnp.array([1.0, 5.0]))
    norm = BatchNorm(
        jnp.array([4.0, 5.0]), jnp.array([3.0, 0.0]), jnp.array([10.0, -1.0]), jnp.array([0.5, 7.0]), 1.0
    )
    (folded,) = fold_batch_norm([layer, norm])
    np.testing.assert_allclose(folded.kernel, [[10.0, -3.0]], rtol=1e-6)
    np.testing.assert_allclose(folded.bias, [-14.5, 7.0], rtol=1e-6)
    (twice,) = fold_batch_norm([layer, norm, BatchNorm(jnp.array([0.5, 0.0]), jnp.ones(2), epsilon=0.0)])
    np.testing.assert_allclose(twice.bias, [-15.0, 7.0], rtol=1e-6)


def test_only_where_something_is_folded_is_there_a_bias():
    kernel, norm = jnp.ones((2, 2)), BatchNorm(jnp.ones(2), jnp.ones(2))
    folded = fold_batch_norm([Affine(kernel), norm, Affine(kernel), Affine(kernel, jnp.ones(2))])
    assert [layer.bias is None for layer in folded] == [False, True, False]
    again = fold_batch_norm(folded)
    assert jax.tree.structure(again) == jax.tree.structure(folded)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(folded), strict=True):
        np.testing.assert_array_equal(one, other)


def test_norms_take_the_kernels():
    """Scaling a layer and its statistics leaves the folded norm; the norm of the raw kernels moves."""
    layers = jax.tree.map(jnp.asarray, draw(CHAINS[0], dtype=np.float32))
    layers[1] = layers[1]._replace(epsilon=0.0)
    bias = layers[0].bias
    moved = list(layers)
    moved[0] = Affine(3 * layers[0].kernel, None if bias is None else 3 * bias)
    moved[1] = layers[1]._replace(mean=3 * layers[1].mean, variance=9 * layers[1].variance)

    def norm(layers):
        return float(log_l2_norm([layer.kernel for layer in layers if isinstance(layer, Affine)]))

    assert norm(fold_batch_norm(moved)) == pytest.approx(norm(fold_batch_norm(layers)), abs=1e-5)
    assert norm(moved) == pytest.approx(norm(layers) + 2 * np.log(3), abs=1e-5)


def test_members_and_jit_equal_a_loop():
    # Members of one list have the same Nones and epsilons.
    first = jax.tree.map(jnp.asarray, draw(CHAINS[1], dtype=np.float32))
    members = [jax.tree.map(lambda a, m=m: a * (1 + m), first) for m in range(3)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *members)
    together = jax.jit(jax.vmap(fold_batch_norm))(stacked)
    for m, member in enumerate(members):
        mine = jax.tree.map(lambda a, m=m: a[m], together)
        assert all(isinstance(layer, Affine) for layer in mine)
        for found, wanted in zip(
            jax.tree.leaves(mine), jax.tree.leaves(fold_batch_norm(member)), strict=True
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_epsilon_is_no_leaf_and_stays():
    norm = BatchNorm(jnp.zeros(2), jnp.ones(2), epsilon=0.25)
    assert len(jax.tree.leaves(norm)) == 2
    assert jax.tree.map(lambda a: 2 * a, norm).epsilon == 0.25


def test_it_has_derivatives(x64):
    """d bias / d mean = -scale / sqrt(variance + epsilon), whatever the affine map."""
    affine_map, norm = jax.tree.map(jnp.asarray, draw(CHAINS[0][:1], seed=3))
    norm = norm._replace(scale=jnp.arange(5.0), epsilon=0.5)

    def bias(mean):
        return fold_batch_norm([affine_map, norm._replace(mean=mean)])[0].bias

    found = jax.jacobian(bias)(norm.mean)
    np.testing.assert_allclose(found, np.diag(-norm.scale / np.sqrt(norm.variance + 0.5)), rtol=1e-12)


def test_bad_input_is_refused(plain):
    kernel, ones = jnp.ones((2, 3)), jnp.ones(3)
    layer, norm = Affine(kernel, ones), BatchNorm(ones, ones)
    cases = [
        ([], "got no layers"),
        ([norm, layer], r"got a BatchNorm at place 0, with no Affine before it; expected the affine map"),
        ([layer, kernel], r"ArrayImpl at place 1; .* wrap each layer's arrays: Affine\(kernel, bias\)"),
        (layer, "ArrayImpl at place 0"),
        ([(kernel, ones)], "tuple at place 0"),
        ([layer, None], "NoneType at place 1"),
        ([layer, BatchNorm(jnp.ones(2), ones)], r"layers\[1\].mean of shape \(2,\); expected .* \(3,\)"),
        ([layer, BatchNorm(ones, jnp.ones((1, 3)))], r"layers\[1\].variance of shape \(1, 3\)"),
        ([layer, BatchNorm(ones, ones, jnp.ones(()))], r"layers\[1\].scale of shape \(\)"),
        ([layer, BatchNorm(ones, ones, ones, jnp.ones(4))], r"layers\[1\].shift of shape \(4,\)"),
        ([layer, BatchNorm(ones, None)], r"layers\[1\].variance of shape \(\); expected an array"),
        ([layer, layer, BatchNorm(jnp.ones(2), ones)], r"layers\[2\].mean"),
        ([Affine(kernel, jnp.ones(2))], r"layers\[0\].bias of shape \(2,\)"),
        ([Affine(ones)], r"layers\[0\].kernel of shape \(3,\)"),
        ([Affine(jnp.ones((2, 2, 3)))], r"layers\[0\].kernel of shape \(2, 2, 3\); .* vmap"),
        ([Affine(jnp.ones((0, 3)))], r"layers\[0\].kernel of shape \(0, 3\); expected a non-empty"),
        ([Affine(kernel.astype(int))], r"layers\[0\].kernel of dtype int32"),
        ([layer, BatchNorm(ones.astype(int), ones)], r"layers\[1\].mean of dtype int32"),
        ([Affine(kernel * jnp.nan)], r"NaN or infinity in layers\[0\].kernel"),
        ([Affine(kernel, ones * jnp.inf)], r"NaN or infinity in layers\[0\].bias"),
        ([layer, BatchNorm(ones, ones * jnp.nan)], r"NaN or infinity in layers\[1\].variance"),
        ([layer, BatchNorm(ones, ones.at[1].set(-0.5))], r"layers\[1\].variance with -0.5; expected"),
        ([layer, BatchNorm(ones, ones.at[1].set(0), epsilon=0.0)], "variance with 0 and epsilon=0"),
        ([layer, BatchNorm(ones, ones, epsilon=-1e-5)], r"layers\[1\].epsilon=-1e-05"),
        ([layer, BatchNorm(ones, ones, epsilon=np.nan)], "epsilon=nan"),
        ([layer, BatchNorm(ones, ones, epsilon=np.inf)], "epsilon=inf"),
        ([layer, BatchNorm(ones, ones, epsilon=jnp.float32(1e-5))], r"pass float\(epsilon\)"),
    ]
    for layers, message in cases:
        with pytest.raises(InputError, match=message):
            fold_batch_norm(layers)


def test_shapes_are_refused_inside_jit():
    layers = [Affine(jnp.ones((2, 3))), BatchNorm(jnp.ones(2), jnp.ones(2))]
    with pytest.raises(InputError, match=r"layers\[1\].mean of shape \(2,\)"):
        jax.jit(fold_batch_norm)(layers)
