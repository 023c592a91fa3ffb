"""The conditions of D's Theorem 1 on a perceptron before and after training, as histograms and numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsens.data import Dataset
from jaxsens.metrics import (
    flip_condition,
    interaction_condition,
    interaction_triples,
    mlp_preactivations,
    spike_condition,
    unit_norm_ratios,
)
from jaxsens.models import ModelConfig, perceptron
from jaxsens.table import Value, counts_to_text

__all__ = [
    "BINS_PER_DECADE",
    "FLIP_DELTAS",
    "OUTPUT_BINS",
    "ConditionPrograms",
    "compile_conditions",
    "condition_measures",
]

# Histograms count log10 of ratios, and outputs, in bins of this many per unit.
BINS_PER_DECADE = 20
OUTPUT_BINS = 2
FLIP_DELTAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 5e-2, 0.1, 0.2, 0.3)
"""Distances from the kink, of a network whose inputs have a mean norm of 1."""


class ConditionPrograms(NamedTuple):
    """Compiled once per cell; all but the first take weights, biases and inputs."""

    fold: Callable[[Any, Any], Any]
    ratios: Callable[..., Array]
    flips: Callable[..., Any]
    spikes: Callable[..., tuple[Array, tuple[Array, ...]]]
    outputs: Callable[..., Array]


def compile_conditions(model: ModelConfig) -> ConditionPrograms:
    """The measures of one perceptron. Nothing is compiled before it is called."""

    def flips(weights: Any, biases: Any, xs: Array) -> Any:
        # Theorem 1 has inputs of norm 1; these have a mean norm of 1. One number divides inputs and biases,
        # and so all preactivations.
        scale = jnp.mean(jnp.linalg.norm(xs.reshape(len(xs), -1), axis=1))
        return flip_condition(weights, [b / scale for b in biases], xs / scale, jnp.asarray(FLIP_DELTAS))

    return ConditionPrograms(
        fold=jax.jit(lambda params, state: perceptron(model, params, state)),
        ratios=jax.jit(lambda *network: interaction_condition(*network).ratio),
        flips=jax.jit(flips),
        spikes=jax.jit(lambda *network: (spike_condition(*network), unit_norm_ratios(network[0]))),
        outputs=jax.jit(_outputs),
    )


def condition_measures(
    programs: ConditionPrograms, params: Any, state: Any, data: Dataset, num_examples: int, stage: str
) -> dict[str, Value]:
    """The columns of one network, their names ending in `stage`, at its first training examples.

    Histograms are texts of `counts_to_text`: of log10(1/mu) over triples and examples, all of them, the inner
    (a < c < b - 1) and the outer ones, and of log10 of the units' relative norms, `BINS_PER_DECADE` a decade;
    of the outputs, two a unit. Where C1 has no ratio, the whole product being 0, it is in no histogram, and
    mu is 0.
    """
    network = *programs.fold(params, state), jnp.asarray(data.x_train[:num_examples])
    ratios, inner = np.asarray(programs.ratios(*network)), interaction_triples(len(network[0])).inner
    flips = programs.flips(*network)
    spikes, relative = programs.spikes(*network)
    values: dict[str, Value] = {"mu": 1 / float(ratios.max()) if ratios.max() > 0 else None}
    groups = {"all": ratios, "inner": ratios[:, inner], "outer": ratios[:, ~inner]}
    for name, group in groups.items():
        values[f"interaction_{name}"] = _decades_to_text(group)
        values[f"interaction_{name}_median"] = float(np.median(group)) if group.size else None
    for index, delta in enumerate(FLIP_DELTAS):
        share = np.asarray(flips.share)[..., index]
        values[f"flips_mean_at_{delta:g}"] = float(share.mean())
        values[f"flips_max_at_{delta:g}"] = float(share.mean(axis=0).max())
    constants = np.asarray(flips.constant, np.float64)
    values["c2_median"] = float(np.median(constants))
    values["c2"] = float(constants.max()) if np.isfinite(constants.max()) else None
    values["c3"] = float(spikes.max()) if np.isfinite(spikes.max()) else None
    values["c3_median"] = float(np.median(spikes))
    hidden = np.concatenate([np.asarray(r) for r in relative[:-1]])
    values |= {"unit_norms": _decades_to_text(hidden), "unit_norm_max": float(hidden.max())}
    outputs = np.asarray(programs.outputs(*network))
    values["outputs"] = counts_to_text(np.rint(outputs.ravel() * OUTPUT_BINS).astype(int))
    values["output_norm"] = float(np.linalg.norm(outputs, axis=1).mean())
    return {f"{name}_{stage}": value for name, value in values.items()}


def _outputs(weights: Any, biases: Any, xs: Array) -> Array:
    hidden = jax.nn.relu(mlp_preactivations(weights, biases, xs)[-1])
    return jnp.matmul(hidden, weights[-1]) + biases[-1]


def _decades_to_text(ratios: np.ndarray) -> str:
    """The histogram of the positive, finite numbers among them."""
    used = ratios[np.isfinite(ratios) & (ratios > 0)]
    return counts_to_text(np.rint(np.log10(used) * BINS_PER_DECADE).astype(int))
