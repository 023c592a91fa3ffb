"""A forest plot: values with their intervals, one below the other, against a line of no difference."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxsens.plotting.layout import below_axes, broken, make_text
from jaxsens.plotting.style import GREY, INK, RC, look, save_figure, set_linear_axis
from jaxsens.table import TableError

__all__ = ["IntervalPanel", "IntervalRow", "figure_of_intervals", "save_intervals"]

# Inches, all but the size of letters: the width of a page's text.
WIDTH, EDGE, GAP, LABELS_WIDTH = 7.0, 0.08, 0.12, 2.3
ROW_HEIGHT, LINE_HEIGHT, MARGIN, PANEL_GAP, TITLE_GAP = 0.2, 0.12, 0.06, 0.16, 0.05
TITLE_SIZE, TEXT_SIZE, LABEL_SIZE = 8.5, 7.0, 8.0
BAND = "#f4f4f4"
MINUS = str.maketrans("-", "\N{MINUS SIGN}")


class IntervalRow(NamedTuple):
    """A value with the ends of its interval (NaN for none) and, where given, the number it rests on."""

    label: str
    value: float | int
    low: float | int
    high: float | int
    num: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class IntervalPanel:
    """Rows from top to bottom about one line.

    Attributes:
        rows: each an `IntervalRow`, or a tuple of its fields.
        reference: where the vertical line stands: 0 for differences, 1/2 for shares and areas; None for none.
        limits: the ends of the axis; by default those of the intervals and the line. What lies beyond them is
            cut off with an arrow, so that one wide interval does not press the rest together.
    """

    rows: Sequence[Any]
    title: str = ""
    x_label: str = ""
    reference: float | int | None = 0.0
    limits: tuple[float | int, float | int] | None = None

    def __post_init__(self) -> None:
        rows = tuple(IntervalRow(*row) for row in self.rows)
        object.__setattr__(self, "rows", rows)
        if not rows:
            raise TableError(
                f"got no rows in the panel {self.title!r}; expected one or more; leave the panel out"
            )
        for row in rows:
            ends = np.isfinite([row.low, row.high])
            if not np.isfinite(row.value) or (not ends.all() and not np.isnan([row.low, row.high]).all()):
                raise TableError(
                    f"got {row.value} from {row.low} to {row.high} in the row {row.label!r}; expected finite"
                    " numbers, or NaN for both ends; leave out the row"
                )
            if row.low > row.high:
                raise TableError(
                    f"got an interval from {row.low} to {row.high} in the row {row.label!r}; expected the"
                    " lower end first; swap them"
                )
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise TableError(
                f"got limits {self.limits} in the panel {self.title!r}; expected the lower first; swap them"
            )


def figure_of_intervals(panels: Sequence[IntervalPanel]) -> Figure:
    """Panels one below the other, 7 inches wide: labels, intervals, the same as text, and the number.

    A filled marker is an interval that leaves out the line; a hollow one holds it, or there is none.

    Raises:
        TableError: no panels.
    """
    if not panels:
        raise TableError("got no panels; expected one or more; pass panels")
    with matplotlib.rc_context(dict(RC)):
        figure = Figure(figsize=(WIDTH, 4.0))
        labels = [
            [broken(figure, row.label, size=TEXT_SIZE, width=LABELS_WIDTH) for row in panel.rows]
            for panel in panels
        ]
        texts = [interval_texts(panel.rows) for panel in panels]
        numbers = [["" if row.num is None else f"n = {row.num:,}" for row in panel.rows] for panel in panels]
        left = EDGE + _widest(figure, labels) + GAP
        text_width, number_width = _widest(figure, texts), _widest(figure, numbers)
        counted = any(any(column) for column in numbers)
        right = EDGE + text_width + GAP + (number_width + GAP if counted else 0)
        axes = [
            _draw(figure, panel, names, WIDTH - left - right)
            for panel, names in zip(panels, labels, strict=True)
        ]
        titles = [
            make_text(figure, panel.title, size=TITLE_SIZE, width=WIDTH - 2 * EDGE, color=INK)
            if panel.title
            else None
            for panel in panels
        ]
        heights = [_edges(names)[-1] + 2 * MARGIN for names in labels]
        above = [TITLE_GAP + (t.get_window_extent().height / figure.dpi if t else 0) for t in titles]
        below = [below_axes(one) for one in axes]
        height = sum(heights) + sum(above) + sum(below) + PANEL_GAP * (len(panels) - 1) + 2 * EDGE
        figure.set_size_inches(WIDTH, height)
        top = height - EDGE
        for index, one in enumerate(axes):
            bottom = top - above[index] - heights[index]
            if (title := titles[index]) is not None:
                title.set_position((EDGE, bottom + heights[index] + TITLE_GAP))
            one.set_position(
                (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, heights[index] / height)
            )
            places = ((text_width + GAP, texts[index]), (right - EDGE, numbers[index]))
            for offset, column in places[: 1 + counted]:
                _write(one, WIDTH - left - right, offset, column, labels[index])
            top = bottom - below[index] - PANEL_GAP
    return figure


def save_intervals(panels: Sequence[IntervalPanel], out: Path, stem: str) -> None:
    """Writes the figure of `figure_of_intervals` as `stem.png` and `stem.pdf`."""
    save_figure(figure_of_intervals(panels), out, stem)


def interval_texts(rows: Sequence[IntervalRow]) -> list[str]:
    """Each row as "value [low, high]", all with as many digits as show the width of the usual interval."""
    widths = np.array([row.high - row.low for row in rows])
    widths = widths[widths > 0]
    size = np.median(widths) / 2 if len(widths) else max(abs(row.value) for row in rows) / 10 or 2.0
    digits = int(max(-np.floor(np.log10(size / 2)), 0))
    largest = max(np.nanmax(np.abs([row.value, row.low, row.high])) for row in rows)
    style = f".{digits}f" if digits <= 4 and largest < 1e5 else ".3g"

    def written(value: float | int) -> str:
        # Adding 0.0 makes a negative zero a positive one.
        return f"{round(value, digits) + 0.0 if style.endswith('f') else value:{style}}".translate(MINUS)

    return [
        written(row.value)
        if np.isnan(row.low)
        else f"{written(row.value)} [{written(row.low)}, {written(row.high)}]"
        for row in rows
    ]


def _widest(figure: Figure, columns: Sequence[Sequence[str]]) -> float:
    """Inches of the widest text."""
    probes = [figure.text(0, 0, text, fontsize=TEXT_SIZE) for column in columns for text in column]
    widest = max(probe.get_window_extent().width for probe in probes) / figure.dpi
    for probe in probes:
        probe.remove()
    return widest


def _edges(labels: Sequence[str]) -> np.ndarray:
    """Inches from the top of the first row to the top of each row, and to the end of the last."""
    lines = np.array([label.count("\n") for label in labels])
    return np.append(0.0, np.cumsum(ROW_HEIGHT + LINE_HEIGHT * lines))


def _middles(labels: Sequence[str]) -> np.ndarray:
    edges = _edges(labels)
    return (edges[1:] + edges[:-1]) / 2


def _draw(figure: Figure, panel: IntervalPanel, labels: Sequence[str], width: float) -> Axes:
    """One axes, its vertical axis inches from the top."""
    axes = figure.add_axes((0.3, 0.3, width / WIDTH, 0.4))
    low, high = panel.limits or _ends(panel)
    set_linear_axis(axes.xaxis, float(low), float(high), room=width)
    edges = _edges(labels)
    axes.set_ylim(edges[-1] + MARGIN, -MARGIN)
    for start, end in zip(edges[0:-1:2], edges[1::2], strict=False):
        axes.axhspan(start, end, color=BAND, linewidth=0, zorder=0)
    axes.set_axisbelow(True)
    axes.xaxis.grid(which="major", color="#e4e4e4", linewidth=0.5)
    if panel.reference is not None:
        axes.axvline(panel.reference, color=GREY, linewidth=0.8, dashes=(4, 2), zorder=1.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_yticks(_middles(labels), labels)
    axes.tick_params(axis="y", length=0, labelsize=TEXT_SIZE, pad=GAP * 72)
    for text in axes.get_yticklabels():
        text.set_linespacing(1.15)
    if panel.x_label:
        axes.set_xlabel(broken(figure, panel.x_label, size=LABEL_SIZE, width=width), labelpad=2)
    for place, row in zip(_middles(labels), panel.rows, strict=True):
        _draw_row(axes, row, place, panel.reference)
    return axes


def _draw_row(axes: Axes, row: IntervalRow, place: float, reference: float | int | None) -> None:
    apart = reference is None or row.low > reference or row.high < reference
    colour = look(0).colour if apart else GREY
    low, high = axes.get_xlim()
    if row.low <= high and row.high >= low:
        axes.plot(
            np.clip([row.low, row.high], low, high),
            [place, place],
            color=colour,
            linewidth=1.3,
            solid_capstyle="butt",
            zorder=2,
        )
    for marker, end, beyond in (("<", low, row.low < low), (">", high, row.high > high)):
        if beyond:
            axes.plot(end, place, marker, markersize=4, color=colour, clip_on=False, zorder=2.5)
    if low <= row.value <= high:
        axes.plot(
            row.value,
            place,
            "o",
            markersize=5.0,
            markerfacecolor=colour if apart else "white",
            markeredgecolor="white" if apart else colour,
            markeredgewidth=0.5 if apart else 1.0,
            clip_on=False,
            zorder=3,
        )


def _ends(panel: IntervalPanel) -> tuple[float, float]:
    values = np.array([[row.value, row.low, row.high] for row in panel.rows], dtype=np.float64).ravel()
    values = np.append(values[np.isfinite(values)], [] if panel.reference is None else [panel.reference])
    margin = 0.05 * np.ptp(values) or 0.05 * abs(values[0]) or 1.0
    return values.min() - margin, values.max() + margin


def _write(axes: Axes, width: float, offset: float, column: Sequence[str], labels: Sequence[str]) -> None:
    """A column of texts that end `offset` inches to the right of the axes."""
    for place, text in zip(_middles(labels), column, strict=True):
        axes.text(
            1 + offset / width,
            place,
            text,
            transform=axes.get_yaxis_transform(),
            fontsize=TEXT_SIZE,
            color=INK,
            ha="right",
            va="center_baseline",
        )
