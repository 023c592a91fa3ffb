"""The record of the benchmarks as Markdown tables, and as lines while it is made."""

from collections.abc import Iterator, Mapping
from typing import Any

from groups import GROUPS
from tabulate import tabulate
from targets import judge

__all__ = ["generated", "line_of", "updated"]

BEGIN = "<!-- From here on written by benchmarks/run.py out of benchmarks/results.json. -->"
END = "<!-- Up to here. -->"
NOT_MEASURED = "Not measured yet."
# An exponent differs from the expected one by more than this, and by more than twice its standard error.
_LEAST_DIFFERENCE = 0.1


def updated(page: str, results: Mapping[str, Any]) -> str:
    """The page with what is between its two marks written anew."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"a page without the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{generated(results)}\n{END}{after}"


def generated(results: Mapping[str, Any]) -> str:
    """Targets, then a section for each group."""
    parts = ["## Targets", _targets(results)]
    for group, title in GROUPS.items():
        parts += [f"## {title}", *_section(results.get(group))]
    return "\n\n".join(parts) + "\n"


def line_of(record: Mapping[str, Any]) -> list[str]:
    """What is said of a row as soon as it is measured."""
    lines = [f"{record['row']} (seconds: {record['unit']})"]
    for name, way in record["ways"].items():
        ratios = [r for r in record["ratios"] if r["peer"] == name]
        against = "".join(f"; {_times(r)} by {r['ours']}" for r in ratios)
        lines.append(f"  {name}: {seconds(way['median'])}{against}")
    return lines


def _targets(results: Mapping[str, Any]) -> str:
    words = {True: "yes", False: "no", None: "not measured"}
    rows = [
        (
            found.target.text,
            f"at {'least' if found.target.at_least else 'most'} {found.target.asked:,g} {found.target.unit}",
            "" if found.value is None else f"{three_digits(found.value)} {found.target.unit}",
            words[found.reached],
        )
        for found in judge(results)
    ]
    return _table(rows, ("target", "asked", "found", "reached"))


def _section(group: Mapping[str, Any] | None) -> Iterator[str]:
    if group is None:
        yield NOT_MEASURED
        return
    yield _where(group["provenance"])
    rows = group["rows"]
    if any("growth" in row for row in rows):
        columns = ("what", "grows with", "from", "to", "exponent", "fitted from", "expected", "what bends it")
        yield _table([_growth(row) for row in rows], columns)
        return
    columns = ("what", "ours", "takes", "peer", "takes", "times as fast, least to most")
    yield _table([line for row in rows for line in _speed(row)], columns)
    columns = ("what", "way", "compilation", "first call", "temporary memory", "peak memory", "taken")
    yield _table([line for row in rows for line in _costs(row)], columns)


def _where(provenance: Mapping[str, Any]) -> str:
    packages = ", ".join(
        f"{name} {version}"
        for name, version in provenance["packages"].items()
        if name in ("jax", "flax", "torch", "numpy", "scipy") and version
    )
    commit = "no checkout" if provenance["commit"] is None else f"commit {provenance['commit'][:10]}"
    changes = ", with changes" if provenance["dirty"] else ""
    memory = provenance["memory_bytes"]
    return (
        f"*{provenance['processor']}, {provenance['cores']} cores"
        + (f", {memory / 1e9:.0f} GB" if memory else "")
        + f", {provenance['system']}; Python {provenance['python']}, {packages}; {commit}{changes}; "
        f"load average {provenance['load_average_at_start'][0]:g} at the start.*"
    )


def _speed(row: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    what = f"{row['row']}: {row['unit']}"
    ways = row["ways"]
    for ratio in row["ratios"]:
        ours, peer = ratio["ours"], ratio["peer"]
        yield what, ours, seconds(ways[ours]["median"]), peer, seconds(ways[peer]["median"]), _times(ratio)
    for name, way in ways.items():
        if way["role"] == "ours":
            for absent in row["absent"]:
                yield what, name, seconds(way["median"]), f"{absent}: not installed", "", ""
            if row["no_peer"]:
                yield what, name, seconds(way["median"]), f"no peer: {row['no_peer']}", "", ""


def _costs(row: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, way in row["ways"].items():
        tried = way.get("tried", {})
        yield (
            row["row"],
            name,
            seconds(way["compile_seconds"]),
            seconds(way["first_call_seconds"]),
            size(way["temporary_bytes"]),
            size(way.get("peak_bytes")),
            f"{min(tried, key=tried.__getitem__)}, of {len(tried)}" if len(tried) > 1 else "",
        )


def _growth(row: Mapping[str, Any]) -> tuple[str, ...]:
    found = row["growth"]
    difference = abs(found["exponent"] - found["expected"])
    differs = difference > max(_LEAST_DIFFERENCE, 2 * found["stderr"])
    return (
        row["row"],
        found["size"],
        f"{found['sizes'][0]:,}",
        f"{found['sizes'][-1]:,}",
        f"{found['exponent']:.2f} +- {found['stderr']:.2f}",
        f"{found['fitted'][0]:,}",
        f"{found['expected']:g}",
        found["why"] if differs else "",
    )


def _times(ratio: Mapping[str, float]) -> str:
    least, most = three_digits(ratio["least"]), three_digits(ratio["most"])
    spread = "once" if least == most else f"{least} to {most}"
    return f"{three_digits(ratio['median'])} ({spread})"


def seconds(value: float | None) -> str:
    """In the unit that fits."""
    if value is None:
        return ""
    units = (("s", 1), ("ms", 1e3), ("us", 1e6))
    unit, factor = next((pair for pair in units if value * pair[1] >= 1), units[-1])
    return f"{three_digits(value * factor)} {unit}"


def size(value: int | None) -> str:
    """In the unit that fits."""
    if value is None:
        return ""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{three_digits(value / factor)} {unit}"
    return f"{value} B"


def three_digits(value: float) -> str:
    """Three significant digits, never as a power of ten."""
    rounded = float(f"{value:.3g}")
    if abs(rounded) >= 100 or rounded == 0:
        return f"{rounded:,.0f}"
    text = f"{rounded:.10f}".rstrip("0").rstrip(".")
    return text if text not in ("0", "-0") else f"{rounded:g}"


def _table(rows: list[tuple[str, ...]], columns: tuple[str, ...]) -> str:
    return tabulate(rows, columns, tablefmt="pipe", disable_numparse=True)
