"""What one axes shows: points, whiskers, bands, theory curves, and the correlation of the points."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D

from jaxsens import stats
from jaxsens.plotting.equations import Line
from jaxsens.plotting.points import CellPoints, Limits, padded
from jaxsens.plotting.style import INK, look, set_linear_axis, set_log_axis
from jaxsens.table import TableError

__all__ = [
    "axis_label",
    "correlation",
    "draw_families",
    "draw_line",
    "left_out_note",
    "reach",
    "sample_line",
    "set_axes",
]

AXIS_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "sensitivity_before": r"sensitivity before training  $S_{\mathrm{before}}$",
        "sensitivity_after": r"sensitivity after training  $S_{\mathrm{after}}$",
        "sensitivity_train": r"sensitivity on the training set  $S_{\mathrm{train}}$",
        "sensitivity_after_softmax": r"sensitivity after the softmax  $\hat{S}_{\mathrm{after}}$",
        "sensitivity_after_calibrated": r"sensitivity after calibration  $S_{\mathrm{after}}$",
        "predicted_sensitivity_before": r"$S_{\mathrm{before}}$ predicted by equation (10)",
        "linearized_sensitivity_after": r"sensitivity after training, small-noise limit",
        "jacobian_norm_before_softmax": r"Jacobian norm before the softmax  $J$",
        "jacobian_norm_after_softmax": r"Jacobian norm after the softmax  $J$",
        "test_loss": r"test loss  $L$",
        "test_loss_calibrated": r"test loss after calibration  $L$",
        "test_error": r"test error",
        "mse_loss": r"test loss  $L_{\mathrm{MSE}}$",
        "variance": r"variance  $\varepsilon_{\mathrm{variance}}$",
        "bias": r"bias  $\varepsilon_{\mathrm{bias}}$",
        "logit_variance": r"variance of the mean logit  $\mathrm{var}$",
        "snapshot": r"epochs of training",
    }
)

DASHES = ((0, (5, 3)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1.5)))


def axis_label(column: str) -> str:
    """What an axis says of a column."""
    return AXIS_LABELS.get(column, column.replace("_", " "))


def reach(points: CellPoints, lines: Sequence[Line]) -> Limits:
    """The limits that hold all points and their whiskers, and each line over them.

    A line may stretch the vertical axis by two decades (a linear one by its length) on either side: one that
    misses the points by more would press them into a stripe.
    """
    x_ends, low, high = (
        (points.x_low.min(), points.x_high.max()),
        points.y_low.min(),
        points.y_high.max(),
    )
    least, most = (low / 100, high * 100) if points.log_y else (2 * low - high, 2 * high - low)
    drawn = [sample_line(line, x_ends, points, num=100)[1] for line in lines]
    ends = np.clip([low, high, *(end for y in drawn if len(y) for end in (y.min(), y.max()))], least, most)
    return (*padded(*x_ends, log=points.log_x), *padded(ends.min(), ends.max(), log=points.log_y))


def set_axes(axes: Axes, points: CellPoints, limits: Limits, *, room: float = np.inf) -> None:
    """Scales, limits, ticks and grid; `room` is the axes' width in inches where labels may have to thin."""
    x_low, x_high, y_low, y_high = limits
    _set_axis(axes.xaxis, x_low, x_high, log=points.log_x, room=room)
    _set_axis(axes.yaxis, y_low, y_high, log=points.log_y)
    axes.grid(which="major", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _set_axis(axis: Axis, low: float, high: float, *, log: bool, room: float = np.inf) -> None:
    if log:
        set_log_axis(axis, low, high, room=room)
    else:
        set_linear_axis(axis, low, high, room=room)


def draw_families(axes: Axes, points: CellPoints, families: Sequence[str]) -> list[Line2D]:
    """Draws each family that has a point, with the look of its place in `families`; their legend handles."""
    present = set(points.families)
    return [
        _draw_family(axes, points, index, family)
        for index, family in enumerate(families)
        if family in present
    ]


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
    drawn = look(index)
    colour, marker, hollow = drawn
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
        markersize=drawn.size,
        markerfacecolor="white" if hollow else colour,
        markeredgecolor=colour if hollow else "white",
        markeredgewidth=0.9 if hollow else 0.5,
        label=family or "all cells",
        zorder=3,
    )
    return handle


def draw_line(axes: Axes, line: Line, points: CellPoints, *, index: int = 0) -> Line2D:
    """Draws a theory curve across the axes, with dash pattern number `index`; its legend handle."""
    across, up = sample_line(line, axes.get_xlim(), points, num=200)
    (handle,) = axes.plot(
        across,
        up,
        color=INK,
        linewidth=0.9,
        linestyle=DASHES[index % len(DASHES)],
        label=line.label,
        zorder=1.8,
    )
    return handle


def sample_line(
    line: Line, ends: tuple[float, float], points: CellPoints, *, num: int
) -> tuple[np.ndarray, np.ndarray]:
    """At most `num` places along a theory curve: evenly spaced on the axis, less those it cannot show."""
    spaced: Callable = np.geomspace if points.log_x else np.linspace
    across = spaced(*ends, num)
    up = np.asarray(line.function(across))
    if up.shape != across.shape:
        raise TableError(
            f"got shape {up.shape} from the line {line.label!r} at {num} values of x; expected ({num},);"
            " compute one y for each x"
        )
    kept = np.isfinite(up) & ((up > 0) | (not points.log_y))
    return across[kept], up[kept]


def correlation(points: CellPoints) -> stats.Correlation | str:
    """Pearson's of the coordinates as the axes show them, with its interval, or why there is none."""
    if len(points.cells) < 3:
        return "needs 3 cells"
    across = np.log(points.x) if points.log_x else points.x
    up = np.log(points.y) if points.log_y else points.y
    if np.ptp(across) == 0 or np.ptp(up) == 0:
        return "needs cells that differ"
    return stats.pearson(across, up)


def left_out_note(points: CellPoints) -> str | None:
    """How many members are in no point, of how many; None if all are in one."""
    if not points.num_left_out:
        return None
    total = int(points.num_members.sum()) + points.num_left_out
    positive = " positive" if points.log_x and points.log_y else ""
    return f"{points.num_left_out} of {total} runs left out: diverged, or no finite{positive} value"
