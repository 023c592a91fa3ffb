"""What a fuzzed metric is, how its arguments are scaled and spoilt, and when a number in its result is right.

A case makes arguments of about 1 from a NumPy generator. They are rounded to float32 and multiplied by powers
of two, which rounds nothing, so that the same numbers can be measured in float64.
"""

import faulthandler
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens import metrics
from jaxsens.checks import InputError

__all__ = [
    "FUNCTIONS",
    "MESSAGE",
    "WIDE",
    "Case",
    "agree",
    "draw",
    "floats",
    "refused",
    "run",
    "spoilt",
    "watch",
]

FUNCTIONS = sorted(name for name in metrics.__all__ if not isinstance(getattr(metrics, name), type))
"""All public names but classes, which are containers of results and arguments."""

MESSAGE = r"^got .+; expected .+; .+"
WIDE = (0, -100, 100, -40, 40)
"""Exponents of two: 1e-30 to 1e30."""

TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Case:
    """One way to call one metric."""

    name: str
    arguments: Callable[[np.random.Generator], dict[str, Any]]
    call: Callable[..., Any]
    reference: Callable[..., Any] | None = None
    """In float64; None is the metric itself in float64."""
    scales: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The exponents of an argument, WIDE where it is not named."""
    leafwise: frozenset[str] = frozenset()
    """Arguments whose arrays are scaled one by one."""
    degrees: Mapping[str, float] | None = None
    """A random metric's: multiplying an argument by c multiplies all results by c^degree."""
    jit: bool = True
    infinite: frozenset[str] = frozenset()
    """Arguments where an infinity is a number like others."""
    unseen: frozenset[str] = frozenset()
    """Arguments that the metric does not get, but a function that it gets closes over."""
    keyed: bool = True
    """Whether `call` makes a key where the metric has a parameter for one."""
    rtol: float = 2e-4
    atol: float = 2e-5
    """Relative to the largest entry of an array: what cancels keeps that much."""
    variant: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}-{self.variant}" if self.variant else self.name


def is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def floats(arguments: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The paths of the floating arrays."""
    leaves = jax.tree_util.tree_flatten_with_path(arguments)[0]
    return [path for path, leaf in leaves if is_float(leaf) and leaf.size]


def draw(case: Case, seed: int, exponents: Callable[[tuple[int, ...]], int]) -> tuple[dict, dict]:
    """Arguments in float32 at scale 1, and the powers of two that their arrays are to be multiplied by."""
    given = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float32) if is_float(leaf) else leaf,
        case.arguments(np.random.default_rng(seed)),
    )
    chosen: dict[str, int] = {}

    def exponent(path: tuple[Any, ...], leaf: Any) -> int:
        if not is_float(leaf):
            return 0
        top = path[0].key
        name = jax.tree_util.keystr(path) if top in case.leafwise else top
        if name not in chosen:
            chosen[name] = exponents(case.scales.get(top, WIDE))
        return chosen[name]

    return given, jax.tree_util.tree_map_with_path(exponent, given)


def scaled(given: Any, powers: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda a, e: np.ldexp(np.asarray(a, dtype), e) if is_float(a) else a, given, powers)


def device(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, np.ndarray | np.generic) else a, tree)


COMPILED: dict[str, Callable[..., Any]] = {}


def run(case: Case, arguments: dict[str, Any], *, eager: bool = False) -> list[np.ndarray]:
    """The arrays of the result, by the compiled program where there can be one."""
    function = case.call
    if case.jit and not eager:
        function = COMPILED.setdefault(case.label, jax.jit(case.call))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(function(**device(arguments)))]


def truth(case: Case, given: dict, powers: dict) -> list[np.ndarray]:
    """What the metric is at the scaled arguments, in float64."""
    if case.degrees is not None:
        log = sum(d * jax.tree.leaves(powers[name])[0] for name, d in case.degrees.items())
        return [np.asarray(leaf, np.float64) * 2.0**log for leaf in run(case, given)]
    wide = scaled(given, powers, np.float64)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        if case.reference is not None:
            return [np.asarray(leaf) for leaf in jax.tree.leaves(case.reference(**wide))]
        return run(case, wide)


def agree(case: Case, given: dict, powers: dict, *, eager: bool = False) -> None:
    """Every finite number of the float32 result is that of float64; at scale 1 all are finite."""
    natural = not any(jax.tree.leaves(powers))
    got = run(case, scaled(given, powers, np.float32), eager=eager)
    want = truth(case, given, powers)
    assert len(got) == len(want)
    for mine, right in zip(got, want, strict=True):
        assert mine.shape == right.shape
        compare(case, mine, right, natural=natural)


def compare(case: Case, got: np.ndarray, want: np.ndarray, *, natural: bool = False) -> None:
    if not is_float(got):
        missing = (got == -1) & (want != -1) if got.dtype != bool else np.zeros(got.shape, bool)
        assert not (natural and missing.any()), f"missing: {got} for {want}"
        np.testing.assert_array_equal(got[~missing], want[~missing])
        return
    got, want = got.astype(np.float64), want.astype(np.float64)
    if natural:
        assert np.isfinite(got[np.isfinite(want)]).all(), f"{got} for {want}"
    # The logarithm of what underflowed is no overflow.
    low = np.isneginf(got) & (np.abs(want) < 1e9)
    assert not low.any(), f"{got} for {want}"
    here = np.isfinite(got)
    largest = np.max(np.abs(want), initial=0, where=np.isfinite(want))
    allowed = case.rtol * np.abs(want[here]) + case.atol * largest + 64 * TINY
    wrong = ~(np.abs(got[here] - want[here]) <= allowed)
    assert not wrong.any(), f"{got} for {want}"


def at(arguments: Any, path: tuple[Any, ...]) -> Any:
    for entry in path:
        arguments = arguments[entry.key if hasattr(entry, "key") else entry.idx]
    return arguments


def put(arguments: Any, path: tuple[Any, ...], leaf: Any) -> Any:
    """The arguments with another array at one path."""
    return jax.tree_util.tree_map_with_path(lambda p, old: leaf if p == path else old, arguments)


def spoilt(arguments: Any, path: tuple[Any, ...], place: int, value: float) -> Any:
    """The arguments with one number of one array replaced."""
    array = np.array(at(arguments, path))
    array.flat[place % array.size] = value
    return put(arguments, path, array)


def refused(function: Callable[[], Any]) -> Any:
    """None where the call is refused with a message of our form, else its result."""
    try:
        return function()
    except InputError as error:
        message = str(error)
    assert re.match(MESSAGE, message), message
    return None


@pytest.fixture(autouse=True)
def watch(plain):
    """What users see, without jaxtyping; and a hang, also of compiled code, ends in a traceback."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
