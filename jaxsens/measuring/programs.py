"""The passes over one chunk of examples, compiled once for a network and for others of its kind."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxsens.measuring.examples import is_array
from jaxsens.metrics._batching import bind
from jaxsens.metrics._norms import frobenius_norm
from jaxsens.metrics.jacobian import pull_back, through_softmax
from jaxsens.metrics.pac_bayes import as_scale
from jaxsens.types import Function, Params

__all__ = ["Derivatives", "Programs", "forward", "gradient", "jacobian", "noise"]


class Derivatives(NamedTuple):
    """Of one example: the logits, |J|_F, |A J|_F of the softmax, and |J^T 1| of the summed outputs."""

    logits: Any
    norm: Any
    softmax_norm: Any
    summed_norm: Any


class Programs:
    """The compiled passes of one f for all parameters of one structure. Nothing is compiled before its call.

    Arrays in the parameters are arguments of the programs, other leaves are part of them.
    """

    def __init__(self, f: Function, params: Params):
        self.f = f
        leaves, self.tree = jax.tree.flatten(params)
        self.constants = [None if is_array(leaf) else leaf for leaf in leaves]
        self.are_arrays = [is_array(leaf) for leaf in leaves]
        self.compiled: dict[Any, Callable] = {}

    def serves(self, f: Function, params: Params) -> bool:
        """Whether these are the programs of this f, and of parameters that differ in arrays alone."""
        leaves, tree = jax.tree.flatten(params)
        others = [None if is_array(leaf) else leaf for leaf in leaves]
        return f is self.f and tree == self.tree and others == self.constants

    def run(self, function: Callable, params: Params, *arguments: Any) -> tuple[Any, float, float]:
        """function(self, params, *arguments), the seconds that it took, and those of compiling it."""
        arrays = [leaf for leaf in jax.tree.leaves(params) if is_array(leaf)]
        kinds = [(a.shape, a.dtype, getattr(a, "sharding", None)) for a in (*arrays, *arguments)]
        place = (function, *kinds)
        began = time.perf_counter()
        if place not in self.compiled:
            jitted = jax.jit(lambda arrays, *arguments: function(self, self._rebuild(arrays), *arguments))
            self.compiled[place] = jitted.lower(arrays, *arguments).compile()
        compiled = time.perf_counter()
        result = jax.device_get(self.compiled[place](arrays, *arguments))
        return result, time.perf_counter() - compiled, compiled - began

    def _rebuild(self, arrays: list[Array]) -> Params:
        mine = iter(arrays)
        pairs = zip(self.are_arrays, self.constants, strict=True)
        return jax.tree.unflatten(self.tree, [next(mine) if array else other for array, other in pairs])


# A pass of the programs: (programs, params, one chunk of examples, ...) -> what comes of each example.


def forward(programs: Programs, params: Params, xs: Array) -> Array:
    """One forward pass: the logits."""
    model, _ = bind(programs.f, params, xs)
    return jax.vmap(model)(xs)


def jacobian(programs: Programs, params: Params, xs: Array) -> Derivatives:
    """One forward and K reverse passes: all that is made of J itself."""
    model, num_outputs = bind(programs.f, params, xs)

    def of_example(x: Array) -> Derivatives:
        logits, jacobian = pull_back(model, x, jnp.eye(num_outputs))
        return Derivatives(
            logits,
            frobenius_norm(jacobian),
            frobenius_norm(through_softmax(logits, jacobian)),
            frobenius_norm(jnp.sum(jacobian, axis=0)),
        )

    return jax.vmap(of_example)(xs)


def gradient(programs: Programs, params: Params, xs: Array) -> Derivatives:
    """One forward and one reverse pass: J^T 1 without J."""
    model, num_outputs = bind(programs.f, params, xs)

    def of_example(x: Array) -> Derivatives:
        logits, rows = pull_back(model, x, jnp.ones((1, num_outputs)))
        return Derivatives(logits, None, None, frobenius_norm(rows))

    return jax.vmap(of_example)(xs)


def noise(
    programs: Programs,
    params: Params,
    xs: Array,
    logits: Array,
    indices: Array,
    noise_std: Array,
    draw: Array,
    key: Array,
) -> Array:
    """f(x + eps) - f(x), with the noise that `output_noise` has for this draw and the example's index."""
    model, _ = bind(programs.f, params, xs)
    draw_key, sigma = jax.random.fold_in(key, draw), as_scale(noise_std, xs.dtype)

    def perturbed(i: Array, x: Array) -> Array:
        return model(x + sigma * jax.random.normal(jax.random.fold_in(draw_key, i), x.shape, x.dtype))

    return jax.vmap(perturbed)(indices, xs) - logits
