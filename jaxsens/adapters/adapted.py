"""What every adapter makes, and the checks that all of them share."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsens.checks import InputError, refuse
from jaxsens.trees import Structure, split
from jaxsens.types import Function, Params

__all__ = [
    "NO_ARGUMENTS",
    "Adapted",
    "adapt",
    "check_steady",
    "inexact_arrays",
    "library",
    "training_mode",
]

NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


class Adapted(NamedTuple):
    """A trained network as the measures take it: `output_sensitivity(*adapted, xs, key=key)`.

    `f(params, x) -> (K,)` is the network in evaluation mode at ONE example, before the softmax, and has all
    derivatives that the network's own operations have. `params` is a pytree whose leaves are floating (or
    complex) arrays: all that is trained, and nothing else.

    f is a `jax.tree_util.Partial`: a pytree too, whose leaves are the arrays that are held fixed. Functions
    under `jit` may take it as an argument, and are compiled once for models that differ in arrays alone.
    """

    f: Function
    params: Params


@dataclasses.dataclass(frozen=True, repr=False)
class OneExample:
    """`f(arrays, params, x) -> (K,)` of a library's own call `run(held, params, xs)`.

    `arrays` are those of `held`. Two are equal, and one program serves both, if they differ in these alone.
    Each trace checks the shape of what the call returns.
    """

    run: Callable[[Any, Params, Array], Any]
    structure: Structure
    """Of `held`."""
    batched: bool
    """Whether the call takes a batch, or one example."""

    def __call__(self, arrays: list[Any], params: Params, x: Array) -> Array:
        y = self.run(self.structure.join(arrays), params, x[None] if self.batched else x)
        dtype = getattr(y, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            raise refuse(
                f"an output of type {type(y).__name__}, dtype {dtype}",
                "one array of real floating numbers",
                "wrap the model so that it returns the logits alone",
            )
        if not self.batched:
            if y.ndim != 1 or y.size == 0:
                raise refuse(
                    f"an output of shape {y.shape} for one example of shape {x.shape}",
                    "shape (K,)",
                    "pass batched=True for a model that takes a leading batch axis; else return one vector",
                )
            return y
        if y.ndim != 2 or y.shape[0] != 1 or y.size == 0:
            raise refuse(
                f"an output of shape {y.shape} for a batch of shape {(1, *x.shape)}",
                "shape (1, K)",
                "pass batched=False for a model that takes one example; else return a vector for each",
            )
        return y[0]


def adapt(run: Callable[[Any, Params, Array], Any], held: Any, params: Params, *, batched: bool) -> Adapted:
    """The pair of a library's own call `run(held, params, xs)`: a function of a module, with no closure.

    `held` is all else that the call needs, any pytree: its arrays become leaves of f, the rest its structure.
    """
    arrays, structure = split(held)
    f = jax.tree_util.Partial(OneExample(run, structure, batched), arrays)
    return Adapted(f, inexact_arrays(params))


def inexact_arrays(params: Params) -> Params:
    """The parameters with every leaf a JAX array; those of NumPy are copied.

    Refuses whole numbers, booleans and what is no array, by their place, and params without any array.
    """

    def checked(path: Any, leaf: Any) -> Array:
        known = isinstance(leaf, jax.Array | np.ndarray | np.generic | float | complex)
        if not (known and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)):
            raise refuse(
                f"params{jax.tree_util.keystr(path)} of type {type(leaf).__name__}, "
                f"dtype {getattr(leaf, 'dtype', None)}",
                "floating arrays only, which can be differentiated",
                "leave it out of the parameters and let the function close over it",
            )
        return leaf if isinstance(leaf, jax.Array) else jnp.array(leaf)

    params = jax.tree_util.tree_map_with_path(checked, params)
    if not jax.tree.leaves(params):
        raise refuse("params without an array", "the trained parameters", "pass them, not closed over")
    return params


def check_steady(before: Any, after: Any, remedy: str, *, counters: bool = False) -> None:
    """Refuses a call after which another array stands in the place of a floating one.

    In training mode batch normalisation moves its statistics. The outputs are finite, and those of a batch of
    one: not the network's. Whether an array is the same one is known while JAX traces. Whole numbers, which
    count calls, may move, but not where `counters`.
    """
    now = dict(jax.tree_util.tree_leaves_with_path(after))
    for path, leaf in jax.tree_util.tree_leaves_with_path(before):
        watched = counters or jnp.issubdtype(getattr(leaf, "dtype", int), jnp.inexact)
        if watched and now.get(path, leaf) is not leaf:
            raise training_mode(f"a call that changes the state{jax.tree_util.keystr(path)}", remedy)


def training_mode(got: str, remedy: str) -> InputError:
    """The error to raise for a model that is not in evaluation mode."""
    return refuse(
        got, "a model in evaluation mode, with running statistics in use and without dropout", remedy
    )


def library(name: str) -> ModuleType:
    """An optional library. Refuses where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise refuse(
            f"an environment without {name} ({error})",
            f"{name.partition('.')[0]} beside jaxsens",
            "pip install 'jaxsens[adapters]'",
        ) from error
