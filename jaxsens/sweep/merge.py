"""Finished cells of other stores, such as those of shards on hosts that share no file system."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from jaxsens.checks import refuse
from jaxsens.sweep.cells import Cell
from jaxsens.sweep.config import SweepConfig, check_numerics, prepare_folders
from jaxsens.sweep.members import Job
from jaxsens.sweep.run import check_names, make_jobs
from jaxsens.sweep.store import read_all, write_finished, write_results
from jaxsens.table import Table, read_metadata
from jaxsens.table.files import whole_file

__all__ = ["merge_stores"]


def merge_stores(grid: Sequence[Cell], config: SweepConfig, stores: Sequence[Path]) -> Table:
    """Takes what `stores` have of the grid into `config.cells`, then writes table and manifest; runs nothing.

    What is there already stays; what several stores have is taken from the first. With
    `config.keep_networks` trained networks come too. Files that cannot be read, and cells of other
    configurations, seeds, data or versions, are not taken; the manifest names what is still missing.

    Raises:
        InputError: a store that is no folder, or a folder that cannot be written.
        OSError: a file that cannot be written; what was taken before stays.
    """
    check_names(grid)
    check_numerics()
    for store in stores:
        if not store.is_dir():
            raise refuse(f"a store {store} that is no folder", "folders of finished cells", "check the paths")
    prepare_folders(config)
    jobs = make_jobs(grid, config)
    for job in jobs:
        for store in stores:
            take_rows(job, store / job.file.relative_to(config.cells))
            if config.keep_networks:
                take_network(job, store / job.network.relative_to(config.cells))
    return write_results(jobs, config)


def take_rows(job: Job, source: Path) -> None:
    """Adds the stages that the cell's file lacks; a file that is damaged here is replaced."""
    table, here = read_all(source), read_all(job.file)
    if table is None:
        return
    known = set() if here is None else {row["snapshot"] for row in here.rows()}
    rows = [row for row in table.rows() if row["snapshot"] not in known]
    if rows:
        write_finished(job, rows, read_metadata(source)["environment"])


def take_network(job: Job, source: Path) -> None:
    """Copies the trained members where there are none."""
    if source.is_file() and not job.network.exists():
        with source.open("rb") as stream, whole_file(job.network) as copy:
            shutil.copyfileobj(stream, copy)
