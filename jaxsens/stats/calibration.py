"""How far a classifier's confidence is from its accuracy, and the one number that mends most of it."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import softmax

from jaxsens.stats.checks import check_classified, refuse

__all__ = ["expected_calibration_error", "fit_temperature"]


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The T > 0 with the least mean cross-entropy of `softmax(logits / T)` (Guo et al. 2017, section 4.2).

    With b = 1/T the loss is convex, and its derivative `mean_i(sum_k p_ik z_ik - z_i,label)`, p_i the softmax
    of b z_i, increases in b: its one root is found by bracketing. `T(c z) = c T(z)`.

    Args:
        logits: shape (n, K), before the softmax, K >= 2.
        labels: shape (n,), whole numbers in [0, K).

    Raises:
        StatsError: other shapes or values, or no minimum: every label has the largest logit (T -> 0), or
            labels have on average no larger logits than other classes (T -> infinity).
    """
    logits, labels = check_classified(logits, labels, name="logits")
    chosen = logits[np.arange(len(labels)), labels]
    if np.all(chosen == logits.max(axis=1)):
        raise refuse(
            "logits that are largest at every label",
            "some mistakes",
            "fit on held-out examples; here T tends to 0",
        )
    if np.mean(logits.mean(axis=1) - chosen) >= 0:
        raise refuse(
            "logits no larger at the labels than elsewhere",
            "better than chance",
            "check the order of the labels; here T tends to infinity",
        )
    # Logits of about 1, so that a first bracket of (0, 1) is never far off.
    scale = np.abs(logits - logits.mean(axis=1, keepdims=True)).max()
    centred = (logits - chosen[:, None]) / scale

    def slope(b: float) -> float:
        return float(np.mean(np.sum(softmax(b * centred, axis=1) * centred, axis=1)))

    high = 1.0
    while slope(high) <= 0:
        high *= 2
    return float(scale / brentq(slope, 0.0, high, xtol=1e-14, rtol=np.float64(1e-12)))


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> float:
    """The mean distance between confidence and accuracy (Guo et al. 2017, equation 3).

    `sum_b |B_b| / n |accuracy(B_b) - confidence(B_b)|`, the bins B_b of equal width in (0, 1] by the largest
    probability.

    Args:
        probabilities: shape (n, K), rows of sum 1.
        labels: shape (n,), whole numbers in [0, K).

    Raises:
        StatsError: other shapes or values, or rows that do not sum to 1.
    """
    probabilities, labels = check_classified(probabilities, labels, name="probabilities")
    if np.any(probabilities < 0) or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4):
        raise refuse("rows that are no probabilities", "entries >= 0 of sum 1", "apply the softmax first")
    if num_bins < 1:
        raise refuse(f"num_bins={num_bins}", "1 or more", "leave it at 15")
    confidence = probabilities.max(axis=1)
    surplus = (probabilities.argmax(axis=1) == labels) - confidence
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    return float(np.abs(np.bincount(bins, weights=surplus, minlength=num_bins)).sum() / len(labels))
