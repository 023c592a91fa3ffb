"""Paper C, Figure 1: how many hidden units an input switches on.

Reproduces: Daróczy, "Gaussian Perturbations in ReLU Networks and the Arrangement of Activation Regions",
Figure 1: histograms of T(x), the number of active units, over the training and the test set, after 50
epochs, in a network of 4 hidden layers of 100 units on CIFAR-10 and on MNIST. Claims: T is significantly
less than the number of units, and normal, as Theorem 2 assumes. The pictures show the first seed with the
normal density of its mean and standard deviation; the summary gives skewness and excess kurtosis, 0 if
normal, of every seed. A unit is active where the input of its ReLU is above 0. CIFAR-10 is normalised as in
the published code.

    python experiments/tangent/fig1.py                                                         # quick: digits
    python experiments/tangent/fig1.py --preset cpu --data-dir DIR --out figures/tangent/fig1  # real images
    python experiments/tangent/fig1.py --preset paper --data-dir DIR --checkpoint              # ten seeds

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 256 and 128 training images | 1 and 1, at most 6 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10 and MNIST, all images | 1 and 1, at most 50 epochs | 3 | 14 core-minutes with measuring |
| paper | CIFAR-10 and MNIST, all images | 1 and 1, at most 50 epochs | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.plotting import CurvePanel, histogram_curve, normal_curve, save_curves, save_rows
from jaxsens.stats import histogram_moments
from jaxsens.sweep import TANGENT_CPU, TANGENT_PAPER, TANGENT_QUICK, Preset
from jaxsens.table import Table, text_to_counts

LETTERS = "abcdefgh"


def plain(preset: Preset) -> Preset:
    """C's network without regularisation, measured on the way as for Figure 3, which shares it."""
    return dataclasses.replace(preset, models=preset.models[:1])


def at_the_end(preset: Preset, **changes: object) -> Preset:
    """The same on other data, measured once."""
    measure = dataclasses.replace(preset.measure, snapshots=())
    return dataclasses.replace(plain(preset), measure=measure, **changes)


PRESETS = {
    "quick": (plain(TANGENT_QUICK), at_the_end(TANGENT_QUICK, num_train=128, suffix="-n128")),
    **{
        name: (plain(preset), at_the_end(preset, dataset="mnist", inputs="raw", suffix="-mnist"))
        for name, preset in (("cpu", TANGENT_CPU), ("paper", TANGENT_PAPER))
    },
}


def draw(table: Table, out: Path) -> None:
    """A panel per network and set, and every seed's moments."""
    end = table.where(snapshot=None)
    panels, rows = [], []
    for row in end.rows():
        for split in ("train", "test"):
            if row["diverged"]:
                continue
            values, counts = text_to_counts(row[f"active_counts_{split}"])
            moments = histogram_moments(values, counts)
            rows.append(
                {"cell": row["cell"], "dataset": row["dataset"], "seed": row["seed"], "set": split}
                | {"units": row["num_hidden_units"], "examples": int(counts.sum())}
                | moments._asdict()
                | {"mean / units": moments.mean / row["num_hidden_units"]}
                | {"std / units": moments.std / row["num_hidden_units"]}
                | {"least": int(values.min()), "greatest": int(values.max())}
            )
            if row["seed"] == 0:
                ends = (int(values.min()) - 1, int(values.max()) + 1)
                panels.append(
                    CurvePanel(
                        (
                            histogram_curve("examples", values, counts),
                            normal_curve("normal density", moments.mean, moments.std, ends),
                        ),
                        title=f"({LETTERS[len(panels)]}) {row['dataset']}, {NAMES[split]} set",
                        x_label=f"active units  $T(x)$, of {row['num_hidden_units']}",
                        y_label="share of examples",
                        note=f"mean {moments.mean:.1f}, std {moments.std:.1f}, skew {moments.skewness:.2f},"
                        f" excess kurtosis {moments.excess_kurtosis:.2f}",
                    )
                )
    save_curves(panels, out, "fig1")
    save_rows(rows, out, "fig1-summary")


NAMES = {"train": "training", "test": "test"}

EXPERIMENT = cli.Experiment("tangent/fig1", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
