"""Robustness near the data (E): Jacobian norms and transitions along trajectories, and point by point."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxsens.data import Dataset
from jaxsens.metrics import (
    activation_codes,
    jacobian_norms,
    mlp_preactivations,
    transition_count,
    translation_loop,
)
from jaxsens.models import ModelConfig, Network, perceptron
from jaxsens.sweep.cells import MeasureConfig
from jaxsens.sweep.chunks import FORWARD_EXAMPLES, REVERSE_PASSES, chunks
from jaxsens.table import Value
from jaxsens.types import PIECEWISE_LINEAR

__all__ = ["RobustnessPrograms", "compile_robustness", "robustness_measures"]


class RobustnessPrograms(NamedTuple):
    """What is compiled once per architecture. `maps` gives the weights and biases that the others take."""

    maps: Callable[[Any, Any], Any]
    norms: Callable[..., Any]
    codes: Callable[..., Array]
    loops: Callable[..., Array]


def compile_robustness(model: ModelConfig, network: Network, measure: MeasureConfig) -> RobustnessPrograms:
    """The jitted measures of one architecture. Nothing is compiled before it is called."""

    def maps(params: Any, state: Any) -> Any:
        return perceptron(model, params, state, activations=tuple(PIECEWISE_LINEAR))

    def norms(params: Any, state: Any, xs: Array) -> Any:
        return jacobian_norms(network.function(state), params, xs)

    def codes(weights: Any, biases: Any, xs: Array) -> Array:
        preactivations = mlp_preactivations(weights, biases, xs, activation=model.activation)
        return activation_codes(preactivations, activation=model.activation)

    def loops(weights: Any, biases: Any, xs: Array) -> Array:
        """Transitions along the whole-pixel translation loop of each image."""
        return jax.vmap(lambda x: transition_count(codes(weights, biases, translation_loop(x))))(xs)

    return RobustnessPrograms(*map(jax.jit, (maps, norms, codes, loops)))


def robustness_measures(
    programs: RobustnessPrograms,
    start: Any,
    member: Any,
    data: Dataset,
    measure: MeasureConfig,
    key: Array,
) -> dict[str, Value]:
    """The columns of one member: what its `MeasureConfig.robustness` asks for."""
    config = measure.robustness
    values: dict[str, Value] = {}
    xs = data.x_train[: measure.derivative_examples]
    before, after = norms_at(programs, member, xs)
    values["jacobian_logits_train"], values["jacobian_softmax_train"] = mean(before), mean(after)
    weights, biases = programs.maps(member.params, member.state)
    if config.loops:
        for split, images in (("train", data.x_train), ("test", data.x_test)):
            found = [
                programs.loops(weights, biases, x)
                for x in chunks(images[: config.loops], max(1, FORWARD_EXAMPLES // images.shape[2]))
            ]
            values[f"transitions_{split}"] = mean(np.concatenate(found))
    return values


def norms_at(programs: RobustnessPrograms, whose: Any, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|df/dx| and |d softmax(f)/dx| of each example, shape (n,) both."""
    size = max(1, REVERSE_PASSES // 10)
    found = [programs.norms(whose.params, whose.state, x) for x in chunks(xs, size)]
    before, after = zip(*found, strict=True)
    return np.concatenate(before), np.concatenate(after)


def mean(values: np.ndarray) -> float:
    """In float64."""
    return float(np.mean(values, dtype=np.float64))
