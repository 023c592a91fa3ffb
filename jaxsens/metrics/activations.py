"""Which units of a ReLU perceptron an input switches on, and what that says of its tangent sensitivity (C).

A perceptron is `weights`, matrices (in, out) from input to output, and `biases`, one vector per matrix or
None: z_l = h_{l-1} W_l + b_l, h_l = max(z_l, 0), k = len(weights) layers, of which k - 1 are hidden. A unit
is active where its preactivation is above 0, which is where JAX's ReLU has derivative 1. Preactivations are
a sequence over the L hidden layers of (n, H_l); a pattern names all N = H_1 + ... + H_L units, in that
order. A network of another library takes part by handing over its preactivations.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxsens.checks import carry_nan, check_choice, check_examples, check_finite, is_concrete, refuse
from jaxsens.metrics._batching import check_floating, map_examples
from jaxsens.types import PIECEWISE_LINEAR, PiecewiseLinear

__all__ = [
    "ActiveCounts",
    "Margins",
    "activation_pattern",
    "active_counts",
    "empirical_tangent_sensitivity",
    "log_empirical_tangent_sensitivity",
    "log_pattern_probability",
    "margins_per_unit",
    "mlp_preactivations",
]

WEIGHTINGS = ("relative_frequency", "soft")


class ActiveCounts(NamedTuple):
    """Active units of n examples: n_l(x) of each of L hidden layers, and their sum T(x)."""

    per_layer: Int[Array, "n L"]
    total: Int[Array, " n"]


class Margins(NamedTuple):
    """rho and rho-hat of every hidden unit, a tuple over hidden layers of (H_l,) each."""

    absolute: tuple[Float[Array, " _"], ...]
    probabilistic: tuple[Float[Array, " _"], ...]


def mlp_preactivations(
    weights: Sequence[Float[Array, "_ _"]],
    biases: Sequence[Float[Array, " _"]] | None,
    xs: Float[Array, "n *shape"],
    *,
    activation: str = "relu",
) -> tuple[Float[Array, "n _"], ...]:
    """z_l = h_{l-1} W_l + b_l of the hidden layers l = 1 ... k - 1 (C section 3.1), h_0 = x.

    Args:
        weights: k matrices (in, out), input to output.
        biases: k vectors (out,), or None for a biasless perceptron.
        xs: n examples of any shape; their entries are flattened in C order.
        activation: phi in h_l = phi(z_l), a name in `PIECEWISE_LINEAR`.

    Returns:
        k - 1 arrays (n, H_l), none for a perceptron without hidden layers.

    Raises:
        InputError: for shapes that do not chain, no examples, a dtype other than float32 or float64, a NaN
            or infinity, or an unknown activation.
    """
    check_choice("activation", activation, PIECEWISE_LINEAR)
    check_perceptron(weights, biases)
    check_inputs(weights, xs)
    hidden, preactivations = xs.reshape(xs.shape[0], -1), []
    for layer, matrix in enumerate(weights[:-1]):
        z = jnp.matmul(hidden, matrix, precision=jax.lax.Precision.HIGHEST)
        preactivations.append(z if biases is None else z + biases[layer])
        if activation == "relu":
            hidden = jax.nn.relu(preactivations[-1])
        else:
            hidden = piecewise_linear(preactivations[-1], PIECEWISE_LINEAR[activation])
    return carry_nan(tuple(preactivations), weights, biases, examples=xs)


def piecewise_linear(z: Float[Array, "*shape"], activation: PiecewiseLinear) -> Float[Array, "*shape"]:
    """phi(z) = slope z + shift, held between low and high; its derivative at either kink is 0."""
    y = activation.slope * z + activation.shift
    # A clip by minimum and maximum would have half the slope at a kink.
    return jnp.where(y <= activation.low, activation.low, jnp.where(y >= activation.high, activation.high, y))


def active_counts(preactivations: Sequence[Float[Array, "n _"]]) -> ActiveCounts:
    """n_l(x) and T(x) = sum_l n_l(x), the numbers of active hidden units (C section 3.2).

    Returns int32 counts per layer (n, L) and in total (n,); -1 under `jit` where an example's preactivations
    are not finite.

    Raises InputError for no hidden layer, no examples, layers of other than one n, another dtype than float32
    or float64, or a NaN or infinity.
    """
    check_preactivations(preactivations)
    per_layer = jnp.stack([jnp.sum(h > 0, axis=1, dtype=jnp.int32) for h in preactivations], axis=1)
    counts = ActiveCounts(per_layer, jnp.sum(per_layer, axis=1, dtype=jnp.int32))
    return carry_nan(counts, examples=preactivations)


def activation_pattern(preactivations: Sequence[Float[Array, "n _"]]) -> Bool[Array, "n N"]:
    """A(x; theta), True at active units, all hidden layers in one row (C section 3.1 has +1 and -1).

    Arguments and errors are those of `active_counts`; but booleans have no value for a NaN, and under `jit` a
    unit that is NaN is False.
    """
    check_preactivations(preactivations)
    return jnp.concatenate([h > 0 for h in preactivations], axis=1)


def log_pattern_probability(
    preactivations: Sequence[Float[Array, "n _"]], pattern: Bool[Array, "*batch N"]
) -> Float[Array, " n"]:
    """log p(A | x) = sum of log sigmoid(h) over units active in A, log sigmoid(-h) over others (C eq. 5).

    Over all 2^N patterns these probabilities sum to 1, and no pattern is likelier at x than that of x itself.

    Args:
        preactivations: (n, H_l) of each hidden layer.
        pattern: (N,), one pattern for all examples, or (n, N), one for each.

    Returns:
        n logarithms, in the dtype of the preactivations.

    Raises:
        InputError: as `active_counts` does, and for a pattern that is not boolean or of another shape.
    """
    check_preactivations(preactivations)
    h = jnp.concatenate(preactivations, axis=1)
    check_pattern("pattern", pattern, h.shape, h.shape[1:])
    return carry_nan(jnp.sum(jax.nn.log_sigmoid(jnp.where(pattern, h, -h)), axis=1), examples=h)


def margins_per_unit(preactivations: Sequence[Float[Array, "n _"]]) -> Margins:
    """rho_l(X) = min_x |h_l(x)| and rho-hat_l(X) = min_x |sigmoid(h_l(x)) - 1/2| (C section 3.3).

    Arguments and errors are those of `active_counts`. sigmoid(h) - 1/2 = tanh(h / 2) / 2 rises with |h|, so
    rho-hat follows from rho and keeps its digits where sigmoid(h) rounds to 1/2.
    """
    check_preactivations(preactivations)
    absolute = tuple(jnp.min(jnp.abs(h), axis=0) for h in preactivations)
    absolute = carry_nan(absolute, preactivations)
    return Margins(absolute, tuple(jnp.tanh(rho / 2) / 2 for rho in absolute))


def log_empirical_tangent_sensitivity(
    tangent_sensitivities: Float[Array, " n"],
    preactivations: Sequence[Float[Array, "n _"]] | None = None,
    *,
    weighting: str = "relative_frequency",
    batch_size: int | None = None,
) -> Float[Array, ""]:
    """log S-hat(X), S-hat = sum of p(A_i) |Sens(A_i)|_F^2 over observed patterns A_i (C eq. 3, section 3.4).

    Section 3.4 prints the matrix Sens(A_i) there, without a norm; eq. 3, which it refers to, has the norm.

        "relative_frequency"  p(A_i) is the share of examples with pattern A_i. Sens is one matrix in each
                              region (C Lemma 1), so S-hat is the mean over examples.
        "soft"                p(A_i) is the mean over x in X of eq. 5's p(A_i | x). Patterns that X does not
                              show are left out, so these weights sum to less than 1.

    Args:
        tangent_sensitivities: |Sens(x)|_F^2 of n examples.
        preactivations: of the same examples; needed by "soft" alone.
        weighting: "relative_frequency" or "soft".
        batch_size: patterns per chunk of "soft", which compares each with all n examples; None takes all at
            once, in memory of n^2 numbers.

    Returns:
        A scalar, -inf where every |Sens|^2 is 0.

    Raises:
        InputError: for no examples, a negative value, a NaN or infinity, an unknown weighting, "soft" without
            preactivations, or preactivations of other examples.

    Cost of "soft": O(n^2 N). Between regions of hundreds of units p(A_i) underflows float32, its log does
    not.
    """
    check_choice("weighting", weighting, WEIGHTINGS)
    check_sensitivities(tangent_sensitivities)
    logs = jnp.log(tangent_sensitivities)
    if weighting == "soft":
        check_same_examples(tangent_sensitivities, preactivations)
        h = jnp.concatenate(preactivations or (), axis=1)
        total = jax.nn.logsumexp(logs + log_soft_shares(h, batch_size))
    else:
        total = jax.nn.logsumexp(logs) - math.log(len(logs))
    # At the end: XLA on a CPU may make a number of the log of a sum of exp(NaN).
    return carry_nan(total, tangent_sensitivities, preactivations)


def empirical_tangent_sensitivity(
    tangent_sensitivities: Float[Array, " n"],
    preactivations: Sequence[Float[Array, "n _"]] | None = None,
    *,
    weighting: str = "relative_frequency",
    batch_size: int | None = None,
) -> Float[Array, ""]:
    """S-hat(X) (C section 3.4): exp of `log_empirical_tangent_sensitivity`, which says all about it.

    The exponential overflows to infinity, or underflows to 0, where S-hat leaves the range of the dtype.
    """
    return jnp.exp(
        log_empirical_tangent_sensitivity(
            tangent_sensitivities, preactivations, weighting=weighting, batch_size=batch_size
        )
    )


def log_soft_shares(h: Float[Array, "n N"], batch_size: int | None) -> Float[Array, " n"]:
    """log(p(A_i) / m_i) for the pattern A_i of each example i, p of eq. 5 averaged over x.

    m_i examples share A_i, counted exactly: +-1 vectors of N entries are equal where their product is N.
    """
    on, off = jax.nn.log_sigmoid(h), jax.nn.log_sigmoid(-h)
    active = (h > 0).astype(h.dtype)
    signs = 2 * active - 1

    def product(matrix: Array, vector: Array) -> Array:
        return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)

    def share(example: tuple[Array, Array]) -> Array:
        pattern, sign = example
        log_probability = jax.nn.logsumexp(product(on, pattern) + product(off, 1 - pattern)) - math.log(
            len(h)
        )
        multiplicity = jnp.sum(product(signs, sign) == h.shape[1])
        return log_probability - jnp.log(multiplicity.astype(h.dtype))

    return map_examples(share, (active, signs), batch_size)


def check_perceptron(weights: Sequence[Any], biases: Sequence[Any] | None = None) -> None:
    """Refuses matrices that do not chain, biases that do not fit them, other dtypes, NaN and infinity."""
    check_layer_arrays("weights", weights, 2)
    for layer, (before, after) in enumerate(pairwise(weights)):
        if before.shape[1] != after.shape[0]:
            raise refuse(
                f"weights[{layer}] of {before.shape} before weights[{layer + 1}] of {after.shape}",
                "(in, out) matrices that chain, input to output",
                "transpose (out, in) kernels, or reverse the list",
            )
    if biases is None:
        return
    check_layer_arrays("biases", biases, 1)
    got, expected = [b.shape[0] for b in biases], [w.shape[1] for w in weights]
    if got != expected:
        raise refuse(
            f"biases of lengths {got}",
            f"one vector per layer, of lengths {expected}",
            "pass zeros for a layer without bias, or biases=None for none at all",
        )


def check_layer_arrays(name: str, arrays: Sequence[Any], *ranks: int) -> None:
    """Refuses an empty sequence, and entries of another rank or dtype, without numbers, or not finite."""
    if len(arrays) == 0:
        raise refuse(f"no {name}", "one array per layer, input to output", f"pass a sequence of {name}")
    for layer, array in enumerate(arrays):
        if getattr(array, "ndim", None) not in ranks or array.size == 0:
            raise refuse(
                f"{name}[{layer}] of shape {np.shape(array)}",
                f"a non-empty array of rank {' or '.join(map(str, ranks))}",
                "pass one array per layer, input to output",
            )
        check_floating(f"{name}[{layer}]", array)
    check_finite(name, list(arrays))


def check_inputs(weights: Sequence[Any], xs: Any) -> None:
    """Refuses examples that are none, not finite floats, or of another size than the first matrix takes."""
    check_examples(xs)
    check_floating("xs", xs)
    if xs.size != xs.shape[0] * weights[0].shape[0]:
        raise refuse(
            f"xs of shape {xs.shape} for weights[0] of shape {weights[0].shape}",
            f"{weights[0].shape[0]} entries per example",
            "pass the inputs of this perceptron, with a leading example axis",
        )
    check_finite("xs", xs)


def check_preactivations(preactivations: Sequence[Any]) -> None:
    """Refuses anything but one finite (n, H_l) per hidden layer, at least one, all of one n >= 1."""
    check_layer_arrays("preactivations", preactivations, 2)
    lengths = [h.shape[0] for h in preactivations]
    if len(set(lengths)) > 1:
        raise refuse(
            f"preactivations of {lengths} examples", "one n for all layers", "pass one batch's preactivations"
        )


def check_pattern(name: str, pattern: Any, *shapes: tuple[int, ...]) -> None:
    """Refuses a pattern that is not boolean, or of none of these shapes."""
    if pattern.dtype != bool:
        raise refuse(f"{name} of dtype {pattern.dtype}", "booleans, True where active", f"pass {name} > 0")
    if pattern.shape not in shapes:
        raise refuse(
            f"{name} of shape {pattern.shape}",
            " or ".join(map(str, shapes)),
            "concatenate the hidden layers' units, as activation_pattern does",
        )


def check_sensitivities(values: Any) -> None:
    """Refuses anything but n >= 1 finite numbers of at least 0."""
    name = "tangent_sensitivities"
    if getattr(values, "ndim", None) != 1:
        raise refuse(f"{name} of shape {np.shape(values)}", "shape (n,)", "pass |Sens(x)|_F^2 per example")
    check_examples(values, name=name)
    check_floating(name, values)
    check_finite(name, values)
    if is_concrete(values) and np.asarray(values).min() < 0:
        raise refuse(f"{np.asarray(values).min()} in {name}", "squared norms >= 0", "do not pass logarithms")


def check_same_examples(values: Any, preactivations: Sequence[Any] | None) -> None:
    """Refuses missing preactivations, and those of another number of examples."""
    if preactivations is None:
        raise refuse("weighting='soft' without preactivations", "(n, H_l) per hidden layer", "pass them")
    check_preactivations(preactivations)
    if preactivations[0].shape[0] != values.shape[0]:
        raise refuse(
            f"{values.shape[0]} tangent_sensitivities, {preactivations[0].shape[0]} rows of preactivations",
            "one set of examples",
            "compute both from the same xs",
        )
