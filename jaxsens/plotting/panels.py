"""Figures of several panels, which share the look of their families."""

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxsens.plotting.axes import (
    axis_label,
    draw_families,
    draw_line,
    left_out_note,
    reach,
    set_axes,
)
from jaxsens.plotting.labels import draw_frame, draw_marks, label_ends, taken_boxes
from jaxsens.plotting.layout import (
    AXES_HEIGHT,
    LEGEND_WIDTH,
    PANEL_WIDTH,
    RIGHT,
    Block,
    arrange,
    broken,
    left_of_axes,
    make_legend,
    make_text,
)
from jaxsens.plotting.panel import Panel, PanelPoints, correlation_line, points_of
from jaxsens.plotting.points import CellPoints, Limits
from jaxsens.plotting.style import GREY, INK, RC
from jaxsens.table import TableError

__all__ = ["figure_of_panels"]

TITLE_SIZE = 8.5
LABEL_SIZE = 8.0
TEXT_SIZE = 7.0
NOTE_SIZE = 6.0

# About what the axes get, before the width of the tick labels is known.
AXES_WIDTH = 2.7


def figure_of_panels(panels: Sequence[Panel], *, columns: int = 2, title: str | None = None) -> Figure:
    """Panels in rows, each as `loss_against_sensitivity` draws its one; two columns are 7 inches wide.

    A family has the same colour and marker in all panels. Above a panel stand its title and Pearson's
    correlation between its coordinates (their logarithms, on logarithmic axes), with its 95 % bootstrap
    interval over cells; below it the legend, unless one panel's legend would hold for all: then it stands
    once, below all. A panel that has no point yet says so.

    Args:
        panels: one or more, row by row.
        columns: panels in a row.
        title: above all panels; none if None.

    Raises:
        TableError: as `figure_one_points`, a line of another shape, no panel, or no point in any panel.
    """
    if not panels or columns < 1:
        raise TableError(
            f"got {len(panels)} panels in {columns} columns; expected one or more of each; pass panels"
        )
    found = [points_of(panel) for panel in panels]
    if not any(points.shown.cells for points in found):
        raise TableError(
            "got no member that can be drawn in any panel; expected one or more;"
            " look into the tables for what diverged, or widen the limits"
        )
    families = tuple(dict.fromkeys(name for points in found for name in points.all.families))
    curves = tuple(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    # Matplotlib's settings are read while drawing; the context puts back whatever the caller had.
    with matplotlib.rc_context(dict(RC)):
        columns = min(columns, len(panels))
        figure = Figure(figsize=(PANEL_WIDTH * columns, 2 * AXES_HEIGHT))
        axes = [_set_panel(figure, *both) for both in zip(panels, found, strict=True)]
        handles = [
            _draw(one, panel, points.shown, families, curves)
            for one, panel, points in zip(axes, panels, found, strict=True)
        ]
        left = left_of_axes(axes)
        shared = _shared(handles)
        blocks = [
            _write(figure, *each, PANEL_WIDTH - left - RIGHT, with_legend=not shared)
            for each in zip(axes, panels, found, handles, strict=True)
        ]
        across = PANEL_WIDTH * columns - left - RIGHT
        arrange(
            figure,
            blocks,
            columns=columns,
            left=left,
            title=make_text(figure, title, size=9.5, width=across, color=INK) if title else None,
            legend=make_legend(figure, shared, width=across) if shared else None,
        )
        # Only now are the axes where they stay, and the places on the page beside the points known.
        for one, panel, points in zip(axes, panels, found, strict=True):
            _label(one, panel, points.shown, families)
    return figure


def _set_panel(figure: Figure, panel: Panel, points: PanelPoints) -> Axes:
    """The axes of a panel, at a preliminary place, with scales, ticks and labels."""
    axes = figure.add_axes((0.3, 0.3, 0.4, 0.4))
    limits = panel.limits
    if limits is None and points.shown.cells:
        limits = _around(reach(points.shown, panel.lines), panel.frame)
    if limits is None:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[["top", "right"]].set_visible(False)
    else:
        set_axes(axes, points.shown, limits, room=AXES_WIDTH)
    x_label, y_label = panel.x_label or axis_label(panel.x), panel.y_label or axis_label(panel.y)
    axes.set_xlabel(broken(figure, x_label, size=LABEL_SIZE, width=AXES_WIDTH), labelpad=2)
    axes.set_ylabel(broken(figure, y_label, size=LABEL_SIZE, width=AXES_HEIGHT), labelpad=2)
    return axes


def _around(limits: Limits, frame: Limits | None) -> Limits:
    """The limits, widened to hold the frame."""
    if frame is None:
        return limits
    (x_low, x_high, y_low, y_high), (left, right, bottom, top) = limits, frame
    return min(x_low, left), max(x_high, right), min(y_low, bottom), max(y_high, top)


def _draw(
    axes: Axes, panel: Panel, points: CellPoints, families: Sequence[str], curves: Sequence[str]
) -> list[Line2D]:
    """Draws what has a place in data coordinates; the handles of the legend."""
    if not points.cells:
        return []
    handles = draw_families(axes, points, families)
    handles += [draw_line(axes, line, points, index=curves.index(line.label)) for line in panel.lines]
    if panel.frame is not None:
        draw_frame(axes, panel.frame)
    return handles


def _shared(handles: Sequence[Sequence[Line2D]]) -> list[Line2D]:
    """The one legend that holds for several panels; empty if there is none."""
    longest = max(handles, key=len)
    known = {handle.get_label() for handle in longest}
    same = all(handle.get_label() in known for panel in handles for handle in panel)
    return list(longest) if same and len(handles) > 1 else []


def _write(
    figure: Figure,
    axes: Axes,
    panel: Panel,
    points: PanelPoints,
    handles: Sequence[Line2D],
    width: float,
    *,
    with_legend: bool,
) -> Block:
    """The texts above and below a panel."""
    line = correlation_line(points, panel)
    above, below = [make_text(figure, line, size=TEXT_SIZE, width=width, color=INK)], []
    if panel.title:
        above.append(make_text(figure, panel.title, size=TITLE_SIZE, width=width, color=INK))
    if with_legend and handles:
        below.append(make_legend(figure, handles, width=LEGEND_WIDTH))
    note = left_out_note(points.all)
    if note:
        below.append(make_text(figure, note, size=NOTE_SIZE, width=width, color=GREY))
    return Block(axes, tuple(above), tuple(below))


def _label(axes: Axes, panel: Panel, points: CellPoints, families: Sequence[str]) -> None:
    """What stands beside points, or in place of them."""
    if not points.cells:
        note = "no finished cell" if panel.limits is None else "no finished cell inside"
        axes.text(0.5, 0.5, note, transform=axes.transAxes, ha="center", va="center", color=GREY)
        return
    taken = taken_boxes(axes, points, panel.lines, panel.frame)
    taken += draw_marks(axes, points, panel.marks, taken)
    label_ends(axes, points, families, taken)
