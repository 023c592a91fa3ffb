"""Paper A, Figure 5: test loss L_MSE against sensitivity S_after in a regression task.

Reproduces: Forouzesh, Salehi and Thiran, Figure 5: fully-connected networks of 3-8 hidden layers on the
Boston house prices, 70% for training, 30% for testing, squared error. Claim: L_MSE grows with S. The paper
says neither how the networks start, so both SN and XU are shown, nor how features are scaled: here by the
training set's means and standard deviations. Prices are in 1000 dollars.

    python experiments/fig5.py                                                 # quick: embedded diabetes data
    python experiments/fig5.py --preset cpu --data-dir DIR --out figures/fig5  # DIR holds boston.csv
    python experiments/fig5.py --preset paper --data-dir DIR --checkpoint      # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | diabetes | 4 small ones | 3 | half a minute on 2 CPU cores |
| cpu | Boston | 24, at most 600 epochs | 5 | 11 core-minutes |
| paper | Boston | 252 | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import fully_connected
from jaxsens.plotting import Panel, save_panels
from jaxsens.sweep import CPU, PAPER, QUICK
from jaxsens.table import Table
from jaxsens.train import TrainConfig

LAYERS = range(3, 9)
LOSS = r"test loss  $L_{\mathrm{MSE}}$"

PRESETS = {
    "quick": (
        dataclasses.replace(
            QUICK,
            dataset="diabetes",
            num_test=None,
            inputs="standard",
            train=TrainConfig(loss="mse", batch_size=32, max_epochs=20),
            models=tuple(fully_connected(2, width, init=init) for init in ("SN", "XU") for width in (8, 32)),
        ),
    ),
    "cpu": (
        dataclasses.replace(
            CPU,
            dataset="boston",
            num_train=None,
            inputs="standard",
            train=TrainConfig(loss="mse", max_epochs=600),
            models=tuple(
                fully_connected(layers, width, init=init)
                for init in ("SN", "XU")
                for layers in LAYERS
                for width in (100, 300)
            ),
        ),
    ),
    "paper": (
        dataclasses.replace(
            PAPER,
            dataset="boston",
            num_train=None,
            inputs="standard",
            train=TrainConfig(loss="mse"),
            models=tuple(
                fully_connected(layers, width, init=init)
                for init in ("SN", "XU")
                for layers in LAYERS
                for width in range(100, 501, 20)
            ),
        ),
    ),
}


def draw(table: Table, out: Path) -> None:
    """A panel for each initialiser."""
    panels = (
        Panel(table.where(init="SN"), "from standard normal weights", y="test_loss", y_label=LOSS),
        Panel(table.where(init="XU"), "from Xavier's uniform weights", y="test_loss", y_label=LOSS),
    )
    save_panels(panels, out, "fig5")


EXPERIMENT = cli.Experiment("fig5", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
