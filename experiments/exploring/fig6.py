"""Paper D, Figure 6: condition C1 before and after training.

Reproduces: Neyshabur, Bhojanapalli, McAllester, Srebro, "Exploring Generalization in Deep Learning", Figure
6: the condition number 1/mu of C1 of the network of Figure 5, with its initial and its learned weights,
over all layers a <= c < b, those with a < c < b - 1, and those with c = a or c = b - 1. Claim: the learned
network is very similar to the random one.

    python experiments/exploring/fig6.py                                               # quick: digits
    python experiments/exploring/fig6.py --preset cpu --data-dir DIR \\
        --out figures/exploring/fig6                                                   # real MNIST
    python experiments/exploring/fig6.py --preset paper --data-dir DIR --checkpoint    # all of MNIST

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 1, at most 10 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | MNIST, 5000 images | 1, at most 60 epochs | 2 | none after Figure 5 |
| paper | MNIST, all images | 1, at most 1000 epochs | 5 | not run yet |
"""

from pathlib import Path

from jaxsens import cli
from jaxsens.plotting import CurvePanel, pooled_histogram, save_curves, save_rows
from jaxsens.sweep import BINS_PER_DECADE, CONDITIONS_CPU, CONDITIONS_PAPER, CONDITIONS_QUICK
from jaxsens.table import Table

PRESETS = {"quick": (CONDITIONS_QUICK,), "cpu": (CONDITIONS_CPU,), "paper": (CONDITIONS_PAPER,)}
STAGES = {"before": "random", "after": "learned"}
GROUPS = {"all": "all", "inner": "a < c < b - 1", "outer": "c = a or c = b - 1"}


def draw(table: Table, out: Path) -> None:
    """A row of panels per stage; every seed's mu and medians."""
    panels = [
        CurvePanel(
            (pooled_histogram(table, f"interaction_{group}_{stage}", label, bins_per_unit=BINS_PER_DECADE),),
            f"({'abcdef'[3 * row + column]}) {label}, {title}",
            r"$\log_{10} 1 / \mu$",
            "share of layers and images",
        )
        for row, (stage, label) in enumerate(STAGES.items())
        for column, (group, title) in enumerate(GROUPS.items())
    ]
    save_curves(panels, out, "fig6", columns=3)
    rows = [
        {"cell": row["cell"], "seed": row["seed"], "weights": label, "mu": row[f"mu_{stage}"]}
        | {f"median, {title}": row[f"interaction_{group}_median_{stage}"] for group, title in GROUPS.items()}
        for row in table.rows()
        if not row["diverged"]
        for stage, label in STAGES.items()
    ]
    save_rows(rows, out, "fig6-summary")


EXPERIMENT = cli.Experiment("exploring/fig6", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
