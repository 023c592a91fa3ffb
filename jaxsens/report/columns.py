"""A table's columns as the page gets them: named in words, sorted by kind, each value once."""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from jaxsens.plotting import relabel
from jaxsens.plotting.axes import axis_label
from jaxsens.table import COLUMNS, Table, TableError, Value, text_to_counts, text_to_image, text_to_numbers

__all__ = ["Entry", "check_rows", "describe_columns", "encode_values", "in_words", "with_gaps"]

Entry = dict[str, Any]
"""One column: `name`, `label`, `kind`, and `values`, or `texts` with the `codes` that index them."""

# What stands before the seed says which network it is; what stands after it was found out.
_SETTINGS = frozenset(list(COLUMNS)[: list(COLUMNS).index("seed")])

GAPS: Mapping[str, Callable[[dict], Value]] = {
    "loss_gap": lambda row: _difference(row["test_loss"], row["train_loss"]),
    "error_gap": lambda row: _difference(row["train_accuracy"], row["test_accuracy"]),
}
"""Test minus training loss, and the same of the error: what a measure of generalisation is to tell."""


def with_gaps(table: Table) -> Table:
    """The table with the columns of `GAPS`, where it has what they need and no such column of its own."""
    needed = {"loss_gap": ("train_loss", "test_loss"), "error_gap": ("train_accuracy", "test_accuracy")}
    added = {
        name: compute
        for name, compute in GAPS.items()
        if name not in table.columns and all(_is_numeric(table, column) for column in needed[name])
    }
    return relabel(table, **added) if added and len(table) else table


def check_rows(table: Table) -> None:
    """Refuses a seed that is twice in one cell at one epoch, which a mean would count twice."""
    names = [name for name in ("cell", "snapshot", "seed") if name in table.columns]
    if not {"cell", "seed"} <= set(names):
        return
    seen = set()
    for row in table.rows():
        key = tuple(row[name] for name in names)
        if key in seen and row["seed"] is not None:
            raise TableError(
                f"got seed {row['seed']} twice in cell {row['cell']!r}; expected one row per cell and seed;"
                " drop the rows read twice"
            )
        seen.add(key)


def describe_columns(table: Table, settings: Collection[str]) -> tuple[list[Entry], list[str]]:
    """The columns to show, and why each of the others is not, a line each.

    The kinds are "id" (cell, seed, snapshot, diverged), "setting" (texts, and the names in `settings`),
    "measure", "error" (standard errors) and "time". Not shown are columns without a value, settings that are
    the same in all rows, and curves and pictures packed into text.
    """
    entries, left_out = [], []
    for name in table.columns:
        values = table.arrow[name].to_pylist()
        known = [value for value in values if value is not None]
        first = known[0] if known else None
        kind = _kind(name, settings, text=isinstance(first, str | bool))
        if not known and kind != "id":
            left_out.append(f"{name}: no value")
        elif kind != "id" and isinstance(first, str) and _is_packed(first):
            left_out.append(f"{name}: a curve, counts or a picture")
        elif kind == "setting" and len(values) > 1 and len(known) == len(values) and len(set(known)) == 1:
            left_out.append(f"{name}: {first} in all rows")
        else:
            label = in_words(name)
            if any(label == entry["label"] for entry in entries):  # two kinds of test loss
                label = name.replace("_", " ")
            entries.append({"name": name, "label": label, "kind": kind, **encode_values(values)})
    return entries, left_out


def encode_values(values: Sequence[Value]) -> Entry:
    """Numbers as they are, but "nan", "inf" and "-inf", which JSON lacks; texts once each, with codes."""
    if all(isinstance(value, int | float | None) and not isinstance(value, bool) for value in values):
        return {"values": [_json_number(value) for value in values]}
    plain = [str(value).lower() if isinstance(value, bool) else value for value in values]
    texts = list(dict.fromkeys(value for value in plain if value is not None))
    codes = {text: code for code, text in enumerate(texts)}
    return {"texts": texts, "codes": [-1 if value is None else codes[value] for value in plain]}


def in_words(name: str) -> str:
    """What the figures call a column, without their mathematics: "sensitivity after training"."""
    gaps = {"loss_gap": "test minus training loss", "error_gap": "test minus training error"}
    label = gaps.get(name) or axis_label(name)
    # A symbol behind the words goes, one among them stays as its letter.
    return re.sub(r"\$(\w).*?\$", r"\1", label.partition("  $")[0])


def _kind(name: str, settings: Collection[str], *, text: bool) -> str:
    if name in ("cell", "seed", "snapshot", "diverged"):
        return "id"
    if "_stderr" in name:
        return "error"
    if name.endswith("_seconds"):
        return "time"
    return "setting" if text or name in _SETTINGS or name in settings else "measure"


def _is_numeric(table: Table, name: str) -> bool:
    return name in table.columns and table.column(name).dtype.kind in "fiu"


def _difference(first: int | float | None, second: int | float | None) -> float | None:
    return None if first is None or second is None else float(first - second)


def _json_number(value: Any) -> int | float | str | None:
    return value if value is None or math.isfinite(value) else str(float(value))


def _is_packed(text: str) -> bool:
    """Whether it is a curve, a histogram or a picture; "64 32", whole numbers, is a name."""
    for read in (text_to_numbers, text_to_counts, text_to_image):
        try:
            read(text)
        except TableError:
            continue
        return ":" in text or (" " in text and not text.replace(" ", "").isdigit())
    return False
