"""One panel of a figure: what it shows, in which limits, and what is said of it."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxsens.plotting.axes import correlation
from jaxsens.plotting.equations import Line
from jaxsens.plotting.points import CellPoints, Limits, figure_one_points, select
from jaxsens.table import Table, TableError

__all__ = ["Panel", "PanelPoints", "correlation_line", "points_of"]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel: a point per `cell` of its table, drawn as in `figure_one_points`.

    Attributes:
        table: as for `figure_one_points`; one colour and marker per `family`.
        title: such as "(a) convolutions against dense layers".
        x, y: names of columns.
        lines: theory curves over the points.
        paper_correlation: the published coefficient, quoted beside the measured one.
        marks: cell -> short text: a ring around the cell's point, and the text beside it.
        limits: x_low, x_high, y_low, y_high of a zoom: points outside are not drawn, and the correlation
            is that of the points inside, and says so.
        frame: a rectangle to draw, such as the limits of another panel.
        log_x, log_y: False for plain means and a linear axis.
        x_label, y_label: in place of the column's own label.
    """

    table: Table
    title: str = ""
    x: str = "sensitivity_after"
    y: str = "test_loss"
    lines: tuple[Line, ...] = ()
    paper_correlation: float | None = None
    marks: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    limits: Limits | None = None
    frame: Limits | None = None
    log_x: bool = True
    log_y: bool = True
    x_label: str | None = None
    y_label: str | None = None

    def __post_init__(self) -> None:
        _check_rectangle("limits", self.limits, self)
        _check_rectangle("frame", self.frame, self)


class PanelPoints(NamedTuple):
    """The points of a panel: all, and those inside its limits."""

    all: CellPoints
    shown: CellPoints


def points_of(panel: Panel) -> PanelPoints:
    """The points of a panel's table, and those that its limits leave."""
    points = figure_one_points(panel.table, x=panel.x, y=panel.y, log_x=panel.log_x, log_y=panel.log_y)
    return PanelPoints(points, points if panel.limits is None else select(points, panel.limits))


def correlation_line(points: PanelPoints, panel: Panel) -> str:
    """Pearson's coefficient of the points shown, its interval, their number, and the published one."""
    found = correlation(points.shown)
    total, inside = len(points.all.cells), len(points.shown.cells)
    count = f"n = {inside} of {total}, those inside" if inside < total else f"n = {total}"
    if isinstance(found, str):
        said = rf"$\rho$: {found}, {count}"
    else:
        said = rf"$\rho$ = {found.value:.2f} [{found.low:.2f}, {found.high:.2f}], {count}"
    paper = panel.paper_correlation
    return said if paper is None else f"{said}; paper {paper:.2f}"


def _check_rectangle(name: str, rectangle: Limits | None, panel: Panel) -> None:
    if rectangle is None:
        return
    if len(rectangle) != 4:
        raise TableError(
            f"got {len(rectangle)} numbers as {name}; expected 4; pass x_low, x_high, y_low, y_high"
        )
    for axis, log, low, high in (("x", panel.log_x, *rectangle[:2]), ("y", panel.log_y, *rectangle[2:])):
        if not (np.isfinite([low, high]).all() and low < high and (low > 0 or not log)):
            kind = "positive and rising" if log else "rising"
            raise TableError(
                f"got {name} from {low} to {high} along {axis}; expected finite numbers, {kind};"
                " pass x_low, x_high, y_low, y_high"
            )
