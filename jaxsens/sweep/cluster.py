"""The batches of a sweep as tasks on a Dask cluster, whose workers share no files with the client.

A worker prepares the data itself and answers with rows. Networks that are kept, or that a later batch
measures, travel as the bytes of their files. The scheduler needs jaxsens as well. Start workers
with `dask worker ADDRESS --nthreads 1`: a cell uses all devices of its process, and times its measures.
"""

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import json
import tempfile
import time
import traceback
import warnings
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jaxsens import data as datasets
from jaxsens.checks import InputError, refuse
from jaxsens.sweep.cells import Cell, DataConfig
from jaxsens.sweep.config import SweepConfig, check_numerics, device
from jaxsens.sweep.members import Job
from jaxsens.sweep.prepare import prepare_data
from jaxsens.sweep.run import Networks, Watcher, compute_batch, make_job, warn_diverged, write_finished
from jaxsens.table import environment, write_atomically

__all__ = ["connected", "run_there"]

_SECONDS_TO_ANSWER = 10.0
# What is sent is in the scheduler's memory until the task is done.
_MAX_BYTES_SENT = 2**30


class Order(NamedTuple):
    """A cell to compute, and what the client calls its data and files: the same as the worker must find."""

    cell: Cell
    fingerprint: str
    file: str
    network: str


class Task(NamedTuple):
    """A batch to compute: `trained` are the network files there are, `keep` names those to send back."""

    orders: tuple[Order, ...]
    config: SweepConfig
    trained: dict[str, bytes]
    keep: frozenset[str]


class Answer(NamedTuple):
    """The rows and seconds of the first cells, up to the `failure`; what they ran on; new network files.

    An error is sent as text: not every one can be pickled. `refused` is that of an `InputError`.
    """

    finished: list[tuple[list[dict[str, Any]], float]]
    ran_on: str
    networks: dict[str, bytes]
    failure: str | None
    refused: bool


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of the Dask scheduler there, closed at the end.

    Raises:
        InputError: distributed is not installed, or nothing answers within ten seconds.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise refuse(
            f"the Dask scheduler {address}, without the package distributed",
            "the extra `cluster`",
            "pip install 'jaxsens[cluster]', or run here with --scheduler ''",
        ) from error
    try:
        # In a thread, since a notebook has a running loop in this one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, greet(address)).result()
        client = Client(address, timeout=_SECONDS_TO_ANSWER, set_as_default=False)
    except (OSError, ValueError) as error:
        raise refuse(
            f"no answer from {address}",
            "the address of a running Dask scheduler, such as tcp://host:8786",
            "set --scheduler or $DASK_SCHEDULER_ADDRESS, or run here with --scheduler ''",
        ) from error
    with client:
        if not client.nthreads():
            warnings.warn(
                f"the Dask cluster at {address} has no workers yet; cells wait for the first", stacklevel=3
            )
        yield client


async def greet(address: str) -> None:
    """Shakes hands with a scheduler. A client does so without a limit of time, whatever its `timeout`."""
    from distributed.comm.core import connect

    comm = await asyncio.wait_for(connect(address, timeout=_SECONDS_TO_ANSWER), _SECONDS_TO_ANSWER)
    await comm.close()


class Sent(NamedTuple):
    """A batch on its way, its unfinished jobs, and the bytes of its networks."""

    batch: list[Job]
    pending: list[Job]
    size: int


def run_there(
    batches: list[list[Job]], config: SweepConfig, networks: Networks, watcher: Watcher, *, client: Any
) -> None:
    """Computes each batch as one task, and writes its cells when its answer arrives.

    A batch waits for one that trains a network of its own. Dask reruns the task of a worker that is lost. A
    task that fails stops no other; whatever ends this function cancels those that are not done.

    Raises:
        InputError: a worker refused a cell, a batch lost four workers, or the scheduler is gone.
        RuntimeError: a cell failed otherwise. Both name the first cell that failed.
    """
    from distributed import as_completed

    started, count = itertools.count(), sum(map(len, batches))
    arriving = as_completed(loop=client.loop)
    sent: dict[Any, Sent] = {}
    failures: list[Exception] = []
    waiting = list(batches)
    try:
        while waiting or sent:
            held = []
            for batch in waiting:
                if not may_go(batch, sent.values()):
                    held.append(batch)
                    continue
                pending, keep = networks.plan(batch)
                for job in batch:
                    watcher.cell_starts(job.cell.name, next(started), count)
                    if job not in pending:
                        watcher.cell_ends(job.cell.name, seconds=0.0, resumed=True)
                if pending:
                    task = make_task(pending, config, keep)
                    future = submit(client, task)
                    sent[future] = Sent(batch, pending, sum(map(len, task.trained.values())))
                    arriving.add(future)
                else:
                    networks.release(batch)
            waiting = held
            if sent:
                future = next(arriving)
                batch, pending, _ = sent.pop(future)
                failures += take(future, pending, watcher)
                networks.release(batch)
    finally:
        client.cancel(list(sent))
    if failures:
        raise failures[0]


def may_go(batch: list[Job], sent: Collection[Sent]) -> bool:
    """Whether none of its networks is being trained, and not too much is on its way."""
    busy = {job.network for other in sent for job in other.batch}
    return busy.isdisjoint(job.network for job in batch) and sum(o.size for o in sent) < _MAX_BYTES_SENT


def make_task(pending: list[Job], config: SweepConfig, keep: set[Path]) -> Task:
    """The task for these jobs, with the networks that are there."""
    data_dir = None if config.data_dir is None else config.data_dir.absolute()
    found = {job.network.name: content(job.network) for job in pending}
    return Task(
        tuple(Order(job.cell, job.fingerprint, job.file.name, job.network.name) for job in pending),
        dataclasses.replace(config, data_dir=data_dir),
        {name: data for name, data in found.items() if data is not None},
        frozenset(file.name for file in keep),
    )


def submit(client: Any, task: Task) -> Any:
    """The future of its answer."""
    from dask import config

    # Networks are large, and data on a worker, which Dask would rather see, is lost with it.
    with config.set({"distributed.admin.large-graph-warning-threshold": "1TiB"}):
        return client.submit(run_task, task, pure=False)


def take(future: Any, pending: list[Job], watcher: Watcher) -> list[Exception]:
    """Writes what a task gave; gives the error it ended in, if any."""
    try:
        answer = future.result()
    except Exception as error:
        failure = without_answer(error, ", ".join(job.cell.name for job in pending))
        failure.__cause__ = error
        return [failure]
    files = {job.network.name: job.network for job in pending}
    for name, data in answer.networks.items():
        write_atomically(files[name], data)
    # An answer that failed has fewer cells than were asked for.
    for job, (rows, seconds) in zip(pending, answer.finished, strict=False):
        warn_diverged(job.cell, rows)
        write_finished(job, rows, answer.ran_on)
        watcher.cell_ends(job.cell.name, seconds=seconds, resumed=False)
    if answer.failure is None:
        return []
    text = f"{pending[len(answer.finished)].cell.name}, on a worker: {answer.failure}"
    return [InputError(text) if answer.refused else RuntimeError(text)]


def without_answer(error: Exception, names: str) -> Exception:
    """What to raise where Dask could not run the task of these cells."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return refuse(
            f"several workers lost, each while it ran {names}",
            "workers that outlive a cell",
            "look at their logs; give them more memory, or train fewer members at once (--together)",
        )
    if isinstance(error, CancelledError):
        return refuse(
            f"{names} cancelled by the cluster, or no scheduler any more",
            "a cluster that is there until the last cell",
            "start it and run the same command again: finished cells are kept",
        )
    return RuntimeError(f"{names}: {type(error).__name__} on the cluster: {error}")


def run_task(task: Task) -> Answer:
    """On a worker: computes the cells in a temporary folder. An error ends the answer and is part of it."""
    finished: list[tuple[list[dict[str, Any]], float]] = []
    ran_on, failure, refused = "", None, False
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(task.config, out=Path(folder), store=None)
        networks = config.cells / "networks"
        try:
            check_numerics()
            ran_on = json.dumps(first_environment() | device(config))
            jobs = [find_job(order, config) for order in task.orders]
            for name, data in task.trained.items():
                write_atomically(networks / name, data)
            keep = {networks / name for name in task.keep}
            began = time.monotonic()
            for rows in compute_batch(jobs, config, keep=keep):
                finished.append((rows, time.monotonic() - began))
                began = time.monotonic()
        except InputError as error:
            failure, refused = str(error), True
        except Exception:
            failure = traceback.format_exc()
        found = {name: content(networks / name) for name in task.keep}
    new = {name: data for name, data in found.items() if data is not None and data != task.trained.get(name)}
    return Answer(finished, ran_on, new, failure, refused)


def find_job(order: Order, config: SweepConfig) -> Job:
    """The job on this worker; refused where its data or its version of jaxsens are not the client's."""
    data, fingerprint = prepared(order.cell.data, config.data_dir)
    if fingerprint != order.fingerprint:
        # A folder that is put right is read again.
        prepared.cache_clear()
        loaded.cache_clear()
        raise refuse(
            f"data {order.cell.data.dataset!r} that are not those of the client",
            "the same examples everywhere",
            "copy the client's data folder to the workers (--data-dir, $TFDS_DATA_DIR)",
        )
    job = make_job(order.cell, data, fingerprint, config)
    if (job.file.name, job.network.name) != (order.file, order.network):
        raise refuse(
            "another version of jaxsens than the client's", "the same everywhere", "update and start it again"
        )
    return job


loaded = functools.lru_cache(maxsize=1)(datasets.load)
# What the modules in this process were when the first task came.
first_environment = functools.cache(environment)


@functools.lru_cache(maxsize=4)
def prepared(key: DataConfig, data_dir: Path | None) -> tuple[datasets.Dataset, str]:
    """The examples of a configuration and their fingerprint, kept for the next task on this worker."""
    data = prepare_data(key, loaded(key.dataset, data_dir=data_dir))
    return data, data.fingerprint()


def content(file: Path) -> bytes | None:
    """The bytes of a file, None where there is none."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
