"""Paper C, Table 1: how far the estimates of test loss and accuracy are from the truth.

Reproduces: Daróczy, "Gaussian Perturbations in ReLU Networks and the Arrangement of Activation Regions",
Table 1: the mean absolute error, over the epochs of one training, of the estimates of test cross-entropy
and accuracy by equations 6 to 11. Claims: empirical sensitivity (8) estimates the loss best (4.2e-4),
layer-wise log-norm (6) the accuracy (9.2e-3). Added: the training set's own value as the estimate, which
others have to beat; means over seeds with Student's 95% intervals; all variants of Table A1, since C does
not say whose its numbers are; errors from epoch 16 on, where the published code's figures begin; medians
over epochs, which one wild ratio does not move. The networks are those of Figure 3; the picture shows the
errors of the loss by epoch.

    python experiments/tangent/table1.py                                                           # digits
    python experiments/tangent/table1.py --preset cpu --data-dir DIR --out figures/tangent/table1  # CIFAR-10
    python experiments/tangent/table1.py --preset paper --data-dir DIR --checkpoint                # ten seeds

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 256 training images | 3, at most 6 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, all images | 3, at most 50 epochs | 3 | nothing after Figure 3 |
| paper | CIFAR-10, all images | 3, at most 50 epochs | 10 | not run yet |
"""

from pathlib import Path

from jaxsens import cli
from jaxsens.plotting import CurvePanel, decades, row_curve, save_curves, save_rows
from jaxsens.stats import mean_interval
from jaxsens.sweep import ESTIMATORS, TANGENT_CPU, TANGENT_PAPER, TANGENT_QUICK, loss_estimates
from jaxsens.table import Table

PRESETS = {"quick": (TANGENT_QUICK,), "cpu": (TANGENT_CPU,), "paper": (TANGENT_PAPER,)}

# Mean absolute errors of cross-entropy and accuracy as published. Equation 6 is there with logarithms.
PAPER = {
    "layerwise_log_norm": (5.3e-4, 9.2e-3),
    "active_count": (7.7e-4, 9.8e-3),
    "empirical_soft": (4.2e-4, 1.1e-2),
    "jacobian": (2.7e-3, 7.3e-2),
    "spectral": (1.2e-3, 3.3e-2),
    "fisher_rao": (6.3e-4, 1.5e-2),
}
DRAWN = (
    "layerwise_norm",
    "layerwise_log_norm",
    "active_count",
    "empirical",
    "empirical_soft",
    "jacobian",
    "fisher_rao",
    "spectral",
)
# The second state, the first with a trained one before it; and the first in the published code's figures.
FIRST, LATER = 2, 16


def draw(table: Table, out: Path) -> None:
    """A row per variant and estimator, and the errors over training."""
    estimates = loss_estimates(table)
    families = tuple(dict.fromkeys(row["family"] for row in estimates.rows()))
    rows = [
        error_row(estimates.where(family=family, estimator=name), family, name)
        for family in families
        for name in ESTIMATORS
    ]
    save_rows(rows, out, "table1")
    save_rows([best_row(rows, family) for family in families], out, "table1-summary")
    panels = [
        panel(estimates.where(family=family), f"({'abcdef'[index]}) {family}")
        for index, family in enumerate(families)
    ]
    save_curves(panels, out, "table1")


def error_row(estimates: Table, family: str, name: str) -> dict:
    """The errors of one estimator for one network: means over seeds of a mean or median over epochs."""
    row = {"network": family, "estimator": ESTIMATORS[name].title}
    paper = dict(zip(("loss", "accuracy"), PAPER.get(name, (None, None)), strict=True))
    for kind in ("loss", "accuracy"):
        members = errors_by_seed(estimates, f"{kind}_error")
        found = mean_interval([sum(errors) / len(errors) for errors in members])
        later = [sum(errors) / len(errors) for errors in errors_by_seed(estimates, f"{kind}_error", LATER)]
        row |= {
            f"{kind}, MAE": found.value,
            f"{kind}, low": found.low,
            f"{kind}, high": found.high,
            f"{kind}, median": mean_interval([median(errors) for errors in members]).value,
            f"{kind}, MAE from epoch {LATER}": mean_interval(later).value if later else None,
            f"{kind} (paper)": paper[kind],
        }
    return row | {"epochs": len(errors_by_seed(estimates, "loss_error")[0])}


def errors_by_seed(estimates: Table, column: str, first: int = FIRST) -> list[list[float]]:
    """The errors over the epochs from `first` on, a list per seed."""
    members: dict[object, list[float]] = {}
    for row in estimates.rows():
        if row["epoch"] >= first and row[column] is not None:
            members.setdefault((row["cell"], row["seed"]), []).append(row[column])
    return list(members.values())


def median(values: list[float]) -> float:
    """The middle value, or the mean of the two."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def best_row(rows: list[dict], family: str) -> dict:
    """The estimators with the least errors, and the error of no estimator."""
    mine = [row for row in rows if row["network"] == family]
    none = next(row for row in mine if row["estimator"] == ESTIMATORS["training"].title)
    found = {"network": family}
    for kind in ("loss", "accuracy"):
        best = min(mine, key=lambda row, kind=kind: row[f"{kind}, MAE"])
        found |= {
            f"{kind}, best": best["estimator"],
            f"{kind}, its MAE": best[f"{kind}, MAE"],
            f"{kind}, MAE of the training set's": none[f"{kind}, MAE"],
        }
    return found


def panel(estimates: Table, title: str) -> CurvePanel:
    """log10 of each estimator's error of the loss over training."""
    curves = [
        row_curve(estimates.where(estimator=name), "loss_error", ESTIMATORS[name].title, transform=decades)
        for name in DRAWN
    ]
    curves.append(
        row_curve(
            estimates.where(estimator="training"),
            "loss_error",
            ESTIMATORS["training"].title,
            transform=decades,
            style="dashed",
            colour="ink",
        )
    )
    return CurvePanel(
        tuple(curves), title, "epoch", r"$\log_{10}$ of the error of the loss", y_limits=(-3.5, 3.0)
    )


EXPERIMENT = cli.Experiment("tangent/table1", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
