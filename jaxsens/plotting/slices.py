"""A plane through input space: what a network predicts on it, and the regions in which it is linear."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from jaxsens.plotting.layout import below_axes, broken, left_of_axes, make_legend, make_text
from jaxsens.plotting.style import GREY, INK, RC, save_figure, set_linear_axis
from jaxsens.table import TableError

__all__ = ["CLASS_COLOURS", "SlicePanel", "figure_of_slices", "region_shades", "save_slices"]

# Okabe and Ito (2008) less black, and three that stay apart from them and from each other, pale as well as
# full, under protanopia and deuteranopia (Machado et al. 2009).
CLASS_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#F0E442",
    "#8400CD",
    "#661100",
    "#DDCC77",
)

Numbers: TypeAlias = Any
"""What NumPy makes an array of; the panel keeps the array."""

# How much white is mixed into a class's colour: the least and the most.
PALEST, FULLEST = 0.72, 0.3

# Inches, all but the size of letters: the width of a page's text, and of a panel that stands alone.
WIDTH, ALONE = 7.0, 4.4
EDGE, GAP, ROW_GAP, RIGHT = 0.08, 0.05, 0.16, 0.12
TITLE_SIZE, TEXT_SIZE, LABEL_SIZE = 8.5, 7.0, 7.5
DISTANCE = "distance in input space"


@dataclasses.dataclass(frozen=True, eq=False)
class SlicePanel:
    """One plane, sampled at the middles of H x W pixels, the first row at the bottom.

    Attributes:
        regions: shape (H, W), whole numbers: one for each activation pattern, in any order.
        classes: shape (H, W), the predicted class of each pixel, from 0 to num_classes - 1.
        points: shape (P, 2), where examples lie on the plane; P may be 0.
        point_labels: shape (P,), their classes.
        extent: left, right, bottom and top: the outer edges of the outermost pixels.
        num_classes: 10 at most.
    """

    regions: Numbers
    classes: Numbers
    points: Numbers = ()
    point_labels: Numbers = ()
    extent: tuple[float | int, float | int, float | int, float | int] = (-1.0, 1.0, -1.0, 1.0)
    title: str = ""
    note: str = ""
    num_classes: int = 10
    x_label: str = DISTANCE
    y_label: str = DISTANCE

    def __post_init__(self) -> None:
        points = np.asarray(self.points, dtype=np.float64)
        held = {
            "regions": np.asarray(self.regions),
            "classes": np.asarray(self.classes),
            "points": points if points.size else np.zeros((0, 2)),
            "point_labels": np.asarray(self.point_labels),
        }
        for name, array in held.items():
            object.__setattr__(self, name, array)
        if not 1 <= self.num_classes <= len(CLASS_COLOURS):
            raise TableError(
                f"got {self.num_classes} classes; expected 1 to {len(CLASS_COLOURS)}, which colours tell"
                " apart; merge classes"
            )
        if self.regions.ndim != 2 or not self.regions.size or self.regions.shape != self.classes.shape:
            raise TableError(
                f"got regions {self.regions.shape} and classes {self.classes.shape}; expected (H, W) for"
                " both; pass one of each per pixel"
            )
        if self.points.ndim != 2 or self.points.shape != (self.point_labels.size, 2):
            raise TableError(
                f"got points {self.points.shape} and their labels {self.point_labels.shape}; expected (P, 2)"
                " and (P,); pass one label per point"
            )
        if not np.all(np.isfinite(self.points)):
            raise TableError("got a point that is not finite; expected finite places; leave it out")
        if self.regions.dtype.kind not in "iu":
            raise TableError(
                f"got regions of type {self.regions.dtype}; expected whole numbers; number the patterns"
            )
        for name in ("classes", "point_labels"):
            array = getattr(self, name)
            if array.size and (
                array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= self.num_classes
            ):
                raise TableError(
                    f"got other {name}; expected whole numbers from 0 to {self.num_classes - 1}; pass the"
                    " number of classes, or remap them"
                )
        left, right, bottom, top = self.extent
        if not (left < right and bottom < top):
            raise TableError(
                f"got extent {self.extent}; expected left < right and bottom < top; reorder its ends"
            )


def figure_of_slices(
    panels: Sequence[SlicePanel], *, columns: int = 3, class_names: Sequence[str] | None = None
) -> Figure:
    """Panels in rows, 7 inches wide, and one legend of the classes that occur in them.

    The hue says the predicted class; each region has its own shade of it (`region_shades`). Thin lines part
    regions, fainter where there are many and none where nearly each pixel would have one; thick lines part
    classes. Examples have their own class's colour: one on another hue is misclassified. Both directions
    have one scale.

    Args:
        class_names: the name of each class; "class 0", "class 1" and so on by default.

    Raises:
        TableError: no panels, or too few names.

    Cost: O(H W) for each panel.
    """
    if not panels or columns < 1:
        raise TableError(
            f"got {len(panels)} panels in {columns} columns; expected one or more of each; pass panels"
        )
    most = max(panel.num_classes for panel in panels)
    names = [f"class {index}" for index in range(most)] if class_names is None else list(class_names)
    if len(names) < most:
        raise TableError(f"got {len(names)} names of {most} classes; expected one for each; name them all")
    columns = min(columns, len(panels))
    width = WIDTH if columns > 1 else ALONE
    pitch = width / columns
    with matplotlib.rc_context(dict(RC)):
        figure = Figure(figsize=(width, width))
        axes = []
        for index, panel in enumerate(panels):
            beside = panels[index - 1] if index % columns else None
            labelled = beside is None or beside.y_label != panel.y_label
            axes.append(_draw(figure, panel, pitch, labelled=labelled))
        left = left_of_axes(axes)
        across = pitch - left - RIGHT
        writings = [
            [
                make_text(figure, text, size=size, width=across, color=colour)
                for text, size, colour in ((panel.note, TEXT_SIZE, GREY), (panel.title, TITLE_SIZE, INK))
                if text
            ]
            for panel in panels
        ]
        handles = _handles(panels, names)
        legend = make_legend(figure, handles, width=width - left - RIGHT)
        _arrange(figure, panels, axes, writings, legend, columns=columns, left=left, pitch=pitch)
    return figure


def save_slices(
    panels: Sequence[SlicePanel],
    out: Path,
    stem: str,
    *,
    columns: int = 3,
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes the figure of `figure_of_slices` as `stem.png` and `stem.pdf`."""
    save_figure(figure_of_slices(panels, columns=columns, class_names=class_names), out, stem)


def region_shades(regions: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each label, the same in every picture, unrelated for labels that are close.

    The mixing of SplitMix64 (Steele, Lea and Flood 2014), whose upper bits are those of a random number.
    """
    mixed = regions.astype(np.int64).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53


def _draw(figure: Figure, panel: SlicePanel, pitch: float, *, labelled: bool) -> Axes:
    axes = figure.add_axes((0.3, 0.3, 0.4, 0.4))
    colours = np.array([to_rgb(colour) for colour in CLASS_COLOURS])[panel.classes]
    white = (FULLEST + (PALEST - FULLEST) * region_shades(panel.regions))[..., None]
    axes.imshow(colours * (1 - white) + white, origin="lower", extent=panel.extent, aspect="auto")
    for labels, thickness, darkness in ((panel.regions, 0.4, 0.55), (panel.classes, 1.1, 1.0)):
        segments, share = _boundaries(labels, panel.extent)
        # Where most pixels have a boundary, lines would hide the colours: fainter, in the end none.
        faded = darkness * min(1.0, (0.15 / share) ** 2) if thickness < 1 and share else darkness
        if len(segments) and faded > 0.05:
            axes.add_collection(
                LineCollection(
                    list(segments),
                    colors=[(*to_rgb("#222222"), faded)],
                    linewidths=thickness,
                    capstyle="projecting" if thickness > 1 else "butt",
                    rasterized=True,
                    zorder=1 + thickness,
                ),
                autolim=False,
            )
    if len(panel.points):
        axes.scatter(
            *panel.points.T,
            s=np.clip(60 * len(panel.points) ** -0.3, 9, 26),
            c=[CLASS_COLOURS[label] for label in panel.point_labels],
            edgecolors="white",
            linewidths=0.8,
            # A thin dark ring about the white one, which pale regions would swallow.
            path_effects=[withStroke(linewidth=1.6, foreground=INK)],
            zorder=4,
        )
    left, right, bottom, top = map(float, panel.extent)
    room = pitch - 0.6
    set_linear_axis(axes.xaxis, left, right, room=room)
    set_linear_axis(axes.yaxis, bottom, top, room=room * (top - bottom) / (right - left))
    axes.tick_params(length=2.2, labelsize=6.5, pad=1.5)
    axes.set_xlabel(broken(figure, panel.x_label, size=LABEL_SIZE, width=room), labelpad=2, size=LABEL_SIZE)
    if labelled:
        axes.set_ylabel(
            broken(figure, panel.y_label, size=LABEL_SIZE, width=room), labelpad=2, size=LABEL_SIZE
        )
    return axes


def _boundaries(
    labels: np.ndarray, extent: tuple[float | int, float | int, float | int, float | int]
) -> tuple[np.ndarray, float]:
    """The edges between pixels of two labels, in runs, shape (runs, 2, 2); and their share of all edges."""
    height, width = labels.shape
    left, right, bottom, top = extent
    x, y = np.linspace(left, right, width + 1), np.linspace(bottom, top, height + 1)
    upright, flat = (labels[:, 1:] != labels[:, :-1]).T, labels[1:] != labels[:-1]
    edges = upright.size + flat.size
    share = (upright.sum() + flat.sum()) / edges if edges else 0.0
    line, start, end = _runs(upright)
    columns = np.stack([np.stack([x[line + 1], y[start]], -1), np.stack([x[line + 1], y[end]], -1)], 1)
    line, start, end = _runs(flat)
    rows = np.stack([np.stack([x[start], y[line + 1]], -1), np.stack([x[end], y[line + 1]], -1)], 1)
    return np.concatenate([columns, rows]), float(share)


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each run of True along a row: the row, its start, and one past its end."""
    steps = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    (line, start), (_, end) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    return line, start, end


def _handles(panels: Sequence[SlicePanel], names: Sequence[str]) -> list[Line2D]:
    present = np.unique(np.concatenate([np.append(p.classes.ravel(), p.point_labels) for p in panels]))
    return [
        Line2D(
            [],
            [],
            linestyle="none",
            marker="s",
            markersize=6,
            markerfacecolor=CLASS_COLOURS[int(index)],
            markeredgewidth=0,
            label=names[int(index)],
        )
        for index in present
    ]


def _arrange(
    figure: Figure,
    panels: Sequence[SlicePanel],
    axes: Sequence[Axes],
    writings: Sequence[Sequence[Text]],
    legend: Legend,
    *,
    columns: int,
    left: float,
    pitch: float,
) -> None:
    """As `layout.arrange`, for axes of one scale in both directions."""
    width, dpi = figure.get_figwidth(), figure.dpi
    across = pitch - left - RIGHT
    heights = [across * (p.extent[3] - p.extent[2]) / (p.extent[1] - p.extent[0]) for p in panels]
    above = [sum(GAP + one.get_window_extent().height / dpi for one in written) for written in writings]
    below = [below_axes(one) for one in axes]
    rows = [range(start, min(start + columns, len(panels))) for start in range(0, len(panels), columns)]
    tops = [max(above[index] for index in row) for row in rows]
    bottoms = [max(heights[index] + below[index] for index in row) for row in rows]
    legend_height = legend.get_window_extent().height / dpi
    height = sum(tops) + sum(bottoms) + ROW_GAP * len(rows) + legend_height + 2 * EDGE
    figure.set_size_inches(width, height)
    top = height - EDGE
    for number, row in enumerate(rows):
        top -= tops[number]
        for column, index in enumerate(row):
            start = column * pitch + left
            axes[index].set_position(
                (
                    start / width,
                    (top - heights[index]) / height,
                    across / width,
                    heights[index] / height,
                )
            )
            y = top
            for written in writings[index]:
                written.set_position((start, y + GAP))
                y += GAP + written.get_window_extent().height / dpi
        top -= bottoms[number] + ROW_GAP
    legend.set_bbox_to_anchor((left, EDGE), figure.dpi_scale_trans)
