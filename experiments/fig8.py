"""Paper A, Figure 8: test loss L against sensitivity S on MNIST.

Reproduces: Forouzesh, Salehi and Thiran, Figure 8 a-e, 6000 MNIST training images: (a) architectures as in
Figure 1, (b) fully-connected networks, (c) those with and without regularisation, (d) S_before of untrained
networks, (e) convolutional networks with and without regularisation. Claim: the relations of Figures 1, 2 and
4 hold on MNIST too. A's "4-layer" networks are taken as 3 hidden layers, its "2-layer CNN" as 2 convolutions.

    python experiments/fig8.py                                                 # quick: embedded digits
    python experiments/fig8.py --preset cpu --data-dir DIR --out figures/fig8  # real MNIST
    python experiments/fig8.py --preset paper --data-dir DIR --checkpoint      # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits | 8 small ones | 3 | 1 minute on 2 CPU cores |
| cpu | MNIST, 6000 training images | 20, at most 60 epochs | 3 | 16 core-minutes |
| paper | MNIST, 6000 training images | 196 | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import alexnet, cnn, fully_connected, resnet, vgg
from jaxsens.plotting import Panel, equation_9_line, save_panels
from jaxsens.sweep import CPU, CPU_CONVOLUTIONAL, PAPER, QUICK
from jaxsens.table import Table
from jaxsens.train import TrainConfig

REGULARIZATION = ({"dropout": 0.5}, {"batch_norm": True})

PRESETS = {
    "quick": (
        dataclasses.replace(
            QUICK,
            models=(
                *(fully_connected(layers, 16) for layers in (2, 3)),
                fully_connected(2, 32),
                *(fully_connected(3, 16, **regularization) for regularization in REGULARIZATION),
                cnn(2, 2),
                cnn(2, 2, batch_norm=True),
            ),
        ),
        dataclasses.replace(QUICK, image_size=32, models=(vgg(11, 1 / 32),)),
    ),
    # 6000 images are 47 batches: six times the steps of 1000 in one epoch.
    "cpu": (
        dataclasses.replace(
            CPU,
            seeds=3,
            dataset="mnist",
            num_train=6000,
            train=TrainConfig(max_epochs=60),
            models=(
                *(fully_connected(layers, width) for layers in (2, 3, 4) for width in (100, 200)),
                fully_connected(3, 300),
                *(
                    fully_connected(3, width, **regularization)
                    for regularization in REGULARIZATION
                    for width in (100, 200)
                ),
            ),
        ),
        dataclasses.replace(
            CPU_CONVOLUTIONAL,
            dataset="mnist",
            num_train=6000,
            train=TrainConfig(max_epochs=20),
            models=(
                *(cnn(2, channels) for channels in (5, 8)),
                *(cnn(2, 5, **regularization) for regularization in (*REGULARIZATION, {"max_pool": True})),
            ),
        ),
        # Five max-pools need 32 x 32 pixels.
        dataclasses.replace(
            CPU_CONVOLUTIONAL,
            dataset="mnist",
            num_train=6000,
            image_size=32,
            train=TrainConfig(max_epochs=10),
            models=tuple(vgg(11, s) for s in (1 / 16, 1 / 8)),
        ),
        # AlexNet's dropout makes it slow to fit: more epochs to come as near to training loss 0.
        dataclasses.replace(
            CPU_CONVOLUTIONAL,
            dataset="mnist",
            num_train=6000,
            image_size=32,
            train=TrainConfig(max_epochs=20),
            models=tuple(alexnet(h, hidden=128) for h in (4, 8)),
        ),
    ),
    "paper": (
        dataclasses.replace(
            PAPER,
            dataset="mnist",
            num_train=6000,
            models=(
                *(fully_connected(layers, width) for layers in (2, 3, 4, 5) for width in range(100, 501, 20)),
                *(
                    fully_connected(3, width, **regularization)
                    for regularization in REGULARIZATION
                    for width in range(100, 501, 20)
                ),
                *(
                    cnn(convolutions, channels)
                    for convolutions in (1, 2, 3, 4)
                    for channels in range(5, 26, 5)
                ),
                *(
                    cnn(2, channels, **regularization)
                    for regularization in (*REGULARIZATION, {"max_pool": True})
                    for channels in range(5, 26, 5)
                ),
            ),
        ),
        dataclasses.replace(
            PAPER,
            dataset="mnist",
            num_train=6000,
            image_size=32,
            models=(
                *(alexnet(h) for h in (16, 32, 48, 64, 80)),
                *(vgg(depth, s) for depth in (11, 13, 16, 19) for s in (0.25, 0.5, 1.0, 1.5, 2.0)),
                *(resnet(depth, s) for depth in (18, 34) for s in (0.25, 0.5, 1.0, 1.5, 2.0)),
            ),
        ),
    ),
}


def draw(table: Table, out: Path) -> None:
    """Five panels; equation 9's line with those of trained networks."""
    small = {name for name in table.column("family") if name.startswith(("FC", "CNN"))}
    dense = tuple(name for name in small if name.startswith("FC"))
    convolutional = tuple(name for name in small if name.startswith("CNN-2"))
    architectures = table.where(family=tuple(set(table.column("family")) - small))
    lines = equation_9_line(table.where(family=tuple(small)))
    panels = (
        Panel(architectures, "(a) architectures", lines=equation_9_line(architectures)),
        Panel(table.where(family=dense, regularization="none"), "(b) fully-connected networks", lines=lines),
        Panel(
            table.where(family=dense, hidden_layers=3), "(c) FC, 3 hidden layers, regularised", lines=lines
        ),
        Panel(
            table.where(family=tuple(small), regularization="none"),
            "(d) before training",
            x="sensitivity_before",
        ),
        Panel(table.where(family=convolutional), "(e) CNN, 2 convolutions, regularised", lines=lines),
    )
    save_panels(panels, out, "fig8")


EXPERIMENT = cli.Experiment("fig8", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
