"""A grid of cells to a table. Each finished cell is kept in a file of its own, so that work resumes."""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
import shutil
import time
import warnings
from collections import Counter
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
from jaxsens.sweep.members import Job, batched, half_way, train_together, trained_members
from jaxsens.sweep.prepare import build_network, prepare_data, prepare_training
from jaxsens.sweep.programs import shared_initial, shared_measures
from jaxsens.table import (
    Table,
    TableError,
    concatenate,
    config_hash,
    environment,
    read_metadata,
    read_rows,
    to_plain,
    write_manifest,
    write_rows,
    write_table,
)
from jaxsens.train import Member, Progress

__all__ = ["Diverged", "Watcher", "run_cell", "run_sweep"]

# Raised when a change of the code changes what a finished cell, or a trained network, would hold.
_RESULTS_VERSION = 2
_TRAINING_VERSION = 1


class Diverged(UserWarning):
    """Members whose loss stopped being finite; they are in the table and out of the statistics."""


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
        with contextlib.closing(Networks(batches, config)) as networks:
            run(batches, config, networks, watcher or Watcher())
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
            yield functools.partial(run_there, client=client)


def run_here(
    batches: list[list[Job]], config: SweepConfig, networks: "Networks", watcher: Watcher, *, ran_on: str
) -> None:
    """Computes one batch after the other, and writes each cell as soon as it is measured."""
    started = itertools.count()
    for batch in batches:
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


def write_finished(job: Job, rows: list[dict[str, Any]], ran_on: str) -> None:
    """Writes the file of a cell, whole or not at all, and removes what was kept of it half-way."""
    write_rows(Table.from_rows(other_stages(job, rows) + rows), job.file, metadata={"environment": ran_on})
    shutil.rmtree(half_way(job.network), ignore_errors=True)


class Networks:
    """The files of trained networks: which a batch is to leave, and which go when the sweep has used them."""

    def __init__(self, batches: list[list[Job]], config: SweepConfig) -> None:
        self.config = config
        self.uses = Counter(job.network for batch in batches for job in batch)
        self.temporary: set[Path] = set()

    def plan(self, batch: list[Job]) -> tuple[list[Job], set[Path]]:
        """The batch's unfinished jobs, and the network files that are kept or that later batches need.

        Files of cells that are to be computed anew are removed.
        """
        config = self.config
        pending = [job for job in batch if not (config.resume and read_finished(job) is not None)]
        keep = {job.network for job in pending if config.keep_networks or job.network.exists()}
        for job in pending:
            if not config.resume and job.network not in self.temporary:
                job.network.unlink(missing_ok=True)
                shutil.rmtree(half_way(job.network), ignore_errors=True)
        # Trained once, measured later in this sweep.
        here = Counter(job.network for job in batch)
        later = {job.network for job in pending if self.uses[job.network] > here[job.network]}
        trained = {job.network for job in pending} if len(pending) > 1 else later
        self.temporary |= trained - keep
        return pending, keep | later

    def release(self, batch: list[Job]) -> None:
        """Counts a batch as done, and removes the files that no other needs."""
        self.uses.subtract(job.network for job in batch)
        for network in [network for network in self.temporary if not self.uses[network]]:
            network.unlink(missing_ok=True)
            self.temporary.remove(network)

    def close(self) -> None:
        """Removes the files that are not kept."""
        for network in self.temporary:
            network.unlink(missing_ok=True)


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


def write_results(jobs: Sequence[Job], config: SweepConfig) -> Table:
    """The table of all that is finished, and the manifest; gives the table."""
    found = [(job, read_finished(job)) for job in jobs]
    finished = [(job, table) for job, table in found if table is not None]
    table = concatenate([labelled(table, job.cell, config) for job, table in finished])
    write_table(table, config.out)
    each_data = {job.cell.data: job for job in jobs}
    write_manifest(
        config.out,
        {
            "experiment": config.experiment,
            "environments": unique([read_metadata(job.file)["environment"] for job, _ in finished]),
            "cells": {job.cell.name: to_plain(job.cell) for job, _ in finished},
            "missing_cells": [job.cell.name for job, table in found if table is None],
            "data": [
                to_plain(key)["fields"] | data_facts(job.data) | {"sha256": job.fingerprint}
                for key, job in each_data.items()
            ],
        },
    )
    return table


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
            programs, initial, members, seeds, unconfused, cell.measure, loss=cell.train.loss
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


def cell_file(cell: Cell, config: SweepConfig, fingerprint: str) -> Path:
    """Where the finished cell is kept: found again exactly when nothing that decides its rows changed."""
    identity = config_hash((_RESULTS_VERSION, _TRAINING_VERSION, cell.physics, cell.seeds, fingerprint))
    return config.cells / f"{cell.model.full_name}-{identity}.parquet"


def network_file(cell: Cell, config: SweepConfig, fingerprint: str) -> Path:
    """Where the trained members are kept, whatever is measured on them."""
    identity = config_hash((_TRAINING_VERSION, cell.training, cell.seeds, fingerprint))
    return config.cells / "networks" / f"{cell.model.full_name}-{identity}.npz"


def read_finished(job: Job) -> Table | None:
    """A finished cell's rows at the end and at its snapshots; None where a part is missing or damaged."""
    table = read_all(job.file)
    wanted = {None, *job.cell.measure.snapshots}
    if table is None or not wanted <= {row["snapshot"] for row in table.rows()}:
        return None
    return table.where(snapshot=tuple(wanted))


def read_all(file: Path) -> Table | None:
    """All rows in a file of the store, or None where there is no such file or it is damaged."""
    if not file.exists():
        return None
    try:
        return read_rows(file)
    except TableError:
        return None


def other_stages(job: Job, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the file holds of stages that are not measured now: another experiment's, to be kept."""
    measured = {row["snapshot"] for row in rows}
    table = read_all(job.file)
    return [] if table is None else [row for row in table.rows() if row["snapshot"] not in measured]


def labelled(table: Table, cell: Cell, config: SweepConfig) -> Table:
    """The rows under the names of this experiment and cell. `width` is that of the first hidden layer."""
    model = cell.model
    names = {
        "experiment": config.experiment,
        "cell": cell.name,
        "family": model.label,
        "model": model.name,
        "hidden_layers": model.hidden_layers,
        "scale": float(model.scale),
        "width": model.width,
        "init": model.init,
        "regularization": model.regularization,
        "dataset": cell.data.dataset,
        "num_train": cell.data.num_train,
        "image_size": cell.data.image_size,
        "inputs": cell.data.inputs,
        "label_noise": cell.data.label_noise,
        "num_confused": cell.data.num_confused,
        "activation": model.activation,
        "optimizer": cell.train.optimizer,
        "learning_rate": cell.train.learning_rate,
        "weight_decay": cell.train.weight_decay,
        "batch_size": cell.train.batch_size,
        "augment": cell.train.augment,
        "max_epochs": cell.train.max_epochs,
        "noise_std": cell.measure.noise_std,
    }
    rows = table.rows()
    members = Counter(row["snapshot"] for row in rows if not row["diverged"])
    return Table.from_rows(
        row | names | {"variance_unbiased": unbiased(row.get("variance"), members[row["snapshot"]])}
        for row in rows
    )


def unbiased(variance: float | None, members: int) -> float | None:
    """A variance over members, divided by one less than their number."""
    return None if variance is None else variance * members / (members - 1)


def check_names(grid: Sequence[Cell]) -> None:
    """Refuses two cells of one name, whose rows could not be told apart."""
    names = [cell.name for cell in grid]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise refuse(f"several cells named {', '.join(twice)}", "one name per cell", "rename them")


def data_facts(data: datasets.Dataset) -> dict[str, Any]:
    """Sizes, and the second moment of the inputs that eq. 9 uses."""
    return {
        "train_examples": len(data.x_train),
        "test_examples": len(data.x_test),
        "num_outputs": data.num_outputs,
        "input_second_moment": datasets.second_moment(data.x_test),
    }


def unique(texts: Sequence[str]) -> list[dict[str, Any]]:
    """The environments of the cells without their times, each once."""
    environments = [{k: v for k, v in json.loads(text).items() if k != "time"} for text in texts]
    return [e for index, e in enumerate(environments) if e not in environments[:index]]
