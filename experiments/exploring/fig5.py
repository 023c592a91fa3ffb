"""Paper D, Figure 5: the conditions of Theorem 1 on a trained perceptron.

Reproduces: Neyshabur, Bhojanapalli, McAllester, Srebro, "Exploring Generalization in Deep Learning", Figure
5, on a perceptron of 10 layers with 1000 units trained on MNIST: (a) C1, the condition number 1/mu of all
layers a <= c < b, (b) C2, the share of units whose preactivation is within delta of 0, inputs having norm
1, (c) C3, the norm of a unit's weights over the root mean square of its layer. Claims: mu >= 1/4, C_2 <= 5,
C_3 <= 3. The summary has the constants that each network needs.

    python experiments/exploring/fig5.py                                               # quick: digits
    python experiments/exploring/fig5.py --preset cpu --data-dir DIR \\
        --out figures/exploring/fig5                                                   # real MNIST
    python experiments/exploring/fig5.py --preset paper --data-dir DIR --checkpoint    # all of MNIST

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 1, at most 10 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | MNIST, 5000 images | 1, at most 60 epochs | 2 | 6 core-minutes |
| paper | MNIST, all images | 1, at most 1000 epochs | 5 | not run yet |
"""

from pathlib import Path

from jaxsens import cli
from jaxsens.plotting import CurvePanel, flip_panel, pooled_histogram, save_curves, save_rows
from jaxsens.sweep import BINS_PER_DECADE, CONDITIONS_CPU, CONDITIONS_PAPER, CONDITIONS_QUICK
from jaxsens.table import Table

PRESETS = {"quick": (CONDITIONS_QUICK,), "cpu": (CONDITIONS_CPU,), "paper": (CONDITIONS_PAPER,)}
CONSTANTS = ("mu", "c2", "c2_median", "c3", "c3_median", "unit_norm_max", "output_norm")


def draw(table: Table, out: Path) -> None:
    """Three panels of the trained network, and every seed's constants."""
    c1 = pooled_histogram(table, "interaction_all_after", "learned", bins_per_unit=BINS_PER_DECADE)
    c3 = pooled_histogram(table, "unit_norms_after", "learned", bins_per_unit=BINS_PER_DECADE)
    panels = [
        CurvePanel((c1,), "(a) C1", r"$\log_{10} 1 / \mu$", "share of layers and images"),
        flip_panel(table, "after", title="(b) C2"),
        CurvePanel((c3,), "(c) C3", r"$\log_{10}$ norm / layer's", "share of units", log_y=True),
    ]
    save_curves(panels, out, "fig5", columns=3)
    rows = [
        {"cell": row["cell"], "seed": row["seed"], "weights": stage}
        | {name: row[f"{name}_{stage}"] for name in CONSTANTS}
        for row in table.rows()
        if not row["diverged"]
        for stage in ("before", "after")
    ]
    save_rows(rows, out, "fig5-summary")


EXPERIMENT = cli.Experiment("exploring/fig5", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
