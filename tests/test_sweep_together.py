"""Cells that differ in hyper-parameters train as one program: the rows are those of each cell alone."""

import dataclasses

import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.models import fully_connected
from jaxsens.sweep import Cell, DataConfig, MeasureConfig, Shard, SweepConfig, run_sweep
from jaxsens.sweep import members as members_module
from jaxsens.sweep import run as run_module
from jaxsens.sweep.members import batched, together_key
from jaxsens.table import read_manifest
from jaxsens.train import TrainConfig

MEASURE = MeasureConfig(derivative_examples=20, output_sensitivity=False)
LABELS = {
    "true": DataConfig("digits", num_train=60, num_test=50),
    "random": DataConfig("digits", num_train=60, num_test=50, label_noise=1.0),
}
WAYS = {
    "adam": TrainConfig(learning_rate=0.02, batch_size=32, max_epochs=4),
    "momentum": TrainConfig("momentum", learning_rate=0.2, weight_decay=0.01, batch_size=32, max_epochs=4),
}
LBFGS = TrainConfig("lbfgs", learning_rate=1.0, batch_size=None, max_epochs=2)


def model(activation):
    return fully_connected(1, 6, init="FU", activation=activation)


def cell(name, activation="relu", labels="true", train=WAYS["adam"], measure=MEASURE, seeds=2):
    return Cell(name, model(activation), LABELS[labels], train, measure, seeds)


ALIKE = tuple(
    cell(f"{activation}-{way}-{labels}", activation, labels, WAYS[way])
    for activation in ("relu", "hard_tanh")
    for way in WAYS
    for labels in LABELS
)
GRID = (*ALIKE[:3], cell("tanh", "tanh"), *ALIKE[3:], cell("lbfgs", train=LBFGS))
"""Eight cells of one program, and two with one of their own."""


def config_of(out, **options):
    return SweepConfig("test", out, num_devices=1, **{"together": 16, **options})


def without_times(table):
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in table.rows()]


def networks(config):
    return sorted(path.name for path in config.cells.glob("networks/*"))


def count_into(calls, monkeypatch):
    """Each call of the training adds how many members it trains."""
    train = members_module.train_ensemble

    def counted(training, keys, *args, **options):
        calls.append(len(keys))
        return train(training, keys, *args, **options)

    monkeypatch.setattr(members_module, "train_ensemble", counted)


@pytest.fixture
def trained(monkeypatch):
    calls = []
    count_into(calls, monkeypatch)
    return calls


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """How the grid was run, its table, and the number of members of each training."""
    config, calls = config_of(tmp_path_factory.mktemp("together"), keep_networks=True), []
    with pytest.MonkeyPatch.context() as monkeypatch:
        count_into(calls, monkeypatch)
        return config, run_sweep(GRID, config), calls


def names(batches):
    return [[job.cell.name for job in batch] for batch in batches]


@pytest.mark.slow
def test_rows_are_those_of_each_cell_alone(together, tmp_path, trained):
    _, table, calls = together
    assert sorted(calls) == [2, 2, 16]
    alone = run_sweep(GRID, config_of(tmp_path, together=1))
    assert trained == [2] * 10
    assert table.columns == alone.columns
    assert table.cells() == alone.cells() == tuple(one.name for one in GRID)
    for found, wanted in zip(without_times(table), without_times(alone), strict=True):
        for name, value in wanted.items():
            if isinstance(value, float):
                np.testing.assert_allclose(found[name], value, rtol=1e-3, err_msg=f"{found['cell']}: {name}")
            else:
                assert found[name] == value, name
    # Cells differ from each other by more than that, in each thing that differs within a program.
    numbers = np.array(
        [
            [
                table.where(cell=one.name).column(name)[0]
                for name in ("train_loss", "jacobian_norm_before_softmax")
            ]
            for one in ALIKE
        ]
    )
    apart = np.abs(np.log(numbers[:, None] / numbers)).max(axis=-1)
    assert apart[~np.eye(8, dtype=bool)].min() > 0.01


def test_seconds_are_shares_of_the_whole(together):
    _, table, _ = together
    seconds = [table.where(cell=one.name).column("wall_seconds") for one in ALIKE]
    # All train for four epochs.
    np.testing.assert_allclose(seconds, seconds[0][0])
    assert seconds[0][0] > 0


def test_batches_hold_as_many_as_allowed_in_the_order_of_the_grid(tmp_path):
    jobs = run_module.make_jobs((*GRID, cell("many", seeds=20)), config_of(tmp_path))
    alike = [one.name for one in ALIKE]
    assert names(batched(jobs, 16)) == [alike, ["tanh"], ["lbfgs"], ["many"]]
    # 7 members: three cells of two.
    assert names(batched(jobs, 7)) == [alike[:3], ["tanh"], alike[3:6], alike[6:], ["lbfgs"], ["many"]]
    assert names(batched(jobs, 1)) == [[job.cell.name] for job in jobs]
    for limit in (1, 2, 5, 16, 1000):
        parts = batched(jobs, limit)
        assert sorted(job.cell.name for batch in parts for job in batch) == sorted(
            job.cell.name for job in jobs
        )
        for batch in parts:
            assert len(batch) == 1 or sum(job.cell.seeds for job in batch) <= limit
            assert len({together_key(job) for job in batch}) == 1


def test_only_what_shares_a_program_is_put_together(tmp_path):
    base = cell("base")

    def with_train(name, **changes):
        return dataclasses.replace(base, name=name, train=dataclasses.replace(base.train, **changes))

    def with_data(name, **changes):
        return dataclasses.replace(base, name=name, data=dataclasses.replace(base.data, **changes))

    def with_measure(name, **changes):
        return dataclasses.replace(base, name=name, measure=dataclasses.replace(base.measure, **changes))

    alike = (
        with_train("rate", learning_rate=0.5),
        with_train("rule", optimizer="rmsprop"),
        with_train("decay", weight_decay=0.5),
        with_data("noise", label_noise=0.5),
        with_measure("measured", noise_std=0.2),
        dataclasses.replace(base, name="linear pieces", model=model("hard_sigmoid")),
        dataclasses.replace(base, name="seeds", seeds=3),
    )
    other = (
        with_train("batch", batch_size=20),
        with_train("epochs", max_epochs=5),
        with_train("stop", stop_loss=0.1),
        with_train("augmented", augment="shift"),
        with_data("examples", num_train=50),
        with_data("subset", subset_seed=1),
        with_data("inputs", inputs="standard"),
        dataclasses.replace(base, name="width", model=fully_connected(1, 7, init="FU")),
        dataclasses.replace(base, name="start", model=fully_connected(1, 6, init="SN")),
        dataclasses.replace(base, name="smooth", model=model("tanh")),
        with_measure("stages", snapshots=(1,)),
        dataclasses.replace(base, name="lbfgs", train=LBFGS),
    )
    first, *jobs = run_module.make_jobs((base, *alike, *other), config_of(tmp_path))
    keys = {job.cell.name: together_key(job) for job in jobs}
    assert [name for name, key in keys.items() if key == together_key(first)] == [one.name for one in alike]
    assert keys["smooth"] is keys["stages"] is None
    assert names(batched([first, *jobs], 1000))[0] == [one.name for one in (base, *alike)]


@pytest.mark.slow
def test_shards_are_parts_of_the_batches(tmp_path, trained):
    """Two cells in each batch, a batch for each shard: no cell twice, none left out."""
    seen = []
    for index in range(3):
        out = tmp_path / str(index)
        part = run_sweep(ALIKE[:6], config_of(out, together=4, shard=Shard(index, 3)))
        seen += part.cells()
        missing = {one.name for one in ALIKE[:6]} - set(part.cells())
        assert set(read_manifest(out)["missing_cells"]) == missing
    assert trained == [4, 4, 4]
    assert seen == [one.name for one in ALIKE[:6]]


def test_a_killed_batch_goes_on_with_what_is_missing(together, tmp_path, trained):
    class Killer(run_module.Watcher):
        ended = 0

        def cell_ends(self, name, *, seconds, resumed):
            self.ended += 1
            if self.ended == 3:
                raise KeyboardInterrupt("now")

    config = config_of(tmp_path)
    with pytest.raises(KeyboardInterrupt, match="now"):
        run_sweep(ALIKE, config, watcher=Killer())
    assert trained == [16]
    assert networks(config) == []
    resumed = run_sweep(ALIKE, config)
    assert trained == [16, 10]
    assert networks(config) == []
    run_sweep(ALIKE, config)
    assert len(trained) == 2
    _, whole, _ = together
    for name in ("train_loss", "test_loss", "jacobian_norm_before_softmax"):
        wanted = np.concatenate([whole.where(cell=one.name).column(name) for one in ALIKE])
        np.testing.assert_allclose(resumed.column(name), wanted, rtol=1e-3)


def test_kept_networks_serve_other_measurements(together, tmp_path, trained):
    """And a network that two cells of a batch need is trained once."""
    config, _, _ = together
    assert len(networks(config)) == 10
    loud = dataclasses.replace(
        ALIKE[0], name="loud", measure=dataclasses.replace(MEASURE, derivative_examples=10)
    )
    both = (ALIKE[1], loud)
    run_sweep(both, dataclasses.replace(config, out=tmp_path / "loud", store=config.cells))
    assert trained == []
    assert len(networks(config)) == 10
    again = config_of(tmp_path / "both")
    run_sweep((ALIKE[0], *both), again)
    assert trained == [4]
    assert networks(again) == []
    # Anew on request, and only those.
    run_sweep(ALIKE[:2], dataclasses.replace(again, resume=False, keep_networks=True))
    assert trained == [4, 4]
    assert len(networks(again)) == 2


def test_refusals(tmp_path, plain):
    with pytest.raises(InputError, match="together=0"):
        config_of(tmp_path, together=0)
