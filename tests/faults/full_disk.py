"""A disk that fills up at every stage of a sweep, then has room again: root only, on a tmpfs of 4 MB.

    python tests/faults/full_disk.py --folder /tmp/full

Each round leaves another amount of room, so that another file is the first that does not fit: the claim, a
checkpoint, a network, a cell's rows, the table, the picture.
"""

import argparse
import os
import subprocess
import time
from pathlib import Path

from real_runs import OFTEN, check_whole, start, strays, without_times

from jaxsens.table import read_manifest, read_table

TINY = Path(__file__).with_name("tiny.py")
# Pages of 4 kB: of 40, all fits; with checkpoints, which are many small files, more is needed.
_ROOM = {False: (0, 2, 6, 12, 24), True: (6,)}


def run(folder: Path, programs: Path, *, checkpoint: bool) -> tuple[int, str]:
    """The exit code and what is said on stderr."""
    words = ["--keep-networks", "--out", str(folder / "out"), "--store", str(folder / "cells")]
    words += ["--checkpoint"] if checkpoint else []
    process = start(["-c", OFTEN, "0.2", str(TINY), *words], programs)
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def fill(folder: Path, pages: int) -> Path:
    """A file that takes all room but that many pages."""
    ballast = folder / "ballast"
    free = os.statvfs(folder)
    with ballast.open("wb") as stream:
        stream.write(bytes(max(0, free.f_bavail - pages) * free.f_frsize))
    return ballast


def main() -> None:
    """Fills, runs, makes room, runs, compares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--checkpoint", action="store_true", help="with a checkpoint several times a second")
    options = parser.parse_args()
    checkpoint = options.checkpoint
    if os.geteuid() != 0:
        print("skipped: only root may mount a small disk")
        return
    disk, programs = options.folder / "disk", options.folder / "programs"
    disk.mkdir(parents=True, exist_ok=True)
    code, said = run(options.folder / "whole", programs, checkpoint=False)
    assert code == 0, said
    whole = read_table(options.folder / "whole" / "out")
    began = time.monotonic()
    for pages in _ROOM[checkpoint]:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
        try:
            (disk / "out").mkdir()
            (disk / "cells" / "networks").mkdir(parents=True)
            ballast = fill(disk, pages)
            code, said = run(disk, programs, checkpoint=checkpoint)
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            finished = check_whole(disk / "cells", disk / "out")
            left = [name for name in strays(disk) if ".checkpoint" not in name]
            print(f"{pages} pages, {checkpoint=}: exit {code}, {finished} cells; {errors}", flush=True)
            assert code == 2, said
            assert len(errors) == 1, said
            assert "Traceback" not in said, said
            assert not left, left
            ballast.unlink()
            code, said = run(disk, programs, checkpoint=checkpoint)
            assert code == 0, said
            assert said.count("already there") == finished, said
            assert without_times(read_table(disk / "out")) == without_times(whole)
            assert read_manifest(disk / "out")["missing_cells"] == []
            assert strays(disk) == []
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    print(f"{len(_ROOM[checkpoint])} full disks in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
