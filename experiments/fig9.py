"""Paper A, Figure 9: test loss L against sensitivity S on CIFAR-100.

Reproduces: Forouzesh, Salehi and Thiran, Figure 9 a-e, 1000 CIFAR-100 training images: (a) architectures as
in Figure 1, (b) FC and CNN after training, (c) regularised fully-connected networks, (d) S_before of
untrained networks, (e) regularised convolutional networks. Claim: the relations of Figures 1, 2 and 4 hold on
CIFAR-100 too.

Not run yet beyond the quick preset: CIFAR-100 was not at hand. `python -m jaxsens.data prepare cifar100`
makes its folder, after which the cpu preset runs as it stands.

    python experiments/fig9.py                                                 # quick: embedded digits
    python experiments/fig9.py --preset cpu --data-dir DIR --out figures/fig9  # real CIFAR-100
    python experiments/fig9.py --preset paper --data-dir DIR --checkpoint      # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits | 8 small ones | 3 | 1 minute on 2 CPU cores |
| cpu | CIFAR-100, 1000 training images | 27, at most 400, 150 or 60 epochs | FC 5, others 3 | not run yet |
| paper | CIFAR-100, 1000 training images | 196 | 10 | not run yet |
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
                cnn(3, 2),
                cnn(3, 2, batch_norm=True),
            ),
        ),
        dataclasses.replace(QUICK, image_size=32, models=(vgg(11, 1 / 32),)),
    ),
    "cpu": (
        dataclasses.replace(
            CPU,
            dataset="cifar100",
            models=(
                *(fully_connected(layers, width) for layers in (2, 3, 4) for width in (100, 200, 300)),
                *(
                    fully_connected(3, width, **regularization)
                    for regularization in REGULARIZATION
                    for width in (100, 200, 300)
                ),
            ),
        ),
        dataclasses.replace(
            CPU_CONVOLUTIONAL,
            dataset="cifar100",
            models=(
                *(cnn(convolutions, 5) for convolutions in (1, 2, 3)),
                *(cnn(3, 5, **regularization) for regularization in (*REGULARIZATION, {"max_pool": True})),
            ),
        ),
        dataclasses.replace(
            CPU,
            seeds=3,
            dataset="cifar100",
            train=TrainConfig(max_epochs=60),
            models=(
                *(alexnet(h, hidden=128) for h in (4, 8)),
                *(vgg(11, s) for s in (1 / 16, 1 / 8)),
                vgg(13, 1 / 16),
                resnet(18, 1 / 16),
            ),
        ),
    ),
    "paper": (
        dataclasses.replace(
            PAPER,
            dataset="cifar100",
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
                    cnn(3, channels, **regularization)
                    for regularization in (*REGULARIZATION, {"max_pool": True})
                    for channels in range(5, 26, 5)
                ),
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
    dense = tuple(name for name in small if name.startswith("FC-3"))
    convolutional = tuple(name for name in small if name.startswith("CNN-3"))
    architectures = table.where(family=tuple(set(table.column("family")) - small))
    plain = table.where(family=tuple(small), regularization="none")
    lines = equation_9_line(plain)
    panels = (
        Panel(architectures, "(a) architectures", lines=equation_9_line(architectures)),
        Panel(plain, "(b) after training", lines=lines),
        Panel(table.where(family=dense), "(c) FC, 3 hidden layers, regularised", lines=lines),
        Panel(plain, "(d) before training", x="sensitivity_before"),
        Panel(table.where(family=convolutional), "(e) CNN, 3 convolutions, regularised", lines=lines),
    )
    save_panels(panels, out, "fig9")


EXPERIMENT = cli.Experiment("fig9", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
