"""Paper E: what lowers and what raises robustness, in pairs of networks that differ in one thing.

Reproduces: Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein, "Sensitivity and Generalization in Neural
Networks: an Empirical Study", two claims of its abstract: factors of poor generalisation, "such as full-batch
training or using random labels", go with lower robustness; "data augmentation and ReLU non-linearities" with
more. Only the abstract was at hand; that full batches are L-BFGS's, that robustness is the Jacobian norm of
the softmax, and that networks have 100% training accuracy, is known second-hand. The networks are those of
`survey.py`. Both of a pair have 100% training accuracy, and are equal in all but what is compared, their
initial weights included; an L-BFGS network, which decays no weights, is compared with each of the
mini-batch networks of its shape, activation and labels, those that decay theirs apart. A difference is one
of decades (of percentage points for the gap of accuracy), with its 95% bootstrap interval over whole settings
(shape, optimiser, batch), or shapes for full batches: with 9 of them it covers about 90%.

    python experiments/robustness/factors.py                                           # quick: digits
    python experiments/robustness/factors.py --preset cpu --data-dir DIR \\
        --out figures/robustness/factors                                               # real MNIST
    python experiments/robustness/factors.py --preset paper --data-dir DIR             # all four data sets

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 80, at most 200 epochs | 1 | none after the survey |
| cpu | MNIST, 1000 images | 1008, at most 400 epochs | 1 | none after the survey |
| paper | MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, all images | 7168, at most 400 epochs | 1 | not run yet |
"""

from pathlib import Path

from jaxsens import cli
from jaxsens.plotting import (
    IntervalPanel,
    decades,
    fitted_networks,
    matched,
    paired_interval,
    save_intervals,
    save_rows,
    settings_of,
)
from jaxsens.sweep import SURVEY_CPU, SURVEY_PAPER, SURVEY_QUICK
from jaxsens.table import Table

PRESETS = {"quick": SURVEY_QUICK, "cpu": SURVEY_CPU, "paper": SURVEY_PAPER}
SETTING = ("dataset", "shape", "way")
SHAPE = ("dataset", "shape")
LBFGS = "lbfgs-full"


def in_decades(column: str):
    """log10 of a column."""
    return lambda row: float(decades(row[column])) if (row[column] or 0) > 0 else None


MEASURES = {
    "Jacobian norm of the softmax": in_decades("jacobian_norm_after_softmax"),
    "Jacobian norm of the logits": in_decades("jacobian_norm_before_softmax"),
    "transitions per translation loop": in_decades("transitions_test"),
    "gap of accuracy": lambda row: 100 * row["gap"],
}


def comparisons(rows: list[dict]) -> dict[str, tuple[list[tuple[dict, dict]], tuple[str, ...]]]:
    """Pairs (without, with) for each factor, and the columns that pairs which depend on each other share."""
    same = ("dataset", "shape", "way", "activation", "seed")
    found = {
        "random labels, against true": (
            matched(rows, {"kind": "true"}, {"kind": "random"}, by=same),
            SETTING,
        )
    }
    for kind, title in (("true", ""), ("random", ", random labels")):
        of_kind = [row for row in rows if row["kind"] == kind]
        batches = {row["way"] for row in of_kind if row["batch_size"] is not None}
        pairs = [
            pair
            for way in sorted(batches)
            for pair in matched(
                of_kind, {"way": way}, {"way": LBFGS}, by=("dataset", "shape", "activation", "seed")
            )
        ]
        # L-BFGS decays no weights: only pairs without decay differ in nothing else.
        for decays, ending in ((False, ""), (True, " that decay")):
            some = [pair for pair in pairs if (pair[0]["weight_decay"] > 0) == decays]
            found[f"L-BFGS, against mini-batches{ending}{title}"] = some, SHAPE
        # Same rate and decay as one of the mini-batch Adams.
        by = ("dataset", "shape", "activation", "seed", "learning_rate", "weight_decay")
        pairs = [
            pair
            for way in sorted(way for way in batches if way.startswith("adam"))
            for pair in matched(of_kind, {"way": way}, {"way": "adam-full"}, by=by)
        ]
        found[f"full-batch Adam, against mini-batches{title}"] = pairs, SHAPE
    found["augmented images, against none"] = (
        matched(rows, {"kind": "true"}, {"kind": "augmented"}, by=same),
        SETTING,
    )
    by = ("dataset", "shape", "way", "kind", "seed")
    true = [row for row in rows if row["kind"] != "random"]
    for name, title in (("relu6", "ReLU6"), ("hard_tanh", "HardTanh"), ("hard_sigmoid", "HardSigmoid")):
        pairs = matched(true, {"activation": name}, {"activation": "relu"}, by=by)
        found[f"ReLU, against {title}"] = pairs, SETTING
    return found


def summarise(rows: list[dict], networks: str) -> tuple[list[IntervalPanel], list[dict]]:
    """A panel per measure, and the numbers."""
    panels, summary = [], []
    for measure, value in MEASURES.items():
        intervals = []
        for label, (pairs, clusters) in comparisons(rows).items():
            found = paired_interval(pairs, value, label, clusters=clusters)
            more = [(value(a), value(b)) for a, b in pairs]
            more = [b > a for a, b in more if a is not None and b is not None]
            summary.append(
                {
                    "networks": networks,
                    "measure": measure,
                    "factor": label,
                    "pairs": len(more),
                    "difference": found and found.value,
                    "low": found and found.low,
                    "high": found and found.high,
                    "share of pairs in which it is more": sum(more) / len(more) if more else None,
                }
            )
            intervals += [] if found is None else [found]
        if intervals:
            unit = "percentage points" if measure == "gap of accuracy" else "decades"
            panels.append(IntervalPanel(intervals, title=measure, x_label=f"difference in {unit}"))
    return panels, summary


def draw(table: Table, out: Path) -> None:
    """The differences of pairs that fit their training set; the numbers tell of others as well."""
    panels, summary = summarise(fitted_networks(table), "100% training accuracy")
    if panels:
        save_intervals(panels, out, "factors")
    every = [settings_of(row) for row in table.rows() if not row["diverged"]]
    nearly = [row for row in every if row["train_accuracy"] >= 0.99]
    summary += summarise(nearly, "99% training accuracy")[1] + summarise(every, "all")[1]
    save_rows(summary, out, "factors-summary")


EXPERIMENT = cli.Experiment("robustness/factors", __doc__, PRESETS, draw, together=64)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
