"""Paper A, Figure 2: test loss L against sensitivity S_after, networks that start from SN.

Reproduces: Forouzesh, Salehi and Thiran, Figure 2 a-e on 1000 CIFAR-10 training images. Claims: (a) a
convolution added to a one-hidden-layer network gives lower S and L than a dense layer does, even with more
parameters; (b), (c) deeper and narrower beats shallower and wider, and networks of equal (H/2)^M have equal S
and L; (d), (e) dropout, batch normalisation and max-pooling move networks to lower S and L.

    python experiments/fig2.py                                                 # quick: embedded digits
    python experiments/fig2.py --preset cpu --data-dir DIR --out figures/fig2  # real CIFAR-10
    python experiments/fig2.py --preset paper --data-dir DIR --checkpoint      # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits | 10 small ones | 3 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, 1000 training images | 28, at most 400 or 150 epochs | FC 5, CNN 3 | 68 core-minutes |
| paper | CIFAR-10, 1000 training images | 204 | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import cnn, fully_connected
from jaxsens.plotting import Panel, equation_9_line, save_panels
from jaxsens.sweep import CPU, CPU_CONVOLUTIONAL, PAPER, QUICK
from jaxsens.table import Table

WIDTHS = range(100, 501, 20)
CHANNELS = range(5, 26, 5)
# Dropout's rate is not given; 0.5 is that of Appendix A's AlexNet.
DENSE_REGULARIZATION = ({"dropout": 0.5}, {"batch_norm": True})
CONVOLUTION_REGULARIZATION = (*DENSE_REGULARIZATION, {"max_pool": True})
# Equal numbers of parameters (panel a), and of (H/2)^M (panel b).
MARKS_A = {"fc-2x140-sn": "451k parameters", "cnn-1x5-sn": "451k parameters"}
MARKS_B = {"fc-3x200-sn": "$(H/2)^M = 10^6$", "fc-4x63-sn": "$(H/2)^M = 10^6$"}

PRESETS = {
    "quick": (
        dataclasses.replace(
            QUICK,
            models=(
                *(fully_connected(layers, 16) for layers in (1, 2, 3)),
                fully_connected(2, 32),
                *(cnn(convolutions, 2) for convolutions in (1, 2)),
                fully_connected(3, 16, dropout=0.5),
                fully_connected(3, 16, batch_norm=True),
                cnn(3, 2),
                cnn(3, 2, batch_norm=True),
            ),
        ),
    ),
    "cpu": (
        dataclasses.replace(
            CPU,
            models=(
                *(fully_connected(1, width) for width in (100, 300)),
                *(fully_connected(layers, width) for layers in (2, 3, 4) for width in (100, 200, 300)),
                fully_connected(2, 140),
                fully_connected(4, 63),
                *(
                    fully_connected(3, width, **regularization)
                    for regularization in DENSE_REGULARIZATION
                    for width in (100, 200)
                ),
            ),
        ),
        dataclasses.replace(
            CPU_CONVOLUTIONAL,
            models=(
                *(cnn(1, channels) for channels in (5, 10, 15)),
                *(cnn(convolutions, channels) for convolutions in (2, 3) for channels in (5, 10)),
                cnn(4, 5),
                *(cnn(3, 5, **regularization) for regularization in CONVOLUTION_REGULARIZATION),
            ),
        ),
    ),
    "paper": (
        dataclasses.replace(
            PAPER,
            models=(
                *(fully_connected(layers, width) for layers in range(1, 7) for width in WIDTHS),
                fully_connected(4, 63),
                *(
                    fully_connected(3, width, **regularization)
                    for regularization in DENSE_REGULARIZATION
                    for width in WIDTHS
                ),
                *(cnn(convolutions, channels) for convolutions in range(1, 5) for channels in CHANNELS),
                *(
                    cnn(3, channels, **regularization)
                    for regularization in CONVOLUTION_REGULARIZATION
                    for channels in CHANNELS
                ),
            ),
        ),
    ),
}


def draw(table: Table, out: Path) -> None:
    """Five panels with equation 9's line, and their summary."""
    lines = equation_9_line(table)
    plain = table.where(regularization="none")
    regularized = ("", " BN", " dropout", " max-pool")
    panels = (
        Panel(
            plain.where(family=("FC-1 SN", "FC-2 SN", "CNN-1 SN")),
            "(a) one more convolution or dense layer",
            lines=lines,
            marks=MARKS_A,
        ),
        Panel(
            plain.where(family=tuple(f"FC-{layers} SN" for layers in range(2, 7))),
            "(b) fully-connected networks",
            lines=lines,
            marks=MARKS_B,
        ),
        Panel(
            plain.where(family=tuple(f"CNN-{convolutions} SN" for convolutions in range(1, 5))),
            "(c) convolutional networks",
            lines=lines,
        ),
        Panel(
            table.where(family=tuple(f"FC-3 SN{what}" for what in regularized)),
            "(d) FC, 3 hidden layers, regularised",
            lines=lines,
        ),
        Panel(
            table.where(family=tuple(f"CNN-3 SN{what}" for what in regularized)),
            "(e) CNN, 3 convolutions, regularised",
            lines=lines,
        ),
    )
    save_panels(panels, out, "fig2")


EXPERIMENT = cli.Experiment("fig2", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
