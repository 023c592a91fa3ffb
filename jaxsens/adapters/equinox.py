"""Equinox modules."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array
from jax.interpreters import partial_eval

from jaxsens.adapters.adapted import (
    NO_ARGUMENTS,
    Adapted,
    adapt,
    check_steady,
    library,
    training_mode,
)
from jaxsens.checks import refuse
from jaxsens.types import Params

__all__ = ["from_equinox"]


def from_equinox(
    model: Callable[..., Any],
    *,
    state: Any = None,
    batched: bool = False,
    arguments: Mapping[str, Any] = NO_ARGUMENTS,
) -> Adapted:
    """An Equinox model in inference mode (`equinox.nn.inference_mode`); the caller's model stays as it is.

    The parameters are the model's floating arrays, as `equinox.partition(model, equinox.is_inexact_array)`
    finds them, floating buffers among them; whole numbers, booleans and all that is no array are held fixed.

    Args:
        model: called `model(x, **arguments)`, or `model(x, state, **arguments)` where there is a state. If
            its call takes a `key`, it gets one, on which the output must not depend.
        state: the `equinox.nn.State` of a stateful model, such as one with batch normalisation; held fixed.
        batched: whether the model takes a leading batch axis. Equinox models usually take one example.
        arguments: keyword arguments of the call.

    Raises:
        InputError: where equinox is missing; for a model without floating arrays; a stateful model without
            its state; when f is called or traced, for an output that depends on the key, a call that changes
            floating state, and an output that is not one vector.
    """
    eqx = library("equinox")
    _check_state(eqx, model, state)
    # What a stateful layer starts from is a part of the model until its state is made; it is not trained.
    inference = eqx.nn.inference_mode(eqx.nn.delete_init_state(model))
    params, static = eqx.partition(inference, eqx.is_inexact_array)
    takes_key = "key" in inspect.signature(model).parameters and "key" not in arguments
    held = (static, state, dict(arguments))
    return adapt(_with_key if takes_key else _as_given, held, params, batched=batched)


def _as_given(held: Any, params: Params, x: Array) -> Any:
    static, state, arguments = held
    model = library("equinox").combine(params, static)
    if state is None:
        return model(x, **arguments)
    # A copy: a layer that sets a state makes the one that it was given unusable.
    y, after = model(x, jax.tree.map(lambda leaf: leaf, state), **arguments)
    check_steady(state, after, "write the layer so that it reads inference, as equinox.nn.BatchNorm does")
    return y


def _with_key(held: Any, params: Params, x: Array) -> Any:
    static, state, arguments = held

    def of_key(key: Array) -> Any:
        return _as_given((static, state, {**arguments, "key": key}), params, x)

    key = jax.random.key(0)
    if _depends(of_key, key):
        raise training_mode(
            "a model whose output depends on its key",
            "write what draws so that it reads inference, as equinox.nn.Dropout does",
        )
    return of_key(key)


def _check_state(eqx: Any, model: Any, state: Any) -> None:
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, eqx.nn.StateIndex))
    stateful = any(isinstance(node, eqx.nn.StateIndex) for node in nodes)
    if stateful != isinstance(state, eqx.nn.State):
        raise refuse(
            f"a {'stateful' if stateful else 'stateless'} model with state of type {type(state).__name__}",
            "an equinox.nn.State for a stateful model, and None for any other",
            "pass state= what equinox.nn.make_with_state gave and training changed",
        )


def _depends(function: Callable[[Array], Any], key: Array) -> bool:
    """Whether any result needs the argument: what is left of the program when dead code is gone."""
    program = jax.make_jaxpr(function)(key)
    _, used = partial_eval.dce_jaxpr(program.jaxpr, [True] * len(program.out_avals))
    return used[0]
