"""The tangent sensitivity of a trained ReLU perceptron, its bounds, and what loss estimates need (B, C)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsens.data import Dataset
from jaxsens.metrics import (
    activation_pattern,
    active_counts,
    fisher_rao_norm,
    input_jacobian_norm,
    log_active_path_bound,
    log_empirical_tangent_sensitivity,
    log_layerwise_norm,
    log_psi_star,
    log_region_bound,
    log_spectral_product,
    log_tangent_norm_bound,
    mlp_preactivations,
    relu_mlp_tangent_sensitivity,
)
from jaxsens.models import ModelConfig, perceptron
from jaxsens.sweep.chunks import FORWARD_EXAMPLES, REVERSE_PASSES, chunks
from jaxsens.table import Value, counts_to_text
from jaxsens.train import Member

__all__ = ["TangentPrograms", "compile_tangent", "tangent_measures"]

# Patterns that the soft weighting compares with all others at once.
_PATTERNS = 256


class TangentPrograms(NamedTuple):
    """What is compiled once per cell. All but the first take the folded perceptron, weights and biases."""

    fold: Callable[[Any, Any], Any]
    forward: Callable[..., tuple[Array, Array]]
    of_weights: Callable[..., dict[str, Array]]
    of_examples: Callable[..., dict[str, Array]]
    of_counts: Callable[..., dict[str, Array]]
    region_bound: Callable[..., Array]
    jacobian: Callable[..., Array]


def compile_tangent(model: ModelConfig) -> TangentPrograms:
    """The jitted measures of one architecture. Nothing is compiled before it is called."""

    def fold(params: Any, state: Any) -> Any:
        return perceptron(model, params, state)

    def forward(weights: Any, biases: Any, xs: Array) -> tuple[Array, Array]:
        """T(x) and the outputs."""
        preactivations = mlp_preactivations(weights, biases, xs)
        return active_counts(preactivations).total, _outputs(weights, biases, preactivations)

    def of_weights(weights: Any) -> dict[str, Array]:
        return {
            "log_tangent_norm_bound": log_tangent_norm_bound(weights),
            "log_layerwise_norm": log_layerwise_norm(weights),
            "log_spectral_product": log_spectral_product(weights),
        }

    def of_examples(weights: Any, biases: Any, xs: Array) -> dict[str, Array]:
        summed = relu_mlp_tangent_sensitivity(weights, biases, xs)
        every = relu_mlp_tangent_sensitivity(weights, biases, xs, outputs="all")
        preactivations = mlp_preactivations(weights, biases, xs)
        return {
            "tangent_sensitivity": jnp.mean(summed),
            "tangent_sensitivity_all": jnp.mean(every),
            "log_empirical_soft": log_empirical_tangent_sensitivity(
                summed, preactivations, weighting="soft", batch_size=_PATTERNS
            ),
        }

    def of_counts(weights: Any, means: dict[str, Array], stds: dict[str, Array]) -> dict[str, Array]:
        depth, num_outputs = len(weights), weights[-1].shape[1]
        sizes = (_num_weights(weights), weights[0].shape[0], depth, means["test"], stds["test"])
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(w)) for w in weights]))
        return {
            f"log_psi_star_{split}": log_psi_star(depth, means[split], stds[split]) for split in means
        } | {
            "log_active_path_bound": log_active_path_bound(*sizes, largest, num_outputs=num_outputs),
            "log_active_path_bound_as_printed": log_active_path_bound(*sizes, largest, variant="as_printed"),
            "largest_weight": largest,
        }

    def region_bound(weights: Any, biases: Any, xs: Array) -> Array:
        return log_region_bound(weights, activation_pattern(mlp_preactivations(weights, biases, xs)))

    def jacobian(weights: Any, biases: Any, xs: Array) -> Array:
        def f(params: Any, x: Array) -> Array:
            weights, biases = params
            preactivations = mlp_preactivations(weights, biases, x[None])
            return _outputs(weights, biases, preactivations)[0]

        return input_jacobian_norm(f, (weights, biases), xs)

    return TangentPrograms(
        *map(jax.jit, (fold, forward, of_weights, of_examples, of_counts, region_bound, jacobian))
    )


def tangent_measures(
    programs: TangentPrograms, member: Member, data: Dataset, num_examples: int
) -> dict[str, Value]:
    """The columns of B and C for one trained member.

    |Sens(x)|_F^2, the soft weighting, the Jacobian norm and the bound by regions (test) are over the first
    `num_examples` examples of a set; T(x) and the Fisher-Rao norm over all. The bounds are about the folded
    perceptron: its N_theta counts weights, and the two by active paths have the T(x) of the test set.
    """
    weights, biases = programs.fold(member.params, member.state)
    values: dict[str, Value] = {
        "num_weights": _num_weights(weights),
        "num_hidden_units": sum(w.shape[1] for w in weights[:-1]),
    }
    values |= {name: float(value) for name, value in programs.of_weights(weights).items()}
    means, stds = {}, {}
    for split, xs in (("train", data.x_train), ("test", data.x_test)):
        some = xs[:num_examples]
        found = programs.of_examples(weights, biases, some)
        values |= {f"{name}_{split}": float(value) for name, value in found.items()}
        parts = chunks(some, max(1, REVERSE_PASSES // data.num_outputs))
        norms = np.concatenate([programs.jacobian(weights, biases, x) for x in parts])
        values[f"jacobian_norm_{split}"] = float(norms.mean(dtype=np.float64))

        both = [programs.forward(weights, biases, x) for x in chunks(xs, FORWARD_EXAMPLES)]
        active, outputs = (np.concatenate(column) for column in zip(*both, strict=True))
        means[split], stds[split] = float(active.mean(dtype=np.float64)), float(active.std(dtype=np.float64))
        values |= {
            f"active_mean_{split}": means[split],
            f"active_std_{split}": stds[split],
            f"active_counts_{split}": counts_to_text(active),
        }
        if data.task == "classification":
            values[f"fisher_rao_norm_{split}"] = float(fisher_rao_norm(jnp.asarray(outputs)))
    values["log_region_bound"] = float(programs.region_bound(weights, biases, data.x_test[:num_examples]))
    values |= {name: float(value) for name, value in programs.of_counts(weights, means, stds).items()}
    return values


def _num_weights(weights: Any) -> int:
    return sum(w.size for w in weights)


def _outputs(weights: Any, biases: Any, preactivations: Any) -> Array:
    """The last layer on top of the last hidden one."""
    return jnp.matmul(jax.nn.relu(preactivations[-1]), weights[-1]) + biases[-1]
