"""Paper E: does the Jacobian norm at a test point tell whether the network is wrong there?

Reproduces: Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein, "Sensitivity and Generalization in Neural
Networks: an Empirical Study", the claim of its abstract that "the input-output Jacobian norm can be
predictive of generalization at the level of individual test points". Only the abstract was at hand; that the
norm is high where the predicted probabilities are undecided is known second-hand, and is why we put it
beside them: `doubt` is 1 less the largest probability, which costs nothing. Each score's AUROC for being
misclassified, 1/2 for chance; the same among points of like doubt (hundredths of them), beside that of doubt
itself, which tells what a score adds to it; and the share of wrong points in each tenth of a score. Of
networks with 100% training accuracy. They share their images: an interval is Student's over networks and
DeLong's of one network together, the root of the sum of both squared half-widths. S and tangent sensitivity
at the point (papers A and C) are ours.

    python experiments/robustness/per_point.py                                         # quick: digits
    python experiments/robustness/per_point.py --preset cpu --data-dir DIR \\
        --out figures/robustness/per_point                                             # real images
    python experiments/robustness/per_point.py --preset paper --data-dir DIR           # all images

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 2, at most 100 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | MNIST and CIFAR-10, 1000 images | 8, at most 400 epochs | 5 | 20 minutes on 1 CPU core |
| paper | MNIST and CIFAR-10, all images | 8, at most 400 epochs | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import fully_connected
from jaxsens.plotting import (
    Curve,
    CurvePanel,
    IntervalPanel,
    fitted_networks,
    mean_curve,
    save_curves,
    save_intervals,
    save_rows,
    value_interval,
)
from jaxsens.sweep import POINT_SCORES, MeasureConfig, Preset, RobustnessConfig
from jaxsens.table import Table
from jaxsens.train import TrainConfig

TITLES = {
    "doubt": "doubt (1 less the largest probability)",
    "jacobian_softmax": "Jacobian norm of the softmax",
    "jacobian_logits": "Jacobian norm of the logits",
    "sensitivity": "S at the point",
    "tangent_sensitivity": "tangent sensitivity, sum of outputs",
    "tangent_sensitivity_all": "tangent sensitivity, all outputs",
}


def networks(preset: Preset, *shapes: tuple[int, int]) -> tuple[Preset, ...]:
    """ReLU and HardTanh, trained by Adam."""
    models = tuple(
        fully_connected(*shape, init="HN", activation=activation)
        for shape in shapes
        for activation in ("relu", "hard_tanh")
    )
    return (dataclasses.replace(preset, models=models, suffix=f"-{preset.dataset}"),)


CPU = Preset(
    seeds=5,
    dataset="mnist",
    num_train=1000,
    train=TrainConfig("adam", 1e-3, batch_size=100, max_epochs=400, stop_loss=0.002, stop_count=1),
    measure=MeasureConfig(
        derivative_examples=500,
        output_sensitivity=False,
        robustness=RobustnessConfig(loops=0, pointwise_examples=3000),
    ),
)
PAPER = dataclasses.replace(
    CPU,
    seeds=10,
    num_train=None,
    measure=MeasureConfig(
        output_sensitivity=False, robustness=RobustnessConfig(loops=0, pointwise_examples=10_000)
    ),
)
QUICK = dataclasses.replace(
    CPU,
    seeds=2,
    dataset="digits",
    num_train=128,
    num_test=512,
    train=dataclasses.replace(CPU.train, learning_rate=0.01, batch_size=32, max_epochs=100),
    measure=MeasureConfig(
        derivative_examples=50,
        output_sensitivity=False,
        robustness=RobustnessConfig(loops=0, pointwise_examples=512),
    ),
)
PRESETS = {
    "quick": networks(QUICK, (2, 16)),
    "cpu": tuple(
        part
        for dataset in ("mnist", "cifar10")
        for part in networks(dataclasses.replace(CPU, dataset=dataset), (2, 200), (4, 100))
    ),
    "paper": tuple(
        part
        for dataset in ("mnist", "cifar10")
        for part in networks(dataclasses.replace(PAPER, dataset=dataset), (2, 200), (4, 100))
    ),
}


def column(name: str):
    """A column of a row, None where it is not measured."""
    return lambda row: row.get(name)


def draw(table: Table, out: Path) -> None:
    """AUROCs, AUROCs within tenths of doubt, and conditional curves, for each data set."""
    by_data: dict[str, list[dict]] = {}
    for row in fitted_networks(table):
        by_data.setdefault(row["dataset"], []).append(row)
    forest, panels, summary = [], [], []
    for dataset, rows in by_data.items():
        for suffix, title in (("", "all points"), ("_within", "among points of like doubt")):
            intervals = {
                name: value_interval(
                    rows,
                    column(f"auroc_{name}{suffix}"),
                    TITLES[name],
                    shared=column(f"auroc_{name}{suffix}_stderr"),
                )
                for name in POINT_SCORES
            }
            known = [interval for interval in intervals.values() if interval is not None]
            if known:
                forest.append(
                    IntervalPanel(
                        known,
                        title=f"{dataset}, {title}",
                        x_label="AUROC for being misclassified",
                        reference=0.5,
                        limits=(0.3, 1.0),
                    )
                )
            summary += [
                {
                    "data": dataset,
                    "points": title,
                    "score": TITLES[name],
                    "networks": interval.num,
                    "AUROC": interval.value,
                    "low": interval.low,
                    "high": interval.high,
                    "standard error in one network": value_interval(
                        rows, column(f"auroc_{name}{suffix}_stderr"), ""
                    ).value,
                }
                for name, interval in intervals.items()
                if interval is not None
            ]
        shares = {name: mean_curve(rows, f"wrong_{name}") for name in POINT_SCORES}
        drawn = [
            Curve(TITLES[name], [10 * tenth + 5 for tenth in range(10)], *curve)
            for name, curve in shares.items()
            if curve is not None
        ]
        if drawn:
            panels.append(
                CurvePanel(
                    tuple(drawn),
                    title=dataset,
                    x_label="percentile of the score",
                    y_label="share of misclassified points",
                )
            )
    if forest:
        save_intervals(forest, out, "per_point")
        save_curves(panels, out, "per_point-curves")
    save_rows(summary, out, "per_point-summary")


EXPERIMENT = cli.Experiment("robustness/per_point", __doc__, PRESETS, draw, together=20)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
