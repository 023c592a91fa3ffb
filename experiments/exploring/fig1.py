"""Paper D, Figure 1: norms over the margin, with true and with random labels.

Reproduces: Neyshabur, Bhojanapalli, McAllester, Srebro, "Exploring Generalization in Deep Learning", Figure
1: the l2, l1-path, l2-path and spectral norm, each squared and over the squared 5th percentile of the
training margins, of D's modified VGG trained on CIFAR-10 subsets with true and with random labels. Claims:
all four are higher with random labels, and the gap grows with the number of images, most for the l2 and the
l2-path norm. Factors of depth and width are dropped, as in D. D does not give its dropout rate, and narrow
networks with dropout do not fit random labels, so the smaller presets have none; inputs are normalised.

    python experiments/exploring/fig1.py                                               # quick: digits
    python experiments/exploring/fig1.py --preset cpu --data-dir DIR \\
        --out figures/exploring/fig1                                                   # real CIFAR-10
    python experiments/exploring/fig1.py --preset paper --data-dir DIR --checkpoint    # D's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 2, at most 20 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, 500 to 2000 images | 6, at most 100 epochs | 3 | 54 core-minutes |
| paper | CIFAR-10, 10,000 to 50,000 images | 10, at most 1000 epochs | 5 | not run yet |
"""

from pathlib import Path

from jaxsens import cli
from jaxsens.plotting import NORMS, norm_panel, norm_rows, save_curves, save_rows, with_complexity
from jaxsens.sweep import EXPLORING_CPU, EXPLORING_PAPER, EXPLORING_QUICK, true_and_random
from jaxsens.table import Table

PRESETS = {
    "quick": true_and_random(EXPLORING_QUICK, (128,)),
    "cpu": true_and_random(EXPLORING_CPU, (500, 1000, 2000)),
    "paper": true_and_random(EXPLORING_PAPER, (10_000, 20_000, 30_000, 40_000, 50_000)),
}
LABELS = {"true labels": 0.0, "random labels": 1.0}
NUMBERS = {
    **NORMS,
    **{f"{name}_capacity": f"{title}, capacity" for name, title in NORMS.items()},
    "margin": "margin",
    "train_accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
}


def draw(table: Table, out: Path) -> None:
    """A panel per norm, and the numbers of all."""
    table = with_complexity(table)
    parts = {label: table.where(label_noise=noise) for label, noise in LABELS.items()}
    parts = {label: part for label, part in parts.items() if len(part)}
    rows = norm_rows(parts, by="num_train", columns=NUMBERS)
    known = {row["measure"] for row in rows if row["mean"] is not None}
    panels = [
        norm_panel(
            parts, name, x="num_train", x_label="training images", title=f"({letter}) {title}", log_x=True
        )
        for letter, (name, title) in zip("abcd", NORMS.items(), strict=True)
        if title in known
    ]
    if panels:
        save_curves(panels, out, "fig1")
    save_rows(rows, out, "fig1-summary")


EXPERIMENT = cli.Experiment("exploring/fig1", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
