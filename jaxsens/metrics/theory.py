"""What A predicts for random ReLU-like networks: variance, loss, sensitivity (section 4.2, Appendices B, D).

The network has M = len(widths) hidden layers of H_1 ... H_M units between D inputs and K outputs, hence M + 1
layers of weights; layer M + 1 is the output layer. Parameters are independent, of zero mean and symmetric.
The activation is positive homogeneous, a(p) = alpha p above 0 and beta p below (A eq. 11); ReLU has alpha = 1
and beta = 0. Second moments sigma^2 are of one entry: of a weight, a bias, the input or its noise.

Arguments are Python numbers or arrays. With Python numbers the result is a Python number of double precision;
float32 arrays of moments overflow to infinity in deep networks, as the sensitivity itself does, and products
of small ones underflow to 0.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsens.checks import (
    carry_nan,
    check_at_least,
    check_choice,
    check_positive,
    check_real,
    is_concrete,
    refuse,
)
from jaxsens.metrics._batching import wide
from jaxsens.metrics.bias_variance import check_stack

__all__ = [
    "bias_term",
    "logit_variance",
    "mlp_sensitivity_at_init",
    "predicted_logit_variance",
    "predicted_loss",
    "predicted_variance",
]

Number: TypeAlias = float | int | np.floating | Float[Array | np.ndarray, "..."]
"""A Python number, or an array of them."""


def predicted_logit_variance(
    sensitivity: Number, input_second_moment: Number, *, noise_std: Number, bias_term: Number = 0.0
) -> Number:
    """var = S sigma_x^2 / sigma_eps^2 + Sigma (A eq. 14), what `logit_variance` measures.

    Exact for the random networks of this module when S is the linearised sensitivity averaged over them.

    Args:
        sensitivity: S, of `average="mean"`.
        input_second_moment: sigma_x^2 = E[(x^d)^2], of the data in use: A's 0.2648 is not that of CIFAR-10.
        noise_std: sigma_eps, with which S was measured (its square enters).
        bias_term: Sigma, see `bias_term`.

    Returns:
        var, of the arguments' broadcast shape.

    Raises:
        InputError: for a negative or non-finite argument, or `noise_std` not above 0.
    """
    check_moment("sensitivity", sensitivity)
    check_moment("input_second_moment", input_second_moment)
    check_moment("bias_term", bias_term)
    check_positive("noise_std", noise_std)
    sensitivity, input_second_moment, noise_std, bias_term = map(
        wide, (sensitivity, input_second_moment, noise_std, bias_term)
    )
    # The roots, and their ratio, are in range wherever the variance is.
    root = sensitivity**0.5 * input_second_moment**0.5 / noise_std
    return carry_nan(root * root + bias_term, sensitivity, input_second_moment, noise_std)


def predicted_variance(
    sensitivity: Number,
    input_second_moment: Number,
    *,
    noise_std: Number,
    num_outputs: int,
    bias_term: Number = 0.0,
) -> Number:
    """eps_variance = ((K - 1) / K) (S sigma_x^2 / sigma_eps^2 + Sigma) (A eq. 7), after the softmax.

    The softmax is linearised at equal logits. Other arguments and errors are those of
    `predicted_logit_variance`; `num_outputs` is K.
    """
    check_at_least("num_outputs", num_outputs, 1)
    logit_variance = predicted_logit_variance(
        sensitivity, input_second_moment, noise_std=noise_std, bias_term=bias_term
    )
    return (num_outputs - 1) / num_outputs * logit_variance


def predicted_loss(
    sensitivity: Number,
    input_second_moment: Number,
    *,
    noise_std: Number,
    num_outputs: int,
    bias_term: Number = 0.0,
) -> Number:
    """L = sqrt(eps_variance / 2) (A eq. 9): the cross-entropy loss where the bias is negligible.

    `eps_variance` is `predicted_variance` of the same arguments, which has the same errors.
    """
    variance = predicted_variance(
        sensitivity, input_second_moment, noise_std=noise_std, num_outputs=num_outputs, bias_term=bias_term
    )
    return (variance / 2) ** 0.5


def bias_term(
    weight_moments: Sequence[Number] | Float[Array | np.ndarray, " layers"],
    bias_moments: Sequence[Number] | Float[Array | np.ndarray, " layers"],
    widths: Sequence[int],
    num_outputs: int,
    *,
    alpha: Number = 1.0,
    beta: Number = 0.0,
    variant: str = "derivation",
) -> Number:
    """Sigma, the biases' part of the output variance (A eq. 8, Appendix B), with c = (alpha^2 + beta^2) / 2:

        "derivation"  (1/K) sum_{l=1}^{M+1} sigma_b_l^2 prod_{i=l}^{M} c sigma_w_{i+1}^2 H_i
        "as_printed"  (1/K) sum_{l=1}^{M}   sigma_b_l^2 prod_{i=l+1}^{M} c sigma_w_i^2 H_i

    The printed eq. 8 does not follow from Appendix B, which works out M = 1: it has no output bias, and a
    hidden bias reaches the output without the layer in between. The derivation is exact for the random
    networks of this module.

    Args:
        weight_moments: sigma_w_1^2 ... sigma_w_{M+1}^2, input to output.
        bias_moments: sigma_b_1^2 ... sigma_b_{M+1}^2.
        widths: H_1 ... H_M; for convolutions A takes the fan-in.
        num_outputs: K.
        alpha: slope of the activation above 0.
        beta: slope of the activation below 0.
        variant: "derivation" or "as_printed".

    Returns:
        Sigma, a scalar.

    Raises:
        InputError: for lengths that do not chain, a negative or non-finite moment, a width or `num_outputs`
            below 1, or an unknown `variant`.
    """
    check_choice("variant", variant, BIAS_TERMS)
    check_layers(widths, num_outputs, {"weight_moments": weight_moments, "bias_moments": bias_moments})
    weight_moments, bias_moments = [*map(wide, weight_moments)], [*map(wide, bias_moments)]
    total = BIAS_TERMS[variant](weight_moments, bias_moments, widths, half_slopes(alpha, beta))
    return carry_nan(total / num_outputs, weight_moments, bias_moments, alpha, beta)


def mlp_sensitivity_at_init(
    input_dim: int,
    num_outputs: int,
    widths: Sequence[int],
    noise_std: Number,
    *,
    weight_moments: Sequence[Number] | Float[Array | np.ndarray, " layers"] | None = None,
    alpha: Number = 1.0,
    beta: Number = 0.0,
) -> Number:
    """S = (D/K) sigma_eps^2 sigma_w_1^2 prod_{l=1}^{M} c sigma_w_{l+1}^2 H_l, c = (alpha^2 + beta^2) / 2.

    A eq. 12 for any depth and any widths; A eq. 10, (D/K) (H/2)^M sigma_eps^2, is the case of ReLU, one width
    and standard normal weights. It is the expectation over random networks of the linearised S of
    `average="mean"`, whatever the inputs and the biases.

    Args:
        input_dim: D.
        num_outputs: K.
        widths: H_1 ... H_M of the hidden layers; empty for a linear network.
        noise_std: sigma_eps.
        weight_moments: sigma_w_1^2 ... sigma_w_{M+1}^2, input to output; None for standard normal weights.
        alpha: slope of the activation above 0.
        beta: slope of the activation below 0.

    Returns:
        S, a scalar.

    Raises:
        InputError: for lengths that do not chain, a negative or non-finite moment, a size below 1, or
            `noise_std` not above 0.
    """
    moments = [1.0] * (len(widths) + 1) if weight_moments is None else weight_moments
    check_at_least("input_dim", input_dim, 1)
    check_positive("noise_std", noise_std)
    check_layers(widths, num_outputs, {"weight_moments": moments})
    moments, noise_std = [*map(wide, moments)], wide(noise_std)
    gains = layer_gains(moments, widths, half_slopes(alpha, beta))
    first = input_dim / num_outputs * noise_std * noise_std * moments[0]
    return carry_nan(first * math.prod(gains), noise_std, moments, alpha, beta)


def logit_variance(outputs: Float[Array, "members n K"], *, unbiased: bool = False) -> Float[Array, ""]:
    """var = E_x Var_theta[(1/K) sum_k f_theta^k(x)] (A eq. 13), the variance that A eq. 14 predicts.

    Args:
        outputs: logits of each member on n examples, float32 or float64.
        unbiased: ddof 1 over the members in place of ddof 0, which is too small by a factor
            (members - 1) / members.

    Returns:
        A scalar in the dtype of `outputs`.

    Raises:
        InputError: for another rank or dtype, fewer than 2 members, or a NaN or infinity.
    """
    check_stack("outputs", outputs, ("members", "n", "K"), {"members": 2})
    return jnp.mean(jnp.var(jnp.mean(outputs, axis=-1), axis=0, ddof=int(unbiased)))


def half_slopes(alpha: Number, beta: Number) -> Number:
    """E[a(p)^2] / E[p^2] = (alpha^2 + beta^2) / 2 for a symmetric p."""
    alpha, beta = wide(alpha), wide(beta)
    # Not alpha**2, with which Python's floats raise an error where they overflow.
    return (alpha * alpha + beta * beta) / 2


def layer_gains(weight_moments: Any, widths: Sequence[int], c: Number) -> list[Number]:
    """c sigma_w_{i+1}^2 H_i for i = 1 ... M: what hidden layer i passes on of a second moment before it."""
    return [c * w * h for w, h in zip(weight_moments[1:], widths, strict=True)]


def derived_bias_sum(weight_moments: Any, bias_moments: Any, widths: Sequence[int], c: Number) -> Number:
    """K Sigma as A Appendix B derives it: every bias passes all the hidden layers after its own weights."""
    gains = layer_gains(weight_moments, widths, c)
    return sum(b * math.prod(gains[i:]) for i, b in enumerate(bias_moments))


def printed_bias_sum(weight_moments: Any, bias_moments: Any, widths: Sequence[int], c: Number) -> Number:
    """K Sigma as A eq. 8 prints it."""
    gains = [c * w * h for w, h in zip(weight_moments[:-1], widths, strict=True)]
    return sum(b * math.prod(gains[i + 1 :]) for i, b in enumerate(bias_moments[:-1]))


BIAS_TERMS = {"derivation": derived_bias_sum, "as_printed": printed_bias_sum}


def check_moment(name: str, value: Number) -> None:
    """Refuses a second moment that is negative or not finite (concrete values only)."""
    check_real(name, value)
    if is_concrete(value) and not (np.all(np.isfinite(value)) and np.all(np.asarray(value) >= 0)):
        raise refuse(
            f"{name}={value}", f"a finite {name} >= 0", "pass a mean square; drop members that diverged"
        )


def check_layers(widths: Sequence[int], num_outputs: int, moments: dict[str, Any]) -> None:
    """Refuses sizes below 1, moments that are none, and other than one moment for each of M + 1 layers."""
    check_at_least("num_outputs", num_outputs, 1)
    for i, width in enumerate(widths):
        check_at_least(f"widths[{i}]", width, 1)
    for name, values in moments.items():
        if np.ndim(values) == 0:
            raise refuse(f"{name}={values}", "one moment per layer", "pass a list of them")
        if len(values) != len(widths) + 1:
            raise refuse(
                f"{len(values)} {name} for {len(widths)} widths",
                f"{len(widths) + 1}, one per layer, the output layer included",
                "give M hidden widths and M + 1 moments",
            )
        for i, value in enumerate(values):
            check_moment(f"{name}[{i}]", value)
