"""Plain functions."""

from collections.abc import Callable
from typing import Any

from jax import Array

from jaxsens.adapters.adapted import Adapted, adapt
from jaxsens.types import Params

__all__ = ["from_function"]


def from_function(f: Callable[[Any, Any], Any], params: Params, *, batched: bool = False) -> Adapted:
    """A pure function `f(params, x)` of any origin.

    Args:
        f: takes one example x of any shape to (K,) logits; or, if `batched`, a batch (n, ...) to (n, K). It
            must treat the examples of a batch one by one.
        params: its parameters, a pytree of floating arrays. NumPy's arrays are copied.
        batched: whether f takes a leading batch axis.

    Raises:
        InputError: for parameters that are no floating arrays (let f close over whole numbers and booleans);
            when the result is called or traced, for an output that is not one floating vector of K >= 1.
    """
    return adapt(_function, f, params, batched=batched)


def _function(f: Any, params: Params, x: Array) -> Any:
    return f(params, x)
