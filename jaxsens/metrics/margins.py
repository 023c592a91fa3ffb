"""Classification margins, the scale of the outputs that a norm has to be seen against (D section 2.2).

Scaling all logits by c changes no decision, but scales margins by c and capacities by 1 / margin^2. So a
norm is compared between networks after its division by the squared margin: `log_l2_norm` and its kin take
`margin_percentile(...).log_value` as `log_margin`.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxsens.checks import carry_nan, check_examples, check_finite, check_labels, is_concrete, refuse
from jaxsens.metrics._batching import bind, check_floating, map_examples
from jaxsens.types import Function, Params

__all__ = ["MarginPercentile", "margin", "margin_percentile", "percentile_of_margins"]


class MarginPercentile(NamedTuple):
    """A percentile of the margins over a training set, and what a capacity makes of it.

    `log_value` is log(value) of a positive margin. A margin of 0 or less separates nothing, and no capacity
    bound holds at it: `log_value` is then -inf, never NaN, and `separates` False. Norms over the margin take
    -2 log_value and so become +inf.
    """

    value: Float[Array, ""]
    log_value: Float[Array, ""]
    separates: Bool[Array, ""]


def margin(
    f: Function,
    params: Params,
    xs: Float[Array, "n *shape"],
    ys: Int[Array, " n"],
    *,
    batch_size: int | None = None,
) -> Float[Array, " n"]:
    """f(x)_y - max_{j != y} f(x)_j of each example: positive where it is classified rightly (D eq. 2).

    Args:
        f: `f(params, x) -> (K,)` of one example, K >= 2, before the softmax.
        params: its parameters.
        xs: n examples of any shape, float32 or float64.
        ys: their n class labels, integers in [0, K).
        batch_size: examples per chunk; None takes all at once.

    Returns:
        n margins in the dtype of `xs`. Adding one number to all logits of an example leaves its margin.

    Raises:
        InputError: for no examples, another dtype, an f whose output is no vector of at least 2, labels that
            are no integers, out of range or not one per example, a NaN or infinity in `params` or `xs`, or a
            bad `batch_size`. Under `jit` a label out of range makes its margin NaN.

    Cost: one forward pass.
    """
    model, num_outputs = bind(f, params, xs)
    if num_outputs < 2:
        raise refuse(
            "f(params, x) of shape (1,)",
            "at least 2 outputs, one per class",
            "for a binary score s pass a model of the logits (0, s)",
        )
    if getattr(ys, "shape", None) != xs.shape[:1]:
        raise refuse(
            f"ys of shape {np.shape(ys)} for {xs.shape[0]} examples",
            f"shape {xs.shape[:1]}",
            "pass one class label per example",
        )
    check_labels(ys, num_outputs)

    def of_example(example: tuple[Array, Array]) -> Array:
        logits, is_label = model(example[0]), jnp.arange(num_outputs) == example[1]
        others = jnp.where(is_label, -jnp.inf, logits)
        own = jnp.where(jnp.any(is_label), jnp.sum(jnp.where(is_label, logits, 0)), jnp.nan)
        return own - jnp.max(others)

    return carry_nan(map_examples(of_example, (xs, ys), batch_size), params, examples=xs)


def margin_percentile(
    f: Function,
    params: Params,
    xs: Float[Array, "n *shape"],
    ys: Int[Array, " n"],
    *,
    percent: float | int = 5,
    batch_size: int | None = None,
) -> MarginPercentile:
    """gamma_margin: a low percentile of the margins over the training set (D section 2.2, Figure 1).

    `percent` is 100 epsilon; D's figures take 5. Arguments and errors are those of `margin`, and those of
    `percentile_of_margins`, which says which margin it is. Returns a `MarginPercentile`.
    """
    check_percent(percent)
    return percentile_of_margins(margin(f, params, xs, ys, batch_size=batch_size), percent=percent)


def percentile_of_margins(margins: Float[Array, " n"], *, percent: float | int = 5) -> MarginPercentile:
    """The ceil(percent n / 100)-th smallest margin, at least the first (D section 2.2).

    D: "the lowest value of gamma such that ceil(epsilon m) data points have margin lower than gamma". No
    gamma is lowest where "lower" is strict; the margin here is the infimum of all such. It is a margin that
    an example has: percentiles that interpolate differ by less than the gap to the next one.

    Args:
        margins: of n examples, as `margin` gives them.
        percent: 100 epsilon, from 0 to 100; 0 gives the smallest, the "hard" margin.

    Returns:
        A `MarginPercentile` in the dtype of `margins`.

    Raises:
        InputError: for no margins, another rank or dtype, a NaN or infinity, or `percent` out of range. Under
            `jit` a NaN among the margins makes the value and its logarithm NaN.
    """
    check_percent(percent)
    if getattr(margins, "ndim", None) != 1:
        raise refuse(f"margins of shape {np.shape(margins)}", "shape (n,)", "pass one margin per example")
    check_examples(margins, name="margins")
    check_floating("margins", margins)
    check_finite("margins", margins)
    # Rounded: 100 * 0.07 * n / 100 may lie just above a whole number.
    rank = max(1, math.ceil(round(float(percent) * margins.shape[0] / 100, 9)))
    # A sort puts NaN last, where no low percentile would find it.
    value = jnp.where(jnp.any(jnp.isnan(margins)), jnp.nan, jnp.sort(margins)[rank - 1])
    separates = value > 0
    log_value = jnp.where(separates, jnp.log(jnp.where(separates, value, 1)), -jnp.inf)
    return MarginPercentile(value, jnp.where(jnp.isnan(value), jnp.nan, log_value), separates)


def check_percent(percent: Any) -> None:
    """Refuses anything but one number from 0 to 100."""
    number = isinstance(percent, int | float | np.number) and not isinstance(percent, bool)
    if not (is_concrete(percent) and number and 0 <= percent <= 100):
        raise refuse(f"percent={percent!r}", "a number from 0 to 100", "pass 5 for D's 5th percentile")
