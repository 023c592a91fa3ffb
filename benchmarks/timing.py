"""What a row of a benchmark is, and how it is timed.

All ways of a row take turns, round by round and in another order each round, so that a machine that slows
down slows all of them. Their results are compared before anything is timed. A ratio is taken within each
round; its spread is the least and the greatest over the rounds.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

__all__ = [
    "Ready",
    "Row",
    "Way",
    "compiled",
    "largest_difference",
    "mean_difference",
    "measure",
    "quickest",
    "rounded",
    "standard_errors",
]

# Shorter calls are repeated within a round.
_SECONDS_A_ROUND = 0.1
_DIGITS = 4
_TINY = 1e-300


@dataclasses.dataclass(frozen=True)
class Ready:
    """A way that is built and compiled: `run()` is one call, finished when it returns."""

    run: Callable[[], Any]
    compile_seconds: float | None = None
    """None where the first call compiles, or nothing is compiled."""
    temporary_bytes: int | None = None
    """What XLA reserves for a call besides its arguments and results."""
    tried: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Seconds of one call in each configuration, where the quickest of several was taken."""
    peak_bytes: Callable[[], int | None] | None = None
    """The most that the last call had in memory, where it ran as a process of its own."""


@dataclasses.dataclass(frozen=True)
class Way:
    """How to compute what a row is about; `prepare(data)` gets what `Row.data` made.

    A call does `per_call` units of work. A `slow` way runs once, in the first round, without a warm-up call.
    Where it is not `compared`, it computes other numbers, as a forward pass does that a measure is counted
    in. With `peak`, a process of its own measures its memory.
    """

    prepare: Callable[[Any], Ready]
    per_call: float = 1
    slow: bool = False
    compared: bool = True
    peak: bool = False


def largest_difference(ours: Any, other: Any) -> float:
    """The largest difference of two results of the same leaves, over the largest entry of the leaf.

    Of two vectors of unequal length, as of methods that get more or fewer examples, over the shorter.
    """
    return _difference(ours, other, np.max)


def mean_difference(ours: Any, other: Any) -> float:
    """As `largest_difference`, of means over the leaf.

    For derivatives at many examples of a network with kinks: rounding moves one in many across a kink.
    """
    return _difference(ours, other, np.mean)


def standard_errors(ours: Any, other: Any) -> float:
    """The difference of two estimates (value, standard error) in their joint standard error."""
    return float(abs(ours[0] - other[0]) / math.hypot(float(ours[1]), float(other[1])))


@dataclasses.dataclass(frozen=True)
class Row:
    """Ways of ours and named peers that compute one thing, timed in seconds a `unit` of work.

    Without a peer, `no_peer` says why, or `absent` names those that are not installed here. Results that
    differ from the first way's by more than `tolerance` in the sense of `compare` stop the benchmark.
    """

    name: str
    unit: str
    data: Callable[[], Any]
    ours: Mapping[str, Way]
    peers: Mapping[str, Way] = dataclasses.field(default_factory=dict)
    absent: tuple[str, ...] = ()
    no_peer: str = ""
    compare: Callable[[Any, Any], float] = largest_difference
    tolerance: float = 1e-3
    rounds: int = 5

    def __post_init__(self) -> None:
        if not (self.peers or self.absent or self.no_peer):
            raise ValueError(f"row {self.name!r} without a peer: name one, or say why there is none")

    @property
    def ways(self) -> dict[str, Way]:
        """Ours, then the peers."""
        return {**self.ours, **self.peers}


def _difference(ours: Any, other: Any, over: Callable[[np.ndarray], float]) -> float:
    found = []
    for pair in zip(jax.tree.leaves(ours), jax.tree.leaves(other), strict=True):
        a, b = (np.atleast_1d(np.asarray(value, np.float64)) for value in pair)
        a, b = a[: len(b)], b[: len(a)]
        found.append(over(np.abs(a - b)) / np.maximum(over(np.abs(a)), _TINY))
    # NumPy's maximum, which a NaN is.
    return float(np.max(found))


def compiled(function: Callable, *arguments: Any) -> Ready:
    """A jitted call of these arguments, compiled now."""
    began = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - began
    return Ready(
        lambda: jax.block_until_ready(program(*arguments)),
        seconds,
        program.memory_analysis().temp_size_in_bytes,
    )


def quickest(ways: Mapping[str, Callable[[], Ready]]) -> Ready:
    """The way that is quickest in one call after a first one, prepared anew: the first call may train."""
    tried = {}
    for name, prepare in ways.items():
        ready = prepare()
        ready.run()
        tried[name] = rounded(timed(ready.run)[0])
    best = min(tried, key=tried.__getitem__)
    return dataclasses.replace(ways[best](), tried=tried)


def timed(run: Callable[[], Any], calls: int = 1) -> tuple[float, Any]:
    """Seconds a call, and what the last one returned."""
    began = time.perf_counter()
    for _ in range(calls):
        result = run()
    return (time.perf_counter() - began) / calls, result


def measure(row: Row) -> dict[str, Any]:
    """The record of a row: seconds a unit of each way, and how many times as fast as each peer ours are."""
    data, ways = row.data(), row.ways
    ready: dict[str, Ready] = {}
    first, calls, results = {}, {}, {}
    for name, way in ways.items():
        ready[name] = way.prepare(data)
        if way.slow:
            continue
        first[name], results[name] = timed(ready[name].run)
        calls[name] = _calls(first[name], ready[name].run)
    agreement = _agreement(row, results)

    rounds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(row.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if ways[name].slow and turn:
                continue
            seconds, result = timed(ready[name].run, calls.get(name, 1))
            rounds[name].append(seconds / ways[name].per_call)
            if ways[name].slow:
                results[name] = result
                agreement = _agreement(row, results)
    return {
        "row": row.name,
        "unit": row.unit,
        "ways": {
            name: _way_record(name in row.ours, way, ready[name], rounds[name], first.get(name))
            for name, way in ways.items()
        },
        "ratios": [
            {"ours": ours, "peer": peer} | _spread([b / a for a, b in _paired(rounds[ours], rounds[peer])])
            for peer in row.peers
            for ours in row.ours
        ],
        "agreement": agreement,
        "compared_by": row.compare.__name__,
        "tolerance": row.tolerance,
        "absent": list(row.absent),
        "no_peer": row.no_peer,
    }


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.{_DIGITS}g}")


def _calls(first: float, run: Callable[[], Any]) -> int:
    """How many calls a round needs to be long enough; the first call may have been slower than later ones."""
    least = first if first > _SECONDS_A_ROUND else timed(run)[0]
    return max(1, math.ceil(_SECONDS_A_ROUND / least)) if least < _SECONDS_A_ROUND else 1


def _agreement(row: Row, results: Mapping[str, Any]) -> dict[str, float]:
    """How far each compared way is from the first; refuses what is too far."""
    names = [name for name, way in row.ways.items() if way.compared and name in results]
    reference, others = names[:1], names[1:]
    found = {name: rounded(row.compare(results[reference[0]], results[name])) for name in others}
    for name, difference in found.items():
        if not difference <= row.tolerance:
            raise AssertionError(
                f"{row.name}: {name} differs from {reference[0]} by {difference} ({row.compare.__name__}), "
                f"more than {row.tolerance}"
            )
    return found


def _way_record(
    is_ours: bool, way: Way, ready: Ready, rounds: list[float], first: float | None
) -> dict[str, Any]:
    record = {
        "role": "ours" if is_ours else "peer",
        **_spread(rounds),
        "rounds": [rounded(seconds) for seconds in rounds],
        "units_per_call": way.per_call,
        "compile_seconds": ready.compile_seconds and rounded(ready.compile_seconds),
        # Compiles too, where `compile_seconds` is null.
        "first_call_seconds": first and rounded(first),
        "temporary_bytes": ready.temporary_bytes,
    }
    if ready.peak_bytes is not None:
        record["peak_bytes"] = ready.peak_bytes()
    return record | ({"tried": dict(ready.tried)} if ready.tried else {})


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": rounded(statistics.median(values)),
        "least": rounded(min(values)),
        "most": rounded(max(values)),
    }


def _paired(ours: list[float], peer: list[float]) -> list[tuple[float, float]]:
    """Rounds that both ran in: a slow way ran in the first alone."""
    return list(zip(ours, peer, strict=False))
