"""A grid of cells to a table of rows, resumable."""

from jaxsens.sweep.cells import (
    AUGMENTATIONS,
    INPUT_SCALES,
    Cell,
    ComplexityConfig,
    DataConfig,
    MeasureConfig,
    Preset,
    RobustnessConfig,
    Shard,
    select_cells,
)
from jaxsens.sweep.conditions import BINS_PER_DECADE, FLIP_DELTAS, OUTPUT_BINS
from jaxsens.sweep.config import SweepConfig
from jaxsens.sweep.estimates import ESTIMATORS, Estimator, loss_estimates
from jaxsens.sweep.merge import merge_stores
from jaxsens.sweep.pointwise import POINT_SCORES
from jaxsens.sweep.presets import (
    CONDITIONS_CPU,
    CONDITIONS_PAPER,
    CONDITIONS_QUICK,
    CPU,
    CPU_CONVOLUTIONAL,
    EXPLORING_CPU,
    EXPLORING_PAPER,
    EXPLORING_QUICK,
    PAPER,
    QUICK,
    TANGENT_CPU,
    TANGENT_PAPER,
    TANGENT_QUICK,
    true_and_random,
)
from jaxsens.sweep.processes import join_processes, run_in_processes
from jaxsens.sweep.robustness import RAY_RADII, TRAJECTORY_KINDS
from jaxsens.sweep.run import Diverged, Watcher, run_cell, run_sweep
from jaxsens.sweep.slices import SLICE_KINDS
from jaxsens.sweep.survey import SURVEY_CPU, SURVEY_PAPER, SURVEY_QUICK

__all__ = [
    "AUGMENTATIONS",
    "BINS_PER_DECADE",
    "CONDITIONS_CPU",
    "CONDITIONS_PAPER",
    "CONDITIONS_QUICK",
    "CPU",
    "CPU_CONVOLUTIONAL",
    "ESTIMATORS",
    "EXPLORING_CPU",
    "EXPLORING_PAPER",
    "EXPLORING_QUICK",
    "FLIP_DELTAS",
    "INPUT_SCALES",
    "OUTPUT_BINS",
    "PAPER",
    "POINT_SCORES",
    "QUICK",
    "RAY_RADII",
    "SLICE_KINDS",
    "SURVEY_CPU",
    "SURVEY_PAPER",
    "SURVEY_QUICK",
    "TANGENT_CPU",
    "TANGENT_PAPER",
    "TANGENT_QUICK",
    "TRAJECTORY_KINDS",
    "Cell",
    "ComplexityConfig",
    "DataConfig",
    "Diverged",
    "Estimator",
    "MeasureConfig",
    "Preset",
    "RobustnessConfig",
    "Shard",
    "SweepConfig",
    "Watcher",
    "join_processes",
    "loss_estimates",
    "merge_stores",
    "run_cell",
    "run_in_processes",
    "run_sweep",
    "select_cells",
    "true_and_random",
]
