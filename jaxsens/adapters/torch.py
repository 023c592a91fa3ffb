"""PyTorch's weights, as arrays: PyTorch itself is never imported."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsens.adapters.adapted import Adapted, adapt, library
from jaxsens.adapters.torch_layers import Module, Place, Slot, layer_slots, modules_of
from jaxsens.adapters.torch_match import match
from jaxsens.checks import InputError, check_finite, check_positive, refuse
from jaxsens.models import ModelConfig, build
from jaxsens.models.layers import BATCH_NORM_EPSILON
from jaxsens.types import Function, Params

__all__ = ["from_torch"]

# By how much the logits may differ from PyTorch's, relative to the largest: sums in another order.
_TOLERANCE = 1e-4


def from_torch(
    source: Mapping[str, Any] | str | Path,
    config: ModelConfig,
    *,
    input_shape: tuple[int, ...],
    num_outputs: int,
    batch_norm_epsilon: float = BATCH_NORM_EPSILON,
    names: Sequence[str] | None = None,
    reference: tuple[Any, Any] | None = None,
) -> Adapted:
    """The network of a configuration with the weights of a PyTorch model, in evaluation mode.

    A state dict holds arrays and names, no architecture: `config` says what the model is. Kernels turn from
    (out, in, h, w) to (h, w, in, out) and from (out, in) to (in, out); the dense layer after `Flatten` has
    its inputs moved from PyTorch's order of an image, (C, H, W), to ours, (H, W, C). f takes an image as
    (H, W, C).

    Modules are matched to layers by kind and shape, then by the numbers in their names and by their order,
    and a mapping that stays open is refused. What neither names nor shapes show, `config` must say rightly:
    strides, padding, pooling, activations, shortcuts, batch normalisation before or after the activation.
    `reference` finds out whether it does.

    Args:
        source: the state dict as a mapping from names to arrays, in PyTorch's order; or the path of a
            `.safetensors` or an `.npz` file of it. What NumPy can read as an array will do.
        config: the architecture, such as `vgg(11, 1)` or `resnet(18, 1, block="usual",
            shortcut="identity")`; any `ModelConfig` of layers.
        input_shape: of one example as f takes it, (H, W, C) or (D,).
        num_outputs: K, the outputs of the last linear layer, which is not part of `config`.
        batch_norm_epsilon: the `eps` of the model's batch normalisations, which a state dict does not tell.
            Where it is not ours, the difference is added to the variances: the same function.
        names: the names of the modules in the order in which the network calls them, batch normalisations
            among them, of each residual block the branch before the shortcut; for state dicts that do not
            tell. Modules that are not listed are left out.
        reference: `(xs, logits)`, some inputs as PyTorch takes them, (n, C, H, W) or (n, D), and what the
            model in evaluation mode makes of them, (n, K). Logits that differ from f's by more than 1e-4 of
            the largest are refused.

    Returns:
        f, and the parameters as `build(config, ...).init` has them. Running statistics are held fixed.
        Arrays narrower than float32 become float32.

    Raises:
        InputError: for another kind of source, an array that is not floating and finite, a negative variance,
            a module that has no place in `config` or the other way round (the first one, with its shape),
            modules of which several orders fit, or another output than the reference's.
    """
    check_positive("batch_norm_epsilon", batch_norm_epsilon)
    modules = modules_of(_read(source))
    layouts = [layer_slots(config, input_shape, num_outputs, shortcut_first=first) for first in (False, True)]
    converted: dict[Place, np.ndarray] = {}
    for slot, module in match(layouts, modules, names=names):
        converted |= _converted(slot, module, batch_norm_epsilon)

    built = _built(config, tuple(input_shape), num_outputs)
    params, state = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _filled(path, leaf, converted), built.shapes
    )
    adapted = adapt(_predict, (built, state), params, batched=True)
    if reference is not None:
        _check_reference(*adapted, reference, input_shape, num_outputs)
    return adapted


@dataclasses.dataclass(frozen=True)
class _Built:
    """The network of a configuration, which is the same function at every build."""

    config: ModelConfig
    input_shape: tuple[int, ...]
    num_outputs: int
    predict: Callable[[Any, Any, Array], Array] = dataclasses.field(compare=False)
    shapes: Any = dataclasses.field(compare=False)
    """Of `(params, state)`."""


# Building takes longer than all else here, and many checkpoints are of one architecture.
@functools.lru_cache(maxsize=32)
def _built(config: ModelConfig, input_shape: tuple[int, ...], num_outputs: int) -> _Built:
    network = build(config, input_shape=input_shape, num_outputs=num_outputs)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    return _Built(config, input_shape, num_outputs, network.predict, shapes)


def _predict(held: Any, params: Params, xs: Array) -> Array:
    built, state = held
    return built.predict(params, state, xs)


def _read(source: Mapping[str, Any] | str | Path) -> dict[str, np.ndarray]:
    """The arrays by name."""
    if isinstance(source, Mapping):
        loaded: Mapping[str, Any] = source
    elif Path(source).suffix == ".safetensors":
        loaded = library("safetensors.numpy").load_file(source)
    elif Path(source).suffix == ".npz":
        with np.load(source, allow_pickle=False) as file:
            loaded = dict(file)
    else:
        raise refuse(
            f"the file {Path(source).name}",
            "a .safetensors or an .npz file, or a mapping from names to arrays",
            "save with safetensors.torch.save_file(model.state_dict(), path), or numpy.savez(path, "
            "**{name: t.numpy(force=True) for name, t in model.state_dict().items()})",
        )
    # PyTorch counts the batches that a normalisation has seen, in whole numbers.
    needed = {name: value for name, value in loaded.items() if not name.endswith("num_batches_tracked")}
    return {name: _array(name, value) for name, value in needed.items()}


def _array(name: str, value: Any) -> np.ndarray:
    """In float32, or in float64 if it is and JAX has it."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _not_an_array(name, f"{type(value).__name__} ({error})") from error
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise _not_an_array(name, f"{type(value).__name__}, dtype {array.dtype}")
    check_finite("source", {name: array.astype(np.float64)})
    return array.astype(jax.dtypes.canonicalize_dtype(jnp.promote_types(array.dtype, np.float32)))


def _not_an_array(name: str, got: str) -> InputError:
    return refuse(
        f"{name!r} of type {got}",
        "a floating array that NumPy can read",
        "pass tensors as t.float().numpy(force=True), and of a checkpoint its state dict alone",
    )


def _converted(slot: Slot, module: Module, epsilon: float) -> dict[Place, np.ndarray]:
    """The module's arrays in our layout, by their places."""
    arrays = module.arrays
    if slot.kind == "batch norm":
        # (var + eps - ours) + ours = var + eps.
        var = arrays["running_var"].astype(np.float64) + (epsilon - BATCH_NORM_EPSILON)
        if min(arrays["running_var"].min(), var.min()) < 0:
            raise refuse(
                f"a running variance of {arrays['running_var'].min():.3g} in {module.name}, eps {epsilon:g}",
                f"variances of at least 0, and with eps at least {BATCH_NORM_EPSILON:g}",
                "check the file; a network with smaller variances cannot be written with our eps",
            )
        ours = {"scale": arrays["weight"], "bias": arrays["bias"], "mean": arrays["running_mean"]}
        ours["var"] = var.astype(arrays["running_var"].dtype)
        return {(*slot.place, name): array for name, array in ours.items()}
    kernel = arrays["weight"]
    if slot.kind == "convolution":
        kernel = kernel.transpose(2, 3, 1, 0)
    elif slot.image is not None:
        height, width, channels = slot.image
        kernel = kernel.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
        kernel = kernel.reshape(height * width * channels, -1)
    else:
        kernel = kernel.T
    ours = {"kernel": kernel} | ({"bias": arrays["bias"]} if "bias" in arrays else {})
    return {(*slot.place, name): array for name, array in ours.items()}


def _filled(path: Any, leaf: Any, converted: Mapping[Place, np.ndarray]) -> Array:
    # The path starts with the place in (params, state) and ends at the value of a variable.
    place = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
    array = converted[place]
    if array.shape != leaf.shape:
        raise refuse(f"{place} of shape {array.shape}", f"{leaf.shape}", "report this as a bug of from_torch")
    return jnp.array(array)


def _check_reference(
    f: Function,
    params: Params,
    reference: tuple[Any, Any],
    input_shape: tuple[int, ...],
    num_outputs: int,
) -> None:
    xs, logits = (_array(name, value) for name, value in zip(("inputs", "logits"), reference, strict=True))
    theirs = (input_shape[-1], *input_shape[:-1])
    if len(xs) == 0 or xs.shape[1:] != theirs or logits.shape != (len(xs), num_outputs):
        raise refuse(
            f"reference inputs of shape {xs.shape} and logits of shape {logits.shape}",
            f"shapes (n, {', '.join(map(str, theirs))}) and (n, {num_outputs})",
            "pass what the PyTorch model takes and gives",
        )
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(jax.vmap(f, in_axes=(None, 0)))(params, jnp.asarray(np.moveaxis(xs, 1, -1)))
    off = float(np.abs(np.asarray(ours) - logits).max() / np.abs(logits).max())
    if not off <= _TOLERANCE:
        raise refuse(
            f"logits that differ from the reference's by {off:.1e} of the largest",
            f"at most {_TOLERANCE:g}",
            "compare config with the model (strides, padding, pooling, activations, shortcuts, eps, eval())",
        )
