"""Names for what flows between the modules: arrays, keys, parameters, and a number with its error bar."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from jaxtyping import Array, Float, Key, PyTree, Scalar

__all__ = ["PIECEWISE_LINEAR", "Estimate", "Function", "PRNGKey", "Params", "PiecewiseLinear"]

if TYPE_CHECKING:  # Type checkers read the name of the structure as that of a type.
    Params: TypeAlias = Any
else:
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


class PiecewiseLinear(NamedTuple):
    """The activation y = slope z + shift, held between `low` and `high`: flat, linear, flat.

    Numbers, or arrays where networks with different activations run in one program.
    """

    slope: float | Scalar
    shift: float | Scalar
    low: float | Scalar
    high: float | Scalar


PIECEWISE_LINEAR: Mapping[str, PiecewiseLinear] = MappingProxyType(
    {
        "relu": PiecewiseLinear(1.0, 0.0, 0.0, math.inf),
        "relu6": PiecewiseLinear(1.0, 0.0, 0.0, 6.0),
        "hard_tanh": PiecewiseLinear(1.0, 0.0, -1.0, 1.0),
        "hard_sigmoid": PiecewiseLinear(1 / 6, 0.5, 0.0, 1.0),
    }
)
"""The activations with codes to count (E): inactive 0, linear 1, saturated 2; ReLU has the first two."""
