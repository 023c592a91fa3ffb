"""Architectures as data: a network is a tuple of these frozen layer descriptions.

A description knows what shape it makes of one example's shape (`output_shape`), and nothing of arrays.
`jaxsens.models.network` builds the Flax modules from it.
"""

import dataclasses
import math
from typing import TypeAlias

from jaxsens.checks import refuse

__all__ = [
    "BATCH_NORM_EPSILON",
    "AveragePool",
    "Conv",
    "Dense",
    "Dropout",
    "Flatten",
    "Layer",
    "MaxPool",
    "OverlappingMaxPool",
    "Residual",
    "output_shape",
]

Shape: TypeAlias = tuple[int, ...]

# What batch normalisation adds to a variance before it takes the root.
BATCH_NORM_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Conv:
    """A square convolution, then batch normalisation and the activation where asked for."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    batch_norm: bool = False
    activate: bool = True
    use_bias: bool = True

    def output_shape(self, shape: Shape) -> Shape:
        """(H, W, C) to (H', W', channels)."""
        height, width, _ = _image(self, shape)
        sides = ((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in (height, width))
        return _kept(self, shape, (*sides, self.channels))


@dataclasses.dataclass(frozen=True)
class Dense:
    """An affine map of a vector, then batch normalisation and the activation where asked for."""

    units: int
    batch_norm: bool = False
    activate: bool = True

    def output_shape(self, shape: Shape) -> Shape:
        """(D,) to (units,)."""
        if len(shape) != 1:
            raise refuse(f"{self} after shape {shape}", "a vector before it", "put Flatten() before it")
        return (self.units,)


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """The maximum over windows of size x size, moved by their size; a ragged border is dropped."""

    size: int = 2

    def output_shape(self, shape: Shape) -> Shape:
        """(H, W, C) to (H // size, W // size, C)."""
        height, width, channels = _image(self, shape)
        return _kept(self, shape, (height // self.size, width // self.size, channels))


@dataclasses.dataclass(frozen=True)
class OverlappingMaxPool:
    """The maximum over windows of size x size, moved by `stride`, that reach `padding` beyond the border."""

    size: int = 3
    stride: int = 2
    padding: int = 1

    def output_shape(self, shape: Shape) -> Shape:
        """(H, W, C) to (H', W', C)."""
        height, width, channels = _image(self, shape)
        if not 0 <= 2 * self.padding <= self.size:
            raise refuse(f"{self}", "padding of at most half the size", "use a window that reaches the image")
        sides = ((side + 2 * self.padding - self.size) // self.stride + 1 for side in (height, width))
        return _kept(self, shape, (*sides, channels))


@dataclasses.dataclass(frozen=True)
class AveragePool:
    """The mean over windows of size x size, or over all that is left where that is smaller.

    A size of None takes all there is.
    """

    size: int | None = 2

    def window(self, shape: Shape) -> tuple[int, int]:
        """The window that fits."""
        height, width = shape[:2]
        return (height, width) if self.size is None else (min(self.size, height), min(self.size, width))

    def output_shape(self, shape: Shape) -> Shape:
        """(H, W, C) to (H // size, W // size, C), at least 1 x 1."""
        height, width, channels = _image(self, shape)
        rows, columns = self.window(shape)
        return (height // rows, width // columns, channels)


@dataclasses.dataclass(frozen=True)
class Flatten:
    """All entries of the example as one vector."""

    def output_shape(self, shape: Shape) -> Shape:
        """Any shape to (D,)."""
        return (math.prod(shape),)


@dataclasses.dataclass(frozen=True)
class Dropout:
    """In training, each entry is set to 0 with probability `rate` and the others divided by 1 - rate."""

    rate: float = 0.5

    def output_shape(self, shape: Shape) -> Shape:
        """The same shape."""
        return shape


@dataclasses.dataclass(frozen=True)
class Residual:
    """activation(branch(x) + shortcut(x)); an empty shortcut is the identity."""

    branch: tuple["Layer", ...]
    shortcut: tuple["Layer", ...] = ()

    def output_shape(self, shape: Shape) -> Shape:
        """The branch's shape, which the shortcut must share."""
        branch, shortcut = output_shape(self.branch, shape), output_shape(self.shortcut, shape)
        if branch != shortcut:
            raise refuse(
                f"a branch of shape {branch} beside a shortcut of {shortcut}",
                "equal shapes",
                "give both the same strides and channels",
            )
        return branch


Layer: TypeAlias = Conv | Dense | MaxPool | OverlappingMaxPool | AveragePool | Flatten | Dropout | Residual


def output_shape(layers: tuple[Layer, ...], shape: Shape) -> Shape:
    """The shape of one example after all layers."""
    for layer in layers:
        shape = layer.output_shape(shape)
    return shape


def _image(layer: Layer, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise refuse(
            f"{layer} on examples of shape {shape}", "images (height, width, channels)", "use image data"
        )
    return shape


def _kept(layer: Layer, before: Shape, after: Shape) -> Shape:
    if min(after) < 1:
        raise refuse(
            f"{layer} on shape {before}, which leaves {after}",
            "a spatial size of at least 1 at every layer",
            "use larger images (jaxsens.data.resize) or a network with less pooling",
        )
    return after
