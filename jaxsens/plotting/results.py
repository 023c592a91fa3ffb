"""What an experiment writes: its figure, and the numbers that the figure shows, for people and programs."""

from collections.abc import Mapping, Sequence
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
    "correlation_rows",
    "equation_7_line",
    "equation_9_line",
    "equation_14_line",
    "save_panels",
    "save_rows",
]


def save_panels(panels: Sequence[Panel], out: Path, stem: str, *, columns: int = 2) -> None:
    """Writes the figure (`stem.png`, `stem.pdf`) and its numbers (`stem-summary.csv`, `stem-summary.md`).

    The summary has a row per panel: how many cells it shows, the correlations of their coordinates (see
    `correlation_rows`), and for each of its lines the geometric mean of y over the line's y, with the least
    and the greatest.
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
    row: dict[str, Value] = {"panel": panel.title, "x": panel.x, "y": panel.y}
    row |= correlations(points.x, points.y)
    for line in panel.lines:
        ratios = points.y / line.function(points.x)
        row |= {
            f"y / {line.label}": float(np.exp(np.mean(np.log(ratios)))) if len(ratios) else None,
            f"y / {line.label}, least": float(ratios.min()) if len(ratios) else None,
            f"y / {line.label}, greatest": float(ratios.max()) if len(ratios) else None,
        }
    return row


def correlation_rows(table: Table, *, x: str, y: str) -> dict[str, Value]:
    """The correlations of the cells' points in two columns, with 95 % bootstrap intervals over the cells."""
    points = figure_one_points(table, x=x, y=y)
    return correlations(points.x, points.y)


def correlations(x: np.ndarray, y: np.ndarray) -> dict[str, Value]:
    """Pearson's rho of logarithms and of values, and Spearman's; empty where there are fewer than 3 cells."""
    row: dict[str, Value] = {"cells": len(x)}
    measures = {
        "rho of logs": (stats.pearson, np.log),
        "rho": (stats.pearson, np.asarray),
        "Spearman": (stats.spearman, np.asarray),
    }
    for name, (measure, scale) in measures.items():
        found = None
        if len(x) >= 3 and np.ptp(x) > 0 and np.ptp(y) > 0:
            found = measure(scale(x), scale(y))
        row |= {
            name: None if found is None else found.value,
            f"{name}, low": None if found is None else found.low,
            f"{name}, high": None if found is None else found.high,
        }
    return row


def equation_9_line(table: Table) -> tuple[Line, ...]:
    """Equation 9 with the K, sigma_x^2 and noise of the table's rows; none for an empty table."""
    return lines_of(table, "equation (9)", equation_9)


def equation_7_line(table: Table) -> tuple[Line, ...]:
    """Equation 7, as `equation_9_line`."""
    return lines_of(table, "equation (7)", equation_7)


def equation_14_line(table: Table) -> tuple[Line, ...]:
    """Equation 14, as `equation_9_line`."""
    return lines_of(table, "equation (14)", equation_14)


def lines_of(table: Table, label: str, equation) -> tuple[Line, ...]:
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
