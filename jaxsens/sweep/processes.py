"""A sweep by several processes, on one host or many: each has its own devices and its own cells."""

import dataclasses
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxsens.checks import refuse
from jaxsens.sweep.cells import Cell, Shard
from jaxsens.sweep.config import SweepConfig
from jaxsens.sweep.run import Watcher, run_sweep
from jaxsens.table import Table

__all__ = ["join_processes", "own_shard", "run_in_processes"]

# What a process waits for the slowest: longer than any sweep, shorter than for ever.
_SECONDS_TO_WAIT = 30 * 24 * 3600
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes by `jax.distributed`; before the first use of a device.

    By $JAX_COORDINATOR_ADDRESS (host:port of process 0), $JAX_NUM_PROCESSES and $JAX_PROCESS_ID where these
    are set, else by what JAX finds out itself from Slurm, Open MPI, Kubernetes or a TPU pod.

    Raises:
        InputError: only some of these are set, or not to numbers; or the others cannot be found or joined.
    """
    given: list[Any] = [environment.get(name) for name in _VARIABLES]
    numbers = [text is not None and text.isdecimal() for text in given[1:]]
    if any(given[1:]) and not (given[0] and all(numbers) and int(given[2]) < int(given[1])):
        raise refuse(
            ", ".join(f"{name}={text!r}" for name, text in zip(_VARIABLES, given, strict=True)),
            "host:port, the number of processes, and this one's from 0",
            "set all three, or none under Slurm, Open MPI, Kubernetes or on a TPU pod",
        )
    address, count, index = (given[0], *map(int, given[1:])) if all(given) else (None, None, None)
    try:
        jax.distributed.initialize(address, count, index)
    except (ValueError, RuntimeError) as error:
        raise refuse(
            f"processes that cannot be joined ({str(error).splitlines()[0]})",
            "as many as were told, all started within minutes",
            f"set {', '.join(_VARIABLES)}, or leave out --distributed",
        ) from error


def own_shard(shard: Shard) -> Shard:
    """This process's part of a shard; the shard itself where there is one process."""
    count, index = jax.process_count(), jax.process_index()
    return Shard(shard.index + index * shard.count, shard.count * count)


def run_in_processes(
    grid: Sequence[Cell],
    config: SweepConfig,
    *,
    chosen: Sequence[Cell] | None = None,
    watcher: Watcher | None = None,
) -> Table | None:
    """`run_sweep` by all processes of `jax.distributed`, each its part of the cells on its own devices.

    They share the folders of `config`. Process 0 writes the table when all are done, and returns it; others
    return None. A process that fails says so at once, waits for the others, so that their cells get into the
    table, and raises then. One that dies ends all within minutes; finished cells are kept.
    With one process this is `run_sweep`.

    Raises:
        InputError: as `run_sweep`, or an option that is not for several processes.
    """
    count, index = jax.process_count(), jax.process_index()
    if count == 1:
        return run_sweep(grid, config, chosen=chosen, watcher=watcher)
    for option, given in (("checkpoint", config.checkpoint), ("scheduler", config.scheduler)):
        if given:
            raise refuse(
                f"{option}={given!r} in {count} processes of jax.distributed",
                f"none: {'saves would wait for each other' if given is True else 'a cluster has workers'}",
                "leave it out, or start processes of their own with --shard i/N",
            )
    # The table that counts is written at the end; until then each has its own.
    out = config.out / f".process-{index}"
    mine = dataclasses.replace(config, out=out, store=config.cells, shard=own_shard(config.shard))
    try:
        run_sweep(grid, mine, chosen=chosen, watcher=watcher)
    except Exception as error:
        print(f"process {index} of {count}: {error}; waiting for the others", file=sys.stderr, flush=True)
        raise
    finally:
        if not isinstance(sys.exception(), KeyboardInterrupt):
            wait_for_all("jaxsens-sweep")
        shutil.rmtree(out, ignore_errors=True)
    return run_sweep(grid, config, chosen=()) if index == 0 else None


def wait_for_all(name: str) -> None:
    """Returns when all processes are here, or raises if one is gone or none comes in a month."""
    from orbax.checkpoint.multihost import get_barrier_sync_fn

    get_barrier_sync_fn()(key=name, timeout_ms=1000 * _SECONDS_TO_WAIT)
