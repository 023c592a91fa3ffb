"""A network without its batch normalisation is the same network."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsens.checks import InputError
from jaxsens.metrics import Affine, BatchNorm, fold_batch_norm, log_l2_norm, log_path_norm
from jaxsens.models import (
    Flatten,
    Folded,
    build,
    cnn,
    fully_connected,
    layer_weights,
    resnet,
    vgg,
    vgg_stacks,
    without_batch_norm,
)
from jaxsens.models.layers import BATCH_NORM_EPSILON, Conv, Dense, Dropout, Residual

USUAL = resnet(18, 1 / 32, block="usual")
# Each with the shape of its examples. ResNets take long to compile: of the second kind, three blocks.
NETWORKS = {
    "fc": (fully_connected(2, 5, batch_norm=True, init="FU"), (3, 2, 1)),
    "fc-dropout": (fully_connected(3, 4, batch_norm=True, dropout=0.4, dropout_from=2, init="FU"), (6,)),
    "cnn": (cnn(2, 2, batch_norm=True, max_pool=True, dropout=0.3, init="HN"), (10, 10, 1)),
    "vgg": (vgg(11, 1 / 32, batch_norm=True), (32, 32, 1)),
    "vgg-stacks": (vgg_stacks(1 / 32), (16, 16, 1)),
    "resnet": (resnet(18, 1 / 32), (8, 8, 1)),
    "resnet-usual": (dataclasses.replace(USUAL, layers=USUAL.layers[:4] + USUAL.layers[-2:]), (8, 8, 1)),
    # What no network of the zoo has: an identity as shortcut, dropout in a branch, a linear layer at the end.
    "other": (
        dataclasses.replace(
            USUAL,
            layers=(
                Dropout(0.1),
                Conv(2, use_bias=False),
                Residual((Dropout(0.1), Conv(2, 3, 1, 1, batch_norm=True, use_bias=False), Conv(2, 1))),
                Flatten(),
                Dense(3, batch_norm=True, activate=False),
            ),
        ),
        (4, 4, 1),
    ),
}
# The zoo's own networks without batch normalisation and dropout.
PLAIN = {
    "fc": fully_connected(2, 5, init="FU"),
    "fc-dropout": fully_connected(3, 4, init="FU"),
    "cnn": cnn(2, 2, max_pool=True, init="HN"),
    "vgg": vgg(11, 1 / 32, batch_norm=False),
    "vgg-stacks": vgg_stacks(1 / 32, batch_norm=False, dropout=0),
}


@functools.cache
def network(name):
    config, shape = NETWORKS[name]
    return build(config, input_shape=shape, num_outputs=3)


@functools.cache
def folded_network(name):
    config, shape = NETWORKS[name]
    params, state = jax.eval_shape(network(name).init, jax.random.key(0))
    folded = jax.eval_shape(functools.partial(without_batch_norm, config), params, state)
    return build(folded.config, input_shape=shape, num_outputs=3)


def randomised(name, seed, dtype=np.float32):
    """Parameters and statistics of a network that has been somewhere, and examples.

    Scales are of both signs, a fifth of them 0; kernels keep the size of what goes through.
    """
    rng = np.random.default_rng(seed)

    def drawn(path, leaf):
        path = jax.tree_util.keystr(path)
        values = rng.normal(size=leaf.shape)
        if "var" in path:
            values = np.exp(values)
        elif "scale" in path:
            values *= rng.random(leaf.shape) < 0.8
        elif "kernel" in path:
            values /= np.sqrt(np.prod(leaf.shape[:-1]))
        return jnp.asarray(values, dtype)

    trees = jax.eval_shape(network(name).init, jax.random.key(0))
    params, state = jax.tree_util.tree_map_with_path(drawn, trees)
    return params, state, jnp.asarray(rng.normal(size=(4, *NETWORKS[name][1])), dtype)


@functools.cache
def both(name):
    """The outputs before and after, and in float32 what rounding errors are to be compared with."""
    config, before, after = NETWORKS[name][0], network(name), folded_network(name)

    @jax.jit
    def measure(params, state, xs):
        folded = without_batch_norm(config, params, state)
        with jax.default_matmul_precision("highest"):
            outputs = before.predict(params, state, xs), after.predict(folded.params, folded.state, xs)
            if xs.dtype == np.float64:
                return outputs
            # Terms cancel: rounding is of the size of the sum of their absolute values.
            absolute = jax.tree.map(jnp.abs, folded.params)
            return *outputs, after.predict(absolute, folded.state, jnp.abs(xs))

    return measure


@functools.cache
def path_norms(name):
    config, shape = NETWORKS[name]
    before, after = network(name), folded_network(name)

    @jax.jit
    def measure(params, state):
        folded = without_batch_norm(config, params, state)
        return (
            log_path_norm(before.function(state), params, shape),
            log_path_norm(after.function(folded.state), folded.params, shape),
        )

    return measure


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("vgg-stacks", "resnet-usual", "fc") else ())
        for name in NETWORKS
    ],
)
def test_the_function_is_the_same(name):
    @settings(max_examples=4, deadline=None)
    @given(seed=st.integers(0, 2**31 - 1))
    def check(seed):
        with jax.enable_x64(True):
            wanted, found = both(name)(*randomised(name, seed, np.float64))
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())

    check()


# Neither single precision nor path norms need all structures, which take long to compile.
@pytest.mark.parametrize("name", ["fc-dropout", "cnn", "resnet-usual"])
def test_single_precision_differs_by_rounding(name):
    @settings(max_examples=4, deadline=None)
    @given(seed=st.integers(0, 2**31 - 1))
    def check(seed):
        wanted, found, sizes = both(name)(*randomised(name, seed))
        assert found.dtype == np.float32
        assert np.all(np.abs(found - wanted) <= 1e-5 * sizes + 1e-6)

    check()


@pytest.mark.parametrize(
    "name", ["fc-dropout", "cnn", pytest.param("vgg-stacks", marks=pytest.mark.slow), "resnet-usual"]
)
def test_the_path_norm_is_the_same(name):
    @settings(max_examples=4, deadline=None)
    @given(seed=st.integers(0, 2**31 - 1))
    def check(seed):
        with jax.enable_x64(True):
            wanted, found = path_norms(name)(*randomised(name, seed, np.float64)[:2])
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)

    check()


def every_layer(layers):
    for layer in layers:
        yield layer
        if isinstance(layer, Residual):
            yield from every_layer(layer.branch + layer.shortcut)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_structure_is_that_of_a_network_without_batch_norm(name):
    config = NETWORKS[name][0]
    params, state, _ = randomised(name, 0)
    folded = without_batch_norm(config, params, state)
    kinds = [layer for layer in every_layer(folded.config.layers) if isinstance(layer, Conv | Dense)]
    assert not any(layer.batch_norm for layer in kinds)
    assert not any(isinstance(layer, Dropout) for layer in every_layer(folded.config.layers))
    wanted = jax.eval_shape(folded_network(name).init, jax.random.key(0))
    assert jax.tree.structure((folded.params, folded.state)) == jax.tree.structure(wanted)
    for found, leaf in zip(jax.tree.leaves(folded), jax.tree.leaves(wanted), strict=True):
        assert (found.shape, found.dtype) == (leaf.shape, leaf.dtype)
    assert (folded.config.name, folded.config.family) == (config.name, config.family)
    assert folded.config == PLAIN.get(name, folded.config)
    assert folded.config.regularization == ("mp" if name in ("cnn", "vgg", "vgg-stacks") else "none")


def test_only_convolutions_before_batch_norm_gain_a_bias():
    folded = without_batch_norm(NETWORKS["other"][0], *randomised("other", 0)[:2])
    first, residual, flatten, dense = folded.config.layers
    assert (first, flatten) == (Conv(2, use_bias=False), Flatten())
    assert residual == Residual((Conv(2, 3, 1, 1), Conv(2, 1)))
    assert dense == Dense(3, activate=False)


def test_a_network_with_nothing_to_fold_is_left_as_it_is(key):
    config = cnn(1, 2, init="FU")
    params, state = build(config, input_shape=(4, 4, 1), num_outputs=3).init(key)
    folded = without_batch_norm(config, params, state)
    assert folded.config == config
    assert jax.tree.structure((folded.params, folded.state)) == jax.tree.structure((params, state))
    for found, leaf in zip(jax.tree.leaves(folded.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(found, leaf)


def test_a_linear_network_has_its_last_layer_alone(key):
    config = dataclasses.replace(fully_connected(1, 3), layers=(Flatten(), Dropout(0.5)))
    network = build(config, input_shape=(4,), num_outputs=3)
    params, state = network.init(key)
    folded = without_batch_norm(config, params, state)
    assert folded.config.layers == (Flatten(),)
    assert [w.shape for w in layer_weights(folded.config, folded.params)] == [(4, 3)]
    rebuilt = build(folded.config, input_shape=(4,), num_outputs=3)
    xs = jnp.ones((2, 4))
    np.testing.assert_array_equal(
        rebuilt.predict(folded.params, folded.state, xs), network.predict(params, state, xs)
    )


def test_derivatives_go_through_the_fold(x64):
    """The chain rule, with respect to scales, shifts and statistics too; and gradients are finite."""
    config, before, after = NETWORKS["cnn"][0], network("cnn"), folded_network("cnn")
    params, state, xs = randomised("cnn", 5, np.float64)

    def loss(ys):
        return jnp.sum(ys**3)

    def folded_loss(params, state):
        folded = without_batch_norm(config, params, state)
        return loss(after.predict(folded.params, folded.state, xs))

    wanted = jax.jit(jax.grad(lambda p, s: loss(before.predict(p, s, xs)), (0, 1)))(params, state)
    found = jax.jit(jax.grad(folded_loss, (0, 1)))(params, state)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.all(np.isfinite(one))
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * np.abs(other).max() + 1e-12)
    folded = without_batch_norm(config, params, state)
    gradient = jax.jit(jax.grad(lambda p: loss(after.predict(p, folded.state, xs))))(folded.params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", ["fc-dropout", "resnet-usual"])
def test_members_and_jit_equal_a_loop(name):
    config = NETWORKS[name][0]
    members = [randomised(name, seed)[:2] for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    together = jax.jit(jax.vmap(functools.partial(without_batch_norm, config)))(*stacked)
    assert isinstance(together, Folded)
    for m, member in enumerate(members):
        alone = without_batch_norm(config, *member)
        assert alone.config == together.config
        mine = jax.tree.map(lambda leaf, m=m: leaf[m], together)
        for found, wanted in zip(jax.tree.leaves(mine), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PLAIN)
def test_norms_take_the_layer_weights(name, x64):
    """And the users' `fold_batch_norm` gives the same ones: its formula is the models'."""
    config = NETWORKS[name][0]
    params, state, _ = randomised(name, 7, np.float64)

    @jax.jit
    def measure(params, state):
        folded = without_batch_norm(config, params, state)
        weights = layer_weights(folded.config, folded.params)
        return folded, weights, log_l2_norm(weights), fold_batch_norm(as_layers(config, params, state))

    folded, weights, norm, users = measure(params, state)
    biases = [leaf for path, leaf in jax.tree.leaves_with_path(folded.params) if "bias" in str(path)]
    for kernel, bias, layer in zip(weights, biases, users, strict=True):
        np.testing.assert_allclose(kernel, layer.kernel, rtol=1e-12)
        np.testing.assert_allclose(bias, layer.bias, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(norm, sum(np.log(np.sum(np.square(w))) for w in weights), rtol=1e-12)


def as_layers(config, params, state):
    """A chain in the users' form."""
    layers = []
    for place, layer in enumerate(config.layers):
        if isinstance(layer, Conv | Dense):
            mine, statistics = params["body"]["layers"][place], state["body"]["layers"][place]["norm"]
            mean, variance = statistics["mean"][...], statistics["var"][...]
            scale, shift = mine["norm"]["scale"][...], mine["norm"]["bias"][...]
            layers += [
                Affine(mine["linear"]["kernel"][...], mine["linear"]["bias"][...]),
                BatchNorm(mean, variance, scale, shift, BATCH_NORM_EPSILON),
            ]
    return [*layers, Affine(params["head"]["kernel"][...], params["head"]["bias"][...])]


def test_networks_that_are_no_chain_of_weights_are_refused():
    params, state, _ = randomised("resnet-usual", 0)
    folded = without_batch_norm(NETWORKS["resnet-usual"][0], params, state)
    with pytest.raises(InputError, match=r"got resnet18-s0.03125-xu-none with shortcuts; .*log_path_norm"):
        layer_weights(folded.config, folded.params)
    config = NETWORKS["fc"][0]
    with pytest.raises(InputError, match=r"fc-2x5-fu-bn with batch normalisation; .*without_batch_norm"):
        layer_weights(config, randomised("fc", 0)[0])


def test_arrays_of_another_network_are_refused():
    config = NETWORKS["fc"][0]
    params, state, _ = randomised("fc", 0)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (params, state))
    cases = [
        (config, *stacked, r"do not fit Dense\(units=5.*take vmap over members"),
        (PLAIN["fc"], params, state, r"do not fit Dense\(units=5"),
        (config, params, {}, r"do not fit Dense\(units=5"),
        (config, params, stacked[1], r"do not fit Dense\(units=5"),
        (fully_connected(2, 4, batch_norm=True), params, state, r"do not fit Dense\(units=4"),
        (fully_connected(3, 5, batch_norm=True), params, state, r"do not fit Dense\(units=5"),
        (NETWORKS["cnn"][0], params, state, r"do not fit Conv\(channels=2"),
        (config, {"body": params["body"]}, state, r"do not fit the last affine layer"),
    ]
    for config, params, state, message in cases:
        with pytest.raises(InputError, match=message):
            without_batch_norm(config, params, state)
    with pytest.raises(InputError, match=r"do not fit Dense\(units=5"):
        layer_weights(PLAIN["fc"], randomised("fc", 0)[0])


@pytest.mark.parametrize(
    ("before", "after"), [("bn", "none"), ("bn+do2+mp", "mp"), ("do+mp", "mp"), ("none", "none")]
)
def test_the_name_loses_what_is_gone(before, after, key):
    config = dataclasses.replace(fully_connected(1, 3), regularization=before)
    params, state = build(config, input_shape=(2,), num_outputs=2).init(key)
    assert without_batch_norm(config, params, state).config.regularization == after
