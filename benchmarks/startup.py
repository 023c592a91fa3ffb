"""How long it takes until something happens: `import`, and figure 1 from a cold start.

Every call is a process of its own, with Python's start in it, whose files the operating system has read
before. The quick figure 1 runs as the README has it, in an empty folder with an empty store and no cache of
compiled programs, once. Memory is the most that the process had.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from machine import peak_bytes
from timing import Ready, Row, Way

__all__ = ["rows"]

ROOT = Path(__file__).resolve().parents[1]
FIGURE = str(ROOT / "experiments" / "fig1.py")
# Often enough to catch the peak, which only grows.
_SECONDS_BETWEEN_LOOKS = 0.05


def rows(smoke: bool) -> Iterator[Row]:
    """Imports, then figure 1."""
    yield Row(
        name="import",
        unit="process",
        data=lambda: None,
        ours={
            "import jax, flax, jaxsens": importing("jax, flax, jaxsens"),
            "import jax, flax and the measures": importing("jax, flax, jaxsens.metrics"),
            "import jax, flax and all of jaxsens": importing("jax, flax, jaxsens.cli"),
        },
        peers={"import jax, flax": importing("jax, flax")},
        rounds=1 if smoke else 5,
    )
    words = ["--seeds", "1", "--cells", "alexnet-h4*"] if smoke else ["--seeds", "10"]
    yield Row(
        name="figure 1, quick, from a cold start",
        unit="process",
        data=lambda: None,
        ours={f"experiments/fig1.py {' '.join(words)}": Way(lambda _: figure(words), slow=True)},
        no_peer="no other program draws it",
        rounds=1,
    )


def importing(modules: str) -> Way:
    """A process that imports these and ends."""
    return Way(lambda _: process([sys.executable, "-c", f"import {modules}"]), compared=False)


def figure(words: Sequence[str]) -> Ready:
    """Figure 1 into a temporary folder."""
    folder = tempfile.TemporaryDirectory()
    places = ["--out", f"{folder.name}/out", "--store", f"{folder.name}/store"]
    return process([sys.executable, FIGURE, *words, *places], keep=folder)


def process(command: Sequence[str], keep: object = None) -> Ready:
    """A call is the command as a process; what it says is shown only if it fails. `keep` lives as long."""
    peak: dict[str, int | None] = {"bytes": None}

    def run() -> object:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as started:
            said = b""
            while True:
                try:
                    said, _ = started.communicate(timeout=_SECONDS_BETWEEN_LOOKS)
                    break
                except subprocess.TimeoutExpired:
                    # What is read after its end is None.
                    peak["bytes"] = peak_bytes(started.pid) or peak["bytes"]
        if started.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {started.returncode}: {said.decode()}")
        return keep

    return Ready(run, peak_bytes=lambda: peak["bytes"])
