"""The exact number of activation boundaries that a segment crosses in a piecewise-linear perceptron (E).

E (Novak et al., "Sensitivity and Generalization in Neural Networks", 2018) counts the transitions of sampled
points; here nothing is sampled. Between two boundaries the network is affine, so the next boundary on the
way is the least of N quotients: the walk goes from boundary to boundary.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jaxsens.checks import carry_nan, check_choice, check_examples, check_finite, refuse
from jaxsens.metrics._batching import check_floating
from jaxsens.metrics.activations import check_perceptron
from jaxsens.types import PIECEWISE_LINEAR

__all__ = ["count_crossings"]


def count_crossings(
    weights: Sequence[Float[Array, "_ _"]],
    biases: Sequence[Float[Array, " _"]] | None,
    a: Float[Array, "n *shape"],
    b: Float[Array, "n *shape"],
    *,
    activation: str = "relu",
) -> Int32[Array, " n"]:
    """The total variation of the code c(x) of `activation_codes` along each segment from a_i to b_i.

    That is how often hidden units pass a kink, of which those with three codes have two. `transition_count`
    of points in order on the segment, closed=False, rises to it from below as they get denser. Reversing a
    segment changes nothing; the parts of a segment, and the sides of a polygon, sum. A unit that only touches
    its kink, where another passes its own, crosses nothing.

    Args:
        weights: k matrices (in, out), input to output.
        biases: k vectors (out,), or None for a biasless perceptron.
        a: n starts of any shape; their entries are flattened in C order.
        b: n ends, of that shape.
        activation: a name in `PIECEWISE_LINEAR`.

    Returns:
        n int32 counts, 0 for a perceptron without hidden layers; -1 where preactivations overflow, or under
        `jit` are not finite.

    Raises:
        InputError: for shapes that do not chain, ends of another size or number, no segments, a dtype other
            than float32 or float64, a NaN or infinity, or an unknown activation.

    Cost: m + 1 passes of two vectors per segment through the hidden layers, m the largest of the n counts,
    for the segments walk in lock-step; the first layer is multiplied once. Exact up to rounding: boundaries
    closer together than the precision resolves may be missed, in pairs, or taken in another order; where many
    meet in one point, as where a layer without biases dies and all above die with it, it may add pairs too.
    """
    check_choice("activation", activation, PIECEWISE_LINEAR)
    check_perceptron(weights, biases)
    check_ends(weights, a, b)
    if len(weights) == 1:
        return jnp.zeros(a.shape[0], jnp.int32)
    dtype = jnp.result_type(*weights, *(biases or ()), a, b)
    if biases is None:
        biases = [jnp.zeros(matrix.shape[1], dtype) for matrix in weights]
    # The output layer has no kinks.
    layers = [(w.astype(dtype), v.astype(dtype)) for w, v in zip(weights[:-1], biases[:-1], strict=True)]
    ends = (end.reshape(end.shape[0], -1).astype(dtype) for end in (a, b))
    counts = walk_all(layers, *ends, activation=activation)
    return carry_nan(counts, weights, biases, examples=(a, b))


# Compiled here: a while_loop outside jit would be compiled again at every call.
@partial(jax.jit, static_argnames="activation")
def walk_all(
    layers: list[tuple[Array, Array]], a: Float[Array, "n D"], b: Float[Array, "n D"], *, activation: str
) -> Int32[Array, " n"]:
    """The crossings of n segments, given the hidden layers' (W_l, b_l)."""
    slope, shift, low, high = PIECEWISE_LINEAR[activation]
    # From here on a layer computes y = slope z + shift, which the activation holds between low and high.
    (first, bias), *inner = [(slope * matrix, slope * bias + shift) for matrix, bias in layers]
    starts, directions = multiply(a, first) + bias, multiply(b - a, first)
    return jax.vmap(lambda start, direction: walk(inner, start, direction, low, high))(starts, directions)


def walk(
    inner: list[tuple[Array, Array]],
    start: Float[Array, " H"],
    direction: Float[Array, " H"],
    low: float | Array,
    high: float | Array,
) -> Int32[Array, ""]:
    """The crossings of one segment, from y_1 at its start and dy_1/dt, while t goes from 0 to 1.

    The codes are carried along, not read off y: a unit that has just passed a kink moves away from it, and
    cannot pass it again because y rounds to the wrong side. It ends, for dy_1/dt is constant, so that a unit
    of layer 1 passes each kink at most once, and one of layer l does between two changes below it.
    """

    def look(t: Array, codes: tuple[Array, ...]) -> tuple[list[Array], list[Array]]:
        """y and dy/dt of every layer at t, on the pieces that the codes name."""
        ys, rates = [start + t * direction], [direction]
        for code, (matrix, bias) in zip(codes, inner, strict=False):
            held = jnp.where(code == 1, ys[-1], jnp.where(code == 0, low, high))
            pair = multiply(jnp.stack([held, jnp.where(code == 1, rates[-1], 0)]), matrix)
            ys.append(pair[0] + bias)
            rates.append(pair[1])
        return ys, rates

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        t, codes, count, sound, _ = state
        y, rate = map(jnp.concatenate, look(t, codes))
        sound &= jnp.all(jnp.isfinite(y) & jnp.isfinite(rate))
        code = jnp.concatenate(codes)
        leaving = code != 1
        kink = jnp.where(code == 0, low, jnp.where(leaving | (rate > 0), high, low))
        towards = jnp.where(code == 0, rate > 0, jnp.where(code == 2, rate < 0, rate != 0))
        # A unit that rounding has put beyond the kink it moves towards passes it now, not in the past.
        hit = t + jnp.maximum((kink - y) / jnp.where(towards, rate, 1), 0)
        # A layer below that has gone flat may leave a unit standing on its kink, which is a flat piece.
        stands = ~leaving & (rate == 0) & ((y <= low) | (y >= high))
        way = jnp.where(stands, jnp.where(y <= low, -1, 1), jnp.sign(rate))
        towards, hit = towards | stands, jnp.where(stands, t, hit)
        # A unit on its kink is still flat: a piece that starts at the far end is not entered.
        before = jnp.where(leaving, hit < 1, hit <= 1)
        hit = jnp.where(towards & before, hit, jnp.inf)
        # The first of several: the lowest layer, on which depends whether the others pass or turn round.
        passing = (jnp.arange(len(hit)) == jnp.argmin(hit)) & jnp.isfinite(hit)
        code = code + jnp.where(passing, way, 0).astype(code.dtype)
        more = jnp.any(passing)
        return jnp.where(more, jnp.min(hit), t), split(code), count + more, sound, more & sound

    def split(code: Array) -> tuple[Array, ...]:
        return tuple(jnp.split(code, ends))

    def code_of(y: Array) -> Array:
        return (y > low).astype(jnp.int8) + (y >= high)

    codes = (code_of(start),)
    ends = list(accumulate([len(start), *(len(bias) for _, bias in inner)]))[:-1]
    for _ in inner:
        ys, _ = look(jnp.zeros((), start.dtype), codes)
        codes = (*codes, code_of(ys[-1]))
    state = (jnp.zeros((), start.dtype), codes, jnp.int32(0), jnp.bool_(True), jnp.bool_(True))
    *_, count, sound, _ = jax.lax.while_loop(lambda state: state[-1], step, state)
    return jnp.where(sound, count, -1)


def multiply(a: Array, b: Array) -> Array:
    """The product in full precision, on devices that would take less by default too."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def check_ends(weights: Sequence[Any], a: Any, b: Any) -> None:
    """Refuses ends that are not n >= 1 finite inputs of this perceptron each, of one shape."""
    for name, end in (("a", a), ("b", b)):
        check_examples(end, name=name)
        check_floating(name, end)
        check_finite(name, end)
    if a.shape != b.shape or a.size != a.shape[0] * weights[0].shape[0]:
        raise refuse(
            f"a of shape {a.shape} and b of shape {b.shape} for weights[0] of shape {weights[0].shape}",
            f"n starts and n ends of {weights[0].shape[0]} entries each",
            "pass inputs of this perceptron, with a leading axis over the segments",
        )
