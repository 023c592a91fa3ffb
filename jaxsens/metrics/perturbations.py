"""Sharpness: how much the loss grows when the parameters are perturbed (D section 2.4 and Appendix A).

A loss is a function `loss(params, key) -> scalar` that draws its minibatch from the key and gives the same
value for the same key; one of the whole training set ignores the key. The floating arrays in `params` are
perturbed, all other leaves left alone. What is not to be perturbed (statistics of batch normalisation, say)
belongs into the loss.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsens.checks import check_at_least, check_key, check_positive, is_concrete, refuse
from jaxsens.metrics._norms import standard_error
from jaxsens.metrics.pac_bayes import as_scale, check_scalar, check_scale, floating_leaves, kl_divergence
from jaxsens.types import Estimate, Params, PRNGKey

__all__ = ["Loss", "SharpnessKL", "expected_sharpness", "sharpness", "sharpness_kl_curve"]

Loss: TypeAlias = Callable[[Any, Array], Array]
"""`loss(params, key) -> scalar`, deterministic given the key it draws its minibatch from."""

_Objective: TypeAlias = Callable[[list[Array], Array], Array]


class SharpnessKL(NamedTuple):
    """A network's line in the plot of expected sharpness against KL (D Figure 2), a point for each alpha."""

    alphas: Float[Array, " A"]
    kl: Float[Array, " A"]
    expected_sharpness: Estimate


def sharpness(
    loss: Loss,
    params: Params,
    *,
    key: PRNGKey,
    alpha: float | int | Float[Array, ""] = 5e-4,
    num_steps: int = 2000,
    learning_rate: float | int | Float[Array, ""] = 0.01,
    momentum: float | int | Float[Array, ""] = 0.9,
    num_evaluations: int = 32,
    denominator: bool = False,
) -> Estimate:
    """max over |nu_i| <= alpha (|w_i| + 1) of L(w + nu) - L(w) (D eq. 4, after Keskar et al.).

    nu is found by stochastic gradient ascent from 0 (D Appendix A), a new minibatch in each step:

        v <- momentum v + dL/dw(w + nu),    nu <- nu + learning_rate v, clipped to the box

    and L(w + nu) - L(w) is then a mean over `num_evaluations` new minibatches, each for both. The result is a
    LOWER bound of the maximum: how near it comes depends on the search. Its error bar is that of the
    minibatches in the evaluation alone; it knows nothing of the search.

    Args:
        loss: see the module; differentiable.
        params: any pytree with floating leaves, float32 or float64.
        key: a typed key. It gives each step and each evaluation a key of its own.
        alpha: the size of the box.
        num_steps: steps of the ascent.
        learning_rate: its step size.
        momentum: its momentum, in [0, 1).
        num_evaluations: minibatches in the evaluation, at least 2.
        denominator: divide by 1 + L(w), for a loss of at least 0 (Keskar et al.); D leaves it out.

    Returns:
        The value and its standard error (delta method for the ratio), scalars in the dtype of the loss. NaN
        under `jit` where params hold one or alpha is not positive, or too small to be resolved.

    Raises:
        InputError: for an option out of its range, an untyped key, params without a floating leaf, with one
            of another dtype or with a NaN or infinity, an alpha that is lost in the rounding of the weights,
            or a loss that is no scalar in float32 or float64.

    Cost: num_steps gradients and 2 num_evaluations forward passes; memory of a gradient and five copies of
    the parameters. Outside `jit` and `vmap` each step is a call of one compiled program: on CPU the gradient
    of a convolution is 50 to 200 times slower inside a compiled loop, which is what `jit` and `vmap` take.
    """
    check_key(key)
    check_scale("alpha", alpha)
    check_scale("learning_rate", learning_rate)
    check_scalar("momentum", momentum)
    if is_concrete(momentum) and not 0 <= momentum < 1:
        raise refuse(f"momentum={momentum}", "a momentum in [0, 1)", "pass momentum=0.9, or 0 for none")
    check_at_least("num_steps", num_steps, 1)
    # One evaluation has no error bar.
    check_at_least("num_evaluations", num_evaluations, 2)
    objective, weights = _bind(loss, params, key)
    # alpha (|w| + 1) is at least 100 roundings of w.
    _check_resolved("alpha", alpha, _least(weights, 100))
    ascent_key, evaluation_key = jax.random.split(key)

    def step(i: Any, state: Any, constants: Any) -> Any:
        (nus, velocities), (weights, alpha, key) = state, constants
        gradients = jax.grad(objective)(_add(weights, nus), jax.random.fold_in(key, i))
        velocities = [(momentum * v + g).astype(g.dtype) for v, g in zip(velocities, gradients, strict=True)]
        moved = [(n + learning_rate * v).astype(n.dtype) for n, v in zip(nus, velocities, strict=True)]
        box = [as_scale(alpha, w.dtype) * (jnp.abs(w) + 1) for w in weights]
        return [jnp.clip(n, -b, b) for n, b in zip(moved, box, strict=True)], velocities

    def evaluate(i: Any, constants: Any) -> Array:
        weights, nus, key = constants
        minibatch = jax.random.fold_in(key, i)
        return jnp.stack([objective(_add(weights, nus), minibatch), objective(weights, minibatch)])

    zeros = [np.zeros(w.shape, w.dtype) for w in weights]
    nus, _ = _repeat(step, (zeros, zeros), (weights, alpha, ascent_key), num_steps)
    losses = _each(evaluate, num_evaluations, (weights, nus, evaluation_key))
    highs, lows = losses[:, 0], losses[:, 1]
    differences = highs - lows
    value = jnp.mean(differences)
    if denominator:
        scale = 1 + jnp.mean(lows)
        value = jnp.where(scale > 0, value / scale, jnp.nan)
        differences = (differences - value * (1 + lows)) / scale
    return _estimate(value, differences, lows, weights, alpha, _least(weights, 100))


def expected_sharpness(
    loss: Loss,
    params: Params,
    *,
    key: PRNGKey,
    alpha: float | int | Float[Array, ""] | None = None,
    sigma: float | int | Float[Array, ""] | None = None,
    num_perturbations: int = 1000,
    perturbations_per_draw: int = 10,
    batch_size: int | None = None,
) -> Estimate:
    """E_nu[L(w + nu)] - L(w), nu_i ~ N(0, s_i^2) (D section 2.4).

        alpha    s_i = alpha (10 |w_i| + 1), a standard deviation (Appendix A)
        sigma    s_i = sigma for all, as eq. 6 and a certificate need (`pac_bayes_bound`)

    Exactly one of the two is given. Perturbations come in pairs +nu and -nu: each has the distribution of nu,
    and what is of first order in nu cancels. Groups of `perturbations_per_draw` share a minibatch and its
    L(w); the value is the mean over groups, the standard error that of these independent group means.

    Args:
        loss: see the module; it need not be differentiable.
        params, key: as for `sharpness`. A pair depends on the key and on its place in the order, not on the
            group's size or `batch_size` (keys of the "rbg" kinds excepted: JAX batches them otherwise).
        alpha, sigma: the scale of the perturbations.
        num_perturbations: 1000 in D.
        perturbations_per_draw: an even number; num_perturbations is a multiple of it, twice it at least.
        batch_size: pairs at once. None takes 1 on CPU, where several kernels at once make slow grouped
            convolutions, and a group elsewhere.

    Returns:
        The value and its standard error, scalars in the dtype of the loss; NaN as for `sharpness`.

    Raises:
        InputError: as `sharpness`.

    Cost: num_perturbations (1 + 1 / perturbations_per_draw) forward passes, and half as many draws of a
    normal number for each parameter; memory of 2 `batch_size` passes with their parameters. Outside `jit` and
    `vmap` each pair is a call of one compiled program. Either way is compiled anew at every call.
    """
    if (alpha is None) == (sigma is None):
        raise refuse(f"alpha={alpha}, sigma={sigma}", "exactly one of them", "leave out the other")
    scale, name = (sigma, "sigma") if alpha is None else (alpha, "alpha")
    check_scale(name, scale)
    estimate = _expected(
        loss, params, scale, name, key, num_perturbations, perturbations_per_draw, batch_size
    )
    return Estimate(estimate.value[0], estimate.stderr[0])


def sharpness_kl_curve(
    loss: Loss,
    params: Params,
    alphas: Float[Array | np.ndarray, " A"],
    *,
    key: PRNGKey,
    num_perturbations: int = 1000,
    perturbations_per_draw: int = 10,
    batch_size: int | None = None,
) -> SharpnessKL:
    """Expected sharpness against KL over a range of alpha: D's bi-criteria plot (Figure 2).

    Each entry is `expected_sharpness(..., alpha=alpha)` and `kl_divergence(params, alpha=alpha)`. All take
    the same key: every alpha has the same minibatches and, but for their scale, perturbations. So the line is
    smooth, and its errors move together.

    Args and errors are those of `expected_sharpness`, `alphas` being of shape (A,). Returns a `SharpnessKL`
    whose entries have that shape. Cost: A times that of `expected_sharpness`, with L(w) computed once.
    """
    if np.ndim(alphas) != 1 or np.size(alphas) == 0:
        raise refuse(f"alphas of shape {np.shape(alphas)}", "shape (A,), A >= 1", "pass a vector of alphas")
    check_positive("alphas", alphas)
    estimate = _expected(
        loss, params, alphas, "alpha", key, num_perturbations, perturbations_per_draw, batch_size
    )
    alphas = jnp.asarray(alphas, float)
    kl = jax.lax.map(lambda alpha: kl_divergence(params, alpha=alpha), alphas)
    return SharpnessKL(alphas, kl, estimate)


def _expected(
    loss: Loss,
    params: Params,
    scales: Any,
    name: str,
    key: PRNGKey,
    num_perturbations: int,
    per_group: int,
    batch_size: int | None,
) -> Estimate:
    """`expected_sharpness` for one scale or each in turn, with the same random numbers; shape (A,)."""
    check_key(key)
    batch_size = _check_perturbations(num_perturbations, per_group, batch_size)
    objective, weights = _bind(loss, params, key)
    # alpha (10 |w| + 1) is at least 100 roundings of w; so is sigma of weights of 10.
    least = _least(weights, 10)
    _check_resolved(name, scales, least)
    scales = jnp.ravel(jnp.asarray(scales, float))
    num_pairs = num_perturbations // 2

    def unperturbed(group: Any, constants: Any) -> Array:
        weights, _, loss_key, _ = constants
        return objective(weights, jax.random.fold_in(loss_key, group))

    def perturbed(i: Any, constants: Any) -> Array:
        weights, scales, loss_key, noise_key = constants
        scale, pair = scales[i // num_pairs], i % num_pairs
        minibatch = jax.random.fold_in(loss_key, 2 * pair // per_group)
        normals = _normals(jax.random.fold_in(noise_key, pair), weights)
        relative = [10 * jnp.abs(w) + 1 if name == "alpha" else 1 for w in weights]
        nus = [as_scale(scale, z.dtype) * r * z for r, z in zip(relative, normals, strict=True)]
        return jnp.stack([objective(_add(weights, signed), minibatch) for signed in (nus, [-n for n in nus])])

    constants = (weights, scales, *jax.random.split(key))
    lows = _each(unperturbed, num_perturbations // per_group, constants)
    highs = _each(perturbed, len(scales) * num_pairs, constants, batch_size)
    means = jnp.mean(highs.reshape(len(scales), -1, per_group) - lows[:, None], axis=-1)
    return _estimate(jnp.mean(means, axis=-1), means, lows, weights, scales, least)


def _bind(loss: Loss, params: Params, key: PRNGKey) -> tuple[_Objective, list[Array]]:
    """The checked loss as a function of the floating leaves, and these."""
    weights, fill = floating_leaves(params)

    def objective(leaves: list[Array], key: Array) -> Array:
        return loss(fill(leaves), key)

    output = jax.eval_shape(objective, weights, key)
    dtype, shape = getattr(output, "dtype", None), getattr(output, "shape", None)
    floats = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    if not floats or shape != () or jnp.finfo(dtype).bits < 32:
        raise refuse(
            f"loss(params, key) of type {type(output).__name__}, dtype {dtype}, shape {shape}",
            "one scalar, float32 or float64",
            "return the mean loss of a minibatch alone, in float32",
        )
    return objective, weights


def _add(weights: list[Array], nus: list[Array]) -> list[Array]:
    return [w + n for w, n in zip(weights, nus, strict=True)]


def _normals(key: PRNGKey, weights: list[Array]) -> list[Array]:
    """A standard normal number for each weight: one draw, which compiles 10 times faster than one a leaf."""
    sizes = [w.size for w in weights]
    flat = jax.random.normal(key, (sum(sizes),), jnp.result_type(*weights))
    parts = jnp.split(flat, np.cumsum(sizes)[:-1])
    return [z.reshape(w.shape).astype(w.dtype) for z, w in zip(parts, weights, strict=True)]


def _repeat(step: Callable[[Any, Any, Any], Any], state: Any, constants: Any, num_steps: int) -> Any:
    """`step(i, state, constants)` for each i, compiled once and called from Python unless anything is traced.

    What the loss closes over may be traced too: that shows in the state after a step.
    """
    once = jax.jit(step)
    for i in range(num_steps):
        if _any_traced((state, constants)):
            return jax.lax.fori_loop(i, num_steps, lambda i, state: step(i, state, constants), state)
        state = once(i, state, constants)
    return state


def _each(function: Callable[[Any, Any], Array], num: int, constants: Any, batch_size: int = 1) -> Array:
    """`function(i, constants)` for i < num, stacked; called from Python as in `_repeat` for a batch of 1."""
    once, results = jax.jit(function), []
    for i in range(num):
        if batch_size > 1 or _any_traced((constants, results[:1])):
            at_once = None if batch_size == 1 else min(batch_size, num)
            return jax.lax.map(lambda i: function(i, constants), jnp.arange(num), batch_size=at_once)
        results.append(once(i, constants))
    return jnp.asarray(np.stack(jax.device_get(results)))


def _any_traced(tree: Any) -> bool:
    return not all(is_concrete(leaf) for leaf in jax.tree.leaves(tree))


def _estimate(
    value: Array, samples: Array, lows: Array, weights: list[Array], scale: Any, least: float
) -> Estimate:
    """The value, and the standard error of a mean of `samples` over their last axis.

    The rounding of L(w), `lows`, is in every difference alike, so it is in the error bar. NaN where weights
    or the scale were traced, so that no check could look at them, and are none to perturb: an error rate is
    a number even for NaN.
    """
    usable = jnp.asarray(scale) >= least
    for w in weights:
        usable &= True if is_concrete(w) else jnp.all(jnp.isfinite(w))
    rounding = jnp.finfo(lows.dtype).eps * jnp.mean(jnp.abs(lows))
    stderr = jnp.hypot(standard_error(samples), rounding)
    return Estimate(jnp.where(usable, value, jnp.nan), jnp.where(usable, stderr, jnp.nan))


def _least(weights: list[Array], roundings: int) -> float:
    """The scale below which rounding swallows the perturbation of a large weight."""
    return roundings * max(float(jnp.finfo(w.dtype).eps) for w in weights)


def _check_resolved(name: str, scales: Any, least: float) -> None:
    """Refuses a scale that rounding swallows."""
    # NumPy, because inside a trace jax.numpy would trace even concrete arrays.
    if is_concrete(scales) and np.asarray(scales).min() < least:
        raise refuse(
            f"{name}={np.asarray(scales).min()}",
            f"at least {least:.1e} for these dtypes",
            f"raise {name}, or use float64 parameters",
        )


def _check_perturbations(num_perturbations: int, per_group: int, batch_size: int | None) -> int:
    """Refuses pairs or groups that do not come out even; returns the batch size."""
    check_at_least("perturbations_per_draw", per_group, 2)
    check_at_least("num_perturbations", num_perturbations, 1)
    if per_group % 2:
        raise refuse(f"perturbations_per_draw={per_group}", "an even number, of pairs", "pass an even number")
    if num_perturbations % per_group or num_perturbations < 2 * per_group:
        raise refuse(
            f"num_perturbations={num_perturbations} in groups of {per_group}",
            "a multiple of the group, at least 2 groups",
            "change num_perturbations or perturbations_per_draw",
        )
    if batch_size is None:
        return 1 if jax.default_backend() == "cpu" else per_group // 2
    check_at_least("batch_size", batch_size, 1)
    return batch_size
