"""How a sweep runs: where its files are, what is kept, on how many devices, in what parts."""

import dataclasses
from pathlib import Path

from jaxsens.checks import check_at_least
from jaxsens.sweep.cells import Shard

__all__ = ["SweepConfig"]


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """How a grid is run; nothing here changes a number by more than rounding.

    `out` holds the table, and `store` (default: out/cells) the finished cells, for all sweeps that use it: a
    network that two experiments need is trained once. `keep_networks` also keeps the trained networks there,
    so that another measurement trains nothing; `resume=False` computes finished cells anew; `checkpoint` also
    keeps cells half-way. Up to `together` members, of cells that differ in hyper-parameters alone, train as
    one program, which keeps nothing half-way.
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

    def __post_init__(self):
        check_at_least("together", self.together, 1)

    @property
    def cells(self) -> Path:
        """Where finished cells are."""
        return self.out / "cells" if self.store is None else self.store
