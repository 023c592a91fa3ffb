"""Paper E: slices through the input space, coloured by linear region, before and after training.

For Novak, Bahri, Abolafia, Pennington, Sohl-Dickstein, "Sensitivity and Generalization in Neural Networks: an
Empirical Study", whose claim is that trained networks are more robust near the training data: what that looks
like. The plane goes through three training images of different classes (above), and through the same images
with their pixels shuffled, away from the data (below). A colour is a predicted class, its shades are linear
regions, counted exactly; the points are the images. The abstract was at hand; the paper's own pictures were
not.

    python experiments/robustness/slices.py                                            # quick: digits
    python experiments/robustness/slices.py --preset cpu --data-dir DIR \\
        --out figures/robustness/slices                                                # real MNIST
    python experiments/robustness/slices.py --preset paper --data-dir DIR              # all of MNIST

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 1, at most 60 epochs | 1 | 1 minute on 2 CPU cores |
| cpu | MNIST, 1000 images | 2, at most 400 epochs | 1 | 2 minutes on 1 CPU core |
| paper | MNIST, all images | 2, at most 400 epochs | 1 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import fully_connected
from jaxsens.plotting import SlicePanel, save_rows, save_slices
from jaxsens.sweep import SLICE_KINDS, MeasureConfig, Preset, RobustnessConfig
from jaxsens.table import Table, text_to_image, text_to_numbers
from jaxsens.train import TrainConfig

STAGES = {"before": "untrained", "after": "trained"}
KINDS = {"different": "three images", "shuffled": "shuffled pixels"}

CPU = Preset(
    models=tuple(fully_connected(3, 32, init="HN", activation=name) for name in ("relu", "hard_tanh")),
    seeds=1,
    dataset="mnist",
    num_train=1000,
    train=TrainConfig("adam", 1e-3, batch_size=100, max_epochs=400, stop_loss=0.002, stop_count=1),
    measure=MeasureConfig(
        derivative_examples=100,
        output_sensitivity=False,
        robustness=RobustnessConfig(loops=0, slice_pixels=400),
    ),
)
PAPER = dataclasses.replace(CPU, num_train=None)
QUICK = dataclasses.replace(
    CPU,
    models=(fully_connected(2, 12, init="HN"),),
    dataset="digits",
    num_train=128,
    num_test=256,
    train=dataclasses.replace(CPU.train, batch_size=32, max_epochs=60),
    measure=MeasureConfig(
        derivative_examples=50,
        output_sensitivity=False,
        robustness=RobustnessConfig(loops=0, slice_pixels=120),
    ),
)
PRESETS = {"quick": (QUICK,), "cpu": (CPU,), "paper": (PAPER,)}


def panel(row: dict, kind: str, stage: str) -> SlicePanel:
    """One slice of one network."""

    def cell(name: str) -> str:
        return row[f"slice_{name}_{kind}_{stage}"]

    return SlicePanel(
        text_to_image(cell("labels")),
        text_to_image(cell("classes")),
        text_to_numbers(cell("points")).reshape(3, 2),
        text_to_numbers(row[f"slice_point_labels_{kind}"]).astype(int),
        tuple(text_to_numbers(cell("extent")).tolist()),
        title=f"{STAGES[stage]}, {KINDS[kind]}",
        note=f"{cell('regions'):,} regions",
    )


def draw(table: Table, out: Path) -> None:
    """A picture per network: near the data and away, before and after."""
    summary = []
    for row in table.rows():
        if row["diverged"] or row["seed"]:
            continue
        panels = [panel(row, kind, stage) for kind in SLICE_KINDS for stage in STAGES]
        stem = "slices" if row["activation"] == "relu" else f"slices-{row['activation']}"
        save_slices(panels, out, stem, columns=2)
        summary += [
            {
                "network": row["cell"],
                "plane through": KINDS[kind],
                "stage": STAGES[stage],
                "regions": row[f"slice_regions_{kind}_{stage}"],
                "seen by pixels": row[f"slice_seen_{kind}_{stage}"],
            }
            for kind in SLICE_KINDS
            for stage in STAGES
        ]
    save_rows(summary, out, "slices-summary")


EXPERIMENT = cli.Experiment("robustness/slices", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
