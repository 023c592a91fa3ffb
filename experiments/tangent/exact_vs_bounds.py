"""Tangent sensitivity itself beside its bounds: ours, to papers B and C.

B and C never measure E_x |Sens(x)|_F^2: they use bounds and proxies of it. Here it is exact: over the
trainings of Figure 3 beside every bound and proxy, and over a grid of trained fully-connected networks with
the ranks of each against the generalisation gap: Kendall's tau and Spearman's rho over networks with 95%
bootstrap intervals, and the granulated coefficient, which moves one of depth, width, regularisation and
number of images at a time. The gaps are the test minus the training loss and the training minus the test
accuracy. All measures are of the network with batch normalisation folded in. Tests C's claim that "even
simple upper bounds of tangent sensitivity are connected to the empirical generalisation gap".

    python experiments/tangent/exact_vs_bounds.py                                             # quick: digits
    python experiments/tangent/exact_vs_bounds.py --preset cpu --data-dir DIR \\
        --out figures/tangent/exact_vs_bounds                                                 # real CIFAR-10
    python experiments/tangent/exact_vs_bounds.py --preset paper --data-dir DIR --checkpoint  # a larger grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 256, 128 and 64 training images | 3 and 3, at most 6 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, all, 1000, 4000 images | 3 and 48, at most 2000 steps | 3 | 34 core-minutes after Figure 3 |
| paper | CIFAR-10, all, 1000, 4000, 16,000 images | 3 and 180, at most 8000 steps | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import ModelConfig, fully_connected
from jaxsens.plotting import (
    Curve,
    CurvePanel,
    decades,
    decades_of_log,
    rank_correlation_rows,
    relabel,
    row_curve,
    save_curves,
    save_rows,
)
from jaxsens.stats import granulated_kendall, moves_alone
from jaxsens.sweep import TANGENT_CPU, TANGENT_PAPER, TANGENT_QUICK, MeasureConfig, Preset
from jaxsens.table import Table
from jaxsens.train import TrainConfig

# Name, options of the network, weight decay.
REGULARIZATION = (
    ("none", {}, 0.0),
    ("weight decay", {}, 5e-3),
    ("BN", {"batch_norm": True}, 0.0),
    ("dropout", {"dropout": 0.2}, 0.0),
)
DECAYED = "-wd"


def grid(
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    numbers: tuple[int, ...],
    steps: int,
    base: Preset,
) -> tuple[Preset, ...]:
    """Networks of all depths, widths and regularisations, each in as many steps on each number of images."""
    parts = []
    for number in numbers:
        for decay in dict.fromkeys(decay for *_, decay in REGULARIZATION):
            epochs = max(1, steps * 64 // number)
            models = tuple(
                network(depth, width, options)
                for depth in depths
                for width in widths
                for _, options, own in REGULARIZATION
                if own == decay
            )
            parts.append(
                dataclasses.replace(
                    base,
                    models=models,
                    num_train=number,
                    train=TrainConfig("sgd", 0.05, decay, batch_size=64, max_epochs=epochs),
                    suffix=f"-n{number}" + (DECAYED if decay else ""),
                )
            )
    return tuple(parts)


def network(depth: int, width: int, options: dict) -> ModelConfig:
    """A fully-connected network with C's initialisation."""
    return fully_connected(depth, width, init="FU", **options)


def quick_grid() -> tuple[Preset, ...]:
    """The plain network on two numbers of images, and with weight decay: no other program to compile."""
    measure = dataclasses.replace(TANGENT_QUICK.measure, snapshots=())
    parts = grid((3,), (16,), (64, 128), 12, dataclasses.replace(TANGENT_QUICK, measure=measure))
    kept = ("-n64", "-n128", f"-n64{DECAYED}")
    return tuple(dataclasses.replace(part, models=part.models[:1]) for part in parts if part.suffix in kept)


PRESETS = {
    "quick": (TANGENT_QUICK, *quick_grid()),
    "cpu": (
        TANGENT_CPU,
        *grid(
            (1, 3, 5),
            (50, 200),
            (1000, 4000),
            2000,
            dataclasses.replace(
                TANGENT_CPU,
                num_test=5000,
                measure=MeasureConfig(derivative_examples=500, tangent_examples=500),
            ),
        ),
    ),
    "paper": (
        TANGENT_PAPER,
        *grid(
            (1, 2, 3, 4, 5),
            (50, 100, 300),
            (1000, 4000, 16_000),
            8000,
            dataclasses.replace(TANGENT_PAPER, measure=MeasureConfig(tangent_examples=10_000)),
        ),
    ),
}

# Column of a decade or a plain number, name, and how it comes from a row.
MEASURES = {
    "exact": ("exact, sum of outputs", lambda row: log10(row["tangent_sensitivity_test"])),
    "exact_all": ("exact, all outputs", lambda row: log10(row["tangent_sensitivity_all_test"])),
    "eq4": ("equation 4", lambda row: in_decades(row["log_region_bound"])),
    "corrected": ("equation 2, corrected", lambda row: in_decades(row["log_active_path_bound"])),
    "eq2": ("equation 2 as printed", lambda row: in_decades(row["log_active_path_bound_as_printed"])),
    "eq1": ("equation 1", lambda row: in_decades(row["log_tangent_norm_bound"])),
    "jacobian": ("Jacobian norm, squared", lambda row: 2 * log10(row["jacobian_norm_test"])),
    "output": ("output sensitivity S", lambda row: log10(row["linearized_sensitivity_after"])),
    "largest": ("largest weight, squared", lambda row: 2 * log10(row["largest_weight"])),
    "layerwise": (
        "product of layers' largest weights, squared",
        lambda row: in_decades(row["log_layerwise_norm"]),
    ),
    "spectral": (
        "product of spectral norms, squared",
        lambda row: 2 * in_decades(row["log_spectral_product"]),
    ),
    "fisher_rao": ("Fisher-Rao norm", lambda row: log10(row["fisher_rao_norm_test"])),
    "weights": ("number of weights", lambda row: log10(row["num_weights"])),
    "active": ("share of active units", lambda row: ratio(row["active_mean_test"], row["num_hidden_units"])),
}
GAPS = {"loss_gap": "test minus training loss", "error_gap": "training minus test accuracy"}
DRAWN_OVER_TIME = ("eq1", "corrected", "eq4", "eq2", "exact_all", "exact", "jacobian", "output")
DRAWN_AGAINST_GAP = ("exact", "exact_all", "jacobian", "eq4", "eq1", "spectral")


def log10(value: float | None) -> float | None:
    """None of None."""
    return None if value is None else float(decades(value))


def in_decades(logarithm: float | None) -> float | None:
    """A natural logarithm in powers of ten; None of None."""
    return None if logarithm is None else float(decades_of_log(logarithm))


def ratio(value: float | None, whole: float | None) -> float | None:
    """None of None."""
    return None if value is None else value / whole


def draw(table: Table, out: Path) -> None:
    """Pictures over training and against the gap; the table of coefficients."""
    table = relabel(
        table,
        epoch=lambda row: row["max_epochs"] if row["snapshot"] is None else row["snapshot"],
        family=regularization,
        loss_gap=lambda row: None if row["diverged"] else row["test_loss"] - row["train_loss"],
        error_gap=lambda row: None if row["diverged"] else row["train_accuracy"] - row["test_accuracy"],
        **{name: compute for name, (_, compute) in MEASURES.items()},
    )
    staged = tuple({row["cell"]: None for row in table.rows() if row["snapshot"] is not None})
    if staged:
        trainings = [over_time(table.where(cell=cell), cell) for cell in staged]
        save_curves(trainings, out, "exact_vs_bounds-training")
    networks = table.where(cell=tuple(cell for cell in table.cells() if cell not in staged))
    if not len(networks):  # a part of the grid
        return
    panels = [
        against_gap(networks, name, f"({'abcdef'[index]}) {MEASURES[name][0]}")
        for index, name in enumerate(DRAWN_AGAINST_GAP)
    ]
    save_curves(panels, out, "exact_vs_bounds")
    rows = [rank_row(networks, name, gap) for gap in GAPS for name in MEASURES]
    save_rows(rows, out, "exact_vs_bounds-summary")
    save_rows(within_rows(networks), out, "exact_vs_bounds-within")


def regularization(row: dict) -> str:
    """The colour of a network: its regularisation."""
    if row["cell"].endswith(DECAYED):
        return "weight decay"
    return {"none": "none", "bn": "BN"}.get(row["regularization"], "dropout")


def over_time(rows: Table, cell: str) -> CurvePanel:
    """All of one network over its training."""
    curves = tuple(row_curve(rows, name, MEASURES[name][0]) for name in DRAWN_OVER_TIME)
    return CurvePanel(curves, cell, "epoch", r"$\log_{10}$")


def against_gap(networks: Table, name: str, title: str) -> CurvePanel:
    """A point per network: colours tell regularisation, hollow points the least number of images."""
    means = networks.aggregate(values=(name, "loss_gap"), keep=("family", "num_train")).rows()
    least = min(row["num_train"] for row in means)
    curves = []
    for family in dict.fromkeys(row["family"] for row in means):
        for hollow in (True, False):
            points = [
                row for row in means if row["family"] == family and (row["num_train"] == least) == hollow
            ]
            x, y = (tuple(row[f"{column}_mean"] for row in points) for column in (name, "loss_gap"))
            label = family + (f", {least} images" if hollow else ", more")
            if points:
                curves.append(Curve(label, x, y, style="hollow" if hollow else "points", colour=family))
    ranks = rank_correlation_rows(networks, x=name, y="loss_gap")
    note = f"n = {ranks['cells']}"
    if ranks["tau"] is not None:
        low, high = ranks["tau, low"], ranks["tau, high"]
        note = f"$\\tau$ = {ranks['tau']:.2f} [{low:.2f}, {high:.2f}], {note}"
    return CurvePanel(tuple(curves), title, r"$\log_{10}$", GAPS["loss_gap"], note)


def rank_row(networks: Table, name: str, gap: str) -> dict:
    """One measure against one gap; the granulated coefficients where each hyper-parameter moves alone."""
    row = {"gap": GAPS[gap], "measure": MEASURES[name][0]} | rank_correlation_rows(networks, x=name, y=gap)
    varied = ("hidden_layers", "width", "family", "num_train")
    means = networks.aggregate(values=(name, gap), keep=varied)
    settings = {column: means.column(column).tolist() for column in varied}
    moving = {column: values for column, values in settings.items() if len(set(values)) > 1}
    constant = len(set(means.column(f"{name}_mean").tolist())) < 2
    if row["tau"] is None or constant or not moves_alone(moving):
        return row
    found = granulated_kendall(means.column(f"{name}_mean"), means.column(f"{gap}_mean"), moving)
    return (
        row
        | {"granulated": found.value}
        | {f"moving {key}": v for key, v in found.per_hyperparameter.items()}
    )


def within_rows(networks: Table) -> list[dict]:
    """The ranks within each regularisation, and in all but BN, whose scales raise every measure."""
    families = tuple(dict.fromkeys(row["family"] for row in networks.rows()))
    groups = {family: (family,) for family in families}
    groups["all but BN"] = tuple(family for family in families if family != "BN")
    return [
        {"networks": group, "gap": GAPS["loss_gap"], "measure": MEASURES[name][0]}
        | rank_correlation_rows(networks.where(family=members), x=name, y="loss_gap")
        for group, members in groups.items()
        for name in MEASURES
    ]


EXPERIMENT = cli.Experiment("tangent/exact_vs_bounds", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
