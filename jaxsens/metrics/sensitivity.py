"""Output sensitivity S (A section 3.2): the variance of the output noise that input noise causes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsens.checks import (
    carry_nan,
    check_at_least,
    check_choice,
    check_finite,
    check_key,
    check_positive,
    is_concrete,
    refuse,
)
from jaxsens.metrics._batching import bind, check_floating, map_examples, map_examples_unrolled
from jaxsens.metrics._norms import frobenius_norm
from jaxsens.metrics.jacobian import pull_back
from jaxsens.metrics.pac_bayes import as_scale
from jaxsens.types import Estimate, Function, Params, PRNGKey

__all__ = ["linearized_output_sensitivity", "output_noise", "output_sensitivity", "sensitivity_of_noise"]

CHANNELS: dict[str, Callable[[Array], Array]] = {
    "mean": lambda e: jnp.mean(e, axis=-1, keepdims=True),
    "per_output": lambda e: e,
    "centred": lambda e: e - jnp.mean(e, axis=-1, keepdims=True),
}
"""What each average takes the variance of: linear maps from K outputs, on the last axis, to channels."""


def output_sensitivity(
    f: Function,
    params: Params,
    xs: Float[Array, "n *shape"],
    *,
    key: PRNGKey,
    noise_std: float | int | Float[Array, ""] = 0.1,
    num_draws: int = 1,
    average: str = "mean",
    batch_size: int | None = None,
) -> Estimate:
    """S = Var_{x, eps}[(1/K) sum_k eps_y^k], eps_y = f(x + eps) - f(x), eps ~ N(0, noise_std^2 I) (A eq. 2).

    That is `average="mean"`. `"per_output"` is (1/K) sum_k Var[eps_y^k], and `"centred"` is
    (1/K) sum_k Var[eps_y^k - mean_j eps_y^j], which does not see a function c(x) added to all logits, as the
    loss does not. Probabilities sum to 1, so on softmax(f) `"mean"` is 0 whatever f is: use `"per_output"`
    there. With K = 1 `"centred"` is 0. A's expectation over the parameters is a mean over members.

    Args:
        f: `f(params, x) -> (K,)` of one example, before the softmax.
        params: its parameters.
        xs: n examples of any shape, float32 or float64. They are perturbed as they are and not clipped.
        key: a typed key. The noise depends on it, the draw and the example's index alone, not on
            `batch_size` (keys of the "rbg" kinds excepted: JAX batches them otherwise).
        noise_std: standard deviation of each entry of the input noise.
        num_draws: draws per example.
        average: "mean", "per_output" or "centred".
        batch_size: examples per chunk; None takes all at once.

    Returns:
        S and its standard error, scalars in the dtype of `xs`. The error is that of `xs` as a sample from a
        larger population, see `sensitivity_of_noise`. NaN where arguments are traced and would be refused
        for their values.

    Raises:
        InputError: for no examples, a single example with a single draw, another dtype, an f whose output is
            no vector, a NaN or infinity, a `noise_std` that is not positive or is lost in the rounding of
            `xs`, `num_draws < 1`, an unknown `average`, an untyped key, or a bad `batch_size`.

    Cost: 1 + num_draws forward passes per example; memory of `batch_size` passes and num_draws x n x K
    outputs. The difference is taken in f's own precision: f's rounding adds about (its relative error
    x |f|)^2 to S. Where noise_std is so small that this shows, use `linearized_output_sensitivity`.
    Wrap repeated calls in `jax.jit`: outside it the loop over draws is compiled anew at every call.
    """
    check_choice("average", average, CHANNELS)
    noise = output_noise(
        f, params, xs, key=key, noise_std=noise_std, num_draws=num_draws, batch_size=batch_size
    )
    return sensitivity_of_noise(noise, average=average)


def output_noise(
    f: Function,
    params: Params,
    xs: Float[Array, "n *shape"],
    *,
    key: PRNGKey,
    noise_std: float | int | Float[Array, ""] = 0.1,
    num_draws: int = 1,
    batch_size: int | None = None,
) -> Float[Array, "draws n K"]:
    """eps_y = f(x + eps) - f(x), eps ~ N(0, noise_std^2 I) (A section 3.2), for each draw and example.

    Arguments, errors and cost are those of `output_sensitivity`; returns (num_draws, n, K) in the dtype of
    `xs`. Draw d at example i is the same whatever `num_draws` and n are.
    """
    check_key(key)
    check_noise_std(noise_std)
    check_at_least("num_draws", num_draws, 1)
    model, _ = bind(f, params, xs)
    check_resolved(noise_std, xs)
    sigma = as_scale(noise_std, xs.dtype)
    clean = map_examples(model, xs, batch_size)

    def noise_of_draw(draw: Array) -> Array:
        draw_key = jax.random.fold_in(key, draw)

        def perturbed(example: tuple[Array, Array]) -> Array:
            i, x = example
            return model(x + sigma * jax.random.normal(jax.random.fold_in(draw_key, i), x.shape, x.dtype))

        return map_examples(perturbed, (jnp.arange(xs.shape[0]), xs), batch_size) - clean

    noise = jax.lax.map(noise_of_draw, jnp.arange(num_draws))
    if not (is_concrete(noise_std) and is_concrete(xs)):
        # What `check_resolved` could not look at.
        least = 100 * float(jnp.finfo(xs.dtype).eps) * jnp.max(jnp.abs(xs))
        noise = jnp.where(sigma >= least, noise, jnp.nan)
    return carry_nan(noise, params, xs)


def sensitivity_of_noise(output_noise: Float[Array, "draws n K"], *, average: str = "mean") -> Estimate:
    """S from output noise (A eq. 2): v = mean over channels of Var_{draws, x}[e], variances of ddof 0.

    The channels e of `average` are the K-mean of the noise ("mean"), its K entries ("per_output") or its K
    entries less their mean ("centred"). The standard error is the delta method's: with the influence
    psi_x = mean over draws and channels of (e - m)^2, less v, it is sqrt(sum_x psi_x^2 / (n (n - 1))). Draws
    at one example are not independent, so examples are the clusters; a single example is clustered by draws,
    and its error is then for that example alone.

    Args:
        output_noise: (draws, n, K), float32 or float64, as `output_noise` returns it.
        average: "mean", "per_output" or "centred".

    Returns:
        v and its standard error, scalars. v falls short of its expectation by the variance of the grand mean,
        a relative 1 / (draws x n) where all draws are independent.

    Raises:
        InputError: for another rank or dtype, fewer than 2 draws in all, no outputs, a NaN or infinity, or an
            unknown `average`.
    """
    check_choice("average", average, CHANNELS)
    if output_noise.ndim != 3 or 0 in output_noise.shape:
        raise refuse(
            f"output noise of shape {output_noise.shape}", "shape (draws, n, K)", "give it all three axes"
        )
    draws, n, _ = output_noise.shape
    if draws * n < 2:
        raise refuse(
            "1 draw at 1 example", "at least 2 draws in all", "raise num_draws or pass more examples"
        )
    check_floating("output_noise", output_noise)
    check_finite("output_noise", output_noise)

    e = CHANNELS[average](output_noise)
    squares = jnp.mean((e - jnp.mean(e, axis=(0, 1))) ** 2, axis=-1)
    v = jnp.mean(squares)
    psi = (jnp.mean(squares, axis=0) if n > 1 else squares[:, 0]) - v
    # Not the root of a sum of squares, which are S^2 and underflow long before S does.
    return Estimate(v, frobenius_norm(psi) / (psi.size * (psi.size - 1)) ** 0.5)


def linearized_output_sensitivity(
    f: Function,
    params: Params,
    xs: Float[Array, "n *shape"],
    *,
    noise_std: float | int | Float[Array, ""] = 0.1,
    average: str = "mean",
    batch_size: int | None = None,
) -> Float[Array, ""]:
    """The leading term of S as noise_std -> 0, exact and without sampling, with s = noise_std and J = df/dx:

        "mean"        (s^2 / K^2) E_x |J^T 1|^2
        "per_output"  (s^2 / K)   E_x |J|_F^2
        "centred"     (s^2 / K)   E_x |(I - 1 1^T / K) J|_F^2

    the variance of J eps (A Appendix B, before its expectation over the parameters). A's Fig. 12 caption has
    s^2 |J|_F^2, which lacks the 1/K. For a linear f it is S itself.

    Args, dtypes and errors are those of `output_sensitivity`, one example being enough. Returns a scalar.
    Cost per example: one forward pass and one reverse pass for "mean", K for the others; memory of
    `batch_size` times as many. Chunks are unrolled: compile time grows with their number.
    """
    check_choice("average", average, CHANNELS)
    check_noise_std(noise_std)
    model, num_outputs = bind(f, params, xs)
    # K times the channel map: all ones for "mean", and whole numbers throughout, exact in a narrow dtype.
    cotangents = CHANNELS[average](num_outputs * jnp.eye(num_outputs)).T
    sigma = as_scale(noise_std, xs.dtype) / num_outputs

    def variance(x: Array) -> Array:
        _, rows = pull_back(model, x, cotangents)
        return jnp.mean(jnp.sum((sigma * rows) ** 2, axis=-1))

    return carry_nan(jnp.mean(map_examples_unrolled(variance, xs, batch_size)), params, xs)


def check_noise_std(noise_std: float | int | Array) -> None:
    """Refuses anything but one number above 0: an array would be broadcast against the input's own axes."""
    if np.ndim(noise_std) != 0:
        raise refuse(
            f"noise_std of shape {np.shape(noise_std)}", "one number", "use jax.vmap to sweep over noise_std"
        )
    check_positive("noise_std", noise_std)


def check_resolved(noise_std: float | int | Array, xs: Array | np.ndarray) -> None:
    """Refuses noise that rounding would swallow: x + eps == x makes S 0 (concrete values only)."""
    if not (is_concrete(noise_std) and is_concrete(xs)):
        return
    # NumPy, because inside a trace jax.numpy would trace even a concrete array.
    largest = float(np.abs(np.asarray(xs)).max())
    least = 100 * float(jnp.finfo(jax.dtypes.canonicalize_dtype(xs.dtype)).eps) * largest
    if float(noise_std) < least:
        raise refuse(
            f"noise_std={noise_std} for {xs.dtype} inputs as large as {largest}",
            f"at least {least:.1e}, 100 roundings of such an input",
            "raise noise_std, or use linearized_output_sensitivity or float64",
        )
