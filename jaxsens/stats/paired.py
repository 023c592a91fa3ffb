"""The difference between two measurements of one thing, where pairs may depend on each other."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxsens.stats.auroc import label_codes
from jaxsens.stats.checks import refuse

__all__ = ["PairedDifference", "paired_difference"]

# Clusters drawn at once: 32 MB, however many pairs and resamples there are.
DRAWN_AT_ONCE = 4_000_000


class PairedDifference(NamedTuple):
    """The mean of b - a and the share of pairs with b > a, each with the ends of its interval."""

    mean: float
    low: float
    high: float
    share_positive: float
    share_low: float
    share_high: float
    num_pairs: int
    num_clusters: int


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    confidence: float = 0.95,
    num_bootstrap: int = 2000,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> PairedDifference:
    """The mean of b - a over pairs, and how often b > a (ties count half), with bootstrap intervals.

    Each resample draws as many whole clusters as there are, with replacement, and takes the mean over all
    pairs drawn: `sum_k c_k D_k / sum_k c_k n_k`, cluster k of n_k pairs and sum D_k drawn c_k times. The
    interval is that of the percentiles (Davison and Hinkley 1997, sections 3.8 and 5.3). Pairs that share a
    network or a setting are no independent evidence: drawn one by one, they give too narrow an interval. For
    few clusters it is too narrow as well: at 95 % and normal differences it covers about 83 % of the time
    with 5 of them, 91 % with 10 and 93 % with 25.

    Args:
        a, b: shape (n,), finite, n >= 3; pair i is a[i] and b[i].
        num_bootstrap: resamples drawn; the same seed draws the same ones.
        clusters: shape (n,), whole numbers or text, 3 or more different; None for each pair by itself.

    Raises:
        StatsError: other shapes, a NaN or infinity, fewer than 3 pairs or clusters, or a bad option.

    Cost: O(num_bootstrap * clusters) time, O(n) memory and 100 MB at most.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise refuse(f"shapes {a.shape} and {b.shape}", "(n,) twice", "pass the two numbers of every pair")
    if len(a) < 3:
        raise refuse(f"{len(a)} pairs", "3 or more", "measure more pairs")
    if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
        raise refuse("a NaN or infinity", "finite numbers only", "leave out the pairs that diverged")
    if num_bootstrap < 100:
        raise refuse(f"num_bootstrap={num_bootstrap}", "100 or more", "leave it at 2000")
    if not 0 < confidence < 1:
        raise refuse(f"confidence={confidence}", "a share between 0 and 1", "pass 0.95 for 95 %")
    codes = np.arange(len(a)) if clusters is None else label_codes(clusters, len(a), name="clusters")
    sizes = np.bincount(codes).astype(np.float64)
    if len(sizes) < 3:
        raise refuse(f"{len(sizes)} clusters", "3 or more", "measure more networks, or pass clusters=None")
    difference = b - a
    wins = (np.sign(difference) + 1) / 2
    # One row per quantity, one column per cluster.
    totals = np.stack([np.bincount(codes, weights=quantity) for quantity in (difference, wins)])
    resampled = _resampled(totals, sizes, num_bootstrap, np.random.default_rng(seed))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    (low, high), (share_low, share_high) = np.quantile(resampled, tails, axis=1).T.tolist()
    return PairedDifference(
        float(difference.mean()),
        low,
        high,
        float(wins.mean()),
        share_low,
        share_high,
        len(a),
        len(sizes),
    )


def _resampled(
    totals: np.ndarray, sizes: np.ndarray, num_bootstrap: int, rng: np.random.Generator
) -> np.ndarray:
    """The means of each resample, shape (quantities, num_bootstrap)."""
    rows = max(DRAWN_AT_ONCE // len(sizes), 1)
    parts = []
    for start in range(0, num_bootstrap, rows):
        drawn = rng.integers(len(sizes), size=(min(rows, num_bootstrap - start), len(sizes)))
        pairs = sizes[drawn].sum(axis=1)
        parts.append(np.stack([total[drawn].sum(axis=1) / pairs for total in totals]))
    return np.concatenate(parts, axis=1)
