"""A sweep on a Dask cluster of real processes: the same rows, killed workers and clients, refusals."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from distributed import Client, KilledWorker

from jaxsens import cli
from jaxsens.checks import InputError
from jaxsens.models import fully_connected
from jaxsens.sweep import (
    Cell,
    DataConfig,
    Diverged,
    MeasureConfig,
    SweepConfig,
    Watcher,
    cluster,
    run_sweep,
)
from jaxsens.sweep import run as run_module
from jaxsens.sweep import store as store_module
from jaxsens.table import read_manifest
from jaxsens.train import TrainConfig

ROOT = Path(__file__).parents[1]
DATA = DataConfig("digits", num_train=100, num_test=150)
MEASURE = MeasureConfig(derivative_examples=20)
LESS = MeasureConfig(derivative_examples=30, output_sensitivity=False)
CELL = Cell("a", fully_connected(1, 4, init="HN"), DATA, TrainConfig(max_epochs=3), MEASURE, seeds=2)
# They differ in what nothing is compiled for.
STARTS = tuple(
    dataclasses.replace(CELL, name=f"from-{init}", model=fully_connected(1, 4, init=init), measure=LESS)
    for init in ("HN", "SN", "XU")
)
LONG = dataclasses.replace(
    CELL, name="long", measure=LESS, train=TrainConfig(learning_rate=1e-6, max_epochs=40_000)
)


class Processes(NamedTuple):
    """A running cluster, and the folder that its workers are in."""

    address: str
    folder: Path


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """A scheduler and two workers on the loopback device, each a process without a nanny."""
    folder = tmp_path_factory.mktemp("workers")
    told = folder / "scheduler.json"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "PYTHONPATH": str(ROOT),
        # What one worker compiled, the other reads.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    local = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(told)]
    worker = ["distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1", *local]
    worker += ["--local-directory", str(folder)]
    with (folder / "log").open("w") as log:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", *words], cwd=folder, env=environment, stdout=log, stderr=log
            )
            for words in (["distributed.cli.dask_scheduler", "--port", "0", *local], worker, worker)
        ]
        try:
            deadline = time.monotonic() + 60
            while not told.exists():
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
            address = json.loads(told.read_text())["address"]
            with Client(address, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=120)
            yield Processes(address, folder)
        finally:
            # A worker that loses its scheduler while it closes would wait for it.
            for process in started:
                process.kill()
                process.wait()


def without_times(table):
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in table.rows()]


class Record(Watcher):
    """Which cells were computed, and which read."""

    def __init__(self):
        self.computed = []
        self.resumed = []

    def cell_ends(self, name, *, seconds, resumed):
        (self.resumed if resumed else self.computed).append(name)


@pytest.mark.slow
def test_rows_are_those_of_a_local_run(processes, tmp_path):
    """One network for two measurements, and one whose members diverge: trained once, and told."""
    wild = dataclasses.replace(
        CELL,
        name="wild",
        measure=LESS,
        train=TrainConfig("sgd", learning_rate=1e38, batch_size=None, max_epochs=1),
    )
    again = dataclasses.replace(CELL, name="again", measure=LESS)
    grid = (CELL, again, wild)
    here = SweepConfig("test", tmp_path / "here", num_devices=1)
    there = dataclasses.replace(here, out=tmp_path / "there", scheduler=processes.address)
    with pytest.warns(Diverged, match=r"wild: seeds \[0, 1\] of 2 diverged"):
        local = run_sweep(grid, here)
    record = Record()
    with pytest.warns(Diverged, match=r"wild: seeds \[0, 1\] of 2 diverged"):
        remote = run_sweep(grid, there, watcher=record)
    assert sorted(record.computed) == ["a", "again", "wild"]
    assert without_times(remote) == without_times(local)
    seconds = [remote.where(cell=name).column("wall_seconds").tolist() for name in ("a", "again")]
    assert seconds[0] == seconds[1]
    assert not list(there.cells.glob("networks/*"))
    (environment,) = read_manifest(there.out)["environments"]
    assert environment["num_devices"] == 1
    assert environment["packages"]["jax"] == jax.__version__


def test_a_batch_is_one_program_and_its_networks_come_back(processes, tmp_path):
    grid = tuple(
        dataclasses.replace(
            CELL, name=f"rate-{rate}", train=TrainConfig(learning_rate=rate, max_epochs=3), measure=LESS
        )
        for rate in (1e-4, 1e-3)
    )
    here = SweepConfig("test", tmp_path / "here", num_devices=1, together=4, keep_networks=True)
    there = dataclasses.replace(here, out=tmp_path / "there", scheduler=processes.address)
    local, remote = run_sweep(grid, here), run_sweep(grid, there)
    assert without_times(remote) == without_times(local)
    files = sorted(there.cells.glob("networks/*"))
    assert [file.name for file in files] == sorted(file.name for file in here.cells.glob("networks/*"))
    assert len(files) == 2
    for file in files:
        with np.load(file) as ours, np.load(here.cells / "networks" / file.name) as theirs:
            for name in set(theirs) - {"seconds"}:
                np.testing.assert_array_equal(ours[name], theirs[name])
    # Networks that are there are measured, not trained.
    before = [file.stat().st_mtime_ns for file in files]
    measured = run_sweep([dataclasses.replace(cell, measure=MEASURE) for cell in grid], there)
    assert [file.stat().st_mtime_ns for file in files] == before
    np.testing.assert_array_equal(measured.column("wall_seconds"), remote.column("wall_seconds"))


def test_a_cell_that_fails_stops_no_other_and_is_named(processes, tmp_path, monkeypatch):
    """The workers' folder has another file of that name."""
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, processes.folder):
        arrays = {f"x_{part}": rng.normal(size=(40, 6)).astype(np.float32) for part in ("train", "test")}
        labels = {f"y_{part}": np.arange(40) % 3 for part in ("train", "test")}
        np.savez(folder / "points.npz", **arrays, **labels)
    other = dataclasses.replace(CELL, name="points", data=DataConfig("points.npz", None))
    config = SweepConfig("test", tmp_path / "out", num_devices=1, scheduler=processes.address)
    record = Record()
    with pytest.raises(
        InputError, match=r"points, on a worker: got data 'points\.npz' that are not those of"
    ):
        run_sweep((other, CELL), config, watcher=record)
    assert record.computed == ["a"]
    run_sweep((CELL,), config, watcher=record)
    assert record.resumed == ["a"]


@pytest.mark.slow
def test_a_killed_client_and_a_killed_worker_lose_nothing(processes, tmp_path):
    """The client stops after its first cell; the next loses a worker that has a cell."""
    config = SweepConfig("test", tmp_path / "there", num_devices=1, scheduler=processes.address)
    grid = (LONG, *STARTS)

    class Stopped(Record):
        def cell_ends(self, name, **told):
            super().cell_ends(name, **told)
            raise KeyboardInterrupt("pressed")

    stopped = Stopped()
    with pytest.raises(KeyboardInterrupt, match="pressed"):
        run_sweep(grid, config, chosen=STARTS, watcher=stopped)
    assert len(stopped.computed) == 1
    with Client(processes.address, set_as_default=False) as observer:
        ids = observer.run(os.getpid)
        assert len(ids) == 2

        class Kills(Record):
            killed: Any = None

            def cell_ends(self, name, **told):
                super().cell_ends(name, **told)
                busy = [worker for worker, tasks in observer.processing().items() if tasks]
                if self.computed and self.killed is None and busy:
                    self.killed = busy[0]
                    os.kill(ids[self.killed], signal.SIGKILL)

        kills = Kills()
        remote = run_sweep(grid, config, watcher=kills)
        assert kills.killed is not None
        assert list(observer.nthreads()) == [worker for worker in ids if worker != kills.killed]
    assert kills.resumed == stopped.computed
    assert sorted(kills.computed + kills.resumed) == sorted(cell.name for cell in grid)
    local = run_sweep(grid, SweepConfig("test", tmp_path / "here", num_devices=1))
    assert without_times(remote) == without_times(local)


def test_an_error_keeps_what_was_computed_before_it(tmp_path, monkeypatch):
    config = SweepConfig("test", tmp_path, num_devices=1)
    jobs = run_module.make_jobs(STARTS[:2], config)

    def run_cell(cell, *_, **__):
        if cell == STARTS[1]:
            raise ZeroDivisionError("by nothing")
        return [{"seed": 0, "snapshot": None, "diverged": False}]

    monkeypatch.setattr(run_module, "run_cell", run_cell)
    monkeypatch.setattr(run_module, "train_together", lambda *_, **__: None)
    answer = cluster.run_task(cluster.make_task(jobs, config, set()))

    class Future:
        result = staticmethod(lambda: answer)

    (error,) = cluster.take(Future(), jobs, Watcher())
    assert str(error).startswith(f"{STARTS[1].name}, on a worker: Traceback")
    assert "ZeroDivisionError: by nothing" in str(error)
    assert isinstance(error, RuntimeError)
    assert jobs[0].file.exists()
    assert not jobs[1].file.exists()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            KilledWorker("run_task-1", None, 3),
            InputError,
            "several workers lost, each while it ran a; expected",
        ),
        (
            CancelledError("run_task-1"),
            InputError,
            "got a cancelled by the cluster, or no scheduler any more",
        ),
        (ImportError("no module"), RuntimeError, "a: ImportError on the cluster: no module"),
    ],
)
def test_a_task_without_an_answer_is_told_in_one_line(error, kind, message):
    told = cluster.without_answer(error, "a")
    assert type(told) is kind
    assert message in str(told)


def test_another_version_is_refused(tmp_path, monkeypatch):
    config = SweepConfig("test", tmp_path, num_devices=1)
    task = cluster.make_task(run_module.make_jobs(STARTS[:1], config), config, set())
    monkeypatch.setattr(store_module, "_TRAINING_VERSION", -1)
    answer = cluster.run_task(task)
    assert answer.refused
    assert "another version of jaxsens" in answer.failure


def test_unusable_clusters_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "_SECONDS_TO_ANSWER", 0.5)
    config = SweepConfig("test", tmp_path, scheduler="tcp://127.0.0.1:1")
    with pytest.raises(InputError, match=r"no answer from tcp://127\.0\.0\.1:1; expected .* a running Dask"):
        run_sweep((CELL,), config)
    with pytest.raises(InputError, match="no answer from nonsense://x"):
        run_sweep((CELL,), dataclasses.replace(config, scheduler="nonsense://x"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match=f"no answer from {silent_address}"):
            run_sweep((CELL,), dataclasses.replace(config, scheduler=silent_address))
    with pytest.raises(InputError, match="keep no half-trained cells"):
        dataclasses.replace(config, checkpoint=True)

    monkeypatch.syspath_prepend(ROOT / "experiments")
    import fig1 as experiment

    # From the environment, and before any data are looked for.
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:2")
    words = [
        "--out",
        str(tmp_path / "out"),
        "--store",
        str(tmp_path),
        "--dataset",
        "cifar10",
        "--data-dir",
        "/nowhere",
    ]
    assert cli.main(experiment.EXPERIMENT, words) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: got no answer from tcp://127.0.0.1:2;")
    assert printed.count("\n") == 1
    assert cli.main(experiment.EXPERIMENT, [*words, "--scheduler", ""]) == 2
    assert "prepare cifar10" in capsys.readouterr().err

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'jaxsens\[cluster\]'"):
        run_sweep((CELL,), config)
