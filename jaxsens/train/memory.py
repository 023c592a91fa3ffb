"""What a compiled program needs of a device's memory, estimated before it runs, and what there is."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

__all__ = ["available_bytes", "compiled_bytes", "largest_fit", "stored_bytes", "traced_bytes"]

# The rest is for what is not foreseen: fragments, other programs, the measures.
_SHARE_OF_DEVICE, _SHARE_OF_HOST = 0.9, 0.7


def available_bytes(devices: Sequence[Any]) -> int | None:
    """What one of the devices may use in bytes; None where that is not known.

    Of an accelerator a share of its limit, of the host's memory a share divided by the devices, which a CPU's
    share. Both are of all there is, not of what is free just now, so that they are the same in every run.
    """
    if devices[0].platform == "cpu":
        host = host_bytes()
        return None if host is None else int(_SHARE_OF_HOST * host / len(devices))
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    known = [limit for limit in limits if limit is not None]
    return int(_SHARE_OF_DEVICE * min(known)) if len(known) == len(limits) else None


def host_bytes() -> int | None:
    """The host's memory, or the part of it that this process's control group may use; None if unknown."""
    try:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):  # not every system tells
        return None
    return min(found + list(group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))))


def group_limits(membership: Path, root: Path) -> Iterator[int]:
    """The limits of the control groups (Linux, version 2) around this process, as of a container."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, group = line.partition("::")
        if number != "0":
            continue
        folder = root / group.lstrip("/")
        for place in (folder, *folder.parents):
            if place != root and root not in place.parents:
                return
            try:
                yield int((place / "memory.max").read_text())
            except (OSError, ValueError):  # no such file at the root; "max" where there is no limit
                continue


def traced_bytes(program: Any, arguments: tuple) -> int:
    """Bytes on one device that a jitted program needs, from its equations in their order, without compiling.

    `arguments` may be shapes. Nothing is fused, so this is more than what the compiled program needs. Cost: a
    trace, which a later call shares.
    """
    jaxpr = program.trace(*arguments).jaxpr
    sharded = [equation for equation in jaxpr.eqns if equation.primitive.name == "shard_map"]
    if len(sharded) == len(jaxpr.eqns) == 1:
        jaxpr = next(inside(sharded[0].params))  # the part of one device
    return sum(map(variable_bytes, jaxpr.invars)) + peak_bytes(jaxpr)


def compiled_bytes(program: Any, arguments: tuple) -> int | None:
    """Bytes on one device that a jitted program needs, as its compiler tells; None where it does not.

    `arguments` are shapes. Cost: a compilation, which a later call does not share; kept for equal arguments.
    """
    leaves, structure = jax.tree.flatten(arguments)
    return compiled_bytes_of(program, structure, tuple(leaves))


@functools.lru_cache(maxsize=64)
def compiled_bytes_of(program: Any, structure: Any, leaves: tuple) -> int | None:
    """`compiled_bytes` of arguments that can be compared."""
    stats = program.lower(*jax.tree.unflatten(structure, leaves)).compile().memory_analysis()
    if stats is None:
        return None
    outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + outputs + stats.temp_size_in_bytes


def largest_fit(needed: Callable[[int], int], most: int, available: int) -> int:
    """The largest count up to `most` with needed(count) <= available, 0 where even one needs too much.

    `needed` is called for 1, 2 and 3 alone: from 2 on it grows by one amount.
    """
    if needed(1) > available:
        return 0
    if most == 1 or needed(2) > available:
        return 1
    if most == 2 or needed(3) > available:
        return 2
    step = max(1, needed(3) - needed(2))
    return min(most, 2 + (available - needed(2)) // step)


def stored_bytes(tree: Any) -> int:
    """Bytes of the arrays, or shapes, of a tree."""
    return sum(array_bytes(leaf) for leaf in jax.tree.leaves(tree))


def array_bytes(array: Any) -> int:
    """Bytes of an array or of its shape; of typed keys, those of their words."""
    return array.size * array.dtype.itemsize


def variable_bytes(variable: Any) -> int:
    """Bytes of a variable of a traced program; 0 for what is no array."""
    return array_bytes(variable.aval) if hasattr(variable.aval, "dtype") else 0


def inside(params: dict[str, Any]) -> Iterator[Any]:
    """The traced programs that an equation calls."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else [value]:
            found = getattr(one, "jaxpr", one)
            if hasattr(found, "eqns"):
                yield found


def peak_bytes(jaxpr: Any) -> int:
    """The most bytes that a traced program's own values take at one time: each from its equation to its last
    use, those that it returns to the end. Its arguments are its caller's."""
    last_use = {id(variable): len(jaxpr.eqns) for variable in jaxpr.outvars}
    for place, equation in enumerate(jaxpr.eqns):
        for variable in equation.invars:
            last_use[id(variable)] = max(place, last_use.get(id(variable), 0))
    dying: dict[int, int] = {}
    live = peak = 0
    for place, equation in enumerate(jaxpr.eqns):
        new = sum(map(variable_bytes, equation.outvars))
        within = max(map(peak_bytes, inside(equation.params)), default=0)
        peak = max(peak, live + new + within)
        live += new
        for variable in equation.outvars:
            end = last_use.get(id(variable), place)
            dying[end] = dying.get(end, 0) + variable_bytes(variable)
        live -= dying.pop(place, 0)
    return peak
