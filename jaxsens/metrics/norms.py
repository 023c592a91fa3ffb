"""Products over the layers of matrix norms: the l2 and the spectral complexity of a network (D section 2.2).

`weights` are the layers' weights without biases, input to output: dense matrices (in, out) and convolution
kernels (kh, kw, in, out). A convolution counts as the matrix (kh kw in, out), which is how D measures it; its
norm as the linear map between images is `conv_operator_norm`. Networks with batch normalisation are measured
after its folding (D Appendix A). The products leave the range of float32 in moderate networks: all results
are natural logarithms.

D prints the capacities up to a constant and to factors of the inputs' norm. With d layers, h_i the outputs of
layer i and the margin gamma they are

    l2         gamma^-2 prod_i 4 |W_i|_F^2
    spectral   gamma^-2 prod_i h_i |W_i|_2^2

Footnote 2 derives the second from the first, by |W|_F^2 <= h_i |W|_2^2. That gives prod_i 4 h_i |W_i|_2^2:
without the printed spectral capacity's missing 4^d the second may lie below the first, as it does at identity
matrices. "capacity" here is as printed. Between networks of one depth the difference is a constant.
"""

import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jaxsens.checks import check_choice, check_real, is_concrete, refuse
from jaxsens.metrics._norms import divisor
from jaxsens.metrics.activations import check_layer_arrays

__all__ = ["log_l2_norm", "log_spectral_norm"]

LogMargin: TypeAlias = float | int | np.number | Num[Array | np.ndarray, ""] | None
"""The logarithm of a margin, a scalar, or None."""

FORMS = ("plotted", "capacity")


def log_l2_norm(
    weights: Sequence[Float[Array, "..."]], *, form: str = "plotted", log_margin: LogMargin = None
) -> Float[Array, ""]:
    """log prod_i |W_i|_F^2, over the squared margin where that is given (D section 2.2).

        "plotted"    log prod_i |W_i|_F^2 - 2 log_margin, as D's figures drop what only sizes determine
        "capacity"   log prod_i 4 |W_i|_F^2 - 2 log_margin

    Moving a factor from one layer to the next leaves it, since |W|_F is homogeneous; a factor of one unit,
    node-wise rescaling, does not.

    Args:
        weights: one matrix (in, out) or convolution kernel (kh, kw, in, out) per layer, input to output.
        form: "plotted" or "capacity".
        log_margin: log gamma, as `margin_percentile(...).log_value`; None leaves the margin out. -inf, a
            network that does not separate its data, gives +inf for any weights, zeros included.

    Returns:
        A scalar, -inf where a layer is zero. It has no derivative there.

    Raises:
        InputError: for no weights, another rank or dtype, a NaN or infinity, layers that do not chain, an
            unknown form, or a `log_margin` that is NaN or +inf. Between two convolutions, or two matrices,
            outputs must equal inputs; from a convolution to a matrix, whose inputs are the flattened image,
            the channels must divide the inputs.
    """
    logs = _log_norms(weights, form, log_margin, lambda matrix: jnp.log(jnp.sum(matrix**2)))
    factors = len(weights) * math.log(4) if form == "capacity" else 0.0
    return per_margin(logs + factors, log_margin)


def log_spectral_norm(
    weights: Sequence[Float[Array, "..."]], *, form: str = "plotted", log_margin: LogMargin = None
) -> Float[Array, ""]:
    """log prod_i |W_i|_2^2, over the squared margin where that is given (D section 2.2).

        "plotted"    log prod_i |W_i|_2^2 - 2 log_margin
        "capacity"   log prod_i h_i |W_i|_2^2 - 2 log_margin, h_i the outputs or output channels of layer i

    |W|_2 is the largest singular value. "plotted" is twice `log_spectral_product`. Arguments and errors are
    those of `log_l2_norm`, and so is the result; its derivative needs a largest singular value that is one
    alone.

    Cost: an eigenvalue decomposition of each layer's Gram matrix, of its smaller side.
    """
    logs = _log_norms(weights, form, log_margin, log_squared_spectral_norm)
    factors = sum(math.log(w.shape[-1]) for w in weights) if form == "capacity" else 0.0
    return per_margin(logs + factors, log_margin)


def per_margin(log_norm: Float[Array, ""], log_margin: LogMargin) -> Float[Array, ""]:
    """log_norm - 2 log_margin; +inf at a log_margin of -inf, also where log_norm is -inf."""
    if log_margin is None:
        return log_norm
    log_margin = jnp.asarray(log_margin, log_norm.dtype)
    without = (log_margin == -jnp.inf) & ~jnp.isnan(log_norm)
    return jnp.where(without, jnp.inf, log_norm - 2 * log_margin)


def log_squared_spectral_norm(matrix: Float[Array, "in out"]) -> Float[Array, ""]:
    """log |W|_2^2, the largest eigenvalue of the smaller Gram matrix: 5 times faster than singular values.

    Only small singular values lose digits that way.
    """
    sides = (matrix.T, matrix) if matrix.shape[0] >= matrix.shape[1] else (matrix, matrix.T)
    return jnp.log(jnp.linalg.eigvalsh(jnp.matmul(*sides, precision=jax.lax.Precision.HIGHEST))[-1])


def check_log_margin(log_margin: Any) -> None:
    """Refuses a logarithm of a margin that is NaN or +inf (concrete values only), or no scalar."""
    if log_margin is None:
        return
    if np.shape(log_margin) != ():
        raise refuse(f"log_margin of shape {np.shape(log_margin)}", "one number", "take vmap over members")
    check_real("log_margin", log_margin)
    if is_concrete(log_margin) and not np.asarray(log_margin) < np.inf:
        raise refuse(
            f"log_margin={log_margin}",
            "a number, or -inf for a margin that is not positive",
            "pass margin_percentile(...).log_value",
        )


def _log_norms(
    weights: Sequence[Any], form: str, log_margin: LogMargin, log_norm: Callable[[Array], Array]
) -> Float[Array, ""]:
    """The sum over layers of log_norm(W_i), the logarithm of a squared norm, in range wherever it is."""
    check_choice("form", form, FORMS)
    check_chain(weights)
    check_log_margin(log_margin)

    def of_layer(matrix: Array) -> Array:
        # The logarithm does not depend on the scale, so neither does its derivative.
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(matrix)))
        scale = divisor(largest)
        return jnp.where(largest == 0, -jnp.inf, 2 * jnp.log(scale) + log_norm(matrix / scale))

    return functools.reduce(jnp.add, [of_layer(w.reshape(-1, w.shape[-1])) for w in weights])


def check_chain(weights: Sequence[Any]) -> None:
    """Refuses anything but floating layers whose inputs are the outputs of the layer before."""
    check_layer_arrays("weights", weights, 2, 4)
    for layer, (before, after) in enumerate(pairwise(weights)):
        outputs, inputs = before.shape[-1], after.shape[-2]
        flattened = before.ndim == 4 and after.ndim == 2 and inputs % outputs == 0
        unbroken = before.ndim == after.ndim and inputs == outputs
        if not (flattened or unbroken):
            raise refuse(
                f"weights[{layer}] of shape {before.shape} before weights[{layer + 1}] of {after.shape}",
                "layers that chain, input to output: (in, out), (kh, kw, in, out), and channels that divide "
                "the inputs of a matrix after them",
                "order the list from input to output and transpose (out, in) kernels; a network with "
                "shortcuts is no chain, take log_path_norm",
            )
