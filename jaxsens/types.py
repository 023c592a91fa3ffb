"""Names for what flows between the modules: arrays, keys, parameters, and a number with its error bar."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array, Float, Key, PyTree, Scalar

__all__ = ["Estimate", "Function", "PRNGKey", "Params"]

Params: TypeAlias = PyTree[Any, "P"]
"""Any pytree of arrays."""

PRNGKey: TypeAlias = Key[Array, ""]
"""One typed key, as made by `jax.random.key`."""

Function: TypeAlias = Callable[[Any, Array], Array]
"""A model `f(params, x) -> y` of one example: x of any shape, y of shape (K,), before the softmax."""


class Estimate(NamedTuple):
    """A Monte-Carlo result: its value and the standard error of that value, of one shape."""

    value: Float[Array, "*shape"] | Scalar
    stderr: Float[Array, "*shape"] | Scalar
