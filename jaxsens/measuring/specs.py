"""What is said of a measure."""

import dataclasses
from collections.abc import Callable
from typing import Any

__all__ = ["ANY_FUNCTION", "CLASSIFIERS", "RELU_NETWORKS", "MeasureSpec"]

ANY_FUNCTION = "any f"
CLASSIFIERS = "classifiers"
RELU_NETWORKS = "ReLU networks"


@dataclasses.dataclass(frozen=True)
class MeasureSpec:
    """One measure: what it is, what it needs and costs, what its value means and when that misleads."""

    name: str
    label: str
    family: str
    source: str
    """The paper by its letter in the README, or none."""
    call: str
    """The call of `jaxsens.metrics`, or the formula, whose value it is."""
    of: Callable[[Any], Any] = dataclasses.field(repr=False)
    """`Passes` to `Quantity`, see `jaxsens.measuring.quantities`."""
    passes: frozenset[str]
    """Of "forward", "jacobian", "gradient", "noise", "tangent", "path", "sharpness"."""
    cost: str
    """In forward passes an example, if not said otherwise."""
    error: str
    """What the standard error is over: "examples", "examples and noise", "perturbations", or "none"."""
    larger_means: str
    misleads: str
    docs: str
    better: str | None = None
    """ "smaller", "larger", or None where the direction tells nothing of generalisation."""
    needs_labels: bool = False
    applies_to: str = ANY_FUNCTION
    ratio: bool = True
    """Whether two values are compared by their ratio; if not, by their difference."""
    tau_error_gap: float | None = None
    """Kendall's tau with test minus training error over 96 networks on CIFAR-10 (experiments/compare.py)."""
    tau_accuracy_gap: float | None = None
    """The same over 575 networks that fit MNIST images (experiments/robustness/survey.py)."""

    @property
    def monte_carlo(self) -> bool:
        """Whether the value depends on the key."""
        return self.error in ("examples and noise", "perturbations")
