"""The exponent with which times grow: the slope of log time on log size, by least squares.

Over the upper range, where a call's fixed costs are gone: from the first size on that takes at least four
times as long as the smallest, and at least the three largest.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["FEWEST", "Fit", "fit"]

OVERHEAD, FEWEST = 4, 3


class Fit(NamedTuple):
    """An exponent with its standard error, and the sizes that it was fitted over."""

    exponent: float
    stderr: float
    sizes: list[int]


def fit(sizes: Sequence[int], times: Sequence[float]) -> Fit:
    """The slope of log time on log size over the upper range."""
    first = next((i for i, time in enumerate(times) if time >= OVERHEAD * times[0]), len(times))
    first = min(first, len(times) - FEWEST)
    x, y = ([math.log(value) for value in values[first:]] for values in (sizes, times))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    variance = sum((a - mean_x) ** 2 for a in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / variance
    residuals = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    return Fit(slope, (residuals / (len(x) - 2) / variance) ** 0.5, list(sizes[first:]))
