"""What training needs of memory: estimates that hold, members in parts with the same numbers, refusals."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.models import build, cnn
from jaxsens.train import TrainConfig, make_train, memory, train_ensemble
from jaxsens.train import ensemble as ensemble_module

NETWORK = build(cnn(1, 2, init="HN"), input_shape=(6, 6, 1), num_outputs=3)
TRAINING = make_train(TrainConfig(max_epochs=4, batch_size=20), NETWORK.init, NETWORK.apply)
KEYS = jnp.stack([jax.random.key(seed) for seed in range(5)])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(40, 6, 6, 1)).astype(np.float32)
    return jnp.asarray(xs), jnp.asarray(rng.integers(0, 3, 40).astype(np.int32))


@pytest.fixture(scope="module")
def whole(data):
    return train_ensemble(TRAINING, KEYS, *data, member_axis="map", num_devices=1)


def same(a, b, **tolerance):
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, **({"rtol": 0} | tolerance))


def arguments(data, members):
    stacked = jax.eval_shape(jax.vmap(TRAINING.start), KEYS[:members])
    return (
        stacked,
        *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in data),
        jax.ShapeDtypeStruct((), "int32"),
    )


@pytest.fixture
def room_for_two(data, monkeypatch):
    """Memory for two members on a device, as estimated: the compiler is not asked."""
    monkeypatch.setattr(ensemble_module, "compiled_bytes", lambda *_: None)

    def room(member_axis, num_devices, copies=1):
        mesh = ensemble_module.device_mesh(num_devices)
        program = ensemble_module._advance_program(TRAINING.advance, member_axis, mesh)
        needed = memory.traced_bytes(program, arguments(data, 2 * num_devices))
        one = memory.stored_bytes(jax.eval_shape(TRAINING.start, KEYS[0]))
        return needed + copies * len(KEYS) * one // num_devices

    return room


@pytest.mark.slow
def test_the_estimate_is_more_than_the_compiler_tells_and_not_much_more(data):
    mesh, grows = ensemble_module.device_mesh(1), {}
    for member_axis in ("map", "vmap"):
        program = ensemble_module._advance_program(TRAINING.advance, member_axis, mesh)
        traced = [memory.traced_bytes(program, arguments(data, members)) for members in (2, 3, 4)]
        compiled = memory.compiled_bytes(program, arguments(data, 3))
        assert compiled <= traced[1] <= 2 * compiled
        grows[member_axis] = traced[1] - traced[0]
        assert traced[2] - traced[1] == grows[member_axis]
    # Members side by side have activations each, one after the other those of one.
    assert grows["vmap"] > grows["map"] + 4 * 20 * 6 * 6 * 2


def test_the_estimate_counts_values_from_their_birth_to_their_last_use():
    def function(x):
        y = jnp.concatenate([x, x])  # 2
        z = jnp.concatenate([y, y])  # 2 + 4
        w = jnp.concatenate([z, z])  # 4 + 8, y is gone
        return w[:1]

    found = memory.traced_bytes(jax.jit(function), (jax.ShapeDtypeStruct((256,), "float32"),))
    assert found == 1024 * (1 + 4 + 8)


def test_the_largest_number_that_fits():
    def needed(count):
        return 100 if count == 1 else 70 + 40 * count

    for available in range(60, 500, 7):
        expected = max((n for n in range(1, 9) if needed(n) <= available), default=0)
        assert memory.largest_fit(needed, 8, available) == expected
    assert memory.largest_fit(needed, 1, 1000) == 1
    assert memory.largest_fit(needed, 2, 1000) == 2


def test_members_that_do_not_fit_train_in_parts(data, whole, room_for_two):
    seen = []
    parts = train_ensemble(
        TRAINING,
        KEYS,
        *data,
        member_axis="map",
        num_devices=1,
        max_bytes=room_for_two("map", 1),
        report=seen.append,
    )
    same(parts, whole)
    assert isinstance(jax.tree.leaves(parts.params)[0], np.ndarray)
    assert [p.part for p in seen if p.epoch == 4] == [0, 1, 2]
    assert {p.num_parts for p in seen} == {3}
    assert [p.members_done for p in seen if p.epoch == 4] == [2, 4, 5]
    assert {p.num_members for p in seen} == {5}
    sides = train_ensemble(
        TRAINING, KEYS, *data, member_axis="vmap", num_devices=2, max_bytes=room_for_two("vmap", 2)
    )
    same(sides, whole, rtol=1e-4, atol=1e-5)


def test_the_compiler_is_asked_before_members_are_parted(data, whole, monkeypatch):
    """The estimate of the trace is too large, so that what only it forbids is not parted."""
    seen = []
    monkeypatch.setattr(ensemble_module, "compiled_bytes", lambda *_: 1)
    enough = memory.stored_bytes(data) + 2 * 5 * memory.stored_bytes(jax.eval_shape(TRAINING.start, KEYS[0]))
    again = train_ensemble(
        TRAINING, KEYS, *data, member_axis="map", num_devices=1, max_bytes=enough, report=seen.append
    )
    assert {p.num_parts for p in seen} == {1}
    same(again, whole)


def test_snapshots_of_parts_are_joined(data, whole, room_for_two):
    seen = {}
    train_ensemble(
        TRAINING,
        KEYS,
        *data,
        member_axis="map",
        num_devices=1,
        max_bytes=room_for_two("map", 1, copies=3),
        snapshots=(4, 2),
        observe=lambda *both: seen.update([both]),
    )
    assert list(seen) == [2, 4]
    same(seen[4], whole)
    assert seen[2].epoch.tolist() == [2] * 5


def test_a_killed_run_in_parts_goes_on_exactly(data, whole, room_for_two, tmp_path):
    def run(report):
        return train_ensemble(
            TRAINING,
            KEYS,
            *data,
            member_axis="map",
            num_devices=1,
            max_bytes=room_for_two("map", 1),
            checkpoint=tmp_path / "half",
            report=report,
        )

    def die_in_second(progress):
        if progress.part == 1:
            raise KeyboardInterrupt("now")

    with pytest.raises(KeyboardInterrupt, match="now"):
        run(die_in_second)
    seen = []
    same(run(seen.append), whole)
    assert {p.part for p in seen} == {1, 2}  # the first was done


def test_the_memory_there_is(tmp_path):
    one, four = (memory.available_bytes(jax.devices()[:count]) for count in (1, 4))
    assert abs(one - 4 * four) <= 4
    assert 0 < one < memory.host_bytes()

    def accelerator(stats):
        device = mock.create_autospec(jax.Device, instance=True)
        device.platform = "gpu"
        device.memory_stats.return_value = stats
        return device

    assert memory.available_bytes([accelerator({"bytes_limit": n}) for n in (1000, 500)]) == 450
    assert memory.available_bytes([accelerator(None)]) is None


def test_limits_of_control_groups_around_this_process(tmp_path):
    inner = tmp_path / "root" / "batch" / "job"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("12345\n")
    (tmp_path / "memory.max").write_text("1\n")  # outside
    membership = tmp_path / "cgroup"
    membership.write_text("1:name=old:/x\n0::/batch/job\n")
    assert list(memory.group_limits(membership, tmp_path / "root")) == [12345]
    assert list(memory.group_limits(tmp_path / "none", tmp_path / "root")) == []


def test_what_does_not_fit_is_refused(data):
    with pytest.raises(InputError, match=r"for one member in training on each device.*allow more memory"):
        train_ensemble(TRAINING, KEYS[:1], *data, num_devices=1, max_bytes=1000)
    with pytest.raises(InputError, match="max_bytes=0"):
        train_ensemble(TRAINING, KEYS, *data, num_devices=1, max_bytes=0)
