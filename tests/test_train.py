"""Training: the right steps, the stop rule, frozen members, and ensembles equal to members trained alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsens.checks import InputError
from jaxsens.models import build, cnn, fully_connected
from jaxsens.train import TrainConfig, load_trained, make_train, save_trained, train_ensemble
from jaxsens.train import ensemble as ensemble_module
from jaxsens.train.member import epoch_batches


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(60, 6, 6, 1)).astype(np.float32)
    return jnp.asarray(xs), jnp.asarray(rng.integers(0, 3, 60).astype(np.int32))


@pytest.fixture(scope="module")
def network():
    config = fully_connected(1, 8, batch_norm=True, dropout=0.1, init="HN")
    return build(config, input_shape=(6, 6, 1), num_outputs=3)


def training_of(network, **config):
    return make_train(TrainConfig(**config), network.init, network.apply)


def close(a, b, *, rtol=1e-4, atol=1e-5):
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def linear_network(dim, num_outputs):
    """f(x) = x w, from w = 0: what the steps do to it can be written down."""

    def init(key):
        return {"w": jnp.zeros((dim, num_outputs))}, {}

    def apply(params, state, xs, *, key):
        return xs @ params["w"], state

    return init, apply


@pytest.mark.parametrize("size", [1, 7, 60, 1000, None])
def test_an_epoch_sees_every_example_in_equal_batches(key, size):
    batches = epoch_batches(key, 60, size)
    assert set(np.unique(batches)) == set(range(60))
    assert batches.shape[1] <= (size or 60)
    assert batches.size - 60 < len(batches)
    if size == 60:
        assert batches.shape == (1, 60)


def test_1000_examples_in_batches_of_128_are_8_of_125(key):
    batches = epoch_batches(key, 1000, 128)
    assert batches.shape == (8, 125)
    np.testing.assert_array_equal(np.sort(batches.ravel()), np.arange(1000))


def test_a_full_batch_step_is_gradient_descent_by_hand(key):
    xs = jax.random.normal(key, (20, 3))
    ys = jax.random.normal(jax.random.key(1), (20, 2))
    config = TrainConfig(
        "sgd", learning_rate=0.1, weight_decay=0.5, batch_size=None, max_epochs=3, loss="mse", stop_loss=1e-9
    )
    member = make_train(config, *linear_network(3, 2))(key, xs, ys)
    w = np.zeros((3, 2))
    losses = []
    for _ in range(3):
        error = np.asarray(xs, np.float64) @ w - np.asarray(ys)
        losses.append((error**2).sum(-1).mean())
        w = w - 0.1 * (2 * np.asarray(xs, np.float64).T @ error / 20 + 0.5 * w)
    np.testing.assert_allclose(member.params["w"], w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(member.loss, losses[-1], rtol=1e-5)
    assert int(member.epoch) == 3


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "momentum", "rmsprop", "lbfgs"])
def test_every_optimiser_fits_a_separable_problem(optimizer, key):
    xs = jax.random.normal(key, (40, 5))
    ys = (xs[:, 0] > 0).astype(jnp.int32)
    rate = {"sgd": 0.5, "momentum": 0.1, "lbfgs": 1.0}.get(optimizer, 0.05)
    config = TrainConfig(optimizer, learning_rate=rate, batch_size=None, max_epochs=60)
    member = jax.jit(make_train(config, *linear_network(5, 2)))(key, xs, ys)
    assert float(member.loss) < 0.25 * np.log(2)
    assert not bool(member.diverged)


def test_adam_is_optax_adam_with_the_papers_constants(key, data):
    xs, ys = data[0].reshape(60, -1), data[1]
    training = make_train(TrainConfig(batch_size=None, max_epochs=2), *linear_network(36, 3))
    member = training(key, xs, ys)
    reference = optax.adam(1e-3, b1=0.9, b2=0.999)
    params = {"w": jnp.zeros((36, 3))}
    state = reference.init(params)
    for _ in range(2):
        gradient = jax.grad(
            lambda p: optax.softmax_cross_entropy_with_integer_labels(xs @ p["w"], ys).mean()
        )(params)
        updates, state = reference.update(gradient, state)
        params = optax.apply_updates(params, updates)
    close(member.params, params)


def test_stop_rule_counts_epochs_below_and_then_freezes(key, data):
    xs, ys = data[0].reshape(60, -1), data[1]
    config = TrainConfig(max_epochs=50, stop_loss=0.9, stop_count=3, learning_rate=0.01)
    training = make_train(config, *linear_network(36, 3))
    losses = []
    member = training.start(key)
    advance = jax.jit(training.advance)
    for until in range(1, 51):
        member = advance(member, xs, ys, until)
        losses.append(float(member.loss))
    below = np.flatnonzero(np.array(losses) < 0.9)
    assert int(member.epoch) == below[0] + 3 < 50
    assert bool(member.done)
    close(advance(member, xs, ys, 50), member, rtol=0, atol=0)


def test_the_stop_rule_stops_each_member_by_itself(data, network):
    xs, ys = data
    training = training_of(network, max_epochs=40, stop_loss=0.9, stop_count=2, learning_rate=0.01)
    keys = jax.random.split(jax.random.key(3), 4)
    members = train_ensemble(training, keys, xs, ys, member_axis="vmap", num_devices=1)
    assert len(set(np.asarray(members.epoch).tolist())) > 1
    assert bool(members.done.all())


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("momentum", marks=pytest.mark.slow)])
def test_ten_seeds_as_one_program_are_ten_trained_alone(data, optimizer):
    """On 1 and on 4 devices (10 members padded to 12), side by side and one after the other.

    Batch normalisation goes with momentum: the gradient of a bias before it is 0 but for rounding, and Adam
    makes full steps of rounding.
    """
    xs, ys = data
    config = cnn(1, 2, batch_norm=optimizer == "momentum", dropout=0.1, init="HN")
    network = build(config, input_shape=(6, 6, 1), num_outputs=3)
    training = training_of(network, optimizer=optimizer, max_epochs=3, batch_size=20)
    keys = jnp.stack([jax.random.key(seed) for seed in range(10)])
    program = jax.jit(training)
    alone = [program(key, xs, ys) for key in keys]
    ways = [(1, "map"), (4, "vmap")]
    if optimizer == "momentum":  # in the slow test
        ways += [(1, "vmap"), (4, "map")]
    for num_devices, member_axis in ways:
        together = train_ensemble(training, keys, xs, ys, member_axis=member_axis, num_devices=num_devices)
        assert together.epoch.shape == (10,)
        for index, member in enumerate(alone):
            close(jax.tree.map(lambda leaf, index=index: leaf[index], together), member)


def test_no_member_talks_to_another(data, network):
    xs, ys = data
    training = training_of(network, max_epochs=2)
    mesh = ensemble_module.device_mesh(4)
    start = ensemble_module._start_program(training.start, "vmap", mesh)
    advance = ensemble_module._advance_program(training.advance, "vmap", mesh)
    keys, padding = jnp.stack([jax.random.key(seed) for seed in range(4)]), np.zeros(4, bool)
    text = advance.lower(start(keys, None, padding), xs, ys, jnp.int32(2)).compile().as_text()
    collectives = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    assert not [name for name in collectives if name in text]


def test_the_number_of_calls_changes_nothing(data, network, monkeypatch):
    xs, ys = data
    training = training_of(network, max_epochs=5)
    keys = jax.random.split(jax.random.key(0), 2)
    seen = []
    once = train_ensemble(training, keys, xs, ys, num_devices=1, report=seen.append)
    monkeypatch.setattr(ensemble_module, "_SECONDS_PER_CALL", 0)
    often = []
    again = train_ensemble(training, keys, xs, ys, num_devices=1, report=often.append)
    assert [progress.epoch for progress in often] == [1, 2, 3, 4, 5]
    assert seen[-1].epoch == 5
    assert often[-1].members_done == 2
    close(once, again, rtol=0, atol=0)


def test_a_killed_run_goes_on_exactly(data, network, monkeypatch, tmp_path):
    xs, ys = data
    training = training_of(network, max_epochs=6)
    keys = jax.random.split(jax.random.key(0), 3)
    whole = train_ensemble(training, keys, xs, ys, num_devices=1)
    monkeypatch.setattr(ensemble_module, "_SECONDS_PER_CALL", 0)
    monkeypatch.setattr(ensemble_module, "_SECONDS_PER_CHECKPOINT", 0)

    def die_at_4(progress):
        if progress.epoch == 4:
            raise KeyboardInterrupt("now")

    folder = tmp_path / "half"
    with pytest.raises(KeyboardInterrupt, match="now"):
        train_ensemble(training, keys, xs, ys, num_devices=1, checkpoint=folder, report=die_at_4)
    epochs = []
    resumed = train_ensemble(
        training, keys, xs, ys, num_devices=1, checkpoint=folder, report=lambda p: epochs.append(p.epoch)
    )
    assert epochs == [4, 5, 6]  # the third epoch was the last one saved
    close(resumed, whole, rtol=0, atol=0)
    # Saved on one device, gone on with on two, where the three are padded to four.
    spread = train_ensemble(training, keys, xs, ys, num_devices=2, checkpoint=folder)
    close(spread, whole)
    with pytest.raises(InputError, match="members of other seeds"):
        train_ensemble(training, keys[::-1], xs, ys, num_devices=1, checkpoint=folder)
    with pytest.raises(InputError, match="delete that folder"):
        train_ensemble(training, keys[:2], xs, ys, num_devices=1, checkpoint=folder)


def test_observers_see_members_as_they_are_then(data, network, monkeypatch):
    """At epochs that no call would otherwise end at, without the padding, and once all are done."""
    xs, ys = data
    keys = jax.random.split(jax.random.key(0), 3)
    whole = training_of(network, max_epochs=6)
    seen = {}
    ends = train_ensemble(
        whole, keys, xs, ys, num_devices=2, snapshots=(4, 0, 1, 4), observe=lambda *both: seen.update([both])
    )
    assert list(seen) == [0, 1, 4]
    close(ends, train_ensemble(whole, keys, xs, ys, num_devices=1))
    for epoch, members in seen.items():
        assert np.asarray(members.epoch).tolist() == [epoch] * 3
        if epoch:
            shorter = training_of(network, max_epochs=epoch)
            close(members.params, train_ensemble(shorter, keys, xs, ys, num_devices=1).params)
    # All are done after the second epoch, and stay as they are.
    early = training_of(network, max_epochs=6, stop_loss=1e9, stop_count=2)
    late = []
    ends = train_ensemble(
        early, keys, xs, ys, num_devices=1, snapshots=(1, 5), observe=lambda *both: late.append(both)
    )
    assert [epoch for epoch, _ in late] == [1, 5]
    close(late[1][1], ends, rtol=0, atol=0)
    assert np.asarray(late[0][1].epoch).tolist() == [1, 1, 1]


def test_trained_members_are_kept_without_what_only_training_needs(data, network, tmp_path):
    xs, ys = data
    training = training_of(network, max_epochs=2)
    keys = jax.random.split(jax.random.key(0), 3)
    members = train_ensemble(training, keys, xs, ys, num_devices=1)
    file = tmp_path / "deeper" / "members.npz"
    shapes = jax.eval_shape(training.start, keys[0])
    assert load_trained(file, shapes) is None
    file.parent.mkdir()
    with file.open("wb") as stream:
        save_trained(stream, members, seconds=12.5)
    kept, seconds = load_trained(file, shapes)
    assert seconds == 12.5
    close((kept.params, kept.state), (members.params, members.state), rtol=0, atol=0)
    for name in ("epoch", "loss", "below", "done"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(members, name))
    assert kept.optimizer == ()
    assert list(file.parent.iterdir()) == [file]
    other = build(fully_connected(1, 9, init="HN"), input_shape=(6, 6, 1), num_outputs=3)
    assert load_trained(file, jax.eval_shape(training_of(other).start, keys[0])) is None
    for damage in (file.read_bytes()[:-100], b"", b"PK nonsense"):
        file.write_bytes(damage)
        assert load_trained(file, shapes) is None


def test_diverged_members_are_known_and_others_unharmed(data):
    xs, ys = data[0].reshape(60, -1), data[1]
    training = training_of(
        build(fully_connected(1, 8, init="HN"), input_shape=(36,), num_outputs=3), max_epochs=3
    )
    keys = jax.random.split(jax.random.key(0), 3)
    members = jax.vmap(training.start)(keys)
    poisoned = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), members.params)
    members = members._replace(params=poisoned)
    trained = jax.vmap(lambda member: training.advance(member, xs, ys, 3))(members)
    assert trained.diverged.tolist() == [False, True, False]
    assert trained.epoch.tolist() == [3, 1, 3]
    assert not members.diverged.any()


def test_augmentation_changes_each_batch_and_only_it(data, key):
    xs, ys = data[0].reshape(60, -1), data[1]
    config = TrainConfig("sgd", batch_size=None, max_epochs=1, learning_rate=0.1)
    plain = make_train(config, *linear_network(36, 3))(key, xs, ys)
    doubled = make_train(config, *linear_network(36, 3), augment=lambda x, *, key: 2 * x)(key, xs, ys)
    close(doubled.params["w"], 2 * plain.params["w"])  # the gradient at w = 0 is linear in x


def test_bad_input_is_refused(data, network, key, plain):
    xs, ys = data
    training = training_of(network)
    with pytest.raises(InputError, match="labels from 0 to 2"):
        training(key, xs, ys + 1)
    for bad in (ys - 1, ys + 1):
        with pytest.raises(InputError, match="labels from 0 to 2"):
            train_ensemble(training, key[None], xs, bad)
    regression = make_train(TrainConfig(loss="mse"), *linear_network(36, 1))
    with pytest.raises(InputError, match=r"expected shape \(60, 1\)"):
        regression(key, xs.reshape(60, -1), ys.astype(jnp.float32))
    with pytest.raises(InputError, match="line search finds the step"):
        TrainConfig("lbfgs", batch_size=None)
    with pytest.raises(InputError, match="integer class labels"):
        training(key, xs, ys.astype(jnp.float32))
    with pytest.raises(InputError, match="59 targets"):
        training(key, xs, ys[1:])
    with pytest.raises(InputError, match=r"jax.random.key\(seed\)"):
        training(jnp.zeros(2, jnp.uint32), xs, ys)
    with pytest.raises(InputError, match="devices=9; expected 1 to 4"):
        train_ensemble(training, key[None], xs, ys, num_devices=9)
    with pytest.raises(InputError, match="devices=0"):
        train_ensemble(training, key[None], xs, ys, num_devices=0)
    with pytest.raises(InputError, match="expected one of vmap, map"):
        train_ensemble(training, key[None], xs, ys, member_axis="loop")
    with pytest.raises(InputError, match="one key per member"):
        train_ensemble(training, key, xs, ys)
    with pytest.raises(InputError, match="the full batch"):
        TrainConfig("lbfgs")
    with pytest.raises(InputError, match="expected one of adam"):
        TrainConfig("adamw")
    with pytest.raises(InputError, match="learning_rate=-1"):
        dataclasses.replace(TrainConfig(), learning_rate=-1.0)
