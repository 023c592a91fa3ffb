"""Rows of results, typed by column.

A row is a plain dict from column to str, int, float, bool or None, for one cell (a configuration) and one
seed. Nothing here imports JAX, so that a figure can be redrawn on a machine without it.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

__all__ = ["COLUMNS", "Table", "TableError", "Value", "concatenate"]

Value: TypeAlias = str | int | float | bool | None

COLUMNS: Mapping[str, type] = MappingProxyType(
    {
        "experiment": str,
        "cell": str,
        "family": str,
        "model": str,
        "hidden_layers": int,
        "scale": float,
        "width": int,
        "init": str,
        "regularization": str,
        "dataset": str,
        "num_train": int,
        "image_size": int,
        "inputs": str,
        "max_epochs": int,
        "noise_std": float,
        "num_outputs": int,
        "input_second_moment": float,
        "num_params": int,
        "seed": int,
        # The epoch of a measurement on the way; None at the end of training.
        "snapshot": int,
        "epochs": int,
        "train_loss": float,
        "train_accuracy": float,
        "test_loss": float,
        "test_accuracy": float,
        "sensitivity_before": float,
        "sensitivity_before_stderr": float,
        "sensitivity_after": float,
        "sensitivity_after_stderr": float,
        "sensitivity_train": float,
        "sensitivity_train_stderr": float,
        "sensitivity_after_softmax": float,
        "sensitivity_after_softmax_stderr": float,
        "linearized_sensitivity_after": float,
        "jacobian_norm_before_softmax": float,
        "jacobian_norm_after_softmax": float,
        # B, C: of the ReLU perceptron with batch normalisation folded in. Logarithms are natural.
        "tangent_sensitivity_train": float,
        "tangent_sensitivity_test": float,
        "tangent_sensitivity_all_train": float,
        "tangent_sensitivity_all_test": float,
        "log_tangent_norm_bound": float,
        "log_active_path_bound": float,
        "log_active_path_bound_as_printed": float,
        "log_region_bound": float,
        "num_weights": int,
        "num_hidden_units": int,
        "active_mean_train": float,
        "active_std_train": float,
        "active_mean_test": float,
        "active_std_test": float,
        "largest_weight": float,
        "log_layerwise_norm": float,
        "log_spectral_product": float,
        "log_psi_star_train": float,
        "log_psi_star_test": float,
        "log_empirical_soft_train": float,
        "log_empirical_soft_test": float,
        "jacobian_norm_train": float,
        "jacobian_norm_test": float,
        "fisher_rao_norm_train": float,
        "fisher_rao_norm_test": float,
        # Histograms, see `counts_to_text`.
        "active_counts_train": str,
        "active_counts_test": str,
        "temperature": float,
        "test_loss_calibrated": float,
        "sensitivity_after_calibrated": float,
        "wall_seconds": float,
        # Seconds per 1000 examples, compilation apart.
        "sensitivity_seconds": float,
        "jacobian_norm_seconds": float,
        "linearized_sensitivity_seconds": float,
        "diverged": bool,
        # One value per cell, repeated on each of its rows.
        "bias": float,
        "variance": float,
        "variance_unbiased": float,
        "mse_loss": float,
        "logit_variance": float,
        "predicted_loss": float,
        "predicted_sensitivity_before": float,
    }
)
"""The columns that every experiment shares, in the order in which they are written."""

ARROW_TYPES: Mapping[type, pa.DataType] = MappingProxyType(
    {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(), type(None): pa.null()}
)


class TableError(ValueError):
    """Rows, a configuration or a file that cannot be used, said in one line."""


def refuse(got: str, expected: str, remedy: str) -> TableError:
    """The error to raise: `got X; expected Y; do Z`."""
    return TableError(f"got {got}; expected {expected}; {remedy}")


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Rows under named, typed columns. Never changed in place: each method gives a new table or plain values.

    Missing values (None) and NaN are kept apart in the table and in its files; `column` gives both as NaN.
    """

    arrow: pa.Table

    @staticmethod
    def from_rows(rows: Iterable[Mapping[str, object]]) -> "Table":
        """The table of these rows.

        A column that a row lacks is None there. The columns of `COLUMNS` come first, in that order and with
        those types; any others follow as they first appear, with the type that holds all their values
        (whole numbers among floats become floats). NumPy scalars count as Python's.

        Raises:
            TableError: a value of another type than its column's, or of none of the five types.
        """
        listed = [dict(row) for row in rows]
        seen = dict.fromkeys(name for row in listed for name in row)
        names = [name for name in COLUMNS if name in seen] + [name for name in seen if name not in COLUMNS]
        arrays = [_typed(name, [row.get(name) for row in listed]) for name in names]
        return Table(pa.Table.from_arrays(arrays, names=names))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self.arrow.column_names)

    def __len__(self) -> int:
        return self.arrow.num_rows

    def __eq__(self, other: object) -> bool:
        """Same columns, types and values in the same order; a NaN equals a NaN, and None only None."""
        if not isinstance(other, Table):
            return NotImplemented
        if not self.arrow.schema.equals(other.arrow.schema) or len(self) != len(other):
            return False
        return all(
            _same(mine, theirs) for mine, theirs in zip(self.arrow.columns, other.arrow.columns, strict=True)
        )

    def column(self, name: str) -> np.ndarray:
        """One column, shape (rows,): float64 (None as NaN), int64 (float64 if any is None), bool or object.

        Raises:
            TableError: there is no such column.
        """
        self._check_has(name)
        column = self.arrow[name]
        return (column.cast(pa.float64()) if pa.types.is_null(column.type) else column).to_numpy()

    def rows(self) -> list[dict[str, Value]]:
        """The rows as plain dicts, every column in each."""
        return self.arrow.to_pylist()

    def where(self, **equal_to: Value | Sequence[Value]) -> "Table":
        """The rows whose named columns equal the given values; a tuple or list means any one of these.

        `table.where(family="VGG13", seed=(0, 1))`. Raises TableError for an unknown column.
        """
        keep = np.ones(len(self), dtype=bool)
        for name, wanted in equal_to.items():
            self._check_has(name)
            options = set(wanted) if isinstance(wanted, tuple | list) else {wanted}
            keep &= np.array([value in options for value in self.arrow[name].to_pylist()], dtype=bool)
        return Table(self.arrow.filter(pa.array(keep)))

    def cells(self) -> tuple[str, ...]:
        """The names of the cells, in the order in which they first appear."""
        self._check_has("cell")
        return tuple(dict.fromkeys(self.arrow["cell"].to_pylist()))

    def aggregate(self, *, values: Sequence[str], by: str = "cell", keep: Sequence[str] = ()) -> "Table":
        """One row per distinct `by`: statistics over the members that did not diverge.

        The columns are `by`, those of `keep`, `num_members` (with the diverged ones), `num_diverged`, and
        for each value v: `v_mean`, `v_min`, `v_max`, `v_std` and `v_count`. `v_count` says how many members
        the statistics are over: None, NaN and infinities are left out as well. `v_std` divides by
        `v_count - 1`. What is not defined (a mean of none, a deviation of one) is None.

        Raises:
            TableError: an unknown column, one without numbers, or one of `keep` that varies within a group.
        """
        for name in (by, *keep, *values):
            self._check_has(name)
        columns = {name: _numbers(name, self.column(name)) for name in values}
        keys = self.arrow[by].to_pylist()
        kept = {name: self.arrow[name].to_pylist() for name in keep}
        diverged = self.diverged()
        groups: dict[Value, list[int]] = {}
        for index, value in enumerate(keys):
            groups.setdefault(value, []).append(index)
        rows = []
        for value, indices in groups.items():
            row = {by: value} | {name: _only(name, value, [kept[name][i] for i in indices]) for name in keep}
            row |= {"num_members": len(indices), "num_diverged": int(diverged[indices].sum())}
            trained = np.array(indices)[~diverged[indices]]
            for name, numbers in columns.items():
                row |= _statistics(name, numbers[trained])
            rows.append(row)
        return Table.from_rows(rows)

    def diverged(self) -> np.ndarray:
        """Which rows say that their training diverged, shape (rows,); without that column, none."""
        if "diverged" not in self.columns:
            return np.zeros(len(self), dtype=bool)
        return np.array([value is True for value in self.arrow["diverged"].to_pylist()], dtype=bool)

    def _check_has(self, name: str) -> None:
        if name not in self.columns:
            near = difflib.get_close_matches(name, self.columns, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else "measure it first, or name another column"
            raise refuse(f"column {name!r}", f"one of {', '.join(self.columns) or 'no columns'}", remedy)


def concatenate(tables: Sequence[Table]) -> Table:
    """The rows of all tables, in order, under the union of their columns (None where a table lacks one).

    Raises:
        TableError: a column of two types that no third holds, such as text and numbers.
    """
    return Table.from_rows(row for table in tables for row in table.rows())


def _typed(name: str, values: Sequence[object]) -> pa.Array:
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    found = {type(value) for value in plain} - {type(None)}
    if not found <= ARROW_TYPES.keys():
        strange = ", ".join(sorted(kind.__name__ for kind in found - ARROW_TYPES.keys()))
        raise refuse(
            f"a value of type {strange} in column {name!r}",
            "str, int, float, bool or None",
            "convert it first, an array of one number with float(value)",
        )
    wanted: Any = COLUMNS.get(name) or _common(found)
    accepted = {int, float} if wanted is float else {wanted}
    if not found <= accepted:
        listed = " and ".join(sorted(kind.__name__ for kind in found))
        one = getattr(wanted, "__name__", "one type")
        raise refuse(
            f"{listed} in column {name!r}", f"{one} only", "convert the values, or rename the column"
        )
    try:
        return pa.array(plain, type=ARROW_TYPES[wanted])
    except (OverflowError, pa.ArrowInvalid) as error:
        raise refuse(
            f"a number too large for column {name!r}", "64 bits at most", "write it as text or as a float"
        ) from error


def _common(found: set[type]) -> type | None:
    """The one type that holds values of all these types; None where there is not one."""
    if not found:
        return type(None)
    if found == {int, float}:
        return float
    return next(iter(found)) if len(found) == 1 else None


def _same(mine: pa.ChunkedArray, theirs: pa.ChunkedArray) -> bool:
    missing, also_missing = (column.is_null().to_numpy() for column in (mine, theirs))
    if not np.array_equal(missing, also_missing):
        return False
    numeric = pa.types.is_floating(mine.type)
    return np.array_equal(mine.drop_null().to_numpy(), theirs.drop_null().to_numpy(), equal_nan=numeric)


def _numbers(name: str, column: np.ndarray) -> np.ndarray:
    if column.dtype.kind not in "fiu":
        raise refuse(
            f"column {name!r} without numbers", "a column of numbers", "name it in keep, not in values"
        )
    return column.astype(np.float64)


def _only(name: str, group: Value, values: Sequence[Value]) -> Value:
    if len(set(values)) != 1:
        raise refuse(
            f"{len(set(values))} values of {name!r} within {group!r}",
            "one",
            "leave it out of keep, or group by it",
        )
    return values[0]


def _statistics(name: str, numbers: np.ndarray) -> dict[str, Value]:
    used = numbers[np.isfinite(numbers)]
    some, several = used.size > 0, used.size > 1
    return {
        f"{name}_mean": float(used.mean()) if some else None,
        f"{name}_min": float(used.min()) if some else None,
        f"{name}_max": float(used.max()) if some else None,
        f"{name}_std": float(used.std(ddof=1)) if several else None,
        f"{name}_count": int(used.size),
    }
