"""Paper D, Figure 8: condition C3 and outputs before and after training.

Reproduces: Neyshabur, Bhojanapalli, McAllester, Srebro, "Exploring Generalization in Deep Learning", Figure
8: the norm of each hidden unit's weights over the root mean square of its layer, whose maximum is C_3 when
all units are on, and the outputs, of the network of Figure 5 with its initial and its learned weights.
Claim: the learned network is very similar to the random one.

    python experiments/exploring/fig8.py                                               # quick: digits
    python experiments/exploring/fig8.py --preset cpu --data-dir DIR \\
        --out figures/exploring/fig8                                                   # real MNIST
    python experiments/exploring/fig8.py --preset paper --data-dir DIR --checkpoint    # all of MNIST

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 1, at most 10 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | MNIST, 5000 images | 1, at most 60 epochs | 2 | none after Figure 5 |
| paper | MNIST, all images | 1, at most 1000 epochs | 5 | not run yet |
"""

from pathlib import Path

from jaxsens import cli
from jaxsens.plotting import CurvePanel, pooled_histogram, save_curves, save_rows
from jaxsens.sweep import BINS_PER_DECADE, CONDITIONS_CPU, CONDITIONS_PAPER, CONDITIONS_QUICK, OUTPUT_BINS
from jaxsens.table import Table

PRESETS = {"quick": (CONDITIONS_QUICK,), "cpu": (CONDITIONS_CPU,), "paper": (CONDITIONS_PAPER,)}
STAGES = {"before": "random", "after": "learned"}


def draw(table: Table, out: Path) -> None:
    """C3 of both stages, then the outputs of both."""
    panels = [
        CurvePanel(
            (pooled_histogram(table, f"unit_norms_{stage}", label, bins_per_unit=BINS_PER_DECADE),),
            f"({letter}) C3, {label} weights",
            r"$\log_{10}$ norm / layer's",
            "share of units",
            log_y=True,
        )
        for letter, (stage, label) in zip("ab", STAGES.items(), strict=True)
    ]
    panels += [
        CurvePanel(
            (pooled_histogram(table, f"outputs_{stage}", label, bins_per_unit=OUTPUT_BINS),),
            f"({letter}) outputs, {label} weights",
            "output",
            "share of outputs",
        )
        for letter, (stage, label) in zip("cd", STAGES.items(), strict=True)
    ]
    save_curves(panels, out, "fig8")
    columns = ("c3", "c3_median", "unit_norm_max", "output_norm")
    rows = [
        {"cell": row["cell"], "seed": row["seed"], "weights": label}
        | {name: row[f"{name}_{stage}"] for name in columns}
        for row in table.rows()
        if not row["diverged"]
        for stage, label in STAGES.items()
    ]
    save_rows(rows, out, "fig8-summary")


EXPERIMENT = cli.Experiment("exploring/fig8", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
