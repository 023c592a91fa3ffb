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
from jaxsens.plotting.labels import label_ends
from jaxsens.plotting.points import CellPoints, figure_one_points
from jaxsens.plotting.style import INK, RC, look, set_log_axis
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
    the order of its scale, the ends of which are written beside their points where there is room. The text
    gives Pearson's correlation between log x and log y of the cells, with its 95 % bootstrap interval.

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
        label_ends(axes, points, line)
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
    colour, marker, hollow = look(index)
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
        marker=marker,
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


def _write_beside(
    figure: Figure, points: CellPoints, handles: list[Line2D], paper_correlation: float | None
) -> None:
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(TEXT_LEFT, FRAME[1] + FRAME[3] + 0.02),
        # From 15 entries on the column would run into the text below it.
        fontsize=min(7.5, 110 / len(handles)),
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
