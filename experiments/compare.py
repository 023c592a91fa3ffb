"""The measures of papers A to D on one grid of trained networks: which ranks how well they generalise?

Ours: no paper has output sensitivity, exact tangent sensitivity, norms over margins, sharpness and PAC-
Bayes on the same networks. They differ in architecture (FC, CNN), depth, width, optimiser, batch size,
regularisation (none, weight decay, dropout, BN) and label noise, and are trained on CIFAR-10 to a training
loss of 0.01 or for 100 epochs. Against the gap of loss (test minus training) and of error, over networks:
Kendall's tau with its 95% bootstrap interval; the granulated coefficient, which moves one hyper-parameter
at a time (Jiang et al.), and each of its parts; and the coefficient of the worst group of networks that
differ in one thing alone (after Dziugaite et al.). Labels of noisy sets are those trained on; test labels
are true. Norms over the margin exist for networks that separate 95% of their training set, and C's bounds
and proxies for FCs: the picture gives the number of networks of each. Exact tangent sensitivity is a mean
over 3 test images in the smaller presets, one at a time; its time is of both its columns. Members differ in
initial weights alone, not in data. The table also tells which measures need labels, and what they cost in
forward passes: of one example, or of the test set for measures of a network.

    python experiments/compare.py                                                      # quick: digits
    python experiments/compare.py --preset cpu --data-dir DIR --out figures/compare    # real CIFAR-10
    python experiments/compare.py --preset paper --data-dir DIR --checkpoint           # a larger grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 8, at most 6 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, 1000 images | 96, at most 100 epochs | 2 | 65 core-minutes |
| paper | CIFAR-10, 10,000 images | 216, at most 300 epochs | 5 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import ModelConfig, cnn, fully_connected
from jaxsens.plotting import (
    decades,
    decades_of_log,
    rank_correlation_rows,
    relabel,
    save_heatmap,
    save_rows,
)
from jaxsens.stats import granulated_kendall, moves_alone, worst_environment
from jaxsens.sweep import ComplexityConfig, MeasureConfig, Preset
from jaxsens.table import Table
from jaxsens.train import TrainConfig

BASE = TrainConfig("momentum", 0.01, batch_size=32, max_epochs=100, stop_loss=0.01, stop_count=1)
# What is changed against the base: the name, the training, the network.
WAYS = {
    "": (BASE, {}),
    "-b128": (dataclasses.replace(BASE, batch_size=128), {}),
    "-adam": (dataclasses.replace(BASE, optimizer="adam", learning_rate=1e-3), {}),
    "-wd": (dataclasses.replace(BASE, weight_decay=5e-3), {}),
    "-do": (BASE, {"dropout": 0.25}),
    "-bn": (BASE, {"batch_norm": True}),
}
SHARPNESS = ComplexityConfig(
    sharpness_steps=300,
    alphas=(5e-3, 1e-2, 2e-2, 5e-2),
    num_perturbations=60,
)


def networks(
    depths: tuple[int, ...], units: tuple[int, ...], channels: tuple[int, ...], **options: object
) -> tuple[tuple[ModelConfig, ...], tuple[ModelConfig, ...]]:
    """FCs and CNNs of as many hidden layers; a CNN's last one is dense."""
    return (
        tuple(fully_connected(depth, width, init="HN", **options) for depth in depths for width in units),
        tuple(cnn(depth - 1, width, init="HN", **options) for depth in depths for width in channels),
    )


def grid(
    base: Preset, *sizes: tuple[int, ...], ways: tuple[str, ...] = tuple(WAYS), noises: tuple[float, ...]
) -> tuple[Preset, ...]:
    """Every network trained in every way on every share of random labels; bounds of B and C for the FCs."""
    parts = []
    for noise in noises:
        for way in ways:
            train, options = WAYS[way]
            train = dataclasses.replace(train, max_epochs=base.train.max_epochs)
            perceptrons, convolutional = networks(*sizes, **options)
            changes = {"train": train, "label_noise": noise, "suffix": f"{way}-y{noise:g}"}
            bounded = dataclasses.replace(base.measure, tangent_examples=base.measure.derivative_examples)
            parts.append(dataclasses.replace(base, models=perceptrons, measure=bounded, **changes))
            parts.append(dataclasses.replace(base, models=convolutional, **changes))
    return tuple(parts)


CPU = Preset(
    seeds=2,
    num_train=1000,
    num_test=5000,
    inputs="standard",
    train=BASE,
    measure=MeasureConfig(derivative_examples=300, exact_tangent_examples=3, complexity=SHARPNESS),
)
PAPER = dataclasses.replace(
    CPU,
    seeds=5,
    num_train=10_000,
    num_test=None,
    train=dataclasses.replace(BASE, max_epochs=300),
    measure=MeasureConfig(exact_tangent_examples=100, complexity=ComplexityConfig()),
)
QUICK = dataclasses.replace(
    CPU,
    dataset="digits",
    num_train=128,
    num_test=256,
    train=dataclasses.replace(BASE, max_epochs=6),
    measure=MeasureConfig(
        derivative_examples=20,
        exact_tangent_examples=2,
        complexity=dataclasses.replace(
            SHARPNESS, margin_percent=50.0, sharpness_steps=5, alphas=(1e-3, 1e-2, 5e-2), num_perturbations=20
        ),
    ),
)
PRESETS = {
    "quick": grid(QUICK, (2,), (16,), (2,), ways=("", "-b128"), noises=(0.0, 0.25)),
    "cpu": grid(CPU, (2, 4), (50, 200), (4, 8), noises=(0.0, 0.25)),
    "paper": grid(PAPER, (2, 3, 4), (100, 300, 1000), (8, 16, 32), noises=(0.0, 0.25)),
}


def plain(column: str):
    """log10 of a column."""
    return lambda row: positive(row.get(column))


def logarithm(column: str, *, over_margin: bool = False):
    """A natural logarithm in decades, less twice the margin's."""

    def of(row: dict) -> float | None:
        value, margin = row.get(column), row.get("log_margin")
        if value is None or (over_margin and margin is None):
            return None
        return float(decades_of_log(value - 2 * margin if over_margin else value))

    return of


def positive(value: float | None) -> float | None:
    """log10 of a positive number; None of others."""
    return None if value is None or value <= 0 else float(decades(value))


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure: its name, its paper, what labels it needs, its decades of a row, the seconds that it took.

    `seconds` names columns of seconds per 1000 examples (`per_example`) or of one network.
    """

    title: str
    paper: str
    labels: str
    of: object
    seconds: tuple[str, ...] = ()
    per_example: bool = False


def norms() -> dict[str, Measure]:
    """D's four norms and the operator norm: plain, over the margin, and with the capacity's factors."""
    found = {}
    for name, title in {"l2": "l2 norm", "path1": "l1-path norm", "path2": "l2-path norm"}.items():
        found |= forms(name, title)
    return found | forms("spectral", "spectral norm")


def forms(name: str, title: str) -> dict[str, Measure]:
    """One norm alone, over the margin, and as a capacity."""
    plotted, capacity = f"log_{name}_plotted", f"log_{name}_capacity"
    seconds, capacity_seconds = (f"{plotted}_seconds",), (f"{capacity}_seconds", "margin_seconds")
    return {
        name: Measure(title, "D", "none", logarithm(plotted), seconds),
        f"{name}_margin": Measure(
            f"{title} / margin",
            "D",
            "training",
            logarithm(plotted, over_margin=True),
            (*seconds, "margin_seconds"),
        ),
        f"{name}_capacity": Measure(
            f"{title} / margin, capacity",
            "D",
            "training",
            logarithm(capacity, over_margin=True),
            capacity_seconds,
        ),
    }


PERCEPTRON = "C, FC only"
MEASURES = {
    "parameters": Measure("number of parameters", "D", "none", plain("num_params")),
    "output": Measure(
        "output sensitivity S", "A", "none", plain("sensitivity_after"), ("sensitivity_seconds",), True
    ),
    "output_before": Measure("S before training", "A", "none", plain("sensitivity_before")),
    "output_train": Measure("S on the training set", "A", "none", plain("sensitivity_train")),
    "linearized": Measure(
        "S, small-noise limit",
        "A",
        "none",
        plain("linearized_sensitivity_after"),
        ("linearized_sensitivity_seconds",),
        True,
    ),
    "jacobian": Measure(
        "Jacobian norm",
        "E",
        "none",
        plain("jacobian_norm_before_softmax"),
        ("jacobian_norm_seconds",),
        True,
    ),
    "jacobian_softmax": Measure(
        "Jacobian norm after softmax", "E", "none", plain("jacobian_norm_after_softmax")
    ),
    "tangent": Measure("tangent sensitivity, sum", "C", "none", plain("exact_tangent_sensitivity")),
    "tangent_all": Measure(
        "tangent sensitivity, all outputs",
        "C",
        "none",
        plain("exact_tangent_sensitivity_all"),
        ("exact_tangent_seconds",),
        True,
    ),
    "eq1": Measure("equation 1", PERCEPTRON, "none", logarithm("log_tangent_norm_bound")),
    "eq2": Measure("equation 2, corrected", PERCEPTRON, "none", logarithm("log_active_path_bound")),
    "eq4": Measure("equation 4", PERCEPTRON, "none", logarithm("log_region_bound")),
    "layerwise": Measure("layer-wise norm", PERCEPTRON, "none", logarithm("log_layerwise_norm")),
    "empirical": Measure("empirical, soft", PERCEPTRON, "none", logarithm("log_empirical_soft_test")),
    "fisher_rao": Measure("Fisher-Rao norm", PERCEPTRON, "none", plain("fisher_rao_norm_test")),
    "inverse_margin": Measure(
        "1 / margin",
        "D",
        "training",
        lambda row: None if row.get("log_margin") is None else -float(decades_of_log(row["log_margin"])),
        ("margin_seconds",),
    ),
    **norms(),
    "operator_margin": Measure(
        "operator norm / margin",
        "D",
        "training",
        logarithm("log_operator_norm", over_margin=True),
        ("log_operator_norm_seconds", "margin_seconds"),
    ),
    "sharpness": Measure(
        "sharpness", "D", "training", lambda row: row.get("sharpness"), ("sharpness_seconds",)
    ),
    "expected": Measure(
        "expected sharpness, alpha 0.01",
        "D",
        "training",
        lambda row: row.get("expected_sharpness_at_0.01"),
        ("expected_sharpness_seconds",),
    ),
    "kl": Measure(
        "KL at expected sharpness 0.05", "D", "training", logarithm("log_kl_at_sharpness"), ("curve_seconds",)
    ),
}
GAPS = {"loss_gap": "loss", "error_gap": "error"}
HYPERPARAMETERS = {
    "architecture": "architecture",
    "hidden_layers": "depth",
    "size": "width",
    "optimizer": "optimiser",
    "batch_size": "batch size",
    "regulariser": "regulariser",
    "label_noise": "label noise",
}
FITTED = 0.98


def draw(table: Table, out: Path) -> None:
    """The heat-map and the table of coefficients."""
    table = prepared(table)
    known = [name for name in MEASURES if any(row[f"x_{name}"] is not None for row in table.rows())]
    rows = [measure_row(table, name, gap) for gap in GAPS for name in known]
    save_rows(rows, out, "compare-summary")
    ranked = [row for row in rows if row["gap"] == GAPS["error_gap"] and row["tau"] is not None]
    of_loss = {row["measure"]: row["tau"] for row in rows if row["gap"] == GAPS["loss_gap"]}
    if not ranked:  # a part of the grid
        return
    ranked.sort(key=lambda row: -row["tau"])
    columns = {
        "tau": "tau, error gap",
        "tau, fitted": "tau, fitted networks",
        "granulated": "granulated",
        **{f"moving {name}": name for name in HYPERPARAMETERS.values()},
        "worst environment": "worst environment",
    }
    save_heatmap(
        [[of_loss[row["measure"]], *(row.get(name) for name in columns)] for row in ranked],
        out,
        "compare",
        rows=[
            f"{row['measure']}{' *' if row['labels'] != 'none' else ''} ({row['cells']})" for row in ranked
        ],
        columns=["tau, loss gap", *columns.values()],
        title="Kendall's tau over networks (their number)\n* needs labels",
    )


def prepared(table: Table) -> Table:
    """With gaps, hyper-parameters and the measures in decades."""
    widths = {
        kind: sorted({row["width"] for row in table.rows() if kind_of(row) == kind}) for kind in ("fc", "cnn")
    }
    alphas = sum(name.startswith("expected_sharpness_at_") for name in table.columns)

    return relabel(
        table,
        loss_gap=lambda row: None if row["diverged"] else row["test_loss"] - row["train_loss"],
        error_gap=lambda row: None if row["diverged"] else row["train_accuracy"] - row["test_accuracy"],
        architecture=kind_of,
        size=lambda row: widths[kind_of(row)].index(row["width"]),
        regulariser=lambda row: "weight decay" if row["weight_decay"] else row["regularization"],
        curve_seconds=lambda row: None if row["diverged"] else alphas * row["expected_sharpness_seconds"],
        **{f"x_{name}": measure.of for name, measure in MEASURES.items()},
    )


def kind_of(row: dict) -> str:
    """FC or CNN."""
    return row["cell"].split("-")[0]


def measure_row(table: Table, name: str, gap: str) -> dict:
    """All that is said of one measure against one gap."""
    measure, x = MEASURES[name], f"x_{name}"
    row = {"gap": GAPS[gap], "measure": measure.title, "paper": measure.paper, "labels": measure.labels}
    row |= costs(table, measure)
    row |= rank_correlation_rows(table, x=x, y=gap)
    fitted = table.where(cell=fitted_cells(table))
    some = rank_correlation_rows(fitted, x=x, y=gap) if len(fitted) else {"cells": 0, "tau": None}
    row |= {"cells, fitted": some["cells"], "tau, fitted": some["tau"]}
    measured = Table.from_rows(row for row in table.rows() if row[x] is not None and row[gap] is not None)
    if row["tau"] is None:
        return row
    known = measured.aggregate(values=(x, gap), keep=tuple(HYPERPARAMETERS)).rows()
    settings = {column: [row[column] for row in known] for column in HYPERPARAMETERS}
    moving = {HYPERPARAMETERS[column]: v for column, v in settings.items() if len(set(v)) > 1}
    xs, ys = ([row[f"{column}_mean"] for row in known] for column in (x, gap))
    if len(set(xs)) < 2 or not moves_alone(moving):
        return row
    found = granulated_kendall(xs, ys, moving)
    worst = worst_environment(xs, ys, moving)
    return (
        row
        | {"granulated": found.value}
        | {f"moving {name}": value for name, value in found.per_hyperparameter.items()}
        | {"worst environment": worst.value, "which": worst.hyperparameter}
    )


def fitted_cells(table: Table) -> tuple[str, ...]:
    """Cells whose members, on average, classify nearly all of their training set."""
    means = table.aggregate(values=("train_accuracy",)).rows()
    return tuple(
        row["cell"] for row in means if row["train_accuracy_count"] and row["train_accuracy_mean"] >= FITTED
    )


def costs(table: Table, measure: Measure) -> dict[str, float | None]:
    """Median seconds over those of a forward pass: of one example, or of the test set."""
    column = "forward passes, an example" if measure.per_example else "forward passes of the test set"
    ratios = []
    for row in table.rows():
        seconds = [row.get(name) for name in measure.seconds]
        if seconds and None not in seconds and row.get("forward_seconds"):
            one = row["forward_seconds"] * (1000 / row["test_examples"] if measure.per_example else 1)
            ratios.append(sum(seconds) / one)
    ratios.sort()
    empty = {"forward passes, an example": None, "forward passes of the test set": None}
    return empty | ({column: ratios[len(ratios) // 2]} if ratios else {})


EXPERIMENT = cli.Experiment("compare", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
