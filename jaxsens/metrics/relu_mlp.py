"""Tangent sensitivity of a ReLU perceptron in closed form."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxsens.checks import carry_nan, check_choice
from jaxsens.metrics._batching import map_examples
from jaxsens.metrics._norms import frobenius_norm
from jaxsens.metrics._site_norms import right_factor
from jaxsens.metrics.activations import check_inputs, check_perceptron, mlp_preactivations

__all__ = ["OUTPUTS", "relu_mlp_tangent_sensitivity"]

OUTPUTS = ("sum", "all")
_HIGHEST = lax.Precision.HIGHEST


def relu_mlp_tangent_sensitivity(
    weights: Sequence[Float[Array, "_ _"]],
    biases: Sequence[Float[Array, " _"]] | None,
    xs: Float[Array, "n *shape"],
    *,
    outputs: str = "sum",
    batch_size: int | None = 64,
) -> Float[Array, " n"]:
    """|Sens(x)|_F^2 = |d2f/dtheta dx|_F^2 of each example (B Definition 3.1, C Definition 1), exact.

    With J_l = dh_l/dx, J_0 = I, and B_l = df/dz_l at the results z_l = h_{l-1} W_l + b_l of layer l = 1..k,

        |Sens(x)|_F^2 = sum_l |B_l|_F^2 |J_{l-1}|_F^2,

    since d(df/dW_l)/dx = J_{l-1} (x) B_l while the pattern of active units does not change; rows of biases
    are 0. With W_1 = Q R, J_l = Q T_l and |J_l|_F = |T_l|_F, where T_1 = R D_1, T_l = T_{l-1} W_l D_l and D_l
    are the active units: R is found once, and nothing of the input's size is multiplied again.

    Args:
        weights: W_1 ... W_k, input to output, of shapes (in, out).
        biases: b_1 ... b_k, or None for none. They only decide which units are active.
        xs: n examples, flattened to D entries.
        outputs: "sum" of the K outputs (B, C), or "all": the whole (K, parameters, D) tensor.
        batch_size: examples at once; None takes all.

    Returns:
        n squared norms, in the dtype of `xs`. A unit of exactly 0 counts as inactive, as in `jax.nn.relu`.
        NaN for an example whose preactivations overflow.

    Raises:
        InputError: for shapes that do not chain, no examples, another dtype than float32 or float64, a NaN
            or infinity, or an unknown `outputs`.

    Cost: a QR of W_1 once; k - 2 products of min(D, H_1) x H_{l-1} and H_{l-1} x H_l matrices per example.
    Its derivative is exact; a second derivative is refused. vmaps over perceptrons.
    """
    check_choice("outputs", outputs, OUTPUTS)
    check_perceptron(weights, biases)
    check_inputs(weights, xs)
    factor = right_factor(weights[0])
    num_outputs = weights[-1].shape[1]
    identity = jnp.eye(num_outputs, dtype=xs.dtype)
    seeds = jnp.sum(identity, axis=0, keepdims=True) if outputs == "sum" else identity

    def norm(x: Array) -> Array:
        preactivations = [h[0] for h in mlp_preactivations(weights, biases, x[None])]
        active = [h > 0 for h in preactivations]
        # |J_0| ... |J_{k-1}|, forward, and |B_k| ... |B_1|, backward: their squares may leave the range.
        forward, tangent = [jnp.asarray(x.size**0.5, xs.dtype)], factor
        for layer, on in enumerate(active):
            if layer:
                tangent = jnp.matmul(tangent, weights[layer], precision=_HIGHEST)
            tangent = jnp.where(on, tangent, 0)
            forward.append(frobenius_norm(tangent))
        backward, cotangent = [frobenius_norm(seeds)], seeds
        for weight, on in zip(weights[:0:-1], active[::-1], strict=True):
            cotangent = jnp.where(on, jnp.matmul(cotangent, weight.T, precision=_HIGHEST), 0)
            backward.append(frobenius_norm(cotangent))
        norms = jnp.stack(forward) * jnp.stack(backward[::-1])
        in_range = jnp.all(jnp.isfinite(jnp.concatenate([jnp.zeros(1, xs.dtype), *preactivations])))
        return jnp.where(in_range, jnp.sum(norms**2), jnp.nan)

    return carry_nan(map_examples(norm, xs, batch_size), weights, biases, examples=xs)
