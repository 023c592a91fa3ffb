"""Finished cells of other stores, such as those of shards on hosts that share no file system."""

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxsens.checks import refuse
from jaxsens.sweep.cells import Cell
from jaxsens.sweep.config import SweepConfig, check_numerics, prepare_folders
from jaxsens.sweep.lock import Claims
from jaxsens.sweep.members import Job
from jaxsens.sweep.prepare import prepare_training
from jaxsens.sweep.run import check_names, make_jobs
from jaxsens.sweep.store import finished_rows, read_finished, write_results, write_stages
from jaxsens.table import Table, TableError, read_metadata
from jaxsens.table.files import whole_file
from jaxsens.train import load_trained

__all__ = ["merge_stores"]


def merge_stores(grid: Sequence[Cell], config: SweepConfig, stores: Sequence[Path]) -> Table:
    """Takes what `stores` have of the grid into `config.cells`, then writes table and manifest; runs nothing.

    What is there already stays; what several stores have is taken from the first, a cell whole. With
    `config.keep_networks` trained networks come too. Files that cannot be read, and cells of other
    configurations, seeds, data or versions, are not taken; the manifest names what is still missing. Cells
    that another run on `config.cells` is computing are left to it, with a warning.

    Raises:
        InputError: a store without finished cells, or a folder that cannot be written.
        OSError: a file that cannot be written; what was taken before stays.
    """
    check_names(grid)
    check_numerics()
    for store in stores:
        if not any(store.glob("*.parquet")):
            raise refuse(
                f"a store {store} without finished cells",
                "folders of finished cells (--store, by default out/cells)",
                "check the paths",
            )
    prepare_folders(config)
    jobs = make_jobs(grid, config)
    with Claims(config.cells) as claims:
        for job in jobs:
            holder = claims.take([job.network.name])
            if holder is not None:
                warnings.warn(f"{job.cell.name} is left to {holder}", stacklevel=2)
                continue
            for store in stores:
                take_rows(job, store / job.file.relative_to(config.cells))
                if config.keep_networks:
                    take_network(job, store / job.network.relative_to(config.cells))
            claims.release()
    return write_results(jobs, config)


def take_rows(job: Job, source: Path) -> None:
    """Takes a finished cell where it is not finished here; other stages that are here stay."""
    rows = finished_rows(source, job.cell)
    if rows is None or read_finished(job) is not None:
        return
    try:
        ran_on = read_metadata(source)["environment"]
    except (TableError, KeyError):  # nobody could say where it ran
        return
    write_stages(job, rows, ran_on)


def take_network(job: Job, source: Path) -> None:
    """Copies the trained members where there are none that can be read."""
    shapes = jax.eval_shape(prepare_training(job.cell, job.data).start, jax.random.key(0))
    if load_trained(job.network, shapes) is None and load_trained(source, shapes) is not None:
        with source.open("rb") as stream, whole_file(job.network) as copy:
            shutil.copyfileobj(stream, copy)
