"""The input-output Jacobian J(x) = df/dx, shape (K, D), and its norms.

Every function costs reverse passes, one per output, and is exact for any differentiable f; at a kink of a
piecewise-linear f it takes the derivative that JAX takes there. Wrap a call in `jax.jit` when it is
repeated.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsens.checks import carry_nan, refuse
from jaxsens.metrics._batching import bind, map_examples_unrolled
from jaxsens.metrics._norms import frobenius_norm
from jaxsens.types import Function, Params

__all__ = [
    "JacobianNorms",
    "input_jacobian_gram",
    "input_jacobian_norm",
    "input_jvp",
    "jacobian_norms",
]


class JacobianNorms(NamedTuple):
    """|df/dx|_F and |d softmax(f)/dx|_F of n examples."""

    before_softmax: Float[Array, " n"]
    after_softmax: Float[Array, " n"]


def input_jacobian_norm(
    f: Function, params: Params, xs: Float[Array, "n *shape"], *, batch_size: int | None = None
) -> Float[Array, " n"]:
    """J(x) = |df/dx|_F for each example (E; A section 4.3 and C take it on f, E on softmax(f)).

    Args:
        f: `f(params, x) -> (K,)` of one example.
        params: its parameters.
        xs: n examples of any shape, float32 or float64.
        batch_size: examples per chunk; None takes all at once. Chunks are unrolled: compile time grows with
            their number.

    Returns:
        n norms, in the dtype of `xs`. The derivative at J = 0 is 0. NaN where `params` or the example are
        traced and not finite, although J may not depend on that number.

    Raises:
        InputError: for no examples, another dtype, an f whose output is no vector, a NaN or infinity in
            `params` or `xs`, or a bad `batch_size`.

    Cost: one forward and K reverse passes per example; memory of `batch_size` x K reverse passes.
    """
    model, num_outputs = bind(f, params, xs)
    norms = map_examples_unrolled(
        lambda x: frobenius_norm(pull_back(model, x, jnp.eye(num_outputs))[1]), xs, batch_size
    )
    return carry_nan(norms, params, examples=xs)


def input_jacobian_gram(
    f: Function, params: Params, xs: Float[Array, "n *shape"], *, batch_size: int | None = None
) -> Float[Array, "n K K"]:
    """G(x) = J J^T for each example: every inner product of the K output gradients.

    tr G = |J|_F^2, and the eigenvalues of G are the squared singular values of J. A norm of A J for a small
    A J loses digits when it is taken from A G A^T: use `jacobian_norms` for the softmax.

    Arguments, errors and cost are those of `input_jacobian_norm`; returns (n, K, K) in the dtype of `xs`.
    """
    model, num_outputs = bind(f, params, xs)

    def gram(x: Array) -> Array:
        _, jacobian = pull_back(model, x, jnp.eye(num_outputs))
        return jnp.matmul(jacobian, jacobian.T, precision=jax.lax.Precision.HIGHEST)

    return carry_nan(map_examples_unrolled(gram, xs, batch_size), params, examples=xs)


def jacobian_norms(
    f: Function, params: Params, xs: Float[Array, "n *shape"], *, batch_size: int | None = None
) -> JacobianNorms:
    """|J|_F before the softmax and |A J|_F after it, A = diag(p) - p p^T, from one set of passes.

    `before_softmax` is `input_jacobian_norm` of f. `after_softmax` is that of softmax(f)
    (E; A Table 1 compares the two) and keeps its digits where that one cannot: with 1 - p near 1e-6 the
    derivative of a float32 softmax is mostly rounding.

    Arguments, errors and cost are those of `input_jacobian_norm`; returns two arrays of n norms.
    """
    model, num_outputs = bind(f, params, xs)

    def norms(x: Array) -> JacobianNorms:
        logits, jacobian = pull_back(model, x, jnp.eye(num_outputs))
        return JacobianNorms(frobenius_norm(jacobian), frobenius_norm(through_softmax(logits, jacobian)))

    return carry_nan(map_examples_unrolled(norms, xs, batch_size), params, examples=xs)


def input_jvp(
    f: Function, params: Params, x: Float[Array, "*shape"], v: Float[Array, "*shape"]
) -> Float[Array, " K"]:
    """J(x) v: the derivative of f at ONE example x in the direction v, which is not normalised.

    `x` and `v` share shape and dtype; returns (K,) in that dtype. Raises InputError where they do not, and
    as `input_jacobian_norm` does. Cost: one forward-mode pass.
    """
    if x.shape != v.shape or x.dtype != v.dtype:
        raise refuse(
            f"x of {x.shape} {x.dtype} and v of {v.shape} {v.dtype}",
            "one shape and one dtype",
            "reshape or cast v to match the single example x",
        )
    model, _ = bind(f, params, x[None])
    return carry_nan(jax.jvp(model, (x,), (v,))[1], params, x, v)


def pull_back(
    model: Callable[[Array], Array], x: Float[Array, "*shape"], cotangents: Float[Array, "C K"]
) -> tuple[Float[Array, " K"], Float[Array, "C D"]]:
    """The outputs at x, and one row `cotangent @ J` per cotangent, by as many reverse passes."""
    outputs, transposed = jax.vjp(model, x)
    (rows,) = jax.vmap(transposed)(cotangents.astype(outputs.dtype))
    return outputs, rows.reshape(rows.shape[0], -1)


def through_softmax(logits: Float[Array, " K"], jacobian: Float[Array, "K D"]) -> Float[Array, "K D"]:
    """A J with A = diag(p) - p p^T, row k being p_k (J_k - sum_j p_j J_j).

    A maps a shift common to all rows to 0, so the row of the likeliest class c is taken off first. Row c
    then loses nothing to cancellation when p_c is near 1, and no other row can, for p_k <= 1/2.
    """
    p = jax.nn.softmax(logits)
    shifted = jacobian - jacobian[jnp.argmax(logits)]
    return p[:, None] * (shifted - jnp.matmul(p, shifted, precision=jax.lax.Precision.HIGHEST))
