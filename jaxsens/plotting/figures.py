"""Loss against sensitivity: the paper's Figure 1, and the others of its kind."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxsens import stats
from jaxsens.plotting.points import CellPoints, figure_one_points
from jaxsens.plotting.style import COLOURS, INK, MARKERS, RC, set_log_axis
from jaxsens.table import Table, TableError

__all__ = ["Prediction", "equation_9", "loss_against_sensitivity"]

AXIS_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "sensitivity_before": r"sensitivity before training  $S_{\mathrm{before}}$",
        "sensitivity_after": r"sensitivity after training  $S_{\mathrm{after}}$",
        "linearized_sensitivity_after": r"sensitivity after training, small-noise limit",
        "jacobian_norm_before_softmax": r"Jacobian norm before the softmax  $J$",
        "jacobian_norm_after_softmax": r"Jacobian norm after the softmax  $J$",
        "test_loss": r"test loss  $L$",
        "mse_loss": r"test loss  $L_{\mathrm{MSE}}$",
        "variance": r"variance  $\varepsilon_{\mathrm{variance}}$",
        "bias": r"bias  $\varepsilon_{\mathrm{bias}}$",
    }
)

# Inches: a picture for the width of one wide column, its axes, and the column of text to their right.
SIZE = (6.4, 3.9)
FRAME = (0.105, 0.145, 0.585, 0.775)
TEXT_LEFT = FRAME[0] + FRAME[2] + 0.02
LABEL_SIZE = 5.5


class Prediction(NamedTuple):
    """What equation 9 needs besides S: K, sigma_x^2 (the input's second moment) and sigma_eps (the noise)."""

    num_outputs: int
    input_second_moment: float
    noise_std: float


def equation_9(sensitivity: np.ndarray, prediction: Prediction) -> np.ndarray:
    """The predicted loss `L = sqrt(1/2 (K-1)/K S sigma_x^2 / sigma_eps^2)`, elementwise.

    Equation 9 of Forouzesh et al., its Sigma neglected as in their figures.
    """
    outputs, moment, noise = prediction
    return np.sqrt(0.5 * (outputs - 1) / outputs * sensitivity * moment / noise**2)


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
    the order of its scale, which is written beside the first and the last of them where there is room. The text gives Pearson's
    correlation between log x and log y of the cells, with its 95 % bootstrap interval.

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
    line = _as_function(prediction)
    # Matplotlib's settings are read while drawing; the context puts back whatever the caller had.
    with matplotlib.rc_context(dict(RC)):
        figure = Figure(figsize=SIZE)
        axes = figure.add_axes(FRAME)
        _set_axes(axes, points, line)
        axes.set_xlabel(AXIS_LABELS.get(x, x.replace("_", " ")))
        axes.set_ylabel(AXIS_LABELS.get(y, y.replace("_", " ")))
        if title:
            axes.set_title(title, fontsize=9, loc="left")
        handles = [
            _draw_family(axes, points, *family) for family in enumerate(dict.fromkeys(points.families))
        ]
        if line is not None:
            handles.append(
                _draw_line(axes, line, label="predicted" if callable(prediction) else "equation (9)")
            )
        _label_ends(axes, points, line)
        _write_beside(figure, points, handles, paper_correlation)
        _write_below(figure, points)
    return figure


def _as_function(prediction: object) -> Callable[[np.ndarray], np.ndarray] | None:
    if prediction is None or callable(prediction):
        return prediction
    numbers = Prediction(*prediction)
    return lambda sensitivity: equation_9(sensitivity, numbers)


def _set_axes(axes: Axes, points: CellPoints, line: Callable | None) -> None:
    x_low, x_high = _padded(points.x_low.min(), points.x_high.max())
    ends = line(np.array([points.x_low.min(), points.x_high.max()])) if line else points.y
    y_low, y_high = _padded(min(points.y_low.min(), ends.min()), max(points.y_high.max(), ends.max()))
    set_log_axis(axes.xaxis, x_low, x_high)
    set_log_axis(axes.yaxis, y_low, y_high)
    axes.grid(which="major", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _padded(low: float, high: float) -> tuple[float, float]:
    """The range with 6 % of its length in logarithms on either side, and 5 % of its value at least."""
    margin = max((high / low) ** 0.06, 1.05)
    return low / margin, high * margin


def _draw_family(axes: Axes, points: CellPoints, index: int, family: str) -> Line2D:
    members = np.array([name == family for name in points.families])
    x, x_low, x_high, y, y_low, y_high, scale = (
        column[members]
        for column in (
            points.x,
            points.x_low,
            points.x_high,
            points.y,
            points.y_low,
            points.y_high,
            points.scale,
        )
    )
    order = np.lexsort((x, scale))
    colour, hollow = COLOURS[index % len(COLOURS)], index // len(COLOURS) % 2 == 1
    axes.fill_betweenx(
        y[order], x_low[order], x_high[order], color=colour, alpha=0.13, linewidth=0, zorder=1.5
    )
    axes.plot(x[order], y[order], color=colour, linewidth=0.7, alpha=0.55, zorder=2)
    axes.errorbar(
        x,
        y,
        xerr=(np.maximum(x - x_low, 0), np.maximum(x_high - x, 0)),
        yerr=(np.maximum(y - y_low, 0), np.maximum(y_high - y, 0)),
        fmt="none",
        ecolor=colour,
        elinewidth=0.6,
        alpha=0.4,
        zorder=2.2,
    )
    (handle,) = axes.plot(
        x,
        y,
        linestyle="none",
        marker=MARKERS[index % len(MARKERS)],
        markersize=4 if hollow else 4.4,
        markerfacecolor="white" if hollow else colour,
        markeredgecolor=colour if hollow else "white",
        markeredgewidth=0.9 if hollow else 0.5,
        label=family or "all cells",
        zorder=3,
    )
    return handle


def _draw_line(axes: Axes, line: Callable[[np.ndarray], np.ndarray], *, label: str) -> Line2D:
    across = np.geomspace(*axes.get_xlim(), 200)
    (handle,) = axes.plot(
        across, line(across), color=INK, linewidth=0.9, linestyle=(0, (5, 3)), label=label, zorder=1.8
    )
    return handle


def _label_ends(axes: Axes, points: CellPoints, line: Callable | None) -> None:
    """Writes the least and greatest scale of each family, unless that would cover something.

    A label tries five places around its point, and is left out where each lies on a marker, a whisker, the
    line or another label.
    """
    frame = _in_points(axes, np.array(axes.get_xlim()), np.array(axes.get_ylim())).ravel()
    places = _in_points(axes, points.x, points.y)
    least, greatest = (
        _in_points(axes, points.x_low, points.y_low),
        _in_points(axes, points.x_high, points.y_high),
    )
    taken = [(px - 3, py - 3, px + 3, py + 3) for px, py in places]
    taken += [(x0, py, x1, py) for (x0, _), (_, py), (x1, _) in zip(least, places, greatest, strict=True)]
    taken += [(px, y0, px, y1) for (_, y0), (px, _), (_, y1) in zip(least, places, greatest, strict=True)]
    if line is not None:
        across = np.geomspace(*axes.get_xlim(), 400)
        taken += [(px, py, px, py) for px, py in _in_points(axes, across, line(across))]
    for index in _ends(points):
        text = f"{points.scale[index]:g}"
        px, py = places[index]
        # DejaVu's digits are 0.64 of its size wide.
        width, height = 0.64 * LABEL_SIZE * len(text), LABEL_SIZE
        # Below right first: the points of such a figure rise to the right.
        for dx, dy in (
            (3, -height - 3),
            (-width - 3, 3),
            (4, -height / 2),
            (-width - 4, -height / 2),
            (3, 3),
        ):
            box = (px + dx, py + dy, px + dx + width, py + dy + height)
            inside = frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                _write_label(axes, text, box)
                break


def _in_points(axes: Axes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Data coordinates (n,) to places on the page (n, 2), in 1/72 inch."""
    return axes.transData.transform(np.column_stack([x, y])) * 72 / axes.figure.dpi


def _ends(points: CellPoints) -> list[int]:
    """The cells of the least and greatest scale of each family."""
    found = []
    for family in dict.fromkeys(points.families):
        members = [
            index
            for index, name in enumerate(points.families)
            if name == family and not np.isnan(points.scale[index])
        ]
        if members:
            ordered = sorted(members, key=lambda index: points.scale[index])
            found += dict.fromkeys((ordered[0], ordered[-1]))
    return found


def _write_label(axes: Axes, text: str, box: tuple[float, ...]) -> None:
    axes.text(
        box[0] / 72,
        box[1] / 72,
        text,
        transform=axes.figure.dpi_scale_trans,
        fontsize=LABEL_SIZE,
        color="#777777",
        va="bottom",
        zorder=4,
    )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _write_beside(
    figure: Figure, points: CellPoints, handles: list[Line2D], paper_correlation: float | None
) -> None:
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(TEXT_LEFT, FRAME[1] + FRAME[3] + 0.02),
        fontsize=7.5,
        labelspacing=0.45,
        handletextpad=0.5,
        borderaxespad=0,
    )
    lines = _correlation_lines(points)
    if paper_correlation is not None:
        lines.append(f"paper: {paper_correlation:.2f}")
    figure.text(TEXT_LEFT + 0.012, FRAME[1], "\n".join(lines), fontsize=7.5, va="bottom", linespacing=1.45)


def _correlation_lines(points: CellPoints) -> list[str]:
    if len(points.cells) < 3:
        return [r"$\rho$: needs 3 cells"]
    across, up = np.log(points.x), np.log(points.y)
    if np.ptp(across) == 0 or np.ptp(up) == 0:
        return [r"$\rho$: needs cells that differ"]
    found = stats.pearson(across, up)
    interval = f"95% interval [{found.low:.3f}, {found.high:.3f}]"
    return [rf"$\rho$ = {found.value:.3f}", interval, f"{found.num_points} cells"]


def _write_below(figure: Figure, points: CellPoints) -> None:
    if points.num_left_out:
        total = int(points.num_members.sum()) + points.num_left_out
        note = f"{points.num_left_out} of {total} runs left out: diverged, or no finite positive value"
        figure.text(FRAME[0], 0.015, note, fontsize=6, color="#777777", va="bottom")
