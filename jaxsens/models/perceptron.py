"""The plain matrices of a fully-connected ReLU network, which closed forms take."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxsens.checks import refuse
from jaxsens.models.layers import BATCH_NORM_EPSILON, Dense, Dropout, Flatten
from jaxsens.models.zoo import ModelConfig

__all__ = ["check_perceptron_config", "perceptron"]


def perceptron(
    config: ModelConfig, params: Any, state: Any
) -> tuple[tuple[Float[Array, "_ _"], ...], tuple[Float[Array, " _"], ...]]:
    """The weights (in, out) and biases (out,) of a dense ReLU network, input to output.

    With h_0 the flattened input, h_l = max(h_{l-1} W_l + b_l, 0) and the last layer without the maximum, this
    is `network.predict` to rounding: batch normalisation in evaluation mode, gamma (z - mean) /
    sqrt(var + eps) + beta, is folded into the affine map before it, and dropout, which evaluation leaves out,
    is gone.

    Args:
        config: a fully-connected network, such as `fully_connected` makes.
        params, state: those of `build(config, ...)`.

    Raises:
        InputError: for a network that is no perceptron (convolutions, pools, shortcuts, dense layers without
            activation) or has another activation than ReLU.
    """
    check_perceptron_config(config)
    indices = [index for index, layer in enumerate(config.layers) if isinstance(layer, Dense)]
    folded = [
        _folded(params["body"]["layers"][index], state["body"]["layers"][index]["norm"])
        if config.layers[index].batch_norm
        else _affine(params["body"]["layers"][index]["linear"])
        for index in indices
    ]
    folded.append(_affine(params["head"]))
    weights, biases = zip(*folded, strict=True)
    return weights, biases


def check_perceptron_config(config: ModelConfig) -> None:
    """Refuses a network that is no ReLU perceptron, by the name of what is in the way."""
    strange = [
        type(layer).__name__ if not isinstance(layer, Dense) else "Dense without activation"
        for layer in config.layers
        if not isinstance(layer, Flatten | Dropout) and not (isinstance(layer, Dense) and layer.activate)
    ]
    if config.activation != "relu":
        strange.append(f"the activation {config.activation}")
    if strange:
        raise refuse(
            f"{config.full_name} with {', '.join(dict.fromkeys(strange))}",
            "a fully-connected ReLU network",
            "use fully_connected(...), or measures that take any function",
        )


def _affine(linear: Any) -> tuple[Array, Array]:
    return jnp.asarray(linear["kernel"][...]), jnp.asarray(linear["bias"][...])


def _folded(layer: Any, statistics: Any) -> tuple[Array, Array]:
    """One affine map in place of two: the normalisation scales the columns, and shifts the bias."""
    weight, bias = _affine(layer["linear"])
    scale, shift = layer["norm"]["scale"][...], layer["norm"]["bias"][...]
    mean, variance = statistics["mean"][...], statistics["var"][...]
    factor = scale / jnp.sqrt(variance + BATCH_NORM_EPSILON)
    return weight * factor, (bias - mean) * factor + shift
