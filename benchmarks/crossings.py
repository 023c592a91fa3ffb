"""Exact crossings of 64 segments between random inputs in a 784-100x4-10 ReLU network, in seconds a segment.

Beside sampling: 4096 points on each segment, their codes compared one after the other, compiled in JAX and in
PyTorch. Sampling misses a unit that changes twice between two points, so the counts agree only nearly.
"""

from collections.abc import Iterator

import in_torch
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tangent import Perceptron, named, perceptron
from timing import Ready, Row, Way, compiled

from jaxsens.metrics import (
    activation_codes,
    count_crossings,
    mlp_preactivations,
    segment,
    transition_count,
)

__all__ = ["rows"]

SAMPLES = 4096


def rows(smoke: bool) -> Iterator[Row]:
    """One network; the inputs are the ends of the segments, starts before ends."""
    sizes, segments = ((8, 6, 6, 3), 4) if smoke else ((784, 100, 100, 100, 100, 10), 64)
    yield Row(
        name=f"{segments} segments, {named(sizes)}",
        unit="segment",
        data=lambda: perceptron(sizes, 2 * segments),
        ours={"exact": Way(exact, segments)},
        peers={
            f"{SAMPLES} sampled points (jaxsens)": Way(sampled, segments),
            **in_torch.peers({f"{SAMPLES} sampled points (PyTorch)": Way(torch_sampled, segments)}),
        },
        absent=in_torch.ABSENT,
        tolerance=0.02,
        rounds=2 if smoke else 5,
    )


def ends(data: Perceptron) -> tuple[Array, Array]:
    """Starts and ends."""
    a, b = jnp.split(data.xs, 2)
    return a, b


def exact(data: Perceptron) -> Ready:
    """`count_crossings`."""
    return compiled(count_crossings, data.weights, data.biases, *ends(data))


def sampled(data: Perceptron) -> Ready:
    """`transition_count` of points on each segment in turn."""

    def count(a: Array, b: Array) -> Array:
        points = segment(a, b, num_points=SAMPLES)
        codes = activation_codes(mlp_preactivations(data.weights, data.biases, points))
        return transition_count(codes, closed=False)

    return compiled(lambda a, b: jax.lax.map(lambda pair: count(*pair), (a, b)), *ends(data))


def torch_sampled(data: Perceptron) -> Ready:
    """The same in PyTorch, in inference mode."""
    t = in_torch.torch()
    a, b = (in_torch.batch(np.asarray(end)) for end in ends(data))
    hidden = [
        (in_torch.batch(np.asarray(weight)), in_torch.batch(np.asarray(bias)))
        for weight, bias in zip(data.weights[:-1], data.biases[:-1], strict=True)
    ]
    steps = t.linspace(0, 1, SAMPLES)[:, None]

    def count(a: object, b: object) -> int:
        points, changes = a + steps * (b - a), 0
        for weight, bias in hidden:
            before = points @ weight + bias
            active = before > 0
            changes += int((active[1:] != active[:-1]).sum())
            points = t.relu(before)
        return changes

    def run() -> np.ndarray:
        with t.inference_mode():
            return np.array([count(*pair) for pair in zip(a, b, strict=True)])

    return Ready(run)
