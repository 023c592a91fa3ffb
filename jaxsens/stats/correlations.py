"""The correlation of two columns over points, with a bootstrap interval."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from jaxsens.stats.auroc import label_codes
from jaxsens.stats.checks import check_points, refuse

__all__ = ["Correlation", "correlation", "kendall", "pearson", "spearman"]


class Correlation(NamedTuple):
    """A coefficient, the ends of its bootstrap interval, and what they rest on.

    `num_resamples` counts the resamples used: those in which a coordinate was constant are dropped.
    """

    value: float
    low: float
    high: float
    num_points: int
    num_resamples: int


def correlation(
    x: ArrayLike,
    y: ArrayLike,
    *,
    kind: str = "pearson",
    num_bootstrap: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> Correlation:
    """The correlation of two columns over points, with a bootstrap interval.

    Kinds: "pearson"; "spearman", Pearson's of the ranks (ties share their mean rank); "kendall", tau-b:
    `(C - D) / sqrt(pairs untied in x * pairs untied in y)`, C and D the concordant and discordant pairs.

    The interval draws the points anew with replacement and is bias-corrected and accelerated (Efron 1987,
    the acceleration from the jackknife). It answers for the choice of points, not for the noise in each.
    Where that correction is not defined (all resamples on one side of the value, as for points on a line,
    or one point far from all others) it is the percentile interval. For few points
    either one is too narrow: at 95 % and normal points it covers about 93 % of the time with 30 of them.

    Args:
        x, y: shape (n,), finite, n >= 3, neither constant.
        num_bootstrap: resamples drawn; the same seed draws the same ones.
        clusters: shape (n,), labels of points that depend on each other, such as networks of one shape: whole
            clusters are drawn, and left out. None: each point by itself.

    Raises:
        StatsError: other shapes, fewer than 3 points or clusters, a NaN or infinity, a constant column, a bad
            option.

    Cost: time O(num_bootstrap n^2) in matrix products, memory O(num_bootstrap n + n^2).
    """
    x, y = check_points(x, y)
    if kind not in COEFFICIENTS:
        raise refuse(f"kind={kind!r}", f"one of {', '.join(COEFFICIENTS)}", "choose kind from that list")
    if num_bootstrap < 100:
        raise refuse(f"num_bootstrap={num_bootstrap}", "100 or more", "leave it at 2000")
    if not 0 < confidence < 1:
        raise refuse(f"confidence={confidence}", "a share between 0 and 1", "pass 0.95 for 95 %")
    n = len(x)
    labels = np.arange(n) if clusters is None else label_codes(clusters, n, name="clusters")
    num_clusters = labels.max() + 1
    if num_clusters < 3:
        raise refuse(f"{num_clusters} clusters", "3 or more", "leave out clusters, or measure more of them")

    def coefficient(counts: np.ndarray) -> np.ndarray:
        return COEFFICIENTS[kind](x, y, counts)

    value = float(coefficient(np.ones((1, n)))[0])
    share = np.full(num_clusters, 1 / num_clusters)
    drawn = np.random.default_rng(seed).multinomial(num_clusters, share, size=num_bootstrap).astype(float)
    drawn = drawn[:, labels]
    resampled = coefficient(drawn[_vary(x, drawn) & _vary(y, drawn)])
    left_out = (1 - np.eye(num_clusters))[:, labels]
    jackknife = coefficient(left_out[_vary(x, left_out) & _vary(y, left_out)])
    low, high = np.quantile(resampled, _bca_levels(value, resampled, jackknife, confidence))
    return Correlation(value, float(low), float(high), n, len(resampled))


def pearson(
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_bootstrap: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> Correlation:
    """Pearson's correlation: how near the points lie to a line. See `correlation`."""
    return correlation(
        x, y, kind="pearson", num_bootstrap=num_bootstrap, confidence=confidence, seed=seed, clusters=clusters
    )


def spearman(
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_bootstrap: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> Correlation:
    """Spearman's correlation: Pearson's of the ranks. See `correlation`."""
    return correlation(
        x,
        y,
        kind="spearman",
        num_bootstrap=num_bootstrap,
        confidence=confidence,
        seed=seed,
        clusters=clusters,
    )


def kendall(
    x: ArrayLike,
    y: ArrayLike,
    *,
    num_bootstrap: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> Correlation:
    """Kendall's tau-b: how much likelier a pair is ranked alike than unlike. See `correlation`."""
    return correlation(
        x, y, kind="kendall", num_bootstrap=num_bootstrap, confidence=confidence, seed=seed, clusters=clusters
    )


# A resample is how often it holds each point, a row of `counts`. So one matrix product serves all resamples,
# the jackknife (all ones but a 0) and the points themselves (all ones).


def _pearson(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Rows of counts (B, n) to coefficients (B,); x and y of shape (n,) or (B, n)."""
    total = counts.sum(axis=1, keepdims=True)
    dx = x - (counts * x).sum(axis=1, keepdims=True) / total
    dy = y - (counts * y).sum(axis=1, keepdims=True) / total
    # Unit lengths first: the product of two tiny variances may underflow.
    ux = dx / np.sqrt((counts * dx**2).sum(axis=1, keepdims=True))
    uy = dy / np.sqrt((counts * dy**2).sum(axis=1, keepdims=True))
    return np.clip((counts * ux * uy).sum(axis=1), -1, 1)


def _spearman(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return _pearson(_ranks(x, counts), _ranks(y, counts), counts)


def _kendall(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    sx, sy = (np.sign(v[:, None] - v[None, :]) for v in (x, y))
    return _pairs(sx * sy, counts) / np.sqrt(_pairs(sx**2, counts) * _pairs(sy**2, counts))


COEFFICIENTS: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = MappingProxyType(
    {"pearson": _pearson, "spearman": _spearman, "kendall": _kendall}
)


def _pairs(matrix: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The sum of a matrix over the ordered pairs of each resample, shape (B,)."""
    return ((counts @ matrix) * counts).sum(axis=1)


def _ranks(v: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean rank of each point within each resample, shape (B, n)."""
    below, equal = v[:, None] < v[None, :], v[:, None] == v[None, :]
    return counts @ below + (counts @ equal + 1) / 2


def _vary(v: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Which resamples hold two different values, shape (B,). Counts of pairs, so free of rounding."""
    return _pairs((v[:, None] != v[None, :]).astype(float), counts) > 0


def _bca_levels(value: float, resampled: np.ndarray, jackknife: np.ndarray, confidence: float) -> np.ndarray:
    """The two quantile levels of the interval: Efron's, or the plain ones where his are not defined."""
    plain = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    share = np.mean(resampled < value) + np.mean(resampled == value) / 2
    distances = jackknife.mean() - jackknife
    spread = np.sum(distances**2)
    # Equal up to rounding: points on a line, where the correction would amplify noise.
    if not 0 < share < 1 or spread < 1e-20:
        return plain
    bias, acceleration = ndtri(share), np.sum(distances**3) / (6 * spread**1.5)
    shifted = bias + ndtri(plain)
    stretch = 1 - acceleration * shifted
    # At 0 the map folds over: one far-off point carries the whole acceleration.
    return ndtr(bias + shifted / stretch) if np.all(stretch > 0) else plain
