"""Panels of many points in groups: a survey of thousands of networks or examples, a colour per group."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
from jaxsens.plotting.points import padded
from jaxsens.plotting.style import (
    GREY,
    INK,
    MARKERS,
    RC,
    WIDE_LABEL,
    look,
    save_figure,
    set_linear_axis,
    set_log_axis,
)
from jaxsens.table import TableError

__all__ = ["ScatterPanel", "figure_of_scatter", "save_scatter"]

Numbers: TypeAlias = Any
"""What NumPy makes an array of; the panel keeps the array."""

TITLE_SIZE, TEXT_SIZE, LABEL_SIZE = 8.5, 7.0, 8.0
AXES_WIDTH = 2.7
# All but black, which is that of letters. A second round of colours has its own marker.
NUM_COLOURS = 6


@dataclasses.dataclass(frozen=True, eq=False)
class ScatterPanel:
    """One axes of points; those of one group have one colour in all panels of a figure.

    Points that the axes cannot show (NaN, infinite, or not positive on a logarithmic axis) are left out, and
    `note`, which stands above the axes, goes on to say how many.

    Attributes:
        x, y: shape (n,).
        groups: shape (n,), the name of each point's group, as the legend says it.
    """

    x: Numbers
    y: Numbers
    groups: Numbers
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    note: str = ""
    log_x: bool = False
    log_y: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("x", np.float64), ("y", np.float64), ("groups", np.str_)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))
        shapes = [self.x.shape, self.y.shape, self.groups.shape]
        if self.x.ndim != 1 or len(set(shapes)) > 1:
            raise TableError(
                f"got shapes {shapes} of x, y and groups in the panel {self.title!r}; expected (n,) for all;"
                " pass one y and one group for each x"
            )

    @property
    def shown(self) -> np.ndarray:
        """Which points the axes can show, shape (n,)."""
        held = np.isfinite(self.x) & np.isfinite(self.y)
        return held & ((self.x > 0) | (not self.log_x)) & ((self.y > 0) | (not self.log_y))


def figure_of_scatter(panels: Sequence[ScatterPanel], *, columns: int = 3) -> Figure:
    """Panels in rows, with one legend below all if one panel's holds for all.

    Points are small and translucent, the smaller the more there are, and are drawn in a shuffled order (the
    same each time), so that no group lies on top of the others. In the PDF they are pixels, not shapes.

    Raises:
        TableError: no panels, or a panel without a point to show.
    """
    if not panels or columns < 1:
        raise TableError(
            f"got {len(panels)} panels in {columns} columns; expected one or more of each; pass panels"
        )
    names = tuple(dict.fromkeys(name for panel in panels for name in panel.groups.tolist()))
    with matplotlib.rc_context(dict(RC)):
        columns = min(columns, len(panels))
        figure = Figure(figsize=(PANEL_WIDTH * columns, 2 * AXES_HEIGHT))
        axes = [_set_panel(figure, panel) for panel in panels]
        for one, panel in zip(axes, panels, strict=True):
            _draw(one, panel, names)
        left = left_of_axes(axes)
        found = [_groups_shown(panel, names) for panel in panels]
        longest = max(found, key=len)
        shared = longest if len(panels) > 1 and all(set(own) <= set(longest) for own in found) else ()
        room = PANEL_WIDTH - left - RIGHT
        blocks = []
        for one, panel, own in zip(axes, panels, found, strict=True):
            texts = ((_note(panel), TEXT_SIZE, GREY), (panel.title, TITLE_SIZE, INK))
            above = tuple(
                make_text(figure, text, size=size, width=room, color=colour)
                for text, size, colour in texts
                if text
            )
            below = () if shared else (make_legend(figure, _handles(own, names), width=LEGEND_WIDTH),)
            blocks.append(Block(one, above, below))
        width = PANEL_WIDTH * columns - left - RIGHT
        legend = make_legend(figure, _handles(shared, names), width=width) if shared else None
        arrange(figure, blocks, columns=columns, left=left, title=None, legend=legend)
    return figure


def save_scatter(panels: Sequence[ScatterPanel], out: Path, stem: str, *, columns: int = 3) -> None:
    """Writes the figure of `figure_of_scatter` as `stem.png` and `stem.pdf`."""
    save_figure(figure_of_scatter(panels, columns=columns), out, stem)


def _set_panel(figure: Figure, panel: ScatterPanel) -> Axes:
    axes = figure.add_axes((0.3, 0.3, 0.4, 0.4))
    if not panel.shown.any():
        raise TableError(
            f"got no point to show in the panel {panel.title!r}; expected one that is finite, and positive on"
            " a logarithmic axis; look into the table for what diverged"
        )
    for axis, values, log, room in (
        (axes.xaxis, panel.x, panel.log_x, AXES_WIDTH),
        (axes.yaxis, panel.y, panel.log_y, np.inf),
    ):
        held = values[panel.shown]
        ends = padded(held.min(), held.max(), log=log)
        if log:
            set_log_axis(axis, *ends, room=room)
        else:
            # The outermost labels may reach past the ends of the axis by half their width.
            set_linear_axis(axis, *ends, room=room + WIDE_LABEL)
    axes.grid(which="major", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(broken(figure, panel.x_label, size=LABEL_SIZE, width=AXES_WIDTH), labelpad=2)
    axes.set_ylabel(broken(figure, panel.y_label, size=LABEL_SIZE, width=AXES_HEIGHT), labelpad=2)
    return axes


def _draw(axes: Axes, panel: ScatterPanel, names: Sequence[str]) -> None:
    """One collection for each marker, seldom more than one."""
    numbers = np.array([names.index(name) for name in panel.groups[panel.shown]])
    count = len(numbers)
    order = np.random.default_rng(0).permutation(count)
    x, y, numbers = panel.x[panel.shown][order], panel.y[panel.shown][order], numbers[order]
    # From 4 points across and nearly opaque where there are tens, to 1.7 and faint where there are thousands.
    across = np.clip(11 * count**-0.22, 1.7, 4.0)
    alpha = np.clip(2.6 * count**-0.22, 0.4, 0.85)
    colours = np.array([to_rgba(look(number % NUM_COLOURS).colour, alpha) for number in range(len(names))])
    for turn in np.unique(numbers // NUM_COLOURS):
        chosen = numbers // NUM_COLOURS == turn
        axes.scatter(
            x[chosen],
            y[chosen],
            s=across**2,
            c=colours[numbers[chosen]],
            marker=MARKERS[turn % len(MARKERS)],
            linewidths=0,
            rasterized=True,
            zorder=2,
        )


def _groups_shown(panel: ScatterPanel, names: Sequence[str]) -> list[str]:
    present = set(panel.groups[panel.shown].tolist())
    return [name for name in names if name in present]


def _handles(groups: Sequence[str], names: Sequence[str]) -> list[Line2D]:
    """Larger and opaque: a faint dot in a legend shows no colour."""
    numbers = [names.index(group) for group in groups]
    return [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=MARKERS[number // NUM_COLOURS % len(MARKERS)],
            markersize=4.6,
            markerfacecolor=look(number % NUM_COLOURS).colour,
            markeredgewidth=0,
            label=group,
        )
        for number, group in zip(numbers, groups, strict=True)
    ]


def _note(panel: ScatterPanel) -> str:
    missing = int(np.sum(~panel.shown))
    left_out = f"{missing} of {len(panel.x)} points not shown" if missing else ""
    return "; ".join(text for text in (panel.note, left_out) if text)
