"""How well a score tells two kinds of examples apart, over all pairs and over pairs of one stratum only."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtri
from scipy.stats import rankdata

from jaxsens.stats.checks import refuse

__all__ = ["Auroc", "StratifiedAuroc", "auroc", "label_codes", "quantile_strata", "stratified_auroc"]


class Auroc(NamedTuple):
    """An area under the ROC curve, the ends of its interval, its standard error, and what it rests on."""

    value: float
    low: float
    high: float
    stderr: float
    num_positive: int
    num_negative: int


class StratifiedAuroc(NamedTuple):
    """As `Auroc`, of the examples in the `num_strata` strata that hold both kinds."""

    value: float
    low: float
    high: float
    stderr: float
    num_positive: int
    num_negative: int
    num_strata: int


def auroc(scores: ArrayLike, positives: ArrayLike, *, confidence: float = 0.95) -> Auroc:
    """The area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    `A = mean of V_i`, V_i the share of negatives below positive i, and as well the mean of W_j, the share of
    positives above negative j. `stderr^2 = var(V) / m + var(W) / n` for m positives and n negatives, the
    variances with m - 1 and n - 1 (DeLong, DeLong and Clarke-Pearson 1988). The interval is
    `expit(logit(A) +- z stderr / (A (1 - A)))`, which stays within (0, 1).

    Two cases have no such variance. A lone positive (negative): `A (1 - A)` stands for var(V) (for var(W)),
    the greatest that shares of that mean can have. All pairs on one side, A = 1 or 0: the interval ends there
    and at `((1 - confidence) / 2)^(1 / min(m, n))`, or 1 less that: the least A for which min(m, n) pairs of
    different examples agree that often.

    Args:
        scores: shape (n,), finite.
        positives: shape (n,), bool or 0 and 1; one or more of each.

    Raises:
        StatsError: other shapes or values, a NaN or infinity, or one kind only.

    Cost: O(n log n) time, O(n) memory.
    """
    scores, positives = _check_scores(scores, positives, confidence)
    found = _over_strata(scores, positives, np.zeros(len(scores), dtype=np.int64), confidence)
    return Auroc(*found[:-1])


def stratified_auroc(
    scores: ArrayLike, positives: ArrayLike, strata: ArrayLike, *, confidence: float = 0.95
) -> StratifiedAuroc:
    """The area under the ROC curve over the pairs within one stratum: what a score adds to what made these.

    `A = sum_s w_s A_s`, A_s that of stratum s and `w_s = m_s n_s / sum_r m_r n_r` its share of the pairs; so
    A is the share of all pairs within strata in which the positive scores above, ties counting half.
    `stderr^2 = sum_s w_s^2 stderr_s^2`, each as in `auroc`, with `A (1 - A)` of the whole where a stratum
    holds a lone positive or negative. Strata of one kind hold no pair and are left out. Where all pairs are
    on one side, the interval takes A_s as equal in all strata.

    Args:
        scores, positives: as in `auroc`.
        strata: shape (n,), whole numbers or text, such as those of `quantile_strata`.

    Raises:
        StatsError: as `auroc`, other strata, or no stratum with both kinds.

    Cost: as `auroc`, however many strata there are.
    """
    scores, positives = _check_scores(scores, positives, confidence)
    codes = label_codes(strata, len(scores), name="strata")
    return StratifiedAuroc(*_over_strata(scores, positives, codes, confidence))


def quantile_strata(values: ArrayLike, num: int) -> np.ndarray:
    """Labels 0 to num - 1 of bins of equal count by rank, shape (n,): `floor(num below / n * num)`.

    Without ties the bins differ by one example at most. Equal values stay together, in the lowest bin that
    any of them would have, so with many ties bins differ and some labels may be missing.

    Raises:
        StatsError: values of another shape than (n,), a NaN or infinity, or num outside 1 to n.

    Cost: O(n log n).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.all(np.isfinite(values)):
        raise refuse(
            f"values of shape {values.shape}, {np.sum(~np.isfinite(values))} of them NaN or infinite",
            "(n,) finite numbers",
            "leave out what is not finite",
        )
    if not 1 <= num <= len(values):
        raise refuse(
            f"num={num} bins of {len(values)} values", "1 to as many as values", "ask for fewer bins"
        )
    below = rankdata(values, method="min").astype(np.int64) - 1
    return below * num // len(values)


def label_codes(labels: ArrayLike, count: int, *, name: str) -> np.ndarray:
    """Labels (whole numbers, bool or text) as 0, 1, ... in sorted order, shape (count,); refuses others."""
    array = np.asarray(labels)
    if array.dtype == object:
        # Columns of text are of this type; a list of them is not.
        array = np.asarray(array.tolist())
    if array.shape != (count,) or array.dtype.kind not in "biuU":
        raise refuse(
            f"{name} of shape {array.shape} and type {array.dtype}",
            f"({count},) whole numbers or text",
            "pass one label per example",
        )
    return np.unique(array, return_inverse=True)[1]


def _check_scores(
    scores: ArrayLike, positives: ArrayLike, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores in float64 and positives as bool, shape (n,) both."""
    scores, kinds = np.asarray(scores, dtype=np.float64), np.asarray(positives)
    if scores.ndim != 1 or scores.shape != kinds.shape:
        raise refuse(
            f"scores {scores.shape} and positives {kinds.shape}", "(n,) twice", "pass one score per example"
        )
    if not np.all(np.isfinite(scores)):
        raise refuse(
            f"{np.sum(~np.isfinite(scores))} scores that are NaN or infinite",
            "finite numbers only",
            "leave out these examples, or give them the rank you mean",
        )
    if kinds.dtype.kind not in "biuf" or not np.all((kinds == 0) | (kinds == 1)):
        raise refuse("other positives", "bool, or 0 and 1", "compare the labels with the positive one")
    kinds = kinds.astype(bool)
    if not 0 < kinds.sum() < len(kinds):
        raise refuse(
            f"{kinds.sum()} positives among {len(kinds)} examples",
            "one or more of each kind",
            "pass examples of both kinds",
        )
    if not 0 < confidence < 1:
        raise refuse(f"confidence={confidence}", "a share between 0 and 1", "pass 0.95 for 95 %")
    return scores, kinds


def _over_strata(
    scores: np.ndarray, positives: np.ndarray, codes: np.ndarray, confidence: float
) -> tuple[float, float, float, float, int, int, int]:
    """The fields of `StratifiedAuroc`; codes are whole numbers from 0."""
    m, n = (np.bincount(codes, weights=kind, minlength=codes.max() + 1) for kind in (positives, ~positives))
    both = (m > 0) & (n > 0)
    if not both.any():
        raise refuse(
            f"{len(m)} strata of one kind each", "a stratum with both kinds", "make fewer, larger strata"
        )
    kept = both[codes]
    codes = (np.cumsum(both) - 1)[codes[kept]]
    scores, positives, m, n = scores[kept], positives[kept], m[both], n[both]

    # Runs of equal scores within a stratum, in rising order: counts of the two kinds in each and below each.
    order = np.lexsort((scores, codes))
    scores, codes, positives = scores[order], codes[order], positives[order]
    fresh = np.append(True, (np.diff(scores) != 0) | (np.diff(codes) != 0))
    run, stratum = np.cumsum(fresh) - 1, codes[fresh]
    m_run, n_run = (np.bincount(run, weights=kind) for kind in (positives, ~positives))
    m_below, n_below = (
        np.cumsum(here) - here - (np.cumsum(total) - total)[stratum]
        for here, total in ((m_run, m), (n_run, n))
    )
    # Counts of pairs are whole or half: exact, so that 1 means every pair.
    won = np.bincount(stratum, weights=m_run * (n_below + n_run / 2))
    value = float(won.sum() / (m * n).sum())
    area = won / (m * n)
    v, w = (n_below + n_run / 2) / n[stratum], (m[stratum] - m_below - m_run / 2) / m[stratum]
    variance = (
        _variance(v, m_run, m, stratum, area, value) / m + _variance(w, n_run, n, stratum, area, value) / n
    )
    weights = m * n / (m * n).sum()
    stderr = float(np.sqrt(np.sum(weights**2 * variance)))
    low, high = _interval(value, stderr, int(np.minimum(m, n).sum()), confidence)
    return value, low, high, stderr, int(m.sum()), int(n.sum()), len(m)


def _variance(
    shares: np.ndarray,
    counts: np.ndarray,
    totals: np.ndarray,
    stratum: np.ndarray,
    area: np.ndarray,
    value: float,
) -> np.ndarray:
    """The variance within each stratum of shares that occur `counts` times, `totals` in all."""
    squares = np.bincount(stratum, weights=counts * (shares - area[stratum]) ** 2)
    return np.where(totals > 1, squares / np.maximum(totals - 1, 1), value * (1 - value))


def _interval(value: float, stderr: float, disjoint: int, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    if value in (0.0, 1.0):
        end = tail ** (1 / disjoint)
        return (float(end), 1.0) if value else (0.0, float(1 - end))
    half = -ndtri(tail) * stderr / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))
