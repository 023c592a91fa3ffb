"""The numbers that a figure draws, one point per cell."""

from typing import NamedTuple

import numpy as np

from jaxsens.table import Table, TableError

__all__ = ["CellPoints", "figure_one_points"]


class CellPoints(NamedTuple):
    """One entry per cell, in the table's order; arrays of shape (cells,).

    `x` and `y` are geometric means over the cell's members, `_low` and `_high` their least and greatest.
    `scale` is NaN where the table gives none. `num_left_out` members are in no point.
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


def figure_one_points(table: Table, *, x: str = "sensitivity_after", y: str = "test_loss") -> CellPoints:
    """The points of a log-log figure: `exp(mean log x)` and `exp(mean log y)` over the members of each cell.

    The paper averages the logarithms (Forouzesh et al., captions of Figures 1 to 3), so that is a geometric
    mean. Left out and counted are members that diverged or have no finite, positive x or y; a cell
    without any other member has no point.

    Args:
        table: with the columns `cell`, x and y; `family`, `scale`, `seed` and `diverged` where there are any.
        x, y: names of columns.

    Raises:
        TableError: a column that is not there, a cell of several families or scales, a seed twice in a cell.
    """
    cell, across, up = table.column("cell"), table.column(x), table.column(y)
    family, scale = _optional(table, "family", ""), _optional(table, "scale", np.nan)
    seed = _optional(table, "seed", None)
    usable = ~table.diverged() & _has_logarithm(across) & _has_logarithm(up)
    rows = []
    for name in table.cells():
        members = cell == name
        _check_seeds(name, seed[members])
        one_family, one_scale = _one(name, "family", family[members]), _one(name, "scale", scale[members])
        used = members & usable
        if used.any():
            spreads = (*_spread(across[used]), *_spread(up[used]))
            rows.append((name, one_family, one_scale, *spreads, int(used.sum())))
    names, families, *numbers = zip(*rows, strict=True) if rows else [()] * 10
    return CellPoints(names, families, *map(np.array, numbers), num_left_out=int((~usable).sum()))


def _spread(values: np.ndarray) -> tuple[float, float, float]:
    """The geometric mean, the least and the greatest."""
    return float(np.exp(np.mean(np.log(values)))), float(values.min()), float(values.max())


def _has_logarithm(values: np.ndarray) -> np.ndarray:
    return np.isfinite(values) & (values > 0)


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
