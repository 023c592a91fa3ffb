"""A grid of cells to a table of rows, resumable."""

from jaxsens.sweep.cells import (
    CPU,
    CPU_CONVOLUTIONAL,
    INPUT_SCALES,
    PAPER,
    QUICK,
    TANGENT_CPU,
    TANGENT_PAPER,
    TANGENT_QUICK,
    Cell,
    DataConfig,
    MeasureConfig,
    Preset,
    Shard,
    select_cells,
)
from jaxsens.sweep.estimates import ESTIMATORS, Estimator, loss_estimates
from jaxsens.sweep.run import Diverged, SweepConfig, Watcher, run_cell, run_sweep

__all__ = [
    "CPU",
    "CPU_CONVOLUTIONAL",
    "ESTIMATORS",
    "INPUT_SCALES",
    "PAPER",
    "QUICK",
    "TANGENT_CPU",
    "TANGENT_PAPER",
    "TANGENT_QUICK",
    "Cell",
    "DataConfig",
    "Diverged",
    "Estimator",
    "MeasureConfig",
    "Preset",
    "Shard",
    "SweepConfig",
    "Watcher",
    "loss_estimates",
    "run_cell",
    "run_sweep",
    "select_cells",
]
