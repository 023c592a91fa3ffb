"""Pictures of saved tables. Imports no JAX: a figure is redrawn without a run."""

from jaxsens.plotting.complexity import (
    COMPLEXITIES,
    NORMS,
    bicriteria_panel,
    flip_panel,
    flip_rows,
    growth_panel,
    measured_alphas,
    norm_panel,
    norm_rows,
    over_margin,
    with_complexity,
)
from jaxsens.plotting.curves import (
    Curve,
    CurvePanel,
    decades,
    decades_of_log,
    figure_of_curves,
    histogram_curve,
    normal_curve,
    pooled_histogram,
    row_curve,
    sampled_curve,
    save_curves,
)
from jaxsens.plotting.equations import Line, Prediction, equation_7, equation_9, equation_14
from jaxsens.plotting.figures import loss_against_sensitivity
from jaxsens.plotting.heatmap import figure_of_heatmap, save_heatmap
from jaxsens.plotting.intervals import IntervalPanel, IntervalRow, figure_of_intervals, save_intervals
from jaxsens.plotting.panel import Panel
from jaxsens.plotting.panels import figure_of_panels
from jaxsens.plotting.points import CellPoints, figure_one_points, relabel, zoom_limits
from jaxsens.plotting.results import (
    column_median,
    correlation_rows,
    equation_7_line,
    equation_9_line,
    equation_14_line,
    rank_correlation_rows,
    save_panels,
    save_rows,
)
from jaxsens.plotting.scatter import ScatterPanel, figure_of_scatter, save_scatter
from jaxsens.plotting.slices import SlicePanel, figure_of_slices, save_slices
from jaxsens.plotting.style import save_figure

__all__ = [
    "COMPLEXITIES",
    "NORMS",
    "CellPoints",
    "Curve",
    "CurvePanel",
    "IntervalPanel",
    "IntervalRow",
    "Line",
    "Panel",
    "Prediction",
    "ScatterPanel",
    "SlicePanel",
    "bicriteria_panel",
    "column_median",
    "correlation_rows",
    "decades",
    "decades_of_log",
    "equation_7",
    "equation_7_line",
    "equation_9",
    "equation_9_line",
    "equation_14",
    "equation_14_line",
    "figure_of_curves",
    "figure_of_heatmap",
    "figure_of_intervals",
    "figure_of_panels",
    "figure_of_scatter",
    "figure_of_slices",
    "figure_one_points",
    "flip_panel",
    "flip_rows",
    "growth_panel",
    "histogram_curve",
    "loss_against_sensitivity",
    "measured_alphas",
    "norm_panel",
    "norm_rows",
    "normal_curve",
    "over_margin",
    "pooled_histogram",
    "rank_correlation_rows",
    "relabel",
    "row_curve",
    "sampled_curve",
    "save_curves",
    "save_figure",
    "save_heatmap",
    "save_intervals",
    "save_panels",
    "save_rows",
    "save_scatter",
    "save_slices",
    "with_complexity",
    "zoom_limits",
]
