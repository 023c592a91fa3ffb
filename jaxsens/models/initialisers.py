"""Initialisers by the papers' names (A, section 5.3; biases as in A's published configurations).

Each is a standard draw times a scale, so a whole network's parameters are one random draw, cut into pieces:
a draw per layer would take XLA ten times as long to compile as the rest of the initialisation.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["INITIALISERS", "Draws", "Initialiser"]


class Initialiser(NamedTuple):
    """`draw(key, (n,))` times `kernel(fan_in, fan_out)` makes a kernel, times `bias(fan_in)` a bias."""

    draw: Callable[[Array, tuple[int]], Array]
    kernel: Callable[[int, int], float]
    bias: Callable[[int], float]


class Draws:
    """The standard draws of one network, handed out in the order of its layers.

    Without `values` it hands out zeros, and counts: a first pass under `jax.eval_shape` tells `count`.
    """

    def __init__(self, initialiser: Initialiser, values: Array | None = None):
        self.initialiser = initialiser
        self.values = values
        self.count = 0

    def kernel(self, key: Array, shape: Sequence[int], dtype: object, out_sharding: object = None) -> Array:
        """A kernel (..., in, out), in the form of Flax's initialisers; the key has done its work before."""
        receptive = math.prod(shape[:-2])
        scale = self.initialiser.kernel(receptive * shape[-2], receptive * shape[-1])
        return self._take(shape, scale, dtype)

    def bias(self, fan_in: int) -> Callable[..., Array]:
        """The initialiser of the bias of a layer with `fan_in` inputs."""
        scale = self.initialiser.bias(fan_in)
        return lambda key, shape, dtype, out_sharding=None: self._take(shape, scale, dtype)

    def _take(self, shape: Sequence[int], scale: float, dtype: Any) -> Array:
        if scale == 0:
            return jnp.zeros(shape, dtype)
        start, self.count = self.count, self.count + math.prod(shape)
        if self.values is None:
            return jnp.zeros(shape, dtype)
        return (scale * self.values[start : self.count]).reshape(shape).astype(dtype)


def _normal(key: Array, shape: tuple[int]) -> Array:
    return jax.random.normal(key, shape)


def _uniform(key: Array, shape: tuple[int]) -> Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


# A uniform draw on (-a, a) has variance a^2 / 3.
INITIALISERS = {
    # Standard normal, weights and biases.
    "SN": Initialiser(_normal, lambda fan_in, fan_out: 1.0, lambda fan_in: 1.0),
    # Xavier (Glorot) uniform: variance 2 / (fan_in + fan_out).
    "XU": Initialiser(_uniform, lambda fan_in, fan_out: (6 / (fan_in + fan_out)) ** 0.5, lambda fan_in: 0.0),
    # He uniform and He normal (not truncated): variance 2 / fan_in.
    "HU": Initialiser(_uniform, lambda fan_in, fan_out: (6 / fan_in) ** 0.5, lambda fan_in: 0.0),
    "HN": Initialiser(_normal, lambda fan_in, fan_out: (2 / fan_in) ** 0.5, lambda fan_in: 0.0),
    # Fan-in uniform, weights and biases: U(+-1/sqrt(fan_in)).
    "FU": Initialiser(_uniform, lambda fan_in, fan_out: fan_in**-0.5, lambda fan_in: fan_in**-0.5),
}
