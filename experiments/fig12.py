"""Paper A, Figure 12: test loss L against sensitivity before and after the softmax.

Reproduces: Forouzesh, Salehi and Thiran, Figure 12, 1000 CIFAR-10 training images, FCs and CNNs from SN.
Claim: the relation of L and S is lost when S is taken after the softmax. As printed, the mean over K of the
output noise after the softmax is 0, because probabilities sum to 1; this takes the mean over K of its
variances. Its small-noise limit is sigma^2 / K times the mean of |J|_F^2, J after the softmax, whose norm is
in panel (c). The networks are those of Figure 2.

    python experiments/fig12.py                                                  # quick: embedded digits
    python experiments/fig12.py --preset cpu --data-dir DIR --out figures/fig12  # real CIFAR-10
    python experiments/fig12.py --preset paper --data-dir DIR --checkpoint       # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits | 5 small ones | 3 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, 1000 training images | 16, at most 400 or 150 epochs | FC 5, CNN 3 | 40 core-minutes |
| paper | CIFAR-10, 1000 training images | 99 | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import cnn, fully_connected
from jaxsens.plotting import Panel, equation_9_line, save_panels
from jaxsens.sweep import CPU, CPU_CONVOLUTIONAL, PAPER, QUICK
from jaxsens.table import Table

PRESETS = {
    "quick": (
        dataclasses.replace(
            QUICK,
            models=(
                *(fully_connected(layers, 16) for layers in (2, 3)),
                fully_connected(2, 32),
                *(cnn(convolutions, 2) for convolutions in (1, 2)),
            ),
        ),
    ),
    "cpu": (
        dataclasses.replace(
            CPU,
            models=tuple(fully_connected(layers, width) for layers in (2, 3, 4) for width in (100, 200, 300)),
        ),
        dataclasses.replace(
            CPU_CONVOLUTIONAL,
            models=(
                *(cnn(1, channels) for channels in (5, 10, 15)),
                *(cnn(convolutions, channels) for convolutions in (2, 3) for channels in (5, 10)),
            ),
        ),
    ),
    "paper": (
        dataclasses.replace(
            PAPER,
            models=(
                *(fully_connected(layers, width) for layers in (3, 4, 5, 6) for width in range(100, 501, 20)),
                *(cnn(convolutions, channels) for convolutions in (1, 2, 3) for channels in range(5, 26, 5)),
            ),
        ),
    ),
}


def draw(table: Table, out: Path) -> None:
    """Before the softmax with equation 9's line, after it, and the Jacobian's norm after it."""
    panels = (
        Panel(table, "(a) before the softmax", lines=equation_9_line(table)),
        Panel(table, "(b) after the softmax", x="sensitivity_after_softmax"),
        Panel(table, "(c) Jacobian after the softmax", x="jacobian_norm_after_softmax"),
    )
    save_panels(panels, out, "fig12")


EXPERIMENT = cli.Experiment("fig12", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
