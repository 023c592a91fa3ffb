"""A grid of cells to a table. Each finished cell is kept in a file of its own, so that work resumes."""

import dataclasses
import json
import math
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxsens import data as datasets
from jaxsens.checks import refuse
from jaxsens.metrics.sensitivity import check_resolved
from jaxsens.sweep.cells import Cell
from jaxsens.sweep.config import SweepConfig
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
from jaxsens.train import Member, Progress, default_member_axis, device_mesh

__all__ = ["Diverged", "Watcher", "run_cell", "run_sweep"]

# Raised when a change of the code changes what a finished cell, or a trained network, would hold.
_RESULTS_VERSION = 2
_TRAINING_VERSION = 1


class Diverged(UserWarning):
    """Members whose loss stopped being finite; they are in the table and out of the statistics."""


class Watcher:
    """Told how a sweep goes; this one keeps silent. `jaxsens.cli` has one that draws progress bars."""

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
    watcher = watcher or Watcher()
    check_names(grid)
    check_numerics()
    prepare_folders(config)
    # Taken before the first cell: what is committed meanwhile is not what runs.
    ran_on = json.dumps(environment() | device(config))
    jobs = make_jobs(grid, config)
    wanted = set(grid if chosen is None else chosen)
    batches = batched([job for job in jobs if job.cell in wanted], config.together)
    batches = batches[config.shard.index :: config.shard.count]
    mine = [job for batch in batches for job in batch]
    for job in mine:
        # Refused before the first cell trains, not after an hour.
        build_network(job.cell, job.data)
        check_resolved(job.cell.measure.noise_std, job.data.x_test)

    temporary: set[Path] = set()
    uses = Counter(job.network for job in mine)
    started = 0
    try:
        for batch in batches:
            pending = [job for job in batch if not (config.resume and read_finished(job) is not None)]
            keep = {job.network: config.keep_networks or job.network.exists() for job in pending}
            for job in pending:
                if not config.resume and job.network not in temporary:
                    job.network.unlink(missing_ok=True)
                    shutil.rmtree(half_way(job.network), ignore_errors=True)
                if not keep[job.network] and (len(pending) > 1 or uses[job.network] > 1):
                    # Trained once, measured later in this sweep.
                    temporary.add(job.network)
            for job in batch:
                watcher.cell_starts(job.cell.name, started, len(mine))
                started += 1
                began = time.monotonic()
                if job in pending:
                    if len(pending) > 1 and job is pending[0]:
                        train_together(pending, config, report=watcher.cell_trains)
                    rows = run_cell(
                        job.cell,
                        job.data,
                        config,
                        report=watcher.cell_trains,
                        network=job.network,
                        keep=keep[job.network] or job.network in temporary,
                    )
                    write_rows(
                        Table.from_rows(other_stages(job, rows) + rows),
                        job.file,
                        metadata={"environment": ran_on},
                    )
                    shutil.rmtree(half_way(job.network), ignore_errors=True)
                watcher.cell_ends(job.cell.name, seconds=time.monotonic() - began, resumed=job not in pending)
            uses.subtract(job.network for job in batch)
            for network in [network for network in temporary if not uses[network]]:
                network.unlink(missing_ok=True)
                temporary.remove(network)
    finally:
        for network in temporary:
            network.unlink(missing_ok=True)
    return write_results(jobs, config)


def make_jobs(grid: Sequence[Cell], config: SweepConfig) -> list[Job]:
    """The grid's jobs in its order; each data set is prepared once."""
    keys = dict.fromkeys(cell.data for cell in grid)
    pools = {key.dataset: datasets.load(key.dataset, data_dir=config.data_dir) for key in keys}
    data = {key: prepare_data(key, pools[key.dataset]) for key in keys}
    fingerprints = {key: value.fingerprint() for key, value in data.items()}
    return [
        Job(
            cell,
            data[cell.data],
            fingerprints[cell.data],
            cell_file(cell, config, fingerprints[cell.data]),
            network_file(cell, config, fingerprints[cell.data]),
        )
        for cell in grid
    ]


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
    lost = [row["seed"] for row in rows if row["diverged"] and row["snapshot"] is None]
    if lost:
        warnings.warn(
            f"{cell.name}: seeds {lost} of {len(seeds)} diverged (a loss or an output is not finite); they "
            "are left out of its statistics. A smaller learning rate may keep them.",
            Diverged,
            stacklevel=2,
        )
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


def prepare_folders(config: SweepConfig) -> None:
    """Makes the folders, and refuses those that cannot be written to, before any work."""
    for folder in (config.out, config.cells):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".probe"
            probe.touch()
            probe.unlink(missing_ok=True)  # another shard may have been faster
        except OSError as error:
            raise refuse(
                f"an output folder {folder} that cannot be written ({error.strerror})",
                "a folder to write to",
                "pass another with --out or --store",
            ) from error


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


def device(config: SweepConfig) -> dict[str, Any]:
    """What it ran on, and how members ran there."""
    return {
        "device": jax.local_devices()[0].device_kind,
        "num_devices": device_mesh(config.num_devices).size,
        "member_axis": config.member_axis or default_member_axis(),
    }


def check_numerics() -> None:
    """Refuses settings that would change the numbers of finished cells without changing where they are."""
    if jax.config.jax_enable_x64 or jax.config.jax_default_prng_impl != "threefry2x32":
        raise refuse(
            f"jax_enable_x64={jax.config.jax_enable_x64}, "
            f"jax_default_prng_impl={jax.config.jax_default_prng_impl!r}",
            "float32 and 'threefry2x32', which all finished cells have",
            "leave JAX's defaults for a sweep; the measures themselves take float64",
        )


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
