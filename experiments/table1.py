"""Paper A, Table 1: how sensitivity S and the Jacobian norm J, before and after the softmax, go with L.

Reproduces: Forouzesh, Salehi and Thiran, Table 1: Pearson's rho of each metric with the test loss L, and its
computation time, for VGG13, VGG16, ResNet18 and ResNet34 trained on CIFAR-10. Claims: S before the softmax
has the largest rho, and J takes 13.7 times as long. The table adds the exact small-noise limit of S, and
gives rho of the values, as the paper's may be, and of their logarithms. Seconds are per 1000 images on the
machine that trained; J, and S, before and after the softmax come out of one pass each. The paper trains on
all of CIFAR-10; the cpu preset trains on 1000 images and measures on the first 2000 test images.

    python experiments/table1.py                                                   # quick: embedded digits
    python experiments/table1.py --preset cpu --data-dir DIR --out figures/table1  # real CIFAR-10
    python experiments/table1.py --preset paper --data-dir DIR --checkpoint        # the paper's networks

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 8 x 8 enlarged to 32 x 32 | 3 small ones | 10 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, 1000 training images | 6, at most 30 epochs | 3 | 11 core-minutes |
| paper | CIFAR-10, all training images | 20 | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import alexnet, resnet, vgg
from jaxsens.plotting import Panel, column_median, correlation_rows, save_panels, save_rows
from jaxsens.sweep import CPU, PAPER, QUICK, MeasureConfig
from jaxsens.table import Table
from jaxsens.train import TrainConfig

# Column, name, rho and seconds as published, and the column of our seconds.
METRICS = (
    ("jacobian_norm_after_softmax", "J after softmax", 0.116, 1.166, "jacobian_norm_seconds"),
    ("jacobian_norm_before_softmax", "J before softmax", 0.414, 1.165, "jacobian_norm_seconds"),
    ("sensitivity_after_softmax", "S after softmax", 0.381, 0.086, "sensitivity_seconds"),
    ("sensitivity_after", "S before softmax", 0.648, 0.085, "sensitivity_seconds"),
    ("linearized_sensitivity_after", "small-noise limit of S", None, None, "linearized_sensitivity_seconds"),
)

PRESETS = {
    "quick": (
        dataclasses.replace(
            QUICK,
            seeds=10,
            image_size=32,
            train=TrainConfig(learning_rate=3e-3, batch_size=32, max_epochs=30, stop_loss=0.1, stop_count=2),
            measure=MeasureConfig(derivative_examples=200),
            models=(*(vgg(depth, 1 / 32) for depth in (11, 13)), alexnet(8, hidden=64)),
        ),
    ),
    "cpu": (
        dataclasses.replace(
            CPU,
            seeds=3,
            num_test=2000,
            train=TrainConfig(max_epochs=30),
            measure=MeasureConfig(derivative_examples=200),
            models=(
                *(vgg(depth, s) for depth in (13, 16) for s in (1 / 32, 1 / 16)),
                *(resnet(depth, 1 / 32) for depth in (18, 34)),
            ),
        ),
    ),
    "paper": (
        dataclasses.replace(
            PAPER,
            num_train=None,
            models=(
                *(vgg(depth, s) for depth in (13, 16) for s in (0.25, 0.5, 1.0, 1.5, 2.0)),
                *(resnet(depth, s) for depth in (18, 34) for s in (0.25, 0.5, 1.0, 1.5, 2.0)),
            ),
        ),
    ),
}


def draw(table: Table, out: Path) -> None:
    """The table, and a panel for each of its metrics."""
    of_sensitivity = column_median(table, "sensitivity_seconds")
    rows = []
    for column, name, paper_rho, paper_seconds, seconds in METRICS:
        took = column_median(table, seconds)
        rows.append(
            {"metric": name}
            | correlation_rows(table, x=column, y="test_loss")
            | {
                "rho (paper)": paper_rho,
                "seconds per 1000 images": took,
                "times S": took / of_sensitivity if took and of_sensitivity else None,
                "seconds (paper)": paper_seconds,
            }
        )
    save_rows(rows, out, "table1")
    save_panels(
        tuple(Panel(table, name, x=column, paper_correlation=rho) for column, name, rho, *_ in METRICS),
        out,
        "table1",
    )


EXPERIMENT = cli.Experiment("table1", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
