"""Haiku's transformed functions."""

import inspect
from collections.abc import Mapping
from typing import Any

from jax import Array

from jaxsens.adapters.adapted import (
    NO_ARGUMENTS,
    Adapted,
    adapt,
    check_steady,
    library,
)
from jaxsens.checks import refuse
from jaxsens.types import Params

__all__ = ["from_haiku"]


def from_haiku(
    transformed: Any,
    params: Params,
    *,
    state: Any = None,
    batched: bool = True,
    arguments: Mapping[str, Any] = NO_ARGUMENTS,
) -> Adapted:
    """A function that `haiku.transform` or `haiku.transform_with_state` made pure, and its parameters.

    Args:
        transformed: called `apply(params, None, xs, **arguments)` or `apply(params, state, None, xs,
            **arguments)`: without a random key, and also as `haiku.without_apply_rng` leaves it.
        params: the parameters, as `transformed.init` gives and training changes.
        state: the state of a function transformed with state, such as the averages of batch normalisation;
            held fixed.
        batched: whether it takes a leading batch axis, which f adds and removes.
        arguments: keyword arguments of the call. Haiku knows no evaluation mode of its own: pass what the
            function calls it, such as `{"is_training": False}`.

    Raises:
        InputError: where haiku is missing; for another object; a function transformed with state without its
            state, or the other way round; parameters of whole numbers or booleans; when f is called or
            traced, for a call that changes floating state, which means training mode, and for an output that
            is not one vector. Haiku itself refuses a function that asks for a random key.
    """
    haiku = library("haiku")
    if not isinstance(transformed, haiku.Transformed | haiku.TransformedWithState):
        raise refuse(
            f"a transformed function of type {type(transformed).__name__}",
            "what haiku.transform or haiku.transform_with_state makes",
            "transform it, or take from_function",
        )
    stateful = isinstance(transformed, haiku.TransformedWithState)
    if stateful != (state is not None):
        raise refuse(
            f"a {type(transformed).__name__} with state of type {type(state).__name__}",
            "a state for a function transformed with state, and None for any other",
            "pass state= what transformed.init gave and training changed",
        )
    leading = 2 if stateful else 1
    keyless = list(inspect.signature(transformed.apply).parameters)[leading : leading + 1] != ["rng"]
    key = () if keyless else (None,)
    held = (transformed.apply, state, key, dict(arguments))
    return adapt(_stateful if stateful else _stateless, held, params, batched=batched)


def _stateless(held: Any, params: Params, xs: Array) -> Any:
    apply, _, key, arguments = held
    return apply(params, *key, xs, **arguments)


def _stateful(held: Any, params: Params, xs: Array) -> Any:
    apply, state, key, arguments = held
    ys, after = apply(params, state, *key, xs, **arguments)
    check_steady(state, after, "pass what switches it off, such as arguments={'is_training': False}")
    return ys
