"""Conditions that keep the expected sharpness of a ReLU perceptron small, and D's Theorem 1 (D section 4).

A perceptron is `weights`, d matrices (in, out) from input to output: D's W_i is weights[i-1].T, with h_i
outputs and h_0 inputs. D_i is the diagonal 0/1 matrix of the units of layer i that x switches on, for the
hidden layers i = 1 ... d-1; outputs have no ReLU, so D_d = I. D's networks have no biases. Where `biases` are
given, D_i and preactivations are those of the real network, and products of D_i W_i leave biases out.

Theorem 1 says what makes a network sharp; it is no certificate. Its constant is not given, and parts of it
fail as printed, each with a counterexample in the tests:

    C1         over a < c < b does not give Lemma 1; over a <= c <= b - 1, with mu <= 1, it does
    C2         lacks the absolute value of Lemma 2's proof: units that are off would count at every delta
    gamma_i    has |W_i|_F for Lemma 1's |D_i W_i|_F, which may be smaller by C_3
    Lemma 2    has flips of layer k by sigma_k alone; noise in the layers before it flips as many
    C_delta    (1 + delta) sqrt(2 ln h) does not bound h normal draws with probability 1 - delta
    simplified the bound after the theorem lacks C_{delta_i}^2, and is for small sigma C_2 C_3 alone
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from jaxsens.checks import carry_nan, check_at_least, check_positive, is_concrete, refuse
from jaxsens.metrics._norms import divisor
from jaxsens.metrics.activations import check_inputs, check_perceptron, mlp_preactivations
from jaxsens.metrics.path_bounds import check_nonnegative

__all__ = [
    "BoundedSharpness",
    "Flips",
    "Interactions",
    "Triples",
    "balanced_sigmas",
    "bounded_sharpness_rhs",
    "flip_condition",
    "interaction_condition",
    "interaction_triples",
    "spike_condition",
    "unit_norm_ratios",
]

Scalar: TypeAlias = float | int | np.number | Num[Array | np.ndarray, ""]
"""One number."""

PerLayer: TypeAlias = Scalar | Num[Array | np.ndarray, " d"]
"""One number for all layers, or one for each."""


class Triples(NamedTuple):
    """The T triples (a, c, b) of condition C1, and where a < c < b - 1; NumPy, known before tracing."""

    triples: Int[np.ndarray, "T 3"]
    inner: Bool[np.ndarray, " T"]


class Interactions(NamedTuple):
    """1/mu of each example and triple, and the largest mu with which C1 holds at that example."""

    ratio: Float[Array, "n T"]
    mu: Float[Array, " n"]


class Flips(NamedTuple):
    """The share of units within each of A deltas of their kink, and the least C_2, per hidden layer."""

    share: Float[Array, "n L A"]
    constant: Float[Array, "n L"]


class BoundedSharpness(NamedTuple):
    """The two terms on the right of Theorem 1, and their sum."""

    sharpness: Float[Array, ""]
    complexity: Float[Array, ""]
    value: Float[Array, ""]


def interaction_triples(depth: int) -> Triples:
    """All (a, c, b) with 0 <= a <= c <= b - 1 < depth, the triples of `interaction_condition` (D Figure 6).

    There are depth (depth + 1) (depth + 2) / 6, 220 for 10 layers. D Figure 6 splits them into a < c < b - 1,
    `inner`, and the others, c = a or c = b - 1.

    Raises InputError for a `depth`, the number of matrices, below 1.
    """
    check_at_least("depth", depth, 1)
    triples = np.array([(a, c, b) for b in range(1, depth + 1) for a in range(b) for c in range(a, b)])
    a, c, b = triples.T
    return Triples(triples, (a < c) & (c < b - 1))


def interaction_condition(
    weights: Sequence[Float[Array, "_ _"]],
    biases: Sequence[Float[Array, " _"]] | None,
    xs: Float[Array, "n *shape"],
) -> Interactions:
    """1/mu of condition C1, |P_a^b|_F >= mu / sqrt(h_c) |P_{c+1}^b|_F |P_a^c|_F (D section 4).

    P_a^b = D_b W_b ... D_a W_a, with W_0 = x and D_0 = I, so that P_0^c is h_c(x) without biases. For each
    triple of `interaction_triples`,

        ratio = |P_{c+1}^b|_F |P_a^c|_F / (sqrt(h_c) |P_a^b|_F),

    D's "condition number 1/mu" (Figures 5 and 6), and mu = 1 / max ratio. C1 prints 0 <= a < c < b <= d;
    Figure 6 has all a <= c <= b - 1, and so have we: the proof of Lemma 1 uses c = a. mu of a data set is
    the smallest of its examples. Lemma 1 needs mu <= 1 as well: take min(mu, 1).

    Args:
        weights: d matrices (in, out), input to output.
        biases: d vectors (out,), or None. They only decide which units are active.
        xs: n examples of any shape, flattened in C order.

    Returns:
        `ratio` (n, T) and `mu` (n,). Where P_a^b = 0 and its two parts are not, ratio is +inf and mu 0. Where
        a part is 0 too, C1 reads 0 >= 0, which any mu satisfies: ratio 0, and mu +inf if all are 0. So C1
        passes a layer that is off altogether; C3 finds it. NaN where an example's preactivations overflow. A
        ratio above 1/eps of the dtype is a product that cancels to rounding: read +inf.

    Raises:
        InputError: for shapes that do not chain, no examples, a dtype other than float32 or float64, or a NaN
            or infinity.

    Cost: d (d - 1) / 2 products of layers per example, one example after another: 72 GFLOP and 0.8 s of one
    CPU core for 10 layers of 1000 units. Without biases a factor on a layer or on x changes nothing.
    """
    check_perceptron(weights, biases)
    check_inputs(weights, xs)
    a, c, b = interaction_triples(len(weights)).triples.T
    active, in_range = active_units(weights, biases, xs)
    # No entry above 1: masking and multiplying then stay in range.
    scaled = [unit(w)[0] for w in weights]

    def log_ratios(example: tuple[Array, tuple[Array, ...]]) -> Array:
        x, on = example
        layers = [unit(w)[0] for w in masked(scaled, on)]
        logs = log_relative_norms(x, layers)
        parts = logs[a, c] + logs[c + 1, b]
        return jnp.where(parts == -jnp.inf, -jnp.inf, parts - logs[a, b])

    # One at a time: vmap would hold all layers once more for each example.
    logs = jax.lax.map(log_ratios, (xs.reshape(xs.shape[0], -1), active))
    # NaN last: jitted on a CPU, jaxlib 0.10.1 makes anything of exp(where(c, v, nan)).
    found = Interactions(
        jnp.where(in_range[:, None], jnp.exp(logs), jnp.nan),
        jnp.where(in_range, jnp.exp(-jnp.max(logs, axis=1)), jnp.nan),
    )
    return carry_nan(found, weights, biases, examples=xs)


def flip_condition(
    weights: Sequence[Float[Array, "_ _"]],
    biases: Sequence[Float[Array, " _"]] | None,
    xs: Float[Array, "n *shape"],
    deltas: Float[Array | np.ndarray, " A"],
) -> Flips:
    """The two sides of condition C2, (1/h_k) sum_i 1[|z_{k,i}| <= delta] <= C_2 delta (D section 4).

    z_k = W_k D_{k-1} W_{k-1} ... D_1 W_1 x are the preactivations of hidden layer k, biases included where
    there are any; outputs have no kink. D prints z <= delta: units that are off would count at every delta,
    and no C_2 would do. The proof of Lemma 2 has |z|, and so have we. Theorem 1 assumes |x| = 1, and z scales
    with x: pass examples of norm 1 to compare with it, nothing is normalised here.

    Args:
        weights, biases, xs: as for `interaction_condition`, with at least one hidden layer.
        deltas: A positive numbers.

    Returns:
        `share` (n, L, A), the left side, and `constant` (n, L), the least C_2 that holds for all delta > 0,
        max_j (j / h_k) / |z_k|_(j) over |z_k| in rising order: +inf where a unit is at exactly 0. NaN for an
        example whose preactivations overflow.

    Raises:
        InputError: as `interaction_condition`, and for no hidden layer, or `deltas` that are none, not a
            vector, not finite or not above 0.
    """
    check_deltas(deltas)
    preactivations = mlp_preactivations(weights, biases, xs)
    if not preactivations:
        raise refuse("1 matrix in weights", "a hidden layer, whose units can flip", "pass 2 or more matrices")
    in_range = all_finite(preactivations, xs)[:, None]

    def layer(z: Array) -> tuple[Array, Array]:
        distances = jnp.sort(jnp.abs(z), axis=1)
        width = z.shape[1]
        edges = jnp.asarray(deltas, z.dtype)
        counts = jax.vmap(lambda row: jnp.searchsorted(row, edges, side="right"))(distances)
        ranks = jnp.arange(1, width + 1, dtype=z.dtype)
        constant = jnp.max(ranks / width / distances, axis=1)
        return counts.astype(z.dtype) / width, constant

    share, constant = zip(*map(layer, preactivations), strict=True)
    flips = Flips(
        jnp.where(in_range[:, None], jnp.stack(share, axis=1), jnp.nan),
        jnp.where(in_range, jnp.stack(constant, axis=1), jnp.nan),
    )
    return carry_nan(flips, weights, biases, deltas, examples=xs)


def spike_condition(
    weights: Sequence[Float[Array, "_ _"]],
    biases: Sequence[Float[Array, " _"]] | None,
    xs: Float[Array, "n *shape"],
) -> Float[Array, "n d"]:
    """The least C_3 of condition C3, |W_i|_{2,inf}^2 h_i <= C_3^2 |D_i W_i|_F^2 (D section 4).

    |W_i|_{2,inf} is the largest norm of the weights into one unit. C_3 is at least 1; without biases a
    factor on a layer changes nothing. Arguments and errors are those of `interaction_condition`.

    Returns:
        (n, d), the output layer with D_d = I last. +inf where all units of a layer are off; 0 for a layer of
        zero weights, where any C_3 will do. NaN for an example whose preactivations overflow.
    """
    check_perceptron(weights, biases)
    check_inputs(weights, xs)
    active, in_range = active_units(weights, biases, xs)

    def constant(weight: Array, on: Array) -> Array:
        norms = relative_unit_norms(weight)
        kept = jnp.mean(jnp.where(on, norms**2, 0), axis=1)
        return jnp.where(jnp.max(norms) == 0, 0, 1 / jnp.sqrt(kept))

    outputs = jnp.ones((xs.shape[0], weights[-1].shape[1]), bool)
    constants = map(constant, weights, (*active, outputs))
    constants = jnp.where(in_range[:, None], jnp.stack(list(constants), axis=1), jnp.nan)
    return carry_nan(constants, weights, biases, examples=xs)


def unit_norm_ratios(weights: Sequence[Float[Array, "_ _"]]) -> tuple[Float[Array, " _"], ...]:
    """|W_{i,j}|_2 / (|W_i|_F / sqrt(h_i)), each unit's incoming norm over the layer's (D Figures 5 and 8).

    The average is the root mean square: the largest ratio of a layer is then C_3 with all units on. A plain
    mean, which the caption of Figure 5 may mean, is smaller and makes ratios larger.

    Returns d arrays (h_i,), zeros for a layer of zero weights.

    Raises InputError for matrices that do not chain, a dtype other than float32 or float64, or a NaN or
    infinity.
    """
    check_perceptron(weights)

    def ratios(weight: Array) -> Array:
        norms = relative_unit_norms(weight)
        return jnp.where(jnp.max(norms) == 0, 0, norms / jnp.sqrt(jnp.mean(norms**2)))

    return tuple(map(ratios, weights))


def bounded_sharpness_rhs(
    weights: Sequence[Float[Array, "_ _"]],
    sigmas: PerLayer,
    *,
    mu: Scalar,
    c2: Scalar,
    c3: Scalar,
    lipschitz: Scalar,
    mean_output_norm: Scalar,
    num_examples: int,
    delta: Scalar,
    deltas: PerLayer,
) -> BoundedSharpness:
    """The right side of D's Theorem 1 on E L(f_{w+nu}) - L-hat(f_w), up to a constant that D does not give.

    With gamma_i = sigma_i sqrt(h_i h_{i-1}) / (mu^2 |W_i|_F) and C_{delta_i} = (1 + delta_i) sqrt(2 ln h_i),

        sharpness   C_L mean_x |f_w(x)| [prod(1 + gamma_i) - 1
                    + prod(1 + gamma_i C_2 C_3) (prod(1 + gamma_i C_{delta_i} C_2) - 1)]
        complexity  sqrt((sum_i |W_i|_F^2 / sigma_i^2 + ln 1/delta) / m)

    where 1 stands for the constant of O(.), so it compares networks and certifies nothing. As printed, except
    that mu above 1 counts as 1: C1 holds with the smaller mu too, and Lemma 1 fails with larger ones. The sum
    in `complexity` is twice the KL of eq. 6, which has 2 sigma^2.

    Args:
        weights: d matrices (in, out), input to output.
        sigmas: standard deviation of the noise, one for all layers or one each.
        mu: smallest mu of `interaction_condition`.
        c2: largest constant of `flip_condition`, at inputs of norm 1.
        c3: largest of `spike_condition`.
        lipschitz: C_L, the Lipschitz constant of the loss in the outputs.
        mean_output_norm: mean over the training examples of |f_w(x)|.
        num_examples: m.
        delta: probability that the complexity term may fail with.
        deltas: delta_i, one for all layers or one each.

    Returns:
        Three scalars; +inf where a term overflows or a layer is zero.

    Raises:
        InputError: for bad `weights`, as in `unit_norm_ratios`; `sigmas` or `deltas` of another shape; a
            number that is not finite and above 0 (`mean_output_norm` may be 0), or an array in its place; a
            `delta` of 1 or more; `num_examples` below 1.
    """
    check_perceptron(weights)
    check_per_layer("sigmas", sigmas, len(weights))
    check_per_layer("deltas", deltas, len(weights))
    for name, value in {"mu": mu, "c2": c2, "c3": c3, "lipschitz": lipschitz, "delta": delta}.items():
        check_scalar(name, value)
        check_positive(name, value)
    check_scalar("mean_output_norm", mean_output_norm)
    check_nonnegative("mean_output_norm", mean_output_norm)
    check_at_least("num_examples", num_examples, 1)
    if is_concrete(delta) and np.asarray(delta) >= 1:
        raise refuse(f"delta={delta}", "a probability below 1", "pass the chance of failure, such as 0.05")
    given_mu, norms, mu = mu, frobenius_norms(weights), jnp.minimum(mu, 1)
    sigmas = jnp.asarray(sigmas, norms.dtype)
    gammas = sigmas / norms * root_sizes(weights) / mu / mu
    c_deltas = flip_scales(weights, deltas)
    # A layer of one unit has C_delta = 0, whatever gamma: 0 times infinity is 0 here.
    flips = jnp.sum(jnp.log1p(jnp.where(c_deltas == 0, 0, gammas * c_deltas * c2)))
    spread = jnp.exp(jnp.sum(jnp.log1p(gammas * c2 * c3)))
    growth = jnp.expm1(jnp.sum(jnp.log1p(gammas))) + jnp.where(flips == 0, 0, spread * jnp.expm1(flips))
    sharpness = jnp.where(growth == jnp.inf, jnp.inf, growth * (lipschitz * mean_output_norm))
    complexity = jnp.sqrt((jnp.sum((norms / sigmas) ** 2) - jnp.log(delta)) / num_examples)
    bound = BoundedSharpness(sharpness, complexity, sharpness + complexity)
    numbers = (sigmas, given_mu, c2, c3, lipschitz, mean_output_norm, delta, deltas)
    return carry_nan(bound, weights, numbers)


def balanced_sigmas(
    weights: Sequence[Float[Array, "_ _"]], sigma: Scalar, *, mu: Scalar, deltas: PerLayer
) -> Float[Array, " d"]:
    """sigma_i = sigma mu^2 |W_i|_F / (C_{delta_i} d sqrt(h_i h_{i-1})) (D section 4, after Theorem 1).

    They make gamma_i = sigma / (C_{delta_i} d), and |W_i|_F^2 / sigma_i^2 = C_{delta_i}^2 d^2 h_i h_{i-1} /
    (mu^4 sigma^2); D's simplified bound lacks C_{delta_i}^2. They depend on the trained weights, which the
    prior of eq. 5 must not. mu above 1 counts as 1.

    Returns d numbers, 0 for a layer of zero weights.

    Raises InputError as `bounded_sharpness_rhs` does, and for a layer of one unit, where C_{delta_i} is 0.
    """
    check_perceptron(weights)
    check_per_layer("deltas", deltas, len(weights))
    for name, value in {"sigma": sigma, "mu": mu}.items():
        check_scalar(name, value)
        check_positive(name, value)
    for layer, weight in enumerate(weights):
        if weight.shape[1] == 1:
            raise refuse(
                f"weights[{layer}] of shape {weight.shape}, a layer of one unit",
                "two units or more: ln 1 = 0, and no sigma_i balances",
                "choose sigmas yourself",
            )
    norms, least = frobenius_norms(weights), jnp.minimum(mu, 1)
    # The norms before mu, which is at most 1: nothing underflows that does not in the end.
    shares = sigma / len(weights) / flip_scales(weights, deltas) * norms
    sigmas = shares * least * least / root_sizes(weights)
    return carry_nan(sigmas, weights, sigma, mu, deltas)


def log_relative_norms(x: Float[Array, " h"], layers: Sequence[Float[Array, "_ _"]]) -> Float[Array, "e e"]:
    """log(|P_a^b| sqrt(h_a ... h_{b-1}) / (|D_a W_a| ... |D_b W_b|)) at [a, b], from layers of unit norm.

    These stay near 0 in networks of any size, scale and depth, and C1's ratio is a product of three of them.
    """
    table = []
    for a, start in enumerate((x[None], *layers)):
        product, log = unit(start)
        row = [jnp.zeros_like(log)] * a + [jnp.where(log == -jnp.inf, log, 0)]
        for layer in layers[a:]:
            product, log = unit(jnp.matmul(product, layer, precision=jax.lax.Precision.HIGHEST))
            row.append(row[-1] + log + math.log(layer.shape[0]) / 2)
        table.append(jnp.stack(row))
    return jnp.stack(table)


def active_units(
    weights: Sequence[Array], biases: Sequence[Array] | None, xs: Array
) -> tuple[tuple[Bool[Array, "n _"], ...], Bool[Array, " n"]]:
    """The active hidden units, layer by layer, and whether an example's preactivations are all finite.

    Without biases a factor on a layer leaves the pattern: powers of two, which round nothing, keep values in
    range.
    """
    if biases is None:
        weights = [power_of_two_scaled(w) for w in weights]
    preactivations = mlp_preactivations(weights, biases, xs)
    return tuple(z > 0 for z in preactivations), all_finite(preactivations, xs)


def power_of_two_scaled(weight: Float[Array, "in out"]) -> Float[Array, "in out"]:
    """W over the power of two next to |W|_F / sqrt(in): random layers then keep the norm of their input."""
    log = unit(weight)[1] - math.log(weight.shape[0]) / 2
    exponent = jnp.where(log == -jnp.inf, 0, jnp.round(log / math.log(2))).astype(jnp.int32)
    return jnp.ldexp(weight, -exponent)


def all_finite(preactivations: Sequence[Array], xs: Array) -> Bool[Array, " n"]:
    """Whether all preactivations of each example are: sums that overflow would say nothing of a unit."""
    finite = jnp.ones(xs.shape[0], bool)
    for z in preactivations:
        finite &= jnp.all(jnp.isfinite(z), axis=1)
    return finite


def masked(weights: Sequence[Array], active: Sequence[Bool[Array, " _"]]) -> list[Array]:
    """(D_i W_i).T for all layers of one example; D_d = I."""
    return [*(jnp.where(on, w, 0) for w, on in zip(weights, active, strict=False)), weights[-1]]


def unit(matrix: Float[Array, "_ _"]) -> tuple[Float[Array, "_ _"], Float[Array, ""]]:
    """W / |W|_F and log |W|_F, in range wherever W is; zeros and -inf for zeros."""
    largest = jnp.max(jnp.abs(matrix))
    scale = divisor(largest)
    scaled = matrix / scale
    norm = jnp.sqrt(jnp.sum(scaled**2))
    return scaled / jnp.where(largest == 0, 1, norm), jnp.log(scale) + jnp.log(norm)


def frobenius_norms(weights: Sequence[Float[Array, "_ _"]]) -> Float[Array, " d"]:
    """|W_i|_F of each layer, in range wherever it is."""
    return jnp.exp(jnp.stack([unit(w)[1] for w in weights]))


def relative_unit_norms(weight: Float[Array, "in out"]) -> Float[Array, " out"]:
    """|W_{i,j}|_2 / |W_i|_{2,inf} of each unit j; zeros for zeros."""
    norms = jnp.linalg.norm(unit(weight)[0], axis=0)
    largest = jnp.max(norms)
    return norms / jnp.where(largest == 0, 1, largest)


def root_sizes(weights: Sequence[Array]) -> Float[Array, " d"]:
    """sqrt(h_i h_{i-1}) of each layer."""
    return jnp.asarray([math.sqrt(w.size) for w in weights], weights[0].dtype)


def flip_scales(weights: Sequence[Array], deltas: PerLayer) -> Float[Array, " d"]:
    """C_{delta_i} = (1 + delta_i) sqrt(2 ln h_i) of each layer."""
    at_zero = [math.sqrt(2 * math.log(w.shape[1])) for w in weights]
    return (1 + jnp.asarray(deltas, weights[0].dtype)) * jnp.asarray(at_zero, weights[0].dtype)


def check_scalar(name: str, value: Any) -> None:
    """Refuses anything but one number."""
    if np.shape(value) != ():
        raise refuse(f"{name} of shape {np.shape(value)}", "one number", "take vmap over members")


def check_per_layer(name: str, values: Any, depth: int) -> None:
    """Refuses anything but one positive number, or one for each layer."""
    if np.shape(values) not in ((), (depth,)):
        raise refuse(
            f"{name} of shape {np.shape(values)} for {depth} layers",
            f"one number, or shape ({depth},)",
            "pass an array with an entry per matrix",
        )
    check_positive(name, values)


def check_deltas(deltas: Any) -> None:
    """Refuses anything but a vector of one or more positive numbers."""
    if len(np.shape(deltas)) != 1 or np.size(deltas) == 0:
        raise refuse(
            f"deltas of shape {np.shape(deltas)}", "shape (A,), A >= 1", "pass an array of distances"
        )
    check_positive("deltas", deltas)
