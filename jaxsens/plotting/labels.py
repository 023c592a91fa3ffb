"""Small numbers and marks beside points, where they cover nothing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from jaxsens.plotting.axes import sample_line
from jaxsens.plotting.equations import Line
from jaxsens.plotting.points import CellPoints, Limits
from jaxsens.plotting.style import INK, look

__all__ = ["draw_frame", "draw_marks", "label_ends", "taken_boxes"]

LABEL_SIZE = 5.5
MARK_SIZE = 6.5

# Of a marker with its edge, and of a mark's ring; like all here in points, 1/72 inch.
RADIUS = 2.7
RING = 4.6

Box: TypeAlias = tuple[float, float, float, float]
"""Left, bottom, right and top on the page."""


def taken_boxes(
    axes: Axes, points: CellPoints, lines: Sequence[Line], frame: Limits | None = None
) -> list[Box]:
    """Where nothing may be written: on a marker, a whisker, a line or the frame."""
    places = _in_points(axes, points.x, points.y)
    least, greatest = (
        _in_points(axes, points.x_low, points.y_low),
        _in_points(axes, points.x_high, points.y_high),
    )
    taken = [_around(place, RADIUS) for place in places]
    taken += [(x0, py, x1, py) for (x0, _), (_, py), (x1, _) in zip(least, places, greatest, strict=True)]
    taken += [(px, y0, px, y1) for (_, y0), (px, _), (_, y1) in zip(least, places, greatest, strict=True)]
    for line in lines:
        across, up = sample_line(line, axes.get_xlim(), points, num=400)
        taken += [(px, py, px, py) for px, py in _in_points(axes, across, up)]
    if frame is not None:
        (x0, y0), (x1, y1) = _in_points(axes, np.array(frame[:2]), np.array(frame[2:]))
        taken += [(x0, y0, x1, y0), (x0, y1, x1, y1), (x0, y0, x0, y1), (x1, y0, x1, y1)]
    return taken


def label_ends(axes: Axes, points: CellPoints, families: Sequence[str], taken: Sequence[Box]) -> None:
    """Writes the least and greatest scale of each family: both of them in its colour, or neither where one
    has no room.

    A label tries five places around its point, none of them on what is taken or on another label.
    """
    taken = list(taken)
    places, page = _in_points(axes, points.x, points.y), _page(axes)
    for ends in _ends(points):
        colour = look(families.index(points.families[ends[0]])).colour
        texts = [f"{points.scale[index]:g}" for index in ends]
        boxes: list[Box] = []
        for index, text in zip(ends, texts, strict=True):
            boxes += _free_box(places[index], text, page, taken + boxes)
        if len(boxes) == len(ends):
            taken += boxes
            for text, box in zip(texts, boxes, strict=True):
                _write_label(axes, text, box[:2], colour, size=LABEL_SIZE)


def draw_marks(axes: Axes, points: CellPoints, marks: Mapping[str, str], taken: Sequence[Box]) -> list[Box]:
    """Rings the marked points and writes their texts near them; gives the boxes that these take.

    A text that finds no free place near its point stands where it covers least. Cells without a point
    have no mark.
    """
    places, page = _in_points(axes, points.x, points.y), _page(axes)
    marked = [(index, marks[cell]) for index, cell in enumerate(points.cells) if cell in marks]
    boxes = [_around(places[index], RING) for index, _ in marked]
    for index, text in marked:
        axes.plot(
            points.x[index],
            points.y[index],
            marker="o",
            markersize=2 * RING,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=0.9,
            zorder=3.5,
        )
        if text:
            written = _write_label(axes, text, (0.0, 0.0), INK, size=MARK_SIZE)
            extent = written.get_window_extent()
            width, height = (length * 72 / axes.figure.dpi for length in (extent.width, extent.height))
            around = _places_around(places[index], width, height)
            box = _least_covering(around, page, [*taken, *boxes])
            boxes.append(box)
            written.set_position((box[0] / 72, box[1] / 72))
            _draw_leader(axes, places[index], box)
    return boxes


def draw_frame(axes: Axes, frame: Limits) -> None:
    """Draws a rectangle: what another panel shows enlarged."""
    x_low, x_high, y_low, y_high = frame
    rectangle = Rectangle(
        (x_low, y_low),
        x_high - x_low,
        y_high - y_low,
        facecolor="none",
        edgecolor=INK,
        linewidth=0.8,
        zorder=2.5,
    )
    axes.add_patch(rectangle)


def _free_box(place: np.ndarray, text: str, page: Box, taken: Sequence[Box]) -> list[Box]:
    """The first free box for a text beside a place, in a list; an empty list if there is none."""
    (px, py), r = place, RADIUS
    # A digit of DejaVu Sans is 0.64 of its size wide, a line with its descenders 1.2 high.
    width, height = 0.64 * LABEL_SIZE * len(text) + 0.5, 1.2 * LABEL_SIZE
    # Below right first: the points of such a figure rise to the right.
    for dx, dy in ((r, -height - r), (-width - r, r), (4, -height / 2), (-width - 4, -height / 2), (r, r)):
        box = (px + dx, py + dy, px + dx + width, py + dy + height)
        if _inside(box, page) and not any(_overlap(box, other) for other in taken):
            return [box]
    return []


def _places_around(place: np.ndarray, width: float, height: float) -> Iterator[Box]:
    """Boxes for a marked point's text, in eight directions and ever farther from its ring."""
    px, py = place
    for gap in (1.0, 8.0, 16.0, 26.0, 38.0):
        reach = RING + gap
        # On the diagonals the box's corner lies on the circle, not on the square around it.
        corner = 0.71 * reach
        for dx, dy in (
            (corner, -height - corner),
            (-width - corner, corner),
            (reach, -height / 2),
            (-width - reach, -height / 2),
            (corner, corner),
            (-width - corner, -height - corner),
            (-width / 2, -height - reach),
            (-width / 2, reach),
        ):
            yield (px + dx, py + dy, px + dx + width, py + dy + height)


def _least_covering(boxes: Iterator[Box], page: Box, taken: Sequence[Box]) -> Box:
    """The first box that covers nothing, else the one that covers least; off the page counts most."""
    return min(
        boxes,
        key=lambda box: (not _inside(box, page), sum(_overlap(box, other) for other in taken)),
    )


def _draw_leader(axes: Axes, place: np.ndarray, box: Box) -> None:
    """A thin line from a ring to its text, if they are apart."""
    nearest = np.clip(place, box[:2], box[2:])
    distance = np.hypot(*(nearest - place))
    if distance > RING + 5:
        start = place + (nearest - place) * RING / distance
        ends = np.stack([start, nearest]) / 72
        axes.plot(
            ends[:, 0],
            ends[:, 1],
            color=INK,
            linewidth=0.5,
            transform=axes.figure.dpi_scale_trans,
            scalex=False,
            scaley=False,
            zorder=3.4,
        )


def _page(axes: Axes) -> Box:
    (x0, y0), (x1, y1) = _in_points(axes, np.array(axes.get_xlim()), np.array(axes.get_ylim()))
    return x0, y0, x1, y1


def _in_points(axes: Axes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Data coordinates (n,) to places on the page (n, 2), in 1/72 inch."""
    return axes.transData.transform(np.column_stack([x, y])) * 72 / axes.figure.dpi


def _around(place: np.ndarray, radius: float) -> Box:
    px, py = place
    return px - radius, py - radius, px + radius, py + radius


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


def _write_label(axes: Axes, text: str, corner: tuple[float, float], colour: str, *, size: float) -> Text:
    """Writes a text whose lower left corner is at a place on the page, in points."""
    return axes.text(
        corner[0] / 72,
        corner[1] / 72,
        text,
        transform=axes.figure.dpi_scale_trans,
        fontsize=size,
        color=colour,
        va="bottom",
        zorder=4,
    )


def _inside(box: Box, page: Box) -> bool:
    return bool(page[0] <= box[0] and page[1] <= box[1] and box[2] <= page[2] and box[3] <= page[3])


def _overlap(a: Box, b: Box) -> bool:
    return bool(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])
