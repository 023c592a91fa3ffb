"""Small numbers beside points, where they cover nothing."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from jaxsens.plotting.points import CellPoints
from jaxsens.plotting.style import look

__all__ = ["label_ends"]

LABEL_SIZE = 5.5

# Of a marker with its edge; like all here in points, 1/72 inch.
RADIUS = 2.7


def label_ends(axes: Axes, points: CellPoints, line: Callable | None) -> None:
    """Writes the least and greatest scale of each family: both of them in its colour, or neither where one
    has no room.

    A label tries five places around its point, none of them on a marker, a whisker, the line or a label.
    """
    families = list(dict.fromkeys(points.families))
    frame = _in_points(axes, np.array(axes.get_xlim()), np.array(axes.get_ylim())).ravel()
    places = _in_points(axes, points.x, points.y)
    least, greatest = (
        _in_points(axes, points.x_low, points.y_low),
        _in_points(axes, points.x_high, points.y_high),
    )
    taken = [(px - RADIUS, py - RADIUS, px + RADIUS, py + RADIUS) for px, py in places]
    taken += [(x0, py, x1, py) for (x0, _), (_, py), (x1, _) in zip(least, places, greatest, strict=True)]
    taken += [(px, y0, px, y1) for (_, y0), (px, _), (_, y1) in zip(least, places, greatest, strict=True)]
    if line is not None:
        across = np.geomspace(*axes.get_xlim(), 400)
        taken += [(px, py, px, py) for px, py in _in_points(axes, across, line(across))]
    for ends in _ends(points):
        colour = look(families.index(points.families[ends[0]])).colour
        texts = [f"{points.scale[index]:g}" for index in ends]
        boxes: list[tuple[float, ...]] = []
        for index, text in zip(ends, texts, strict=True):
            boxes += _free_box(places[index], text, frame, taken + boxes)
        if len(boxes) == len(ends):
            taken += boxes
            for text, box in zip(texts, boxes, strict=True):
                _write_label(axes, text, box, colour)


def _free_box(
    place: np.ndarray, text: str, frame: np.ndarray, taken: list[tuple[float, ...]]
) -> list[tuple[float, ...]]:
    """The first free box for a text beside a place, in a list; an empty list if there is none."""
    (px, py), r = place, RADIUS
    # A digit of DejaVu Sans is 0.64 of its size wide, a line with its descenders 1.2 high.
    width, height = 0.64 * LABEL_SIZE * len(text) + 0.5, 1.2 * LABEL_SIZE
    # Below right first: the points of such a figure rise to the right.
    for dx, dy in ((r, -height - r), (-width - r, r), (4, -height / 2), (-width - 4, -height / 2), (r, r)):
        box = (px + dx, py + dy, px + dx + width, py + dy + height)
        inside = frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
        if inside and not any(_overlap(box, other) for other in taken):
            return [box]
    return []


def _in_points(axes: Axes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Data coordinates (n,) to places on the page (n, 2), in 1/72 inch."""
    return axes.transData.transform(np.column_stack([x, y])) * 72 / axes.figure.dpi


def _ends(points: CellPoints) -> list[tuple[int, ...]]:
    """For each family with scales, the cells of the least and the greatest (one cell if it has one)."""
    found = []
    for family in dict.fromkeys(points.families):
        mine = (index for index, name in enumerate(points.families) if name == family)
        ordered = sorted(
            (index for index in mine if not np.isnan(points.scale[index])), key=points.scale.__getitem__
        )
        if ordered:
            found.append(tuple(dict.fromkeys((ordered[0], ordered[-1]))))
    return found


def _write_label(axes: Axes, text: str, box: tuple[float, ...], colour: str) -> None:
    axes.text(
        box[0] / 72,
        box[1] / 72,
        text,
        transform=axes.figure.dpi_scale_trans,
        fontsize=LABEL_SIZE,
        color=colour,
        va="bottom",
        zorder=4,
    )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return bool(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])
