"""D's measures of a trained network: margin, norms, sharpness against KL, each with the time it took."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsens.data import Dataset
from jaxsens.metrics import (
    SharpnessKL,
    conv_operator_norm,
    log_l2_norm,
    log_path_norm,
    log_spectral_norm,
    margin,
    percentile_of_margins,
    sharpness,
    sharpness_kl_curve,
)
from jaxsens.models import Conv, Dense, ModelConfig, build, layer_weights, output_shape
from jaxsens.sweep.cells import ComplexityConfig
from jaxsens.sweep.chunks import FORWARD_EXAMPLES, chunks
from jaxsens.table import Value
from jaxsens.train import LOSSES

__all__ = ["ComplexityPrograms", "compile_complexity", "complexity_measures", "kl_at_sharpness"]


# Of an operator norm: ten times the tolerance of its iteration.
_RESIDUAL = 1e-3


class Timed:
    """A function compiled for the shapes that it meets, and the seconds of each call without compiling."""

    def __init__(self, function: Callable):
        self.jitted = jax.jit(function)
        self.compiled: dict[Any, Callable] = {}

    def __call__(self, *arguments: Any) -> tuple[Any, float]:
        """The result and its seconds."""
        leaves, structure = jax.tree.flatten(arguments)
        shapes = (structure, *((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves))
        if shapes not in self.compiled:
            self.compiled[shapes] = self.jitted.lower(*arguments).compile()
        began = time.perf_counter()
        result = jax.block_until_ready(self.compiled[shapes](*arguments))
        return result, time.perf_counter() - began


class ComplexityPrograms(NamedTuple):
    """What is compiled once per network without batch normalisation and dropout; all take its parameters.

    `norms` has a function per measure, from its column's name.
    """

    forward: Timed
    margins: Timed
    norms: dict[str, Timed]
    sharpness: Timed
    curve: Timed


def compile_complexity(
    model: ModelConfig, input_shape: tuple[int, ...], num_outputs: int, config: ComplexityConfig
) -> ComplexityPrograms:
    """The measures of one folded network. Nothing is compiled before it is called."""
    network = build(model, input_shape=input_shape, num_outputs=num_outputs)

    def f(params: Any, x: Array) -> Array:
        return network.predict(params, {}, x[None])[0]

    def minibatch_loss(xs: Array, ys: Array) -> Callable[[Any, Array], Array]:
        """The training form, whose gradient is fast in loops; without dropout it is the same function."""

        def loss(params: Any, key: Array) -> Array:
            chosen = jax.random.randint(key, (config.batch_size,), 0, len(xs))
            outputs, _ = network.apply(params, {}, xs[chosen], key=key)
            return jnp.mean(LOSSES["cross_entropy"](outputs, ys[chosen]))

        return loss

    def ascent(params: Any, xs: Array, ys: Array, key: Array) -> Any:
        return sharpness(
            minibatch_loss(xs, ys),
            params,
            key=key,
            alpha=config.sharpness_alpha,
            num_steps=config.sharpness_steps,
            num_evaluations=config.num_evaluations,
        )

    def curve(params: Any, xs: Array, ys: Array, key: Array) -> SharpnessKL:
        alphas = jnp.asarray(config.alphas, jnp.float32)
        return sharpness_kl_curve(
            minibatch_loss(xs, ys), params, alphas, key=key, num_perturbations=config.num_perturbations
        )

    def operator(params: Any) -> Array:
        return log_operator_norm(model, params, input_shape)

    norms: dict[str, Callable[[Any], Array]] = {"log_operator_norm": operator}
    for form in ("plotted", "capacity"):
        norms[f"log_l2_{form}"] = lambda params, form=form: log_l2_norm(
            layer_weights(model, params), form=form
        )
        norms[f"log_spectral_{form}"] = lambda params, form=form: log_spectral_norm(
            layer_weights(model, params), form=form
        )
        for p in (1, 2):
            norms[f"log_path{p}_{form}"] = lambda params, p=p, form=form: log_path_norm(
                f, params, input_shape, p=p, form=form
            )
    return ComplexityPrograms(
        forward=Timed(lambda params, xs: network.predict(params, {}, xs)),
        margins=Timed(lambda params, xs, ys: margin(f, params, xs, ys)),
        norms={name: Timed(function) for name, function in norms.items()},
        sharpness=Timed(ascent),
        curve=Timed(curve),
    )


def log_operator_norm(model: ModelConfig, params: Any, input_shape: tuple[int, ...]) -> Array:
    """log prod |A_i|_2^2, with A_i the layers as linear maps: convolutions as maps between images."""
    *weights, last = layer_weights(model, params)
    logs = [log_spectral_norm([last])]
    shape: Any = input_shape
    for layer in model.layers:
        if isinstance(layer, Conv):
            pads = (layer.padding, layer.padding)
            norm = conv_operator_norm(
                weights.pop(0), shape, strides=(layer.stride, layer.stride), padding=(pads, pads)
            )
            # Where it has not converged there is no number, rather than one that is too low.
            logs.append(2 * jnp.log(jnp.where(norm.residual <= _RESIDUAL, norm.value, jnp.nan)))
        elif isinstance(layer, Dense):
            logs.append(log_spectral_norm([weights.pop(0)]))
        shape = output_shape((layer,), shape)
    return functools.reduce(jnp.add, logs)


def complexity_measures(
    programs: ComplexityPrograms, params: Any, data: Dataset, config: ComplexityConfig, key: Array
) -> dict[str, Value]:
    """D's columns for one member, `params` its folded parameters.

    `forward_seconds` is a forward pass of the test set, the yardstick of the others.
    """
    # Members come from files or from a mesh of devices; programs are compiled for one.
    params = jax.device_put(params, jax.local_devices()[0])
    values: dict[str, Value] = {}
    values["forward_seconds"] = sum(
        programs.forward(params, x)[1] for x in chunks(data.x_test, FORWARD_EXAMPLES)
    )
    found = [
        programs.margins(params, x, y)
        for x, y in zip(
            chunks(data.x_train, FORWARD_EXAMPLES), chunks(data.y_train, FORWARD_EXAMPLES), strict=True
        )
    ]
    margins = np.concatenate([part for part, _ in found])
    percentile = percentile_of_margins(jnp.asarray(margins), percent=config.margin_percent)
    values["margin_seconds"] = sum(seconds for _, seconds in found)
    values["margin"] = float(percentile.value)
    # A network that does not separate its training set has no margin, and no capacity over it.
    values["log_margin"] = float(percentile.log_value) if percentile.separates else None
    for name, program in programs.norms.items():
        value, seconds = program(params)
        values |= {name: finite(value), f"{name}_seconds": seconds}
    ascent_key, curve_key = jax.random.split(key)
    xs, ys = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
    estimate, values["sharpness_seconds"] = programs.sharpness(params, xs, ys, ascent_key)
    values |= {"sharpness": finite(estimate.value), "sharpness_stderr": finite(estimate.stderr)}
    curve, seconds = programs.curve(params, xs, ys, curve_key)
    values["expected_sharpness_seconds"] = seconds / len(config.alphas)
    for index, alpha in enumerate(config.alphas):
        values |= {
            f"kl_at_{alpha:g}": float(curve.kl[index]),
            f"expected_sharpness_at_{alpha:g}": finite(curve.expected_sharpness.value[index]),
            f"expected_sharpness_stderr_at_{alpha:g}": finite(curve.expected_sharpness.stderr[index]),
        }
    values["log_kl_at_sharpness"] = kl_at_sharpness(curve, config.sharpness_level)
    return values


def kl_at_sharpness(curve: SharpnessKL, level: float) -> float | None:
    """log of the KL at which the expected sharpness is `level`; None where the curve does not pass it.

    The joint reading of D's bi-criteria plot, as its text does it for 0.05: between the first alpha that is
    sharper and the one before, log KL is taken as linear in the logarithm of the expected sharpness.
    """
    sharp = np.asarray(curve.expected_sharpness.value, np.float64)
    logs = np.log(np.asarray(curve.kl, np.float64))
    above = np.flatnonzero(~(sharp < level))
    if not len(above) or above[0] == 0 or not np.isfinite(sharp[above[0]]):
        return None
    left, right = above[0] - 1, above[0]
    if sharp[left] <= 0:
        return None
    share = np.log(level / sharp[left]) / np.log(sharp[right] / sharp[left])
    return float(logs[left] + share * (logs[right] - logs[left]))


def finite(value: Any) -> float | None:
    """A number, or None where it is not finite."""
    value = float(value)
    return value if np.isfinite(value) else None
