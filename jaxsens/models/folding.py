"""The same network without batch normalisation, whose weights norms measure.

Source: D, Appendix A: "When calculating norms on a network with a Batch Normalization layer, we reparametrize
the network to one that represents the exact same function without Batch Normalization".
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from jaxsens.checks import refuse
from jaxsens.models.layers import BATCH_NORM_EPSILON, Conv, Dense, Dropout, Layer, Residual
from jaxsens.models.zoo import ModelConfig

__all__ = ["Folded", "check_chain", "layer_weights", "without_batch_norm"]

Tree = Mapping[Any, Any]


class Folded(NamedTuple):
    """A network without batch normalisation and dropout: what `build(config, ...)` takes and `predict` uses.

    As a pytree it has `config` for structure, no leaf: `jit` and `vmap` may return it.
    """

    config: ModelConfig
    params: Any
    state: Any


jax.tree_util.register_pytree_node(
    Folded,
    lambda folded: ((folded.params, folded.state), folded.config),
    lambda config, trees: Folded(config, *trees),
)


def without_batch_norm(config: ModelConfig, params: Any, state: Any) -> Folded:
    """The same function in evaluation mode, as a network without batch normalisation (D Appendix A).

    Each batch normalisation is folded into the affine map before it,

        gamma (W x + b - mean) / sqrt(var + eps) + beta = (W c) x + (b - mean) c + beta,
        c = gamma / sqrt(var + eps)

    so convolutions without bias gain one. Dropout, which evaluation leaves out, is gone. All else is as it
    was: `build(folded.config, ...).predict(folded.params, folded.state, xs)` is the network's own `predict`
    to rounding, and params and state have the structure that this build's `init` gives.

    Args:
        config: any network; one with nothing to fold keeps its parameters.
        params, state: those of `build(config, ...)`, of one member: take `vmap` over a stacked ensemble, with
            `functools.partial(without_batch_norm, config)`.

    Raises:
        InputError: for params or state of another network, or of several members at once.

    Cost: one product over each folded kernel. Differentiable in params and state.
    """
    layers, folded = _folded(config, params, state)
    return Folded(
        dataclasses.replace(config, layers=layers, regularization=_label_without(config.regularization)),
        nnx.State(jax.tree.map(nnx.Param, folded)),
        nnx.State({}),
    )


def layer_weights(config: ModelConfig, params: Any) -> tuple[Float[Array, "..."], ...]:
    """The kernels, input to output and the last affine layer's at the end: what `log_l2_norm` takes.

    Dense kernels are (in, out), convolution kernels (kh, kw, in, out).

    Args:
        config: a network without shortcuts and without batch normalisation, as `without_batch_norm` makes.
        params: those of `build(config, ...)`, of one member.

    Raises:
        InputError: for a network with shortcuts or batch normalisation, or params of another network.
    """
    return tuple(affine["kernel"] for affine in affine_maps(config, params))


def affine_maps(config: ModelConfig, params: Any) -> list[dict[str, Array]]:
    """The affine maps of a chain, input to output: kernels, and biases where there are any."""
    check_chain(config)
    if any(isinstance(layer, Conv | Dense) and layer.batch_norm for layer in config.layers):
        raise refuse(
            f"{config.full_name} with batch normalisation",
            "a network whose weights are all it multiplies by",
            "fold it first, with without_batch_norm(config, params, state)",
        )
    _, folded = _folded(config, params, {})
    body = folded.get("body", {}).get("layers", {})
    return [*(body[place]["linear"] for place in sorted(body)), folded["head"]]


def check_chain(config: ModelConfig) -> None:
    """Refuses a network with shortcuts, whose weights are no list from input to output."""
    if any(isinstance(layer, Residual) for layer in config.layers):
        raise refuse(
            f"{config.full_name} with shortcuts",
            "a chain of layers",
            "take log_path_norm, which follows every path",
        )


def _folded(config: ModelConfig, params: Any, state: Any) -> tuple[tuple[Layer, ...], Tree]:
    """The layers that remain, and the parameters as dicts of arrays."""
    params, state = _arrays(params), _arrays(state)
    layers, body = _without(config.layers, params.get("body", {}), state.get("body", {}))
    head = params.get("head", {})
    _check_fits("the last affine layer", jnp.ndim(head.get("kernel", 0.0)) == 2)
    return layers, ({"body": body} if body else {}) | {"head": head}


def _without(layers: tuple[Layer, ...], params: Tree, state: Tree) -> tuple[tuple[Layer, ...], Tree]:
    """The layers that remain of a stack, and its parameters, each at its layer's new place."""
    remaining, folded = [], {}
    for place, layer in enumerate(layers):
        if isinstance(layer, Dropout):
            continue
        trees = [tree.get("layers", {}).get(place, {}) for tree in (params, state)]
        if isinstance(layer, Residual):
            stacks = {
                name: _without(getattr(layer, name), *(tree.get(name, {}) for tree in trees))
                for name in ("branch", "shortcut")
            }
            layer = dataclasses.replace(layer, **{name: stack for name, (stack, _) in stacks.items()})
            own = {name: tree for name, (_, tree) in stacks.items() if tree}
        elif isinstance(layer, Conv | Dense):
            layer, own = _without_norm(layer, *trees)
        else:
            own = trees[0]
        if own:
            folded[len(remaining)] = own
        remaining.append(layer)
    return tuple(remaining), {"layers": folded} if folded else {}


def _without_norm(layer: Conv | Dense, params: Tree, state: Tree) -> tuple[Conv | Dense, Tree]:
    """A layer without its batch normalisation, and its parameters."""
    linear = params.get("linear", {})
    shape = jnp.shape(linear.get("kernel", 0.0))
    rank, outputs = (4, layer.channels) if isinstance(layer, Conv) else (2, layer.units)
    fits = len(shape) == rank and shape[-1] == outputs and ("norm" in params) == layer.batch_norm
    _check_fits(str(layer), fits)
    if not layer.batch_norm:
        return layer, {"linear": linear}
    statistics = state.get("norm", {})
    _check_fits(str(layer), jnp.shape(statistics.get("var", 0.0)) == (outputs,))
    kernel, bias = _fold(linear["kernel"], linear.get("bias", 0.0), params["norm"], statistics)
    has_bias = {"use_bias": True} if isinstance(layer, Conv) else {}
    layer = dataclasses.replace(layer, batch_norm=False, **has_bias)
    return layer, {"linear": {"kernel": kernel, "bias": bias}}


def _fold(kernel: Array, bias: Array | float, norm: Tree, statistics: Tree) -> tuple[Array, Array]:
    """One affine map in place of two: the normalisation scales the kernel's outputs and shifts the bias."""
    factor = norm["scale"] / jnp.sqrt(statistics["var"] + BATCH_NORM_EPSILON)
    return kernel * factor, (bias - statistics["mean"]) * factor + norm["bias"]


def _arrays(tree: Any) -> Any:
    """A Flax state as plain dicts of arrays."""
    if isinstance(tree, Mapping):
        return {name: _arrays(child) for name, child in tree.items()}
    return jnp.asarray(tree[...])


def _check_fits(layer: str, fits: bool) -> None:
    if not fits:
        raise refuse(
            f"params or state that do not fit {layer}",
            "those of build(config, ...), of one member",
            "pass the configuration they were made with, and take vmap over members",
        )


def _label_without(regularization: str) -> str:
    """Without the names of batch normalisation and dropout: bn+do2+mp becomes mp."""
    parts = [part for part in regularization.split("+") if not re.fullmatch(r"bn|do\d*", part)]
    return "+".join(parts) or "none"
