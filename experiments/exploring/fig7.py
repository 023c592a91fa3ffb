"""Paper D, Figure 7: condition C2 before and after training.

Reproduces: Neyshabur, Bhojanapalli, McAllester, Srebro, "Exploring Generalization in Deep Learning", Figure
7: the share of hidden units whose preactivation is within delta of 0, which a perturbation of that size may
flip, in the network of Figure 5 with its initial and its learned weights; inputs have a mean norm of 1, and
(c) shows the small deltas. Claim: the share grows about linearly, so that a C_2 exists, and learning
changes it little.

    python experiments/exploring/fig7.py                                               # quick: digits
    python experiments/exploring/fig7.py --preset cpu --data-dir DIR \\
        --out figures/exploring/fig7                                                   # real MNIST
    python experiments/exploring/fig7.py --preset paper --data-dir DIR --checkpoint    # all of MNIST

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 1, at most 10 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | MNIST, 5000 images | 1, at most 60 epochs | 2 | none after Figure 5 |
| paper | MNIST, all images | 1, at most 1000 epochs | 5 | not run yet |
"""

from pathlib import Path

from jaxsens import cli
from jaxsens.plotting import flip_panel, flip_rows, save_curves, save_rows
from jaxsens.sweep import CONDITIONS_CPU, CONDITIONS_PAPER, CONDITIONS_QUICK
from jaxsens.table import Table

PRESETS = {"quick": (CONDITIONS_QUICK,), "cpu": (CONDITIONS_CPU,), "paper": (CONDITIONS_PAPER,)}
STAGES = {"before": "random", "after": "learned"}


def draw(table: Table, out: Path) -> None:
    """Both stages, and the second one near 0."""
    panels = [
        flip_panel(table, stage, title=f"({letter}) {label} weights")
        for letter, (stage, label) in zip("ab", STAGES.items(), strict=True)
    ]
    panels.append(flip_panel(table, "after", title="(c) learned weights, zoomed in", largest=0.01))
    save_curves(panels, out, "fig7", columns=3)
    save_rows(flip_rows(table, STAGES), out, "fig7-summary")


EXPERIMENT = cli.Experiment("exploring/fig7", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
