"""From a cell to what it needs: its examples, its network, its training."""

import dataclasses

import jax
import numpy as np

from jaxsens import data as datasets
from jaxsens.checks import refuse
from jaxsens.models import Network, build, check_chain, check_perceptron_config
from jaxsens.sweep.cells import INPUT_SCALES, Cell, DataConfig, RobustnessConfig
from jaxsens.sweep.programs import shared_start, shared_training
from jaxsens.train import LOSSES, Training
from jaxsens.types import PIECEWISE_LINEAR

__all__ = ["build_network", "prepare_data", "prepare_training"]


def prepare_data(config: DataConfig, pool: datasets.Dataset | None = None) -> datasets.Dataset:
    """The examples of a configuration, out of the whole data set; those of a confusion set come last.

    `pool`, the data set, saves loading it for each configuration.
    """
    data = pool = datasets.load(config.dataset) if pool is None else pool
    key = jax.random.key(config.subset_seed)
    if config.num_train is not None:
        data = datasets.subset(data, config.num_train, key=key)
    if config.label_noise:
        data = datasets.corrupt_labels(data, config.label_noise, key=jax.random.fold_in(key, 1))
    if config.num_confused:
        data = datasets.confusion_set(data, pool, config.num_confused, key=jax.random.fold_in(key, 2))
    if config.num_test is not None:
        data = dataclasses.replace(
            data, x_test=data.x_test[: config.num_test], y_test=data.y_test[: config.num_test]
        )
    if config.image_size is not None:
        data = datasets.resize(data, config.image_size)
    return INPUT_SCALES[config.inputs](data)


def prepare_training(cell: Cell, data: datasets.Dataset) -> Training:
    """The cell's training; all but its start is shared by cells that differ in their initial weights."""
    build_network(cell, data)  # refuses what cannot be built or measured
    shape = data.x_train.shape[1:]
    any_init = dataclasses.replace(cell.model, init="SN")
    training = shared_training(any_init, shape, data.num_outputs, cell.train)
    return dataclasses.replace(training, start=shared_start(cell.model, shape, data.num_outputs, cell.train))


def build_network(cell: Cell, data: datasets.Dataset) -> Network:
    """The cell's network for these examples, its loss checked against the task."""
    if (data.task == "classification") != (cell.train.loss == "cross_entropy"):
        raise refuse(
            f"loss {cell.train.loss!r} for the {data.task} data {data.name!r}",
            "cross_entropy for classes, mse for regression",
            f"set TrainConfig(loss=...) to one of {', '.join(LOSSES)}",
        )
    if cell.measure.tangent_examples or cell.measure.condition_examples:
        check_perceptron_config(cell.model)
    if cell.measure.robustness is not None:
        check_perceptron_config(cell.model, tuple(PIECEWISE_LINEAR))
        if data.task != "classification" or data.x_train.ndim != 4:
            raise refuse(
                f"E's measures on {data.name!r}, inputs of shape {data.x_train.shape[1:]}, {data.task}",
                "classes of images (H, W, C)",
                "leave out MeasureConfig(robustness=...)",
            )
        check_enough(cell.measure.robustness, data)
    if cell.measure.complexity is not None:
        check_chain(cell.model)
    if cell.measure.complexity is not None and data.task != "classification":
        raise refuse(
            f"complexity measures on the {data.task} data {data.name!r}",
            "classes: margins are between them",
            "leave out MeasureConfig(complexity=...)",
        )
    return build(cell.model, input_shape=data.x_train.shape[1:], num_outputs=data.num_outputs)


def check_enough(config: RobustnessConfig, data: datasets.Dataset) -> None:
    """Refuses too few images for ellipses, slices and tenths of test points."""
    _, counts = np.unique(data.y_train, return_counts=True)
    if (config.triples or config.slice_pixels) and (counts >= 3).sum() < 3:
        raise refuse(
            f"{(counts >= 3).sum()} classes with 3 training images in {data.name!r}",
            "3 or more, for ellipses and slices",
            "take more images, or set triples=0 and slice_pixels=0",
        )
    if config.pointwise_examples and len(data.x_test) < 10:
        raise refuse(
            f"{len(data.x_test)} test images in {data.name!r}",
            "10 or more, for tenths of them",
            "take more images, or set pointwise_examples=0",
        )
