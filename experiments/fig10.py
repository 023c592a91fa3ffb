"""Paper A, Figure 10: loss, variance, bias and sensitivity in a regression task.

Reproduces: Forouzesh, Salehi and Thiran, Figure 10 a-d on the Boston house prices, with the networks of
Figure 5. Claims: L_MSE is the sum of bias and variance (c); the variance grows with S (d), which without a
softmax is equation 14. Nothing is trained that Figure 5 has trained.

    python experiments/fig10.py                                                  # quick: diabetes
    python experiments/fig10.py --preset cpu --data-dir DIR --out figures/fig10  # DIR holds boston.csv
    python experiments/fig10.py --preset paper --data-dir DIR --checkpoint       # the paper's grid

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
from jaxsens.plotting import Panel, equation_14_line, relabel, save_panels
from jaxsens.sweep import CPU, PAPER, QUICK
from jaxsens.table import Table
from jaxsens.train import TrainConfig

LAYERS = range(3, 9)
LABELS = {"bias_and_variance": "bias + variance", "variance": r"variance  $\varepsilon_{\mathrm{variance}}$"}

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
    """Loss against variance, bias, their sum; variance against S with equation 14's line; SN left, XU right.

    Bias, variance and loss are those of a cell's members together, so the loss is their sum exactly. The
    variance beside equation 14 is unbiased.
    """
    table = relabel(
        table,
        bias_and_variance=lambda row: None if row["variance"] is None else row["bias"] + row["variance"],
    )
    parts = {init: table.where(init=init) for init in ("SN", "XU")}
    panels = []
    for letter, x in (("a", "variance"), ("b", "bias"), ("c", "bias_and_variance")):
        panels += [
            Panel(part, f"({letter}) {init}", x=x, y="mse_loss", x_label=LABELS.get(x))
            for init, part in parts.items()
        ]
    panels += [
        Panel(
            part, f"(d) {init}", y="logit_variance", y_label=LABELS["variance"], lines=equation_14_line(part)
        )
        for init, part in parts.items()
    ]
    save_panels(panels, out, "fig10")


EXPERIMENT = cli.Experiment("fig10", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
