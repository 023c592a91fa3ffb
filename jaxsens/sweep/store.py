"""The files of a sweep: where finished cells and trained networks are, what is read, written and removed."""

import contextlib
import json
import secrets
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsens import data as datasets
from jaxsens.sweep.cells import Cell
from jaxsens.sweep.config import SweepConfig
from jaxsens.sweep.lock import table_lock
from jaxsens.sweep.members import Job, half_way
from jaxsens.table import (
    Table,
    TableError,
    concatenate,
    config_hash,
    read_metadata,
    read_rows,
    to_plain,
    write_manifest,
    write_rows,
    write_table,
)
from jaxsens.table.files import remove_leftovers

__all__ = ["Networks", "cell_file", "network_file", "read_finished", "write_finished", "write_results"]

# Raised when a change of the code changes what a finished cell, or a trained network, would hold.
_RESULTS_VERSION = 4
_TRAINING_VERSION = 1


def write_finished(job: Job, rows: list[dict[str, Any]], ran_on: str) -> None:
    """Writes the file of a cell, whole or not at all, and removes what was kept of it half-way."""
    write_stages(job, rows, ran_on)
    remove_half_way(job.network)


def write_stages(job: Job, rows: list[dict[str, Any]], ran_on: str) -> None:
    """Writes the file of a cell, with the stages of others that are in it."""
    write_rows(Table.from_rows(other_stages(job, rows) + rows), job.file, metadata={"environment": ran_on})


def remove_half_way(network: Path) -> None:
    """Removes what was kept of a training, at once: a kill on the way leaves nothing that looks like it."""
    folder = half_way(network)
    gone = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.tmp")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def pending_half_way(job: Job) -> bool:
    """Whether a finished cell's network is half-way on behalf of another cell, begun since."""
    folder = half_way(job.network)
    return folder.exists() and folder.stat().st_mtime > job.file.stat().st_mtime


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
                remove_half_way(job.network)
        for job in batch:
            if job not in pending and not pending_half_way(job):
                remove_half_way(job.network)
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


def write_results(jobs: Sequence[Job], config: SweepConfig) -> Table:
    """The table of all that is finished, and the manifest, as one; gives the table.

    What other runs finish meanwhile is in the table of the last of them, which reads the store when it is
    its turn.
    """
    with table_lock(config.out):
        remove_leftovers(config.out)
        return write_all(jobs, config)


def write_all(jobs: Sequence[Job], config: SweepConfig) -> Table:
    """Table and manifest."""
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
    wanted = stages(job.cell)
    if table is None or not wanted <= {row["snapshot"] for row in table.rows()}:
        return None
    return table.where(snapshot=tuple(wanted))


def finished_rows(file: Path, cell: Cell) -> list[dict[str, Any]] | None:
    """The cell's rows in a file of any store, at the end and at its snapshots; None where any is missing."""
    table = read_all(file)
    rows = [] if table is None else [row for row in table.rows() if row["snapshot"] in stages(cell)]
    return rows if {row["snapshot"] for row in rows} == stages(cell) else None


def stages(cell: Cell) -> set[int | None]:
    """When a cell is measured: at its snapshots, and at the end (None)."""
    return {None, *cell.measure.snapshots}


def read_all(file: Path) -> Table | None:
    """All rows in a file of the store, or None where there is no such file or it is damaged or another's."""
    if not file.is_file():
        return None
    try:
        table = read_rows(file)
    except TableError:
        return None
    return table if all("snapshot" in row for row in table.rows()) else None


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


def unbiased(variance: Any, members: int) -> float | None:
    """A variance over members, divided by one less than their number."""
    return None if variance is None else variance * members / (members - 1)


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
