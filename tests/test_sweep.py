"""Cells to rows: the numbers, resuming, kills, shards, refusals; and the command line over them."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens import cli, metrics, stats
from jaxsens.checks import InputError
from jaxsens.metrics import predicted_loss
from jaxsens.models import build, cnn, fully_connected
from jaxsens.plotting import Prediction, equation_9
from jaxsens.sweep import (
    PAPER,
    QUICK,
    Cell,
    DataConfig,
    MeasureConfig,
    Shard,
    SweepConfig,
    evaluate,
    merge_stores,
    run_sweep,
    select_cells,
)
from jaxsens.sweep import members as members_module
from jaxsens.sweep import run as run_module
from jaxsens.sweep.lock import Claims
from jaxsens.sweep.run import prepare_data
from jaxsens.table import Table, read_manifest, read_rows, read_table, write_rows
from jaxsens.train import LOSSES, TrainConfig, make_train

ROOT = Path(__file__).parents[1]
DATA = DataConfig("digits", num_train=100, num_test=150)
TRAIN = TrainConfig(max_epochs=3)
MEASURE = MeasureConfig(derivative_examples=120)
GRID = tuple(
    Cell(f"fc-1x{width}-hn", fully_connected(1, width, init="HN"), DATA, TRAIN, MEASURE, seeds=3)
    for width in (4, 8)
)


def without_times(table):
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in table.rows()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    config = SweepConfig("test", out, num_devices=1)
    return config, run_sweep(GRID, config)


@pytest.mark.slow  # test_sweep_programs.py counts what is compiled
def test_networks_that_differ_in_their_start_share_programs(tmp_path):
    """One compilation for two initialisers, and the rows of each are those that it has alone."""
    cells = [
        Cell(f"fc-{init}", fully_connected(1, 5, init=init), DATA, TRAIN, MEASURE, 2) for init in ("SN", "HN")
    ]
    run_module.shared_measures.cache_clear()
    together = run_sweep(cells, SweepConfig("test", tmp_path / "together", num_devices=1))
    assert run_module.shared_measures.cache_info().misses == 1
    run_module.shared_measures.cache_clear()
    alone = run_sweep(cells[1:], SweepConfig("test", tmp_path / "alone", num_devices=1))
    assert without_times(alone) == without_times(together.where(cell=cells[1].name))


def test_rows_are_the_measures_of_each_member(finished):
    """Each number again, member by member, from the public measures on the member trained alone."""
    _, table = finished
    data = prepare_data(DATA)
    splits = {
        "train": (jnp.asarray(data.x_train), jnp.asarray(data.y_train)),
        "test": (jnp.asarray(data.x_test), jnp.asarray(data.y_test)),
    }
    for cell in GRID:
        rows = table.where(cell=cell.name).rows()
        assert [row["seed"] for row in rows] == [0, 1, 2]
        assert {row["width"] for row in rows} == {cell.model.scale}
        assert {row["family"] for row in rows} == {"FC-1 HN"}
        network = build(cell.model, input_shape=(8, 8, 1), num_outputs=10)
        train = jax.jit(make_train(TRAIN, network.init, network.apply))
        probabilities = []
        for row in rows:
            member = train(jax.random.key(row["seed"]), jnp.asarray(data.x_train), jnp.asarray(data.y_train))
            f = network.function(member.state)
            for split in ("train", "test"):
                xs, ys = splits[split]
                logits = network.predict(member.params, member.state, xs)
                loss = LOSSES["cross_entropy"](logits, ys).mean()
                np.testing.assert_allclose(row[f"{split}_loss"], loss, rtol=1e-4)
                np.testing.assert_allclose(row[f"{split}_accuracy"], (logits.argmax(-1) == ys).mean())
            probabilities.append(jax.nn.softmax(logits))
            some = xs[:120]
            norms = metrics.jacobian_norms(f, member.params, some)
            np.testing.assert_allclose(
                row["jacobian_norm_before_softmax"], norms.before_softmax.mean(), rtol=1e-3
            )
            np.testing.assert_allclose(
                row["jacobian_norm_after_softmax"], norms.after_softmax.mean(), rtol=1e-3
            )
            exact = metrics.linearized_output_sensitivity(f, member.params, some)
            np.testing.assert_allclose(row["linearized_sensitivity_after"], exact, rtol=1e-3)
            # Another noise, so equal only within the error bars of both.
            sensitivity = metrics.output_sensitivity(f, member.params, xs, key=jax.random.key(99))
            errors = np.hypot(row["sensitivity_after_stderr"], sensitivity.stderr)
            assert abs(row["sensitivity_after"] - sensitivity.value) < 4 * errors
        targets = jax.nn.one_hot(data.y_test, 10)
        parts = metrics.bias_variance(jnp.stack(probabilities), targets)
        for name, value in (("bias", parts.bias), ("variance", parts.variance), ("mse_loss", parts.loss)):
            np.testing.assert_allclose([row[name] for row in rows], float(value), rtol=1e-3)


def test_predicted_loss_is_equation_9_in_table_and_picture(finished):
    config, table = finished
    (data,) = read_manifest(config.out)["data"]
    for cell in GRID:
        rows = table.where(cell=cell.name)
        mean = rows.column("sensitivity_after").mean()
        wanted = predicted_loss(mean, data["input_second_moment"], noise_std=0.1, num_outputs=10)
        drawn = equation_9(np.array([mean]), Prediction(10, data["input_second_moment"], 0.1))
        np.testing.assert_allclose(rows.column("predicted_loss"), wanted, rtol=1e-6)
        np.testing.assert_allclose(drawn, wanted, rtol=1e-6)


def test_finished_cells_are_read_not_run(finished, monkeypatch):
    config, table = finished
    monkeypatch.setattr(run_module, "run_cell", None)  # a call would fail
    assert run_sweep(GRID, config) == table
    assert read_table(config.out) == table
    manifest = read_manifest(config.out)
    assert sorted(manifest["cells"]) == sorted(cell.name for cell in GRID)
    assert manifest["missing_cells"] == []
    assert manifest["environments"][0]["packages"]["jax"] == jax.__version__


def test_what_decides_a_number_decides_the_file(finished):
    config, _ = finished
    cell = GRID[0]
    name = run_module.cell_file(cell, config, "f")
    assert run_module.cell_file(dataclasses.replace(cell, name="another"), config, "f") == name
    others = [
        run_module.cell_file(dataclasses.replace(cell, train=TrainConfig(max_epochs=4)), config, "f"),
        run_module.cell_file(dataclasses.replace(cell, measure=MeasureConfig(0.2)), config, "f"),
        *(
            run_module.cell_file(
                dataclasses.replace(cell, measure=dataclasses.replace(MEASURE, **change)), config, "f"
            )
            for change in (
                {"derivative_examples": 9},
                {"num_draws": 2},
                {"tangent_examples": 9},
                {"output_sensitivity": False},
            )
        ),
        *(
            run_module.cell_file(
                dataclasses.replace(cell, data=dataclasses.replace(DATA, **change)), config, "f"
            )
            for change in ({"num_test": 9}, {"inputs": "standard"}, {"image_size": 9}, {"subset_seed": 1})
        ),
        run_module.cell_file(dataclasses.replace(cell, seeds=4), config, "f"),
        run_module.cell_file(cell, config, "other data"),
    ]
    assert len({name, *others}) == 1 + len(others) == 13


def test_a_variance_beside_an_equation_is_unbiased(finished):
    _, table = finished
    np.testing.assert_allclose(table.column("variance_unbiased"), table.column("variance") * 3 / 2)


def test_a_resumed_training_does_not_know_its_time(tmp_path):
    config = SweepConfig("test", tmp_path, checkpoint=True, num_devices=1)
    data = prepare_data(DATA)
    (job,) = run_module.make_jobs(GRID[:1], config)
    members_module.half_way(job.network).mkdir(parents=True)
    rows = run_module.run_cell(GRID[0], data, config, network=job.network)
    assert {row["wall_seconds"] for row in rows} == {None}


def test_a_damaged_cell_runs_again(finished, tmp_path):
    _, table = finished
    config = SweepConfig("test", tmp_path, num_devices=1)
    run_sweep(GRID, config, chosen=GRID[:1])
    (file,) = (tmp_path / "cells").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    again = run_sweep(GRID, config, chosen=GRID[:1])
    assert without_times(again) == without_times(table.where(cell=GRID[0].name))


def test_numbers_of_a_member_beside_its_loss(finished):
    """S after the softmax and on the training set, and the logits' variance."""
    _, table = finished
    data = prepare_data(DATA)
    xs = jnp.asarray(data.x_test)
    cell = GRID[1]
    network = build(cell.model, input_shape=(8, 8, 1), num_outputs=10)
    train = jax.jit(make_train(TRAIN, network.init, network.apply))
    means = []
    for row in table.where(cell=cell.name).rows():
        member = train(jax.random.key(row["seed"]), jnp.asarray(data.x_train), jnp.asarray(data.y_train))
        f = network.function(member.state)
        for name, function, average, inputs in (
            ("sensitivity_after_softmax", lambda p, x, f=f: jax.nn.softmax(f(p, x)), "per_output", xs),
            ("sensitivity_train", f, "mean", jnp.asarray(data.x_train)),
        ):
            other = metrics.output_sensitivity(
                function, member.params, inputs, key=jax.random.key(7), average=average, num_draws=20
            )
            errors = np.hypot(row[f"{name}_stderr"], other.stderr)
            assert 0 < row[f"{name}_stderr"] < 0.5 * row[name]
            assert abs(row[name] - other.value) < 4 * errors
        means.append(np.asarray(network.predict(member.params, member.state, xs)).mean(axis=1))
        assert row["predicted_sensitivity_before"] is None  # not standard normal
    wanted = np.var(means, axis=0, ddof=1).mean()
    np.testing.assert_allclose(table.where(cell=cell.name).column("logit_variance"), wanted, rtol=1e-3)


def test_equation_10_is_told_for_the_networks_that_it_is_about():
    data = prepare_data(DATA)
    told = evaluate.predicted_at_init(fully_connected(2, 8), data, MEASURE)
    np.testing.assert_allclose(told, 64 / 10 * (8 / 2) ** 2 * 0.1**2)
    assert evaluate.predicted_at_init(fully_connected(2, 8, dropout=0.5), data, MEASURE) == told
    for other in (fully_connected(2, 8, init="XU"), fully_connected(2, 8, batch_norm=True), cnn(1, 2)):
        assert evaluate.predicted_at_init(other, data, MEASURE) is None


def test_each_half_gets_the_temperature_of_the_other():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 200)
    logits = (4 * rng.normal(size=(200, 3)) + 6 * np.eye(3)[labels]).astype(np.float32)
    told = evaluate.calibrated(logits, labels, 0.7)
    even, odd = (stats.fit_temperature(logits[i::2], labels[i::2]) for i in (0, 1))
    assert even > 1.1  # it was over-confident
    assert odd > 1.1
    np.testing.assert_allclose(told["temperature"], np.sqrt(even * odd), rtol=1e-6)
    np.testing.assert_allclose(told["sensitivity_after_calibrated"], 0.7 / (even * odd), rtol=1e-6)
    scaled = np.where(np.arange(200)[:, None] % 2 == 0, logits / odd, logits / even)
    log_probabilities = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
    loss = -log_probabilities[np.arange(200), labels].mean()
    np.testing.assert_allclose(told["test_loss_calibrated"], loss, rtol=1e-5)


def test_no_temperature_is_no_number():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    perfect = 5 * np.eye(3, dtype=np.float32)[labels]
    assert set(evaluate.calibrated(perfect, labels, 1.0).values()) == {None}
    assert set(evaluate.calibrated(-perfect, labels, 1.0).values()) == {None}


def test_seconds_are_a_median_without_the_first_chunk_and_the_short_one():
    slept = []

    def program(_, __, xs):
        time.sleep(0.2 if not slept else 0.01)
        slept.append(len(xs))
        return xs

    xs = [np.zeros(length) for length in (10, 10, 10, 3)]
    results, seconds = evaluate.timed(program, [(None, None, x) for x in xs])
    assert [len(result) for result in results] == [10, 10, 10, 3]
    assert 1.0 <= seconds < 5.0  # 0.01 s for 10 examples
    assert evaluate.timed(program, [(None, None, xs[0])])[1] is None


def test_stages_come_from_one_training(finished, tmp_path):
    """A measurement on the way is that of a network trained so far, and changes nothing at the end."""
    _, table = finished
    measure = dataclasses.replace(MEASURE, snapshots=(0, 2))
    cell = dataclasses.replace(GRID[0], measure=measure)
    config = SweepConfig("test", tmp_path, num_devices=1)
    staged = run_sweep((cell,), config)
    assert staged.where(seed=0).column("snapshot").tolist()[:2] == [0, 2]
    assert [row["snapshot"] for row in staged.where(seed=0).rows()] == [0, 2, None]
    end = without_times(staged.where(snapshot=None))
    assert end == without_times(table.where(cell=cell.name))
    shorter = dataclasses.replace(GRID[0], train=TrainConfig(max_epochs=2))
    stopped = run_sweep((shorter,), SweepConfig("test", tmp_path / "shorter", num_devices=1))
    for ours, theirs in zip(staged.where(snapshot=2).rows(), stopped.rows(), strict=True):
        for name in ("epochs", "train_loss", "test_loss", "sensitivity_after", "variance"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
    untrained = staged.where(snapshot=0)
    np.testing.assert_array_equal(
        untrained.column("sensitivity_after"), untrained.column("sensitivity_before")
    )


def test_stages_of_two_experiments_live_in_one_file(tmp_path, monkeypatch):
    def at(*snapshots):
        return dataclasses.replace(GRID[0], measure=dataclasses.replace(MEASURE, snapshots=snapshots))

    config = SweepConfig("test", tmp_path, num_devices=1)
    run_sweep((at(1),), config)
    run_sweep((at(2),), config)
    monkeypatch.setattr(run_module, "run_cell", None)  # a call would fail
    for snapshots in ((), (1,), (2,), (1, 2)):
        table = run_sweep((at(*snapshots),), config)
        assert {row["snapshot"] for row in table.rows()} == {None, *snapshots}


def test_a_network_is_trained_once_for_all_that_needs_it(tmp_path, monkeypatch):
    """Another measurement in the same sweep, another experiment on the same store, kept networks."""
    trained = []
    train = members_module.train_ensemble
    monkeypatch.setattr(members_module, "train_ensemble", lambda *a, **k: trained.append(1) or train(*a, **k))
    loud = dataclasses.replace(GRID[0], name="loud", measure=dataclasses.replace(MEASURE, noise_std=0.2))
    store = tmp_path / "store"
    both = run_sweep((GRID[0], loud), SweepConfig("one", tmp_path / "one", store=store, num_devices=1))
    assert len(trained) == 1
    assert not list(store.glob("networks/*"))
    calm, wild = (both.where(cell=cell.name) for cell in (GRID[0], loud))
    np.testing.assert_array_equal(calm.column("test_loss"), wild.column("test_loss"))
    assert np.all(wild.column("sensitivity_after") > 2 * calm.column("sensitivity_after"))

    renamed = dataclasses.replace(GRID[0], name="renamed")
    again = run_sweep((renamed,), SweepConfig("two", tmp_path / "two", store=store, num_devices=1))
    assert len(trained) == 1
    assert set(again.column("experiment")) == {"two"}
    assert again.cells() == ("renamed",)

    keeping = SweepConfig("three", tmp_path / "three", keep_networks=True, num_devices=1)
    run_sweep((GRID[0],), keeping)
    assert len(trained) == 2
    later = run_sweep((loud,), dataclasses.replace(keeping, out=tmp_path / "four", store=keeping.cells))
    assert len(trained) == 2
    assert without_times(later) == [row | {"experiment": "three"} for row in without_times(wild)]
    (network,) = keeping.cells.glob("networks/*.npz")
    network.write_bytes(network.read_bytes()[:-200])  # damaged: trained again
    quiet = dataclasses.replace(loud, measure=dataclasses.replace(MEASURE, noise_std=0.3))
    five = dataclasses.replace(keeping, out=tmp_path / "five", store=keeping.cells)
    run_sweep((quiet,), five)
    assert len(trained) == 3
    # Anew on request, and kept where it was.
    before = network.stat().st_mtime_ns
    run_sweep((quiet,), dataclasses.replace(five, keep_networks=False, resume=False))
    assert len(trained) == 4
    assert network.stat().st_mtime_ns > before


def test_presets_name_their_cells():
    part = dataclasses.replace(QUICK, models=(fully_connected(2, 8), cnn(1, 2, max_pool=True)), suffix="-x")
    assert [cell.name for cell in part.cells()] == ["fc-2x8-sn-x", "cnn-1x2-sn-mp-x"]
    assert {cell.seeds for cell in part.cells()} == {QUICK.seeds}
    assert PAPER.train == TrainConfig()  # Appendix A


def test_shards_make_up_the_whole(finished, tmp_path):
    _, table = finished
    first = SweepConfig("test", tmp_path, num_devices=1, shard=Shard.parse("0/2"))
    part = run_sweep(GRID, first)
    assert part.cells() == (GRID[0].name,)
    assert read_manifest(tmp_path)["missing_cells"] == [GRID[1].name]
    whole = run_sweep(GRID, dataclasses.replace(first, shard=Shard.parse("1/2")))
    assert without_times(whole) == without_times(table)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores with a cell each, rows and networks; each says of itself where it ran."""
    found = []
    for index in range(2):
        folder = tmp_path_factory.mktemp(f"shard-{index}")
        shard = Shard.parse(f"{index}/2")
        config = SweepConfig("test", folder, num_devices=1, shard=shard, keep_networks=True)
        run_sweep(GRID, config)
        (file,) = config.cells.glob("*.parquet")
        write_rows(read_rows(file), file, metadata={"environment": f'{{"host": "{index}"}}'})
        found.append(config.cells)
    return found


def test_shards_with_stores_of_their_own_are_merged(finished, stores, tmp_path, monkeypatch):
    """Rows, networks and where they ran come, from the first that has them; what is here stays."""
    _, table = finished
    monkeypatch.setattr(run_module, "run_cell", None)  # a call would fail
    here = SweepConfig("test", tmp_path / "out", num_devices=1, keep_networks=True)
    part = merge_stores(GRID, here, stores[:1])
    assert part.cells() == (GRID[0].name,)
    assert read_manifest(here.out)["missing_cells"] == [GRID[1].name]
    whole = merge_stores(GRID, here, stores)
    assert without_times(whole) == without_times(table)
    assert read_manifest(here.out)["missing_cells"] == []
    assert read_manifest(here.out)["environments"] == [{"host": "0"}, {"host": "1"}]
    names = [{path.name for path in (store / "networks").iterdir()} for store in (*stores, here.cells)]
    assert names[2] == names[0] | names[1]

    # The rows of another store do not replace those that are here; a damaged file here is replaced.
    (theirs,) = stores[0].glob("*.parquet")
    ours = here.cells / theirs.name
    changed = Table.from_rows(row | {"test_loss": 7.0} for row in read_rows(ours).rows())
    write_rows(changed, ours, metadata={"environment": "{}"})
    assert (merge_stores(GRID, here, stores).where(cell=GRID[0].name).column("test_loss") == 7).all()
    ours.write_bytes(ours.read_bytes()[:-7])
    assert without_times(merge_stores(GRID, here, stores)) == without_times(table)


def test_what_cannot_be_read_is_not_merged(stores, tmp_path):
    """Damaged files, those of another program, other configurations; a network waits for a sound one."""
    here = SweepConfig("test", tmp_path / "out", num_devices=1, keep_networks=True)
    other = [dataclasses.replace(cell, seeds=2) for cell in GRID]
    assert len(merge_stores(other, dataclasses.replace(here, out=tmp_path / "other"), stores)) == 0
    damaged = tmp_path / "damaged"
    shutil.copytree(stores[0], damaged)
    (cell,) = damaged.glob("*.parquet")
    (network,) = (damaged / "networks").iterdir()
    network.write_bytes(network.read_bytes()[:2000])
    rows = read_rows(cell)
    for content in (
        lambda: cell.write_bytes(cell.read_bytes()[:-7]),
        lambda: write_rows(rows, cell),
        lambda: write_rows(Table.from_rows([{"a": 1}]), cell, metadata={"environment": "{}"}),
    ):
        content()
        assert merge_stores(GRID, here, [damaged, stores[1]]).cells() == (GRID[1].name,)
    assert not (here.cells / "networks" / network.name).exists()
    assert merge_stores(GRID, here, [damaged, *stores]).cells() == tuple(cell.name for cell in GRID)
    sound = stores[0] / "networks" / network.name
    assert (here.cells / "networks" / network.name).read_bytes() == sound.read_bytes()
    (tmp_path / "empty").mkdir()
    for nothing in ("nowhere", "empty"):
        with pytest.raises(InputError, match=f"{nothing} without finished cells"):
            merge_stores(GRID, here, [tmp_path / nothing])


def test_cells_that_another_run_computes_are_left_to_it(stores, tmp_path):
    """With what it has kept half-way."""
    here = SweepConfig("test", tmp_path / "out", num_devices=1)
    (network,) = (stores[0] / "networks").iterdir()
    half = members_module.half_way(here.cells / "networks" / network.name)
    half.mkdir(parents=True)
    with Claims(here.cells) as claims:
        claims.take([network.name])
        with pytest.warns(UserWarning, match=f"{GRID[0].name} is left to process"):
            assert merge_stores(GRID, here, stores).cells() == (GRID[1].name,)
    assert half.exists()
    assert merge_stores(GRID, here, stores).cells() == tuple(cell.name for cell in GRID)


def test_one_member_has_no_variance(tmp_path):
    config = SweepConfig("test", tmp_path, num_devices=1)
    (row,) = run_sweep([dataclasses.replace(GRID[0], seeds=1)], config).rows()
    assert row["variance"] is None
    assert row["bias"] is None
    assert row["logit_variance"] is None
    assert row["mse_loss"] > 0


def test_diverged_members_are_reported_and_left_out(tmp_path):
    wild = dataclasses.replace(
        GRID[0],
        model=fully_connected(3, 8, init="SN"),
        train=TrainConfig("sgd", learning_rate=1e30, max_epochs=5),
    )
    with pytest.warns(run_module.Diverged, match=r"seeds \[0, 1, 2\] of 3 diverged"):
        table = run_sweep((wild,), SweepConfig("test", tmp_path, num_devices=1))
    assert table.column("diverged").all()
    assert "test_loss" not in table.columns or np.isnan(table.column("test_loss")).all()


def test_a_member_that_overflows_loses_its_number_and_stops_no_other(tmp_path, monkeypatch):
    """Outputs of 1e27, as untrained deep networks with standard normal weights have, and infinite ones."""
    noise = np.random.default_rng(0).normal(size=(1, 50, 3)).astype(np.float32)
    value, stderr = evaluate.sensitivity(noise)
    large, large_error = evaluate.sensitivity(noise * np.float32(1e27))
    np.testing.assert_allclose([large, large_error], [value * 1e54, stderr * 1e54], rtol=1e-5)
    noise[0, 0, 0] = np.inf
    assert evaluate.sensitivity(noise) == (None, None)
    # The loss of the first epoch is that before the step that blows up.
    wild = dataclasses.replace(
        GRID[0], train=TrainConfig("sgd", learning_rate=1e38, batch_size=None, max_epochs=1), seeds=2
    )
    with pytest.warns(run_module.Diverged, match="diverged"):
        table = run_sweep((wild,), SweepConfig("test", tmp_path, num_devices=1))
    assert table.column("diverged").all()


def test_regression_has_no_softmax(tmp_path):
    cell = Cell(
        "r",
        fully_connected(1, 4, init="HN"),
        DataConfig("diabetes", None),
        TrainConfig(max_epochs=2, loss="mse"),
    )
    table = run_sweep((cell,), SweepConfig("test", tmp_path, num_devices=1))
    assert "jacobian_norm_after_softmax" not in table.columns
    loss = table.column("test_loss").mean()
    np.testing.assert_allclose(table.column("mse_loss"), loss, rtol=1e-4)
    classes = dataclasses.replace(cell, train=TrainConfig(max_epochs=2))
    with pytest.raises(InputError, match="mse for regression"):
        run_sweep((classes,), SweepConfig("test", tmp_path))


def test_unusable_requests_are_refused(tmp_path, plain):
    with pytest.raises(InputError, match="no cell named 'vgg"):
        select_cells(GRID, pattern="vgg*")
    for text in ("2/2", "x", "1/0", "-1/2", "1", "\u00b2/3"):
        with pytest.raises(InputError, match="i/N"):
            Shard.parse(text)
    with pytest.raises(InputError, match="seeds=0"):
        dataclasses.replace(GRID[0], seeds=0)
    with pytest.raises(InputError, match="inputs='scaled'"):
        DataConfig(inputs="scaled")
    with pytest.raises(InputError, match="one name per cell"):
        run_sweep((GRID[0], GRID[0]), SweepConfig("test", tmp_path))
    quiet = dataclasses.replace(GRID[0], measure=MeasureConfig(noise_std=1e-9))
    with pytest.raises(InputError, match="100 roundings"):
        run_sweep((quiet,), SweepConfig("test", tmp_path))
    with pytest.raises(InputError, match="num_test=-5"):
        DataConfig(num_test=-5)
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(InputError, match="cannot be written"):
        run_sweep(GRID, SweepConfig("test", blocked))
    with pytest.raises(InputError, match="--out or --store"):
        run_sweep(GRID, SweepConfig("test", tmp_path, store=blocked))
    with pytest.raises(InputError, match="snapshots=\\(9,\\) for 3 epochs"):
        dataclasses.replace(GRID[0], measure=dataclasses.replace(MEASURE, snapshots=(9,)))
    with jax.enable_x64(True), pytest.raises(InputError, match="float32 and 'threefry2x32'"):
        run_sweep(GRID, SweepConfig("test", tmp_path))


def fig1(*words, **options):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "experiments" / "fig1.py"), *words]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "huge"], "preset 'huge'; expected one of quick, cpu, paper"),
        (["--seeds", "0"], "seeds=0"),
        (["--dataset", "cifar11"], "data set 'cifar11'"),
        (["--dataset", "cifar10", "--data-dir", "/nowhere"], "prepare cifar10"),
        (["--cells", "nothing*"], "no cell named 'nothing*'"),
        (["--shard", "3/2"], "shard '3/2'"),
        (["--devices", "64"], "devices=64"),
        (["--member-axis", "loop"], "member_axis='loop'"),
        (["--out", "/proc/nothing"], "cannot be written"),
        (["--preset", "cpu", "--dataset", "digits"], "larger images"),
        (["--dataset", "diabetes"], "images (n, h, w, c)"),
        (["--merge", "/nowhere"], "/nowhere without finished cells"),
        (["--merge", "cells", "--shard", "0/2"], "got --merge with"),
        (["--dataset", "nothing.npz"], "no file at nothing.npz"),
    ],
)
def test_bad_command_lines_end_in_one_line_and_exit_code_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    import fig1 as experiment

    out = tmp_path / "out"
    where = ["--store", str(tmp_path / "cells")] + (["--out", str(out)] if "--out" not in words else [])
    code = cli.main(experiment.EXPERIMENT, [*where, *words])
    printed = capsys.readouterr()
    assert code == 2
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert not (out / "table.csv").exists()


def test_unknown_options_end_in_one_line(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    import fig1 as experiment

    with pytest.raises(SystemExit, match="2"):
        cli.main(experiment.EXPERIMENT, ["--sedes", "3"])
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_table(tmp_path):
    """kill -9 in the middle of the quick preset (two of its cells), then the same command again."""
    words = ["--seeds", "2", "--cells", "alexnet*"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = fig1(*words, "--out", str(killed), "--store", str(killed / "cells"))
    deadline = time.monotonic() + 240
    while not list(killed.glob("cells/*.parquet")):
        assert time.monotonic() < deadline, "no cell finished"
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list(killed.glob("cells/*.parquet"))) == 1
    assert not (killed / "table.csv").exists()

    again = fig1(*words, "--out", str(killed), "--store", str(killed / "cells"))
    said = again.communicate()
    assert again.returncode == 0, said
    assert "already there" in said[1]
    uninterrupted = fig1(*words, "--out", str(whole), "--store", str(whole / "cells"))
    said = uninterrupted.communicate()
    assert uninterrupted.returncode == 0, said
    assert without_times(read_table(killed)) == without_times(read_table(whole))
    assert (killed / "fig1.png").stat().st_size > 10_000
    assert (killed / "fig1.pdf").exists()
