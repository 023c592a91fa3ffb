"""Roots and norms with a derivative at zero, in range wherever their value is."""

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["frobenius_norm", "safe_sqrt"]


def safe_sqrt(x: Array) -> Array:
    """The square root, with derivative 0 at 0 in place of infinity. NaN stays NaN."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def frobenius_norm(a: Array) -> Array:
    """|a|_F over all axes, with derivative 0 at a = 0.

    Entries are divided by the largest one first: squares of a saturated softmax's derivatives underflow
    float32 long before the norm does. The norm does not depend on that scale, so neither does its derivative.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(a)))
    scale = jnp.where(largest == 0, 1, largest)
    return scale * safe_sqrt(jnp.sum((a / scale) ** 2))
