"""Paper D, Figure 2: sharpness, and expected sharpness against KL, with true and with random labels.

Reproduces: Neyshabur, Bhojanapalli, McAllester, Srebro, "Exploring Generalization in Deep Learning", Figure
2, on the networks of Figure 1: (a) the largest growth of the training loss within |nu_i| <= 5e-4 (|w_i| +
1), (b), (c) its mean over Gaussian perturbations of standard deviation alpha (10 |w_i| + 1) against the KL
of each alpha. Claims: sharpness alone does not tell random labels (it can be lower for them); at equal
expected sharpness, such as 0.05, networks of random labels have a higher KL, and it grows faster with the
number of images. All are of the network with batch normalisation folded in, in evaluation mode. Sharpness
is a lower bound of its maximum, found by 300 steps of ascent in the smaller presets, 2000 in paper, as in
D.

    python experiments/exploring/fig2.py                                               # quick: digits
    python experiments/exploring/fig2.py --preset cpu --data-dir DIR \\
        --out figures/exploring/fig2                                                   # real CIFAR-10
    python experiments/exploring/fig2.py --preset paper --data-dir DIR --checkpoint    # D's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 2, at most 20 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, 500 to 2000 images | 6, at most 100 epochs | 3 | none after Figure 1 |
| paper | CIFAR-10, 10,000 to 50,000 images | 10, at most 1000 epochs | 5 | not run yet |
"""

from pathlib import Path

from jaxsens import cli
from jaxsens.plotting import bicriteria_panel, norm_panel, norm_rows, save_curves, save_rows
from jaxsens.sweep import EXPLORING_CPU, EXPLORING_PAPER, EXPLORING_QUICK, true_and_random
from jaxsens.table import Table

PRESETS = {
    "quick": true_and_random(EXPLORING_QUICK, (128,)),
    "cpu": true_and_random(EXPLORING_CPU, (500, 1000, 2000)),
    "paper": true_and_random(EXPLORING_PAPER, (10_000, 20_000, 30_000, 40_000, 50_000)),
}
LABELS = {"true labels": 0.0, "random labels": 1.0}
NUMBERS = {
    "sharpness": "sharpness",
    "log_kl_at_sharpness": "log KL at an expected sharpness of 0.05",
    "train_loss": "training loss",
}


def draw(table: Table, out: Path) -> None:
    """Sharpness over the number of images, and the bi-criteria plot of each kind of labels."""
    parts = {label: table.where(label_noise=noise) for label, noise in LABELS.items()}
    parts = {label: part for label, part in parts.items() if len(part)}
    panels = [
        norm_panel(
            parts,
            "sharpness",
            x="num_train",
            x_label="training images",
            y_label="sharpness",
            title="(a) sharpness",
            log_x=True,
        )
    ]
    for letter, (label, part) in zip("bc", parts.items(), strict=False):
        sizes = sorted(set(part.column("num_train").tolist()))
        networks = {f"{size} images": part.where(num_train=size) for size in sizes}
        panels.append(bicriteria_panel(networks, title=f"({letter}) {label}"))
    save_curves(panels, out, "fig2", columns=3)
    save_rows(norm_rows(parts, by="num_train", columns=NUMBERS), out, "fig2-summary")


EXPERIMENT = cli.Experiment("exploring/fig2", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
