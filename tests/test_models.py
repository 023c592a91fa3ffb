"""The zoo has the papers' sizes, and the bridge gives pure functions with right derivatives."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.models import alexnet, build, cnn, fully_connected, resnet, vgg, vgg_stacks
from jaxsens.models.layers import AveragePool, Conv, Dense, Dropout, Flatten, MaxPool, Residual, output_shape
from jaxsens.models.network import ACTIVATIONS, piecewise_linear
from jaxsens.models.zoo import ModelConfig
from jaxsens.types import PIECEWISE_LINEAR, PiecewiseLinear

CIFAR = (32, 32, 3)


def num_params(config, input_shape=CIFAR, num_outputs=10):
    network = build(config, input_shape=input_shape, num_outputs=num_outputs)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("config", "published"),
    [
        # Figure 2a and its text. "3-layer" counts the output layer.
        (fully_connected(2, 140), "450k"),
        (cnn(1, 5), "450k"),
        (fully_connected(2, 100), "320k"),
        (fully_connected(2, 500), "1.8M"),  # printed as 1.7M: 1,792,010, cut off
        (cnn(1, 25), "11M"),  # printed as 10M: 11,256,210
    ],
)
def test_parameter_counts_are_the_papers(config, published):
    count = num_params(config)
    unit, digits = (1e6, 2) if published.endswith("M") else (1e3, 2)
    exact = float(published[:-1])
    assert float(f"{count / unit:.{digits}g}") == exact


@pytest.mark.parametrize("config", [vgg(11, 0.25), alexnet(16), resnet(18, 0.25)])
def test_parameter_counts_by_hand(config):
    """Convolutions k^2 c_in c_out (+ c_out), batch normalisation 2 c_out, affine maps (in + 1) out."""

    def count(layers, shape):
        total = 0
        for layer in layers:
            if isinstance(layer, Conv):
                total += layer.kernel**2 * shape[-1] * layer.channels + layer.channels * layer.use_bias
                total += 2 * layer.channels * layer.batch_norm
            if isinstance(layer, Dense):
                total += (shape[0] + 1) * layer.units
            if isinstance(layer, Residual):
                total += count(layer.branch, shape) + count(layer.shortcut, shape)
            shape = layer.output_shape(shape)
        return total

    features = output_shape((*config.layers, Flatten()), CIFAR)[0]
    assert num_params(config) == count(config.layers, CIFAR) + (features + 1) * 10


def test_configurations_are_appendix_a():
    def convolutions(config):
        return [layer.channels for layer in config.layers if isinstance(layer, Conv)]

    assert convolutions(vgg(13, 1)) == [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
    assert convolutions(vgg(11, 1)) == [64, 128, 256, 256, 512, 512, 512, 512]
    assert convolutions(vgg(16, 1)) == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert convolutions(vgg(19, 1)) == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    assert convolutions(alexnet(16)) == [16, 48, 96, 64, 64]
    blocks = [layer for layer in resnet(34, 0.5).layers if isinstance(layer, Residual)]
    assert [block.branch[0].channels for block in blocks] == [32] * 3 + [64] * 4 + [128] * 6 + [256] * 3
    for block in blocks:
        assert [conv.kernel for conv in (*block.branch, *block.shortcut)] == [3, 3, 1]
        assert all(conv.batch_norm and not conv.use_bias for conv in (*block.branch, *block.shortcut))
        assert all(conv.activate for conv in (*block.branch, *block.shortcut))
        assert all(conv.padding == conv.kernel // 2 for conv in (*block.branch, *block.shortcut))
    strides = [block.branch[0].stride for block in blocks]
    assert strides == [block.shortcut[0].stride for block in blocks]
    assert [index for index, stride in enumerate(strides) if stride == 2] == [3, 7, 13]
    usual = next(layer for layer in resnet(18, 1, block="usual").layers if isinstance(layer, Residual))
    assert [conv.activate for conv in (*usual.branch, *usual.shortcut)] == [True, False, False]
    assert output_shape(vgg(13, 1).layers, CIFAR) == (512,)
    assert output_shape(resnet(18, 1).layers, CIFAR) == (512,)
    assert output_shape(alexnet(16).layers[:8], CIFAR) == (2, 2, 64)
    assert all(layer.batch_norm for layer in vgg(13, 1).layers if isinstance(layer, Conv))


@pytest.mark.parametrize(
    "config",
    [
        fully_connected(2, 8, batch_norm=True, dropout=0.3, init="HN"),
        cnn(2, 3, batch_norm=True, dropout=0.2, max_pool=True, init="XU"),
        alexnet(2, hidden=8),
        vgg(11, 1 / 64),
        # A small network with residual blocks, strides and shortcuts.
        dataclasses.replace(resnet(18, 1 / 64), layers=resnet(18, 1 / 64).layers[:4]),
    ],
)
def test_networks_run_and_evaluation_is_per_example(config, key):
    network = build(config, input_shape=CIFAR, num_outputs=3)
    params, state = jax.jit(network.init)(key)
    xs = jax.random.uniform(key, (5, *CIFAR))
    ys, new_state = jax.jit(network.apply)(params, state, xs, key=key)
    assert ys.shape == (5, 3)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    f = jax.jit(network.function(new_state))
    alone = jnp.stack([f(params, x) for x in xs])
    np.testing.assert_allclose(alone, jax.jit(network.predict)(params, new_state, xs), rtol=1e-4, atol=1e-5)


def test_batch_norm_uses_the_batch_in_training_and_the_running_statistics_after(key):
    network = build(fully_connected(1, 4, batch_norm=True, init="XU"), input_shape=(6,), num_outputs=2)
    params, state = network.init(key)
    xs = jax.random.normal(key, (50, 6))
    _, new_state = network.apply(params, state, xs, key=key)
    kernel = next(leaf for leaf in jax.tree.leaves(params) if leaf.shape == (6, 4))
    hidden = xs @ kernel
    mean, variance = (leaf for leaf in jax.tree.leaves(new_state))
    np.testing.assert_allclose(mean, 0.1 * hidden.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * hidden.var(0), rtol=1e-4)


def test_dropout_keeps_the_mean_and_is_off_in_evaluation(key):
    network = build(fully_connected(1, 400, dropout=0.5), input_shape=(3,), num_outputs=1)
    params, state = network.init(key)
    xs = jnp.ones((1, 3))
    evaluated = network.predict(params, state, xs)
    trained = jnp.stack([network.apply(params, state, xs, key=jax.random.key(i))[0] for i in range(40)])
    assert float(trained.std()) > 0
    spread = 5 * float(trained.std()) / 40**0.5
    assert abs(float(trained.mean() - evaluated[0, 0])) < spread


INITIAL_VARIANCES = {
    "SN": (1.0, 1.0),
    "XU": (2 / (300 + 200), 0.0),
    "HU": (2 / 300, 0.0),
    "HN": (2 / 300, 0.0),
    "FU": (1 / (3 * 300), 1 / (3 * 300)),
}


@pytest.mark.parametrize("init", sorted(INITIAL_VARIANCES))
def test_initialisers_have_the_papers_moments(init, key):
    network = build(fully_connected(1, 200, init=init), input_shape=(300,), num_outputs=2)
    params, _ = network.init(key)
    kernel, bias = (
        next(leaf for leaf in jax.tree.leaves(params) if leaf.shape == shape)
        for shape in ((300, 200), (200,))
    )
    for drawn, variance in zip((kernel, bias), INITIAL_VARIANCES[init], strict=True):
        # Five standard errors of a normal sample's variance; a uniform one's is less.
        tolerance = 5 * (2 / drawn.size) ** 0.5
        np.testing.assert_allclose(np.mean(drawn**2), variance, rtol=tolerance, atol=0)
    if init in {"XU", "HU", "FU"}:
        bound = (3 * INITIAL_VARIANCES[init][0]) ** 0.5
        assert 0.99 * bound < float(np.abs(kernel).max()) <= bound * (1 + 1e-6)
    other, _ = network.init(jax.random.key(1))
    assert not np.allclose(jax.tree.leaves(other)[-1], jax.tree.leaves(params)[-1])


def test_a_layer_does_not_share_its_draws_with_another(key):
    network = build(fully_connected(3, 20, init="SN"), input_shape=(20,), num_outputs=20)
    params, _ = network.init(key)
    kernels = [leaf.ravel() for leaf in jax.tree.leaves(params) if leaf.shape == (20, 20)]
    correlations = np.corrcoef(np.stack(kernels)) - np.eye(len(kernels))
    assert len(kernels) == 4
    assert np.abs(correlations).max() < 0.25


@pytest.mark.slow
def test_mixed_second_derivatives_of_a_network_with_everything(key, x64):
    """d2f/dtheta dx by jacfwd(grad), against central differences of the parameter gradient."""
    config = ModelConfig(
        "all",
        "all",
        1,
        (
            Conv(2, 3, 1, 1, batch_norm=True),
            MaxPool(2),
            Residual((Conv(2, 3, 2, 1, batch_norm=True),), (Conv(2, 1, 2, batch_norm=True),)),
            AveragePool(2),
        ),
        2,
        activation="tanh",
    )
    network = build(config, input_shape=(4, 4, 1), num_outputs=2)
    params, state = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), network.init(key))
    f = network.function(state)
    x = jax.random.uniform(key, (4, 4, 1), jnp.float64)
    direction = jax.random.normal(jax.random.key(1), x.shape, jnp.float64)

    def gradient(x):
        return jax.grad(lambda p: f(p, x).sum())(params)

    mixed = jax.jvp(gradient, (x,), (direction,))[1]
    dense = jax.jacfwd(gradient)(x)
    step = 1e-5
    plus, minus = gradient(x + step * direction), gradient(x - step * direction)
    for a, b, c, d in zip(*map(jax.tree.leaves, (mixed, dense, plus, minus)), strict=True):
        np.testing.assert_allclose(a, (c - d) / (2 * step), rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(a, jnp.tensordot(b, direction, axes=3), rtol=1e-9, atol=1e-12)


KINKS = {
    "relu": [0.0],
    "relu6": [0.0, 6.0],
    "hard_tanh": [-1.0, 1.0],
    "hard_sigmoid": [-3.0, 3.0],
    "tanh": [],
}


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(name):
    activation = ACTIVATIONS[name]
    x = np.linspace(-8, 8, 65)
    expected = {
        "relu": np.maximum(x, 0),
        "relu6": np.clip(x, 0, 6),
        "hard_tanh": np.clip(x, -1, 1),
        "hard_sigmoid": np.clip(x / 6 + 0.5, 0, 1),
        "tanh": np.tanh(x),
    }
    np.testing.assert_allclose(activation(jnp.asarray(x)), expected[name], rtol=1e-5, atol=1e-6)
    slopes = jax.vmap(jax.grad(activation))(jnp.asarray(KINKS[name]))
    inside = {0.0, 1.0, float(np.float32(1 / 6))}
    assert all(float(slope) in inside for slope in slopes)


@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_an_activation_at_the_call_is_that_of_the_build(name, key):
    """Outputs, new statistics and gradients, with the four numbers traced."""

    def built(activation):
        body = (Conv(3, 2, 1, 0, batch_norm=True), Residual((Conv(3, 1, 1, 0),)), Flatten(), Dense(5))
        config = ModelConfig("x", "x", 1, body, 3, init="HN", activation=activation)
        return build(config, input_shape=(4, 4, 1), num_outputs=2)

    own, other = built(name), built("tanh")
    params, state = own.init(key)
    xs = 4 * jax.random.normal(key, (20, 4, 4, 1))

    def loss(params, network, **options):
        ys, new_state = network.apply(params, state, xs, key=key, **options)
        return jnp.sum(jnp.sin(ys)), (ys, new_state)

    def called(params, numbers):
        return jax.value_and_grad(loss, has_aux=True)(params, other, activation=numbers)

    wanted = jax.value_and_grad(loss, has_aux=True)(params, own)
    numbers = PiecewiseLinear(*map(jnp.float32, PIECEWISE_LINEAR[name]))
    found = jax.jit(called)(params, numbers)
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    plain = jax.value_and_grad(loss, has_aux=True)(params, other)
    assert abs(float(plain[0][0] - wanted[0][0])) > 1e-2


@pytest.mark.parametrize("name", PIECEWISE_LINEAR)
def test_four_numbers_are_the_activation_everywhere(name):
    """At the kinks, far away, and for what is no number, which must not become one."""
    activation = piecewise_linear(PIECEWISE_LINEAR[name])
    x = jnp.asarray([*np.linspace(-8, 8, 65), 1e30, -1e30, np.inf, -np.inf, np.nan], jnp.float32)
    np.testing.assert_allclose(activation(x), ACTIVATIONS[name](x), rtol=1e-6, atol=1e-6)
    away = jnp.asarray(np.linspace(-8, 8, 64), jnp.float32)
    slopes = [jax.vmap(jax.grad(f))(away) for f in (activation, ACTIVATIONS[name])]
    np.testing.assert_allclose(*slopes, rtol=1e-6)
    assert {float(slope) for slope in jax.vmap(jax.grad(activation))(jnp.asarray(KINKS[name]))} <= {
        0.0,
        float(np.float32(PIECEWISE_LINEAR[name].slope)),
    }


def test_pooling_is_pooling(key):
    config = ModelConfig("p", "p", 1, (MaxPool(2), AveragePool(2)), 0)
    network = build(config, input_shape=(5, 5, 1), num_outputs=1)
    params, state = network.init(key)
    x = np.asarray(jax.random.normal(key, (5, 5, 1)))
    corners = [(i, j) for i in (0, 2) for j in (0, 2)]
    pooled = np.array([x[i : i + 2, j : j + 2].max() for i, j in corners])
    kernel, bias = (next(v for v in jax.tree.leaves(params) if v.ndim == n) for n in (2, 1))
    predicted = network.predict(params, state, jnp.asarray(x[None]))[0]
    np.testing.assert_allclose(predicted, pooled.mean() * kernel[0] + bias, rtol=1e-5)


def test_bad_networks_are_refused(plain):
    with pytest.raises(InputError, match=r"leaves \(0, 0.*larger images"):
        build(vgg(13, 0.25), input_shape=(8, 8, 1), num_outputs=10)
    with pytest.raises(InputError, match="expected one of 11, 13, 16, 19"):
        vgg(12, 1)
    with pytest.raises(InputError, match="at least one channel"):
        resnet(18, 0.001)
    with pytest.raises(InputError, match="images"):
        build(cnn(1, 5), input_shape=(13,), num_outputs=1)
    with pytest.raises(InputError, match="put Flatten"):
        build(ModelConfig("x", "x", 1, (Dense(3),), 1), input_shape=CIFAR, num_outputs=1)
    with pytest.raises(InputError, match="equal shapes"):
        build(ModelConfig("x", "x", 1, (Residual((Conv(2),)),), 1), input_shape=CIFAR, num_outputs=1)
    with pytest.raises(InputError, match="init='XX'"):
        build(dataclasses.replace(cnn(1, 5), init="XX"), input_shape=CIFAR, num_outputs=1)
    with pytest.raises(InputError, match="dropout=1"):
        fully_connected(1, 3, dropout=1.0)
    network = build(fully_connected(1, 3), input_shape=(2,), num_outputs=1)
    with pytest.raises(InputError, match=r"jax.random.key\(seed\)"):
        network.init(0)


def test_names_tell_networks_apart():
    named = {
        fully_connected(3, 200): ("fc-3x200-sn", "FC-3 SN"),
        fully_connected(3, 200, dropout=0.5): ("fc-3x200-sn-do", "FC-3 SN dropout"),
        fully_connected(3, 200, batch_norm=True, init="XU"): ("fc-3x200-xu-bn", "FC-3 BN"),
        fully_connected(3, 200, activation="relu6"): ("fc-3x200-sn-relu6", "FC-3 SN ReLU6"),
        fully_connected(3, 200, dropout=0.5, activation="hard_tanh"): (
            "fc-3x200-sn-do-hard_tanh",
            "FC-3 SN dropout HardTanh",
        ),
        fully_connected(2, 9, init="XU", activation="hard_sigmoid"): (
            "fc-2x9-xu-hard_sigmoid",
            "FC-2 HardSigmoid",
        ),
        fully_connected(2, 9, activation="tanh"): ("fc-2x9-sn-tanh", "FC-2 SN tanh"),
        cnn(2, 5, batch_norm=True, max_pool=True): ("cnn-2x5-sn-bn+mp", "CNN-2 SN BN + max-pool"),
        vgg(13, 0.5): ("vgg13-s0.5-xu", "VGG13"),
        vgg(13, 0.5, init="SN"): ("vgg13-s0.5-sn", "VGG13 SN"),
        vgg(13, 0.5, batch_norm=False, max_pool=False): ("vgg13-s0.5-xu-none", "VGG13 plain"),
        alexnet(16): ("alexnet-h16-xu", "AlexNet"),
        alexnet(16, hidden=128, dropout=0): ("alexnet-h16-d128-xu-mp", "AlexNet max-pool"),
        resnet(18, 0.25, init="HN"): ("resnet18-s0.25-hn", "ResNet18 HN"),
    }
    for config, (name, label) in named.items():
        assert (config.full_name, config.label) == (name, label)


def test_dropout_of_a_cnn_follows_every_hidden_layer():
    layers = [type(layer).__name__ for layer in cnn(1, 4, dropout=0.5).layers]
    assert layers == ["Conv", "Dropout", "Flatten", "Dense", "Dropout"]


def test_the_modified_vgg_is_appendix_a():
    """D Appendix A: 2 x [64 ... 512, 3, 3, 1], each stack with a pool, BN before each ReLU, FC 512."""
    config = vgg_stacks(1)
    network = build(config, input_shape=(32, 32, 3), num_outputs=10)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    kernels = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    channels = [3, 64, 64, 128, 128, 256, 256, 512, 512]
    wanted = [(3, 3, a, b) for a, b in itertools.pairwise(channels)] + [(512, 512), (512, 10)]
    assert sorted(kernels) == sorted(wanted)
    # Four max-pools leave 2 x 2 pixels; the average pool takes them all.
    assert output_shape(config.layers[:-2], (32, 32, 3)) == (1, 1, 512)
    assert sum(getattr(layer, "batch_norm", False) for layer in config.layers) == 9
    assert sum(isinstance(layer, Dropout) for layer in config.layers) == 4
    assert config.full_name == "vgg-stacks-s1-fu"
    assert vgg_stacks(0.25, dropout=0).full_name == "vgg-stacks-s0.25-fu-bn+mp"
    assert vgg_stacks(1).label == "VGG of stacks FU"


def test_the_ten_layer_perceptron_has_nearly_ten_million_parameters():
    network = build(fully_connected(10, 1000), input_shape=(28, 28, 1), num_outputs=10)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 9_804_010
