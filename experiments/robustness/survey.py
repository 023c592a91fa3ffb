"""Paper E: the Jacobian norm against the generalisation gap, over a thousand small networks.

Reproduces: Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein, "Sensitivity and Generalization in Neural
Networks: an Empirical Study", the claim of its abstract that the norm of the input-output Jacobian
"correlates well with generalization" over thousands of networks. Only the abstract was at hand: that the
Jacobian is that of the softmax, the mean over test points, that only networks with 100% training accuracy
are compared, and the optimisers and activations, are known second-hand; the grid is ours. Fully-connected
networks of nine shapes with four activations are trained by five optimisers, with mini-batches and full
batches, on true labels, on random labels, and on augmented images; learning rates and weight decays are
drawn. Kendall's tau with the gap of accuracy has its 95% bootstrap interval over whole settings (shape,
optimiser, batch), as networks of one setting are alike. Networks of one shape train as one program.

    python experiments/robustness/survey.py                                            # quick: digits
    python experiments/robustness/survey.py --preset cpu --data-dir DIR \\
        --out figures/robustness/survey                                                # real MNIST
    python experiments/robustness/survey.py --preset paper --data-dir DIR              # all four data sets

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 80, at most 200 epochs | 1 | 2 minutes on 2 CPU cores |
| cpu | MNIST, 1000 images | 1008, at most 400 epochs | 1 | 37 minutes on 2 CPU cores, in two shards |
| paper | MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, all images | 7168, at most 400 epochs | 1 | not run yet |
"""

from pathlib import Path

from jaxsens import cli
from jaxsens.plotting import (
    SENSITIVITIES,
    IntervalPanel,
    ScatterPanel,
    correlation_interval,
    fitted_networks,
    save_intervals,
    save_rows,
    save_scatter,
    settings_of,
)
from jaxsens.sweep import SURVEY_CPU, SURVEY_PAPER, SURVEY_QUICK
from jaxsens.table import Table

PRESETS = {"quick": SURVEY_QUICK, "cpu": SURVEY_CPU, "paper": SURVEY_PAPER}
KINDS = {"true": "true labels", "augmented": "augmented images", "random": "random labels"}
ACTIVATIONS = {"relu": "ReLU", "relu6": "ReLU6", "hard_tanh": "HardTanh", "hard_sigmoid": "HardSigmoid"}
SETTING = ("dataset", "shape", "way")


def subsets(rows: list[dict]) -> dict[str, list[dict]]:
    """All networks, and those that agree in what moves the gap most."""
    true = [row for row in rows if row["kind"] != "random"]
    found = {"all networks": rows, "true labels": true}
    for kind, title in (("true", "no augmentation"), ("augmented", "augmented images")):
        found[f"true labels, {title}"] = [row for row in true if row["kind"] == kind]
    for name, title in ACTIVATIONS.items():
        found[f"true labels, {title}"] = [row for row in true if row["activation"] == name]
    return found | {"random labels": [row for row in rows if row["kind"] == "random"]}


def draw(table: Table, out: Path) -> None:
    """The gap against each measure, and Kendall's tau in all networks and within groups."""
    rows = fitted_networks(table)
    every = [settings_of(row) for row in table.rows() if not row["diverged"]]
    panels = []
    for column, title in SENSITIVITIES.items():
        shown = [row for row in rows if row[column] is not None]
        panels.append(
            ScatterPanel(
                [row[column] for row in shown],
                [row["gap"] for row in shown],
                [KINDS[row["kind"]] for row in shown],
                title=title,
                x_label="mean over test images",
                y_label="training minus test accuracy",
                log_x=True,
            )
        )
    if rows:
        save_scatter(panels, out, "survey", columns=2)
    true = [row for row in rows if row["kind"] != "random"]
    if true:
        panels = [
            ScatterPanel(
                [row[column] for row in true],
                [row["gap"] for row in true],
                [ACTIVATIONS[row["activation"]] for row in true],
                title=title,
                x_label="mean over test images",
                y_label="training minus test accuracy",
                log_x=True,
            )
            for column, title in SENSITIVITIES.items()
        ]
        save_scatter(panels, out, "survey-true", columns=2)
    found, summary = [], []
    for column, title in SENSITIVITIES.items():
        intervals = {
            name: correlation_interval(some, column, "gap", name, clusters=SETTING)
            for name, some in subsets(rows).items()
        }
        known = [interval for interval in intervals.values() if interval is not None]
        if known:
            found.append(IntervalPanel(known, title=title, x_label="Kendall's tau with the gap"))
        for name, some in subsets(every).items():
            interval = intervals[name]
            whole = correlation_interval(some, column, "gap", name, clusters=SETTING)
            summary.append(
                {
                    "measure": title,
                    "networks": name,
                    "trained": len(some),
                    "100% accurate": sum(row["train_accuracy"] == 1 for row in some),
                    "tau": interval and interval.value,
                    "tau, low": interval and interval.low,
                    "tau, high": interval and interval.high,
                    "tau of all trained": whole and whole.value,
                    "tau of all trained, low": whole and whole.low,
                    "tau of all trained, high": whole and whole.high,
                }
            )
    if found:
        save_intervals(found, out, "survey-tau")
    save_rows(summary, out, "survey-summary")


EXPERIMENT = cli.Experiment("robustness/survey", __doc__, PRESETS, draw, together=64)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
