"""Roots and norms with a derivative at zero, in range wherever their value is."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["divisor", "frobenius_norm", "safe_sqrt", "standard_error", "times_ratio"]


def safe_sqrt(x: Array) -> Array:
    """The square root, with derivative 0 at 0 in place of infinity. NaN stays NaN."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def divisor(largest: Array) -> Array:
    """The largest size in an array as what to divide it by: 1 for 0, at most an eighth of the dtype's range.

    XLA divides by a number by multiplying with its reciprocal, which above 2^126 is subnormal, taken for 0.
    """
    most = 2.0 ** (jnp.finfo(largest.dtype).maxexp - 3)
    return jnp.where(largest == 0, 1, jnp.minimum(largest, most))


def frobenius_norm(a: Array) -> Array:
    """|a|_F over all axes, with derivative 0 at a = 0.

    Entries are divided by the largest one first: squares of a saturated softmax's derivatives underflow
    float32 long before the norm does. The norm does not depend on that scale, so neither does its derivative.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(a)))
    scale = divisor(largest)
    return scale * safe_sqrt(jnp.sum((a / scale) ** 2))


def standard_error(a: Array, axis: int = -1) -> Array:
    """That of the mean over an axis, in range wherever it is: squares of small numbers underflow."""
    a = jnp.moveaxis(a, axis, 0)
    n = a.shape[0]
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(a), axis=0))
    scale = divisor(largest)
    return scale * safe_sqrt(jnp.var(a / scale, axis=0, ddof=1) / n)


def times_ratio(a: Any, b: Any, c: Any) -> Array:
    """a b / c, not 0 because a / c or b / c underflows: the larger of a and b is divided first."""
    a_first = jnp.abs(a) >= jnp.abs(b)
    return jnp.where(a_first, a, b) / c * jnp.where(a_first, b, a)
