"""Paper A, Figure 3: test loss L against sensitivity S_after under four initialisations.

Reproduces: Forouzesh, Salehi and Thiran, Figure 3: networks that start from SN (standard normal), XU (Xavier,
uniform), HU (He, uniform) or HN (He, normal), 1000 CIFAR-10 training images. Claim: HN has the lowest S and
L, and all follow one relation. The right panel enlarges the lower left of the left one.

    python experiments/fig3.py                                                 # quick: embedded digits
    python experiments/fig3.py --preset cpu --data-dir DIR --out figures/fig3  # real CIFAR-10
    python experiments/fig3.py --preset paper --data-dir DIR --checkpoint      # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits | 6 small ones | 3 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, 1000 training images | 13, at most 400 or 150 epochs | FC 5, CNN 3 | 26 core-minutes |
| paper | CIFAR-10, 1000 training images | 104 | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import cnn, fully_connected
from jaxsens.plotting import Panel, equation_9_line, figure_one_points, save_panels, zoom_limits
from jaxsens.sweep import CPU, CPU_CONVOLUTIONAL, PAPER, QUICK
from jaxsens.table import Table

INITS = ("SN", "XU", "HU", "HN")

PRESETS = {
    "quick": (
        dataclasses.replace(
            QUICK,
            models=(
                *(fully_connected(2, 16, init=init) for init in INITS),
                *(cnn(1, 2, init=init) for init in ("SN", "XU")),
            ),
        ),
    ),
    "cpu": (
        dataclasses.replace(
            CPU, models=tuple(fully_connected(4, width, init=init) for init in INITS for width in (100, 200))
        ),
        dataclasses.replace(
            CPU_CONVOLUTIONAL,
            models=(
                *(cnn(2, 5, init=init) for init in INITS),
                cnn(2, 10),
            ),
        ),
    ),
    "paper": (
        dataclasses.replace(
            PAPER,
            models=(
                *(fully_connected(4, width, init=init) for init in INITS for width in range(100, 501, 20)),
                *(cnn(2, channels, init=init) for init in INITS for channels in range(5, 26, 5)),
            ),
        ),
    ),
}


def draw(table: Table, out: Path) -> None:
    """All networks, and the lower left of them enlarged, with equation 9's line."""
    lines = equation_9_line(table)
    scaled = [name for name in table.column("family") if not name.endswith(" SN")]
    corner = zoom_limits(figure_one_points(table), scaled)
    panels = (
        Panel(table, "all initialisations", lines=lines, frame=corner),
        Panel(table, "Xavier and He, enlarged", lines=lines, limits=corner),
    )
    save_panels(panels, out, "fig3")


EXPERIMENT = cli.Experiment("fig3", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
