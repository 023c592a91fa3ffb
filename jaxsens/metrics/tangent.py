"""Tangent sensitivity: Sens(x; theta) = d2f/dtheta dx, how each parameter's gradient moves with the input.

It has a row for each parameter and a column for each of the D entries of x (B Definition 3.1, C Definition
1), of the sum of the K outputs (`outputs="sum"`, B and C) or of each output (`"all"`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from jaxsens.checks import carry_nan, check_at_least, check_choice, check_key, is_concrete, refuse
from jaxsens.metrics._batching import bind
from jaxsens.metrics._norms import standard_error
from jaxsens.metrics._streamed import derivative_squares, streamed_norms, sum_of_squares
from jaxsens.metrics._structured import Plan, make_plan, structured_norms
from jaxsens.metrics._trace import Untraceable, trace
from jaxsens.types import Estimate, Function, Params, PRNGKey

__all__ = [
    "TangentMethod",
    "mean_tangent_sensitivity",
    "tangent_method",
    "tangent_sample_sensitivity",
    "tangent_sensitivity",
]

OUTPUTS = ("sum", "all")
METHODS = ("auto", "structured", "streamed", "dense", "hutchinson")
# Numbers of dF/dy that are held at once: half a gigabyte.
_HELD_NUMBERS = 2**27


class TangentMethod(NamedTuple):
    """What `method="auto"` takes for a model, "structured" or "streamed", and why."""

    method: str
    reason: str


def tangent_sample_sensitivity(
    f: Function, params: Params, x: Float[Array, "*shape"], *, outputs: str = "sum"
) -> PyTree:
    """Sens(x) = d2f/dtheta dx of ONE example, whole, by `jacfwd(grad)`.

    Args:
        f: `f(params, x) -> (K,)` of one example.
        params: its parameters.
        x: the example, float32 or float64.
        outputs: "sum" of the K outputs (B, C), or "all".

    Returns:
        A pytree like `params`: for each floating leaf an array (*leaf, *shape), or (K, *leaf, *shape) for
        "all"; None for other leaves.

    Raises:
        InputError: as `tangent_sensitivity`.

    Cost: memory of parameters x D, times K for "all": for small networks.
    """
    check_choice("outputs", outputs, OUTPUTS)
    model = _open(f, params, x[None])
    derivative = jax.jacfwd(model.gradient(outputs), argnums=1)(model.leaves, x)
    return model.rebuild(carry_nan(derivative, params, x), None)


def tangent_sensitivity(
    f: Function,
    params: Params,
    xs: Float[Array, "n *shape"],
    *,
    outputs: str = "sum",
    method: str = "auto",
    chunk_size: int | None = None,
    num_probes: int | None = None,
    key: PRNGKey | None = None,
) -> Float[Array, " n"] | Estimate:
    """|Sens(x)|_F^2 = |d2f/dtheta dx|_F^2 of each example (B Definition 3.1, C Definition 1).

    Its mean over examples is what the bounds of B and C are about (B Theorem 3.1, C eq. 3);
    `mean_tangent_sensitivity` is the norm of the mean, another number.

    Args:
        f: `f(params, x) -> (K,)` of one example.
        params: its parameters; leaves that are no floating arrays are constants.
        xs: n examples of any shape, D entries each, float32 or float64.
        outputs: "sum" of the K outputs (B, C), or "all": of the whole (K, parameters, D) tensor.
        method: see below; all but "hutchinson" are exact.
        chunk_size: tangents at once; None takes a number that fits the cache.
        num_probes: random directions, of "hutchinson" alone.
        key: their randomness, of "hutchinson" alone.

    Methods:
        "structured": for each layer from tangents of its input and cotangents of its result, found in the
            operations that JAX traces, without tangents of the size of their weights. A piecewise linear
            network (dense and convolution layers, BN in evaluation mode, max- and average-pooling, skip
            connections, ReLU and its kin) takes D forward passes of tangents; if it begins with a dense layer
            of less than D / 2 units, as many as these, from that layer on. A smooth network of dense layers
            takes D passes of both kinds. Its first derivative is exact; a second one is refused where it
            would not be.
        "streamed": the derivative of `grad` over the input's basis, `chunk_size` directions at a time: for
            any f, in memory of `chunk_size` gradients, D times the work of one. A tangent that is an outer
            product, as of a dense layer's weight in a piecewise linear network, is not formed.
        "dense": the definition, in memory of parameters x D.
        "hutchinson": E|Sens v|^2 over v ~ N(0, I): unbiased, the work of `num_probes` gradients.
        "auto": "structured" where it is exact without tangents of the size of weights, else "streamed";
            `tangent_method` tells which, and why.

    Returns:
        n squared norms in the dtype of `xs`; for "hutchinson" an Estimate of n values and standard errors.

    Raises:
        InputError: for no examples, another dtype, an f whose output is no vector, a NaN or infinity in
            `params` or `xs`, no floating parameters, a bad option, or a model that "structured" cannot read.

    Each call compiles a program of its own: wrap it in `jax.jit` when it is repeated. Under `jit` the
    structured path of a convolution network holds dF/dy of all its layers for all examples; outside it
    divides them.
    """
    check_choice("outputs", outputs, OUTPUTS)
    check_choice("method", method, METHODS)
    _check_options(method, chunk_size, num_probes, key)
    model = _open(f, params, xs)
    if method == "auto":
        method = _choose(model).method
    if method == "structured":
        plan, cotangents = _read(model), model.cotangents(outputs)
        run = jax.jit(
            lambda leaves, xs: structured_norms(plan, leaves, xs, cotangents, chunk_size=chunk_size)
        )
        # Convolutions hold derivatives of all examples; only Python can divide these.
        size = max(1, _HELD_NUMBERS // max(1, plan.derivative_size * len(cotangents)))
        if not plan.has_convolutions or not is_concrete(xs):
            size = len(xs)
        parts = [run(model.leaves, xs[i : i + size]) for i in range(0, len(xs), size)]
        return carry_nan(jnp.concatenate(parts), params, examples=xs)
    gradient, shape = model.gradient(outputs), xs.shape[1:]
    if method == "dense":
        norms = jax.lax.map(
            lambda x: sum_of_squares(jax.jacfwd(gradient, argnums=1)(model.leaves, x), x.dtype), xs
        )
        return carry_nan(norms, params, examples=xs)
    if method == "streamed":
        return carry_nan(streamed_norms(gradient, model.leaves, xs, chunk_size), params, examples=xs)

    def probe(key: Array, indices: Array) -> Array:
        return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape, xs.dtype))(indices)

    drawn: Any = key  # checked, as num_probes is
    count: Any = num_probes
    keys = jax.random.split(drawn, len(xs))
    squares = derivative_squares(gradient, model.leaves, xs, keys, probe, count, chunk_size=chunk_size)
    squares = carry_nan(squares, params, examples=xs)
    return Estimate(jnp.mean(squares, axis=1), standard_error(squares))


def mean_tangent_sensitivity(
    f: Function,
    params: Params,
    xs: Float[Array, "n *shape"],
    *,
    outputs: str = "sum",
    chunk_size: int | None = None,
) -> Float[Array, ""]:
    """|E_x Sens(x)|_F^2: the squared norm of the mean matrix over all examples (B Definition 3.1).

    At most the mean of `tangent_sensitivity`, which is what the bounds of B and C are about: derivatives that
    point in different directions at different examples cancel here.

    Arguments and errors are those of `tangent_sensitivity` with method "streamed", which it is for the
    function delta -> mean_x f(x + delta); returns a scalar. Cost: D times the work of a gradient of all
    examples, in memory of `chunk_size` such gradients.
    """
    check_choice("outputs", outputs, OUTPUTS)
    _check_options("streamed", chunk_size, None, None)
    model = _open(f, params, xs)
    gradient = model.gradient(outputs)

    def mean_gradient(leaves: list[Array], shift: Array) -> list[Array]:
        gradients = jax.vmap(lambda x: gradient(leaves, x + shift))(xs)
        return [jnp.mean(g, axis=0) for g in gradients]

    norms = streamed_norms(mean_gradient, model.leaves, jnp.zeros_like(xs[:1]), chunk_size)
    return carry_nan(norms[0], params, xs)


def tangent_method(f: Function, params: Params, x: Float[Array, "*shape"]) -> TangentMethod:
    """Which method "auto" takes in `tangent_sensitivity` for this model and ONE example, and why."""
    return _choose(_open(f, params, x[None]))


class _Model(NamedTuple):
    """A checked model as a function of its floating parameters and one example."""

    function: Callable[[list[Array], Array], Array]
    leaves: list[Array]
    rebuild: Callable[[list[Any], Any], PyTree]
    """Leaves in their places in the pytree of parameters, another value in all others."""
    example: jax.ShapeDtypeStruct
    num_outputs: int

    def gradient(self, outputs: str) -> Callable[[list[Array], Array], list[Array]]:
        """df/dtheta of the summed outputs, or of each: a list of (*leaf) or (K, *leaf)."""
        if outputs == "sum":
            return jax.grad(lambda leaves, x: jnp.sum(self.function(leaves, x)))
        return jax.jacrev(self.function)

    def cotangents(self, outputs: str) -> Array:
        """The rows whose gradients `outputs` asks for: (1, K) or (K, K)."""
        dtype = self.example.dtype
        return (
            jnp.ones((1, self.num_outputs), dtype)
            if outputs == "sum"
            else jnp.eye(self.num_outputs, dtype=dtype)
        )


def _open(f: Function, params: Params, xs: Array) -> _Model:
    _, num_outputs = bind(f, params, xs)
    everything, tree = jax.tree.flatten(params)
    floating = [
        isinstance(leaf, jax.Array | np.ndarray | np.generic) and jnp.issubdtype(leaf.dtype, jnp.floating)
        for leaf in everything
    ]
    leaves = [leaf for leaf, floats in zip(everything, floating, strict=True) if floats]
    if not leaves:
        raise refuse("params without a floating array", "parameters to differentiate", "pass the weights")

    def fill(leaves: list[Any], others: list[Any]) -> PyTree:
        mine = iter(leaves)
        return jax.tree.unflatten(
            tree, [next(mine) if floats else other for floats, other in zip(floating, others, strict=True)]
        )

    def function(leaves: list[Array], x: Array) -> Array:
        return f(fill(leaves, everything), x).astype(x.dtype)

    example = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
    return _Model(
        function, leaves, lambda leaves, other: fill(leaves, [other] * len(everything)), example, num_outputs
    )


def _read(model: _Model) -> Plan:
    try:
        return make_plan(trace(model.function, model.leaves, model.example))
    except Untraceable as error:
        raise refuse(
            f"method='structured' for a model with {error}",
            "one of operations that are read one by one",
            "take method='auto' or 'streamed'",
        ) from error


def _choose(model: _Model) -> TangentMethod:
    try:
        plan = make_plan(trace(model.function, model.leaves, model.example))
    except Untraceable as error:
        return TangentMethod("streamed", f"the model has {error}")
    if plan.trace.piecewise_linear:
        return TangentMethod("structured", "the model is piecewise linear")
    if plan.is_short:
        return TangentMethod(
            "structured", "the model is smooth, its products are dense layers at one position"
        )
    return TangentMethod("streamed", "the model is not piecewise linear, and has products at many positions")


def _check_options(method: str, chunk_size: int | None, num_probes: int | None, key: Any) -> None:
    if chunk_size is not None:
        check_at_least("chunk_size", chunk_size, 1)
    if method != "hutchinson":
        if num_probes is not None or key is not None:
            raise refuse(
                f"num_probes or a key with method={method!r}", "neither: it is exact", "take 'hutchinson'"
            )
        return
    check_key(key)
    # One probe has no error bar.
    check_at_least("num_probes", num_probes, 2)
