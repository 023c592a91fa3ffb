"""What `compare` returns."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from jaxsens.measuring.rendering import Report, or_none, with_error
from jaxsens.measuring.specs import MeasureSpec

__all__ = ["Comparison", "Pair", "Ranked"]

# Of those that cannot be told apart, under the printed table.
_SHOWN_PAIRS = 10


@dataclasses.dataclass(frozen=True)
class Ranked:
    """One model among those compared."""

    name: str
    value: float
    """Of the measure; for an architecture over its seeds the mean, or the geometric mean of a ratio."""
    stderr: float | None
    """One standard error, of examples, seeds and Monte-Carlo together; None for an exact number."""
    best_rank: int | None
    """The ranks that the intervals leave open; None for a model that could not be ranked."""
    worst_rank: int | None
    tied_with: tuple[str, ...]
    """The models that the data cannot tell from this one."""
    num_seeds: int
    """1 for a trained network."""
    also: Mapping[str, tuple[float, float | None]] = dataclasses.field(default_factory=dict)
    """Value and standard error of other measures."""
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types; None for a number that is not finite."""
        return {
            "name": self.name,
            "value": or_none(self.value),
            "stderr": or_none(self.stderr),
            "best_rank": self.best_rank,
            "worst_rank": self.worst_rank,
            "tied_with": list(self.tied_with),
            "num_seeds": self.num_seeds,
            "also": {name: [or_none(v), or_none(error)] for name, (v, error) in self.also.items()},
            "reason": self.reason,
        }


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two models, the one of better value first: the other's value over its own, or less its own."""

    first: str
    second: str
    contrast: float
    low: float
    """The ends of the interval; those of all pairs hold together."""
    high: float
    p_value: float
    """Adjusted for the number of pairs."""
    told_apart: bool


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison(Report):
    """Models in the order of one measure, best first; `result["name"]` is one of them."""

    rows: tuple[Ranked, ...]
    pairs: tuple[Pair, ...]
    """All pairs of models that were ranked."""
    by: MeasureSpec
    confidence: float
    num_examples: int
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Ranked:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"got {name!r}; expected one of {', '.join(row.name for row in self.rows)}")

    @property
    def conclusions(self) -> tuple[str, ...]:
        """What the data tell and what they cannot, in words."""
        ranked = [row for row in self.rows if row.best_rank is not None]
        if len(ranked) < 2:
            return ("Fewer than two models could be ranked.",)
        best = [repr(row.name) for row in ranked if row.best_rank == 1]
        extreme = "least" if self.by.better == "smaller" else "greatest"
        if not any(pair.told_apart for pair in self.pairs):
            first = f"The data cannot tell any two of these models apart by {self.by.name}."
        elif len(best) == 1:
            first = f"{best[0]} has the {extreme} {self.by.name}."
        else:
            listed = f"{', '.join(best[:-1])} or {best[-1]}"
            first = f"The {extreme} {self.by.name} is that of {listed}; the data cannot tell which."
        return (first, *(self._in_words(pair) for pair in self.pairs if not pair.told_apart))

    def to_dict(self) -> dict[str, Any]:
        """Plain types: the models in order, all pairs, and what was compared."""
        pairs = [dataclasses.asdict(pair) for pair in self.pairs]
        ends = ("contrast", "low", "high")
        return {
            "by": self.by.name,
            "better": self.by.better,
            "contrast": "ratio" if self.by.ratio else "difference",
            "models": [row.to_dict() for row in self.rows],
            "pairs": [pair | {name: or_none(pair[name]) for name in ends} for pair in pairs],
            "confidence": self.confidence,
            "num_examples": self.num_examples,
            "settings": dict(self.settings),
            "conclusions": list(self.conclusions),
            "notes": list(self.notes),
        }

    def _records(self) -> list[dict[str, Any]]:
        return [
            {name: getattr(row, name) for name in (f.name for f in dataclasses.fields(row)) if name != "also"}
            | {name: value for name, (value, _) in row.also.items()}
            | {f"{name}_stderr": error for name, (_, error) in row.also.items()}
            for row in self.rows
        ]

    def table_rows(self) -> list[dict[str, str]]:
        """A row a model."""
        return [
            {
                "rank": _span(row),
                "model": row.name,
                self.by.name: with_error(row.value, row.stderr),
                "not told from": ", ".join(row.tied_with),
            }
            | {name: with_error(*found) for name, found in row.also.items()}
            for row in self.rows
        ]

    def footnotes(self) -> list[str]:
        """The conclusions, what was compared, and why a model has no place."""
        seeds = sorted({row.num_seeds for row in self.rows})
        of_seeds = f", {seeds[-1]} seeds each" if seeds[-1] > 1 else ""
        first, *open_pairs = self.conclusions
        more = len(open_pairs) - _SHOWN_PAIRS
        return [
            first,
            *open_pairs[:_SHOWN_PAIRS],
            *([f"... and {more} more pairs, see conclusions."] if more > 0 else []),
            f"{self.num_examples} examples, the same for all, with the same noise{of_seeds}. "
            f"+- is one standard error; ranks and intervals of all pairs hold together with "
            f"{100 * self.confidence:g}% confidence.",
            *(f"{row.name}: {row.reason}" for row in self.rows if row.reason),
            *self.notes,
        ]

    def _in_words(self, pair: Pair) -> str:
        if pair.low == pair.high:
            return f"{pair.first!r} and {pair.second!r} have one value."
        interval = f"{pair.contrast:#.3g} ({pair.low:#.3g} to {pair.high:#.3g})"
        differs = f"is {interval} times as large" if self.by.ratio else f"differs by {interval}"
        return f"The data cannot tell {pair.second!r} from {pair.first!r}: its {self.by.name} {differs}."


def _span(row: Ranked) -> str:
    if row.best_rank is None:
        return "none"
    return str(row.best_rank) if row.best_rank == row.worst_rank else f"{row.best_rank} to {row.worst_rank}"
