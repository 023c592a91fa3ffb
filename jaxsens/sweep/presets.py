"""The papers' settings in three sizes, each of which experiments complete with their networks."""

import dataclasses
from typing import Any

from jaxsens.models import fully_connected, vgg_stacks
from jaxsens.sweep.cells import ComplexityConfig, MeasureConfig, Preset
from jaxsens.train import TrainConfig

__all__ = [
    "CONDITIONS_CPU",
    "CONDITIONS_PAPER",
    "CONDITIONS_QUICK",
    "CPU",
    "CPU_CONVOLUTIONAL",
    "EXPLORING_CPU",
    "EXPLORING_PAPER",
    "EXPLORING_QUICK",
    "PAPER",
    "QUICK",
    "TANGENT_CPU",
    "TANGENT_PAPER",
    "TANGENT_QUICK",
    "true_and_random",
]

QUICK = Preset(
    seeds=3,
    dataset="digits",
    num_train=256,
    num_test=256,
    train=TrainConfig(batch_size=32, max_epochs=20),
    measure=MeasureConfig(derivative_examples=100),
)
"""Embedded data and seconds a network: shows that an experiment works, and nothing else."""

CPU = Preset(seeds=5, train=TrainConfig(max_epochs=400), measure=MeasureConfig(derivative_examples=500))
"""Real images on two cores: A's settings with fewer epochs and seeds, and derivatives at 500 test images."""

CPU_CONVOLUTIONAL = dataclasses.replace(CPU, seeds=3, train=TrainConfig(max_epochs=150))
"""The same for convolutional networks, whose epochs take several times as long."""

PAPER = Preset(seeds=10)
"""A's settings (Appendix A): 1000 training images, all test images, at most 2000 epochs, 10 runs."""


# C's Table A1 and Appendix C: no regularisation, BN in all hidden layers, dropout from the second one on. The
# rate is not given. Inputs are normalised as in the published code.
_TANGENT_TRAIN = TrainConfig("sgd", learning_rate=0.05, weight_decay=5e-4, batch_size=64, max_epochs=50)
_TANGENT_VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"batch_norm": True},
    {"dropout": 0.5, "dropout_from": 2},
)

TANGENT_PAPER = Preset(
    models=tuple(fully_connected(4, 100, init="FU", **variant) for variant in _TANGENT_VARIANTS),
    seeds=10,
    num_train=None,
    inputs="standard",
    train=_TANGENT_TRAIN,
    measure=MeasureConfig(
        derivative_examples=1000,
        output_sensitivity=False,
        tangent_examples=10_000,
        snapshots=tuple(range(50)),
    ),
)
"""C's networks and settings (Table A1, Appendix C): all of CIFAR-10, measured at the start of each epoch."""

TANGENT_CPU = dataclasses.replace(
    TANGENT_PAPER,
    seeds=3,
    measure=dataclasses.replace(TANGENT_PAPER.measure, derivative_examples=500, tangent_examples=1000),
)
"""The same with fewer seeds, and tangent sensitivities at fewer images."""

TANGENT_QUICK = dataclasses.replace(
    QUICK,
    models=tuple(fully_connected(3, 16, init="FU", **variant) for variant in _TANGENT_VARIANTS),
    seeds=2,
    inputs="standard",
    train=dataclasses.replace(_TANGENT_TRAIN, max_epochs=6),
    measure=MeasureConfig(
        derivative_examples=50, output_sensitivity=False, tangent_examples=50, snapshots=tuple(range(6))
    ),
)
"""Embedded data and seconds a network, as `QUICK`."""


# D Appendix A. Inputs are normalised as in the first author's later published code; D does not say.
_EXPLORING_TRAIN = TrainConfig(
    "momentum", learning_rate=0.01, batch_size=64, max_epochs=1000, stop_loss=1e-4, stop_count=1
)

EXPLORING_PAPER = Preset(
    models=(vgg_stacks(1),),
    seeds=5,
    inputs="standard",
    train=_EXPLORING_TRAIN,
    measure=MeasureConfig(derivative_examples=1000, output_sensitivity=False, complexity=ComplexityConfig()),
)
"""D's modified VGG and its settings (Appendix A); D does not give the number of runs."""

EXPLORING_CPU = dataclasses.replace(
    EXPLORING_PAPER,
    models=(vgg_stacks(0.25, dropout=0),),
    seeds=3,
    train=dataclasses.replace(_EXPLORING_TRAIN, max_epochs=100, stop_loss=1e-3),
    measure=MeasureConfig(
        derivative_examples=100,
        output_sensitivity=False,
        complexity=ComplexityConfig(
            sharpness_steps=300,
            alphas=(1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2),
            num_perturbations=60,
        ),
    ),
)
"""A quarter of the width, no dropout (with it, random labels are not fitted in these epochs), stopped at a
training loss of 1e-3; 300 steps of sharpness, and 60 perturbations."""

EXPLORING_QUICK = dataclasses.replace(
    EXPLORING_CPU,
    models=(vgg_stacks(0.0625, dropout=0),),
    seeds=2,
    dataset="digits",
    num_train=128,
    num_test=256,
    image_size=16,
    train=dataclasses.replace(_EXPLORING_TRAIN, batch_size=16, max_epochs=20),
    measure=MeasureConfig(
        derivative_examples=20,
        output_sensitivity=False,
        complexity=ComplexityConfig(
            margin_percent=50.0, sharpness_steps=5, alphas=(1e-3, 1e-2, 5e-2), num_perturbations=20
        ),
    ),
)
"""Embedded data and seconds a network, as `QUICK`."""


def true_and_random(preset: Preset, numbers: tuple[int, ...]) -> tuple[Preset, ...]:
    """The preset on each number of training images, with true and with random labels (D Figures 1 and 2)."""
    return tuple(
        dataclasses.replace(
            preset, num_train=number, label_noise=noise, suffix=f"-n{number}-{'random' if noise else 'true'}"
        )
        for number in numbers
        for noise in (0.0, 1.0)
    )


CONDITIONS_PAPER = Preset(
    models=(fully_connected(10, 1000, init="HN"),),
    seeds=5,
    dataset="mnist",
    num_train=None,
    inputs="standard",
    train=_EXPLORING_TRAIN,
    measure=MeasureConfig(derivative_examples=100, output_sensitivity=False, condition_examples=100),
)
"""D's perceptron of 10 layers with 1000 units on MNIST (Figures 5 to 8), from He's weights; D gives none."""

CONDITIONS_CPU = dataclasses.replace(
    CONDITIONS_PAPER,
    seeds=2,
    num_train=5000,
    train=dataclasses.replace(_EXPLORING_TRAIN, max_epochs=60, stop_loss=1e-3),
    measure=dataclasses.replace(CONDITIONS_PAPER.measure, derivative_examples=20, condition_examples=20),
)
"""The same network, on 5000 images, and fewer seeds."""

CONDITIONS_QUICK = dataclasses.replace(
    CONDITIONS_CPU,
    models=(fully_connected(4, 24, init="HN"),),
    dataset="digits",
    num_train=128,
    num_test=256,
    train=dataclasses.replace(_EXPLORING_TRAIN, max_epochs=10),
)
"""Embedded data and seconds a network, as `QUICK`."""
