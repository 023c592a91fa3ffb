"""Refusals of points and scores of which a statistic is not defined."""

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["StatsError", "check_classified", "check_points", "refuse"]


class StatsError(ValueError):
    """Points of which the statistic is not defined, said in one line."""


def refuse(got: str, expected: str, remedy: str) -> StatsError:
    """The error to raise: `got X; expected Y; do Z`."""
    return StatsError(f"got {got}; expected {expected}; {remedy}")


def check_points(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both columns in float64, shape (n,) with n >= 3; refuses others, NaN, infinities and constants."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise refuse(f"shapes {x.shape} and {y.shape}", "(n,) twice", "pass one number per point")
    if len(x) < 3:
        raise refuse(f"{len(x)} points", "3 or more", "measure more cells")
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        raise refuse("a NaN or infinity", "finite numbers only", "leave out the points that diverged")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise refuse("a constant column", "two different values in each", "measure cells that differ")
    return x, y


def check_classified(scores: ArrayLike, labels: ArrayLike, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n, K) in float64 and labels (n,); refuses other shapes, NaN, infinities and other labels."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or scores.shape[0] < 1 or scores.shape[1] < 2 or labels.shape != scores.shape[:1]:
        raise refuse(
            f"{name} {scores.shape} and labels {labels.shape}",
            "(n, K) and (n,), K >= 2",
            "pass one row per label",
        )
    if not np.all(np.isfinite(scores)):
        raise refuse(
            f"a NaN or infinity in {name}", "finite numbers only", "leave out the examples that diverged"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise refuse("other labels", f"whole numbers from 0 to {scores.shape[1] - 1}", "remap the labels")
    return scores, labels
