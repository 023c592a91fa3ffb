"""Paper E: robustness near the training data and away from it, before and after training.

Reproduces: Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein, "Sensitivity and Generalization in Neural
Networks: an Empirical Study", the claim of its abstract that "trained neural networks are more robust to
input perturbations in the vicinity of the training data manifold, as measured by the norm of the input-output
Jacobian". Only the abstract was at hand; that the paper compares ellipses through three training points of
one class, of different classes, and through random points, and counts transitions along closed curves, is
known second-hand. Which ellipse, how many points, and what its random points are, is not known: ours is the
Steiner ellipse, with the data at 0, 120 and 240 degrees, and our points away from the data are training
images with their pixels shuffled, of the same norm. Rays go from training images into random directions.
Networks have two hidden layers of 200 units and are trained to a loss of 0.002; those that do not reach 100%
training accuracy are left out. Means and ranges are over seeds, differences have Student's 95% interval.

    python experiments/robustness/near_data.py                                         # quick: digits
    python experiments/robustness/near_data.py --preset cpu --data-dir DIR \\
        --out figures/robustness/near_data                                             # real images
    python experiments/robustness/near_data.py --preset paper --data-dir DIR           # all images

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 3, at most 100 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | MNIST and CIFAR-10, 1000 images | 10, at most 400 epochs | 5 | 20 minutes on 1 CPU core |
| paper | MNIST and CIFAR-10, all images | 10, at most 400 epochs | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import fully_connected
from jaxsens.plotting import (
    Curve,
    CurvePanel,
    IntervalPanel,
    decades,
    fitted_networks,
    mean_curve,
    save_curves,
    save_intervals,
    save_rows,
    value_interval,
)
from jaxsens.sweep import RAY_RADII, TRAJECTORY_KINDS, MeasureConfig, Preset, RobustnessConfig
from jaxsens.table import Table
from jaxsens.train import TrainConfig

ACTIVATIONS = {"relu": "ReLU", "relu6": "ReLU6", "hard_tanh": "HardTanh", "hard_sigmoid": "HardSigmoid"}
KINDS = {"same": "one class", "different": "three classes", "shuffled": "shuffled pixels"}
STAGES = {"before": "untrained", "after": "trained"}
NORMS = {"softmax": "Jacobian norm of the softmax", "logits": "Jacobian norm of the logits"}


def networks(preset: Preset, activations: tuple[str, ...], **shape: int) -> tuple[Preset, ...]:
    """The activations on true labels, and ReLU on random ones."""
    name = preset.dataset
    models = tuple(fully_connected(**shape, init="HN", activation=activation) for activation in activations)
    return (
        dataclasses.replace(preset, models=models, suffix=f"-{name}"),
        dataclasses.replace(preset, models=models[:1], label_noise=1.0, suffix=f"-{name}-random"),
    )


CPU = Preset(
    seeds=5,
    dataset="mnist",
    num_train=1000,
    train=TrainConfig("adam", 1e-3, batch_size=100, max_epochs=400, stop_loss=0.002, stop_count=1),
    measure=MeasureConfig(
        derivative_examples=500,
        output_sensitivity=False,
        robustness=RobustnessConfig(loops=100, triples=50, points=60),
    ),
)
PAPER = dataclasses.replace(
    CPU,
    seeds=10,
    num_train=None,
    measure=MeasureConfig(output_sensitivity=False, robustness=RobustnessConfig(loops=1000, triples=300)),
)
QUICK = dataclasses.replace(
    CPU,
    seeds=2,
    dataset="digits",
    num_train=128,
    num_test=256,
    train=dataclasses.replace(CPU.train, learning_rate=0.01, batch_size=32, max_epochs=100),
    measure=MeasureConfig(
        derivative_examples=50,
        output_sensitivity=False,
        robustness=RobustnessConfig(loops=10, triples=10, points=24),
    ),
)
SHAPE = {"hidden_layers": 2, "width": 200}
PRESETS = {
    "quick": networks(QUICK, ("relu", "hard_tanh"), hidden_layers=2, width=16),
    "cpu": tuple(
        part
        for dataset in ("mnist", "cifar10")
        for part in networks(dataclasses.replace(CPU, dataset=dataset), tuple(ACTIVATIONS), **SHAPE)
    ),
    "paper": tuple(
        part
        for dataset in ("mnist", "cifar10")
        for part in networks(dataclasses.replace(PAPER, dataset=dataset), tuple(ACTIVATIONS), **SHAPE)
    ),
}


def curves(rows: list[dict], measure: str, x_of: object) -> list[Curve]:
    """The mean curves of each kind and stage, with the least and greatest network."""
    found = []
    for stage, title in STAGES.items():
        for kind, label in KINDS.items():
            curve = mean_curve(rows, f"{measure}_{kind}_{stage}")
            if curve is not None:
                mean, low, high = curve
                style = {"style": "line" if stage == "after" else "dashed", "colour": label}
                found.append(Curve(f"{label}, {title}", x_of(len(mean)), mean, low, high, **style))
    return found


def degrees(count: int) -> list[float]:
    """The angles of an ellipse's points."""
    return [360 * index / count for index in range(count)]


def ray_curves(rows: list[dict]) -> list[Curve]:
    """Both norms along rays, before and after training."""
    found = []
    for norm in NORMS:
        for stage, title in STAGES.items():
            curve = mean_curve(rows, f"{norm}_ray_{stage}")
            if curve is not None:
                style = {"style": "line" if stage == "after" else "dashed", "colour": norm}
                found.append(Curve(f"{norm}, {title}", RAY_RADII, *curve, **style))
    return found


def groups(table: Table) -> dict[tuple[str, str, str], list[dict]]:
    """The networks of each data set, activation and kind of labels that fit their training set."""
    found: dict[tuple[str, str, str], list[dict]] = {}
    for row in fitted_networks(table):
        found.setdefault((row["dataset"], row["activation"], row["kind"]), []).append(row)
    return found


def ratio(first: str, second: str):
    """log10 of one column over another; None where one is 0."""

    def of(row: dict) -> float | None:
        if not (row[first] and row[second]):
            return None
        return float(decades(row[first]) - decades(row[second]))

    return of


CONTRASTS = {
    "midway, against at the data: {kind}": ("{norm}_far_{kind}_{stage}", "{norm}_near_{kind}_{stage}"),
    "shuffled pixels, against data": ("{norm}_near_shuffled_{stage}", "{norm}_near_different_{stage}"),
}


def contrasts(norm: str, stage: str) -> dict[str, object]:
    """What is compared, in decades: on ellipses through data midway with the data, shuffled with not."""
    found = {}
    for title, columns in CONTRASTS.items():
        for kind in TRAJECTORY_KINDS:
            names = {"norm": norm, "stage": stage, "kind": kind}
            label = title.format(kind=KINDS[kind])
            found[label] = ratio(*(column.format(**names) for column in columns))
    return found


def draw(table: Table, out: Path) -> None:
    """Along ellipses and rays, ReLU; all activations' contrasts; the numbers."""
    found = groups(table)
    panels, forest, summary = [], [], []
    for (dataset, activation, kind), rows in found.items():
        if activation == "relu" and kind == "true":
            for norm, title in NORMS.items():
                panels.append(
                    CurvePanel(
                        tuple(curves(rows, f"{norm}_curve", degrees)),
                        title=f"{dataset}: {title}",
                        x_label="degrees along the ellipse; data at 0, 120, 240",
                        log_y=True,
                    )
                )
            panels.append(
                CurvePanel(
                    tuple(curves(rows, "transitions_curve", degrees)),
                    title=f"{dataset}: transitions per step",
                    x_label="degrees along the ellipse; data at 0, 120, 240",
                )
            )
            panels.append(
                CurvePanel(
                    tuple(ray_curves(rows)),
                    title=f"{dataset}: along random directions",
                    x_label="distance from a training image, in its norms",
                    y_label="Jacobian norm",
                    log_y=True,
                )
            )
    for norm, title in NORMS.items():
        for stage, stage_title in STAGES.items():
            for label, value in contrasts(norm, stage).items():
                intervals = []
                for (dataset, activation, kind), rows in found.items():
                    name = f"{dataset}, {ACTIVATIONS[activation]}" + (", random labels" * (kind == "random"))
                    interval = value_interval(rows, value, name)
                    if interval is None:
                        continue
                    intervals.append(interval)
                    summary.append(
                        {
                            "norm": norm,
                            "stage": stage_title,
                            "contrast": label,
                            "networks": name,
                            "members": interval.num,
                            "decades": interval.value,
                            "low": interval.low,
                            "high": interval.high,
                        }
                    )
                if norm == "softmax" and stage == "after" and intervals:
                    forest.append(IntervalPanel(intervals, title=f"{title}: {label}", x_label="decades"))
    if panels:
        save_curves(panels, out, "near_data")
    if forest:
        save_intervals(forest, out, "near_data-contrasts")
    save_rows(summary, out, "near_data-summary")
    save_rows(counts(found), out, "near_data-transitions")


def counts(found: dict[tuple[str, str, str], list[dict]]) -> list[dict]:
    """Mean transitions on ellipses and loops, and exact crossings of segments, by kind and stage."""
    rows = []
    for (dataset, activation, labels), members in found.items():
        for stage, stage_title in STAGES.items():
            for kind, title in KINDS.items():
                row = {"data": dataset, "activation": ACTIVATIONS[activation], "labels": labels}
                row |= {"stage": stage_title, "points": title}
                for name in ("transitions", "crossings", "crossings_per_length", "softmax_share"):
                    values = [member[f"{name}_{kind}_{stage}"] for member in members]
                    row[name] = sum(values) / len(values)
                rows.append(row)
    return rows


EXPERIMENT = cli.Experiment("robustness/near_data", __doc__, PRESETS, draw, together=20)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
