"""Paper A, Figure 13: test loss L against sensitivity on the training set and on the test set.

Reproduces: Forouzesh, Salehi and Thiran, Figure 13: (a) 6000 MNIST training images, S on the training and the
test set, which correlate with 0.9999; (b) 1000 CIFAR-10 training images, S on the training set, with equation
9. Panels (c) and (d) are ours: the one S against the other. The networks are those of Figures 2, 3 and 8.

    python experiments/fig13.py                                                  # quick: embedded digits
    python experiments/fig13.py --preset cpu --data-dir DIR --out figures/fig13  # real MNIST and CIFAR-10
    python experiments/fig13.py --preset paper --data-dir DIR --checkpoint       # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits | 6 small ones | 3 | 1 minute on 2 CPU cores |
| cpu | MNIST, 6000; CIFAR-10, 1000 | 7 and 18 | 3; FC 5, CNN 3 | 46 core-minutes |
| paper | MNIST, 6000; CIFAR-10, 1000 | 63 and 99 | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import cnn, fully_connected
from jaxsens.plotting import Line, Panel, equation_9_line, relabel, save_panels
from jaxsens.sweep import CPU, CPU_CONVOLUTIONAL, PAPER, QUICK
from jaxsens.table import Table, concatenate
from jaxsens.train import TrainConfig

PRESETS = {
    "quick": (
        dataclasses.replace(
            QUICK,
            models=(
                *(fully_connected(layers, 16) for layers in (2, 3)),
                fully_connected(2, 32),
                *(cnn(convolutions, 2) for convolutions in (1, 2)),
                fully_connected(2, 16, init="XU"),
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
            models=(
                *(fully_connected(layers, width) for layers in (2, 3, 4) for width in (100, 200)),
                fully_connected(3, 300),
            ),
            suffix="-mnist",
        ),
        dataclasses.replace(
            CPU,
            models=(
                *(fully_connected(layers, width) for layers in (2, 3, 4) for width in (100, 200, 300)),
                *(fully_connected(4, width, init="XU") for width in (100, 200)),
            ),
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
            dataset="mnist",
            num_train=6000,
            models=tuple(
                fully_connected(layers, width) for layers in (2, 3, 4) for width in range(100, 501, 20)
            ),
            suffix="-mnist",
        ),
        dataclasses.replace(
            PAPER,
            models=(
                *(fully_connected(layers, width) for layers in (2, 3, 4) for width in range(100, 501, 20)),
                *(fully_connected(4, width, init="XU") for width in range(100, 501, 20)),
                *(cnn(convolutions, channels) for convolutions in (1, 2, 3) for channels in range(5, 26, 5)),
            ),
        ),
    ),
}


def draw(table: Table, out: Path) -> None:
    """Two panels as in the paper, and one of both sensitivities."""
    parts = {(row["dataset"], row["num_train"]): None for row in table.rows()}
    (dataset, num_train), *_, (other, other_num) = [*parts, *parts]
    one, two = (
        table.where(dataset=dataset, num_train=num_train),
        table.where(dataset=other, num_train=other_num),
    )
    on_train = relabel(
        one,
        cell=lambda row: row["cell"] + " train",
        family=lambda row: row["family"] + ", training set",
        sensitivity_after=lambda row: row["sensitivity_train"],
    )
    panels = (
        Panel(
            concatenate([one, on_train]), f"(a) {dataset}, test and training set", x_label="sensitivity  $S$"
        ),
        Panel(two, f"(b) {other}, training set", x="sensitivity_train", lines=equation_9_line(two)),
        Panel(
            one,
            f"(c) {dataset}, both sensitivities",
            y="sensitivity_train",
            paper_correlation=0.9999,
            lines=(Line("equality", lambda sensitivity: sensitivity),),
        ),
        Panel(
            two,
            f"(d) {other}, both sensitivities",
            y="sensitivity_train",
            lines=(Line("equality", lambda sensitivity: sensitivity),),
        ),
    )
    save_panels(panels, out, "fig13")


EXPERIMENT = cli.Experiment("fig13", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
