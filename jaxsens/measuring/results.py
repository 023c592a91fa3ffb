"""What `measure` returns."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jaxsens.measuring.passes import Pass
from jaxsens.measuring.rendering import Report, or_none, with_error

__all__ = ["Measurement", "Measurements"]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One number of one network."""

    name: str
    label: str
    value: float
    """NaN where there is none; `reason` says why."""
    stderr: float | None
    """One standard error. None for a number that is exact, NaN where there are too few examples for one."""
    error: str
    """What the error is over: "examples", "examples and noise", "perturbations", or "none"."""
    better: str | None
    needs_labels: bool
    num_examples: int | None
    """None for a number of the parameters alone."""
    seconds: float
    """Of its passes, which others may share; without compilation, but for sharpness."""
    passes: tuple[str, ...]
    docs: str
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.name} = {with_error(self.value, self.stderr)}" + (
            f" ({self.reason})" if self.reason else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types; None for a number that is not finite."""
        numbers = {name: or_none(getattr(self, name)) for name in ("value", "stderr")}
        return dataclasses.asdict(self) | numbers | {"passes": list(self.passes)}


@dataclasses.dataclass(frozen=True, repr=False)
class Measurements(Report):
    """The measurements of one network: iterate over them, or take `result["jacobian_norm"].value`."""

    rows: tuple[Measurement, ...]
    passes: tuple[Pass, ...]
    """The passes over the examples that were run, with their seconds."""
    num_examples: int
    num_outputs: int
    num_parameters: int
    settings: dict[str, Any]
    """The options that the numbers depend on."""
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Measurement:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"got {name!r}; expected one of {', '.join(row.name for row in self.rows)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain types: the measurements in order, the passes, and what was measured."""
        return {
            "measures": [row.to_dict() for row in self.rows],
            "passes": [found._asdict() for found in self.passes],
            "num_examples": self.num_examples,
            "num_outputs": self.num_outputs,
            "num_parameters": self.num_parameters,
            "settings": dict(self.settings),
            "notes": list(self.notes),
        }

    def _records(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(row) for row in self.rows]

    def table_rows(self) -> list[dict[str, str]]:
        """A row a measure."""
        return [
            {
                "measure": row.name,
                "value": with_error(row.value, row.stderr),
                "error over": _error(row),
                "better": row.better or "",
                "labels": "yes" if row.needs_labels else "no",
                "pass": "+".join(row.passes),
                "seconds": f"{row.seconds:.2g}" if row.passes else "",
            }
            for row in self.rows
        ]

    def footnotes(self) -> list[str]:
        """What was measured, what +- means, the passes, and why a number is missing."""
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        lines = [
            f"{self.num_examples} examples, {self.num_outputs} outputs, {self.num_parameters:,} parameters; "
            f"{settings}",
            "+- is one standard error, of the examples as a sample from a larger population, or of a "
            "Monte-Carlo over perturbations.",
        ]
        if self.passes:
            lines.append(f"Passes, shared by the rows that name them: {'; '.join(map(_spent, self.passes))}")
        lines += [f"{row.name}: {row.reason}" for row in self.rows if row.reason]
        return [*lines, *self.notes]


def _error(row: Measurement) -> str:
    if row.num_examples is None or row.error == "perturbations":
        return row.error
    return f"{row.num_examples} {row.error}"


def _spent(found: Pass) -> str:
    compiling = (
        "with compilation" if found.compile_seconds is None else f"and {found.compile_seconds:.2g} compiling"
    )
    return f"{found.name} {found.seconds:.2g} s {compiling}"
