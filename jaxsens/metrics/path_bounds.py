"""Upper bounds on the tangent sensitivity |d2f / dtheta dx|_F^2 of ReLU perceptrons, by counting paths (C).

An entry of Sens is a sum over the active paths from one input through one weight to any output of the
product of the k - 1 other weights on the path (C section 3.2, Appendix A). A bound multiplies the number
N_theta d_in of entries, the squared number of paths and the squared largest product. Biases change which
paths are active, not what a path is, and have zero rows in Sens almost everywhere, so the bounds hold with
biases as without. `weights` are matrices (in, out), input to output; k = len(weights), N_theta counts their
entries.

The bounds leave the range of float32 in moderate networks: all results are natural logarithms.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from jaxsens.checks import (
    carry_nan,
    check_at_least,
    check_choice,
    check_examples,
    check_real,
    is_concrete,
    refuse,
)
from jaxsens.metrics._batching import check_floating, map_examples, wide
from jaxsens.metrics.activations import check_pattern, check_perceptron

__all__ = [
    "log_active_path_bound",
    "log_normal_absolute_moment",
    "log_psi_star",
    "log_region_bound",
    "log_tangent_norm_bound",
]

Number: TypeAlias = float | int | np.number | Num[Array | np.ndarray, "..."]
"""A Python number, or an array of them."""

VARIANTS = ("corrected", "as_printed")
PATTERNS_AT_ONCE = 64


def log_tangent_norm_bound(
    weights: Sequence[Float[Array, "_ _"]], input_dim: int | None = None
) -> Float[Array, ""]:
    """log of N_theta d_in (N-hat^{k-1} prod_i wmax_i / min_i wmax_i)^2 >= |Sens(x)|_F^2 (C Theorem 1, eq. 1).

    wmax_i = max |W_i|, N-hat = max_i N_i over the layers 1 ... k, the outputs included. It holds at every x
    where f is differentiable, for biases too, and for the sum of K outputs: the paths through a weight,
    to whichever output, are at most N-hat^{k-1}. C states it for one output and no biases.

    Args:
        weights: k matrices (in, out), input to output.
        input_dim: d_in; None takes the rows of the first matrix, which it must equal.

    Returns:
        A scalar. The smallest wmax_i is left out of the product, not divided by: one zero layer leaves the
        bound finite, two make it -inf.

    Raises:
        InputError: for matrices that do not chain, another dtype than float32 or float64, a NaN or infinity,
            or an `input_dim` that is not the first matrix's.
    """
    check_perceptron(weights)
    if input_dim not in (None, weights[0].shape[0]):
        raise refuse(
            f"input_dim={input_dim} for weights[0] of shape {weights[0].shape}",
            f"input_dim={weights[0].shape[0]}",
            "leave input_dim out, or pass (in, out) matrices",
        )
    largest = jnp.sort(jnp.stack([jnp.max(jnp.abs(w)) for w in weights]))
    return carry_nan(log_path_factor(weights) + 2 * jnp.sum(jnp.log(largest[1:])), weights)


def log_active_path_bound(
    num_params: int,
    input_dim: int,
    depth: int,
    mean: Number,
    std: Number,
    w_max: Number,
    *,
    variant: str = "corrected",
    num_outputs: int = 1,
) -> Float[Array, "..."]:
    """log of a bound on E_x |Sens(x)|_F^2 where T(x) active units are N(mean, std^2) (C Theorem 2).

    With k = depth, p = k - 1 hidden layers, N = `num_params` and w = `w_max`:

        "corrected"   K^2 N d_in w^{2p} E[T^{2p}] / p^{2p}
        "as_printed"      N d_in w^{2p} E[|T|^p]^2 / k^{2k}    which is C eq. 2

    The active paths from one input to one output are prod_l n_l <= (T/p)^p over the p hidden layers, and
    |Sens|^2 holds their square. The printed bound spreads T over k layers, puts the p-th moment over the
    k-th power of k, and takes E[.]^2 for E[.^2], which is larger. It is violated: k = 2, two hidden units,
    4 inputs and all weights 1 give |Sens|^2 = 16 and eq. 2 gives 10. The corrected bound also holds
    pointwise, with mean = T(x) and std = 0; for one hidden layer only E[T^2] enters, so it holds for T of
    any distribution.

    Args:
        num_params: N_theta, at least the number of weights; biases need not be counted.
        input_dim: d_in.
        depth: k, the layers of weights: hidden layers plus 1.
        mean: mean of T(x), see `active_counts`.
        std: standard deviation of T(x); 0 for a constant T.
        w_max: largest |w| in the network.
        variant: "corrected" or "as_printed".
        num_outputs: K, when Sens is of the sum of K outputs; C eq. 2 has one output.

    Returns:
        An array of the broadcast shape of `mean`, `std` and `w_max`; -inf where the bound is 0.

    Raises:
        InputError: for a whole number below 1, a negative or non-finite `std` or `w_max`, a non-finite
            `mean`, an unknown variant, or "as_printed" with several outputs.
    """
    check_choice("variant", variant, VARIANTS)
    sizes = {"num_params": num_params, "input_dim": input_dim, "depth": depth, "num_outputs": num_outputs}
    for name, size in sizes.items():
        check_at_least(name, size, 1)
    check_nonnegative("w_max", w_max)
    if variant == "as_printed" and num_outputs != 1:
        raise refuse(
            f"variant='as_printed' with num_outputs={num_outputs}",
            "one output, as C eq. 2 has",
            "use variant='corrected', or leave num_outputs out",
        )
    hidden = depth - 1
    if variant == "corrected":
        paths = log_normal_absolute_moment(mean, std, 2 * hidden) - 2 * hidden * math.log(max(hidden, 1))
    else:
        paths = 2 * log_normal_absolute_moment(mean, std, hidden) - 2 * depth * math.log(depth)
    entries = math.log(num_params) + math.log(input_dim) + 2 * math.log(num_outputs)
    return carry_nan(entries + paths + log_power(w_max, 2 * hidden), w_max)


def log_psi_star(depth: int, mean: Number, std: Number) -> Float[Array, "..."]:
    """log psi* = log(std^{2(k-1)} 1F1(-(k-1)/2, 1/2, -mean^2 / (2 std^2))^2) (C eq. 7).

    Taken from E|T|^{k-1} = std^{k-1} 2^{(k-1)/2} Gamma(k/2) / sqrt(pi) 1F1(...), so that std = 0 has its
    limit. 1F1 has the rising factorial a (a+1) ... (a+n-1), which B and C both misprint.

    Args:
        depth: k, hidden layers plus 1.
        mean: mean of the number T(x) of active units.
        std: its standard deviation.

    Returns:
        An array of the broadcast shape of `mean` and `std`.

    Raises:
        InputError: for a `depth` below 1, a negative or non-finite `std`, or a non-finite `mean`.
    """
    check_at_least("depth", depth, 1)
    constant = (math.log(math.pi) - (depth - 1) * math.log(2)) / 2 - math.lgamma(depth / 2)
    return 2 * (log_normal_absolute_moment(mean, std, depth - 1) + constant)


def log_region_bound(
    weights: Sequence[Float[Array, "_ _"]],
    patterns: Bool[Array, "n N"],
    *,
    log_probabilities: Float[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """log of sum_A N_theta d_in N-hat^{2(k-1)} w_A^{2(k-1)} P(A) >= E_x |Sens(x)|_F^2 (C eq. 4).

    w_A is the largest |w| between active units, inputs and outputs counting as active: the edges on A's
    active paths. A pattern with a layer without active units has no path, w_A = 0. C asks for non-zero
    weights along a path too, which can but lower w_A. Like eq. 1 it holds with biases and for the sum of K
    outputs.

    Args:
        weights: k matrices (in, out), input to output.
        patterns: one row per pattern, as `activation_pattern` makes them, True at active units; N is 0 for
            k = 1, where w_A^0 = 1.
        log_probabilities: log P(A) of each row, rows of one pattern sharing its P(A) between them; None gives
            each row 1/n, so that rows of n examples count each pattern by its relative frequency.

    Returns:
        A scalar, -inf where the bound is 0.

    Raises:
        InputError: for bad weights, as in `log_tangent_norm_bound`, patterns that are none, not boolean or
            not of these hidden layers, or log-probabilities of another shape, NaN or above 0.
    """
    check_perceptron(weights)
    check_examples(patterns, name="patterns")
    num_patterns, units = patterns.shape[0], sum(w.shape[1] for w in weights[:-1])
    check_pattern("patterns", patterns, (num_patterns, units))
    if log_probabilities is None:
        shares = -math.log(num_patterns)
    else:
        check_log_probabilities(log_probabilities, num_patterns)
        shares = log_probabilities
    largest = largest_active_weights(weights, patterns)
    logs = log_power(largest, 2 * (len(weights) - 1)) + shares
    # -inf is the logarithm of a probability of 0.
    finite = jnp.where(jnp.asarray(shares) == -jnp.inf, 0, shares)
    return carry_nan(log_path_factor(weights) + jax.nn.logsumexp(logs), weights, finite)


def log_normal_absolute_moment(mean: Number, std: Number, power: int) -> Float[Array, "..."]:
    """log E|T|^p for T ~ N(mean, std^2) and a whole number p.

    With a = |mean| and m_p = E[T^p] for even p, E[T^p sign T] for odd p, Stein's lemma gives
    m_p = a m_{p-1} + (p - 1) std^2 m_{p-2}, where each of the two series goes on through all p. Both start
    non-negative: m_0 = 1, m_1 = a, and m_0 = erf(z), m_1 = a erf(z) + std sqrt(2/pi) exp(-z^2) with
    z = a / (std sqrt 2). Every term is positive, so nothing cancels.

    Args:
        mean: mean of T.
        std: standard deviation of T; 0 for a constant T.
        power: p >= 0.

    Returns:
        An array of the broadcast shape of `mean` and `std`; -inf for T = 0 and p > 0.

    Raises:
        InputError: for a non-finite `mean`, a negative or non-finite `std`, or a `power` below 0.
    """
    check_at_least("power", power, 0)
    check_nonnegative("std", std)
    check_real("mean", mean)
    if is_concrete(mean) and not np.all(np.isfinite(mean)):
        raise refuse(f"mean={mean}", "a finite mean", "drop members that diverged")
    # No narrower than float32: a logarithm of a large moment has digits before the point.
    a, s = jnp.broadcast_arrays(jnp.abs(jnp.asarray(wide(mean)) * 1.0), jnp.asarray(wide(std)) * 1.0)
    log_a, log_s = jnp.log(a), jnp.log(s)

    def step(i: Any, moments: tuple[Array, Array]) -> tuple[Array, Array]:
        last, current = moments
        factor = jnp.log(jnp.asarray(i + 1, log_a.dtype))
        return current, jnp.logaddexp(log_a + current, factor + 2 * log_s + last)

    start = signed_start(a, s) if power % 2 else (jnp.zeros_like(log_a), log_a)
    return carry_nan(jax.lax.fori_loop(0, power, step, start)[0], mean, std)


def signed_start(a: Float[Array, "..."], s: Float[Array, "..."]) -> tuple[Array, Array]:
    """log E[sign T] and log E|T| for T ~ N(a, s^2), a >= 0; the limit a/s -> infinity where s = 0."""
    z = jnp.where(s > 0, a / jnp.where(s > 0, s, 1), jnp.inf) / math.sqrt(2)
    sign = jnp.log(jax.scipy.special.erf(z))
    return sign, jnp.logaddexp(jnp.log(a) + sign, jnp.log(s) + math.log(2 / math.pi) / 2 - z**2)


def log_path_factor(weights: Sequence[Array]) -> float:
    """log(N_theta d_in N-hat^{2(k-1)}), which the shapes alone give."""
    widest = max(w.shape[1] for w in weights)
    entries = math.log(sum(w.size for w in weights)) + math.log(weights[0].shape[0])
    return entries + 2 * (len(weights) - 1) * math.log(widest)


def log_power(base: Number, exponent: int) -> Array:
    """log(base^exponent), 0 for exponent 0 whatever the base."""
    base = jnp.asarray(wide(base)) * 1.0
    return exponent * jnp.log(base) if exponent else jnp.zeros_like(base)


def largest_active_weights(weights: Sequence[Array], patterns: Bool[Array, "n N"]) -> Float[Array, " n"]:
    """w_A of each pattern: max |w| over edges between active units, 0 where a layer has none."""
    magnitudes = [jnp.abs(w) for w in weights]
    magnitudes[0] = jnp.max(magnitudes[0], axis=0, keepdims=True)
    magnitudes[-1] = jnp.max(magnitudes[-1], axis=1, keepdims=True)
    ends = np.cumsum([w.shape[1] for w in weights[:-1]])[:-1]
    always = jnp.ones(1, bool)

    def largest(pattern: Array) -> Array:
        hidden = jnp.split(pattern, ends) if pattern.size else []
        gates = [always, *hidden, always]
        kept = [
            jnp.max(jnp.where(before[:, None] & after, magnitude, 0))
            for magnitude, (before, after) in zip(magnitudes, pairwise(gates), strict=True)
        ]
        connected = jnp.all(jnp.stack([jnp.any(gate) for gate in gates]))
        return jnp.where(connected, jnp.max(jnp.stack(kept)), 0)

    return map_examples(largest, patterns, PATTERNS_AT_ONCE)


def check_nonnegative(name: str, value: Any) -> None:
    """Refuses a number that is not finite or below 0 (concrete values only)."""
    check_real(name, value)
    if is_concrete(value) and not (np.all(np.isfinite(value)) and np.all(np.asarray(value) >= 0)):
        raise refuse(f"{name}={value}", f"a finite {name} >= 0", f"pass {name} itself, not its logarithm")


def check_log_probabilities(values: Any, num_patterns: int) -> None:
    """Refuses anything but one logarithm of a probability per pattern; -inf is one of 0."""
    name = "log_probabilities"
    if values.shape != (num_patterns,):
        raise refuse(f"{name} of shape {values.shape}", f"shape ({num_patterns},)", "pass one per pattern")
    check_floating(name, values)
    # A sum of probabilities that is 1 but for rounding has a logarithm just above 0.
    if is_concrete(values) and not np.all(np.asarray(values) <= 1e-4):
        raise refuse(
            f"{name} up to {np.asarray(values).max()}",
            "logarithms <= 0",
            "pass natural logs of probabilities",
        )
