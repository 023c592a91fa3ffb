"""The plain matrices of a fully-connected network, which closed forms take."""

from collections.abc import Collection
from typing import Any

from jax import Array
from jaxtyping import Float

from jaxsens.checks import refuse
from jaxsens.models.folding import affine_maps, without_batch_norm
from jaxsens.models.layers import Dense, Dropout, Flatten
from jaxsens.models.zoo import ModelConfig

__all__ = ["check_perceptron_config", "perceptron"]


def perceptron(
    config: ModelConfig, params: Any, state: Any, *, activations: Collection[str] = ("relu",)
) -> tuple[tuple[Float[Array, "_ _"], ...], tuple[Float[Array, " _"], ...]]:
    """The weights (in, out) and biases (out,) of a dense network, input to output.

    With h_0 the flattened input, h_l = max(h_{l-1} W_l + b_l, 0), or another activation in the place of the
    maximum, and the last layer without it, this is `network.predict` to rounding, after `without_batch_norm`
    has done away with batch normalisation and dropout.

    Args:
        config: a fully-connected network, such as `fully_connected` makes.
        params, state: those of `build(config, ...)`.
        activations: those that the caller can do with; most closed forms are about ReLU.

    Raises:
        InputError: for a network that is no perceptron (convolutions, pools, shortcuts, dense layers without
            activation) or has another activation than these.
    """
    check_perceptron_config(config, activations)
    folded = without_batch_norm(config, params, state)
    maps = affine_maps(folded.config, folded.params)
    return tuple(affine["kernel"] for affine in maps), tuple(affine["bias"] for affine in maps)


def check_perceptron_config(config: ModelConfig, activations: Collection[str] = ("relu",)) -> None:
    """Refuses a network that is no perceptron with such an activation, by the name of what is in the way."""
    strange = [
        type(layer).__name__ if not isinstance(layer, Dense) else "Dense without activation"
        for layer in config.layers
        if not isinstance(layer, Flatten | Dropout) and not (isinstance(layer, Dense) and layer.activate)
    ]
    if config.activation not in activations:
        strange.append(f"the activation {config.activation}")
    if strange:
        raise refuse(
            f"{config.full_name} with {', '.join(dict.fromkeys(strange))}",
            f"a fully-connected network of {', '.join(activations)}",
            "use fully_connected(...), or measures that take any function",
        )
