"""What a sweep compiles: once for equal shapes, and no more than a process can hold."""

import dataclasses

import jax
import pytest

from jaxsens.models import fully_connected
from jaxsens.sweep import Cell, DataConfig, MeasureConfig, SweepConfig, Watcher, programs, run, run_sweep
from jaxsens.train import TrainConfig

CELL = Cell(
    "sn",
    fully_connected(1, 5),
    DataConfig("digits", num_train=60, num_test=50),
    TrainConfig(max_epochs=2),
    MeasureConfig(derivative_examples=20),
    seeds=2,
)


class Compilations(Watcher):
    """How many programs were compiled for each cell."""

    def __init__(self):
        self.count, self.of_cells = 0, {}
        jax.monitoring.register_event_duration_secs_listener(self.heard)

    def heard(self, event, seconds, **_):
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def cell_ends(self, name, **_):
        self.of_cells[name], self.count = self.count, 0

    def close(self):
        jax.monitoring.unregister_event_duration_listener(self.heard)


@pytest.fixture
def compilations():
    listener = Compilations()
    yield listener
    listener.close()


# 50 and 10 with jax 0.12.
MOST, MOST_OF_A_SHAPE = 60, 13


def number_of_maps():
    return programs._MAPS.read_text().count("\n")


def without_times(table):
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in table.rows()]


def test_cells_of_equal_shapes_are_compiled_once(compilations, tmp_path):
    """Other initial weights, labels, examples and numbers of epochs need no program of their own."""
    grid = [
        CELL,
        dataclasses.replace(CELL, name="hn", model=fully_connected(1, 5, init="HN")),
        dataclasses.replace(CELL, name="noise", data=dataclasses.replace(CELL.data, label_noise=0.5)),
        dataclasses.replace(CELL, name="others", data=dataclasses.replace(CELL.data, subset_seed=1)),
        dataclasses.replace(CELL, name="wide", model=fully_connected(1, 6)),
    ]
    run_sweep(grid, SweepConfig("test", tmp_path, num_devices=1), watcher=compilations)
    # Other initial weights are another program that draws them, for training and for the measures.
    assert compilations.of_cells.pop("sn") < MOST
    assert compilations.of_cells.pop("wide") < MOST_OF_A_SHAPE
    assert compilations.of_cells == {"hn": 2, "noise": 0, "others": 0}


def test_programs_are_released_before_there_are_too_many_maps(tmp_path, monkeypatch):
    """The rows are those without."""
    config = SweepConfig("test", tmp_path / "kept", num_devices=1)
    kept = run_sweep([CELL], config)
    assert not programs.release_programs()
    few = tmp_path / "few"
    few.write_text("100\n")
    monkeypatch.setattr(programs, "_MOST_MAPS", few)
    before = number_of_maps()
    assert programs.release_programs()
    assert number_of_maps() < before - 100
    released = []
    monkeypatch.setattr(run, "release_programs", lambda: released.append(programs.release_programs()))
    again = run_sweep([CELL], SweepConfig("test", tmp_path / "released", num_devices=1))
    assert released == [True]
    assert without_times(again) == without_times(kept)
    for name in ("_MAPS", "_MOST_MAPS"):
        with monkeypatch.context() as hidden:
            hidden.setattr(programs, name, tmp_path / "none")
            assert not programs.release_programs()
