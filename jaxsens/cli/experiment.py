"""What every experiment's command line shares: its options, its progress bars, its errors in one line."""

import argparse
import dataclasses
import errno
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxsens.checks import InputError
from jaxsens.stats import StatsError
from jaxsens.sweep import (
    Cell,
    Preset,
    Shard,
    SweepConfig,
    Watcher,
    join_processes,
    merge_stores,
    run_in_processes,
    select_cells,
)
from jaxsens.sweep.lock import table_lock
from jaxsens.table import Table, TableError, read_table
from jaxsens.train import cores_as_devices

__all__ = ["Experiment", "main"]

# What the disk or its rights answer, not a mistake in this program.
_DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EMFILE,
    errno.ENAMETOOLONG,
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A figure or table: its presets, each of one or more parts, and the drawing of the finished table.

    The command line can replace the `seeds` and the `dataset` of all parts. `draw(table, out)` writes the
    pictures into the folder `out`. Up to `together` members of one shape train as one program.
    """

    name: str
    description: str
    presets: Mapping[str, tuple[Preset, ...]]
    draw: Callable[[Table, Path], None]
    together: int = 1

    def cells(self, preset: str) -> tuple[Cell, ...]:
        """The grid of a preset."""
        return tuple(cell for part in self.presets[preset] for cell in part.cells())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, and exit code 2."""
        self.exit(2, f"error: {message}; see --help\n")


class ProgressBars(Watcher):
    """A bar of cells over a bar of epochs on a terminal; a line per finished cell elsewhere."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.name = ""
        self.bars: list[Any] = []

    def cell_starts(self, name: str, index: int, count: int) -> None:
        """Begins the bar of cells with the first, and names this one beside it."""
        from tqdm import tqdm

        self.name = name
        if not self.bars:
            self.bars.append(
                tqdm(total=count, unit="cell", desc="cells", disable=not self.terminal, position=0)
            )
        self.bars[0].set_postfix_str(name)

    def cell_trains(self, progress: Any) -> None:
        """Moves the bar of epochs; its time left is to the epoch limit, which the stop rule may undercut."""
        from tqdm import tqdm

        if not self.bars[1:]:
            self.bars.append(
                tqdm(
                    unit="epoch",
                    desc=self.name,
                    disable=not self.terminal,
                    position=1,
                    leave=False,
                    dynamic_ncols=True,
                )
            )
        bar = self.bars[1]
        if progress.num_parts > 1:
            bar.set_description(f"{self.name}, part {progress.part + 1}/{progress.num_parts}", refresh=False)
        bar.total = progress.max_epochs
        bar.set_postfix(
            loss=f"{progress.mean_loss:.2e}",
            done=f"{progress.members_done}/{progress.num_members}",
            refresh=False,
        )
        bar.update(progress.epoch - bar.n)

    def cell_ends(self, name: str, *, seconds: float, resumed: bool) -> None:
        """Closes its bar, and says so where no bar is seen."""
        for bar in self.bars[1:]:
            bar.close()
        del self.bars[1:]
        self.bars[0].update(1)
        if not self.terminal:
            print(
                f"{name}: {'already there' if resumed else f'{seconds:.0f} s'}", file=sys.stderr, flush=True
            )

    def close(self) -> None:
        """Leaves the terminal as it was."""
        for bar in reversed(self.bars):
            bar.close()


def main(experiment: Experiment, argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Runs an experiment's command line; gives the exit code: 0, 2 for what cannot be read or written or is
    not usable, 130 after Ctrl-C. Help calls it `prog`; None is the file that was started.
    """
    options = _options(experiment, prog).parse_args(argv)
    bars = ProgressBars()
    try:
        out = _run(experiment, options, bars)
    except (InputError, TableError, StatsError) as error:
        bars.close()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        bars.close()
        print(
            f"error: {error.filename or 'a file'}: {os.strerror(error.errno)}; finished cells are kept; when "
            "that is put right, the same command, without --no-resume, goes on after them",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        bars.close()
        print(
            "stopped; the same command, without --no-resume, goes on after the finished cells",
            file=sys.stderr,
        )
        return 130
    bars.close()
    if out is not None:
        print(f"{out / 'table.csv'}, manifest.json and the figure are in {out}")
    return 0


def _run(experiment: Experiment, options: argparse.Namespace, bars: ProgressBars) -> Path | None:
    """The folder of the results; None where another process writes them."""
    if options.merge and (options.distributed or options.shard != "0/1" or options.cells != "*"):
        raise InputError(
            "got --merge with --distributed, --shard or --cells; expected it alone: all that is finished is "
            "taken; leave them out"
        )
    # Both before any use of a device.
    cores_as_devices()
    if options.distributed:
        join_processes()
    if options.preset not in experiment.presets:
        listed = ", ".join(experiment.presets)
        raise InputError(f"got preset {options.preset!r}; expected one of {listed}; pass one with --preset")
    given = {"dataset": options.dataset, "seeds": options.seeds}
    given = {name: value for name, value in given.items() if value is not None}
    parts = [dataclasses.replace(part, **given) for part in experiment.presets[options.preset]]
    grid = dataclasses.replace(experiment, presets={options.preset: tuple(parts)}).cells(options.preset)
    if options.dataset is not None:
        # Parts that differed in their data set alone are now one, whose networks count once.
        alike = {(cell.physics, cell.measure.snapshots, cell.seeds): cell for cell in reversed(grid)}
        kept = set(alike.values())
        grid = tuple(cell for cell in grid if cell in kept)
    out = options.out or Path("out") / f"{experiment.name}-{options.preset}"
    config = SweepConfig(
        experiment=experiment.name,
        out=out,
        data_dir=options.data_dir,
        store=options.store,
        resume=options.resume,
        checkpoint=options.checkpoint,
        keep_networks=options.keep_networks,
        num_devices=options.devices,
        member_axis=options.member_axis,
        shard=Shard.parse(options.shard),
        together=experiment.together if options.together is None else options.together,
        scheduler=options.scheduler or None,
        max_memory=options.max_memory,
    )
    chosen = select_cells(grid, pattern=options.cells)
    with warnings.catch_warnings():
        # A warning is for the person at the terminal: one line, without a source line below it.
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        if options.merge:
            table = merge_stores(grid, config, options.merge)
            missing = [cell.name for cell in grid if cell.name not in table.cells()]
            if missing:
                print(f"missing in all stores: {', '.join(missing)}", file=sys.stderr)
        else:
            table = run_in_processes(grid, config, chosen=chosen, watcher=bars)
    if table is None:
        return None
    if len(table):
        # Read again: the last run to draw here draws all that is there.
        with table_lock(out):
            experiment.draw(read_table(out), out)
    return out


def _options(experiment: Experiment, prog: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description=experiment.description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--preset", default="quick", help=f"one of {', '.join(experiment.presets)} (default: quick)")
    add("--seeds", type=int, help="members per network (default: the preset's)")
    add("--dataset", help="a data set's name or file instead of the preset's")
    add(
        "--data-dir",
        type=Path,
        help="tensorflow-datasets folder (default: $TFDS_DATA_DIR, ~/tensorflow_datasets)",
    )
    add("--out", type=Path, help=f"where results go (default: out/{experiment.name}-PRESET)")
    add(
        "--store",
        type=Path,
        default=Path("out") / "cells",
        metavar="DIR",
        help="finished cells of all experiments, so that none is trained twice (default: out/cells)",
    )
    add("--keep-networks", action="store_true", help="also keep trained networks there, to measure again")
    add("--cells", default="*", metavar="PATTERN", help="only cells of this name, such as 'resnet18-*'")
    add("--resume", action=argparse.BooleanOptionalAction, default=True, help="keep finished cells (default)")
    add("--checkpoint", action="store_true", help="also keep half-trained cells, about once a minute")
    add(
        "--devices",
        type=int,
        metavar="N",
        help="spread members over N devices (default: all of this host; a core of a CPU is one)",
    )
    add("--member-axis", help="how members run: map or vmap (default: map on a CPU, else vmap)")
    add(
        "--together",
        type=int,
        metavar="N",
        help=f"train up to N members of one shape as one program (default: {experiment.together})",
    )
    add(
        "--scheduler",
        metavar="ADDRESS",
        default=os.environ.get("DASK_SCHEDULER_ADDRESS"),
        help="Dask scheduler whose cluster runs the cells (default: $DASK_SCHEDULER_ADDRESS; '': run here)",
    )
    add(
        "--max-memory",
        type=float,
        metavar="GB",
        help="memory of a device for training; members that need more train in parts (default: most)",
    )
    add(
        "--distributed",
        action="store_true",
        help="join other processes through jax.distributed ($JAX_COORDINATOR_ADDRESS, $JAX_NUM_PROCESSES, "
        "$JAX_PROCESS_ID, or Slurm, Open MPI, Kubernetes, TPU pods); each runs its share of the cells",
    )
    add("--shard", default="0/1", metavar="i/N", help="run the i-th of N parts of the grid, i from 0")
    add(
        "--merge",
        type=Path,
        nargs="+",
        metavar="STORE",
        help="run nothing: take what these stores (of shards elsewhere) have finished, and draw",
    )
    return parser
