"""Hyper-parameters as arrays: the steps are Optax's, and one program trains what many would."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsens.checks import InputError
from jaxsens.models import build, fully_connected
from jaxsens.train import (
    OPTIMIZERS,
    HyperParameters,
    TrainConfig,
    hyper_parameters,
    make_train,
    train_ensemble,
)
from jaxsens.train import ensemble as ensemble_module
from jaxsens.train.hyper import UPDATE_RULES, first_order
from jaxsens.types import PIECEWISE_LINEAR

# What differs between networks of one program: optimiser, learning rate, weight decay, activation, label row.
SETTINGS = (
    ("adam", 0.01, 0.0, "relu", 0),
    ("sgd", 0.3, 0.01, "hard_tanh", 1),
    ("momentum", 0.05, 0.0, "relu6", 1),
    ("rmsprop", 0.01, 0.1, "hard_sigmoid", 0),
)
SHARED = TrainConfig("sgd", learning_rate=1.0, batch_size=16, max_epochs=6, stop_loss=1.0, stop_count=1)
KEYS = jnp.stack([jax.random.key(seed) for seed in (3, 3, 4, 5)])


@pytest.fixture(scope="module")
def data():
    """Inputs, and two sets of labels: those of a linear rule, and random ones."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(40, 5)).astype(np.float32)
    labels = np.stack([(xs @ rng.normal(size=(5, 3))).argmax(axis=1), rng.integers(0, 3, 40)])
    return jnp.asarray(xs), jnp.asarray(labels.astype(np.int32))


def network_of(activation):
    return build(fully_connected(1, 6, init="HN", activation=activation), input_shape=(5,), num_outputs=3)


def hyper_of(*settings):
    names = ("optimizer", "learning_rate", "weight_decay", "activation", "labels")
    each = [hyper_parameters(**dict(zip(names, one, strict=True))) for one in settings]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def training_of(config=SHARED, activation="relu", **options):
    network = network_of(activation)
    return make_train(config, network.init, network.apply, **options)


# One object, so that tests share its compiled programs.
TRAINING = training_of()


def member_of(members, index):
    return jax.tree.map(lambda leaf: leaf[index], members)


def close(a, b, *, rtol=1e-4, atol=1e-5):
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def same(a, b):
    """Bit for bit, keys too."""
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def drawn(key, *lead):
    keys = jax.random.split(key, 2)
    return {
        "w": jax.random.normal(keys[0], (*lead, 4, 3)),
        "deeper": [jax.random.normal(keys[1], (*lead, 3))],
    }


def steps(optimizer, params, gradients):
    """The parameters after each of the gradients, in order."""

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, optimizer.init(params)), gradients)[1]


@pytest.fixture(scope="module")
def walk():
    """Parameters at the start, and 20 gradients of sizes from 1e-4 to 10, some of them 0."""
    with jax.enable_x64(True):
        sizes = 10.0 ** jnp.linspace(-4, 1, 20)
        gradients = jax.tree.map(
            lambda g: g * sizes.reshape(20, *[1] * (g.ndim - 1)), drawn(jax.random.key(1), 20)
        )
        gradients["w"] = gradients["w"].at[:, 0].set(0)
        return drawn(jax.random.key(0)), gradients


REFERENCES = {
    "sgd": lambda rate: optax.sgd(rate),
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam": lambda rate: optax.adam(rate),
    "rmsprop": lambda rate: optax.rmsprop(rate, decay=0.99),
}


@pytest.mark.parametrize("weight_decay", [0.0, 0.03])
def test_each_rule_takes_the_steps_of_optax(walk, weight_decay, x64):
    """Alone with plain numbers, and all four as one stack of arrays under vmap."""
    assert set(REFERENCES) == set(UPDATE_RULES) == set(OPTIMIZERS) - {"lbfgs"}
    rates = dict(zip(REFERENCES, (0.1, 0.03, 0.01, 0.002), strict=True))
    wanted = {
        name: steps(optax.chain(optax.add_decayed_weights(weight_decay), make(rates[name])), *walk)
        for name, make in REFERENCES.items()
    }
    for name, path in wanted.items():
        hyper = HyperParameters(UPDATE_RULES[name], rates[name], weight_decay, PIECEWISE_LINEAR["relu"], 0)
        close(steps(first_order(hyper), *walk), path, rtol=1e-11, atol=1e-13)
    stack = hyper_of(*((name, rates[name], weight_decay, "relu", 0) for name in wanted))
    found = jax.vmap(lambda hyper: steps(first_order(hyper), *walk))(stack)
    for index, path in enumerate(wanted.values()):
        close(member_of(found, index), path, rtol=1e-11, atol=1e-13)
    # The paths differ from each other by far more than that.
    ends = np.stack([path["w"][-1] for path in wanted.values()])
    assert min(np.abs(a - b).max() for i, a in enumerate(ends) for b in ends[:i]) > 1e-3


def test_the_rules_are_those_of_the_configuration(walk):
    """In float32, in which the library trains: 1 - 0.999 has five digits there."""
    params, gradients = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), walk)
    for name in UPDATE_RULES:
        config = TrainConfig(name, learning_rate=0.01, weight_decay=0.1)
        wanted = steps(config.make_optimizer(), params, gradients)
        hyper = member_of(hyper_of((name, 0.01, 0.1, "relu", 0)), 0)
        close(steps(first_order(hyper), params, gradients), wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def alone(data):
    """Each of `SETTINGS` as a plain training of its own."""
    xs, labels = data
    members = []
    for key, (optimizer, rate, decay, activation, row) in zip(KEYS, SETTINGS, strict=True):
        config = dataclasses.replace(SHARED, optimizer=optimizer, learning_rate=rate, weight_decay=decay)
        members.append(jax.jit(training_of(config, activation))(key, xs, labels[row]))
    return members


@pytest.mark.parametrize(
    ("member_axis", "num_devices"), [("map", 1), pytest.param("vmap", 3, marks=pytest.mark.slow)]
)
def test_members_of_one_program_are_those_trained_alone(data, alone, member_axis, num_devices):
    """On three devices the four are padded to six."""
    together = train_ensemble(
        TRAINING,
        KEYS,
        *data,
        hyper=hyper_of(*SETTINGS),
        member_axis=member_axis,
        num_devices=num_devices,
    )
    assert together.epoch.shape == (4,)
    for index, wanted in enumerate(alone):
        found = member_of(together, index)
        close(found.params, wanted.params)
        close(found.loss, wanted.loss)
        assert (int(found.epoch), int(found.below)) == (int(wanted.epoch), int(wanted.below))
    # Some met the stop rule, each by itself.
    assert len(set(np.asarray(together.epoch).tolist())) > 1
    same(together.hyper, hyper_of(*SETTINGS))


def test_each_hyper_parameter_reaches_its_member(data, alone):
    """Another value of one of them moves that member by far more than the comparison above allows."""
    other = (
        ("rmsprop", 0.01, 0.0, "relu", 0),
        ("sgd", 0.3, 0.01, "hard_tanh", 0),
        ("momentum", 0.02, 0.0, "relu6", 1),
        ("rmsprop", 0.01, 0.1, "hard_tanh", 0),
    )
    moved = train_ensemble(TRAINING, KEYS, *data, hyper=hyper_of(*other), member_axis="map", num_devices=1)
    for index, wanted in enumerate(alone):
        differences = jax.tree.map(
            lambda a, b: jnp.abs(a - b).max(), member_of(moved, index).params, wanted.params
        )
        assert max(jax.tree.leaves(differences)) > 1e-2


@pytest.mark.slow
def test_lbfgs_members_share_a_program_too(data):
    """They may differ in activation and labels; the rule that they carry does nothing."""
    xs, labels = data
    config = TrainConfig("lbfgs", learning_rate=1.0, batch_size=None, max_epochs=4)
    hyper = hyper_of(("lbfgs", 1.0, 0.0, "relu", 0), ("lbfgs", 1.0, 0.0, "hard_tanh", 1))
    keys = KEYS[:2]  # equal: the two start from the same weights
    together = train_ensemble(training_of(config), keys, *data, hyper=hyper, num_devices=1)
    wanted = jax.jit(training_of(config, "hard_tanh"))(keys[1], xs, labels[1])
    close(member_of(together, 1).params, wanted.params, rtol=1e-3, atol=1e-4)
    close(together.loss[1], wanted.loss)
    assert abs(float(together.loss[0] - wanted.loss)) > 0.01


@pytest.mark.parametrize("member_axis", ["map", "vmap"])
def test_a_diverging_member_leaves_the_others_as_they_are(data, member_axis):
    def train(rate):
        settings = [*SETTINGS[:2], ("sgd", rate, 0.0, "relu", 1), *SETTINGS[3:]]
        return train_ensemble(
            TRAINING, KEYS, *data, hyper=hyper_of(*settings), member_axis=member_axis, num_devices=1
        )

    calm, wild = train(0.1), train(1e38)
    assert calm.diverged.tolist() == [False] * 4
    assert wild.diverged.tolist() == [False, False, True, False]
    assert int(wild.epoch[2]) < int(calm.epoch[2])
    for index in (0, 1, 3):
        same(member_of(calm, index), member_of(wild, index))


def test_a_killed_program_of_many_goes_on_exactly(data, monkeypatch, tmp_path):
    hyper, folder = hyper_of(*SETTINGS), tmp_path / "half"
    whole = train_ensemble(TRAINING, KEYS, *data, hyper=hyper, num_devices=1)
    monkeypatch.setattr(ensemble_module, "_SECONDS_PER_CALL", 0)
    monkeypatch.setattr(ensemble_module, "_SECONDS_PER_CHECKPOINT", 0)

    def die_at_3(progress):
        if progress.epoch == 3:
            raise KeyboardInterrupt("now")

    with pytest.raises(KeyboardInterrupt, match="now"):
        train_ensemble(TRAINING, KEYS, *data, hyper=hyper, num_devices=1, checkpoint=folder, report=die_at_3)
    epochs = []
    with pytest.raises(InputError, match="members of other hyper-parameters"):
        train_ensemble(
            TRAINING,
            KEYS,
            *data,
            hyper=hyper._replace(weight_decay=hyper.weight_decay + 1),
            num_devices=1,
            checkpoint=folder,
        )
    resumed = train_ensemble(
        TRAINING,
        KEYS,
        *data,
        hyper=hyper,
        num_devices=1,
        checkpoint=folder,
        report=lambda progress: epochs.append(progress.epoch),
    )
    assert epochs == [3, 4, 5, 6]  # the second epoch was the last one saved
    same(resumed, whole)


def test_augmentation_reaches_members_of_one_program(data):
    """Noise from the key of each member and batch is that of the member trained alone."""
    xs, labels = data
    config = dataclasses.replace(SHARED, max_epochs=2)
    (optimizer, rate, decay, activation, row), key = SETTINGS[1], KEYS[1]

    def noisy(xs, *, key):
        return xs + jax.random.normal(key, xs.shape)

    hyper = hyper_of(*SETTINGS[:2])
    found = train_ensemble(
        training_of(config, augment=noisy), KEYS[:2], xs, labels, hyper=hyper, num_devices=1
    )
    own = dataclasses.replace(config, optimizer=optimizer, learning_rate=rate, weight_decay=decay)
    wanted = jax.jit(training_of(own, activation, augment=noisy))(key, xs, labels[row])
    close(member_of(found, 1).params, wanted.params)
    plain = train_ensemble(
        dataclasses.replace(TRAINING, config=config), KEYS[:2], xs, labels, hyper=hyper, num_devices=1
    )
    moved = [
        jnp.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (plain.params, found.params)), strict=True)
    ]
    assert max(moved) > 1e-2


def test_refusals(data, plain):
    xs, labels = data
    good = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "activation": "relu", "labels": 0}
    with pytest.raises(InputError, match="optimizer='adamw'"):
        hyper_parameters(**good | {"optimizer": "adamw"})
    with pytest.raises(InputError, match="activation='tanh'"):
        hyper_parameters(**good | {"activation": "tanh"})
    with pytest.raises(InputError, match=r"augment='shift'.*its line search"):
        TrainConfig("lbfgs", learning_rate=1.0, batch_size=None, augment="shift")
    hyper = hyper_of(*SETTINGS[:1])
    with pytest.raises(InputError, match="40 inputs and 39 targets"):
        train_ensemble(TRAINING, KEYS[:1], xs, labels[:, 1:], hyper=hyper)
    with pytest.raises(InputError, match="labels from 0 to 2"):
        train_ensemble(TRAINING, KEYS[:1], xs, labels + 1, hyper=hyper)
    with pytest.raises(InputError, match=r"targets of shape \(40,\) with hyper-parameters.*pass ys\[None\]"):
        train_ensemble(TRAINING, KEYS[:1], xs, labels[0], hyper=hyper)
    with pytest.raises(InputError, match="ys from 0 to 3; expected labels from 0 to 2"):
        train_ensemble(TRAINING, KEYS[:1], xs, np.concatenate([labels[:1], np.full((1, 40), 3)]), hyper=hyper)
    with pytest.raises(InputError, match=r"rows of labels from 2 to 2; expected 0 to 1"):
        train_ensemble(TRAINING, KEYS[:1], xs, labels, hyper=hyper._replace(labels=jnp.array([2])))
    with pytest.raises(InputError, match=r"hyper-parameters of shapes \[\(1,\)\]; expected \(2,\)"):
        train_ensemble(TRAINING, KEYS[:2], xs, labels, hyper=hyper)
