"""The plain matrices of a fully-connected ReLU network, which closed forms take."""

from typing import Any

from jax import Array
from jaxtyping import Float

from jaxsens.checks import refuse
from jaxsens.models.folding import affine_maps, without_batch_norm
from jaxsens.models.layers import Dense, Dropout, Flatten
from jaxsens.models.zoo import ModelConfig

__all__ = ["check_perceptron_config", "perceptron"]


def perceptron(
    config: ModelConfig, params: Any, state: Any
) -> tuple[tuple[Float[Array, "_ _"], ...], tuple[Float[Array, " _"], ...]]:
    """The weights (in, out) and biases (out,) of a dense ReLU network, input to output.

    With h_0 the flattened input, h_l = max(h_{l-1} W_l + b_l, 0) and the last layer without the maximum, this
    is `network.predict` to rounding, after `without_batch_norm` has done away with batch normalisation
    and dropout.

    Args:
        config: a fully-connected network, such as `fully_connected` makes.
        params, state: those of `build(config, ...)`.

    Raises:
        InputError: for a network that is no perceptron (convolutions, pools, shortcuts, dense layers without
            activation) or has another activation than ReLU.
    """
    check_perceptron_config(config)
    folded = without_batch_norm(config, params, state)
    maps = affine_maps(folded.config, folded.params)
    return tuple(affine["kernel"] for affine in maps), tuple(affine["bias"] for affine in maps)


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
