"""The theory curves of Forouzesh et al., "Generalization Comparison of DNNs via Output Sensitivity"."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["Line", "Prediction", "equation_7", "equation_9", "equation_14"]


class Prediction(NamedTuple):
    """What the equations need besides S: K, sigma_x^2 (the input's second moment), sigma_eps (the noise)."""

    num_outputs: int
    input_second_moment: float
    noise_std: float


@dataclasses.dataclass(frozen=True)
class Line:
    """A theory curve over the points: its label, and a function from x to y, both (n,)."""

    label: str
    function: Callable[[np.ndarray], np.ndarray]


def equation_14(sensitivity: np.ndarray, prediction: Prediction) -> np.ndarray:
    """The predicted variance of the mean logit, `var = S sigma_x^2 / sigma_eps^2`, elementwise.

    Equation 14 of Forouzesh et al., its Sigma neglected as in their figures.
    """
    _, moment, noise = prediction
    return sensitivity * moment / noise**2


def equation_7(sensitivity: np.ndarray, prediction: Prediction) -> np.ndarray:
    """The predicted variance after the softmax, `eps_variance = (K-1)/K S sigma_x^2 / sigma_eps^2`.

    Equation 7 of Forouzesh et al., elementwise, its Sigma neglected as in their figures.
    """
    outputs = prediction.num_outputs
    return (outputs - 1) / outputs * equation_14(sensitivity, prediction)


def equation_9(sensitivity: np.ndarray, prediction: Prediction) -> np.ndarray:
    """The predicted loss `L = sqrt(1/2 (K-1)/K S sigma_x^2 / sigma_eps^2)`, elementwise.

    Equation 9 of Forouzesh et al., its Sigma neglected as in their figures.
    """
    return np.sqrt(0.5 * equation_7(sensitivity, prediction))
