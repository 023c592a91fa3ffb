"""Panels of curves, histograms and points that are no cells: a quantity over epochs, sizes or counts."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxsens.plotting.axes import DASHES
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
from jaxsens.plotting.style import INK, RC, look, save_figure, set_linear_axis, set_log_axis
from jaxsens.table import Table, TableError, text_to_counts

__all__ = [
    "Curve",
    "CurvePanel",
    "decades",
    "decades_of_log",
    "figure_of_curves",
    "histogram_curve",
    "normal_curve",
    "pooled_histogram",
    "row_curve",
    "sampled_curve",
    "save_curves",
]

Number: TypeAlias = float | int | np.number
Numbers: TypeAlias = Any
"""What NumPy makes an array of; the curve keeps the array."""

STYLES = ("line", "dashed", "points", "hollow", "bars")
TITLE_SIZE, TEXT_SIZE, LABEL_SIZE = 8.5, 7.0, 8.0
AXES_WIDTH = 2.7
# All but black, which is that of letters. A second round of colours has its own dashes.
NUM_COLOURS = 6


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """y over x, shape (n,) both; curves of one label have one colour in all panels of a figure.

    Attributes:
        label: what the legend says.
        x, y: numbers; where y is not finite, the curve has a gap.
        low, high: a band about it, such as the least and greatest member.
        style: one of "line", "dashed", "points", "hollow" (points), "bars" (a histogram).
        colour: the label whose colour it shares; its own by default. "ink" is the colour of letters.
    """

    label: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    style: str = "line"
    colour: str | None = None

    def __post_init__(self) -> None:
        for name in ("x", "y", "low", "high"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        shapes = {a.shape for a in (self.x, self.y, self.low, self.high) if a is not None}
        if len(shapes) > 1 or self.x.ndim != 1:
            raise TableError(
                f"got shapes {sorted(shapes)} in the curve {self.label!r}; expected (n,) for all;"
                " pass one y for each x"
            )
        if self.style not in STYLES:
            raise TableError(
                f"got style {self.style!r}; expected one of {', '.join(STYLES)}; choose one of them"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class CurvePanel:
    """One axes of curves. `note` stands above it; `y_limits` cut off what would press the rest together."""

    curves: tuple[Curve, ...]
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    note: str = ""
    log_x: bool = False
    log_y: bool = False
    y_limits: tuple[Number, Number] | None = None


def figure_of_curves(panels: Sequence[CurvePanel], *, columns: int = 2) -> Figure:
    """Panels in rows, two of them 7 inches wide, with one legend below all if one panel's holds for all.

    Raises:
        TableError: no panels, or a panel without a finite point.
    """
    if not panels or columns < 1:
        raise TableError(
            f"got {len(panels)} panels in {columns} columns; expected one or more of each; pass panels"
        )
    colours = tuple(
        dict.fromkeys(c.colour or c.label for panel in panels for c in panel.curves if c.colour != "ink")
    )
    with matplotlib.rc_context(dict(RC)):
        columns = min(columns, len(panels))
        figure = Figure(figsize=(PANEL_WIDTH * columns, 2 * AXES_HEIGHT))
        axes = [_set_panel(figure, panel) for panel in panels]
        handles = [
            [_draw(one, curve, colours, index) for index, curve in enumerate(panel.curves)]
            for one, panel in zip(axes, panels, strict=True)
        ]
        left = left_of_axes(axes)
        shared = _shared(handles)
        room = PANEL_WIDTH - left - RIGHT
        blocks = []
        for one, panel, found in zip(axes, panels, handles, strict=True):
            texts = ((panel.note, TEXT_SIZE), (panel.title, TITLE_SIZE))
            above = tuple(
                make_text(figure, text, size=size, width=room, color=INK) for text, size in texts if text
            )
            below = () if shared else (make_legend(figure, found, width=LEGEND_WIDTH),)
            blocks.append(Block(one, above, below))
        legend = make_legend(figure, shared, width=PANEL_WIDTH * columns - left - RIGHT) if shared else None
        arrange(figure, blocks, columns=columns, left=left, title=None, legend=legend)
    return figure


def save_curves(panels: Sequence[CurvePanel], out: Path, stem: str, *, columns: int = 2) -> None:
    """Writes the figure as `stem.png` and `stem.pdf`."""
    save_figure(figure_of_curves(panels, columns=columns), out, stem)


def row_curve(
    table: Table, y: str, label: str, *, x: str = "epoch", transform: Callable = lambda v: v, **look: str
) -> Curve:
    """The mean of a column over the rows of each x, with the least and greatest, of rows that have it.

    `transform` is applied to the values first, such as `decades`.
    """
    across, up = table.column(x).astype(np.float64), np.asarray(transform(table.column(y).astype(np.float64)))
    places = np.unique(across)
    groups = [up[(across == place) & np.isfinite(up)] for place in places]
    kept = [index for index, group in enumerate(groups) if len(group)]
    means, lows, highs = (
        np.array([function(groups[index]) for index in kept]) for function in (np.mean, np.min, np.max)
    )
    return Curve(label, places[kept], means, lows, highs, **look)


def decades(values: Numbers) -> Any:
    """log10 of positive numbers, NaN of others: for what leaves the range of a logarithmic axis."""
    values = np.asarray(values, dtype=np.float64)
    return np.log10(values, out=np.full_like(values, np.nan), where=values > 0)


def decades_of_log(logarithms: Numbers) -> Any:
    """log10 of numbers of which the natural logarithms are given."""
    return np.asarray(logarithms, dtype=np.float64) / np.log(10)


def sampled_curve(
    label: str,
    function: Callable[[np.ndarray], np.ndarray],
    ends: tuple[Number, Number],
    *,
    log: bool = False,
    num: int = 61,
    **look: str,
) -> Curve:
    """A function from x to y, (n,) both, at places spaced evenly on the axis."""
    across = (np.geomspace if log else np.linspace)(*ends, num)
    return Curve(label, across, np.asarray(function(across), dtype=np.float64), **look)


def histogram_curve(label: str, values: np.ndarray, counts: np.ndarray, *, bins_per_unit: int = 1) -> Curve:
    """The share of examples at each whole number, least to greatest, drawn `bins_per_unit` a unit."""
    places = np.arange(values.min(), values.max() + 1)
    shares = np.zeros(len(places))
    shares[np.asarray(values) - places[0]] = counts / counts.sum()
    return Curve(label, places / bins_per_unit, shares, style="bars")


def pooled_histogram(table: Table, column: str, label: str, *, bins_per_unit: int = 1) -> Curve:
    """The shares of all members' counts together, from a column of texts that `counts_to_text` writes."""
    pooled: Counter[int] = Counter()
    for row in table.rows():
        if row.get(column) is not None:
            values, counts = text_to_counts(str(row[column]))
            pooled.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    if not pooled:
        raise TableError(f"got no counts in column {column!r}; expected one member's; leave this panel out")
    values = np.array(sorted(pooled))
    counts = np.array([pooled[value] for value in values])
    return histogram_curve(label, values, counts, bins_per_unit=bins_per_unit)


def normal_curve(label: str, mean: float | int, std: float | int, ends: tuple[Number, Number]) -> Curve:
    """The normal density, which is the share that each whole number would have."""

    def density(x: np.ndarray) -> np.ndarray:
        return np.exp(-(((x - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))

    return sampled_curve(label, density, ends, num=200, style="dashed", colour="ink")


def _set_panel(figure: Figure, panel: CurvePanel) -> Axes:
    axes = figure.add_axes((0.3, 0.3, 0.4, 0.4))
    x_ends, y_ends = _ends(panel, "x"), panel.y_limits or _ends(panel, "y")
    for axis, ends, log in ((axes.xaxis, x_ends, panel.log_x), (axes.yaxis, y_ends, panel.log_y)):
        room = AXES_WIDTH if axis is axes.xaxis else np.inf
        (set_log_axis if log else set_linear_axis)(axis, *map(float, ends), room=room)
    axes.grid(which="major", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(broken(figure, panel.x_label, size=LABEL_SIZE, width=AXES_WIDTH), labelpad=2)
    axes.set_ylabel(broken(figure, panel.y_label, size=LABEL_SIZE, width=AXES_HEIGHT), labelpad=2)
    return axes


def _ends(panel: CurvePanel, axis: str) -> tuple[float, float]:
    """Padded ends of what the curves show; bands count, and bars start at 0."""
    log = panel.log_x if axis == "x" else panel.log_y
    arrays = [getattr(curve, axis) for curve in panel.curves]
    if axis == "y":
        arrays += [band for curve in panel.curves for band in (curve.low, curve.high) if band is not None]
        arrays += [np.zeros(1) for curve in panel.curves if curve.style == "bars" and not log]
    values = np.concatenate([np.zeros(0), *arrays])
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if not len(values):
        raise TableError(
            f"got no finite {axis} in the panel {panel.title!r}; expected one; look into the table for what"
            " diverged"
        )
    low, high = padded(values.min(), values.max(), log=log)
    bars = axis == "y" and any(curve.style == "bars" for curve in panel.curves)
    return (max(low, 0.0) if bars else low), high


def _draw(axes: Axes, curve: Curve, colours: Sequence[str], index: int) -> Line2D:
    """Draws one curve; its legend handle."""
    number = None if curve.colour == "ink" else colours.index(curve.colour or curve.label)
    colour = INK if number is None else look(number % NUM_COLOURS).colour
    dash = "-" if number is None or number < NUM_COLOURS else DASHES[number // NUM_COLOURS]
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.13, linewidth=0, zorder=1.5)
    if curve.style == "bars":
        axes.fill_between(curve.x, 0, curve.y, step="mid", color=colour, alpha=0.45, linewidth=0, zorder=1.6)
        (handle,) = axes.plot(
            curve.x,
            curve.y,
            color=colour,
            linewidth=0.7,
            drawstyle="steps-mid",
            label=curve.label,
            zorder=1.7,
        )
        return handle
    if curve.style in ("points", "hollow"):
        hollow = curve.style == "hollow"
        (handle,) = axes.plot(
            curve.x,
            curve.y,
            linestyle="none",
            marker=look(number or 0).marker,
            markersize=4.6,
            markerfacecolor="white" if hollow else colour,
            markeredgecolor=colour if hollow else "white",
            markeredgewidth=0.9 if hollow else 0.5,
            label=curve.label,
            zorder=3,
        )
        return handle
    (handle,) = axes.plot(
        curve.x,
        curve.y,
        color=colour,
        linewidth=1.1,
        linestyle=DASHES[0] if curve.style == "dashed" else dash,
        label=curve.label,
        zorder=2 + 0.01 * index,
    )
    return handle


def _shared(handles: Sequence[Sequence[Line2D]]) -> list[Line2D]:
    """The one legend that holds for several panels; empty if there is none."""
    longest = max(handles, key=len)
    known = {handle.get_label() for handle in longest}
    same = all(handle.get_label() in known for panel in handles for handle in panel)
    return list(longest) if same and len(handles) > 1 else []
