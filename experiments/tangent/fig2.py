"""Paper C, Figure 2: what the bound of Theorem 2 depends on.

Reproduces: Daróczy, "Gaussian Perturbations in ReLU Networks and the Arrangement of Activation Regions",
Figure 2: the bound of equation 2 against (a) the mean and (b) the standard deviation of the number of
active units, (c) the largest weight and (d) the width, with 1000 units a layer, w_max = 0.1, mean 0.48 N
and deviation 0.04 N where they do not vary. Added: (e) the depth, of which the text speaks, and (f) the
bounds beside the exact value in the trained networks of Figure 1, which have 100 units a layer and a mean,
deviation and largest weight of their own. N is the number of hidden units: 0.48 of the parameters, as the
caption has it, cannot be active. Inputs have 3072 entries and the output is one; the depths are ours, for
want of C's. Claims: depth matters most, then the largest weight, then the deviation; with small weights the
bound falls with depth. Solid lines are the corrected bound, dashed ones the printed one, which can be
violated (docs/errata.md).

    python experiments/tangent/fig2.py                                                         # quick: digits
    python experiments/tangent/fig2.py --preset cpu --data-dir DIR --out figures/tangent/fig2  # real images
    python experiments/tangent/fig2.py --preset paper --data-dir DIR --checkpoint              # ten seeds

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 256 and 128 training images | 1 and 1, at most 6 epochs | 2 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10 and MNIST, all images | 1 and 1, at most 50 epochs | 3 | nothing after Figure 1 |
| paper | CIFAR-10 and MNIST, all images | 1 and 1, at most 50 epochs | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.metrics import log_active_path_bound
from jaxsens.plotting import (
    Curve,
    CurvePanel,
    decades,
    decades_of_log,
    sampled_curve,
    save_curves,
    save_rows,
)
from jaxsens.sweep import TANGENT_CPU, TANGENT_PAPER, TANGENT_QUICK, Preset
from jaxsens.table import Table


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

INPUT_DIM = 3072
# Layers of weights, k.
DEPTHS = (2, 3, 5, 9)
DEPTHS_ALONG = (2, 3, 4, 6, 9, 13, 18, 25, 32)
VARIANTS = {"corrected": "line", "as_printed": "dashed"}
# What C's caption gives, with N_layer = 1000; shares are of N, the number of hidden units.
DEFAULTS = {"mean": 0.48, "std": 0.04, "largest": 0.1, "width": 1000, "depth": 5}
NETWORK_COLUMNS = (
    *("cell", "dataset", "seed", "num_hidden_units", "num_weights"),
    *("active_mean_test", "active_std_test", "largest_weight"),
)
BOUNDS = (
    "log_active_path_bound_as_printed",
    "log_active_path_bound",
    "log_region_bound",
    "log_tangent_norm_bound",
)
BOUND_TITLES = ("equation 2", "corrected", "equation 4", "equation 1")


def bound(variant: str, **changes: object) -> object:
    """log10 of the bound, of a number or of an array of any factor but the depth."""
    mean, std, largest, width, depth = (DEFAULTS | changes).values()
    units = (depth - 1) * width
    weights = INPUT_DIM * width + (depth - 2) * width**2 + width
    # The number of weights is a plain factor, and may be an array here.
    rest = log_active_path_bound(1, INPUT_DIM, depth, mean * units, std * units, largest, variant=variant)
    return decades(weights) + decades_of_log(rest)


def against(factor: str, ends: tuple[float, float], *, log: bool = False) -> tuple[Curve, ...]:
    """A curve for each depth and variant."""
    return tuple(
        sampled_curve(
            name(f"k = {depth}", variant),
            lambda x, depth=depth, variant=variant: bound(variant, depth=depth, **{factor: x}),
            ends,
            log=log,
            style=style,
            colour=f"k = {depth}",
        )
        for depth in DEPTHS
        for variant, style in VARIANTS.items()
    )


def against_depth() -> tuple[Curve, ...]:
    """A curve for each of three largest weights and each variant, in the other panels' colours."""
    curves = []
    for variant, style in VARIANTS.items():
        at_depths = [
            sampled_curve(
                "",
                lambda x, depth=depth, variant=variant: bound(variant, depth=depth, largest=x),
                (0.001, 0.1),
                log=True,
                num=3,
            )
            for depth in DEPTHS_ALONG
        ]
        curves += [
            Curve(
                name(f"$w_{{max}}$ = {largest:g}", variant),
                DEPTHS_ALONG,
                [float(curve.y[index]) for curve in at_depths],
                style=style,
                colour=f"k = {DEPTHS[index]}",
            )
            for index, largest in enumerate(at_depths[0].x)
        ]
    return tuple(curves)


def name(what: str, variant: str) -> str:
    """What a legend says of a curve."""
    return what + (", eq. 2" if variant == "as_printed" else "")


def draw(table: Table, out: Path) -> None:
    """Five panels of curves, one of trained networks; what a doubling does; the bounds in numbers."""
    label = r"$\log_{10}$ of the bound"
    end = table.where(snapshot=None)
    panels = (
        CurvePanel(against("mean", (0.02, 1.0)), "(a) mean of T, 1000 units a layer", "mean of T / N", label),
        CurvePanel(against("std", (0.0, 0.5)), "(b) deviation of T", "standard deviation of T / N", label),
        CurvePanel(
            against("largest", (1e-4, 1.0), log=True), "(c) largest weight", "$w_{max}$", label, log_x=True
        ),
        CurvePanel(against("width", (50, 2000)), "(d) width", "units a layer", label),
        CurvePanel(against_depth(), "(e) depth", "layers of weights  k", label),
        trained(end),
    )
    save_curves(panels, out, "fig2")
    save_rows(
        [row for cell in end.cells() for row in network_rows(end.where(cell=cell))], out, "fig2-summary"
    )
    save_rows([doubled(factor) for factor in DEFAULTS], out, "fig2-factors")


def trained(end: Table) -> CurvePanel:
    """The bounds in each trained network against the exact value."""
    rows = [row for row in end.rows() if not row["diverged"]]
    exact = [float(decades(row["tangent_sensitivity_test"])) for row in rows]
    curves = [
        Curve(title, exact, [float(decades_of_log(row[column])) for row in rows], style="points")
        for column, title in zip(BOUNDS, BOUND_TITLES, strict=True)
    ]
    ends = (min(exact), max(exact))
    curves.append(Curve("equality", ends, ends, style="dashed", colour="ink"))
    return CurvePanel(
        tuple(curves),
        "(f) trained networks, 10 outputs",
        r"$\log_{10}$ of the exact mean $|Sens|_F^2$",
        r"$\log_{10}$ of the bound",
    )


def network_rows(rows: Table) -> list[dict]:
    """Each seed's numbers: what the bounds take, and decades between them and the exact value."""
    found = []
    for row in rows.rows():
        if row["diverged"]:
            continue
        exact = float(decades(row["tangent_sensitivity_test"]))
        found.append(
            {column: row[column] for column in NETWORK_COLUMNS}
            | {"exact": row["tangent_sensitivity_test"]}
            | {
                f"decades above, {title}": float(decades_of_log(row[column])) - exact
                for column, title in zip(BOUNDS, BOUND_TITLES, strict=True)
            }
        )
    return found


def doubled(factor: str) -> dict:
    """What a doubling of one factor does to the bound, from C's values and k = 5."""
    twice = DEFAULTS[factor] * 2
    row = {"factor": factor, "from": DEFAULTS[factor], "to": twice}
    for variant in VARIANTS:
        change = float(bound(variant, **{factor: twice})) - float(bound(variant))
        row[f"decades, {variant}"] = change
    return row


EXPERIMENT = cli.Experiment("tangent/fig2", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
