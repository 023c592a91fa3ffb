"""Batch normalisation folded into the affine map before it: the network whose weights norms measure.

Source: D, Appendix A: "When calculating norms on a network with a Batch Normalization layer, we reparametrize
the network to one that represents the exact same function without Batch Normalization". A network that
`jaxsens.models` built is folded by `jaxsens.models.without_batch_norm`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsens.checks import carry_nan, check_finite, is_concrete, refuse
from jaxsens.metrics._batching import check_floating
from jaxsens.metrics._norms import times_ratio

__all__ = ["Affine", "BatchNorm", "fold_batch_norm"]


class Affine(NamedTuple):
    """A dense layer, kernel (in, out), or a convolution, (kh, kw, in, out); its bias (out,), or None."""

    kernel: Float[Array, "..."]
    bias: Float[Array, " out"] | None = None


class BatchNorm(NamedTuple):
    """A batch normalisation's running statistics, scale and shift, (out,) each; a None is ones or zeros.

    `epsilon` is what is added to the variance before the root, a Python number and no leaf of the pytree.
    """

    mean: Float[Array, " out"]
    variance: Float[Array, " out"]
    scale: Float[Array, " out"] | None = None
    shift: Float[Array, " out"] | None = None
    epsilon: float = 1e-5


# With epsilon static, `jit` and `vmap` over members take a list of layers as it is.
jax.tree_util.register_pytree_with_keys(
    BatchNorm,
    lambda norm: (
        [(jax.tree_util.GetAttrKey(name), getattr(norm, name)) for name in BatchNorm._fields[:-1]],
        norm.epsilon,
    ),
    lambda epsilon, arrays: BatchNorm(*arrays, epsilon=epsilon),
)


def fold_batch_norm(layers: Sequence[Affine | BatchNorm]) -> tuple[Affine, ...]:
    """The same function in evaluation mode without batch normalisation (D Appendix A).

    With z = W x + b, W's columns the outputs' weights, and c = scale / sqrt(variance + epsilon),

        scale (z - mean) / sqrt(variance + epsilon) + shift = (W c) x + (b - mean) c + shift

    `layers` lists affine maps and batch normalisations in the order in which they are applied; activations
    and pools are not listed. Each BatchNorm is folded into the last Affine before it, and two in a row one
    after the other. So in the network it must come right after that, before the nonlinearity: one that comes
    later would be folded wrongly, and no check can tell. Layers are otherwise independent of each other, so
    the branches of a network with shortcuts may stand in one list.

    Args:
        layers: `Affine(kernel, bias)` and `BatchNorm(mean, variance, scale, shift, epsilon)`, float32 or
            float64.

    Returns:
        The affine maps alone, in their order. One with a folded BatchNorm has a bias; else None stays None.
        Kernels are what `log_l2_norm` takes: `[layer.kernel for layer in folded]`.

    Raises:
        InputError: for no layers, entries of another type, a BatchNorm before any Affine, a kernel of another
            rank than 2 or 4, a vector that is not (out,), another dtype, a NaN or infinity, a variance < 0,
            an epsilon that is no finite Python number >= 0, or variance + epsilon = 0.

    Cost: one product over each folded kernel.
    """
    _check_layers(layers)
    folded: list[Affine] = []
    for layer in layers:
        if isinstance(layer, BatchNorm):
            folded[-1] = _fold(folded[-1], layer)
        else:
            bias = None if layer.bias is None else jnp.asarray(layer.bias)
            folded.append(Affine(jnp.asarray(layer.kernel), bias))
    return tuple(folded)


def _fold(affine: Affine, norm: BatchNorm) -> Affine:
    bias = 0.0 if affine.bias is None else affine.bias
    scale = 1.0 if norm.scale is None else norm.scale
    shift = 0.0 if norm.shift is None else norm.shift
    root = jnp.sqrt(norm.variance + float(norm.epsilon))
    folded = Affine(
        times_ratio(affine.kernel, scale, root), times_ratio(bias - norm.mean, scale, root) + shift
    )
    return carry_nan(folded, affine, norm)


def _check_layers(layers: Sequence[Any]) -> None:
    """Refuses layers that cannot be folded, by their place."""
    if len(layers) == 0:
        raise refuse("no layers", "affine maps and batch normalisations", "pass a list, input to output")
    outputs = None
    for place, layer in enumerate(layers):
        if isinstance(layer, Affine):
            outputs = _check_affine(f"layers[{place}]", layer)
        elif not isinstance(layer, BatchNorm):
            raise refuse(
                f"{type(layer).__name__} at place {place}",
                "a sequence of Affine and BatchNorm",
                "wrap each layer's arrays: Affine(kernel, bias), BatchNorm(mean, variance, scale, shift)",
            )
        elif outputs is None:
            raise refuse(
                f"a BatchNorm at place {place}, with no Affine before it",
                "the affine map that it follows",
                "list layers input to output; a normalisation of the inputs is part of the data",
            )
        else:
            _check_norm(f"layers[{place}]", layer, outputs)


def _check_affine(name: str, layer: Affine) -> int:
    """The number of outputs."""
    kernel = layer.kernel
    if getattr(kernel, "ndim", None) not in (2, 4) or kernel.size == 0:
        raise refuse(
            f"{name}.kernel of shape {np.shape(kernel)}",
            "a non-empty array (in, out) or (kh, kw, in, out)",
            "transpose other layouts; take vmap over members",
        )
    check_floating(f"{name}.kernel", kernel)
    check_finite(f"{name}.kernel", kernel)
    if layer.bias is not None:
        _check_vector(f"{name}.bias", layer.bias, kernel.shape[-1])
    return kernel.shape[-1]


def _check_norm(name: str, norm: BatchNorm, outputs: int) -> None:
    for field in BatchNorm._fields[:-1]:
        vector = getattr(norm, field)
        if vector is not None or field in ("mean", "variance"):
            _check_vector(f"{name}.{field}", vector, outputs)
    epsilon = norm.epsilon
    is_number = isinstance(epsilon, int | float | np.floating) and not isinstance(epsilon, bool)
    if not (is_number and math.isfinite(epsilon) and epsilon >= 0):
        raise refuse(f"{name}.epsilon={epsilon!r}", "a finite Python number >= 0", "pass float(epsilon)")
    if not is_concrete(norm.variance):
        return
    least = float(np.asarray(norm.variance).min())
    if least < 0:
        raise refuse(f"{name}.variance with {least}", "variances >= 0", "pass BatchNorm(mean, variance, ...)")
    if least + epsilon == 0:
        raise refuse(
            f"{name}.variance with 0 and epsilon=0", "variance + epsilon > 0", "pass an epsilon above 0"
        )


def _check_vector(name: str, vector: Any, outputs: int) -> None:
    if np.shape(vector) != (outputs,) or not hasattr(vector, "dtype"):
        raise refuse(
            f"{name} of shape {np.shape(vector)}",
            f"an array of shape ({outputs},), one entry for each output of the kernel",
            "check the order of the layers and of the kernel's axes; take vmap over members",
        )
    check_floating(name, vector)
    check_finite(name, vector)
