"""Real processes that run an experiment's command line, and what they leave in their folders."""

import os
import subprocess
import sys
from pathlib import Path

from jaxsens.table import read_rows, read_table

ROOT = Path(__file__).parents[2]

# The two smallest networks of Figure 1, two seeds each.
FIG1 = [str(ROOT / "experiments" / "fig1.py"), "--cells", "alexnet*", "--seeds", "2"]

# A program of its own, so that seconds of training are many calls, as long as its first word says, each of
# which saves a checkpoint.
OFTEN = """
import runpy, sys
from jaxsens.train import ensemble
ensemble._SECONDS_PER_CALL = ensemble._SECONDS_PER_CHECKPOINT = float(sys.argv[1])
sys.argv = sys.argv[2:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(words: list[str], programs: Path, **options) -> subprocess.Popen:
    """Starts Python with these words; what it compiles is kept in `programs` for the next."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def without_times(table):
    """The rows but for their seconds, which no two runs share."""
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in table.rows()]


def strays(*folders: Path) -> list[str]:
    """Temporary files, locks, claims and half-trained networks below these folders."""
    return sorted(
        str(path)
        for folder in folders
        for path in folder.rglob("*")
        if path.name.startswith((".", "tmp")) or path.suffix in (".tmp", ".checkpoint")
    )


def check_whole(store: Path, out: Path) -> int:
    """Every file under a finished one's name must be readable; gives how many cells are finished."""
    cells = list(store.glob("*.parquet"))
    for cell in cells:
        assert len(read_rows(cell)), cell
    if (out / "table.parquet").exists():
        read_table(out)
    return len(cells)
