"""Several devices and several processes: the same numbers, no talk between members, one coherent table."""

import dataclasses
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.cli import experiment
from jaxsens.models import fully_connected
from jaxsens.sweep import (
    Cell,
    DataConfig,
    MeasureConfig,
    RobustnessConfig,
    Shard,
    SweepConfig,
    evaluate,
    processes,
    run_sweep,
)
from jaxsens.sweep.devices import example_mesh, spread
from jaxsens.sweep.prepare import prepare_data, prepare_training
from jaxsens.sweep.programs import shared_initial, shared_measures
from jaxsens.table import read_manifest, read_table, text_to_numbers
from jaxsens.train import TrainConfig, device_mesh, devices_for, train_ensemble

ROOT = Path(__file__).parents[1]
DATA = DataConfig("digits", num_train=90, num_test=90)
MEASURE = MeasureConfig(derivative_examples=90)
LESS = MeasureConfig(derivative_examples=90, output_sensitivity=False)
MORE = MeasureConfig(
    derivative_examples=90,
    output_sensitivity=False,
    tangent_examples=90,
    robustness=RobustnessConfig(loops=30, triples=4, points=12, pointwise_examples=90, slice_pixels=0),
)
TRAIN = TrainConfig(max_epochs=3)
# They differ in what nothing is compiled for.
GRID = tuple(
    Cell(f"fc-{init}", fully_connected(1, 4, init=init), DATA, TRAIN, LESS, seeds=2)
    for init in ("HN", "SN", "XU")
)
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def without_times(rows):
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in rows]


def close(one, other):
    for a, b in zip(without_times(one), without_times(other), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if isinstance(value, float):
                np.testing.assert_allclose(b[name], value, rtol=2e-4, atol=1e-6, err_msg=name)
            elif "_curve" in name or "_ray" in name:
                numbers = (text_to_numbers(text) for text in (b[name], value))
                np.testing.assert_allclose(*numbers, rtol=2e-4, atol=1e-6, err_msg=name)
            else:
                assert b[name] == value, name


@pytest.mark.parametrize(
    "measure",
    [pytest.param(MEASURE, id="A"), pytest.param(MORE, id="B, C and E", marks=pytest.mark.slow)],
)
def test_rows_of_1_2_and_4_devices_are_equal(measure):
    """Three members, padded to four; 90 examples, which three of four devices divide."""
    cell = dataclasses.replace(GRID[0], measure=measure, seeds=3)
    data = prepare_data(DATA)
    shape = data.x_train.shape[1:]
    programs = shared_measures(cell.model, shape, 10, measure)
    keys = jax.numpy.stack([jax.random.key(seed) for seed in range(3)])
    rows = []
    for num_devices in (1, 2, 4):
        members = train_ensemble(
            prepare_training(cell, data),
            keys,
            jax.numpy.asarray(data.x_train),
            jax.numpy.asarray(data.y_train),
            num_devices=num_devices,
        )
        rows.append(
            evaluate.evaluate_cell(
                programs,
                shared_initial(cell.model, shape, 10),
                members,
                (0, 1, 2),
                data,
                measure,
                loss="cross_entropy",
                num_devices=num_devices,
            )
        )
    assert not any(row["diverged"] for row in rows[0])
    close(rows[0], rows[1])
    close(rows[0], rows[2])


def test_members_leave_few_places_empty_on_a_cpu_and_take_all_accelerators(monkeypatch):
    """Here on four devices: 5 and 7 members would leave a sixth and an eighth of the places empty."""
    taken = {members: devices_for(members) for members in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 18, 100)}
    assert taken == {1: 1, 2: 2, 3: 3, 4: 4, 5: 1, 6: 3, 7: 1, 8: 4, 10: 2, 11: 4, 18: 4, 100: 4}
    accelerators = [types.SimpleNamespace(platform="gpu")] * 8
    monkeypatch.setattr(jax, "local_devices", lambda: accelerators)
    assert [devices_for(members) for members in (1, 5, 8)] == [8, 8, 8]


CORES = "import os; print(len(os.sched_getaffinity(0)))"
DEVICES = (
    "import jax; from jaxsens.train import cores_as_devices; {first}; cores_as_devices(); print({count})"
)


def test_cores_are_devices_unless_somebody_chose_or_it_is_too_late():
    program = "import jax, jaxsens.train as t; t.cores_as_devices(); print(jax.local_device_count())"
    ways = [
        (program, {}),
        (program, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}),
        (program, {"JAX_NUM_CPU_DEVICES": "3"}),
        (program.replace("t.cores", "jax.devices(); t.cores"), {}),
    ]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", words],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)} | chosen,
            stdout=subprocess.PIPE,
            text=True,
        )
        for words, chosen in ways
    ]
    found = [int(process.communicate()[0] or 0) for process in running]
    assert found == [len(os.sched_getaffinity(0)), 3, 3, 1]


def test_the_command_takes_the_cores_before_it_joins_others(monkeypatch, tmp_path, capsys):
    """Afterwards JAX has its devices."""
    done = []

    def join():
        done.append("join")
        raise InputError("got nobody; expected others; start them")

    monkeypatch.setattr(experiment, "cores_as_devices", lambda: done.append("cores"))
    monkeypatch.setattr(experiment, "join_processes", join)
    tiny = experiment.Experiment("tiny", "", {"quick": ()}, lambda *_: None)
    assert experiment.main(tiny, ["--distributed", "--out", str(tmp_path)]) == 2
    assert done == ["cores", "join"]
    assert "got nobody" in capsys.readouterr().err


def test_examples_are_spread_evenly_without_padding():
    mesh = device_mesh(4)
    assert [example_mesh(mesh, n).size for n in (500, 90, 8, 7, 1)] == [4, 3, 4, 1, 1]
    seen = []
    double = jax.jit(lambda params, state, xs, factor: params * factor * xs)

    def program(params, state, xs, factor):
        seen.append((len(xs.sharding.device_set), len(params.sharding.device_set)))
        return double(params, state, xs, factor)

    out = spread(program, mesh)(np.float32(2), {}, np.ones((6, 2), np.float32), np.float32(3))
    assert isinstance(out, np.ndarray)
    np.testing.assert_array_equal(out, np.full((6, 2), 6))
    assert seen == [(3, 3)]
    assert spread(program, device_mesh(1)) is program


def test_devices_that_share_examples_do_not_talk():
    data = prepare_data(DATA)
    shape = data.x_train.shape[1:]
    programs = shared_measures(GRID[0].model, shape, 10, MEASURE)
    params, state = shared_initial(GRID[0].model, shape, 10)(jax.random.key(0))
    texts = []

    def compiled(program):
        def call(*arguments):
            texts.append(program.lower(*arguments).compile().as_text())
            return program(*arguments)

        return call

    mesh, xs = device_mesh(4), data.x_test[:40]
    spread(compiled(programs.predict), mesh)(params, state, xs)
    spread(compiled(programs.norms), mesh)(params, state, xs)
    assert len(texts) == 2
    assert not [name for name in COLLECTIVES for text in texts if name in text]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    return run_sweep(GRID, SweepConfig("test", out, num_devices=1))


SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
import jax
from jaxsens.sweep import SweepConfig, Watcher, join_processes, run_in_processes

join_processes()
assert jax.process_count() == 2
# Not at the top: it uses JAX as soon as it is imported.
from test_devices import GRID


class Told(Watcher):
    def cell_ends(self, name, *, seconds, resumed):
        print("cell", name, resumed, flush=True)


grid = GRID
if {fails} and jax.process_index() == 1:
    def fail(*arguments, **options):
        raise RuntimeError("a fault of this test")
    from jaxsens.sweep import run
    run.run_cell = fail
table = run_in_processes(grid, SweepConfig("test", Path({out!r})), watcher=Told())
print("table", None if table is None else len(table), flush=True)
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start_two(words, programs):
    """`python words` twice on the loopback device, two CPU devices each: exit codes and what they said."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(ROOT),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    started = [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        said = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], said


def script(out, *, fails=False):
    return ["-c", SCRIPT.format(tests=str(ROOT / "tests"), out=str(out), fails=fails)]


@pytest.mark.slow
def test_two_processes_write_one_table(finished, tmp_path):
    """Also where one of them fails: what it lacks is named, and computed by the same command again."""
    out, programs = tmp_path / "two", tmp_path / "programs"
    codes, said = start_two(script(out, fails=True), programs)
    assert codes[0] == 0, said
    assert codes[1] != 0
    assert "process 1 of 2: a fault of this test; waiting for the others" in said[1][1]
    assert read_manifest(out)["missing_cells"] == ["fc-SN"]
    codes, said = start_two(script(out), programs)
    assert codes == [0, 0], said
    ours = [[line for line in text.splitlines() if line.startswith(("cell", "table"))] for text, _ in said]
    assert ours == [
        ["cell fc-HN True", "cell fc-XU True", "table 6"],
        ["cell fc-SN False", "table None"],
    ]
    table = read_table(out)
    assert [row["cell"] for row in table.rows()] == [row["cell"] for row in finished.rows()]
    close(finished.rows(), table.rows())
    manifest = read_manifest(out)
    assert manifest["missing_cells"] == []
    assert [environment["num_devices"] for environment in manifest["environments"]] == [2]
    assert not [path for path in out.iterdir() if path.name.startswith(".process")]


@pytest.mark.slow
def test_the_command_in_two_processes_and_little_memory(tmp_path, monkeypatch):
    """The table of one process with all memory; of two members for each of two devices one fits at once."""
    command = [str(ROOT / "experiments" / "fig5.py"), "--cells", "fc-2x32-*", "--seeds", "4"]
    store, programs = ["--store", str(tmp_path / "cells")], tmp_path / "programs"
    two = tmp_path / "two"
    words = [*command, *store, "--out", str(two), "--distributed", "--max-memory", "1e-4"]
    codes, said = start_two(words, programs)
    assert codes == [0, 0], said
    assert (two / "fig5.png").stat().st_size > 10_000
    assert sorted("manifest.json and the figure" in text for text, _ in said) == [False, True]
    one = tmp_path / "one"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(programs)}
    alone = [sys.executable, *command, "--out", str(one), "--store", str(tmp_path / "others")]
    subprocess.run(alone, env=environment, check=True, capture_output=True)
    close(read_table(one).rows(), read_table(two).rows())


def test_parts_of_parts_are_all_of_them(monkeypatch):
    """Two processes in each of three shards: six parts, none twice."""
    seen = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for shard in range(3):
        for index in range(2):
            monkeypatch.setattr(jax, "process_index", lambda index=index: index)
            own = processes.own_shard(Shard(shard, 3))
            seen += list(range(20))[own.index :: own.count]
            # Those of the shard, and no others.
            assert {n % 3 for n in range(20)[own.index :: own.count]} == {shard}
    assert sorted(seen) == list(range(20))


def test_what_processes_cannot_do_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"JAX_NUM_PROCESSES=None.*set all three"):
        processes.join_processes({"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_PROCESS_ID": "0"})
    given = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}
    with pytest.raises(InputError, match="this one's from 0"):
        processes.join_processes(given)
    with pytest.raises(InputError, match="processes that cannot be joined"):
        processes.join_processes(given | {"JAX_PROCESS_ID": "0"})  # JAX is in use here already
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="checkpoint=True in 2 processes"):
        processes.run_in_processes(GRID, SweepConfig("test", tmp_path, checkpoint=True))
