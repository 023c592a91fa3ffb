"""The tables of docs/measuring.md, from the registry: python -m jaxsens.measuring.documentation."""

from collections.abc import Sequence

from jaxsens.measuring.registry import MEASURES
from jaxsens.measuring.specs import MeasureSpec

__all__ = ["limits_table", "measures_table"]


def measures_table() -> str:
    """What each measure is, what it needs and costs, and how well it ranked networks."""
    header = ("measure", "is", "paper", "of", "labels", "cost", "error over", "tau, 96", "tau, 575")
    return _markdown(header, [_row(spec) for spec in MEASURES.values()])


def limits_table() -> str:
    """What a larger value means, and when it misleads."""
    rows = [
        (f"`{spec.name}`", f"{spec.larger_means}", f"{spec.misleads} ([more]({spec.docs}))")
        for spec in MEASURES.values()
    ]
    return _markdown(("measure", "a larger value means", "misleads"), rows)


def _row(spec: MeasureSpec) -> tuple[str, ...]:
    taus = (spec.tau_error_gap, spec.tau_accuracy_gap)
    return (
        f"`{spec.name}`",
        f"{spec.label}: `{spec.call}`",
        spec.source,
        spec.applies_to,
        "yes" if spec.needs_labels else "no",
        spec.cost,
        spec.error,
        *("" if tau is None else f"{tau:.2f}" for tau in taus),
    )


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    print(f"{measures_table()}\n\n{limits_table()}")
