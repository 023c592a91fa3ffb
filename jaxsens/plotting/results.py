"""What an experiment writes: its figure, and the numbers that the figure shows, for people and programs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from jaxsens import stats
from jaxsens.plotting.equations import Line, Prediction, equation_7, equation_9, equation_14
from jaxsens.plotting.panel import Panel
from jaxsens.plotting.panels import figure_of_panels
from jaxsens.plotting.points import figure_one_points, select
from jaxsens.plotting.style import save_figure
from jaxsens.table import Table, TableError, Value, write_atomically, write_csv

__all__ = [
    "column_median",
    "correlation_rows",
    "equation_7_line",
    "equation_9_line",
    "equation_14_line",
    "rank_correlation_rows",
    "save_panels",
    "save_rows",
]


def save_panels(panels: Sequence[Panel], out: Path, stem: str, *, columns: int = 2) -> None:
    """Writes the figure (`stem.png`, `stem.pdf`) and its numbers (`stem-summary.csv`, `stem-summary.md`).

    The summary has a row per panel: how many cells it shows and how many members it left out, the
    correlations of their coordinates (see `correlation_rows`), the range of the cells' training losses, and
    for each of its lines the geometric mean of y over the line's y, with the least and the greatest.
    """
    save_figure(figure_of_panels(panels, columns=columns), out, stem)
    save_rows([panel_row(panel) for panel in panels], out, f"{stem}-summary")


def save_rows(rows: Sequence[Mapping[str, Value]], out: Path, stem: str) -> None:
    """Writes rows as `stem.csv`, every digit, and as a Markdown table `stem.md`, three digits."""
    write_csv(Table.from_rows(rows), out / f"{stem}.csv")
    text = tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g", missingval="")
    write_atomically(out / f"{stem}.md", (text + "\n").encode())


def panel_row(panel: Panel) -> dict[str, Value]:
    """The numbers of one panel."""
    points = figure_one_points(panel.table, x=panel.x, y=panel.y, log_x=panel.log_x, log_y=panel.log_y)
    if panel.limits is not None:
        points = select(points, panel.limits)
    shown = panel.table.where(cell=points.cells)
    row: dict[str, Value] = {"panel": panel.title, "x": panel.x, "y": panel.y}
    row |= correlation_rows(shown, x=panel.x, y=panel.y) | {"left out": points.num_left_out}
    row |= {f"train loss, {name}": value for name, value in ends(shown, "train_loss").items()}
    for line in panel.lines:
        ratios = points.y / line.function(points.x)
        row |= {
            f"y / {line.label}": geometric_mean(ratios),
            f"y / {line.label}, least": float(ratios.min()) if len(ratios) else None,
            f"y / {line.label}, greatest": float(ratios.max()) if len(ratios) else None,
        }
    return row


def correlation_rows(table: Table, *, x: str, y: str) -> dict[str, Value]:
    """The correlations between two columns over cells, each with its 95 % bootstrap interval over the cells.

    "rho of logs" is Pearson's of the logarithms of geometric means over members, as the figures show them;
    "rho" and "Spearman" are of arithmetic means. `members` are those behind the logarithms and `left out`
    those that diverged or have no positive value; correlations of fewer than 3 cells are None.
    """
    logs = figure_one_points(table, x=x, y=y)
    plain = figure_one_points(table, x=x, y=y, log_x=False, log_y=False)
    return {
        "cells": len(logs.x),
        "members": int(logs.num_members.sum()),
        "left out": logs.num_left_out,
        **with_interval("rho of logs", stats.pearson, np.log(logs.x), np.log(logs.y)),
        **with_interval("rho", stats.pearson, plain.x, plain.y),
        **with_interval("Spearman", stats.spearman, plain.x, plain.y),
    }


def rank_correlation_rows(table: Table, *, x: str, y: str) -> dict[str, Value]:
    """Kendall's tau and Spearman's rho between two columns over cells, with 95 % bootstrap intervals.

    Of arithmetic means over members; both see the order alone, so x may be a logarithm. Correlations of fewer
    than 3 cells, or of a constant, are None.
    """
    points = figure_one_points(table, x=x, y=y, log_x=False, log_y=False)
    return {
        "cells": len(points.x),
        "members": int(points.num_members.sum()),
        "left out": points.num_left_out,
        **with_interval("tau", stats.kendall, points.x, points.y),
        **with_interval("Spearman", stats.spearman, points.x, points.y),
    }


def with_interval(
    name: str, measure: Callable[..., stats.Correlation], x: np.ndarray, y: np.ndarray
) -> dict[str, Value]:
    """A correlation and the ends of its interval, None where it is not defined."""
    defined = len(x) >= 3 and np.ptp(x) > 0 and np.ptp(y) > 0
    found = measure(x, y) if defined else None
    return {
        name: found.value if found else None,
        f"{name}, low": found.low if found else None,
        f"{name}, high": found.high if found else None,
    }


def ends(table: Table, column: str) -> dict[str, float | None]:
    """The least and the greatest of the cells' medians; of the training loss, whether networks fit."""
    medians = [column_median(table.where(cell=cell), column) for cell in table.cells()]
    known = [median for median in medians if median is not None]
    return {"least": min(known, default=None), "greatest": max(known, default=None)}


def column_median(table: Table, column: str) -> float | None:
    """The median over all members that have a value; None where there is none."""
    values = [row[column] for row in table.rows() if row.get(column) is not None]
    return float(np.median(np.array(values))) if values else None


def geometric_mean(values: np.ndarray) -> float | None:
    """Of positive values; None of none, and where one is not positive."""
    return float(np.exp(np.mean(np.log(values)))) if len(values) and values.min() > 0 else None


def equation_9_line(table: Table) -> tuple[Line, ...]:
    """Equation 9 with the K, sigma_x^2 and noise of the table's rows; none for an empty table."""
    return lines_of(table, "equation (9)", equation_9)


def equation_7_line(table: Table) -> tuple[Line, ...]:
    """Equation 7, as `equation_9_line`."""
    return lines_of(table, "equation (7)", equation_7)


def equation_14_line(table: Table) -> tuple[Line, ...]:
    """Equation 14, as `equation_9_line`."""
    return lines_of(table, "equation (14)", equation_14)


def lines_of(
    table: Table, label: str, equation: Callable[[np.ndarray, Prediction], np.ndarray]
) -> tuple[Line, ...]:
    """The line of one equation.

    sigma_x^2 is that of the test inputs, of which subsets or resized copies may differ by 10 %: their mean.

    Raises:
        TableError: rows of several K or noises, or of inputs that differ by more.
    """
    if not len(table):
        return ()
    outputs, moments, noises = (
        table.column(name) for name in ("num_outputs", "input_second_moment", "noise_std")
    )
    if len(set(outputs)) > 1 or len(set(noises)) > 1 or moments.max() > 1.1 * moments.min():
        raise TableError(
            "got rows of several numbers of outputs, noises or input scales; expected one of each for a line;"
            " choose rows with table.where(...)"
        )
    prediction = Prediction(int(outputs[0]), float(moments.mean()), float(noises[0]))
    return (Line(label, lambda sensitivity: equation(sensitivity, prediction)),)
