"""A grid of cells to a table. Each finished cell is kept in a file of its own, so that work resumes."""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxsens import data as datasets
from jaxsens.checks import refuse
from jaxsens.metrics.sensitivity import check_resolved
from jaxsens.sweep.cells import Cell
from jaxsens.sweep.config import SweepConfig, check_numerics, device, prepare_folders
from jaxsens.sweep.evaluate import evaluate_cell, predicted_at_init
from jaxsens.sweep.lock import Claims
from jaxsens.sweep.members import Job, batched, train_together, trained_members
from jaxsens.sweep.prepare import build_network, prepare_data, prepare_training
from jaxsens.sweep.programs import release_programs, shared_initial, shared_measures
from jaxsens.sweep.store import (
    Networks,
    cell_file,
    network_file,
    read_finished,
    write_finished,
    write_results,
)
from jaxsens.table import Table, environment
from jaxsens.train import Member, Progress

__all__ = ["Diverged", "Waiting", "Watcher", "run_cell", "run_sweep"]

# Between looks at what other runs hold; and without any change there, before this one gives up.
_SECONDS_PER_LOOK = 1.0
_SECONDS_TO_WAIT = 6 * 3600.0


class Diverged(UserWarning):
    """Members whose loss stopped being finite; they are in the table and out of the statistics."""


class Waiting(UserWarning):
    """Cells that another run is computing; this one waits for them."""


class Watcher:
    """Told how a sweep goes; this one keeps silent. `jaxsens.cli` has one that draws progress bars.

    On a cluster, cells start when they are sent there, many before the first ends, and none tells of epochs.
    """

    def cell_starts(self, name: str, index: int, count: int) -> None:
        """Cell `index` of `count` begins."""

    def cell_trains(self, progress: Progress) -> None:
        """Its ensemble came further."""

    def cell_ends(self, name: str, *, seconds: float, resumed: bool) -> None:
        """Its rows are on disk, computed now or read (`resumed`)."""


def run_sweep(
    grid: Sequence[Cell],
    config: SweepConfig,
    *,
    chosen: Sequence[Cell] | None = None,
    watcher: Watcher | None = None,
) -> Table:
    """Runs the chosen cells (all, by default) of this shard, then writes what the grid has so far.

    The table holds every finished cell of the grid, in the grid's order, whoever finished it; the manifest
    beside it names the missing ones. Finished cells are found by a hash of all that decides their numbers:
    configuration, seeds, data, version. A file that cannot be read is not a result: the cell runs again.
    Cells that another run on this store is computing come last: this one waits until they are done.

    Raises:
        InputError: a request that cannot be met, a folder that cannot be written, or cells that another run
            holds without finishing any for six hours; it is named.
        OSError: a file that cannot be written; what was finished before stays.
    """
    check_names(grid)
    check_numerics()
    prepare_folders(config)
    with runner(config) as run:
        jobs = make_jobs(grid, config)
        wanted = set(grid if chosen is None else chosen)
        batches = batched([job for job in jobs if job.cell in wanted], config.together)
        batches = batches[config.shard.index :: config.shard.count]
        check_buildable([job for batch in batches for job in batch])
        with Claims(config.cells) as claims, contextlib.closing(Networks(batches, config)) as networks:
            run(batches, config, networks, watcher or Watcher(), claims)
    return write_results(jobs, config)


def check_buildable(jobs: Sequence[Job]) -> None:
    """Refuses what cannot be built or measured before the first cell trains, not after an hour."""
    alike = {(job.cell.model, job.cell.data, job.cell.train.loss, job.cell.measure): job for job in jobs}
    for job in alike.values():
        build_network(job.cell, job.data)
        check_resolved(job.cell.measure.noise_std, job.data.x_test)


@contextlib.contextmanager
def runner(config: SweepConfig) -> Iterator[Callable[..., None]]:
    """What computes the batches' unfinished cells and writes their files: this process, or a cluster."""
    if config.scheduler is None:
        # Taken before the first cell: what is committed meanwhile is not what runs.
        yield functools.partial(run_here, ran_on=json.dumps(environment() | device(config)))
    else:
        from jaxsens.sweep.cluster import connected, run_there  # which needs `compute_batch`

        with connected(config.scheduler) as client:

            def run(
                batches: list[list[Job]],
                config: SweepConfig,
                networks: Networks,
                watcher: Watcher,
                claims: Claims,
            ) -> None:
                for part in in_turn(batches, claims, config, at_once=True):
                    run_there(part, config, networks, watcher, client=client)

            yield run


def in_turn(
    batches: list[list[Job]], claims: Claims, config: SweepConfig, *, at_once: bool
) -> Iterator[list[list[Job]]]:
    """Parts of the batches, each claimed until the next is asked for: those that others hold come last.

    A part is one batch, or, `at_once`, all that no other run holds. What another run has finished is free.
    """
    waiting, told, changed = list(batches), None, time.monotonic()
    while waiting:
        held: dict[str, list[list[Job]]] = {}
        for part in [waiting] if at_once else [[batch] for batch in waiting]:
            free = []
            for batch in part:
                holder = claims.take(job.network.name for job in batch)
                if holder is None or (config.resume and all_finished(batch)):
                    free.append(batch)
                else:
                    held.setdefault(holder, []).append(batch)
            if free:
                yield free
                changed = time.monotonic()
            claims.release()
        waiting = [batch for batches in held.values() for batch in batches]
        holders = "; ".join(
            f"{', '.join(job.cell.name for batch in batches for job in batch)}: held by {holder}"
            for holder, batches in held.items()
        )
        if holders and time.monotonic() - changed > _SECONDS_TO_WAIT:
            raise refuse(
                holders,
                f"them to finish a cell within {_SECONDS_TO_WAIT / 3600:g} hours",
                "run the same command again when they have ended: finished cells are kept",
            )
        if holders and holders != told:
            warnings.warn(f"waiting for {holders}", Waiting, stacklevel=3)
        told = holders
        if waiting:
            time.sleep(_SECONDS_PER_LOOK)


def all_finished(batch: list[Job]) -> bool:
    """Whether no cell of it is missing."""
    return all(read_finished(job) is not None for job in batch)


def run_here(
    batches: list[list[Job]],
    config: SweepConfig,
    networks: Networks,
    watcher: Watcher,
    claims: Claims,
    *,
    ran_on: str,
) -> None:
    """Computes one batch after the other, and writes each cell as soon as it is measured."""
    started = itertools.count()
    for (batch,) in in_turn(batches, claims, config, at_once=False):
        pending, keep = networks.plan(batch)
        computed = compute_batch(pending, config, keep=keep, report=watcher.cell_trains)
        for job in batch:
            watcher.cell_starts(job.cell.name, next(started), sum(map(len, batches)))
            began = time.monotonic()
            if job in pending:
                write_finished(job, next(computed), ran_on)
            watcher.cell_ends(job.cell.name, seconds=time.monotonic() - began, resumed=job not in pending)
        networks.release(batch)


def compute_batch(
    jobs: Sequence[Job],
    config: SweepConfig,
    *,
    keep: Collection[Path],
    report: Callable[[Progress], None] | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each job in turn, after training what is missing of them, together if they are several.

    Networks of several jobs are written to their files; that of one job if `keep` has its file.
    """
    if len(jobs) > 1:
        train_together(jobs, config, report=report)
    for job in jobs:
        yield run_cell(
            job.cell, job.data, config, report=report, network=job.network, keep=job.network in keep
        )


def make_jobs(grid: Sequence[Cell], config: SweepConfig) -> list[Job]:
    """The grid's jobs in its order; each data set is prepared once."""
    keys = dict.fromkeys(cell.data for cell in grid)
    pools = {key.dataset: datasets.load(key.dataset, data_dir=config.data_dir) for key in keys}
    data = {key: prepare_data(key, pools[key.dataset]) for key in keys}
    fingerprints = {key: value.fingerprint() for key, value in data.items()}
    return [make_job(cell, data[cell.data], fingerprints[cell.data], config) for cell in grid]


def make_job(cell: Cell, data: datasets.Dataset, fingerprint: str, config: SweepConfig) -> Job:
    """A cell with its data, and where its files are."""
    file, network = (where(cell, config, fingerprint) for where in (cell_file, network_file))
    return Job(cell, data, fingerprint, file, network)


def run_cell(
    cell: Cell,
    data: datasets.Dataset,
    config: SweepConfig,
    *,
    report: Callable[[Progress], None] | None = None,
    network: Path | None = None,
    keep: bool = False,
) -> list[dict[str, Any]]:
    """Trains and measures one cell: a row per seed, and per seed and snapshot where there are any.

    `network` is the file of its trained members: used where it is there and no snapshots are asked for,
    written if `keep`. Half-way work is kept beside it if `config.checkpoint`, but for cells with snapshots,
    whose earlier measurements would be lost.
    """
    release_programs()
    seeds = tuple(range(cell.seeds))
    training = prepare_training(cell, data)
    programs = shared_measures(
        dataclasses.replace(cell.model, init="SN"),
        data.x_train.shape[1:],
        data.num_outputs,
        dataclasses.replace(cell.measure, snapshots=()),
    )
    initial = shared_initial(
        dataclasses.replace(cell.model, activation="relu"), data.x_train.shape[1:], data.num_outputs
    )
    rows: list[dict[str, Any]] = []
    kept = len(data.x_train) - cell.data.num_confused
    unconfused = dataclasses.replace(data, x_train=data.x_train[:kept], y_train=data.y_train[:kept])

    def measure(snapshot: int | None, members: Member) -> None:
        measured = evaluate_cell(
            programs,
            initial,
            members,
            seeds,
            unconfused,
            cell.measure,
            loss=cell.train.loss,
            num_devices=config.num_devices,
        )
        rows.extend(
            {"seed": seed, "snapshot": snapshot} | row for seed, row in zip(seeds, measured, strict=True)
        )

    members, seconds = trained_members(
        cell, training, data, config, report=report, network=network, keep=keep, observe=measure
    )
    measure(None, members)
    warn_diverged(cell, rows)
    shared = {
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(members.params)) // len(seeds),
        # Each member's share of the time that the ensemble took to train.
        "wall_seconds": None if math.isnan(seconds) else seconds / len(seeds),
        "predicted_sensitivity_before": predicted_at_init(cell.model, data, cell.measure),
        "num_outputs": data.num_outputs,
        "test_examples": len(data.x_test),
        "input_second_moment": datasets.second_moment(data.x_test),
    }
    return [shared | row for row in rows]


def warn_diverged(cell: Cell, rows: Sequence[dict[str, Any]]) -> None:
    """Tells which seeds diverged, if any did."""
    lost = [row["seed"] for row in rows if row["diverged"] and row["snapshot"] is None]
    if lost:
        warnings.warn(
            f"{cell.name}: seeds {lost} of {cell.seeds} diverged (a loss or an output is not finite); they "
            "are left out of its statistics. A smaller learning rate may keep them.",
            Diverged,
            stacklevel=3,
        )


def check_names(grid: Sequence[Cell]) -> None:
    """Refuses two cells of one name, whose rows could not be told apart."""
    names = [cell.name for cell in grid]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise refuse(f"several cells named {', '.join(twice)}", "one name per cell", "rename them")
