"""Ensembles of convolutional networks: one step of Adam on one batch.

A CNN of three convolutions (32, 64, 128 channels, 3 x 3, each with MaxPool(2)) in ten seeds, batch 128, and
ResNet18 (s = 0.25) in three, batch 32, on 32 x 32 x 3 images. Besides PyTorch and JAX one after the other:
naive `vmap`, that is, the same program with `lax`'s convolution, which becomes a grouped one. It takes a
minute a step, so it runs one step, once; that its losses are those of the others is checked at `--smoke`'s
sizes.
"""

import dataclasses
from collections.abc import Iterator

from fully_connected import ensemble_row
from jax import lax
from timing import Row, Way
from training import Task, one_program

from jaxsens.models import ModelConfig, resnet
from jaxsens.models.layers import Conv, Flatten, MaxPool

__all__ = ["cnn", "rows", "small_resnet"]


def cnn(*channels: int) -> ModelConfig:
    """Convolutions of 3 x 3 with these channels, each with MaxPool(2), and an affine layer."""
    name = "-".join(map(str, ("cnn", *channels)))
    stages = (layer for size in channels for layer in (Conv(size, 3, 1, 1), MaxPool(2)))
    return ModelConfig(name, "cnn", 1, (*stages, Flatten()), len(channels))


def small_resnet() -> ModelConfig:
    """The first block of ResNet18 (s = 1/32) alone."""
    whole = resnet(18, 1 / 32)
    return dataclasses.replace(whole, layers=(*whole.layers[:2], *whole.layers[-2:]))


def rows(smoke: bool) -> Iterator[Row]:
    """The CNN and the ResNet."""
    if smoke:
        yield _row(cnn(4, 4), 8, 2, 4, smoke)
        yield _row(small_resnet(), 8, 2, 4, smoke)
    else:
        yield _row(cnn(32, 64, 128), 32, 10, 128, smoke)
        yield _row(resnet(18, 0.25), 32, 3, 32, smoke)


def _row(model: ModelConfig, side: int, members: int, batch: int, smoke: bool) -> Row:
    task = Task(model, (side, side, 3), examples=batch, members=members, epochs=2, batch_size=None)
    once = task if smoke else dataclasses.replace(task, epochs=1)
    naive = Way(
        lambda data: one_program(once, data, member_axis="vmap", convolution=lax.conv_general_dilated),
        once.epochs,
        slow=True,
        compared=smoke,
    )
    what = f"step on {batch} images"
    rounds, is_cnn, more = 2 if smoke else 5, model.family == "cnn", {"naive vmap": naive}
    return ensemble_row(task, model.name, what, rounds=rounds, peak=is_cnn, more=more)
