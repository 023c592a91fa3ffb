"""A grid of cells to a table of rows, resumable."""

from jaxsens.sweep.cells import INPUT_SCALES, Cell, DataConfig, MeasureConfig, Preset, Shard, select_cells
from jaxsens.sweep.run import Diverged, SweepConfig, Watcher, run_cell, run_sweep

__all__ = [
    "INPUT_SCALES",
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
