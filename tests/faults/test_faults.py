"""Damaged files, folders without rights, two runs at once, Ctrl-C: what each ends in."""

import errno
import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from real_runs import check_whole, start, strays

from jaxsens import cli
from jaxsens.checks import InputError
from jaxsens.models import build, fully_connected
from jaxsens.sweep import run as run_module
from jaxsens.table import Table, TableError, read_manifest, read_rows, read_table, write_rows
from jaxsens.table import files as files_module
from jaxsens.train import TrainConfig, load_trained, make_train, save_trained, train_ensemble
from jaxsens.train import ensemble as ensemble_module

TINY = Path(__file__).with_name("tiny.py")
NAMES = [f"fc-1x4-{init}" for init in ("hn", "sn", "xu", "fu")]
SECONDS = 120


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """What one process compiles, the next reads."""
    return tmp_path_factory.mktemp("programs")


def tiny(folder, programs, *words):
    return start(
        [str(TINY), "--out", str(folder / "out"), "--store", str(folder / "cells"), *words], programs
    )


def ended(process):
    """The lines on stderr of a process that went well."""
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    return said.splitlines()


def until(happened, process):
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
def test_two_runs_at_once_compute_each_cell_once(programs, tmp_path):
    """The same command twice: one table, in which every cell was computed by one of them."""
    both = [tiny(tmp_path, programs) for _ in range(2)]
    lines = [line for process in both for line in ended(process)]
    computed = [line.split(":")[0] for line in lines if line.endswith(" s") and line.startswith("fc-")]
    assert sorted(computed) == sorted(NAMES), lines
    table = read_table(tmp_path / "out")
    assert list(table.cells()) == NAMES
    assert (tmp_path / "out" / "tiny.txt").read_text().split() == NAMES
    assert strays(tmp_path) == []


@pytest.mark.slow
def test_two_shards_at_once_end_in_the_whole_table(programs, tmp_path):
    both = [tiny(tmp_path, programs, "--shard", f"{index}/2", "--keep-networks") for index in range(2)]
    lines = [ended(process) for process in both]
    assert [sum(line.endswith(" s") for line in part) for part in lines] == [2, 2], lines
    assert list(read_table(tmp_path / "out").cells()) == NAMES
    assert read_manifest(tmp_path / "out")["missing_cells"] == []
    assert (tmp_path / "out" / "tiny.txt").read_text().split() == NAMES
    assert strays(tmp_path) == []


@pytest.mark.slow
def test_a_run_takes_over_from_one_that_is_killed(programs, tmp_path):
    """The second waits for the cell that the first works on, and says for whom; then the first dies."""
    words = ["--cells", NAMES[0]]
    first = tiny(tmp_path, programs, *words)
    until(lambda: any(NAMES[0][:6] in file.read_text() for file in tmp_path.glob("cells/.claims/*")), first)
    time.sleep(0.2)  # from the claim to the work
    first.send_signal(signal.SIGSTOP)
    second = tiny(tmp_path, programs, *words)
    said = ""
    while "waiting for" not in said:
        said = second.stderr.readline()
    assert f"{NAMES[0]}: held by process {first.pid} on " in said
    first.kill()
    first.communicate()
    assert any(line.startswith(f"{NAMES[0]}: ") for line in ended(second))
    assert read_table(tmp_path / "out").cells() == (NAMES[0],)
    assert strays(tmp_path) == []


@pytest.fixture
def listening():
    """Ctrl-C reaches what this process starts, also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("listening")
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path):
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        # Of its own: jaxlib 0.10.1 may wait for ever when it reads what an earlier attempt compiled.
        programs = folder / "programs"
        process = tiny(folder, programs)
        until(lambda folder=folder: list(folder.glob("cells/*.parquet")), process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
        if process.returncode:
            break  # else all cells were finished before the signal came
    tmp_path = folder
    assert process.returncode == 130, said
    assert said.splitlines()[-1].startswith("stopped; the same command, without --no-resume, goes on")
    assert "Traceback" not in said
    assert strays(tmp_path) == []
    finished = check_whole(tmp_path / "cells", tmp_path / "out")
    assert 1 <= finished < 4
    lines = ended(tiny(tmp_path, tmp_path / "programs-after"))
    assert sum(line.endswith(": already there") for line in lines) == finished
    assert list(read_table(tmp_path / "out").cells()) == NAMES


@pytest.fixture
def experiment(monkeypatch):
    """The tiny experiment in this process, its cells without training."""
    monkeypatch.syspath_prepend(str(TINY.parent))
    monkeypatch.setattr(
        run_module,
        "run_cell",
        lambda cell, *_, **__: [{"seed": seed, "snapshot": None, "diverged": False} for seed in (0, 1)],
    )
    import tiny as module

    return module.EXPERIMENT


def test_a_read_only_folder_is_refused_in_one_line(experiment, tmp_path, capsys):
    for name in ("out", "cells"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:  # which may write everywhere
            os.seteuid(65534)
        code = cli.main(experiment, ["--out", str(tmp_path / "out"), "--store", str(tmp_path / "cells")])
    finally:
        if root:
            os.seteuid(0)
    said = capsys.readouterr().err
    assert code == 2
    assert said.count("\n") == 1
    assert "cannot be written (Permission denied)" in said
    assert "--out or --store" in said


@pytest.mark.parametrize(
    ("number", "writes"),
    [
        pytest.param(number, writes, marks=() if number == errno.ENOSPC or writes == 2 else pytest.mark.slow)
        for number in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO)
        for writes in (0, 2, 4, 7)
    ],
)
def test_a_disk_that_fails_on_the_way_ends_in_one_line(
    experiment, number, writes, tmp_path, monkeypatch, capsys
):
    """At the first, the third cell, the table, the picture; what was finished is read by the next run."""
    words = ["--out", str(tmp_path / "out"), "--store", str(tmp_path / "cells")]
    fsync, done = os.fsync, []

    def failing(descriptor):
        if len(done) >= writes:
            raise OSError(number, os.strerror(number))
        done.append(descriptor)
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(files_module.os, "fsync", failing)
        assert cli.main(experiment, words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path}")
    assert f": {os.strerror(number)}; finished cells are kept" in error
    assert strays(tmp_path) == []
    assert check_whole(tmp_path / "cells", tmp_path / "out") == min(writes, 4)
    assert cli.main(experiment, words) == 0
    assert capsys.readouterr().err.count("already there") == min(writes, 4)
    assert list(read_table(tmp_path / "out").cells()) == NAMES


def test_a_mistake_is_no_disk_error(experiment, tmp_path, monkeypatch):
    def run_cell(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "no such thing", "nowhere")

    monkeypatch.setattr(run_module, "run_cell", run_cell)
    with pytest.raises(FileNotFoundError, match="no such thing"):
        cli.main(experiment, ["--out", str(tmp_path / "out"), "--store", str(tmp_path / "cells")])
    assert strays(tmp_path) == []


def test_every_cut_through_a_parquet_file_is_noticed(tmp_path):
    rows = [{"seed": seed, "snapshot": None, "diverged": False, "test_loss": seed / 7} for seed in range(50)]
    file = write_rows(Table.from_rows(rows), tmp_path / "cell.parquet", metadata={"environment": "x" * 300})
    whole = file.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(TableError, match="cut short or damaged"):
            read_rows(file)


@pytest.fixture(scope="module")
def ensemble():
    """A program that trains, its data and keys."""
    network = build(fully_connected(1, 4, init="HN"), input_shape=(3, 3, 1), num_outputs=3)
    training = make_train(TrainConfig(max_epochs=6), network.init, network.apply)
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.uniform(size=(20, 3, 3, 1)), jnp.float32)
    ys = jnp.asarray(rng.integers(0, 3, 20))
    return training, jax.random.split(jax.random.key(0), 2), xs, ys


def test_damaged_networks_are_trained_again(ensemble, tmp_path):
    """Cut anywhere, or with a byte changed anywhere: None or what was saved, never an error."""
    training, keys, xs, ys = ensemble
    members = train_ensemble(training, keys, xs, ys, num_devices=1)
    shapes = jax.eval_shape(training.start, keys[0])
    file = tmp_path / "network.npz"
    with file.open("wb") as stream:
        save_trained(stream, members, seconds=1.0)
    whole = file.read_bytes()
    for length in range(0, len(whole), 61):
        file.write_bytes(whole[:length])
        assert load_trained(file, shapes) is None
    wanted = jax.tree.leaves(members.params)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        file.write_bytes(bytes(damaged))
        found = load_trained(file, shapes)
        if found is not None:
            for ours, theirs in zip(jax.tree.leaves(found[0].params), wanted, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(ensemble, tmp_path, monkeypatch):
    """Without any that can be read, the folder to delete is named: hours are not thrown away unasked."""
    training, keys, xs, ys = ensemble
    monkeypatch.setattr(ensemble_module, "_SECONDS_PER_CALL", 0)
    monkeypatch.setattr(ensemble_module, "_SECONDS_PER_CHECKPOINT", 0)
    whole = train_ensemble(training, keys, xs, ys, num_devices=1)
    folder = tmp_path / "half"

    def die_at_4(progress):
        if progress.epoch == 4:
            raise KeyboardInterrupt("now")

    with pytest.raises(KeyboardInterrupt, match="now"):
        train_ensemble(training, keys, xs, ys, num_devices=1, checkpoint=folder, report=die_at_4)
    steps = sorted(int(step.name) for step in folder.iterdir() if step.name.isdigit())
    assert steps == [2, 3]

    def damage(step):
        for file in [file for file in (folder / str(step)).rglob("*") if file.is_file()]:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    damage(3)
    seen = []

    def note_and_stop(progress):
        seen.append(progress.epoch)
        raise KeyboardInterrupt("enough")

    with pytest.warns(UserWarning, match="epoch 3 in .* cannot be read"), pytest.raises(KeyboardInterrupt):
        train_ensemble(training, keys, xs, ys, num_devices=1, checkpoint=folder, report=note_and_stop)
    assert seen == [3]
    with pytest.warns(UserWarning, match="cannot be read"):
        resumed = train_ensemble(training, keys, xs, ys, num_devices=1, checkpoint=folder)
    for ours, theirs in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for step in folder.iterdir():
        if step.name.isdigit():
            damage(step.name)
    told = pytest.raises(InputError, match="delete that folder")
    with pytest.warns(UserWarning, match="cannot be read"), told:
        train_ensemble(training, keys, xs, ys, num_devices=1, checkpoint=folder)
