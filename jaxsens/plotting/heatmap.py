"""A table of coefficients from -1 to 1 as colours with their numbers."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jaxsens.plotting.style import INK, RC, save_figure
from jaxsens.table import TableError

__all__ = ["figure_of_heatmap", "save_heatmap"]

ROW_HEIGHT, COLUMN_WIDTH, LABELS_WIDTH, LABELS_HEIGHT = 0.2, 0.56, 2.6, 1.25


def figure_of_heatmap(
    values: Sequence[Sequence[float | None]], *, rows: Sequence[str], columns: Sequence[str], title: str = ""
) -> Figure:
    """A cell per number, orange where positive, violet where negative, empty where there is none.

    Raises:
        TableError: no cells, numbers outside [-1, 1], or other than one number per row and column.
    """
    array = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=np.float64)
    if array.shape != (len(rows), len(columns)) or not array.size or np.nanmax(np.abs(array), initial=0) > 1:
        raise TableError(
            f"got values of shape {array.shape} for {len(rows)} rows and {len(columns)} columns; expected one"
            " coefficient from -1 to 1 for each; pass None where there is none"
        )
    width = LABELS_WIDTH + COLUMN_WIDTH * len(columns) + 0.5  # room for the last rotated label
    height = LABELS_HEIGHT + ROW_HEIGHT * len(rows) + 0.3
    with matplotlib.rc_context(dict(RC)):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes(
            (
                LABELS_WIDTH / width,
                0.1 / height,
                COLUMN_WIDTH * len(columns) / width,
                ROW_HEIGHT * len(rows) / height,
            )
        )
        axes.imshow(np.ma.masked_invalid(array), cmap="PuOr_r", vmin=-1.15, vmax=1.15, aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="left", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=7)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for (row, column), value in np.ndenumerate(array):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.75 else INK
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
        figure.text(0.1 / width, 1 - 0.12 / height, title, va="top", ha="left", fontsize=8.5, color=INK)
    return figure


def save_heatmap(
    values: Sequence[Sequence[float | None]],
    out: Path,
    stem: str,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
) -> None:
    """Writes the figure as `stem.png` and `stem.pdf`."""
    save_figure(figure_of_heatmap(values, rows=rows, columns=columns, title=title), out, stem)
