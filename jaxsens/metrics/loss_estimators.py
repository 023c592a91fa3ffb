"""Test loss guessed from the training loss and a ratio of sensitivities (C eqs. 6-11), as printed.

Each estimator returns `ratio * train_loss`. Measures that overflow come in as natural logarithms. All
arguments may be arrays, such as a curve over epochs, and broadcast. "test" and "train" say on which inputs
a measure was taken, both at one state of the network; no estimator sees a test label. "previous" and
"current" are two states, one step of learning apart, of a measure of the weights alone, and the ratio is
the inverse of its growth.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsens.checks import carry_nan, check_choice, check_finite, check_real, is_concrete, refuse
from jaxsens.metrics._batching import check_floating, wide
from jaxsens.metrics._norms import times_ratio
from jaxsens.metrics.activations import check_layer_arrays
from jaxsens.metrics.path_bounds import Number

__all__ = [
    "active_count_estimate",
    "empirical_estimate",
    "fisher_rao_estimate",
    "fisher_rao_norm",
    "jacobian_estimate",
    "layerwise_norm_estimate",
    "log_layerwise_norm",
    "log_spectral_product",
    "spectral_estimate",
]

FORMS = ("as_printed", "log")


def layerwise_norm_estimate(
    previous_log: Number, current_log: Number, train_loss: Number, *, form: str = "as_printed"
) -> Float[Array, "..."]:
    """l_1 = Sens1(theta^{t-1}) / Sens1(theta^t) * train loss (C eq. 6).

        "as_printed"  exp(previous_log - current_log) * train_loss
        "log"         previous_log / current_log * train_loss, which the paper's figures use (section 4)

    `log_layerwise_norm` gives eq. 6's (prod_i wmax_i)^2. That is not all of Sens1 = eq. 1 that learning
    changes: eq. 1 also divides by min_i wmax_i. With `log_tangent_norm_bound` in its place both forms are
    of the whole of Sens1, and the log form is the one that the paper describes. The log form depends on the
    unit of Sens1, and turns negative or large where a logarithm changes sign.

    Args:
        previous_log: log Sens1 one step before.
        current_log: log Sens1 now.
        train_loss: training loss now.
        form: "as_printed" or "log".

    Returns:
        The estimated test loss, of the arguments' broadcast shape.

    Raises:
        InputError: for an unknown form, a NaN or infinity (a `previous_log` of -inf is a measure of 0), or a
            `current_log` of 0 in the log form, where the ratio does not exist.
    """
    check_choice("form", form, FORMS)
    logs = {"previous_log": previous_log, "current_log": current_log}
    if form == "as_printed":
        return scale_by_exp_of_logs(logs, train_loss)
    for name, value in logs.items():
        check_number(name, value)
    return scale_by_ratio(previous_log, "current_log", current_log, train_loss)


def active_count_estimate(
    log_psi_test: Number, log_psi_train: Number, train_loss: Number
) -> Float[Array, "..."]:
    """`l_2 = psi*(k, mu_te, sigma_te) / psi*(k, mu_tr, sigma_tr) * train loss` (C eq. 7).

    `log_psi_star` gives the logarithms, from the mean and standard deviation of T(x) on each set. Arguments
    broadcast. Raises InputError for a NaN or infinity; a measure of 0 (log -inf) is allowed on the test set.
    """
    return scale_by_exp_of_logs({"log_psi_test": log_psi_test, "log_psi_train": log_psi_train}, train_loss)


def empirical_estimate(log_test: Number, log_train: Number, train_loss: Number) -> Float[Array, "..."]:
    """l_3 = S-hat(X_te) / S-hat(X_tr) * train loss (C eq. 8).

    `log_empirical_tangent_sensitivity` gives the logarithms. Errors are those of `active_count_estimate`.
    """
    return scale_by_exp_of_logs({"log_test": log_test, "log_train": log_train}, train_loss)


def jacobian_estimate(test: Number, train: Number, train_loss: Number) -> Float[Array, "..."]:
    """l_4 = S_Jac(X_te) / S_Jac(X_tr) * train loss, S_Jac = E_x |df/dx| (C eq. 9).

    The norm is not squared. C writes |.|_2 for one output, where df/dx is a vector; with K outputs this is
    the Frobenius norm: pass the mean of `input_jacobian_norm` over each set. Arguments broadcast. Raises
    InputError for a NaN, infinity or negative number, or a `train` of 0.
    """
    return scale_by_measures(test, train, train_loss)


def fisher_rao_estimate(test: Number, train: Number, train_loss: Number) -> Float[Array, "..."]:
    """l_5 = S_FR(X_te) / S_FR(X_tr) * train loss (C eq. 10), S_FR by `fisher_rao_norm`.

    Errors are those of `jacobian_estimate`.
    """
    return scale_by_measures(test, train, train_loss)


def spectral_estimate(previous_log: Number, current_log: Number, train_loss: Number) -> Float[Array, "..."]:
    """l_6 = S_Spect(theta^{t-1}) / S_Spect(theta^t) * train loss (C eq. 11).

    `log_spectral_product` gives the logarithms, one step of learning apart. Errors are those of
    `active_count_estimate`.
    """
    return scale_by_exp_of_logs({"previous_log": previous_log, "current_log": current_log}, train_loss)


def log_layerwise_norm(weights: Sequence[Float[Array, "..."]]) -> Float[Array, ""]:
    """2 sum_i log max|W_i|, the logarithm of eq. 6's (prod_i wmax_i)^2 (C eq. 6).

    Args:
        weights: one matrix (in, out) per layer, or convolution kernel (kh, kw, in, out); no biases.

    Returns:
        A scalar, -inf where a layer is zero.

    Raises:
        InputError: for no weights, another rank or dtype, or a NaN or infinity.
    """
    check_layer_arrays("weights", weights, 2, 4)
    return 2 * functools.reduce(jnp.add, [jnp.log(jnp.max(jnp.abs(w))) for w in weights])


def log_spectral_product(weights: Sequence[Float[Array, "..."]]) -> Float[Array, ""]:
    """sum_i log |W_i|_2, the logarithm of the product of largest singular values (C eq. 11).

    Args:
        weights: one matrix (in, out) per layer, or convolution kernel (kh, kw, in, out), which is taken as
            the matrix (kh kw in, out).

    Returns:
        A scalar, -inf where a layer is zero.

    Raises:
        InputError: as `log_layerwise_norm` does.
    """
    check_layer_arrays("weights", weights, 2, 4)
    matrices = [w.reshape(-1, w.shape[-1]) for w in weights]
    return functools.reduce(jnp.add, [jnp.log(jnp.linalg.svd(m, compute_uv=False)[0]) for m in matrices])


def fisher_rao_norm(logits: Float[Array, "n K"]) -> Float[Array, ""]:
    """S_FR = sum_j E_x <dl(f, j)/df, f>^2 over all K classes j, l the cross-entropy (C eq. 10).

    C leaves out the constant (k + 1)^2, which no ratio sees. dl(f, j)/df = softmax(f) - e_j, so the product
    is sum_k p_k f_k - f_j. It does not change when one number is added to all logits of an example, and is
    computed from their distances to the largest one.

    Args:
        logits: (n, K), before the softmax.

    Returns:
        A scalar in the dtype of `logits`.

    Raises:
        InputError: for another rank or dtype, no examples or outputs, or a NaN or infinity.
    """
    if getattr(logits, "ndim", None) != 2 or logits.size == 0:
        raise refuse(f"logits of shape {np.shape(logits)}", "(n, K), n and K >= 1", "pass f(x) of a batch")
    check_floating("logits", logits)
    check_finite("logits", logits)
    shifted = logits - jnp.max(logits, axis=1, keepdims=True)
    expected = jnp.sum(jax.nn.softmax(logits, axis=1) * shifted, axis=1, keepdims=True)
    return jnp.sum(jnp.mean((expected - shifted) ** 2, axis=0))


def scale_by_exp_of_logs(logs: dict[str, Number], train_loss: Number) -> Array:
    """exp(the first - the second log) * train_loss; `logs` has the two, named."""
    (numerator_name, numerator), (denominator_name, denominator) = logs.items()
    check_number(numerator_name, numerator, zero_log=True)
    check_number(denominator_name, denominator)
    check_number("train_loss", train_loss)
    numerator, denominator, train_loss = map(wide, (numerator, denominator, train_loss))
    # Half before and half after: the ratio may leave the range where its product with the loss does not.
    root = jnp.exp(jnp.asarray((numerator - denominator) / 2))
    return carry_nan(root * train_loss * root, denominator, train_loss)


def scale_by_measures(test: Number, train: Number, train_loss: Number) -> Array:
    """test / train * train_loss for two measures that are at least 0."""
    for name, value in {"test": test, "train": train}.items():
        check_number(name, value)
        if is_concrete(value) and np.any(np.asarray(value) < 0):
            raise refuse(f"{name}={value}", "a mean norm >= 0", "do not pass a logarithm")
    return scale_by_ratio(test, "train", train, train_loss)


def scale_by_ratio(numerator: Number, name: str, denominator: Number, train_loss: Number) -> Array:
    """numerator / denominator * train_loss; `name` is the denominator's, which must not be 0."""
    check_number("train_loss", train_loss)
    if is_concrete(denominator) and np.any(np.asarray(denominator) == 0):
        raise refuse(
            f"{name}={denominator}", f"a {name} other than 0", "leave this state out: no ratio exists"
        )
    numbers = tuple(map(wide, (numerator, train_loss, denominator)))
    return carry_nan(times_ratio(*numbers), numbers)


def check_number(name: str, value: Any, *, zero_log: bool = False) -> None:
    """Refuses a NaN or infinity (concrete values only); `zero_log` allows -inf, the log of a measure of 0."""
    check_real(name, value)
    if not is_concrete(value):
        return
    value = np.asarray(value)
    if not np.all(np.isfinite(value) | (zero_log & (value == -np.inf))):
        raise refuse(
            f"{name}={value}", f"a finite {name}", "leave out states that diverged, or whose measure is 0"
        )
