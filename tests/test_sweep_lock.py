"""Claims on a store and locks on a table: held by one, freed by death, named to those that wait."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxsens.checks import InputError
from jaxsens.models import fully_connected
from jaxsens.sweep import Cell, DataConfig, MeasureConfig, Shard, SweepConfig, lock, run_sweep
from jaxsens.sweep import run as run_module
from jaxsens.sweep.lock import Claims, exclusive
from jaxsens.table import files as files_module
from jaxsens.table import read_table
from jaxsens.table.files import remove_leftovers, whole_file
from jaxsens.train import TrainConfig

ROOT = Path(__file__).parents[1]
DATA = DataConfig("digits", num_train=100, num_test=150)
GRID = tuple(
    Cell(f"cell-{width}", fully_connected(1, width), DATA, TrainConfig(max_epochs=1), MeasureConfig(), 2)
    for width in (2, 3, 4)
)


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def computed(monkeypatch):
    """The names of the cells that were computed, without training any."""
    done = []

    def run_cell(cell, *_, **__):
        done.append(cell.name)
        return [{"seed": seed, "snapshot": None, "diverged": False} for seed in range(cell.seeds)]

    monkeypatch.setattr(run_module, "run_cell", run_cell)
    monkeypatch.setattr(run_module, "_SECONDS_PER_LOOK", 0.01)
    return done


def test_a_network_is_claimed_by_one(tmp_path):
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        assert first.take(["a", "b"]) is None
        assert first.take(["b", "c"]) is None  # its own
        assert second.take(["d"]) is None
        holder = second.take(["c", "e"])
        assert holder.startswith(f"process {os.getpid()} on {lock.myself()['host']} since 20")
        assert first.take(["e"]) is None  # all or none
        assert first.take(["d"]) is not None
        first.release()
        assert second.take(["a", "b", "c", "e"]) is None
    assert names(tmp_path) == []


def test_the_claims_of_a_dead_process_are_free(tmp_path):
    """Real processes: one that is killed, and a file that nobody has locked."""
    program = (
        "import sys, time; from pathlib import Path; from jaxsens.sweep.lock import Claims\n"
        "with Claims(Path(sys.argv[1])) as claims:\n"
        "    claims.take(['a']); print('taken', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "taken\n"
        with Claims(tmp_path) as claims:
            assert f"process {process.pid} on " in claims.take(["a"])
            assert claims.take(["b"]) is None
            process.kill()
            process.wait()
            assert len(list(tmp_path.glob(".claims/*"))) == 2
            (tmp_path / ".claims" / "host-1-abc.json").write_text(json.dumps({"claims": ["a"]}))
            assert claims.take(["a"]) is None
            assert len(list(tmp_path.glob(".claims/*"))) == 1
    finally:
        process.kill()
        process.communicate()
    assert names(tmp_path) == []


def test_a_lock_that_is_not_let_go_of_is_told(tmp_path):
    file = tmp_path / "lock"
    with exclusive(file, seconds=1.0):
        told = pytest.raises(
            InputError, match=rf"held by process {os.getpid()} on .*; expected it to be free"
        )
        with told, exclusive(file, seconds=0.05):
            pass
        assert file.exists()
    assert not file.exists()
    file.touch()  # of a process that was killed
    with exclusive(file, seconds=0.0):
        pass
    assert names(tmp_path) == []


def test_a_lock_is_on_the_file_that_is_there(tmp_path, monkeypatch):
    """One that was removed between opening and locking it locks nothing."""
    file, first = tmp_path / "lock", []
    try_lock = lock.try_lock

    def slowly(descriptor, **options):
        if not first:
            first.append(file.unlink())
        return try_lock(descriptor, **options)

    monkeypatch.setattr(lock, "try_lock", slowly)
    told = pytest.raises(InputError, match="held by process")
    with exclusive(file, seconds=1.0), told, exclusive(file, seconds=0.05):
        pass


def test_cells_of_another_run_come_last_and_are_read(tmp_path, computed, monkeypatch):
    """For whom this one waits is told once; what the other finished is not computed again."""
    config = SweepConfig("test", tmp_path, num_devices=1)
    first = run_module.make_jobs(GRID[:1], config)[0]
    looks = []

    config.cells.mkdir()
    with Claims(config.cells) as other:
        assert other.take([first.network.name]) is None

        def sleep(_):
            looks.append(list(computed))
            if len(looks) == 3:
                run_module.write_finished(first, run_module.run_cell(first.cell), json.dumps({"time": ""}))
                computed.remove(first.cell.name)

        # Not in the module `time` itself, by which subprocesses are waited for too.
        monkeypatch.setattr(run_module, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
        with pytest.warns(run_module.Waiting, match=r"waiting for cell-2: held by process") as told:
            table = run_sweep(GRID, config)
    assert len(told) == 1
    assert looks == [["cell-3", "cell-4"]] * 3
    assert computed == ["cell-3", "cell-4"]
    assert table.cells() == tuple(cell.name for cell in GRID)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_cells_that_are_held_for_too_long_are_told(tmp_path, computed, monkeypatch):
    monkeypatch.setattr(run_module, "_SECONDS_TO_WAIT", 0.05)
    config = SweepConfig("test", tmp_path, num_devices=1)
    config.cells.mkdir()
    with Claims(config.cells) as other:
        other.take(job.network.name for job in run_module.make_jobs(GRID[:2], config))
        told = pytest.raises(InputError, match=r"got cell-2, cell-3: held by process .* since .*; expected")
        with pytest.warns(run_module.Waiting), told:
            run_sweep(GRID, config)
    assert computed == ["cell-4"]
    run_sweep(GRID, config)
    assert computed == ["cell-4", "cell-2", "cell-3"]


def test_the_later_of_two_shards_sees_the_cells_of_the_other(tmp_path, computed, monkeypatch):
    """The other writes the whole of its table while this one computes: this one's has both."""
    config = SweepConfig("test", tmp_path, num_devices=1, shard=Shard(0, 2))
    inner = run_module.run_cell

    def run_cell(cell, *_, **__):
        if cell == GRID[0]:
            run_sweep(GRID, dataclasses.replace(config, shard=Shard(1, 2)))
        return inner(cell)

    monkeypatch.setattr(run_module, "run_cell", run_cell)
    run_sweep(GRID, config)
    assert read_table(tmp_path).cells() == tuple(cell.name for cell in GRID)


def test_without_locks_a_run_says_so_and_goes_on(tmp_path, computed, monkeypatch):
    def no_locks(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "try_lock", no_locks)
    monkeypatch.setattr(files_module, "try_lock", no_locks)
    with pytest.warns(UserWarning, match="no file locks in .*: let one run at a time work there"):
        table = run_sweep(GRID, SweepConfig("test", tmp_path, num_devices=1))
    assert table.cells() == tuple(cell.name for cell in GRID)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    old = time.time() - 60
    for name in (".a.parquet.0123.tmp", "b.tmp", ".c"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (old, old))
    (tmp_path / ".d.checkpoint.0123.tmp" / "3").mkdir(parents=True)
    with whole_file(tmp_path / "e") as stream:
        stream.write(b"half")
        stream.flush()
        (temporary,) = tmp_path.glob(".e.*.tmp")
        os.utime(temporary, (old, old))
        remove_leftovers(tmp_path)
        stream.write(b" and half")
    assert (tmp_path / "e").read_bytes() == b"half and half"
    assert names(tmp_path) == [".c", "b.tmp", "e"]
