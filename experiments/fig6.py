"""Paper A, Figure 6: test loss L against S_after with other initialisation, dropout, batch normalisation.

Reproduces: Forouzesh, Salehi and Thiran, Figure 6 a-c, 1000 CIFAR-10 training images: (a) SN against XU, (b)
with and without dropout, (c) with and without batch normalisation, from SN in (b) and (c). Claim: each moves
every network to lower S and lower L.

    python experiments/fig6.py                                                 # quick: embedded digits
    python experiments/fig6.py --preset cpu --data-dir DIR --out figures/fig6  # real CIFAR-10
    python experiments/fig6.py --preset paper --data-dir DIR --checkpoint      # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits | 9 small ones | 3 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, 1000 training images | 20, at most 400 or 150 epochs | FC 5, CNN 3 | 37 core-minutes |
| paper | CIFAR-10, 1000 training images | 285 | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import cnn, fully_connected
from jaxsens.plotting import Panel, equation_9_line, relabel, save_panels
from jaxsens.sweep import CPU, CPU_CONVOLUTIONAL, PAPER, QUICK
from jaxsens.table import Table

REGULARIZATION = ({}, {"dropout": 0.5}, {"batch_norm": True})

PRESETS = {
    "quick": (
        dataclasses.replace(
            QUICK,
            models=(
                *(fully_connected(3, 16, **regularization) for regularization in REGULARIZATION),
                *(cnn(1, 2, **regularization) for regularization in REGULARIZATION),
                fully_connected(2, 16, init="XU"),
                fully_connected(2, 16),
                cnn(1, 2, init="XU"),
            ),
        ),
    ),
    "cpu": (
        dataclasses.replace(
            CPU,
            models=(
                *(
                    fully_connected(layers, 100, **regularization)
                    for layers in (2, 3, 4)
                    for regularization in REGULARIZATION
                ),
                *(
                    fully_connected(4, 100, init="XU"),
                    fully_connected(4, 200),
                    fully_connected(4, 200, init="XU"),
                ),
            ),
        ),
        dataclasses.replace(
            CPU_CONVOLUTIONAL,
            models=(
                *(
                    cnn(convolutions, 5, **regularization)
                    for convolutions in (1, 3)
                    for regularization in REGULARIZATION
                ),
                *(cnn(2, 5), cnn(2, 5, init="XU")),
            ),
        ),
    ),
    "paper": (
        dataclasses.replace(
            PAPER,
            models=(
                *(
                    fully_connected(layers, width, **regularization)
                    for layers in (2, 4, 6)
                    for regularization in REGULARIZATION
                    for width in range(100, 501, 20)
                ),
                *(fully_connected(4, width, init="XU") for width in range(100, 501, 20)),
                *(
                    cnn(convolutions, channels, **regularization)
                    for convolutions in (1, 2, 3, 4)
                    for regularization in REGULARIZATION
                    for channels in range(5, 26, 5)
                ),
                *(
                    cnn(convolutions, channels, init="XU")
                    for convolutions in (2, 3, 4)
                    for channels in range(5, 26, 5)
                ),
            ),
        ),
    ),
}


def draw(table: Table, out: Path) -> None:
    """Three panels with equation 9's line."""
    lines = equation_9_line(table)
    kinds = relabel(table, model=lambda row: row["family"].split()[0])
    both = {row["model"] for row in kinds.where(init="XU").rows()}

    def against_plain(what: str) -> Table:
        """The networks that were trained both with and without it."""
        both = kinds.where(init="SN", regularization=("none", what))
        twins = {(row["model"], row["width"]) for row in both.rows() if row["regularization"] == what}
        return both.where(
            cell=tuple(row["cell"] for row in both.rows() if (row["model"], row["width"]) in twins)
        )

    panels = (
        Panel(
            kinds.where(regularization="none", model=tuple(both)), "(a) standard normal, Xavier", lines=lines
        ),
        Panel(against_plain("do"), "(b) dropout", lines=lines),
        Panel(against_plain("bn"), "(c) batch normalisation", lines=lines),
    )
    save_panels(panels, out, "fig6")


EXPERIMENT = cli.Experiment("fig6", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
