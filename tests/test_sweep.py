"""Cells to rows: the numbers, resuming, kills, shards, refusals; and the command line over them."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens import cli, metrics
from jaxsens.checks import InputError
from jaxsens.metrics import predicted_loss
from jaxsens.models import build, fully_connected
from jaxsens.plotting import Prediction, equation_9
from jaxsens.sweep import (
    Cell,
    DataConfig,
    MeasureConfig,
    Shard,
    SweepConfig,
    evaluate,
    run_sweep,
    select_cells,
)
from jaxsens.sweep import run as run_module
from jaxsens.sweep.run import prepare_data
from jaxsens.table import read_manifest, read_table
from jaxsens.train import LOSSES, TrainConfig, make_train

ROOT = Path(__file__).parents[1]
DATA = DataConfig("digits", num_train=100, num_test=150)
TRAIN = TrainConfig(max_epochs=3)
MEASURE = MeasureConfig(derivative_examples=120)
GRID = tuple(
    Cell(f"fc-1x{width}-hn", fully_connected(1, width, init="HN"), DATA, TRAIN, MEASURE) for width in (4, 8)
)


def without_times(table):
    return [{k: v for k, v in row.items() if k != "wall_seconds"} for row in table.rows()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    config = SweepConfig("test", out, seeds=3, num_devices=1)
    return config, run_sweep(GRID, config)


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
    assert run_module.cell_file(dataclasses.replace(cell, name=cell.name), config, "f") == name
    others = [
        run_module.cell_file(dataclasses.replace(cell, train=TrainConfig(max_epochs=4)), config, "f"),
        run_module.cell_file(dataclasses.replace(cell, measure=MeasureConfig(0.2)), config, "f"),
        run_module.cell_file(cell, dataclasses.replace(config, seeds=4), "f"),
        run_module.cell_file(cell, config, "other data"),
    ]
    assert len({name, *others}) == 5


def test_a_damaged_cell_runs_again(finished, tmp_path):
    _, table = finished
    config = SweepConfig("test", tmp_path, seeds=3, num_devices=1)
    run_sweep(GRID, config, chosen=GRID[:1])
    (file,) = (tmp_path / "cells").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    again = run_sweep(GRID, config, chosen=GRID[:1])
    assert without_times(again) == without_times(table.where(cell=GRID[0].name))


def test_shards_make_up_the_whole(finished, tmp_path):
    _, table = finished
    first = SweepConfig("test", tmp_path, seeds=3, num_devices=1, shard=Shard.parse("0/2"))
    part = run_sweep(GRID, first)
    assert part.cells() == (GRID[0].name,)
    assert read_manifest(tmp_path)["missing_cells"] == [GRID[1].name]
    whole = run_sweep(GRID, dataclasses.replace(first, shard=Shard.parse("1/2")))
    assert without_times(whole) == without_times(table)


def test_one_member_has_no_variance(tmp_path):
    config = SweepConfig("test", tmp_path, seeds=1, num_devices=1)
    (row,) = run_sweep(GRID[:1], config).rows()
    assert row["variance"] is None
    assert row["bias"] is None
    assert row["mse_loss"] > 0


def test_diverged_members_are_reported_and_left_out(tmp_path):
    wild = dataclasses.replace(
        GRID[0],
        model=fully_connected(3, 8, init="SN"),
        train=TrainConfig("sgd", learning_rate=1e30, max_epochs=5),
    )
    with pytest.warns(run_module.Diverged, match=r"seeds \[0, 1, 2\] of 3 diverged"):
        table = run_sweep((wild,), SweepConfig("test", tmp_path, seeds=3, num_devices=1))
    assert table.column("diverged").all()
    assert "test_loss" not in table.columns or np.isnan(table.column("test_loss")).all()


def test_a_member_that_overflows_loses_its_number_and_stops_no_other(tmp_path, monkeypatch):
    """Outputs of 1e27, as untrained deep networks with standard normal weights have, and infinite ones."""
    noise = jax.random.normal(jax.random.key(0), (1, 50, 3))
    value, stderr = evaluate.sensitivity(noise)
    large, large_error = evaluate.sensitivity(noise * 1e27)
    np.testing.assert_allclose([large, large_error], [value * 1e54, stderr * 1e54], rtol=1e-5)
    assert evaluate.sensitivity(noise.at[0, 0, 0].set(jnp.inf)) == (None, None)
    # The loss of the first epoch is that before the step that blows up.
    wild = dataclasses.replace(
        GRID[0], train=TrainConfig("sgd", learning_rate=1e38, batch_size=None, max_epochs=1)
    )
    with pytest.warns(run_module.Diverged, match="diverged"):
        table = run_sweep((wild,), SweepConfig("test", tmp_path, seeds=2, num_devices=1))
    assert table.column("diverged").all()


def test_regression_has_no_softmax(tmp_path):
    cell = Cell(
        "r",
        fully_connected(1, 4, init="HN"),
        DataConfig("diabetes", None),
        TrainConfig(max_epochs=2, loss="mse"),
    )
    table = run_sweep((cell,), SweepConfig("test", tmp_path, seeds=2, num_devices=1))
    assert "jacobian_norm_after_softmax" not in table.columns
    loss = table.column("test_loss").mean()
    np.testing.assert_allclose(table.column("mse_loss"), loss, rtol=1e-4)
    classes = dataclasses.replace(cell, train=TrainConfig(max_epochs=2))
    with pytest.raises(InputError, match="mse for regression"):
        run_sweep((classes,), SweepConfig("test", tmp_path, seeds=2))


def test_unusable_requests_are_refused(tmp_path, plain):
    with pytest.raises(InputError, match="no cell named 'vgg"):
        select_cells(GRID, pattern="vgg*")
    for text in ("2/2", "x", "1/0", "-1/2", "1", "\u00b2/3"):
        with pytest.raises(InputError, match="i/N"):
            Shard.parse(text)
    with pytest.raises(InputError, match="seeds=0"):
        SweepConfig("test", tmp_path, seeds=0)
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
        (["--dataset", "nothing.npz"], "no file at nothing.npz"),
    ],
)
def test_bad_command_lines_end_in_one_line_and_exit_code_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    import fig1 as experiment

    out = tmp_path / "out"
    code = cli.main(experiment.EXPERIMENT, [*(["--out", str(out)] if "--out" not in words else []), *words])
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


def test_a_killed_run_resumes_to_the_same_table(tmp_path):
    """kill -9 in the middle of the quick preset (two of its cells), then the same command again."""
    words = ["--seeds", "2", "--cells", "alexnet*"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = fig1(*words, "--out", str(killed))
    deadline = time.monotonic() + 240
    while not list(killed.glob("cells/*.parquet")):
        assert time.monotonic() < deadline, "no cell finished"
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list(killed.glob("cells/*.parquet"))) == 1
    assert not (killed / "table.csv").exists()

    again = fig1(*words, "--out", str(killed))
    said = again.communicate()
    assert again.returncode == 0, said
    assert "already there" in said[1]
    uninterrupted = fig1(*words, "--out", str(whole))
    said = uninterrupted.communicate()
    assert uninterrupted.returncode == 0, said
    assert without_times(read_table(killed)) == without_times(read_table(whole))
    assert (killed / "fig1.png").stat().st_size > 10_000
    assert (killed / "fig1.pdf").exists()
