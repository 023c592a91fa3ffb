"""Paper A, Figure 4: test loss L of trained networks against the sensitivity S_before of untrained ones.

Reproduces: Forouzesh, Salehi and Thiran, Figure 4: networks that start from SN, without batch normalisation,
dropout and max-pooling, 1000 CIFAR-10 training images. Claim: S_before, which needs neither labels nor
training, ranks architectures as the trained loss does. The second panel
holds S_before of the fully-connected networks against equation 10, which is an expectation for small noise:
points lie below it because they are geometric means over seeds, and because noise of 0.1 switches units.

    python experiments/fig4.py                                                 # quick: embedded digits
    python experiments/fig4.py --preset cpu --data-dir DIR --out figures/fig4  # real CIFAR-10
    python experiments/fig4.py --preset paper --data-dir DIR --checkpoint      # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 8 x 8 | 6 small ones | 3 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, 1000 images | 23, at most 400, 150 or 60 epochs | FC 5, CNN and others 3 | 59 core-minutes |
| paper | CIFAR-10, 1000 training images | 119 | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import alexnet, cnn, fully_connected, vgg
from jaxsens.plotting import Line, Panel, save_panels
from jaxsens.sweep import CPU, CPU_CONVOLUTIONAL, PAPER, QUICK
from jaxsens.table import Table
from jaxsens.train import TrainConfig

PRESETS = {
    "quick": (
        dataclasses.replace(
            QUICK,
            models=(
                *(fully_connected(layers, 16) for layers in (1, 2, 3)),
                fully_connected(2, 32),
                *(cnn(convolutions, 2) for convolutions in (1, 2)),
            ),
        ),
    ),
    "cpu": (
        dataclasses.replace(
            CPU,
            models=(
                *(fully_connected(1, width) for width in (100, 300)),
                *(fully_connected(layers, width) for layers in (2, 3, 4) for width in (100, 200, 300)),
            ),
        ),
        dataclasses.replace(
            CPU_CONVOLUTIONAL,
            models=(
                *(cnn(1, channels) for channels in (5, 10, 15)),
                *(cnn(convolutions, channels) for convolutions in (2, 3) for channels in (5, 10)),
                cnn(4, 5),
            ),
        ),
        # The deep ones cost more and get fewer epochs; the dense layers of AlexNet are narrow.
        dataclasses.replace(
            CPU,
            seeds=3,
            train=TrainConfig(max_epochs=60),
            models=(
                *(alexnet(h, hidden=128, dropout=0, max_pool=False, init="SN") for h in (2, 4)),
                *(vgg(depth, 1 / 64, batch_norm=False, max_pool=False, init="SN") for depth in (11, 13)),
            ),
        ),
    ),
    "paper": (
        dataclasses.replace(
            PAPER,
            models=(
                *(fully_connected(layers, width) for layers in (2, 3, 4, 5) for width in range(100, 501, 20)),
                *(
                    cnn(convolutions, channels)
                    for convolutions in (1, 2, 3, 4)
                    for channels in range(5, 26, 5)
                ),
                *(alexnet(h, dropout=0, max_pool=False, init="SN") for h in (16, 32, 48, 64, 80)),
                *(
                    vgg(depth, s, batch_norm=False, max_pool=False, init="SN")
                    for depth in (11, 13)
                    for s in (0.25, 0.5, 1.0, 1.5, 2.0)
                ),
            ),
        ),
    ),
}


def draw(table: Table, out: Path) -> None:
    """L against S_before, and S_before against equation 10."""
    dense = tuple({name for name in table.column("family") if name.startswith("FC")})
    panels = (
        Panel(table, "(a) before training", x="sensitivity_before"),
        Panel(
            table.where(family=dense),
            "(b) fully-connected networks, before training",
            x="predicted_sensitivity_before",
            y="sensitivity_before",
            lines=(Line("equation (10)", lambda predicted: predicted),),
        ),
    )
    save_panels(panels, out, "fig4")


EXPERIMENT = cli.Experiment("fig4", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
