"""A grid of cells to a table of rows, resumable."""

from jaxsens.sweep.cells import (
    CPU,
    CPU_CONVOLUTIONAL,
    INPUT_SCALES,
    PAPER,
    QUICK,
    Cell,
    DataConfig,
    MeasureConfig,
    Preset,
    Shard,
    select_cells,
)
from jaxsens.sweep.run import Diverged, SweepConfig, Watcher, run_cell, run_sweep

__all__ = [
    "CPU",
    "CPU_CONVOLUTIONAL",
    "INPUT_SCALES",
    "PAPER",
    "QUICK",
    "Cell",
    "DataConfig",
    "Diverged",
    "MeasureConfig",
    "Preset",
    "Shard",
    "SweepConfig",
    "Watcher",
    "run_cell",
    "run_sweep",
    "select_cells",
]
