"""Members that are done leave a vmapped program, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.models import build, fully_connected
from jaxsens.train import TrainConfig, make_train, train_ensemble
from jaxsens.train import ensemble as ensemble_module

SEEDS = 8


def close(a, b, rtol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(60, 6, 6, 1)).astype(np.float32)
    return jnp.asarray(xs), jnp.asarray(rng.integers(0, 3, 60).astype(np.int32))


@pytest.fixture(scope="module")
def training():
    """Members that end after different numbers of epochs."""
    network = build(fully_connected(1, 8, init="HN"), input_shape=(6, 6, 1), num_outputs=3)
    config = TrainConfig(max_epochs=60, stop_loss=0.9, stop_count=2, learning_rate=0.01)
    return make_train(config, network.init, network.apply)


@pytest.fixture(scope="module")
def in_turn(data, training):
    members = train_ensemble(training, keys(), *data, member_axis="map", num_devices=1)
    assert len(set(np.asarray(members.epoch).tolist())) > 3
    return members


@pytest.fixture
def widths(monkeypatch):
    """How wide each program was; packing comes as early as it can, after each epoch."""
    seen = []
    monkeypatch.setattr(ensemble_module, "_SECONDS_PER_CALL", 0)
    monkeypatch.setattr(ensemble_module, "_compiling_pays", lambda first, later: True)
    take = ensemble_module.Packed.take

    def recorded(self):
        active = take(self)
        seen.append(len(active.done))
        return active

    monkeypatch.setattr(ensemble_module.Packed, "take", recorded)
    return seen


def keys():
    return jax.random.split(jax.random.key(0), SEEDS)


@pytest.mark.parametrize(
    ("num_devices", "expected"), [pytest.param(1, {8, 4, 2, 1}, marks=pytest.mark.slow), (2, {8, 4, 2})]
)
def test_the_rest_is_packed_and_ends_as_without(data, training, in_turn, widths, num_devices, expected):
    members = train_ensemble(training, keys(), *data, member_axis="vmap", num_devices=num_devices)
    close(members, in_turn)
    assert widths == sorted(widths, reverse=True)
    assert set(widths) <= expected
    assert min(widths) == min(expected)


def test_members_in_turn_are_not_packed(data, training, widths):
    train_ensemble(training, keys(), *data, member_axis="map", num_devices=1)
    assert set(widths) == {SEEDS}


def test_reports_snapshots_and_checkpoints_are_of_all_members(
    data, training, in_turn, widths, tmp_path, monkeypatch
):
    monkeypatch.setattr(ensemble_module, "_SECONDS_PER_CHECKPOINT", 0)
    epochs = np.asarray(in_turn.epoch)
    late = int(np.sort(epochs)[-2])  # one member is left
    assert epochs.max() > late
    seen, told = {}, []

    def die(progress):
        told.append(progress)
        if progress.epoch == late + 1:
            raise KeyboardInterrupt("now")

    options = {"member_axis": "vmap", "num_devices": 1, "checkpoint": tmp_path / "half"}
    with pytest.raises(KeyboardInterrupt, match="now"):
        train_ensemble(
            training,
            keys(),
            *data,
            report=die,
            snapshots=(late,),
            observe=lambda *both: seen.update([both]),
            **options,
        )
    assert widths[-1] == 1
    assert [progress.num_members for progress in told] == [SEEDS] * len(told)
    assert [one.members_done for one in told] == [(epochs <= one.epoch).sum() for one in told]
    observed = seen[late]
    np.testing.assert_array_equal(observed.epoch, np.minimum(epochs, late))
    done = np.asarray(observed.done)
    assert done.sum() == SEEDS - 1
    for whole, then in zip(*map(jax.tree.leaves, (in_turn.params, observed.params)), strict=True):
        np.testing.assert_allclose(whole[done], then[done], rtol=1e-5, atol=1e-6)
    close(train_ensemble(training, keys(), *data, **options), in_turn)


def test_packing_waits_until_a_compilation_pays():
    assert not ensemble_module._compiling_pays(2.0, 3.9)
    assert ensemble_module._compiling_pays(2.0, 4.1)


def test_what_a_compilation_takes_is_known_to_later_ensembles(data, training, monkeypatch):
    """Their first calls compile nothing, and must not make the next width look free."""
    timing = ensemble_module._timing(training.advance, "vmap", ensemble_module.device_mesh(1))
    asked = []
    monkeypatch.setattr(
        ensemble_module, "_compiling_pays", lambda slowest, called: asked.append(slowest) or False
    )
    for _ in range(2):
        train_ensemble(training, keys(), *data, member_axis="vmap", num_devices=1)
    assert min(asked) > 0
    assert asked == sorted(asked)
    assert timing.slowest == asked[-1]
