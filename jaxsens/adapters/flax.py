"""Flax: NNX and Linen modules."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import errors, linen, nnx
from jax import Array

from jaxsens.adapters.adapted import (
    NO_ARGUMENTS,
    Adapted,
    adapt,
    check_steady,
    training_mode,
)
from jaxsens.checks import refuse
from jaxsens.types import Params

__all__ = ["from_linen", "from_nnx"]

_REMEDY = "pass what switches it off, such as arguments={'train': False}"


def from_nnx(
    model: nnx.Module, *, batched: bool = True, arguments: Mapping[str, Any] = NO_ARGUMENTS
) -> Adapted:
    """A Flax NNX module, as it is now and in evaluation mode.

    A copy is put into evaluation mode by its own `eval()`: batch normalisation takes its running averages,
    dropout is off. The caller's module stays as it is, and what happens to it later has no effect here. The
    parameters are an `nnx.State` of the module's `nnx.Param`; all its other variables (batch statistics,
    random keys, counters, caches) are held fixed, and what a call does to them is dropped.

    Args:
        model: called `model(xs, **arguments)`.
        batched: whether it takes a leading batch axis, which f adds and removes.
        arguments: keyword arguments of the call, for a module that is told at each call that it does not
            train.

    Raises:
        InputError: for another object; an `nnx.Param` of whole numbers or booleans (make it another
            `nnx.Variable`); when f is called or traced, for a call that draws random numbers or changes
            floating variables other than an `nnx.Intermediate` or `nnx.Cache`, which means training mode, and
            for an output that is not one vector.
    """
    if not isinstance(model, nnx.Module):
        raise refuse(
            f"a model of type {type(model).__name__}",
            "a flax.nnx.Module",
            "take from_linen for flax.linen, from_function for a function",
        )
    evaluating = nnx.clone(model)
    evaluating.eval()
    recorded = (nnx.Intermediate, nnx.Cache)
    graph, params, random, *state = nnx.split(evaluating, nnx.Param, nnx.RngState, recorded, ...)
    return adapt(_nnx, (graph, random, state, dict(arguments)), params, batched=batched)


def _nnx(held: Any, params: Params, xs: Array) -> Any:
    graph, random, state, arguments = held
    # The copy makes the variables anew at each trace; without it, jacfwd(grad) fails.
    module = nnx.merge(graph, params, random, *state, copy=True)
    ys = module(xs, **arguments)
    after = nnx.state(module)
    check_steady(state[-1], after, _REMEDY)
    check_steady(random, after, _REMEDY, counters=True)  # Dropout counts its draws.
    return ys


def from_linen(
    module: linen.Module,
    variables: Mapping[str, Any],
    *,
    batched: bool = True,
    method: str | Callable[..., Any] | None = None,
    arguments: Mapping[str, Any] = NO_ARGUMENTS,
) -> Adapted:
    """A Flax Linen module and its variables.

    Args:
        module: called `module.apply(variables, xs, method=method, **arguments)`, without random keys and with
            no collection to write to.
        variables: as `module.init` gives and training changes. `variables["params"]` are the parameters; the
            other collections, such as "batch_stats", are held fixed.
        batched: whether the module takes a leading batch axis, which f adds and removes.
        method: another method than `__call__`, as `apply` takes it.
        arguments: keyword arguments of the call. Linen knows no evaluation mode of its own: pass what the
            module calls it, such as `{"train": False}`.

    Raises:
        InputError: for another object; variables without "params"; parameters of whole numbers or booleans
            (keep them in another collection); when f is called or traced, for a module that wants to write
            to its statistics or asks for a random key, and for an output that is not one vector.
    """
    if not isinstance(module, linen.Module):
        raise refuse(
            f"a module of type {type(module).__name__}",
            "a flax.linen.Module",
            "take from_nnx for flax.nnx, from_function for a function",
        )
    if not isinstance(variables, Mapping) or "params" not in variables:
        held = list(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise refuse(
            f"variables with {held}",
            "the collection 'params' among them",
            "pass all that module.init gave, or {'params': params}",
        )
    fixed = {name: collection for name, collection in variables.items() if name != "params"}
    held = (module, method, fixed, dict(arguments))
    return adapt(_linen, held, variables["params"], batched=batched)


def _linen(held: Any, params: Params, xs: Array) -> Any:
    module, method, fixed, arguments = held
    try:
        return module.apply({"params": params, **fixed}, xs, method=method, **arguments)
    except (errors.ModifyScopeVariableError, errors.InvalidRngError) as error:
        raise training_mode(f"a module in training mode ({error})", _REMEDY) from error
