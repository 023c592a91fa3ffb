"""What a measurement can be told, in one place for `measure` and `compare`."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array

from jaxsens.checks import check_at_least, check_choice, refuse
from jaxsens.metrics.pac_bayes import check_scale

__all__ = ["LOSSES", "PERTURBATIONS_PER_DRAW", "Options"]

PERTURBATIONS_PER_DRAW = 10
"""Perturbed networks that share a mini-batch in `expected_sharpness`."""


def squared_error(outputs: Array, targets: Array) -> Array:
    """|f(x) - y|^2 of each example (A eq. 4)."""
    return jnp.sum((outputs - targets) ** 2, axis=-1)


LOSSES: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {"cross_entropy": optax.softmax_cross_entropy_with_integer_labels, "mse": squared_error}
)
"""Of n outputs (n, K) and labels (n,), or targets (n, K): n losses."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `measure`, which documents them."""

    loss: str
    noise_std: float
    num_draws: int
    chunk_size: int | None
    tangent_examples: int | None
    alpha: float
    num_perturbations: int

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        check_scale("noise_std", self.noise_std)
        check_scale("alpha", self.alpha)
        check_at_least("num_draws", self.num_draws, 1)
        check_at_least("num_perturbations", self.num_perturbations, 2 * PERTURBATIONS_PER_DRAW)
        if self.num_perturbations % PERTURBATIONS_PER_DRAW:
            raise refuse(
                f"num_perturbations={self.num_perturbations}",
                f"a multiple of {PERTURBATIONS_PER_DRAW}",
                "round it: so many share a mini-batch",
            )
        if self.chunk_size is not None:
            check_at_least("chunk_size", self.chunk_size, 1)
        if self.tangent_examples is not None:
            check_at_least("tangent_examples", self.tangent_examples, 2)

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on."""
        numbers = {name: float(getattr(self, name)) for name in ("noise_std", "alpha")}
        counts = {name: int(getattr(self, name)) for name in ("num_draws", "num_perturbations")}
        return {"loss": self.loss} | numbers | counts
