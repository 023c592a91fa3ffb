"""The modules of a PyTorch state dict, and the places that a configuration has for them."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from jaxsens.checks import refuse
from jaxsens.models.layers import Conv, Dense, Dropout, Flatten, Layer, Residual
from jaxsens.models.zoo import ModelConfig

__all__ = ["Module", "Place", "Slot", "layer_slots", "modules_of"]

Place: TypeAlias = tuple[str | int, ...]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

_NORM = ("weight", "bias", "running_mean", "running_var")


class Module(NamedTuple):
    """The arrays of one PyTorch module, by their suffixes."""

    name: str
    kind: str
    arrays: dict[str, np.ndarray]

    @property
    def shapes(self) -> Shapes:
        """The shape of each array."""
        return {suffix: array.shape for suffix, array in self.arrays.items()}

    @property
    def parent(self) -> str:
        """The module that it is a direct part of."""
        return self.name.rpartition(".")[0]

    def __str__(self) -> str:
        return f"{self.name or 'the module itself'}, {_described(self.kind, self.shapes)}"


class Slot(NamedTuple):
    """A place of the configuration for one module, with the shapes that PyTorch gives it."""

    kind: str
    shapes: Shapes
    place: Place
    image: tuple[int, ...] | None = None
    """(H, W, C) where this is the first dense layer after images were flattened."""

    def fits(self, module: Module) -> bool:
        """Whether kind and shapes agree."""
        return self.kind == module.kind and self.shapes == module.shapes

    def __str__(self) -> str:
        return f"{_described(self.kind, self.shapes)} for {'.'.join(map(str, self.place))}"


def modules_of(arrays: Mapping[str, np.ndarray]) -> list[Module]:
    """The convolutions, dense layers and batch normalisations of a state dict, in its order."""
    grouped: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        parent, _, suffix = name.rpartition(".")
        grouped.setdefault(parent, {})[suffix] = array
    return [Module(name, _kind(name, arrays), arrays) for name, arrays in grouped.items()]


def layer_slots(
    config: ModelConfig, input_shape: tuple[int, ...], num_outputs: int, *, shortcut_first: bool = False
) -> list[Slot]:
    """The places in the order in which the network calls them; of a residual block, the branch comes first.

    Or the shortcut, which makes no difference to the network and may be so in the state dict.
    """
    slots = list(_slots(config.layers, input_shape, ("body",), shortcut_first))
    shape, image = input_shape, None
    for layer in (*config.layers, Flatten()):
        shape, image = layer.output_shape(shape), _flattened(layer, shape, image)
    return [*slots, Slot("linear", _linear(num_outputs, shape[0]), ("head",), image)]


def _slots(layers: tuple[Layer, ...], shape: tuple[int, ...], place: Place, first: bool) -> Iterator[Slot]:
    image = None
    for index, layer in enumerate(layers):
        here = (*place, "layers", index)
        if isinstance(layer, Conv | Dense):
            is_conv = isinstance(layer, Conv)
            outputs = layer.channels if is_conv else layer.units
            if is_conv:
                shapes = {"weight": (outputs, shape[-1], layer.kernel, layer.kernel)}
                shapes |= {"bias": (outputs,)} if layer.use_bias else {}
            else:
                shapes = _linear(outputs, shape[0])
            yield Slot("convolution" if is_conv else "linear", shapes, (*here, "linear"), image)
            if layer.batch_norm:
                yield Slot("batch norm", dict.fromkeys(_NORM, (outputs,)), (*here, "norm"))
        if isinstance(layer, Residual):
            if image is not None and image[:2] != (1, 1):
                raise refuse(
                    "a shortcut around a flattened image", "a dense layer there", "flatten after the block"
                )
            parts = ("shortcut", "branch") if first else ("branch", "shortcut")
            for part in parts:
                yield from _slots(getattr(layer, part), shape, (*here, part), first)
        shape, image = layer.output_shape(shape), _flattened(layer, shape, image)


def _flattened(layer: Layer, shape: tuple[int, ...], image: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The image whose pixels the next dense layer finds in a row, after this layer on this shape."""
    if isinstance(layer, Flatten) and len(shape) == 3:
        return shape
    return image if isinstance(layer, Flatten | Dropout) else None


def _linear(outputs: int, inputs: int) -> Shapes:
    return {"weight": (outputs, inputs), "bias": (outputs,)}


def _kind(name: str, arrays: Mapping[str, np.ndarray]) -> str:
    found = set(arrays)
    if found == set(_NORM):
        return "batch norm"
    weight = arrays.get("weight")
    if found <= {"weight", "bias"} and weight is not None and weight.ndim in (2, 4):
        return "convolution" if weight.ndim == 4 else "linear"
    raise refuse(
        f"the module {name!r} with " + ", ".join(f"{key} {array.shape}" for key, array in arrays.items()),
        "convolutions (weight of rank 4), linear layers (rank 2) and batch normalisations with running "
        "statistics, weight and bias",
        "remove parametrizations such as weight_norm before saving; other layers have no counterpart here",
    )


def _described(kind: str, shapes: Shapes) -> str:
    rest = "" if "bias" in shapes else " without bias"
    return f"{kind} of weight {shapes['weight']}{rest}"
