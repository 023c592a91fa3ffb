"""What every measure of `f(params, x)` starts with: a checked function of one example, mapped over many."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsens.checks import check_at_least, check_examples, check_finite, check_outputs, refuse
from jaxsens.types import Function, Params

__all__ = ["bind", "check_floating", "map_examples", "map_examples_unrolled", "wide"]


def check_floating(name: str, x: Array) -> None:
    """Refuses integers, and floats too narrow to hold a small perturbation."""
    if not (jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits >= 32):
        raise refuse(
            f"{name} of dtype {x.dtype}",
            "float32 or float64",
            f"cast {name}; f may compute in a narrower type inside",
        )


def wide(value: Any) -> Any:
    """An array in float32 at least: products of narrow numbers, whole ones too, leave their range."""
    if not hasattr(value, "dtype"):
        return value
    if isinstance(value, jax.Array):
        return value.astype(jnp.promote_types(jnp.result_type(value.dtype, float), jnp.float32))
    return value.astype(np.result_type(value.dtype, np.float32))


def bind(f: Function, params: Params, xs: Array) -> tuple[Callable[[Array], Array], int]:
    """The checked model `x -> y` of one example, its output in the dtype of `xs`, and its K outputs.

    The parameters are closed over, not passed on: a pytree of modules may hold leaves that are no arrays.
    """
    check_examples(xs)
    check_floating("xs", xs)
    if xs.size == 0:
        raise refuse(f"xs of shape {xs.shape}", "examples with entries", "drop the empty axis")
    check_finite("params", params)
    check_finite("xs", xs)

    def model(x: Array) -> Array:
        return f(params, x).astype(xs.dtype)

    output = jax.eval_shape(lambda x: f(params, x), jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype))
    if not (hasattr(output, "dtype") and jnp.issubdtype(output.dtype, jnp.floating)):
        raise refuse(
            f"f(params, x) of type {type(output).__name__}, dtype {getattr(output, 'dtype', None)}",
            "one array of real floating numbers",
            "return the logits alone",
        )
    check_outputs(output.shape)
    return model, output.shape[0]


def check_batch_size(batch_size: int | None) -> None:
    """Refuses anything but None and a whole number of at least 1."""
    if batch_size is not None:
        check_at_least("batch_size", batch_size, 1)


def map_examples(function: Callable[[Any], Any], examples: Any, batch_size: int | None) -> Any:
    """`vmap(function)(examples)` in chunks of `batch_size`, one after another in a compiled loop.

    The ragged last chunk is filled up by repeating the last example, never with zeros: a model that divides
    by its input would put a NaN there, and the derivative of the dropped rows is 0 times that NaN.
    """
    check_batch_size(batch_size)
    n = jax.tree.leaves(examples)[0].shape[0]
    if batch_size is None or batch_size >= n:
        return jax.vmap(function)(examples)
    num_chunks = -(-n // batch_size)
    filled = jnp.minimum(jnp.arange(num_chunks * batch_size), n - 1).reshape(num_chunks, batch_size)
    chunks = jax.lax.map(lambda i: jax.vmap(function)(jax.tree.map(lambda a: a[i], examples)), filled)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:n], chunks)


def map_examples_unrolled(function: Callable[[Any], Any], examples: Array, batch_size: int | None) -> Any:
    """`vmap(function)(examples)` in chunks of `batch_size`, unrolled while tracing.

    Derivatives use this one: on CPU the gradient of a convolution is 50 to 200 times slower inside a compiled
    loop. The price is a program that grows with the number of chunks.
    """
    check_batch_size(batch_size)
    n = examples.shape[0]
    step = n if batch_size is None else batch_size
    chunks = [jax.vmap(function)(examples[start : start + step]) for start in range(0, n, step)]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *chunks)
