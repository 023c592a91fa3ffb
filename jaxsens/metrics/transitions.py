"""Activation codes, and how often they change from point to point along a trajectory (E).

E is Novak et al., "Sensitivity and Generalization in Neural Networks" (2018). A piecewise-linear activation
is flat, linear, flat; a unit's code says on which of its pieces it is, and a network's code, all units in one
row, names one linear region of the input space. ReLU has two codes; ReLU6, HardTanh and HardSigmoid three.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8, Int32, Integer

from jaxsens.checks import carry_nan, check_choice, is_concrete, refuse
from jaxsens.metrics.activations import check_preactivations
from jaxsens.types import PIECEWISE_LINEAR

__all__ = ["activation_codes", "transition_count"]


def activation_codes(
    preactivations: Sequence[Float[Array, "n _"]], *, activation: str = "relu"
) -> Int8[Array, "n N"]:
    """c(x): 0 where slope z + shift <= low, 2 where it is >= high, 1 between (E); ReLU is never at 2.

    With ReLU, code 1 is an active unit of `activation_pattern`.

    Args:
        preactivations: (n, H_l) of each hidden layer, as `mlp_preactivations` returns them.
        activation: a name in `PIECEWISE_LINEAR`.

    Returns:
        int8 codes, all N = H_1 + ... + H_L hidden units in one row; -1 under `jit` where an example's
        preactivations are not finite.

    Raises:
        InputError: for no hidden layer, no examples, layers of other than one n, another dtype than float32
            or float64, a NaN or infinity, or an unknown activation.
    """
    check_choice("activation", activation, PIECEWISE_LINEAR)
    check_preactivations(preactivations)
    slope, shift, low, high = PIECEWISE_LINEAR[activation]
    y = slope * jnp.concatenate(preactivations, axis=1) + shift
    codes = (y > low).astype(jnp.int8) + (y >= high).astype(jnp.int8)
    return carry_nan(codes, examples=preactivations)


def transition_count(codes: Integer[Array, "k N"], *, closed: bool = True) -> Int32[Array, ""]:
    """t = sum_i |c(z_i) - c(z_{i+1})|_1 over k points z_i in order, i + 1 modulo k if closed (E).

    Sampled points miss a unit that changes twice between two of them: t is at most the number of boundaries
    crossed (`count_crossings`), and rises to it as the points get denser.

    Args:
        codes: one row per point, of whole numbers >= 0, such as `activation_codes` makes. For many
            trajectories (n, k, N), take `vmap`.
        closed: whether the last point is followed by the first; with k = 2 that counts each change twice.

    Returns:
        An int32 scalar. Under `jit` it is -1 for codes that would be refused for their values.

    Raises:
        InputError: for another rank than 2, fewer than 2 points, no units, a dtype that is no integer, a code
            below 0, or largest codes c with k N c >= 2^31, whose count might not fit.
    """
    check_codes(codes)
    # Unsigned or narrow codes would wrap around in the difference.
    wide = codes.astype(jnp.int32)
    following = jnp.roll(wide, -1, axis=0)
    changes = jnp.abs(wide - following)
    count = jnp.sum(changes if closed else changes[:-1], dtype=jnp.int32)
    if is_concrete(codes):
        return count
    # Unsigned codes from 2^31 on are negative here.
    in_range = (wide.min() >= 0) & (wide.max() <= (2**31 - 1) // wide.size)
    return jnp.where(in_range, count, -1)


def check_codes(codes: Any) -> None:
    """Refuses anything but whole numbers of shape (k, N), k >= 2, N >= 1."""
    if getattr(codes, "ndim", None) != 2 or codes.shape[0] < 2 or codes.shape[1] < 1:
        raise refuse(
            f"codes of shape {np.shape(codes)}",
            "(k, N), N units at each of k >= 2 points",
            "pass one trajectory, and vmap over several",
        )
    if not jnp.issubdtype(codes.dtype, jnp.integer):
        raise refuse(
            f"codes of dtype {codes.dtype}",
            "integers",
            "make them with activation_codes, or cast booleans to int8",
        )
    if is_concrete(codes):
        lowest, highest = int(np.asarray(codes).min()), int(np.asarray(codes).max())
        if lowest < 0 or highest * codes.size >= 2**31:
            raise refuse(
                f"codes from {lowest} to {highest} of shape {codes.shape}",
                "codes >= 0 whose changes can be counted in 32 bits",
                "make them with activation_codes, and split a longer trajectory",
            )
