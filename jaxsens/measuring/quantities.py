"""Each measure, made of the passes: a value, and what each example adds to it.

Reductions over examples are in float64 on the host. A value with an influence psi_x of each example, of mean
0, has the standard error sqrt(sum_x psi_x^2 / (n (n - 1))): that of the examples as a sample from a larger
population. For a mean psi_x is the example's own number less the mean.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import entr

from jaxsens.checks import InputError, refuse
from jaxsens.measuring.options import LOSSES, PERTURBATIONS_PER_DRAW
from jaxsens.measuring.passes import NotFinite, Passes
from jaxsens.metrics import (
    fisher_rao_norm,
    kl_divergence,
    margin,
    percentile_of_margins,
    predicted_loss,
)

__all__ = ["MARGIN_PERCENT", "Quantity", "found_or_reason"]

MARGIN_PERCENT = 5
# Of the normal quantile with which Woodruff's interval is drawn.
_WOODRUFF = 1.96


class Quantity(NamedTuple):
    """A number, and the variances behind it: of the examples by their influence, or of a Monte-Carlo mean.

    `variance` has `degrees` of freedom. All None: an exact function of the parameters. NaN has a `reason`.
    """

    value: float
    influence: Float[np.ndarray, " n"] | None = None
    variance: float | None = None
    degrees: int | None = None
    num_examples: int | None = None
    reason: str | None = None

    @property
    def stderr(self) -> float | None:
        """One standard error; None for an exact number."""
        if self.influence is not None:
            n = len(self.influence)
            return float(np.linalg.norm(self.influence) / math.sqrt(n * (n - 1)))
        return None if self.variance is None else math.sqrt(self.variance)


OfPasses: TypeAlias = Callable[[Passes], Quantity]


def mean_of(values: np.ndarray) -> Quantity:
    """The mean over examples."""
    values = np.asarray(values, np.float64)
    mean = values.mean()
    return Quantity(float(mean), values - mean, num_examples=len(values))


def softmax_jacobian_norm(passes: Passes) -> Quantity:
    """E_x |d softmax(f)/dx|_F."""
    return mean_of(passes.softmax_jacobian_norms)


def jacobian_norm(passes: Passes) -> Quantity:
    """E_x |df/dx|_F."""
    return mean_of(passes.jacobian_norms)


def output_sensitivity(passes: Passes) -> Quantity:
    """S and the influences of `sensitivity_of_noise` with "mean", in float64: S of random deep networks
    leaves float32."""
    e = passes.noise.astype(np.float64).mean(axis=-1)
    squares = np.mean((e - e.mean()) ** 2, axis=0)
    return Quantity(float(squares.mean()), squares - squares.mean(), num_examples=len(squares))


def linearized_output_sensitivity(passes: Passes) -> Quantity:
    """(s^2 / K^2) E_x |J^T 1|^2."""
    per_output = passes.options.noise_std / passes.network.num_outputs
    return mean_of((per_output * passes.summed_gradient_norms.astype(np.float64)) ** 2)


def tangent_sensitivity(passes: Passes) -> Quantity:
    """E_x |d2f/dtheta dx|_F^2 over all outputs, of the first examples."""
    if passes.num_tangent_examples < 2:
        raise refuse(
            f"inputs of {passes.xs[0].size} entries, in each of which tangent sensitivity differentiates",
            "a number of examples to spend that on",
            "pass tangent_examples=2 or more",
        )
    return mean_of(passes.tangent)


def path_norm(passes: Passes) -> Quantity:
    """log sum over paths of prod w^2."""
    return Quantity(passes.path_norm)


def fisher_rao(passes: Passes) -> Quantity:
    """C eq. 10, which is a mean over examples."""
    one_by_one = jnp.asarray(passes.logits)[:, None]
    return mean_of(np.asarray(jax.vmap(fisher_rao_norm)(one_by_one)))


def equation_9(passes: Passes) -> Quantity:
    """L = sqrt((K - 1) / (2 K) S m / s^2), m = E_x |x|^2 / D; influence L (psi_S / S + psi_m / m) / 2."""
    s, num_outputs = output_sensitivity(passes), passes.network.num_outputs
    m = mean_of(np.mean(passes.xs.reshape(len(passes.xs), -1).astype(np.float64) ** 2, axis=1))
    loss = predicted_loss(s.value, m.value, noise_std=passes.options.noise_std, num_outputs=num_outputs)
    if s.value == 0 or m.value == 0:
        return Quantity(0.0, np.zeros(len(passes.xs)), num_examples=len(passes.xs))
    share_of_s, share_of_m = (np.asarray(mean.influence) / mean.value for mean in (s, m))
    influence = float(loss) / 2 * (share_of_s + share_of_m)
    return Quantity(float(loss), influence, num_examples=len(influence))


def flip_rate(passes: Passes) -> Quantity:
    """The share of draws of noise after which another output is the largest."""
    noisy = passes.logits + passes.noise
    return mean_of(np.mean(noisy.argmax(axis=-1) != passes.logits.argmax(axis=-1), axis=0))


def confidence(passes: Passes) -> Quantity:
    """E_x max_k softmax(f)_k."""
    return mean_of(probabilities(passes).max(axis=-1))


def entropy(passes: Passes) -> Quantity:
    """E_x -sum_k p_k log p_k, in nats."""
    return mean_of(entr(probabilities(passes)).sum(axis=-1))


def parameter_norm(passes: Passes) -> Quantity:
    """log |theta|_2 over all floating arrays."""
    leaves = (np.asarray(w, np.float64) for w in passes.network.weights)
    square = sum(float(np.sum(leaf**2)) for leaf in leaves)
    return Quantity(math.log(square) / 2 if square > 0 else -math.inf)


def perturbation_kl(passes: Passes) -> Quantity:
    """(1/alpha^2) sum_i (w_i / (10 |w_i| + 1))^2."""
    return Quantity(float(kl_divergence(passes.network.params, alpha=passes.options.alpha)))


def loss(passes: Passes) -> Quantity:
    """E_x of the loss."""
    outputs, ys = jnp.asarray(passes.logits), jnp.asarray(passes.ys)
    return mean_of(np.asarray(LOSSES[passes.options.loss](outputs, ys)))


def accuracy(passes: Passes) -> Quantity:
    """The share of examples whose largest output is that of their label."""
    return mean_of(passes.logits.argmax(axis=-1) == passes.ys)


def mean_margin(passes: Passes) -> Quantity:
    """E_x f_y - max_{j != y} f_j."""
    return mean_of(margins(passes))


def margin_percentile(passes: Passes) -> Quantity:
    """The 5th percentile of the margins, with Woodruff's interval (1952) for its standard error.

    The interval has the margins of ranks p n -+ 1.96 sqrt(p (1 - p) n) at its ends. Its width w gives the
    density f = 2 * 1.96 sqrt(p (1 - p) / n) / w in psi_x = (p - [margin <= percentile]) / f (Bahadur 1966).
    """
    found = margins(passes)
    n, p = len(found), MARGIN_PERCENT / 100
    value = float(percentile_of_margins(jnp.asarray(found), percent=MARGIN_PERCENT).value)
    half = _WOODRUFF * math.sqrt(p * (1 - p) * n)
    low, high = math.floor(p * n - half), math.ceil(p * n + half)
    if low < 1 or high > n:
        return Quantity(
            value, variance=math.nan, num_examples=n, reason=f"{n} examples are too few for an error bar"
        )
    ordered = np.sort(found.astype(np.float64))
    width = ordered[high - 1] - ordered[low - 1]
    influence = (p - (found <= value)) * width / (2 * _WOODRUFF * math.sqrt(p * (1 - p) / n))
    return Quantity(value, influence, num_examples=n)


def expected_sharpness(passes: Passes) -> Quantity:
    """E_nu L(w + nu) - L(w); its variance is between groups of perturbations."""
    found, groups = passes.sharpness, passes.options.num_perturbations // PERTURBATIONS_PER_DRAW
    return Quantity(float(found.value), None, float(found.stderr) ** 2, groups - 1, len(passes.xs))


def probabilities(passes: Passes) -> np.ndarray:
    """The softmax of the logits."""
    return np.asarray(jax.nn.softmax(jnp.asarray(passes.logits)))


def margins(passes: Passes) -> np.ndarray:
    """Of each example: the logits are a network's input here, and its output."""
    logits, ys = jnp.asarray(passes.logits), jnp.asarray(passes.ys)
    return np.asarray(margin(lambda _, logits: logits, (), logits, ys))


def found_or_reason(measure: OfPasses, passes: Passes, *, refuses: bool) -> Quantity:
    """What the measure gives; NaN and the reason where it is not finite, or not of this network.

    With `refuses` the latter is an error.
    """
    try:
        found = measure(passes)
    except NotFinite as error:
        return Quantity(math.nan, reason=str(error))
    except InputError as error:
        if refuses:
            raise
        return Quantity(math.nan, reason=str(error))
    if found.reason is None and not math.isfinite(found.value):
        return found._replace(reason=f"the number is {found.value}")
    return found
