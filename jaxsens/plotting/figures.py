"""Loss against sensitivity in one panel: the paper's Figure 1, and the others of its kind."""

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxsens.plotting.axes import (
    axis_label,
    correlation,
    draw_families,
    draw_line,
    left_out_note,
    reach,
    set_axes,
)
from jaxsens.plotting.equations import Line, Prediction, equation_9
from jaxsens.plotting.labels import label_ends, taken_boxes
from jaxsens.plotting.points import CellPoints, figure_one_points
from jaxsens.plotting.style import GREY, RC
from jaxsens.table import Table, TableError

__all__ = ["loss_against_sensitivity"]

# Inches: a picture for the width of one wide column, its axes, and the column of text to their right.
SIZE = (6.4, 3.9)
FRAME = (0.105, 0.145, 0.585, 0.775)
TEXT_LEFT = FRAME[0] + FRAME[2] + 0.02


def loss_against_sensitivity(
    table: Table,
    *,
    title: str | None = None,
    paper_correlation: float | None = None,
    x: str = "sensitivity_after",
    y: str = "test_loss",
    prediction: Callable[[np.ndarray], np.ndarray] | Prediction | tuple | None = None,
) -> Figure:
    """Loss against sensitivity on logarithmic axes, a point per cell, a colour and marker per family.

    Points are geometric means over the members of a cell (see `figure_one_points`), whiskers reach from the
    least to the greatest member in both directions, and a band covers the same reach of x along a family in
    the order of its scale, the ends of which are written beside their points where there is room. The text
    gives Pearson's correlation between log x and log y of the cells, with its 95 % bootstrap interval.

    Args:
        table: see `figure_one_points`; one colour for all without a `family` column.
        title: above the axes; none if None.
        paper_correlation: the published coefficient, quoted below the measured one.
        x, y: names of columns.
        prediction: draws a dashed line: the numbers of equation 9, or a function from x to y, both (n,).

    Raises:
        TableError: as `figure_one_points`, or no cell that can be drawn.
    """
    points = figure_one_points(table, x=x, y=y)
    if not points.cells:
        raise TableError(
            f"got no member with {x} and {y}, finite and positive; expected one or more;"
            " look into the table for what diverged"
        )
    lines = _as_lines(prediction)
    families = tuple(dict.fromkeys(points.families))
    # Matplotlib's settings are read while drawing; the context puts back whatever the caller had.
    with matplotlib.rc_context(dict(RC)):
        figure = Figure(figsize=SIZE)
        axes = figure.add_axes(FRAME)
        set_axes(axes, points, reach(points, lines))
        axes.set_xlabel(axis_label(x))
        axes.set_ylabel(axis_label(y))
        if title:
            axes.set_title(title, fontsize=9, loc="left")
        handles = draw_families(axes, points, families)
        handles += [draw_line(axes, line, points) for line in lines]
        label_ends(axes, points, families, taken_boxes(axes, points, lines))
        _write_beside(figure, points, handles, paper_correlation)
        note = left_out_note(points)
        if note:
            figure.text(FRAME[0], 0.015, note, fontsize=6, color=GREY, va="bottom")
    return figure


def _as_lines(prediction: Any) -> tuple[Line, ...]:
    if prediction is None:
        return ()
    if not callable(prediction):
        numbers = Prediction(*prediction)
        return (Line("equation (9)", lambda sensitivity: equation_9(sensitivity, numbers)),)
    function: Any = prediction
    return (Line("predicted", function),)


def _write_beside(
    figure: Figure, points: CellPoints, handles: list[Line2D], paper_correlation: float | None
) -> None:
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(TEXT_LEFT, FRAME[1] + FRAME[3] + 0.02),
        # From 15 entries on the column would run into the text below it.
        fontsize=min(7.5, 110 / len(handles)),
        labelspacing=0.45,
        handletextpad=0.5,
        borderaxespad=0,
    )
    lines = _correlation_lines(points)
    if paper_correlation is not None:
        lines.append(f"paper: {paper_correlation:.2f}")
    figure.text(TEXT_LEFT + 0.012, FRAME[1], "\n".join(lines), fontsize=7.5, va="bottom", linespacing=1.45)


def _correlation_lines(points: CellPoints) -> list[str]:
    found = correlation(points)
    if isinstance(found, str):
        return [rf"$\rho$: {found}"]
    interval = f"95% interval [{found.low:.3f}, {found.high:.3f}]"
    return [rf"$\rho$ = {found.value:.3f}", interval, f"{found.num_points} cells"]
