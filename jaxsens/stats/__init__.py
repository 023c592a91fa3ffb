"""How well one column follows another: correlations with intervals, and their worst case; calibration.

Points are networks, so there are tens of them, seldom thousands. NumPy and SciPy only: figures are drawn
where JAX is not installed.
"""

from jaxsens.stats.calibration import expected_calibration_error, fit_temperature
from jaxsens.stats.checks import StatsError
from jaxsens.stats.correlations import Correlation, correlation, kendall, pearson, spearman
from jaxsens.stats.granulated import (
    Environment,
    Granulated,
    granulated_kendall,
    moves_alone,
    worst_environment,
)
from jaxsens.stats.moments import MeanInterval, Moments, histogram_moments, mean_interval

__all__ = [
    "Correlation",
    "Environment",
    "Granulated",
    "MeanInterval",
    "Moments",
    "StatsError",
    "correlation",
    "expected_calibration_error",
    "fit_temperature",
    "granulated_kendall",
    "histogram_moments",
    "kendall",
    "mean_interval",
    "moves_alone",
    "pearson",
    "spearman",
    "worst_environment",
]
