"""D's pictures: norms over the margin along a quantity, and expected sharpness against KL."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxsens import stats
from jaxsens.plotting.curves import Curve, CurvePanel, decades, decades_of_log, row_curve
from jaxsens.plotting.points import relabel
from jaxsens.table import Table, Value

__all__ = [
    "COMPLEXITIES",
    "NORMS",
    "bicriteria_panel",
    "flip_panel",
    "flip_rows",
    "growth_panel",
    "measured_alphas",
    "norm_panel",
    "norm_rows",
    "over_margin",
    "with_complexity",
]

NORMS: Mapping[str, str] = MappingProxyType(
    {
        "l2": r"$\ell_2$ norm",
        "path1": r"$\ell_1$-path norm",
        "path2": r"$\ell_2$-path norm",
        "spectral": "spectral norm",
    }
)
"""D's four, by their column: log10 of the squared norm over the squared margin after `with_complexity`."""


COMPLEXITIES: Mapping[str, str] = MappingProxyType(
    {**NORMS, "sharpness_decades": "sharpness", "kl": "KL at a given expected sharpness"}
)
"""All that D's Figures 3 and 4 compare, in decades."""


def over_margin(row: Mapping[str, Any], column: str) -> float | None:
    """log10(norm^2 / margin^2) from the natural logarithms of a row; None where there is no margin."""
    if row.get(column) is None or row.get("log_margin") is None:
        return None
    return float(decades_of_log(row[column] - 2 * row["log_margin"]))


def with_complexity(table: Table) -> Table:
    """The table with the columns that D's figures show, None where a row has none.

    An entry of `NORMS` over the margin, in decades, as plotted (`l2`) and with its capacity's factors
    (`l2_capacity`); the `sharpness_decades`; `kl`, the decades of the KL at the expected sharpness that was
    asked for; `train_error` and `test_error`.
    """
    added: dict[str, Callable[[dict], Value]] = {}
    for name in NORMS:
        added[name] = lambda row, name=name: over_margin(row, f"log_{name}_plotted")
        added[f"{name}_capacity"] = lambda row, name=name: over_margin(row, f"log_{name}_capacity")
    added["sharpness_decades"] = lambda row: _known(decades, row.get("sharpness"))
    added["kl"] = lambda row: _known(decades_of_log, row.get("log_kl_at_sharpness"))
    for split in ("train", "test"):
        added[f"{split}_error"] = lambda row, split=split: _known(
            lambda accuracy: 1 - accuracy, row.get(f"{split}_accuracy")
        )
    return relabel(table, **added)


def measured_alphas(table: Table) -> tuple[float, ...]:
    """The spreads at which expected sharpness was measured, rising."""
    start = "expected_sharpness_at_"
    return tuple(sorted(float(name[len(start) :]) for name in table.columns if name.startswith(start)))


def norm_panel(
    tables: Mapping[str, Table],
    name: str,
    *,
    x: str,
    x_label: str,
    title: str,
    y_label: str = r"$\log_{10}$ norm$^2$ / margin$^2$",
    log_x: bool = False,
) -> CurvePanel:
    """One measure along a column, a curve per labelled table: mean, least and greatest member."""
    single = len({place for table in tables.values() for place in table.column(x).tolist()}) < 2
    style = "points" if single else "line"
    curves = tuple(row_curve(table, name, label, x=x, style=style) for label, table in tables.items())
    return CurvePanel(curves, title, x_label, y_label, log_x=log_x)


def growth_panel(table: Table, *, x: str, x_label: str, title: str, log_x: bool = False) -> CurvePanel | None:
    """`COMPLEXITIES` along a column, in decades above the same seed's at its least value (D Figures 3 and 4).

    None where no measure has two values to compare.
    """
    least = min(table.column(x).tolist())
    start = {row["seed"]: row for row in table.where(**{x: least}).rows()}

    def grown(row: dict, name: str) -> float | None:
        before = start.get(row["seed"], {}).get(name)
        return None if before is None or row[name] is None else row[name] - before

    growth = relabel(table, **{name: lambda row, name=name: grown(row, name) for name in COMPLEXITIES})
    known = [name for name in COMPLEXITIES if any(row[name] is not None for row in growth.rows())]
    curves = tuple(row_curve(growth, name, COMPLEXITIES[name], x=x) for name in known)
    label = r"$\log_{10}$ of the ratio to the first"
    return CurvePanel(curves, title, x_label, label, log_x=log_x) if curves else None


def bicriteria_panel(tables: Mapping[str, Table], *, title: str) -> CurvePanel:
    """Expected sharpness against KL (D Figure 2, middle and right): a curve per table, a point per alpha.

    Means over members, of log10 for the KL; bands are the least and the greatest sharpness.
    """
    curves = []
    for label, table in tables.items():
        found = [_at(table, alpha) for alpha in measured_alphas(table)]
        kls, sharp = ([pair[i] for pair in found] for i in (0, 1))
        kept = [index for index, values in enumerate(sharp) if len(values) and np.mean(values) > 0]
        curves.append(
            Curve(
                label,
                [10 ** float(np.mean(np.log10(kls[index]))) for index in kept],
                [float(np.mean(sharp[index])) for index in kept],
                [lowest_positive(sharp[index]) for index in kept],
                [float(np.max(sharp[index])) for index in kept],
            )
        )
    return CurvePanel(tuple(curves), title, "KL divergence", "expected sharpness", log_x=True, log_y=True)


def lowest_positive(values: np.ndarray) -> float:
    """The least of the positive ones: a band on a logarithmic axis ends there."""
    return float(values[values > 0].min())


def _at(table: Table, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """KL and expected sharpness at one alpha of the members that have both."""
    columns = (f"kl_at_{alpha:g}", f"expected_sharpness_at_{alpha:g}")
    pairs = [tuple(row[column] for column in columns) for row in table.rows() if not row["diverged"]]
    known = [pair for pair in pairs if None not in pair]
    kl, sharpness = (np.array([pair[index] for pair in known], dtype=np.float64) for index in (0, 1))
    return kl, sharpness


def flip_panel(table: Table, stage: str, *, title: str, largest: float | None = None) -> CurvePanel:
    """Condition C2: shares of units within delta of their kink, of all layers and of the worst (D Figure 7).

    Means over members; `stage` is "before" or "after" training, and deltas above `largest` are left out.
    """
    deltas = [delta for delta in measured_deltas(table, stage) if largest is None or delta <= largest]
    curves = []
    for name, label in (("mean", "mean over layers"), ("max", "largest layer")):
        members = [
            [row[f"flips_{name}_at_{delta:g}_{stage}"] for delta in deltas]
            for row in table.rows()
            if not row["diverged"]
        ]
        shares = np.array(members, dtype=np.float64)
        curves.append(Curve(label, deltas, shares.mean(0), shares.min(0), shares.max(0)))
    return CurvePanel(tuple(curves), title, r"$\delta$", "share of hidden units")


def flip_rows(table: Table, stages: Mapping[str, str]) -> list[dict[str, Value]]:
    """The shares behind `flip_panel` and their ratio to delta, which C_2 has to exceed, a row per delta."""
    rows = []
    for stage, label in stages.items():
        for delta in measured_deltas(table, stage):
            known = [row for row in table.rows() if not row["diverged"]]
            mean, most = (
                float(np.mean(np.array([row[f"flips_{name}_at_{delta:g}_{stage}"] for row in known])))
                for name in ("mean", "max")
            )
            rows.append(
                {"weights": label, "delta": delta, "members": len(known), "mean share": mean}
                | {"largest layer's": most, "largest layer's / delta": most / delta}
            )
    return rows


def measured_deltas(table: Table, stage: str) -> list[float]:
    """The deltas of a table's columns, rising."""
    start, end = "flips_mean_at_", f"_{stage}"
    found = [n[len(start) : -len(end)] for n in table.columns if n.startswith(start) and n.endswith(end)]
    return sorted(map(float, found))


def norm_rows(tables: Mapping[str, Table], *, by: str, columns: Mapping[str, str]) -> list[dict[str, Value]]:
    """Means of the columns at each value of `by`, with 95 % intervals over members.

    Members differ in their initial weights and the order of their batches, not in their data.
    """
    rows = []
    for label, table in tables.items():
        for place in sorted(set(table.column(by).tolist())):
            for column, title in columns.items():
                values = [
                    row[column] for row in table.where(**{by: place}).rows() if row.get(column) is not None
                ]
                found = stats.mean_interval(values) if values else None
                rows.append(
                    {"networks": label, by: place, "measure": title, "members": len(values)}
                    | {
                        name: _number(getattr(found, field)) if found else None
                        for name, field in (("mean", "value"), ("low", "low"), ("high", "high"))
                    }
                )
    return rows


def _known(function: Callable[[float], float], value: float | None) -> float | None:
    """None of None, and where the function has no finite value."""
    return None if value is None else _number(float(function(value)))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
