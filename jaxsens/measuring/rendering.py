"""Results as text, HTML, JSON and data frames."""

import json
import math
from abc import ABC, abstractmethod
from typing import Any

from tabulate import tabulate

__all__ = ["Report", "or_none", "with_error"]


def with_error(value: float, stderr: float | None) -> str:
    """Two digits of the error, and the value to the same place: 0.1234 +- 0.0056. Four digits where exact."""
    if not math.isfinite(value):
        return "none"
    if stderr is None:
        return f"{value:.4g}"
    if not math.isfinite(stderr):
        return f"{value:.4g} +- ?"
    if stderr == 0:
        return f"{value:.4g} +- 0"
    exponent = math.floor(math.log10(stderr))
    size = max(exponent, math.floor(math.log10(abs(value))) if value else exponent)
    if not (-4 <= size <= 5 and exponent >= -9):
        return f"{value:.{size - exponent + 1}e} +- {stderr:.1e}"
    places = max(0, 1 - exponent)
    return f"{value:.{places}f} +- {stderr:.{places}f}"


def or_none(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return None if value is None or not math.isfinite(value) else float(value)


class Report(ABC):
    """A result that prints as a table with notes under it."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All of the result in plain types. A number that is not finite is None, and a reason is given."""

    @abstractmethod
    def table_rows(self) -> list[dict[str, str]]:
        """The rows that are shown, as texts by the column's name."""

    @abstractmethod
    def _records(self) -> list[dict[str, Any]]:
        """The rows of a data frame."""

    @abstractmethod
    def footnotes(self) -> list[str]:
        """The lines under the table."""

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=indent)

    def to_pandas(self) -> Any:
        """A data frame with one row for each row of the table. Needs pandas."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas, or use to_dict()") from error
        return pandas.DataFrame(self._records())

    def __str__(self) -> str:
        table = tabulate(self.table_rows(), headers="keys", tablefmt="simple", disable_numparse=True)
        return "\n".join([table, "", *self.footnotes()])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        table = tabulate(self.table_rows(), headers="keys", tablefmt="html", disable_numparse=True)
        notes = tabulate([[note] for note in self.footnotes()], tablefmt="html", disable_numparse=True)
        return f"{table}\n{notes}"
