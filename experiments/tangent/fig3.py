"""Paper C, Figure 3: test loss and accuracy over training, and six estimates of them.

Reproduces: Daróczy, "Gaussian Perturbations in ReLU Networks and the Arrangement of Activation Regions",
Figure 3: the test cross-entropy and accuracy of a network of 4 hidden layers of 100 units on CIFAR-10 after
each epoch, and their estimates by equations 6 to 11 from the training set's, for the variants of Table A1:
none, batch normalisation, dropout. Claims: the estimates follow the generalisation gap "to some extent",
and all perform very similarly. C plots against the training loss; here the axis is the epoch. Equation 6 is
drawn as printed and with logarithms of equation 1, as in C's figure; equation 8 with relative frequencies.
The training set's own value is the estimate of ratio 1. The published code crops and flips its training
images, of which C says nothing; ours are as they are, so the gap is larger. Curves are means over seeds,
bands their least and greatest.

    python experiments/tangent/fig3.py                                                         # quick: digits
    python experiments/tangent/fig3.py --preset cpu --data-dir DIR --out figures/tangent/fig3  # real CIFAR-10
    python experiments/tangent/fig3.py --preset paper --data-dir DIR --checkpoint              # ten seeds

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 256 training images | 3, at most 6 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, all images | 3, at most 50 epochs | 3 | 42 core-minutes with measuring |
| paper | CIFAR-10, all images | 3, at most 50 epochs | 10 | not run yet |
"""

from pathlib import Path

from jaxsens import cli
from jaxsens.plotting import CurvePanel, row_curve, save_curves, save_rows
from jaxsens.sweep import ESTIMATORS, TANGENT_CPU, TANGENT_PAPER, TANGENT_QUICK, loss_estimates
from jaxsens.table import Table

PRESETS = {"quick": (TANGENT_QUICK,), "cpu": (TANGENT_CPU,), "paper": (TANGENT_PAPER,)}

DRAWN = (
    "layerwise_norm",
    "layerwise_log_norm",
    "active_count",
    "empirical",
    "jacobian",
    "fisher_rao",
    "spectral",
)
QUANTITIES = {"loss": "cross-entropy", "accuracy": "accuracy"}


def draw(table: Table, out: Path) -> None:
    """Loss and accuracy of each variant; the last epoch's numbers."""
    estimates = loss_estimates(table)
    families = tuple(dict.fromkeys(row["family"] for row in estimates.rows()))
    panels = [
        panel(estimates.where(family=family), f"({'abcdef'[2 * index + column]}) {family}", kind)
        for index, family in enumerate(families)
        for column, kind in enumerate(QUANTITIES)
    ]
    save_curves(panels, out, "fig3")
    last = max(row["epoch"] for row in estimates.rows())
    save_rows(summary(estimates.where(epoch=last)), out, "fig3-summary")


def panel(estimates: Table, title: str, kind: str) -> CurvePanel:
    """The truth on both sets and the estimates; what leaves the truth's range by half of it is cut off."""
    truth = estimates.where(estimator="training")
    greatest = max(row[f"{split}_{kind}"] for row in truth.rows() for split in ("train", "test"))
    curves = (
        *(
            row_curve(estimates.where(estimator=name), f"{kind}_estimate", ESTIMATORS[name].title)
            for name in DRAWN
        ),
        row_curve(truth, f"test_{kind}", "test set", colour="ink"),
        row_curve(truth, f"train_{kind}", "training set", style="dashed", colour="ink"),
    )
    return CurvePanel(curves, title, "epoch", QUANTITIES[kind], y_limits=(0.0, 1.5 * greatest))


def summary(last: Table) -> list[dict]:
    """Means over seeds after the last epoch: the truth and every estimate of it."""
    values = (
        "train_loss",
        "test_loss",
        "train_accuracy",
        "test_accuracy",
        "loss_estimate",
        "accuracy_estimate",
    )
    rows = []
    for family in dict.fromkeys(row["family"] for row in last.rows()):
        by_estimator = last.where(family=family).aggregate(values=values, by="estimator")
        rows += [
            {"network": family, "estimator": ESTIMATORS[row["estimator"]].title}
            | {value: row[f"{value}_mean"] for value in values}
            for row in by_estimator.rows()
        ]
    return rows


EXPERIMENT = cli.Experiment("tangent/fig3", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
