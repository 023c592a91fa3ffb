"""Paper D, Figure 3: minima of one training loss that generalise worse and worse.

Reproduces: Neyshabur, Bhojanapalli, McAllester, Srebro, "Exploring Generalization in Deep Learning", Figure
3: D's modified VGG trained on a CIFAR-10 subset with true labels joined with a confusion set, further
images with random labels. (a) errors on the true-label subset and the test set; (b) how D's norms over the
margin and sharpness, all on the true-label subset, change with the confusion set, as log10 of their ratio
to no confusion; (c) expected sharpness against KL. Claims: the training error stays 0 while the test error
grows; the norms grow with it; sharpness behaves badly; at equal expected sharpness worse networks have a
higher KL.

    python experiments/exploring/fig3.py                                               # quick: digits
    python experiments/exploring/fig3.py --preset cpu --data-dir DIR \\
        --out figures/exploring/fig3                                                   # real CIFAR-10
    python experiments/exploring/fig3.py --preset paper --data-dir DIR --checkpoint    # D's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images and 0 or 64 confused | 2, at most 20 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, 1000 images, 0 to 2000 confused | 3, at most 100 epochs | 3 | 25 core-minutes after fig1 |
| paper | CIFAR-10, 10,000 images and 0 to 10,000 confused | 6, at most 1000 epochs | 5 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.plotting import (
    COMPLEXITIES,
    CurvePanel,
    bicriteria_panel,
    growth_panel,
    norm_rows,
    row_curve,
    save_curves,
    save_rows,
    with_complexity,
)
from jaxsens.sweep import EXPLORING_CPU, EXPLORING_PAPER, EXPLORING_QUICK, Preset
from jaxsens.table import Table


def confused(preset: Preset, number: int, confusions: tuple[int, ...]) -> tuple[Preset, ...]:
    """One subset with confusion sets of each size."""
    return tuple(
        dataclasses.replace(preset, num_train=number, num_confused=size, suffix=f"-confused{size}")
        for size in confusions
    )


PRESETS = {
    "quick": confused(EXPLORING_QUICK, 128, (0, 64)),
    "cpu": confused(EXPLORING_CPU, 1000, (0, 1000, 2000)),
    "paper": confused(EXPLORING_PAPER, 10_000, (0, 2000, 4000, 6000, 8000, 10_000)),
}
NUMBERS = {
    **COMPLEXITIES,
    "sharpness": "sharpness itself",
    "train_accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
}


def draw(table: Table, out: Path) -> None:
    """Errors, the measures' growth, the bi-criteria plot."""
    table = with_complexity(table)
    sizes = sorted(set(table.column("num_confused").tolist()))
    x_label = "images with random labels"
    errors = tuple(
        row_curve(table, f"{split}_error", f"{name} error", x="num_confused")
        for split, name in (("train", "training"), ("test", "test"))
    )
    networks = {f"{size} confused": table.where(num_confused=size) for size in sizes}
    panels = [
        CurvePanel(errors, "(a) errors", x_label, "error"),
        bicriteria_panel(networks, title="(c) sharpness and KL"),
    ]
    growth = growth_panel(table, x="num_confused", x_label=x_label, title="(b) measures")
    save_curves([panels[0], *([growth] if growth else []), panels[1]], out, "fig3", columns=3)
    save_rows(norm_rows({"all": table}, by="num_confused", columns=NUMBERS), out, "fig3-summary")


EXPERIMENT = cli.Experiment("exploring/fig3", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
