"""The passes over one chunk of examples, compiled once for a network and for others of its kind."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxsens.metrics._batching import bind
from jaxsens.metrics._norms import frobenius_norm
from jaxsens.metrics.jacobian import pull_back, through_softmax
from jaxsens.metrics.pac_bayes import as_scale
from jaxsens.metrics.path_norms import log_path_norm
from jaxsens.metrics.tangent import tangent_sensitivity
from jaxsens.trees import split
from jaxsens.types import Function, Params

__all__ = ["Derivatives", "Programs", "forward", "gradient", "jacobian", "noise", "path", "tangent"]


class Derivatives(NamedTuple):
    """Of one example: the logits, |J|_F, |A J|_F of the softmax, and |J^T 1| of the summed outputs."""

    logits: Any
    norm: Any
    softmax_norm: Any
    summed_norm: Any


class Programs:
    """The compiled passes of networks that differ in arrays alone. Nothing is compiled before its call.

    Arrays in the parameters, and in f where it is a pytree, are arguments of the programs; other leaves, such
    as an f that is a plain function, are part of them.
    """

    def __init__(self, f: Function, params: Params) -> None:
        self.structure = split((f, params))[1]
        self.compiled: dict[Any, Callable[..., Any]] = {}

    def serves(self, f: Function, params: Params) -> bool:
        """Whether these are the programs of this f, or one like it, and of parameters of this structure."""
        return split((f, params))[1] == self.structure

    def run(
        self, function: Callable[..., Any], f: Function, params: Params, *arguments: Any
    ) -> tuple[Any, float, float]:
        """function(f, params, *arguments), the seconds that it took, and those of compiling it."""
        arrays, _ = split((f, params))
        place = (function, *map(_kind, arrays), *map(_kind, arguments))
        began = time.perf_counter()
        if place not in self.compiled:
            join = self.structure.join
            jitted = jax.jit(lambda arrays, *arguments: function(*join(arrays), *arguments))
            self.compiled[place] = jitted.lower(arrays, *arguments).compile()
        compiled = time.perf_counter()
        result = jax.device_get(self.compiled[place](arrays, *arguments))
        return result, time.perf_counter() - compiled, compiled - began


def _kind(array: Any) -> tuple[Any, ...]:
    """What a program is compiled for."""
    return array.shape, array.dtype, getattr(array, "weak_type", False), getattr(array, "sharding", None)


# A pass: (f, params, one chunk of examples, ...) -> what comes of each example.


def forward(f: Function, params: Params, xs: Array) -> Array:
    """One forward pass: the logits."""
    model, _ = bind(f, params, xs)
    return jax.vmap(model)(xs)


def jacobian(f: Function, params: Params, xs: Array) -> Derivatives:
    """One forward and K reverse passes: all that is made of J itself."""
    model, num_outputs = bind(f, params, xs)

    def of_example(x: Array) -> Derivatives:
        logits, jacobian = pull_back(model, x, jnp.eye(num_outputs))
        return Derivatives(
            logits,
            frobenius_norm(jacobian),
            frobenius_norm(through_softmax(logits, jacobian)),
            frobenius_norm(jnp.sum(jacobian, axis=0)),
        )

    return jax.vmap(of_example)(xs)


def gradient(f: Function, params: Params, xs: Array) -> Derivatives:
    """One forward and one reverse pass: J^T 1 without J."""
    model, num_outputs = bind(f, params, xs)

    def of_example(x: Array) -> Derivatives:
        logits, rows = pull_back(model, x, jnp.ones((1, num_outputs)))
        return Derivatives(logits, None, None, frobenius_norm(rows))

    return jax.vmap(of_example)(xs)


def noise(
    f: Function,
    params: Params,
    xs: Array,
    logits: Array,
    indices: Array,
    noise_std: Array,
    draw: Array,
    key: Array,
) -> Array:
    """f(x + eps) - f(x), with the noise that `output_noise` has for this draw and the example's index."""
    model, _ = bind(f, params, xs)
    draw_key, sigma = jax.random.fold_in(key, draw), as_scale(noise_std, xs.dtype)

    def perturbed(i: Array, x: Array) -> Array:
        return model(x + sigma * jax.random.normal(jax.random.fold_in(draw_key, i), x.shape, x.dtype))

    return jax.vmap(perturbed)(indices, xs) - logits


def path(f: Function, params: Params, x: Array) -> Array:
    """The path norm, for examples like x."""
    return log_path_norm(f, params, x.shape)


def tangent(f: Function, params: Params, xs: Array) -> Any:
    """|Sens(x)|_F^2 over all outputs."""
    return tangent_sensitivity(f, params, xs, outputs="all")
