"""Decompositions of an ensemble's mean square error and of its variance (A section 4.2)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsens.checks import check_finite, refuse
from jaxsens.metrics._batching import check_floating

__all__ = ["BiasVariance", "VarianceParts", "bias_variance", "decompose_variance"]


class BiasVariance(NamedTuple):
    """L_MSE, eps_bias and eps_variance (A eqs. 4-6): three scalars, the first the sum of the others."""

    loss: Float[Array, ""]
    bias: Float[Array, ""]
    variance: Float[Array, ""]


class VarianceParts(NamedTuple):
    """A variance and its two parts: three scalars, the first the sum of the others."""

    total: Float[Array, ""]
    between_data: Float[Array, ""]
    within_data: Float[Array, ""]


def bias_variance(
    predictions: Float[Array, "members n K"], targets: Float[Array, "n K"], *, unbiased: bool = False
) -> BiasVariance:
    """L = E_m E_x |F_m - y|^2 = eps_bias + eps_variance (A eqs. 4-6), with noiseless targets:

        eps_bias     = E_x |E_m F_m - y|^2
        eps_variance = sum_k E_x Var_m[F_m^k]

    Args:
        predictions: outputs of each member on n examples, after the softmax in A; float32 or float64.
        targets: one-hot labels, or the values to regress on.
        unbiased: False takes the members as the whole population (ddof 0). True takes them as a sample: the
            variance has ddof 1, and the bias loses variance / members, by which the noise of the mean
            prediction raises it; it can then come out below 0. The loss is one and the same.

    Returns:
        Three scalars; loss == bias + variance to rounding, either way.

    Raises:
        InputError: for other ranks, shapes that do not match, fewer than 2 members, another dtype, or a NaN
            or infinity.
    """
    check_stack("predictions", predictions, ("members", "n", "K"), {"members": 2})
    if targets.shape != predictions.shape[1:]:
        raise refuse(
            f"targets of shape {targets.shape}",
            f"shape {predictions.shape[1:]}, that of one member's predictions",
            "turn integer labels into rows with jax.nn.one_hot",
        )
    check_floating("targets", targets)
    check_finite("targets", targets)

    members = predictions.shape[0]
    loss = jnp.mean(jnp.sum((predictions - targets) ** 2, axis=-1))
    bias = jnp.mean(jnp.sum((jnp.mean(predictions, axis=0) - targets) ** 2, axis=-1))
    variance = jnp.mean(jnp.sum(jnp.var(predictions, axis=0), axis=-1))
    if not unbiased:
        return BiasVariance(loss, bias, variance)
    # variance / (members - 1) is the ddof-1 variance over the number of members.
    excess = variance / (members - 1)
    return BiasVariance(loss, bias - excess, variance + excess)


def decompose_variance(predictions: Float[Array, "draws inits n K"]) -> VarianceParts:
    """Var[F] = Var_draw[E_init F] + E_draw[Var_init F], summed over outputs and averaged over x.

    The law of total variance, all variances of ddof 0: A's variance term (eq. 6) split into what the draw of
    the training data causes and what the initialisation (and the order of the batches) causes at fixed data.
    As an estimate for a population the first part is too large by within / inits, before the usual
    (draws - 1) / draws.

    Args:
        predictions: outputs on n examples for each draw of training data and each initialisation; float32
            or float64.

    Returns:
        Three scalars; total == between_data + within_data to rounding.

    Raises:
        InputError: for another rank or dtype, fewer than 2 draws or initialisations, or a NaN or infinity.
    """
    check_stack("predictions", predictions, ("draws", "inits", "n", "K"), {"draws": 2, "inits": 2})

    def over_examples(variances: Array) -> Array:
        return jnp.mean(jnp.sum(variances, axis=-1))

    total = over_examples(jnp.var(predictions, axis=(0, 1)))
    between = over_examples(jnp.var(jnp.mean(predictions, axis=1), axis=0))
    within = over_examples(jnp.mean(jnp.var(predictions, axis=1), axis=0))
    return VarianceParts(total, between, within)


def check_stack(name: str, stack: Array, axes: tuple[str, ...], least: dict[str, int]) -> None:
    """Refuses another rank, an axis shorter than its least length (1 unless said), dtype, NaN or infinity."""
    if stack.ndim != len(axes):
        raise refuse(f"{name} of shape {stack.shape}", f"axes ({', '.join(axes)})", "stack the members first")
    for axis, length in zip(axes, stack.shape, strict=True):
        if length < least.get(axis, 1):
            raise refuse(
                f"{length} {axis} in {name}",
                f"at least {least.get(axis, 1)}",
                f"pass more {axis}: a variance needs 2, a mean 1",
            )
    check_floating(name, stack)
    check_finite(name, stack)
