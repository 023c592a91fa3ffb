"""Trained members to numbers: losses, S, Jacobian norms, and the bias-variance decomposition of a cell."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsens.data import Dataset, second_moment
from jaxsens.metrics import (
    bias_variance,
    jacobian_norms,
    linearized_output_sensitivity,
    output_noise,
    predicted_loss,
    sensitivity_of_noise,
)
from jaxsens.models import Network
from jaxsens.sweep.cells import MeasureConfig
from jaxsens.train import LOSSES, Member, Training

__all__ = ["evaluate_cell", "evaluate_member"]

# Examples, and reverse passes, per compiled call: small enough to stay in memory for the largest network.
_FORWARD_EXAMPLES = 500
_REVERSE_PASSES = 1000
# Training splits a seed's key, which is folding in 0 and 1; the noise must come from elsewhere.
_NOISE = 2**31 - 1


class Programs(NamedTuple):
    """What is compiled once per cell and called for each member and each chunk of examples."""

    start: Callable[[Array], Member]
    predict: Callable[..., Array]
    noise: Callable[..., Array]
    norms: Callable[..., Any]
    linearized: Callable[..., Array]


def compile_programs(network: Network, training: Training, measure: MeasureConfig) -> Programs:
    """The jitted measures of one network. Nothing is compiled before it is called."""

    def noise(params: Any, state: Any, xs: Array, key: Array) -> Array:
        return output_noise(
            network.function(state),
            params,
            xs,
            key=key,
            noise_std=measure.noise_std,
            num_draws=measure.num_draws,
        )

    def norms(params: Any, state: Any, xs: Array) -> Any:
        return jacobian_norms(network.function(state), params, xs)

    def linearized(params: Any, state: Any, xs: Array) -> Array:
        return linearized_output_sensitivity(network.function(state), params, xs, noise_std=measure.noise_std)

    return Programs(*map(jax.jit, (training.start, network.predict, noise, norms, linearized)))


def evaluate_cell(
    network: Network,
    training: Training,
    members: Member,
    seeds: tuple[int, ...],
    data: Dataset,
    measure: MeasureConfig,
) -> list[dict[str, Any]]:
    """One row of numbers per member, and the cell's own numbers on each row.

    Members that diverged (a training loss, parameter or test output that is not finite) have `diverged=True`,
    no measures, and no part in the cell's numbers. All matrix products are in full float32: S is a small
    difference of large outputs.
    """
    programs = compile_programs(network, training, measure)
    rows, predictions = [], []
    for index, seed in enumerate(seeds):
        member = jax.tree.map(lambda leaf, index=index: leaf[index], members)
        row = {"epochs": int(member.epoch), "diverged": True}
        if not member.diverged and all_finite((member.params, member.state)):
            with jax.default_matmul_precision("highest"):
                start = programs.start(jax.random.key(seed))
                values, outputs = evaluate_member(
                    programs, start, member, seed, data, measure, training.config.loss
                )
            if all_finite(outputs):
                row |= values | {"diverged": False}
                predictions.append(outputs)
        rows.append(row)
    if not predictions:
        return rows
    shared = cell_numbers(np.stack(predictions), data)
    sensitivities = [row["sensitivity_after"] for row in rows if not row["diverged"]]
    if data.task == "classification" and None not in sensitivities:
        shared["predicted_loss"] = float(
            predicted_loss(
                np.mean(sensitivities),
                second_moment(data.x_test),
                noise_std=measure.noise_std,
                num_outputs=data.num_outputs,
            )
        )
    return [row if row["diverged"] else row | shared for row in rows]


def evaluate_member(
    programs: Programs,
    start: Member,
    member: Member,
    seed: int,
    data: Dataset,
    measure: MeasureConfig,
    loss: str,
) -> tuple[dict[str, float | None], np.ndarray]:
    """The numbers of one member, and its predictions on the test set (probabilities, or outputs)."""
    key = jax.random.fold_in(jax.random.key(seed), _NOISE)
    values: dict[str, float | None] = {}
    for split, xs, ys in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        outputs = np.concatenate(
            [programs.predict(member.params, member.state, x) for x in chunks(xs, _FORWARD_EXAMPLES)]
        )
        values[f"{split}_loss"] = float(
            np.mean(np.asarray(LOSSES[loss](jnp.asarray(outputs), jnp.asarray(ys))), dtype=np.float64)
        )
        if data.task == "classification":
            values[f"{split}_accuracy"] = float(np.mean(outputs.argmax(axis=-1) == ys))
    for when, whose in (("before", start), ("after", member)):
        noise = [
            programs.noise(whose.params, whose.state, x, jax.random.fold_in(key, index))
            for index, x in enumerate(chunks(data.x_test, _FORWARD_EXAMPLES))
        ]
        value, stderr = sensitivity(jnp.concatenate(noise, axis=1))
        values |= {f"sensitivity_{when}": value, f"sensitivity_{when}_stderr": stderr}

    some = data.x_test[: measure.derivative_examples]
    size = max(1, _REVERSE_PASSES // data.num_outputs)
    linearized, before, after = 0.0, 0.0, 0.0
    for x in chunks(some, size):
        weight = len(x) / len(some)
        norms = programs.norms(member.params, member.state, x)
        linearized += weight * float(programs.linearized(member.params, member.state, x))
        before += weight * float(norms.before_softmax.mean())
        after += weight * float(norms.after_softmax.mean())
    values["linearized_sensitivity_after"] = linearized
    values["jacobian_norm_before_softmax"] = before
    if data.task == "classification":
        values["jacobian_norm_after_softmax"] = after
        outputs = np.asarray(jax.nn.softmax(outputs))
    return values, outputs


def sensitivity(noise: Array) -> tuple[float | None, float | None]:
    """S of A eq. 2 and its standard error; None for both where the outputs overflowed.

    Untrained deep networks with standard normal weights reach 1e27, whose square float32 cannot hold: the
    noise is scaled to 1 first, and the result back in Python's float64.
    """
    largest = float(jnp.max(jnp.abs(noise)))
    if not np.isfinite(largest):
        return None, None
    unit = largest or 1.0
    estimate = sensitivity_of_noise(noise / unit)
    return float(estimate.value) * unit**2, float(estimate.stderr) * unit**2


def all_finite(tree: Any) -> bool:
    """Whether no number in the tree is a NaN or an infinity."""
    return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in jax.tree.leaves(tree))


def cell_numbers(predictions: np.ndarray, data: Dataset) -> dict[str, float | None]:
    """Bias, variance and their sum, the squared error, over the members that trained. A eqs. 4-6."""
    targets = data.y_test
    if data.task == "classification":
        targets = np.eye(data.num_outputs, dtype=predictions.dtype)[targets]
    if len(predictions) == 1:
        # One member has a loss; what varies between members is unknown, not 0.
        return {
            "bias": None,
            "variance": None,
            "mse_loss": float(((predictions[0] - targets) ** 2).sum(-1).mean()),
        }
    parts = bias_variance(jnp.asarray(predictions), jnp.asarray(targets))
    return {"bias": float(parts.bias), "variance": float(parts.variance), "mse_loss": float(parts.loss)}


def chunks(xs: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Parts of one length (one compilation), the last one shorter where it must be (a second)."""
    return (xs[start : start + size] for start in range(0, len(xs), size))
