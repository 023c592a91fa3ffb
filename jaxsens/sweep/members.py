"""The trained members of a cell: read, trained alone, or trained with those of other cells as one program."""

import dataclasses
import math
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsens import data as datasets
from jaxsens.sweep.cells import Cell
from jaxsens.sweep.config import SweepConfig
from jaxsens.sweep.prepare import prepare_training
from jaxsens.table.files import whole_file
from jaxsens.train import (
    Member,
    Progress,
    Training,
    hyper_parameters,
    load_trained,
    save_trained,
    train_ensemble,
)
from jaxsens.types import PIECEWISE_LINEAR

__all__ = ["Job", "batched", "half_way", "train_together", "trained_members"]


class Job(NamedTuple):
    """A cell with its data, and the files of its rows and of its trained members."""

    cell: Cell
    data: datasets.Dataset
    fingerprint: str
    file: Path
    network: Path


def trained_members(
    cell: Cell,
    training: Training,
    data: datasets.Dataset,
    config: SweepConfig,
    *,
    report: Callable[[Progress], None] | None,
    network: Path | None,
    keep: bool,
    observe: Callable[[int, Member], None],
) -> tuple[Member, float]:
    """The cell's members, read or trained now, and the seconds that their training took, NaN if unknown."""
    keys = jnp.stack([jax.random.key(seed) for seed in range(cell.seeds)])
    snapshots = cell.measure.snapshots
    if network is not None and not snapshots:
        kept = load_trained(network, jax.eval_shape(training.start, keys[0]))
        if kept is not None:
            return kept
    resumed = network is not None and half_way(network).exists()
    began = time.monotonic()
    watched = [0.0]

    def observe_untimed(epoch: int, members: Member) -> None:
        before = time.monotonic()
        observe(epoch, members)
        watched[0] += time.monotonic() - before

    members = train_ensemble(
        training,
        keys,
        jnp.asarray(data.x_train),
        jnp.asarray(data.y_train),
        member_axis=config.member_axis,
        num_devices=config.num_devices,
        max_bytes=config.max_bytes,
        report=report,
        checkpoint=half_way(network) if config.checkpoint and network and not snapshots else None,
        snapshots=snapshots,
        observe=observe_untimed,
    )
    # What was spent before a stop is not known.
    seconds = math.nan if resumed else time.monotonic() - began - watched[0]
    if network is not None and keep:
        with whole_file(network) as stream:
            save_trained(stream, members, seconds=seconds)
    return members, seconds


def half_way(network: Path) -> Path:
    """Where members in training are kept."""
    return network.with_suffix(".checkpoint")


def batched(jobs: Sequence[Job], together: int) -> list[list[Job]]:
    """The jobs in parts that train as one program: of equal shapes, and of at most `together` members."""
    if together == 1:
        return [[job] for job in jobs]
    open_batches: dict[Hashable, list[Job]] = {}
    found: list[list[Job]] = []
    for job in jobs:
        key = together_key(job)
        batch = open_batches.get(key)
        if key is None or batch is None or sum(other.cell.seeds for other in [*batch, job]) > together:
            batch = []
            open_batches[key] = batch
            found.append(batch)
        batch.append(job)
    return found


def together_key(job: Job) -> Hashable | None:
    """What is equal in all cells of one program; None for a cell that has a program of its own.

    They may differ in optimiser (but for L-BFGS), learning rate, weight decay, labels, and in their
    activation if it is piecewise linear.
    """
    model, data, train = job.cell.training
    if job.cell.measure.snapshots or model.activation not in PIECEWISE_LINEAR:
        return None
    if train.optimizer != "lbfgs":
        train = dataclasses.replace(train, optimizer="sgd", learning_rate=1.0, weight_decay=0.0)
    return (
        dataclasses.replace(model, activation="relu"),
        dataclasses.replace(data, label_noise=0.0),
        train,
    )


def train_together(
    jobs: Sequence[Job], config: SweepConfig, *, report: Callable[[Progress], None] | None = None
) -> None:
    """Trains what is missing of these cells' networks, all of one `together_key`, and writes their files.

    The seconds of a cell are its members' share of the epochs.
    """
    shapes = jax.eval_shape(prepare_training(jobs[0].cell, jobs[0].data).start, jax.random.key(0))
    missing = {job.network: job for job in jobs if load_trained(job.network, shapes) is None}
    jobs = tuple(missing.values())
    if not jobs:
        return
    shared: Any = together_key(jobs[0])
    *_, shared_train = shared
    first = dataclasses.replace(jobs[0].cell, train=shared_train)
    label_sets = {job.cell.data: job.data.y_train for job in jobs}
    rows = {key: row for row, key in enumerate(label_sets)}
    hyper = [
        hyper_parameters(
            optimizer=job.cell.train.optimizer,
            learning_rate=job.cell.train.learning_rate,
            weight_decay=job.cell.train.weight_decay,
            activation=job.cell.model.activation,
            labels=rows[job.cell.data],
        )
        for job in jobs
        for _ in range(job.cell.seeds)
    ]
    keys = jnp.stack([jax.random.key(seed) for job in jobs for seed in range(job.cell.seeds)])
    began = time.monotonic()
    members = train_ensemble(
        prepare_training(first, jobs[0].data),
        keys,
        jnp.asarray(jobs[0].data.x_train),
        jnp.asarray(np.stack(list(label_sets.values()))),
        hyper=jax.tree.map(lambda *leaves: jnp.stack(leaves), *hyper),
        member_axis=config.member_axis,
        num_devices=config.num_devices,
        max_bytes=config.max_bytes,
        report=report,
    )
    seconds = (time.monotonic() - began) / int(members.epoch.sum())
    members = jax.tree.map(np.asarray, members._replace(optimizer=(), key=(), hyper=None))
    place = 0
    for job in jobs:
        mine = slice(place, place + job.cell.seeds)
        place = mine.stop
        own = jax.tree.map(lambda leaf, mine=mine: leaf[mine], members)
        with whole_file(job.network) as stream:
            save_trained(stream, own, seconds=seconds * int(own.epoch.sum()))
