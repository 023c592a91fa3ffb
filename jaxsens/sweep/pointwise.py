"""Which measure at a test point tells that the network is wrong there (E)."""

from typing import Any

import jax
import numpy as np
from jax import Array
from scipy.special import logsumexp

from jaxsens.data import Dataset
from jaxsens.stats import auroc, quantile_strata, stratified_auroc
from jaxsens.sweep.cells import MeasureConfig
from jaxsens.sweep.chunks import FORWARD_EXAMPLES, chunks
from jaxsens.sweep.robustness import RobustnessPrograms, norms_at
from jaxsens.table import Value, numbers_to_text

__all__ = ["POINT_SCORES", "pointwise_measures"]

POINT_SCORES = (
    "doubt",
    "jacobian_softmax",
    "jacobian_logits",
    "sensitivity",
    "tangent_sensitivity",
    "tangent_sensitivity_all",
)
"""Scores of a test point; `doubt` is log((1 - p) / p), p the largest probability: the baseline."""

_BINS = 10
# Narrow enough that what is left of doubt within one ranks nothing: its own AUROC is measured beside.
_STRATA = 100


def pointwise_measures(
    programs: RobustnessPrograms,
    member: Any,
    data: Dataset,
    outputs: np.ndarray,
    measure: MeasureConfig,
    key: Array,
) -> dict[str, Value]:
    """Each score's AUROC for being misclassified, alone and among points of like doubt, and its curve.

    `*_within` is over pairs within one hundredth of the points by doubt, of 5 points at least, that of doubt
    itself among them.
    `wrong_*` is the share of misclassified points in each tenth of the points by the score, rising. Nothing
    where all points are right, or all wrong, and nothing of a score that overflows.
    """
    config: Any = measure.robustness
    count = min(config.pointwise_examples, len(data.x_test))
    xs, outputs = data.x_test[:count], outputs[:count]
    wrong = outputs.argmax(axis=1) != data.y_test[:count]
    values: dict[str, Value] = {"pointwise_wrong": int(wrong.sum()), "pointwise_examples": count}
    if wrong.all() or not wrong.any():
        return values
    scores = score_points(programs, member, xs, outputs, key)
    strata = quantile_strata(scores["doubt"], min(_STRATA, count // 5))
    mixed = any(len(set(wrong[strata == place])) == 2 for place in range(_STRATA))
    for name, score in scores.items():
        if not np.isfinite(score).all():
            continue
        found = auroc(score, wrong)
        values[f"auroc_{name}"], values[f"auroc_{name}_stderr"] = found.value, found.stderr
        bins = quantile_strata(score, _BINS)
        shares = [wrong[bins == place].mean() if (bins == place).any() else np.nan for place in range(_BINS)]
        values[f"wrong_{name}"] = numbers_to_text(np.array(shares))
        if mixed:
            within = stratified_auroc(score, wrong, strata)
            values[f"auroc_{name}_within"] = within.value
            values[f"auroc_{name}_within_stderr"] = within.stderr
    for name, kind in (("right", ~wrong), ("wrong", wrong)):
        values[f"jacobian_softmax_{name}"] = float(
            np.mean(scores["jacobian_softmax"][kind], dtype=np.float64)
        )
    return values


def score_points(
    programs: RobustnessPrograms, member: Any, xs: np.ndarray, outputs: np.ndarray, key: Array
) -> dict[str, np.ndarray]:
    """Each of `POINT_SCORES` at each point, (n,), tangent sensitivity of ReLU networks alone."""
    sorted_outputs = np.sort(outputs.astype(np.float64), axis=1)
    # In logits: 1 - p of a confident network is 0 in float32, and all its points would tie.
    doubt = np.asarray(logsumexp(sorted_outputs[:, :-1], axis=1)) - sorted_outputs[:, -1]
    logits, softmax = norms_at(programs, member, xs)
    parts = list(chunks(xs, FORWARD_EXAMPLES))
    noise = [
        programs.noise(member.params, member.state, x, jax.random.fold_in(key, index))
        for index, x in enumerate(parts)
    ]
    scores = {
        "doubt": doubt,
        "jacobian_softmax": softmax,
        "jacobian_logits": logits,
        "sensitivity": np.concatenate(noise),
    }
    if programs.tangents is not None:
        weights, biases = programs.maps(member.params, member.state)
        summed, every = zip(*(programs.tangents(weights, biases, x) for x in parts), strict=True)
        scores |= {
            "tangent_sensitivity": np.concatenate(summed),
            "tangent_sensitivity_all": np.concatenate(every),
        }
    return scores
