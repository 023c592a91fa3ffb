"""kill -9 at random moments of a sweep, many times, then its table against that of an undisturbed run.

    python tests/faults/kill_often.py --kills 20 --folder /tmp/kills

Figure 1's quick preset, its two smallest networks with two seeds, with --keep-networks and a checkpoint after
every call. A moment is drawn from the seconds that the whole work takes, counted from the claim on the store.
When all is finished before the last kill, one finished cell is removed, or its network too, or everything.
"""

import argparse
import random
import shutil
import time
from pathlib import Path

from real_runs import FIG1, OFTEN, check_whole, start, strays, without_times

from jaxsens.table import read_manifest, read_table

_SECONDS_AT_MOST = 300.0


def command(folder: Path) -> list[str]:
    """The words of one run."""
    words = [
        "--keep-networks",
        "--checkpoint",
        "--out",
        str(folder / "out"),
        "--store",
        str(folder / "cells"),
    ]
    return ["-c", OFTEN, "0", *FIG1, *words]


def run(folder: Path, programs: Path, seconds: float | None) -> tuple[bool, float]:
    """Runs, and kills that long after the claim; whether it was killed, and the seconds since the claim."""
    process = start(command(folder), programs)
    began = time.monotonic()
    while process.poll() is None and not list(folder.glob("cells/.claims/*.json")):
        time.sleep(0.005)
        assert time.monotonic() - began < _SECONDS_AT_MOST, "no claim"
    began = time.monotonic()
    while process.poll() is None and (seconds is None or time.monotonic() - began < seconds):
        time.sleep(0.005)
        assert time.monotonic() - began < _SECONDS_AT_MOST, "a run that does not end"
    killed = process.poll() is None
    process.kill()
    said = process.communicate()
    assert killed or process.returncode == 0, said
    return killed, time.monotonic() - began


def forget(folder: Path, draw: random.Random) -> str:
    """Removes some of what is finished, so that there is work to kill; says what."""
    what = draw.choice(("cell", "cell and network", "everything"))
    if what == "everything":
        shutil.rmtree(folder)
        return what
    cell = draw.choice(sorted(folder.glob("cells/*.parquet")))
    cell.unlink()
    if what != "cell":
        name = cell.name.rpartition("-")[0]
        for network in folder.glob(f"cells/networks/{name}-*.npz"):
            network.unlink()
    return what


def main() -> None:
    """Kills, and compares at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    programs, draw = options.folder / "programs", random.Random(options.seed)
    shutil.rmtree(options.folder / "whole", ignore_errors=True)
    killed_folder = options.folder / "killed"
    shutil.rmtree(killed_folder, ignore_errors=True)
    run(options.folder / "whole", programs, None)
    whole = read_table(options.folder / "whole" / "out")
    shutil.rmtree(options.folder / "whole")
    _, work = run(options.folder / "whole", programs, None)  # without compiling
    assert without_times(read_table(options.folder / "whole" / "out")) == without_times(whole)

    began, kills, found = time.monotonic(), 0, []
    while kills < options.kills:
        killed, seconds = run(killed_folder, programs, draw.uniform(0, work))
        finished = check_whole(killed_folder / "cells", killed_folder / "out")
        left = len(strays(killed_folder))
        kills += killed
        print(
            f"{'kill ' + str(kills) if killed else 'finished'} after {seconds:.1f} of {work:.1f} s: "
            f"{finished} cells, {left} stray files",
            flush=True,
        )
        found.append(left)
        if not killed and kills < options.kills:
            print("removed:", forget(killed_folder, draw))
    time.sleep(1.5)  # a temporary file of less than a second may be somebody's
    killed, _ = run(killed_folder, programs, None)
    assert not killed
    out = killed_folder / "out"
    assert without_times(read_table(out)) == without_times(whole)
    missing = [
        read_manifest(folder / "out")["missing_cells"] for folder in (killed_folder, options.folder / "whole")
    ]
    assert missing[0] == missing[1]
    assert (out / "fig1.png").stat().st_size > 10_000
    assert strays(killed_folder) == []
    print(
        f"{kills} kills in {time.monotonic() - began:.0f} s, {sum(n > 0 for n in found)} of them left stray "
        f"files; at the end {len(whole.cells())} cells, the table of the undisturbed run, no stray file"
    )


if __name__ == "__main__":
    main()
