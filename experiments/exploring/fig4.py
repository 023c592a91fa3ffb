"""Paper D, Figure 4: wider two-layer perceptrons.

Reproduces: Neyshabur, Bhojanapalli, McAllester, Srebro, "Exploring Generalization in Deep Learning", Figure
4: perceptrons with one hidden layer of 32 to 8192 units on MNIST, without BN or dropout. (a) errors, (b)
D's norms over the margin and sharpness, as log10 of their ratio to the narrowest network, (c) expected
sharpness against KL; the summary has the capacity forms too. Claims: the test error falls with the width;
the measures fall up to 128 units; beyond, the l2 and the l1-path norm rise, the spectral norm rises beyond
512, and the l2-path norm goes on falling, but not with its factor of the width; PAC-Bayes falls up to 128
units only.

    python experiments/exploring/fig4.py                                               # quick: digits
    python experiments/exploring/fig4.py --preset cpu --data-dir DIR \\
        --out figures/exploring/fig4                                                   # real MNIST
    python experiments/exploring/fig4.py --preset paper --data-dir DIR --checkpoint    # D's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 128 images | 2, at most 20 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | MNIST, 5000 images | 9, at most 300 epochs | 3 | 20 core-minutes |
| paper | MNIST, all images | 9, at most 1000 epochs | 5 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import fully_connected
from jaxsens.plotting import (
    COMPLEXITIES,
    NORMS,
    CurvePanel,
    bicriteria_panel,
    growth_panel,
    norm_rows,
    row_curve,
    save_curves,
    save_rows,
    with_complexity,
)
from jaxsens.sweep import EXPLORING_CPU, EXPLORING_PAPER, EXPLORING_QUICK
from jaxsens.table import Table


def widths(*units: int) -> dict:
    """The networks of a preset."""
    return {"models": tuple(fully_connected(1, number, init="FU") for number in units)}


PRESETS = {
    "quick": (dataclasses.replace(EXPLORING_QUICK, **widths(8, 32), image_size=None),),
    "cpu": (
        dataclasses.replace(
            EXPLORING_CPU,
            **widths(*(2**power for power in range(5, 14))),
            dataset="mnist",
            num_train=5000,
            train=dataclasses.replace(EXPLORING_CPU.train, max_epochs=300, stop_loss=3e-3),
        ),
    ),
    "paper": (
        dataclasses.replace(
            EXPLORING_PAPER,
            **widths(*(2**power for power in range(5, 14))),
            dataset="mnist",
            num_train=None,
        ),
    ),
}
NUMBERS = {
    **COMPLEXITIES,
    **{f"{name}_capacity": f"{title}, capacity" for name, title in NORMS.items()},
    "margin": "margin",
    "train_loss": "training loss",
    "train_error": "training error",
    "test_error": "test error",
}


def draw(table: Table, out: Path) -> None:
    """Errors, the measures' growth, the bi-criteria plot."""
    table = with_complexity(table)
    sizes = sorted(set(table.column("width").tolist()))
    errors = tuple(
        row_curve(table, f"{split}_error", f"{name} error", x="width")
        for split, name in (("train", "training"), ("test", "test"))
    )
    networks = {f"{size} units": table.where(width=size) for size in sizes}
    panels = [
        CurvePanel(errors, "(a) errors", "hidden units", "error", log_x=True),
        bicriteria_panel(networks, title="(c) sharpness and KL"),
    ]
    growth = growth_panel(table, x="width", x_label="hidden units", title="(b) measures", log_x=True)
    save_curves([panels[0], *([growth] if growth else []), panels[1]], out, "fig4", columns=3)
    save_rows(norm_rows({"all": table}, by="width", columns=NUMBERS), out, "fig4-summary")


EXPERIMENT = cli.Experiment("exploring/fig4", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
