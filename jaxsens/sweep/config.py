"""How a sweep runs: where its files are, what is kept, on how many devices, in what parts."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from jaxsens.checks import check_at_least, check_positive, refuse
from jaxsens.sweep.cells import Shard
from jaxsens.train import default_member_axis, device_mesh

__all__ = ["SweepConfig", "check_numerics", "device", "prepare_folders"]


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """How a grid is run; nothing here changes a number by more than rounding.

    `out` holds the table, and `store` (default: out/cells) the finished cells, for all sweeps that use it: a
    network that two experiments need is trained once. `keep_networks` also keeps the trained networks there,
    so that another measurement trains nothing; `resume=False` computes finished cells anew; `checkpoint` also
    keeps cells half-way. Up to `together` members, of cells that differ in hyper-parameters alone, train as
    one program, which keeps nothing half-way. `scheduler` is the address of a Dask cluster that computes the
    cells; `num_devices`, `member_axis` and `max_memory` are then those of each worker, and nothing is kept
    half-way. Members train in parts where together they would need more than `max_memory` GB (1e9 bytes) of a
    device (default: most of what it has).
    """

    experiment: str
    out: Path
    data_dir: Path | None = None
    store: Path | None = None
    resume: bool = True
    checkpoint: bool = False
    keep_networks: bool = False
    num_devices: int | None = None
    member_axis: str | None = None
    shard: Shard = Shard()
    together: int = 1
    scheduler: str | None = None
    max_memory: float | int | None = None

    def __post_init__(self):
        check_at_least("together", self.together, 1)
        if self.max_memory is not None:
            check_positive("max_memory", self.max_memory)
        if self.checkpoint and self.scheduler is not None:
            raise refuse(
                f"checkpoint=True with the Dask scheduler {self.scheduler}",
                "one of them: a cluster's workers keep no half-trained cells",
                "leave out --checkpoint, or run here with --scheduler ''",
            )

    @property
    def max_bytes(self) -> int | None:
        """`max_memory` in bytes."""
        return None if self.max_memory is None else int(self.max_memory * 1e9)

    @property
    def cells(self) -> Path:
        """Where finished cells are."""
        return self.out / "cells" if self.store is None else self.store


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


def check_numerics() -> None:
    """Refuses settings that would change the numbers of finished cells without changing where they are."""
    if jax.config.jax_enable_x64 or jax.config.jax_default_prng_impl != "threefry2x32":
        raise refuse(
            f"jax_enable_x64={jax.config.jax_enable_x64}, "
            f"jax_default_prng_impl={jax.config.jax_default_prng_impl!r}",
            "float32 and 'threefry2x32', which all finished cells have",
            "leave JAX's defaults for a sweep; the measures themselves take float64",
        )


def device(config: SweepConfig) -> dict[str, Any]:
    """What it may run on (members may fill fewer of a CPU's devices), and how members run there."""
    return {
        "device": jax.local_devices()[0].device_kind,
        "num_devices": device_mesh(config.num_devices).size,
        "member_axis": config.member_axis or default_member_axis(),
    }
