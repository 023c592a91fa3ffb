"""Places on the page, in inches: texts that break where their panel ends, and panels in rows."""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import BboxBase

__all__ = [
    "AXES_HEIGHT",
    "LEGEND_WIDTH",
    "PANEL_WIDTH",
    "RIGHT",
    "Block",
    "arrange",
    "below_axes",
    "broken",
    "left_of_axes",
    "make_legend",
    "make_text",
]

# Inches, all but the size of letters; two panels side by side have the width of a page's text.
PANEL_WIDTH = 3.5
AXES_HEIGHT = 2.05
RIGHT = 0.18

EDGE = 0.08
GAP = 0.05
TITLE_GAP = 0.1
ROW_GAP = 0.2

# A panel's legend may reach to the left of its axes.
LEGEND_WIDTH = PANEL_WIDTH - 2 * EDGE
# Points; the small letters are for legends that they spare a column.
LEGEND_SIZE, SMALL_LEGEND_SIZE = 7.0, 6.3
MOST_COLUMNS = 6

Written: TypeAlias = Text | Legend


class Block(NamedTuple):
    """A panel: its axes, and what is written above and below it, the nearest to the axes first."""

    axes: Axes
    above: tuple[Written, ...]
    below: tuple[Written, ...]


def make_text(figure: Figure, text: str, *, size: float, width: float, color: str) -> Text:
    """A text of at most `width` inches, in lines as needed, to be placed by `arrange`."""
    return figure.text(
        0,
        0,
        broken(figure, text, size=size, width=width),
        fontsize=size,
        color=color,
        va="bottom",
        transform=figure.dpi_scale_trans,
        linespacing=1.25,
    )


def make_legend(figure: Figure, handles: Sequence[Line2D], *, width: float) -> Legend:
    """A legend of as many columns as `width` inches hold, to be placed by `arrange`."""
    several = range(min(len(handles), MOST_COLUMNS), 1, -1)
    for size, columns in itertools.product((LEGEND_SIZE, SMALL_LEGEND_SIZE), several):
        legend = _legend(figure, handles, columns=columns, size=size, width=width)
        if _inches(legend)[0] <= width:
            return legend
        legend.remove()
    return _legend(figure, handles, columns=1, size=LEGEND_SIZE, width=width)


def _legend(figure: Figure, handles: Sequence[Line2D], *, columns: int, size: float, width: float) -> Legend:
    # The marker and the space beside it take 2.2 letters.
    room = width - 2.2 * size / 72
    return figure.legend(
        handles=handles,
        labels=[broken(figure, str(handle.get_label()), size=size, width=room) for handle in handles],
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(0, 0),
        bbox_transform=figure.dpi_scale_trans,
        fontsize=size,
        borderpad=0,
        borderaxespad=0,
        labelspacing=0.35,
        handlelength=1.8,
        handletextpad=0.4,
        columnspacing=1.0,
    )


def left_of_axes(axes: Sequence[Axes]) -> float:
    """Inches that the widest tick labels and the label beside them take, with a margin to the edge."""
    return max(one.bbox.x0 - _with_labels(one).x0 for one in axes) / axes[0].figure.dpi + EDGE


def arrange(
    figure: Figure,
    blocks: Sequence[Block],
    *,
    columns: int,
    left: float,
    title: Text | None,
    legend: Legend | None,
) -> None:
    """Gives the figure its height, and everything its place: rows of panels, their axes aligned.

    `title` stands above all of them and `legend` below.
    """
    rows = [blocks[start : start + columns] for start in range(0, len(blocks), columns)]
    above = [max(_stacked(block.above) for block in row) for row in rows]
    labels = [max(below_axes(block.axes) for block in row) for row in rows]
    below = [max(_stacked(block.below) for block in row) for row in rows]
    height = sum(above) + sum(labels) + sum(below) + len(rows) * AXES_HEIGHT + (len(rows) - 1) * ROW_GAP
    height += 2 * EDGE
    if title:
        height += _inches(title)[1] + TITLE_GAP
    if legend:
        height += _inches(legend)[1] + ROW_GAP
    width = figure.get_figwidth()
    figure.set_size_inches(width, height)
    top = height - EDGE
    if title:
        top -= _inches(title)[1]
        _place(title, left, top, width)
        top -= TITLE_GAP
    for index, row in enumerate(rows):
        bottom = top - above[index] - AXES_HEIGHT
        for column, block in enumerate(row):
            start = column * PANEL_WIDTH
            size = (PANEL_WIDTH - left - RIGHT) / width, AXES_HEIGHT / height
            block.axes.set_position(((start + left) / width, bottom / height, *size))
            _stack(block, start + left, start + PANEL_WIDTH, bottom, bottom - labels[index])
        top = bottom - labels[index] - below[index] - ROW_GAP
    if legend:
        _place(legend, left, EDGE, width)


def _stack(block: Block, left: float, right: float, bottom: float, under: float) -> None:
    """Writes upward from the top of the axes, and downward from below their labels."""
    y = bottom + AXES_HEIGHT
    for written in block.above:
        y += GAP
        _place(written, left, y, right)
        y += _inches(written)[1]
    y = under
    for written in block.below:
        y -= GAP + _inches(written)[1]
        _place(written, left, y, right)


def _stacked(written: Sequence[Written]) -> float:
    return sum((GAP + _inches(one)[1] for one in written), start=0.0)


def below_axes(axes: Axes) -> float:
    """Inches that tick labels and the label under them take."""
    return (axes.bbox.y0 - _with_labels(axes).y0) / axes.figure.dpi


def _with_labels(axes: Axes) -> BboxBase:
    return axes.get_tightbbox() or axes.bbox


def _place(written: Written, left: float, y: float, right: float) -> None:
    """From `left` on, or as much before it as it needs to end at `right` less the margin."""
    x = min(left, right - EDGE - _inches(written)[0])
    if isinstance(written, Text):
        written.set_position((x, y))
    else:
        written.set_bbox_to_anchor((x, y), written.figure.dpi_scale_trans)


def _inches(written: Written) -> tuple[float, float]:
    box = written.get_window_extent()
    return box.width / written.figure.dpi, box.height / written.figure.dpi


def broken(figure: Figure, text: str, *, size: float, width: float) -> str:
    """The text, its spaces turned into ends of lines if it is wider than `width`; mathematics stays whole."""
    probe = figure.text(0, 0, text, fontsize=size)
    lines = [text] if _inches(probe)[0] <= width else []
    if not lines:
        for word in re.findall(r"(?:\$[^$]*\$|\S)+", text):
            longer = f"{lines[-1]} {word}" if lines else word
            probe.set_text(longer)
            if lines and _inches(probe)[0] <= width:
                lines[-1] = longer
            else:
                lines.append(word)
    probe.remove()
    return "\n".join(lines)
