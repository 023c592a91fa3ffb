"""What the library is to reach, as numbers, and what was found: computed from the benchmarks' record."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["TARGETS", "Found", "Target", "judge"]

Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Target:
    """`value(rows)` of a group's rows is asked to be at least, or at most, `asked`."""

    text: str
    group: str
    asked: float
    at_least: bool
    unit: str
    value: Callable[[Rows], float]


@dataclasses.dataclass(frozen=True)
class Found:
    """The value, None where the group was not measured or lacks the peer, and whether it is enough."""

    target: Target
    value: float | None

    @property
    def reached(self) -> bool | None:
        """None where there is no value."""
        if self.value is None:
            return None
        return self.value >= self.target.asked if self.target.at_least else self.value <= self.target.asked


def judge(results: Mapping[str, Any]) -> list[Found]:
    """All targets against a record {group: {"rows": ...}}."""
    return [Found(target, _value(target, results.get(target.group))) for target in TARGETS]


def _value(target: Target, group: Mapping[str, Any] | None) -> float | None:
    if group is None:
        return None
    try:
        return target.value(group["rows"])
    except LookupError:  # measured where a peer was not installed
        return None


def _ratio(row: str, ours: str, peer: str) -> Callable[[Rows], float]:
    """How many times as fast ours are as the quickest such peer, in the first row whose name begins so."""

    def value(rows: Rows) -> float:
        return _ratios(_one(r for r in rows if r["row"].startswith(row)), ours, peer)[0]

    return value


def _costliest(row: str, peer: str) -> Callable[[Rows], float]:
    """Our time over the peer's, in the network where it is largest."""

    def value(rows: Rows) -> float:
        chosen = [r for r in rows if r["row"].startswith(row)]
        return 1 / min(_ratios(r, "jaxsens", peer)[0] for r in _some(chosen))

    return value


def _together(ours: str, peer: str, field: str) -> Callable[[Rows], float]:
    """The quickest peer's time of all rows over ours, in seconds a unit; a first call is given as a whole."""

    def value(rows: Rows) -> float:
        def total(name: str) -> float:
            found = [[w for n, w in row["ways"].items() if n.startswith(name)] for row in rows]
            return sum(min(of_unit(way) for way in _some(ways)) for ways in found)

        def of_unit(way: Mapping[str, Any]) -> float:
            return way[field] / (way["units_per_call"] if field == "first_call_seconds" else 1)

        return total(peer) / total(ours)

    return value


def _difference(row: str, ours: str, peer: str) -> Callable[[Rows], float]:
    """Seconds by which ours take longer: the median over rounds."""

    def value(rows: Rows) -> float:
        ways = _one(r for r in rows if r["row"] == row)["ways"]
        pairs = zip(ways[ours]["rounds"], ways[peer]["rounds"], strict=True)
        return statistics.median(a - b for a, b in pairs)

    return value


def _seconds(row: str) -> Callable[[Rows], float]:
    def value(rows: Rows) -> float:
        (way,) = _one(r for r in rows if r["row"].startswith(row))["ways"].values()
        return way["median"]

    return value


def _bytes_per_entry(row: str) -> Callable[[Rows], float]:
    """How temporary memory grows from the smallest to the largest size."""

    def value(rows: Rows) -> float:
        ways = _one(r for r in rows if r["row"] == row)["ways"]
        least, most = min(ways, key=int), max(ways, key=int)
        more = ways[most]["temporary_bytes"] - ways[least]["temporary_bytes"]
        return more / (int(most) - int(least))

    return value


def _ratios(row: Mapping[str, Any], ours: str, peer: str) -> list[float]:
    pairs = [r for r in row["ratios"] if r["ours"].startswith(ours) and r["peer"].startswith(peer)]
    return sorted(r["median"] for r in _some(pairs))


def _some(found: list[Any]) -> list[Any]:
    if not found:
        raise LookupError
    return found


def _one(found: Iterable[Any]) -> Any:
    return _some(list(found))[0]


IN_TURN, ON_CORES = "one program, members in turn", "one program, cores as devices"

TARGETS = (
    Target(
        "tangent sensitivity in closed form, batches of 256, against torch.func streaming",
        "tangent",
        10_000,
        True,
        "times as fast",
        _ratio("3072-", "closed form, batches", "torch.func, streamed"),
    ),
    Target(
        "tangent sensitivity streamed, for any model, against torch.func streaming",
        "tangent",
        15,
        True,
        "times as fast",
        _ratio("3072-", "streamed", "torch.func, streamed"),
    ),
    Target(
        "temporary memory that streaming takes for each further entry of x",
        "growth",
        64,
        False,
        "bytes",
        _bytes_per_entry("tangent sensitivity, streamed, parameters held"),
    ),
    Target(
        "S's exact limit, in the network where it costs most",
        "sensitivity",
        1,
        False,
        "times one forward and one backward pass",
        _costliest("the limit of S", "one forward and one backward pass"),
    ),
    Target(
        "the exact Jacobian norm, in the network where it costs most (A's Table 1: 13.7)",
        "sensitivity",
        5,
        False,
        "times S",
        _costliest("J,", "S, one draw (jaxsens)"),
    ),
    Target(
        "training 10 fully-connected seeds, all widths together, against PyTorch in turn, the quicker Adam",
        "fully_connected",
        1.3,
        True,
        "times as fast",
        _together(ON_CORES, "PyTorch", "median"),
    ),
    Target(
        "training 10 CNN seeds against PyTorch in turn, the quicker Adam",
        "convolution",
        1,
        True,
        "times as fast",
        _ratio("cnn-", ON_CORES, "PyTorch"),
    ),
    Target(
        "training 10 CNN seeds against naive vmap",
        "convolution",
        10,
        True,
        "times as fast",
        _ratio("cnn-", IN_TURN, "naive vmap"),
    ),
    Target(
        "`import jaxsens`, beyond `import jax, flax`",
        "startup",
        1.5,
        False,
        "s",
        _difference("import", "import jax, flax, jaxsens", "import jax, flax"),
    ),
    Target(
        "the same with every module of jaxsens, as an experiment imports them",
        "startup",
        1.5,
        False,
        "s",
        _difference("import", "import jax, flax and all of jaxsens", "import jax, flax"),
    ),
    Target(
        "quick figure 1 from a cold start on 2 cores",
        "startup",
        180,
        False,
        "s",
        _seconds("figure 1"),
    ),
    Target(
        "E's survey, all shapes together, compilation included, against JAX one by one",
        "survey",
        5,
        True,
        "times as fast",
        _together("one program", "JAX", "first_call_seconds"),
    ),
)
