"""E's survey of small networks: every shape trained in many ways, with four activations."""

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxsens.models import fully_connected
from jaxsens.sweep.cells import MeasureConfig, Preset, RobustnessConfig
from jaxsens.train import TrainConfig

__all__ = ["SURVEY_CPU", "SURVEY_PAPER", "SURVEY_QUICK", "SurveyWay", "survey"]

# E's grid is not in its abstract; ours crosses what the abstract names.
_ACTIVATIONS = ("relu", "relu6", "hard_tanh", "hard_sigmoid")
# Learning rates are within a quarter of a decade of these.
_RATES = {"sgd": 0.2, "momentum": 0.05, "adam": 2e-3, "rmsprop": 1e-3}


class SurveyWay(NamedTuple):
    """An optimiser and a batch size, and whether augmented images are trained on as well."""

    optimizer: str
    batch_size: int | None
    augmented: bool = True


_WAYS = (
    SurveyWay("sgd", 25),
    SurveyWay("sgd", 100),
    SurveyWay("momentum", 25),
    SurveyWay("momentum", 100),
    SurveyWay("adam", 100),
    SurveyWay("adam", 500),
    SurveyWay("adam", None, augmented=False),
    SurveyWay("rmsprop", 100),
    SurveyWay("rmsprop", 500),
    SurveyWay("lbfgs", None, augmented=False),
)


def survey(
    preset: Preset,
    *,
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    ways: tuple[SurveyWay, ...] = _WAYS,
    augment: str = "shift",
) -> tuple[Preset, ...]:
    """Every shape trained in every way with every activation, on three kinds of data: true labels, random
    labels, and augmented images with true labels.

    The learning rate, log-uniform over half a decade, and the weight decay, 0 or 1e-3, are drawn for each
    shape and way: networks that differ in activation, labels or augmentation differ in nothing else.
    Full-batch Adam has those of the first Adam before it, and twice the epochs. The preset's suffix ends all
    names.
    """
    random = np.random.default_rng(0)
    parts = []
    for depth in depths:
        for width in widths:
            drawn: dict[str, tuple[float, float]] = {}
            models = tuple(fully_connected(depth, width, init="HN", activation=name) for name in _ACTIVATIONS)
            for way in ways:
                rate, decay = 10 ** random.uniform(-0.25, 0.25), float(random.choice([0.0, 1e-3]))
                if way.batch_size is None:
                    rate, decay = drawn.get(way.optimizer, (rate, decay))
                drawn.setdefault(way.optimizer, (rate, decay))
                train = _train(preset, way, rate, decay)
                of_kind = {"true": train, "random": train}
                if way.augmented:
                    of_kind["augmented"] = dataclasses.replace(train, augment=augment)
                batch = "full" if way.batch_size is None else way.batch_size
                parts += [
                    dataclasses.replace(
                        preset,
                        models=models,
                        train=chosen,
                        label_noise=float(kind == "random"),
                        suffix=f"-{way.optimizer}-b{batch}-{kind}{preset.suffix}",
                    )
                    for kind, chosen in of_kind.items()
                ]
    return tuple(parts)


def _train(preset: Preset, way: SurveyWay, rate: float, decay: float) -> TrainConfig:
    """Rates to three digits, for people to read."""
    if way.optimizer == "lbfgs":
        return dataclasses.replace(preset.train, optimizer="lbfgs", learning_rate=1.0, batch_size=None)
    return dataclasses.replace(
        preset.train,
        optimizer=way.optimizer,
        learning_rate=float(f"{rate * _RATES[way.optimizer]:.3g}"),
        weight_decay=decay,
        batch_size=way.batch_size,
        max_epochs=preset.train.max_epochs * (2 if way.batch_size is None else 1),
    )


_CPU = Preset(
    seeds=1,
    dataset="mnist",
    num_train=1000,
    train=TrainConfig("sgd", 0.1, max_epochs=400, stop_loss=0.002, stop_count=1),
    measure=MeasureConfig(
        derivative_examples=500, output_sensitivity=False, robustness=RobustnessConfig(loops=100)
    ),
)

SURVEY_CPU = survey(_CPU, depths=(1, 2, 4), widths=(50, 100, 200))
"""1008 networks on 1000 MNIST images, at most 400 epochs (full batches 800), to a training loss of 0.002."""

SURVEY_QUICK = survey(
    dataclasses.replace(
        _CPU,
        dataset="digits",
        num_train=128,
        num_test=256,
        train=dataclasses.replace(_CPU.train, max_epochs=200),
        measure=MeasureConfig(
            derivative_examples=50, output_sensitivity=False, robustness=RobustnessConfig(loops=10)
        ),
    ),
    depths=(1, 2),
    widths=(16,),
    ways=(
        SurveyWay("momentum", 32),
        SurveyWay("adam", 32),
        SurveyWay("adam", None, augmented=False),
        SurveyWay("lbfgs", None, augmented=False),
    ),
)
"""80 networks on embedded data."""

SURVEY_PAPER = tuple(
    part
    for dataset, augment in {
        "mnist": "shift",
        "fashion_mnist": "shift",
        "cifar10": "crop_flip",
        "cifar100": "crop_flip",
    }.items()
    for part in survey(
        dataclasses.replace(
            _CPU,
            dataset=dataset,
            num_train=None,
            suffix=f"-{dataset}",
            measure=MeasureConfig(output_sensitivity=False, robustness=RobustnessConfig(loops=1000)),
        ),
        depths=(1, 2, 3, 5),
        widths=(100, 200, 500, 1000),
        augment=augment,
    )
)
"""7168 networks on all images of E's four data sets."""
