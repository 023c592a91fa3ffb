"""Robustness near the data (E): Jacobian norms and transitions along trajectories."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsens.data import Dataset
from jaxsens.metrics import (
    activation_codes,
    count_crossings,
    ellipse,
    jacobian_norms,
    mlp_preactivations,
    output_noise,
    random_directions,
    relu_mlp_tangent_sensitivity,
    sensitivity_of_noise,
    shuffled_pixels,
    transition_count,
    translation_loop,
)
from jaxsens.models import ModelConfig, Network, perceptron
from jaxsens.sweep.cells import MeasureConfig, RobustnessConfig
from jaxsens.sweep.chunks import FORWARD_EXAMPLES, REVERSE_PASSES, chunks
from jaxsens.table import Value, numbers_to_text
from jaxsens.types import PIECEWISE_LINEAR

__all__ = [
    "RAY_RADII",
    "TRAJECTORY_KINDS",
    "RobustnessPrograms",
    "compile_robustness",
    "robustness_measures",
]

TRAJECTORY_KINDS = ("same", "different", "shuffled")
"""Ellipses through training images of one class, of three classes, and through these with shuffled pixels."""
RAY_RADII = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Distances from an image along a random direction, in norms of the image."""

# Segments walk in lock-step, and passes of several segments are matrix products.
_SEGMENTS = 64


class RobustnessPrograms(NamedTuple):
    """What is compiled once per architecture. `maps` gives the weights and biases that codes are of."""

    activation: str
    maps: Callable[[Any, Any], Any]
    norms: Callable[..., Any]
    codes: Callable[..., Array]
    loops: Callable[..., Array]
    ellipses: Callable[..., Array]
    crossings: Callable[..., Array]
    noise: Callable[..., Array]
    tangents: Callable[..., tuple[Array, Array]] | None


def compile_robustness(model: ModelConfig, network: Network, measure: MeasureConfig) -> RobustnessPrograms:
    """The jitted measures of one architecture. Nothing is compiled before it is called."""
    config: Any = measure.robustness

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

    def ellipses(triples: Array) -> Array:
        """The points of each triple's ellipse, (triples, points, H, W, C)."""
        return jax.vmap(lambda abc: ellipse(*abc, num_points=config.points))(triples)

    def crossings(weights: Any, biases: Any, starts: Array, ends: Array) -> Array:
        return count_crossings(weights, biases, starts, ends, activation=model.activation)

    def noise(params: Any, state: Any, xs: Array, key: Array) -> Array:
        """S of A eq. 2 at each example, the variance over draws alone."""
        drawn = output_noise(
            network.function(state),
            params,
            xs,
            key=key,
            noise_std=measure.noise_std,
            num_draws=config.pointwise_draws,
        )
        return jax.vmap(lambda one: sensitivity_of_noise(one[:, None]).value, in_axes=1)(drawn)

    def tangents(weights: Any, biases: Any, xs: Array) -> tuple[Array, Array]:
        summed, whole = (
            relu_mlp_tangent_sensitivity(weights, biases, xs, outputs=outputs) for outputs in ("sum", "all")
        )
        return summed, whole

    return RobustnessPrograms(
        model.activation,
        *map(jax.jit, (maps, norms, codes, loops, ellipses, crossings, noise)),
        tangents=jax.jit(tangents) if model.activation == "relu" else None,
    )


def robustness_measures(
    programs: RobustnessPrograms, start: Any, member: Any, data: Dataset, measure: MeasureConfig
) -> dict[str, Value]:
    """The columns of one member along trajectories, before and after its training.

    Trajectories are the same for all members and stages of one data set: networks are compared on them.
    """
    config: Any = measure.robustness
    values: dict[str, Value] = {}
    logits, softmax = norms_at(programs, member, data.x_train[: measure.derivative_examples])
    values["jacobian_logits_train"], values["jacobian_softmax_train"] = mean(logits), mean(softmax)
    weights, biases = programs.maps(member.params, member.state)
    if config.loops:
        for split, images in (("train", data.x_train), ("test", data.x_test)):
            found = loop_transitions(programs, weights, biases, images[: config.loops])
            values[f"transitions_{split}"] = mean(found)
    if config.triples:
        triples = {kind: draw_triples(data, kind, config.triples)[0] for kind in TRAJECTORY_KINDS}
        for stage, whose in (("before", start), ("after", member)):
            for kind, drawn in triples.items():
                found = along_ellipses(programs, whose, drawn, config)
                values |= {f"{name}_{kind}_{stage}": value for name, value in found.items()}
            values |= {
                f"{name}_{stage}": value for name, value in along_rays(programs, whose, data, config).items()
            }
    return values


def norms_at(programs: RobustnessPrograms, whose: Any, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|df/dx| and |d softmax(f)/dx| of each example, shape (n,) both."""
    found = [programs.norms(whose.params, whose.state, x) for x in chunks(xs, REVERSE_PASSES // 10)]
    before, after = zip(*found, strict=True)
    return np.concatenate(before), np.concatenate(after)


def loop_transitions(
    programs: RobustnessPrograms, weights: Any, biases: Any, images: np.ndarray
) -> np.ndarray:
    """t(x) along each image's translation loop, shape (n,)."""
    size = max(1, FORWARD_EXAMPLES // images.shape[2])
    return np.concatenate([programs.loops(weights, biases, x) for x in chunks(images, size)])


def draw_triples(data: Dataset, kind: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Three training images for each ellipse, (count, 3, H, W, C), and their labels, (count, 3).

    The same for one data set and its labels, random ones included, at any time.
    """
    random = np.random.default_rng(0)
    classes = [np.flatnonzero(data.y_train == label) for label in range(data.num_outputs)]
    enough = [members for members in classes if len(members) >= 3]
    chosen = []
    for _ in range(count):
        if kind == "same":
            chosen.append(random.choice(enough[random.integers(len(enough))], 3, replace=False))
        else:
            three = random.choice(len(enough), 3, replace=False)
            chosen.append([random.choice(enough[label]) for label in three])
    triples, labels = data.x_train[np.array(chosen)], data.y_train[np.array(chosen)]
    if kind == "shuffled":
        flat = triples.reshape(-1, *triples.shape[2:])
        shuffled = shuffled_pixels(jax.random.key(0), jnp.asarray(flat))
        triples = np.asarray(shuffled).reshape(triples.shape)
    return triples, labels


def along_ellipses(
    programs: RobustnessPrograms, whose: Any, triples: np.ndarray, config: RobustnessConfig
) -> dict[str, Value]:
    """Means over ellipses: norms and transitions at each angle, at the data and midway between them.

    `*_share` is the share of ellipses on which the norm is larger midway.
    """
    weights, biases = programs.maps(whose.params, whose.state)
    points = np.asarray(programs.ellipses(triples))
    flat = points.reshape(-1, *points.shape[2:])
    shape = points.shape[:2]
    codes = np.concatenate([programs.codes(weights, biases, x) for x in chunks(flat, FORWARD_EXAMPLES)])
    codes = codes.reshape(*shape, -1).astype(np.int32)
    steps = np.abs(codes - np.roll(codes, -1, axis=1)).sum(axis=-1)
    third = config.points // 3
    data, midway = np.arange(3) * third, np.arange(3) * third + third // 2
    values: dict[str, Value] = {
        "transitions": mean(steps.sum(axis=1)),
        "transitions_curve": numbers_to_text(steps.mean(axis=0)),
    }
    for name, norms in zip(("logits", "softmax"), norms_at(programs, whose, flat), strict=True):
        norms = norms.reshape(shape)
        near, far = norms[:, data].mean(axis=1), norms[:, midway].mean(axis=1)
        values |= {
            f"{name}_near": mean(near),
            f"{name}_far": mean(far),
            f"{name}_share": mean(far > near),
            f"{name}_curve": numbers_to_text(norms.mean(axis=0, dtype=np.float64)),
        }
    starts, ends = triples[:, 0], triples[:, 1]
    crossed = np.concatenate(
        [
            programs.crossings(weights, biases, a, b)
            for a, b in zip(chunks(starts, _SEGMENTS), chunks(ends, _SEGMENTS), strict=True)
        ]
    )
    lengths = np.linalg.norm((starts - ends).reshape(len(starts), -1), axis=1)
    values["crossings"] = mean(crossed)
    values["crossings_per_length"] = mean(crossed / lengths)
    return values


def along_rays(
    programs: RobustnessPrograms, whose: Any, data: Dataset, config: RobustnessConfig
) -> dict[str, Value]:
    """Means over training images of the norms at `RAY_RADII` along a random direction from each."""
    images = data.x_train[: config.triples]
    directions = np.asarray(
        random_directions(jax.random.key(1), images.shape[1:], len(images), dtype=images.dtype)
    )
    lengths = np.linalg.norm(images.reshape(len(images), -1), axis=1).reshape(-1, 1, 1, 1)
    points = np.stack([images + np.float32(radius) * lengths * directions for radius in RAY_RADII])
    found = norms_at(programs, whose, points.reshape(-1, *images.shape[1:]))
    return {
        f"{name}_ray": numbers_to_text(norms.reshape(len(RAY_RADII), -1).mean(axis=1, dtype=np.float64))
        for name, norms in zip(("logits", "softmax"), found, strict=True)
    }


def mean(values: np.ndarray) -> float:
    """In float64."""
    return float(np.mean(values, dtype=np.float64))
