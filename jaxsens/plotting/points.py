"""The numbers that a figure draws, one point per cell."""

from collections.abc import Callable, Collection
from typing import NamedTuple, TypeAlias

import numpy as np

from jaxsens.table import Table, TableError, Value

__all__ = ["CellPoints", "Limits", "figure_one_points", "padded", "relabel", "select", "zoom_limits"]

Limits: TypeAlias = tuple[float, float, float, float]
"""A rectangle in data coordinates: x_low, x_high, y_low, y_high."""


class CellPoints(NamedTuple):
    """One entry per cell, in the table's order; arrays of shape (cells,).

    `x` and `y` are means over the cell's members, geometric ones on a logarithmic axis; `_low` and `_high`
    are the least and greatest member. `scale` is NaN where the table gives none. `num_left_out` members are
    in no point.
    """

    cells: tuple[str, ...]
    families: tuple[str, ...]
    scale: np.ndarray
    x: np.ndarray
    x_low: np.ndarray
    x_high: np.ndarray
    y: np.ndarray
    y_low: np.ndarray
    y_high: np.ndarray
    num_members: np.ndarray
    num_left_out: int
    log_x: bool = True
    log_y: bool = True


def figure_one_points(
    table: Table,
    *,
    x: str = "sensitivity_after",
    y: str = "test_loss",
    log_x: bool = True,
    log_y: bool = True,
) -> CellPoints:
    """The points of a log-log figure: `exp(mean log x)` and `exp(mean log y)` over the members of each cell.

    The paper averages the logarithms (Forouzesh et al., captions of Figures 1 to 3), so that is a geometric
    mean. Left out and counted are members that diverged or have no finite, positive x or y; a cell
    without any other member has no point. A table without rows has no points.

    Args:
        table: with the columns `cell`, x and y; `family`, `scale`, `seed` and `diverged` where there are any.
        x, y: names of columns.
        log_x, log_y: False for plain means and a linear axis, where any finite number has a place.

    Raises:
        TableError: a column that is not there or holds no numbers, a cell of several families or scales, a
            seed twice in a cell.
    """
    if not len(table):
        empty = (np.zeros(0) for _ in range(8))
        return CellPoints((), (), *empty, num_left_out=0, log_x=log_x, log_y=log_y)
    cell, across, up = table.column("cell"), _numbers(table, x), _numbers(table, y)
    family, scale = _optional(table, "family", ""), _optional(table, "scale", np.nan)
    seed = _optional(table, "seed", None)
    usable = ~table.diverged() & _has_place(across, log=log_x) & _has_place(up, log=log_y)
    rows = []
    for name in table.cells():
        members = cell == name
        _check_seeds(name, seed[members])
        one_family, one_scale = _one(name, "family", family[members]), _one(name, "scale", scale[members])
        used = members & usable
        if used.any():
            spreads = (*_spread(across[used], log=log_x), *_spread(up[used], log=log_y))
            rows.append((name, one_family, one_scale, *spreads, int(used.sum())))
    names, families, *numbers = zip(*rows, strict=True) if rows else [()] * 10
    arrays, left_out = map(np.array, numbers), int((~usable).sum())
    return CellPoints(names, families, *arrays, num_left_out=left_out, log_x=log_x, log_y=log_y)


def select(points: CellPoints, limits: Limits) -> CellPoints:
    """The points whose means lie inside the limits, ends included; `num_left_out` stays."""
    x_low, x_high, y_low, y_high = limits
    inside = (x_low <= points.x) & (points.x <= x_high) & (y_low <= points.y) & (points.y <= y_high)
    arrays = {
        name: value[inside] for name, value in points._asdict().items() if isinstance(value, np.ndarray)
    }
    kept = np.flatnonzero(inside)
    return points._replace(
        cells=tuple(points.cells[index] for index in kept),
        families=tuple(points.families[index] for index in kept),
        **arrays,
    )


def zoom_limits(points: CellPoints, families: Collection[str]) -> Limits | None:
    """The rectangle around the points of some families with their whiskers, and the margin of a whole figure.

    For `Panel.frame` in the panel of all points and `Panel.limits` in the one that shows a part of them.
    None, which both take, where none of these families has a point yet.
    """
    members = np.array([name in families for name in points.families], dtype=bool)
    if not members.any():
        return None
    x_low, x_high, y_low, y_high = (
        column[members] for column in (points.x_low, points.x_high, points.y_low, points.y_high)
    )
    return (
        *padded(x_low.min(), x_high.max(), log=points.log_x),
        *padded(y_low.min(), y_high.max(), log=points.log_y),
    )


def padded(low: float, high: float, *, log: bool = True) -> tuple[float, float]:
    """The range with 6 % of its length as the axis shows it on either side, and 5 % of its value at least."""
    if log:
        margin = max((high / low) ** 0.06, 1.05)
        return float(low / margin), float(high * margin)
    # The last is for a range that is nothing but zero.
    margin = max(0.06 * (high - low), 0.05 * (abs(low) + abs(high)) / 2) or 1.0
    return float(low - margin), float(high + margin)


def relabel(table: Table, **columns: Callable[[dict], Value]) -> Table:
    """A new table whose named columns, old or new, are computed from each row.

    Each function gets the row as it was, a dict with every column, so their order does not matter:
    `relabel(table, family=lambda row: f"{row['family']} {row['regularization']}")`.

    Raises:
        TableError: a value of another type than its column's.
    """
    names = dict.fromkeys((*table.columns, *columns))
    if not len(table):
        # One row of nothing, taken away again: an unfinished sweep keeps its columns.
        return Table(Table.from_rows([names]).arrow.slice(0, 0))
    return Table.from_rows(
        row | {name: compute(dict(row)) for name, compute in columns.items()} for row in table.rows()
    )


def _numbers(table: Table, name: str) -> np.ndarray:
    column = table.column(name)
    if column.dtype.kind not in "fiu":
        raise TableError(
            f"got column {name!r} without numbers; expected one to measure along an axis;"
            " name a column of numbers"
        )
    return column


def _spread(values: np.ndarray, *, log: bool) -> tuple[float, float, float]:
    """The mean, geometric if asked, the least and the greatest."""
    low, high = float(values.min()), float(values.max())
    mean = np.exp(np.mean(np.log(values))) if log else np.mean(values)
    # A number that all members share is its own mean; rounding would give it a whisker.
    return min(max(float(mean), low), high), low, high


def _has_place(values: np.ndarray, *, log: bool) -> np.ndarray:
    return np.isfinite(values) & (values > 0) if log else np.isfinite(values)


def _optional(table: Table, name: str, default: object) -> np.ndarray:
    if name not in table.columns:
        return np.full(len(table), default)
    column = table.column(name)
    return np.array([default if value is None else value for value in column], dtype=column.dtype)


def _one(cell: str, name: str, values: np.ndarray) -> object:
    # NaN differs from itself, but is one answer here: no scale was given.
    distinct = {None if value != value else value for value in values.tolist()}
    if len(distinct) > 1:
        raise TableError(
            f"got {len(distinct)} values of {name!r} in cell {cell!r}; expected one;"
            " give different cells different names"
        )
    return values[0]


def _check_seeds(cell: str, seeds: np.ndarray) -> None:
    given = [seed for seed in seeds.tolist() if seed is not None and seed == seed]
    if len(set(given)) < len(given):
        raise TableError(
            f"got a seed twice in cell {cell!r}; expected one row per cell and seed; drop the rows read twice"
        )
