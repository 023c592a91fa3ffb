"""How well one column follows another: correlations with intervals, and their worst case; calibration.

As well how well a score tells two kinds of examples apart, and differences between paired measurements.

Points are networks, so there are tens of them, seldom thousands; scores are of examples, and may be many.
NumPy and SciPy only: figures are drawn where JAX is not installed.
"""

from jaxsens.stats.auroc import Auroc, StratifiedAuroc, auroc, quantile_strata, stratified_auroc
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
from jaxsens.stats.paired import PairedDifference, paired_difference

__all__ = [
    "Auroc",
    "Correlation",
    "Environment",
    "Granulated",
    "MeanInterval",
    "Moments",
    "PairedDifference",
    "StatsError",
    "StratifiedAuroc",
    "auroc",
    "correlation",
    "expected_calibration_error",
    "fit_temperature",
    "granulated_kendall",
    "histogram_moments",
    "kendall",
    "mean_interval",
    "moves_alone",
    "paired_difference",
    "pearson",
    "quantile_strata",
    "spearman",
    "stratified_auroc",
    "worst_environment",
]
