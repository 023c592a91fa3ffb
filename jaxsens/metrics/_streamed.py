"""|Sens(x) v|^2 for many directions v: the derivative of a gradient, a few directions at a time.

The derivative of a gradient at a dense layer is an outer product a b^T. It is not formed: its squared norm is
|a|^2 |b|^2.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend import core
from jaxtyping import Float, PyTree

from jaxsens.checks import is_concrete
from jaxsens.metrics._trace import JAXPRS, Operation, Untraceable, evaluate, read

__all__ = ["derivative_squares", "streamed_norms", "sum_of_squares"]

# Numbers of the tangents of parameters that are formed at once, and of the directions, whose chunk must not
# grow with the input; and the fewest tangents. More than the cache holds are slower.
_FORMED_NUMBERS, _DIRECTION_NUMBERS = 2**21, 2**16
_FEWEST = 4

Gradient = Callable[[list[Array], Array], list[Array]]


def streamed_norms(
    gradient: Gradient, leaves: list[Array], xs: Float[Array, "n *shape"], chunk_size: int | None
) -> Float[Array, " n"]:
    """The sum over the input's basis of |d gradient/dx e_i|^2, for each example."""
    shape, size = xs.shape[1:], math.prod(xs.shape[1:])

    def basis(_: Array, indices: Array) -> Array:
        return jax.nn.one_hot(indices, size, dtype=xs.dtype).reshape(-1, *shape)

    unused = jnp.zeros(len(xs))
    squares = derivative_squares(gradient, leaves, xs, unused, basis, size, chunk_size=chunk_size)
    return jnp.sum(squares, axis=1)


def derivative_squares(
    gradient: Gradient,
    leaves: list[Array],
    xs: Float[Array, "n *shape"],
    seeds: Array,
    directions: Callable[[Array, Array], Array],
    count: int,
    *,
    chunk_size: int | None,
) -> Float[Array, "n count"]:
    """|d gradient/dx v_i|^2 of each example, v_i = `directions(seed, i)` with the example's own seed."""
    formed = 0

    def squares_of(leaves: list[Array], x: Array, seed: Array) -> Callable[[Array], Array]:
        nonlocal formed
        _, derivative = jax.linearize(lambda x: gradient(leaves, x), x)
        square, formed = _squared(derivative, x)
        return lambda indices: jax.vmap(square)(directions(seed, indices))

    jax.eval_shape(lambda *one: squares_of(*one)(jnp.arange(1)), leaves, xs[0], seeds[0])
    fitting = min(_FORMED_NUMBERS // max(1, formed), _DIRECTION_NUMBERS // max(1, xs[0].size))
    chunk = min(count, chunk_size or max(fitting, _FEWEST))
    chunks = jnp.arange(-(-count // chunk) * chunk).reshape(-1, chunk)
    if _loops_in_python(gradient, leaves, xs):
        step = jax.jit(lambda leaves, x, seed, indices: squares_of(leaves, x, seed)(indices))
        squares = [[step(leaves, x, seed, i) for i in chunks] for x, seed in zip(xs, seeds, strict=True)]
        return jnp.stack([jnp.concatenate(row)[:count] for row in squares])
    squares = jax.jit(
        lambda leaves, *examples: jax.lax.map(
            lambda one: jax.lax.map(squares_of(leaves, *one), chunks), examples
        )
    )(leaves, xs, seeds)
    return squares.reshape(len(xs), -1)[:, :count]


def sum_of_squares(tree: PyTree, dtype: Any) -> Float[Array, ""]:
    """Over all leaves, in a dtype that holds the squares."""
    return sum((jnp.sum(leaf.astype(dtype) ** 2) for leaf in jax.tree.leaves(tree)), jnp.zeros((), dtype))


class _Outer(NamedTuple):
    """A result that is a product of two variables without a sum: their batch dimensions."""

    operands: tuple[int, int]
    batch: tuple[tuple[int, ...], tuple[int, ...]]


def _squared(derivative: Callable[[Array], PyTree], x: Array) -> tuple[Callable[[Array], Array], int]:
    """v -> |derivative(v)|^2, and how many numbers it forms besides those of activations."""

    def as_it_is(v: Array) -> Array:
        return sum_of_squares(derivative(v), x.dtype)

    closed = jax.make_jaxpr(lambda v: jax.tree.leaves(derivative(v)))(x)
    avals: list[Any] = closed.out_avals
    sizes = [math.prod(aval.shape) for aval in avals]
    try:
        found = read(closed)
    except Untraceable:
        return as_it_is, sum(sizes)
    makers = {v: operation for operation in found.operations for v in operation.outputs}
    outers = [_outer(result, makers, found.shapes) for result in found.results]
    wanted = [
        v
        for result, outer in zip(found.results, outers, strict=True)
        for v in (outer.operands if outer else (result,))
    ]
    needed = found.needed_for(wanted)

    def without_outer_products(v: Array) -> Array:
        values = evaluate(needed, found.constants | {found.arguments[0]: v})
        total = jnp.zeros((), x.dtype)
        for result, outer in zip(found.results, outers, strict=True):
            if outer is None:
                total += sum_of_squares(values[result], x.dtype)
                continue
            left, right = (
                _squares_by_batch(values[operand].astype(x.dtype), batch)
                for operand, batch in zip(outer.operands, outer.batch, strict=True)
            )
            total += jnp.sum(left * right)
        return total

    return without_outer_products, sum(s for s, o in zip(sizes, outers, strict=True) if o is None)


def _outer(result: int, makers: dict[int, Operation], shapes: dict[int, Any]) -> _Outer | None:
    """The product behind a result whose entries it has, if it sums over nothing and of real numbers."""
    while result in makers and makers[result].is_rearrangement(shapes):
        result = makers[result].inputs[0]
    operation = makers.get(result)
    if operation is None or operation.name != "dot_general":
        return None
    contracting, batch = operation.params["dimension_numbers"]
    left = shapes[operation.inputs[0]].shape
    real = all(jnp.issubdtype(shapes[v].dtype, jnp.floating) for v in operation.inputs)
    if not real or math.prod(left[d] for d in contracting[0]) != 1:
        return None
    first, second = operation.inputs
    return _Outer((first, second), (tuple(batch[0]), tuple(batch[1])))


def _squares_by_batch(a: Array, batch: tuple[int, ...]) -> Array:
    rest = [d for d in range(a.ndim) if d not in batch]
    return jnp.sum(a.transpose(*batch, *rest) ** 2, axis=tuple(range(len(batch), a.ndim)))


def _loops_in_python(gradient: Gradient, leaves: list[Array], xs: Array) -> bool:
    """Whether XLA's own loop would be slow, and Python's can be had.

    On a CPU a gradient of a convolution inside a compiled loop is 50 to 200 times slower than outside.
    """
    if jax.default_backend() != "cpu" or not all(map(is_concrete, (*leaves, xs))):
        return False
    return _mentions(jax.make_jaxpr(gradient)(leaves, xs[0]).jaxpr, "conv_general_dilated")


def _mentions(jaxpr: core.Jaxpr, name: str) -> bool:
    def inner(params: dict[str, Any]) -> list[core.Jaxpr]:
        values = jax.tree.leaves(list(params.values()), is_leaf=lambda v: isinstance(v, JAXPRS))
        return [getattr(v, "jaxpr", v) for v in values if isinstance(v, JAXPRS)]

    return any(
        equation.primitive.name == name or any(_mentions(j, name) for j in inner(equation.params))
        for equation in jaxpr.eqns
    )
