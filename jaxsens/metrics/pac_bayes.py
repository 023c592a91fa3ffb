"""PAC-Bayes: how far perturbed parameters are from a prior, and the bound that follows (D section 2.4)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsens.checks import (
    check_at_least,
    check_choice,
    check_finite,
    check_positive,
    check_real,
    is_concrete,
    refuse,
)
from jaxsens.metrics._batching import check_floating
from jaxsens.types import Params

__all__ = ["kl_divergence", "pac_bayes_bound"]

FORMS = ("valid", "as_printed")
# A mean of float32 losses may leave [0, 1] by its rounding.
_ROUNDING = 1e-6


def kl_divergence(
    params: Params,
    *,
    alpha: float | int | Float[Array, ""] | None = None,
    sigma: float | int | Float[Array, ""] | None = None,
    prior: Params | None = None,
) -> Float[Array, ""]:
    """The distance of perturbed parameters w + nu from a prior, over all weights i:

        alpha   (1/alpha^2) sum_i (w_i / (10 |w_i| + 1))^2      (D Appendix A, the axis of Figure 2)
        sigma   sum_i (w_i - p_i)^2 / (2 sigma^2)               (D eq. 6)

    With `sigma` it is KL(N(w, sigma^2 I) || N(p, sigma^2 I)), p the prior's mean, and may stand in
    `pac_bayes_bound`. With `alpha` it is a measure and no certificate: the spread s_i = alpha (10 |w_i| + 1)
    of posterior and prior depends on w, which no prior may. It is also twice D's own sum_i w_i^2 / (2 s_i^2),
    and has no log-determinants, as a prior of another spread would bring.

    Args:
        params: any pytree. Leaves that are no floating arrays are constants and do not count.
        alpha: as in `expected_sharpness`.
        sigma: standard deviation of the perturbation of every weight. One of the two.
        prior: p, a pytree like `params`, with `sigma` only: the parameters at initialisation, say. None is 0.

    Returns:
        A scalar in the dtype of the parameters; 0 where w = p.

    Raises:
        InputError: for none or both of `alpha` and `sigma`, one that is not positive, a prior with `alpha` or
            of another structure or shape, no floating leaf, one of another dtype than float32 and float64,
            or a NaN or infinity.
    """
    if (alpha is None) == (sigma is None):
        raise refuse(
            f"alpha={alpha} and sigma={sigma}", "exactly one of them", "pass alpha=... or sigma=..., not both"
        )
    weights, _ = floating_leaves(params)
    if alpha is not None:
        check_scale("alpha", alpha)
        if prior is not None:
            raise refuse(
                "a prior with alpha", "a prior with sigma alone", "pass sigma=..., or leave the prior out"
            )
        # In this order nothing overflows: 10 |w| would, and w over infinity is 0.
        distances = [w / 10 / (jnp.abs(w) + 0.1) / as_scale(alpha, w.dtype) for w in weights]
        return functools.reduce(jnp.add, [jnp.sum(d**2) for d in distances])
    check_scale("sigma", sigma)
    means = [0.0] * len(weights) if prior is None else _prior_means(prior, params)
    distances = [
        (w - jnp.asarray(p, w.dtype)) / as_scale(sigma, w.dtype) for w, p in zip(weights, means, strict=True)
    ]
    return functools.reduce(jnp.add, [jnp.sum(d**2) for d in distances]) / 2


def pac_bayes_bound(
    mean_loss: float | int | Float[Array, ""],
    kl: float | int | Float[Array, ""],
    num_examples: int,
    *,
    delta: float = 0.05,
    form: str = "valid",
    num_draws: int | None = None,
    monte_carlo_delta: float = 0.01,
) -> Float[Array, ""]:
    """An upper bound on the true loss E_nu[L(w + nu)] that holds with probability 1 - delta:

        "valid"        mean_loss + sqrt((kl + ln(2 m / delta)) / m)     (D eq. 5)
        "as_printed"   mean_loss + sqrt((kl + ln(1 / delta)) / m)       (D eq. 6)

    with m = num_examples and mean_loss = E_nu[Lhat(w + nu)], that is Lhat(w) + expected sharpness, of a loss
    in [0, 1] such as the error rate. nu is the same in both: `expected_sharpness` and `kl_divergence` take
    one and the same `sigma`. Maurer's theorem (2004) and Pinsker's inequality give the gap
    sqrt((kl + ln(2 sqrt(m) / delta)) / (2 m)). That of eq. 5 is larger for every m >= 1, so it is valid, if
    not tight; that of eq. 6 is larger where kl + ln(1 / delta) >= ln(2 sqrt(m)), and no theorem here says
    that it holds elsewhere.

    The probability is over the training set. The prior and its sigma must be chosen without looking at it;
    a best one of G takes delta / G. w and mean_loss may depend on it in any way.

    Args:
        mean_loss: a number in [0, 1].
        kl: KL(w + nu || prior), at least 0, as `kl_divergence(params, sigma=...)`. With its `alpha` the
            result bounds nothing.
        num_examples: m, the training examples behind mean_loss, at least 1.
        delta: the probability that the bound fails, in (0, 1).
        form: "valid" or "as_printed".
        num_draws: N, where mean_loss is a mean over N independent draws of a loss in [0, 1]. Hoeffding's
            sqrt(ln(1 / monte_carlo_delta) / (2 N)) is then added, and the bound holds with probability
            1 - delta - monte_carlo_delta. The two perturbations of a pair of `expected_sharpness` are not
            independent: its num_perturbations / 2 pairs are N, for a loss of the whole training set.
        monte_carlo_delta: that second probability, in (0, 1).

    Returns:
        A scalar; above 1 it says nothing. Under `jit` a mean_loss or kl out of range gives NaN.

    Raises:
        InputError: for anything out of its range, no scalar, or an unknown form.
    """
    check_choice("form", form, FORMS)
    check_at_least("num_examples", num_examples, 1)
    check_probability("delta", delta)
    check_probability("monte_carlo_delta", monte_carlo_delta)
    if num_draws is not None:
        check_at_least("num_draws", num_draws, 1)
    for name, value in (("mean_loss", mean_loss), ("kl", kl)):
        check_scalar(name, value)
    dtype = jnp.promote_types(jnp.float32, jnp.result_type(mean_loss, kl))
    mean_loss, kl = jnp.asarray(mean_loss, dtype), jnp.asarray(kl, dtype)
    in_unit = (mean_loss >= -_ROUNDING) & (mean_loss <= 1 + _ROUNDING)
    if is_concrete(in_unit) and not in_unit:
        raise refuse(
            f"mean_loss={mean_loss}",
            "a mean of losses in [0, 1]",
            "take the error rate: cross-entropy is unbounded and certifies nothing",
        )
    if is_concrete(kl) and not kl >= 0:
        raise refuse(f"kl={kl}", "a kl >= 0", "pass kl_divergence(params, sigma=...)")

    log_term = jnp.log(2 * num_examples / delta if form == "valid" else 1 / delta)
    bound = mean_loss + jnp.sqrt((kl + log_term) / float(num_examples))
    if num_draws is not None:
        bound += jnp.sqrt(jnp.log(1 / monte_carlo_delta) / (2.0 * num_draws))
    return jnp.where(in_unit & (kl >= 0), bound, jnp.nan).astype(dtype)


def floating_leaves(params: Params) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    """The floating leaves, checked, and the function that puts others in their places."""
    everything, tree = jax.tree.flatten(params)
    places = [i for i, leaf in enumerate(everything) if _is_weight(leaf)]
    if not places:
        raise refuse("params without a floating array", "weights to perturb", "pass the weights")
    check_finite("params", params)
    for i in places:
        check_floating("a leaf of params", everything[i])

    def fill(leaves: list[Array]) -> Any:
        filled = list(everything)
        for i, leaf in zip(places, leaves, strict=True):
            filled[i] = leaf
        return jax.tree.unflatten(tree, filled)

    return [jnp.asarray(everything[i]) for i in places], fill


def as_scale(value: Any, dtype: Any) -> Float[Array, ""]:
    """A checked scale in a leaf's dtype; NaN where it was traced and is not positive and finite."""
    value = jnp.asarray(value)
    return jnp.where((value > 0) & (value < jnp.inf), value, jnp.nan).astype(dtype)


def check_scalar(name: str, value: Any) -> None:
    """Refuses an array: it would be broadcast against the weights."""
    if np.ndim(value) != 0:
        raise refuse(f"{name} of shape {np.shape(value)}", "one number", f"use jax.vmap to sweep over {name}")
    check_real(name, value)


def check_scale(name: str, value: Any) -> None:
    """Refuses anything but one number above 0."""
    check_scalar(name, value)
    check_positive(name, value)


def check_probability(name: str, value: Any) -> None:
    """Refuses anything but one number between 0 and 1, both excluded."""
    check_scalar(name, value)
    if is_concrete(value) and not 0 < value < 1:
        raise refuse(f"{name}={value}", "a probability between 0 and 1", f"pass {name}=0.05, say")


def _is_weight(leaf: Any) -> bool:
    """Complex leaves are weights too, to be refused: one left alone would be a weight left out."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _prior_means(prior: Params, params: Params) -> list[Any]:
    """The leaves of the prior that stand where params has weights."""
    check_finite("prior", prior)
    if jax.tree.structure(prior) != jax.tree.structure(params):
        raise refuse(
            f"a prior of structure {jax.tree.structure(prior)}",
            f"{jax.tree.structure(params)}",
            "pass a pytree like params",
        )
    pairs = zip(jax.tree.leaves(prior), jax.tree.leaves(params), strict=True)
    means = [(p, w.shape) for p, w in pairs if _is_weight(w)]
    for p, shape in means:
        if not _is_weight(p) or jnp.iscomplexobj(p) or p.shape != shape:
            raise refuse(
                f"a prior with {getattr(p, 'dtype', type(p).__name__)} of shape {np.shape(p)}",
                f"floating numbers of shape {shape} there",
                "pass a pytree like params",
            )
    return [p for p, _ in means]
