"""Pictures of saved tables. Imports no JAX: a figure is redrawn without a run."""

from jaxsens.plotting.figures import Prediction, equation_9, loss_against_sensitivity
from jaxsens.plotting.points import CellPoints, figure_one_points
from jaxsens.plotting.style import save_figure

__all__ = [
    "CellPoints",
    "Prediction",
    "equation_9",
    "figure_one_points",
    "loss_against_sensitivity",
    "save_figure",
]
