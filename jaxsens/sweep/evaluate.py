"""Trained members to numbers: losses, S, Jacobian norms, and the bias-variance decomposition of a cell."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxsens.data import Dataset, second_moment
from jaxsens.metrics import (
    bias_variance,
    jacobian_norms,
    linearized_output_sensitivity,
    logit_variance,
    mlp_sensitivity_at_init,
    output_noise,
    predicted_loss,
    sensitivity_of_noise,
    tangent_sensitivity,
)
from jaxsens.models import Dense, Dropout, Flatten, ModelConfig, Network, without_batch_norm
from jaxsens.stats import StatsError, fit_temperature
from jaxsens.sweep.cells import MeasureConfig
from jaxsens.sweep.chunks import FORWARD_EXAMPLES, REVERSE_PASSES, chunks
from jaxsens.sweep.complexity import ComplexityPrograms, complexity_measures
from jaxsens.sweep.conditions import ConditionPrograms, compile_conditions, condition_measures
from jaxsens.sweep.devices import spread_all
from jaxsens.sweep.pointwise import pointwise_measures
from jaxsens.sweep.robustness import (
    RobustnessPrograms,
    compile_robustness,
    draw_triples,
    robustness_measures,
)
from jaxsens.sweep.slices import SLICE_KINDS, slice_measures
from jaxsens.sweep.tangent import TangentPrograms, compile_tangent, tangent_measures
from jaxsens.table import Value, numbers_to_text
from jaxsens.train import LOSSES, Member, device_mesh

__all__ = ["evaluate_cell", "evaluate_member", "predicted_at_init"]

# Training splits a seed's key, which is folding in 0 and 1; the noise must come from elsewhere.
_NOISE, _PERTURBATIONS, _POINTS = 2**31 - 1, 2**31 - 2, 2**31 - 3
# The programs whose third argument is many examples, each with results of its own.
_SPREAD = ("predict", "noise", "norms", "linearized")
_SPREAD_IN_GROUPS = {
    "tangent": ("forward", "jacobian"),
    "robustness": ("norms", "codes", "loops", "noise", "tangents"),
}


class Programs(NamedTuple):
    """What is compiled once per architecture and called for each member and each chunk of examples."""

    predict: Callable[..., Array]
    noise: Callable[..., Array]
    norms: Callable[..., Any]
    linearized: Callable[..., Array]
    exact_tangent: Callable[..., Array]
    fold: Callable[..., Any]
    tangent: TangentPrograms | None
    complexity: ComplexityPrograms | None
    conditions: ConditionPrograms | None
    robustness: RobustnessPrograms | None


def compile_programs(
    model: ModelConfig, network: Network, measure: MeasureConfig, complexity: ComplexityPrograms | None
) -> Programs:
    """The jitted measures of one network. Nothing is compiled before it is called.

    `complexity` are those of its folded form, which other networks share.
    """

    def noise(params: Any, state: Any, xs: Array, key: Array) -> Array:
        """Output noise of the logits, then that of the probabilities: (draws, n, 2 K)."""
        f = network.function(state)

        def both(params: Any, x: Array) -> Array:
            logits = f(params, x)
            return jnp.concatenate([logits, jax.nn.softmax(logits)])

        return output_noise(
            both, params, xs, key=key, noise_std=measure.noise_std, num_draws=measure.num_draws
        )

    def norms(params: Any, state: Any, xs: Array) -> Any:
        return jacobian_norms(network.function(state), params, xs)

    def linearized(params: Any, state: Any, xs: Array) -> Array:
        return linearized_output_sensitivity(network.function(state), params, xs, noise_std=measure.noise_std)

    def exact_tangent(params: Any, state: Any, xs: Array) -> tuple[Any, Any]:
        f = network.function(state)
        summed, whole = (tangent_sensitivity(f, params, xs, outputs=outputs) for outputs in ("sum", "all"))
        return summed, whole

    def fold(params: Any, state: Any) -> Any:
        return without_batch_norm(model, params, state).params

    return Programs(
        *map(jax.jit, (network.predict, noise, norms, linearized, exact_tangent, fold)),
        tangent=compile_tangent(model) if measure.tangent_examples else None,
        complexity=complexity,
        conditions=compile_conditions(model) if measure.condition_examples else None,
        robustness=None if measure.robustness is None else compile_robustness(model, network, measure),
    )


def on_devices(programs: Programs, mesh: Mesh) -> Programs:
    """The same with those that go over many examples spread over the mesh."""
    groups = {
        name: spread_all(group, mesh, names)
        for name, names in _SPREAD_IN_GROUPS.items()
        if (group := getattr(programs, name)) is not None
    }
    return spread_all(programs, mesh, _SPREAD)._replace(**groups)


class Start(NamedTuple):
    """A network before its training."""

    params: Any
    state: Any


def evaluate_cell(
    programs: Programs,
    initial: Callable[[Array], tuple[Any, Any]],
    members: Member,
    seeds: tuple[int, ...],
    data: Dataset,
    measure: MeasureConfig,
    *,
    loss: str,
    num_devices: int | None = 1,
) -> list[dict[str, Any]]:
    """One row of numbers per member, and the cell's own numbers on each row.

    Members are measured one after the other; what goes over many examples (outputs, S, Jacobian norms, B's
    and C's counts, E's norms and codes) is spread over `num_devices` (None: all of this host), the same
    numbers to rounding, and all else runs on one device.

    Members that diverged (a training loss, parameter or test output that is not finite) have `diverged=True`,
    no measures, and no part in the cell's numbers. All matrix products are in full float32: S is a small
    difference of large outputs.
    """
    mesh = device_mesh(num_devices)
    device = mesh.devices.flat[0]
    programs = on_devices(programs, mesh)
    rows, logits = [], []
    # Through the host: one member of an ensemble on a mesh is on all of its devices, each would measure it.
    held = jax.device_get(members._replace(optimizer=(), key=(), hyper=None))
    for index, seed in enumerate(seeds):
        member = jax.tree.map(lambda leaf, index=index: leaf[index], held)
        row = {"epochs": int(member.epoch), "diverged": True}
        if not member.diverged and all_finite((member.params, member.state)):
            member = jax.device_put(member, device)
            with jax.default_matmul_precision("highest"):
                start = jax.device_put(Start(*initial(jax.random.key(seed))), device)
                values, outputs = evaluate_member(programs, start, member, seed, data, measure, loss)
            if all_finite(outputs):
                row |= values | {"diverged": False}
                logits.append(outputs)
        rows.append(row)
    if not logits:
        return rows
    shared = cell_numbers(np.stack(logits), data)
    sensitivities = [row.get("sensitivity_after") for row in rows if not row["diverged"]]
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
    start: Start,
    member: Member,
    seed: int,
    data: Dataset,
    measure: MeasureConfig,
    loss: str,
) -> tuple[dict[str, Value], np.ndarray]:
    """The numbers of one member, and its outputs on the test set, before the softmax."""
    values: dict[str, Value] = {}
    for split, xs, ys in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        outputs = np.concatenate(
            [programs.predict(member.params, member.state, x) for x in chunks(xs, FORWARD_EXAMPLES)]
        )
        values[f"{split}_loss"] = mean_loss(outputs, ys, loss)
        if data.task == "classification":
            values[f"{split}_accuracy"] = float(np.mean(outputs.argmax(axis=-1) == ys))
        if not all_finite(outputs):
            return values, outputs
    if measure.output_sensitivity:
        values |= output_sensitivities(programs, start, member, seed, data)
        if data.task == "classification":
            values |= calibrated(outputs, data.y_test, values["sensitivity_after"])
    values |= derivatives(programs, member, data, measure)
    if measure.exact_tangent_examples:
        values |= exact_tangents(programs, member, data.x_test[: measure.exact_tangent_examples])
    if programs.tangent is not None:
        values |= tangent_measures(programs.tangent, member, data, measure.tangent_examples)
    if programs.complexity is not None and measure.complexity is not None:
        folded = programs.fold(member.params, member.state)
        key = jax.random.fold_in(jax.random.key(seed), _PERTURBATIONS)
        values |= complexity_measures(programs.complexity, folded, data, measure.complexity, key)
    if programs.conditions is not None:
        for stage, whose in (("before", start), ("after", member)):
            values |= condition_measures(
                programs.conditions, whose.params, whose.state, data, measure.condition_examples, stage
            )
    if programs.robustness is not None:
        values |= robustness(programs, start, member, seed, data, outputs, measure)
    return values, outputs


def robustness(
    programs: Programs,
    start: Start,
    member: Member,
    seed: int,
    data: Dataset,
    outputs: np.ndarray,
    measure: MeasureConfig,
) -> dict[str, Value]:
    """E's measures: along trajectories, at test points, on slices through points near the data and away."""
    config: Any = measure.robustness
    found: Any = programs.robustness
    values = robustness_measures(found, start, member, data, measure)
    if config.pointwise_examples:
        key = jax.random.fold_in(jax.random.key(seed), _POINTS)
        values |= pointwise_measures(found, member, data, outputs, measure, key)
    for kind in SLICE_KINDS if config.slice_pixels else ():
        triples, labels = draw_triples(data, kind, 1)
        values[f"slice_point_labels_{kind}"] = numbers_to_text(labels[0].astype(np.float64))
        for stage, whose in (("before", start), ("after", member)):
            sliced = slice_measures(found, programs.predict, whose, triples[0], pixels=config.slice_pixels)
            values |= {f"slice_{name}_{kind}_{stage}": value for name, value in sliced.items()}
    return values


def output_sensitivities(
    programs: Programs, start: Start, member: Member, seed: int, data: Dataset
) -> dict[str, Value]:
    """S before and after training, on the training set, and after the softmax, with their errors and time."""
    key = jax.random.fold_in(jax.random.key(seed), _NOISE)
    values: dict[str, Value] = {}
    for name, whose, xs in (
        ("sensitivity_before", start, data.x_test),
        ("sensitivity_train", member, data.x_train),
        ("sensitivity_after", member, data.x_test),
    ):
        noise, values["sensitivity_seconds"] = timed(
            programs.noise,
            [
                (whose.params, whose.state, x, jax.random.fold_in(key, index))
                for index, x in enumerate(chunks(xs, FORWARD_EXAMPLES))
            ],
        )
        logits_noise, probabilities_noise = np.split(np.concatenate(noise, axis=1), 2, axis=-1)
        values[name], values[f"{name}_stderr"] = sensitivity(logits_noise)
    if data.task == "classification":
        # The K-mean of probabilities does not vary: eq. 2 as it stands would be 0 here.
        name = "sensitivity_after_softmax"
        values[name], values[f"{name}_stderr"] = sensitivity(probabilities_noise, average="per_output")
    return values


def derivatives(
    programs: Programs, member: Member, data: Dataset, measure: MeasureConfig
) -> dict[str, Value]:
    """Exact Jacobian norms and the small-noise limit of S on the first test examples, with their times."""
    values: dict[str, Value] = {}
    some = data.x_test[: measure.derivative_examples]
    parts = list(chunks(some, max(1, REVERSE_PASSES // data.num_outputs)))
    arguments = [(member.params, member.state, x) for x in parts]
    norms, values["jacobian_norm_seconds"] = timed(programs.norms, arguments)
    linearized, values["linearized_sensitivity_seconds"] = timed(programs.linearized, arguments)
    weights = np.array([len(x) / len(some) for x in parts])
    limit = float(weights @ np.array(linearized, np.float64))
    values["linearized_sensitivity_after"] = limit if np.isfinite(limit) else None
    before, after = zip(*norms, strict=True)
    values["jacobian_norm_before_softmax"] = float(np.concatenate(before).mean(dtype=np.float64))
    if data.task == "classification":
        values["jacobian_norm_after_softmax"] = float(np.concatenate(after).mean(dtype=np.float64))
    return values


def exact_tangents(programs: Programs, member: Member, xs: np.ndarray) -> dict[str, Value]:
    """|d2f/dtheta dx|_F^2 of the summed outputs and of all, means over examples.

    The parameters are the network's own, those of batch normalisation among them.
    """
    parts = [(member.params, member.state, x) for x in chunks(xs, 1)]
    found, seconds = timed(programs.exact_tangent, parts)
    summed, every = (np.concatenate(column).mean(dtype=np.float64) for column in zip(*found, strict=True))
    return {
        "exact_tangent_sensitivity": float(summed),
        "exact_tangent_sensitivity_all": float(every),
        "exact_tangent_seconds": seconds,
    }


def timed(program: Callable, arguments: Sequence[tuple]) -> tuple[list, float | None]:
    """The program's results on each chunk, and its seconds per 1000 examples.

    The median over chunks of full length but the first, which may compile; None without such a chunk. The
    examples are the third argument.
    """
    results, seconds = [], []
    for chunk in arguments:
        began = time.perf_counter()
        results.append(jax.block_until_ready(program(*chunk)))
        seconds.append(time.perf_counter() - began)
    size = len(arguments[0][2])
    full = [s for s, chunk in zip(seconds, arguments, strict=True) if len(chunk[2]) == size][1:]
    return results, float(np.median(full)) / size * 1000 if full else None


def mean_loss(outputs: np.ndarray, ys: np.ndarray, loss: str) -> float:
    """The mean loss, summed in float64."""
    return float(np.mean(np.asarray(losses_of(outputs, ys, loss=loss)), dtype=np.float64))


# Compiled as one: each operation on its own would be a program for each size.
@functools.partial(jax.jit, static_argnames="loss")
def losses_of(outputs: Array, ys: Array, *, loss: str) -> Array:
    """The loss of each example."""
    return LOSSES[loss](outputs, ys)


def calibrated(logits: np.ndarray, labels: np.ndarray, sensitivity: Any) -> dict[str, float | None]:
    """Temperature scaling (A section 6.2, Table 2), honestly: each half's loss with the other half's T.

    `temperature` is the geometric mean of both; S of logits / T is S / T^2. All None where no T exists: a
    half without a mistake, or no better than chance.
    """
    none: dict[str, float | None] = {
        "temperature": None,
        "test_loss_calibrated": None,
        "sensitivity_after_calibrated": None,
    }
    halves = [slice(0, None, 2), slice(1, None, 2)]
    try:
        first, second = (fit_temperature(logits[half], labels[half]) for half in halves)
    except StatsError:
        return none
    scaled = np.empty_like(logits)
    scaled[halves[0]], scaled[halves[1]] = logits[halves[0]] / second, logits[halves[1]] / first
    temperature = (first * second) ** 0.5
    return {
        "temperature": temperature,
        "test_loss_calibrated": mean_loss(scaled, labels, "cross_entropy"),
        "sensitivity_after_calibrated": None if sensitivity is None else sensitivity / temperature**2,
    }


def predicted_at_init(model: ModelConfig, data: Dataset, measure: MeasureConfig) -> float | None:
    """S_before by A eq. 10, for dense ReLU networks with standard normal weights, no BN; else None."""
    layers = [layer for layer in model.layers if not isinstance(layer, Flatten | Dropout)]
    dense = [
        layer for layer in layers if isinstance(layer, Dense) and layer.activate and not layer.batch_norm
    ]
    if model.init != "SN" or model.activation != "relu" or len(dense) < len(layers):
        return None
    widths = [layer.units for layer in dense]
    size = int(np.prod(data.x_train.shape[1:]))
    return float(mlp_sensitivity_at_init(size, data.num_outputs, widths, measure.noise_std))


def sensitivity(noise: np.ndarray, *, average: str = "mean") -> tuple[float | None, float | None]:
    """S of A eq. 2 and its standard error; None for both where the outputs overflowed.

    Untrained deep networks with standard normal weights reach 1e27, whose square float32 cannot hold: the
    noise is scaled to 1 first, and the result back in Python's float64.
    """
    largest = float(np.abs(noise).max())
    if not np.isfinite(largest):
        return None, None
    unit = largest or 1.0
    estimate = compiled_sensitivity(noise / np.float32(unit), average=average)
    return float(estimate.value) * unit**2, float(estimate.stderr) * unit**2


compiled_sensitivity = jax.jit(sensitivity_of_noise, static_argnames="average")
compiled_bias_variance = jax.jit(bias_variance)
compiled_logit_variance = jax.jit(logit_variance, static_argnames="unbiased")
compiled_softmax = jax.jit(jax.nn.softmax)


def all_finite(tree: Any) -> bool:
    """Whether no number in the tree is a NaN or an infinity."""
    return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in jax.tree.leaves(tree))


def cell_numbers(logits: np.ndarray, data: Dataset) -> dict[str, float | None]:
    """Over the members that trained: bias, variance, squared error (A eqs. 4-6), variance of the logits (13).

    Predictions are probabilities, or the outputs themselves in regression.
    """
    predictions, targets = logits, data.y_test
    if data.task == "classification":
        predictions = np.asarray(compiled_softmax(logits))
        targets = np.eye(data.num_outputs, dtype=predictions.dtype)[targets]
    # Scaled, because outputs of 1e25 have no square in float32.
    unit = max(1.0, float(np.abs(predictions).max()))
    predictions, targets = predictions / np.float32(unit), targets / np.float32(unit)
    if len(predictions) == 1:
        # One member has a loss; what varies between members is unknown, not 0.
        loss = float(((predictions[0] - targets) ** 2).sum(-1).mean()) * unit**2
        return {"bias": None, "variance": None, "mse_loss": loss, "logit_variance": None}
    parts = compiled_bias_variance(predictions, targets)
    return {
        "bias": float(parts.bias) * unit**2,
        "variance": float(parts.variance) * unit**2,
        "mse_loss": float(parts.loss) * unit**2,
        "logit_variance": scaled_logit_variance(logits),
    }


def scaled_logit_variance(logits: np.ndarray) -> float:
    """A eq. 13, unbiased over the few members (eq. 14 is about all), logits as large as 1e38 included."""
    unit = float(np.abs(logits).max()) or 1.0
    return float(compiled_logit_variance(logits / np.float32(unit), unbiased=True)) * unit**2
