"""A grid of cells to a table of rows, resumable."""

from jaxsens.sweep.cells import Cell, DataConfig, MeasureConfig, Shard, select_cells
from jaxsens.sweep.run import Diverged, SweepConfig, Watcher, run_cell, run_sweep

__all__ = [
    "Cell",
    "DataConfig",
    "Diverged",
    "MeasureConfig",
    "Shard",
    "SweepConfig",
    "Watcher",
    "run_cell",
    "run_sweep",
    "select_cells",
]
