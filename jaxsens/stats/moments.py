"""Means with their interval, and the moments that tell a histogram from a normal distribution."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from jaxsens.stats.checks import refuse

__all__ = ["MeanInterval", "Moments", "histogram_moments", "mean_interval"]


class MeanInterval(NamedTuple):
    """A mean and the ends of its interval; NaN for those of one value."""

    value: float
    low: float
    high: float
    num_values: int


class Moments(NamedTuple):
    """Of a histogram: for a normal distribution the last two are 0."""

    mean: float
    std: float
    skewness: float
    excess_kurtosis: float


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> MeanInterval:
    """The mean of a few independent values, such as seeds, with Student's interval.

    `mean +- t s / sqrt(n)`, t the quantile with n - 1 degrees of freedom. An infinite value makes all of it
    infinite or NaN.

    Raises:
        StatsError: no values, a NaN, or a confidence outside (0, 1).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise refuse(f"values of shape {values.shape}", "one number or more, no NaN", "leave out what is NaN")
    if not 0 < confidence < 1:
        raise refuse(f"confidence={confidence}", "a share between 0 and 1", "pass 0.95 for 95 %")
    n, mean = len(values), float(values.mean())
    if n == 1 or not np.isfinite(mean):
        return MeanInterval(mean, np.nan, np.nan, n)
    half = float(student.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return MeanInterval(mean, mean - half, mean + half, n)


def histogram_moments(values: ArrayLike, counts: ArrayLike) -> Moments:
    """Mean, standard deviation (ddof 0), skewness and excess kurtosis of values that occur `counts` times.

    Raises:
        StatsError: shapes that differ, a negative count, or fewer than two different values.
    """
    values, counts = np.asarray(values, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if values.ndim != 1 or values.shape != counts.shape or np.any(counts < 0):
        raise refuse(
            f"shapes {values.shape} and {counts.shape}", "(n,) twice, counts >= 0", "pass a count per value"
        )
    if len(np.unique(values[counts > 0])) < 2:
        raise refuse("fewer than two different values", "a histogram with a spread", "count more examples")
    share = counts / counts.sum()
    mean = float(share @ values)
    std = float(np.sqrt(share @ (values - mean) ** 2))
    standard = (values - mean) / std
    return Moments(mean, std, float(share @ standard**3), float(share @ standard**4) - 3)
