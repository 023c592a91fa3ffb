"""E's comparisons out of a table: which networks count, which are pairs, what their difference is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsens import stats
from jaxsens.plotting.intervals import IntervalRow
from jaxsens.table import Table, TableError, text_to_numbers

__all__ = [
    "SENSITIVITIES",
    "correlation_interval",
    "fitted_networks",
    "matched",
    "mean_curve",
    "paired_interval",
    "settings_of",
    "value_interval",
]

SENSITIVITIES: Mapping[str, str] = {
    "jacobian_norm_after_softmax": "Jacobian norm of the softmax",
    "jacobian_norm_before_softmax": "Jacobian norm of the logits",
    "transitions_test": "transitions per translation loop",
    "linearized_sensitivity_after": "S, small-noise limit",
}
"""What may tell the generalisation gap, all on test images and without labels."""

Row = dict[str, Any]


def fitted_networks(table: Table) -> list[Row]:
    """The rows of networks with 100% training accuracy, which alone E compares, with what they differ in.

    Adds `gap`, training minus test accuracy; `kind`, "true", "random" or "augmented"; `shape`; `way`, the
    optimiser with its batch size.
    """
    return [settings_of(row) for row in table.rows() if not row["diverged"] and row["train_accuracy"] == 1]


def settings_of(row: Row) -> Row:
    """The row with `gap`, `kind`, `shape` and `way`."""
    batch = "full" if row["batch_size"] is None else row["batch_size"]
    return row | {
        "gap": row["train_accuracy"] - row["test_accuracy"],
        "kind": "random" if row["label_noise"] else "augmented" if row["augment"] else "true",
        "shape": f"{row['hidden_layers']}x{row['width']}",
        "way": f"{row['optimizer']}-{batch}",
    }


def correlation_interval(
    rows: Sequence[Row], x: str, y: str, label: str, *, clusters: Sequence[str]
) -> IntervalRow | None:
    """Kendall's tau of two columns, its interval over whole clusters; None where it is not defined.

    `clusters` are the columns that rows which depend on each other share.
    """
    known = [row for row in rows if row.get(x) is not None and row.get(y) is not None]
    names = [str(tuple(row[name] for name in clusters)) for row in known]
    values = [[row[name] for row in known] for name in (x, y)]
    if len(set(names)) < 3 or min((len(set(column)) for column in values), default=0) < 2:
        return None
    found = stats.kendall(*values, clusters=names)
    return IntervalRow(label, found.value, found.low, found.high, len(known))


def matched(
    rows: Sequence[Row], first: Mapping[str, Any], second: Mapping[str, Any], *, by: Sequence[str]
) -> list[tuple[Row, Row]]:
    """Pairs of networks, one with the values of `first`, one with those of `second`, equal in columns `by`.

    Raises:
        TableError: two networks of one kind that are equal in all of these.
    """
    sides = []
    for wanted in (first, second):
        found: dict[tuple, Row] = {}
        for row in rows:
            if all(row[name] == value for name, value in wanted.items()):
                key = tuple(row[name] for name in by)
                if key in found:
                    equal = dict(zip(by, key, strict=True))
                    raise TableError(
                        f"got two networks with {dict(wanted)} and {equal}; expected one;"
                        " match by more columns"
                    )
                found[key] = row
        sides.append(found)
    return [(sides[0][key], sides[1][key]) for key in sides[0] if key in sides[1]]


def paired_interval(
    pairs: Sequence[tuple[Row, Row]],
    value: Callable[[Row], float | None],
    label: str,
    *,
    clusters: Sequence[str],
) -> IntervalRow | None:
    """The mean difference, second less first, with its interval over whole clusters of pairs.

    A cluster is of pairs whose first networks agree in the columns `clusters`. None for fewer than 3.
    """
    values = [(value(a), value(b), str(tuple(a[name] for name in clusters))) for a, b in pairs]
    known = [(a, b, name) for a, b, name in values if a is not None and b is not None]
    if len({name for _, _, name in known}) < 3:
        return None
    a, b, names = map(list, zip(*known, strict=True))
    found = stats.paired_difference(a, b, clusters=names)
    return IntervalRow(label, found.mean, found.low, found.high, found.num_pairs)


def value_interval(
    rows: Sequence[Row],
    value: Callable[[Row], float | None],
    label: str,
    *,
    shared: Callable[[Row], float | None] | None = None,
) -> IntervalRow | None:
    """The mean over networks with Student's interval; None where none has a value.

    `shared` gives a standard error that all networks have in common, such as that of their test images: 1.96
    times its mean joins the half-width in squares.
    """
    known = [(row, found) for row in rows if (found := value(row)) is not None]
    if not known:
        return None
    found = stats.mean_interval([found for _, found in known])
    if shared is None:
        return IntervalRow(label, found.value, found.low, found.high, len(known))
    half = np.hypot(found.high - found.value, 1.96 * np.mean(np.array([shared(row) for row, _ in known])))
    return IntervalRow(label, found.value, float(found.value - half), float(found.value + half), len(known))


def mean_curve(rows: Sequence[Row], column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Mean, least and greatest over networks of curves that `numbers_to_text` wrote; None without any."""
    curves = [text_to_numbers(row[column]) for row in rows if row.get(column) is not None]
    if not curves:
        return None
    stacked = np.stack(curves)
    return stacked.mean(axis=0), stacked.min(axis=0), stacked.max(axis=0)
