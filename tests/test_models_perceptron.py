"""The matrices of a fully-connected network are the network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsens.checks import InputError
from jaxsens.models import build, cnn, fully_connected, perceptron, resnet
from jaxsens.models.layers import Dense
from jaxsens.types import PIECEWISE_LINEAR


def forward(weights, biases, xs, activation="relu"):
    """The definition, in float64."""
    slope, shift, low, high = PIECEWISE_LINEAR[activation]
    hidden = np.asarray(xs, np.float64).reshape(len(xs), -1)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        hidden = hidden @ np.asarray(weight, np.float64) + np.asarray(bias, np.float64)
        if layer < len(weights) - 1:
            hidden = np.clip(slope * hidden + shift, low, high)
    return hidden


def randomised(tree, key, *, positive=("var",)):
    """All leaves drawn anew: trained scales, shifts and running statistics are not 1 and 0."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    drawn = []
    for number, (path, leaf) in enumerate(leaves):
        values = jax.random.normal(jax.random.fold_in(key, number), leaf.shape)
        if any(name in jax.tree_util.keystr(path) for name in positive):
            values = jnp.exp(values)
        drawn.append(values)
    return jax.tree_util.tree_unflatten(structure, drawn)


@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    hidden_layers=st.integers(1, 4),
    width=st.integers(1, 9),
    batch_norm=st.booleans(),
    dropout=st.sampled_from([0.0, 0.4]),
)
def test_matrices_give_the_networks_outputs(seed, hidden_layers, width, batch_norm, dropout):
    config = fully_connected(hidden_layers, width, batch_norm=batch_norm, dropout=dropout, init="FU")
    network = build(config, input_shape=(3, 2, 1), num_outputs=4)
    key = jax.random.key(seed)
    params, state = jax.eval_shape(network.init, key)
    params, state = randomised(params, key), randomised(state, jax.random.fold_in(key, 99))
    xs = jax.random.normal(jax.random.fold_in(key, 100), (5, 3, 2, 1))
    with jax.default_matmul_precision("highest"):
        wanted = np.asarray(network.predict(params, state, xs))
        weights, biases = perceptron(config, params, state)
    assert [w.shape for w in weights] == [(6, width), *[(width, width)] * (hidden_layers - 1), (width, 4)]
    found = forward(weights, biases, xs)
    # Terms cancel: rounding is of the size of the largest of them.
    sizes = forward([abs(w) for w in weights], [abs(b) for b in biases], abs(xs))
    assert np.all(np.abs(found - wanted) <= 1e-5 * sizes + 1e-6)


@pytest.mark.parametrize("activation", [name for name in PIECEWISE_LINEAR if name != "relu"])
def test_other_activations_are_given_to_those_who_ask_for_them(activation, key):
    config = fully_connected(2, 7, batch_norm=True, init="FU", activation=activation)
    network = build(config, input_shape=(6,), num_outputs=4)
    params, state = jax.eval_shape(network.init, key)
    params, state = randomised(params, key), randomised(state, jax.random.key(1))
    xs = 3 * jax.random.normal(jax.random.key(2), (30, 6))
    with pytest.raises(InputError, match=f"the activation {activation}; expected .* network of relu"):
        perceptron(config, params, state)
    with jax.default_matmul_precision("highest"):
        wanted = network.predict(params, state, xs)
        maps = perceptron(config, params, state, activations=("relu", activation))
    np.testing.assert_allclose(forward(*maps, xs, activation), wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(forward(*maps, xs) - wanted).max() > 0.1  # it matters


def test_statistics_matter(key):
    """Without the fold of the running statistics the outputs would differ: the test above can fail."""
    config = fully_connected(2, 5, batch_norm=True, init="FU")
    network = build(config, input_shape=(6,), num_outputs=3)
    params, state = network.init(key)
    plain = perceptron(config, params, state)
    moved = perceptron(config, params, randomised(state, key))
    assert max(float(jnp.abs(a - b).max()) for a, b in zip(plain[0], moved[0], strict=True)) > 0.1


def test_vmap_over_members_equals_a_loop(key):
    config = fully_connected(2, 5, batch_norm=True, init="FU")
    network = build(config, input_shape=(6,), num_outputs=3)
    params, state = jax.vmap(network.init)(jax.random.split(key, 3))
    weights, biases = jax.vmap(lambda p, s: perceptron(config, p, s))(params, state)
    for member in range(3):
        one_of = jax.tree.map(lambda leaf, member=member: leaf[member], (params, state))
        alone = perceptron(config, *one_of)
        for stacked, one in zip((*weights, *biases), (*alone[0], *alone[1]), strict=True):
            np.testing.assert_allclose(stacked[member], one, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (cnn(1, 2), "got cnn-1x2-sn with Conv; expected a fully-connected network of relu"),
        (resnet(18, 1 / 32), "Residual, AveragePool"),
        (dataclasses.replace(fully_connected(1, 3), activation="tanh"), "the activation tanh"),
        (
            dataclasses.replace(fully_connected(1, 3), layers=(Dense(3, activate=False),)),
            "Dense without activation",
        ),
    ],
)
def test_other_networks_are_refused_by_name(config, message):
    with pytest.raises(InputError, match=message):
        perceptron(config, None, None)


def test_dropout_may_begin_at_a_later_layer():
    config = fully_connected(4, 7, dropout=0.5, dropout_from=2, init="FU")
    assert [type(layer).__name__ for layer in config.layers] == [
        *("Flatten", "Dense", "Dense", "Dropout", "Dense", "Dropout", "Dense", "Dropout")
    ]
    assert config.full_name == "fc-4x7-fu-do2"
    assert config.label == "FC-4 FU dropout from layer 2"
    assert fully_connected(4, 7, dropout=0.5, init="FU").full_name == "fc-4x7-fu-do"
    with pytest.raises(InputError, match="dropout_from=3 for 2 hidden layers"):
        fully_connected(2, 7, dropout=0.5, dropout_from=3)
