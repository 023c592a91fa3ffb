"""Paper A, Table 2: cross-entropy, sensitivity and error before and after temperature scaling.

Reproduces: Forouzesh, Salehi and Thiran, Table 2: Pearson's rho among test loss L, sensitivity S and
classification error for FCs and CNNs of four layers on a subset of MNIST, before and after calibration by
temperature scaling (section 6.2). Claim: before it L and S go with the error the wrong way, after it they do
not. With logits over T, S is S / T^2. The paper does not say which examples T is fitted on: here each half of
the test set gets the T of the other half. "4-layer" is taken as 3 hidden layers (FC) and 2 convolutions with
2 dense layers (CNN). The networks are those of Figure 8.

    python experiments/table2.py                                                   # quick: embedded digits
    python experiments/table2.py --preset cpu --data-dir DIR --out figures/table2  # real MNIST
    python experiments/table2.py --preset paper --data-dir DIR --checkpoint        # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits | 5 small ones | 3 | 1 minute on 2 CPU cores |
| cpu | MNIST, 6000 training images | 5, at most 60 or 20 epochs | 3 | 4 core-minutes |
| paper | MNIST, 6000 training images | 26 | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import cnn, fully_connected
from jaxsens.plotting import Panel, correlation_rows, relabel, save_panels, save_rows
from jaxsens.sweep import CPU, CPU_CONVOLUTIONAL, PAPER, QUICK
from jaxsens.table import Table
from jaxsens.train import TrainConfig

# Names, columns before and after calibration, rho before and after as published.
PAIRS = (
    ("L and S", ("sensitivity_after", "test_loss"), 0.958, 0.841),
    ("error and L", ("test_loss", "test_error"), -0.797, 0.137),
    ("error and S", ("sensitivity_after", "test_error"), -0.757, 0.087),
)
CALIBRATED = {
    "sensitivity_after": "sensitivity_after_calibrated",
    "test_loss": "test_loss_calibrated",
    "test_error": "test_error",
}

PRESETS = {
    "quick": (
        dataclasses.replace(
            QUICK,
            models=(
                fully_connected(3, 16),
                fully_connected(2, 16),
                fully_connected(2, 32),
                *(cnn(2, channels) for channels in (2, 4)),
            ),
        ),
    ),
    "cpu": (
        dataclasses.replace(
            CPU,
            seeds=3,
            dataset="mnist",
            num_train=6000,
            train=TrainConfig(max_epochs=60),
            models=tuple(fully_connected(3, width) for width in (100, 200, 300)),
        ),
        dataclasses.replace(
            CPU_CONVOLUTIONAL,
            dataset="mnist",
            num_train=6000,
            train=TrainConfig(max_epochs=20),
            models=tuple(cnn(2, channels) for channels in (5, 8)),
        ),
    ),
    "paper": (
        dataclasses.replace(
            PAPER,
            dataset="mnist",
            num_train=6000,
            models=(
                *(fully_connected(3, width) for width in range(100, 501, 20)),
                *(cnn(2, channels) for channels in range(5, 26, 5)),
            ),
        ),
    ),
}


def draw(table: Table, out: Path) -> None:
    """The table, and a panel for each of its coefficients."""
    # The same members before and after: those that have a temperature.
    table = relabel(
        table,
        diverged=lambda row: row.get("temperature") is None,
        test_error=lambda row: None if row.get("temperature") is None else 1 - row["test_accuracy"],
    )
    rows, panels = [], []
    for pair, (x, y), before, after in PAIRS:
        for when, columns, paper in (
            ("before", (x, y), before),
            ("after", (CALIBRATED[x], CALIBRATED[y]), after),
        ):
            rows.append(
                {"pair": pair, "calibration": when}
                | correlation_rows(table, x=columns[0], y=columns[1])
                | {"rho (paper)": paper}
            )
            title = f"{pair}, {when} calibration"
            panels.append(Panel(table, title, x=columns[0], y=columns[1], paper_correlation=paper))
    save_rows(rows, out, "table2")
    save_panels(panels, out, "table2")


EXPERIMENT = cli.Experiment("table2", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
